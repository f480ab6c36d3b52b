//! Waiting for a condition, with a timeout that explains itself.
//!
//! Guarantees: a wait that runs out says what was awaited, for how long, and what was seen last.
//! Must not: sleep a fixed time and hope.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The first pause between two looks; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(15);
/// The longest pause between two looks: short beside anything a person would notice.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What one look at the world found.
#[derive(Debug)]
pub enum Step<T> {
    /// The condition holds, and this came with it.
    Done(T),
    /// Not yet; the sentence says what was seen instead.
    Waiting(String),
}

impl<T> Step<T> {
    /// A look that failed in a way that may pass: its error chain becomes the last seen status.
    pub fn from_attempt(attempt: Result<T>) -> Self {
        match attempt {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Waiting(format!("{error:#}")),
        }
    }

    /// Done when `holds`, else waiting with `seen`.
    pub fn when(holds: bool, value: T, seen: impl Into<String>) -> Self {
        if holds { Self::Done(value) } else { Self::Waiting(seen.into()) }
    }
}

/// Looks again and again until `look` is done; an error from `look` ends the wait at once.
pub async fn until<T, F, Fut>(what: impl Into<String>, within: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Step<T>>>,
{
    let what = what.into();
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    let mut seen = "nothing: the first look did not come back".to_owned();
    loop {
        let left = within.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(Step::Done(value))) => return Ok(value),
            Ok(Ok(Step::Waiting(status))) => seen = status,
            Ok(Err(error)) => return Err(error.context(format!("gave up waiting for {what}"))),
            Err(_) => {}
        }
        if started.elapsed() + pause >= within {
            bail!("{what}: still waiting after {within:.1?}; last seen: {seen}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// [`until`] for code that has no runtime (the sandbox, drops).
pub fn until_blocking<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Step<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let seen = match look()? {
            Step::Done(value) => return Ok(value),
            Step::Waiting(seen) => seen,
        };
        if started.elapsed() >= within {
            bail!("{what}: still waiting after {within:.1?}; last seen: {seen}");
        }
        std::thread::sleep(PAUSE_FIRST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timeout_tells_what_was_awaited_and_seen() {
        let error = until::<(), _, _>("the moon", Duration::from_millis(50), || async {
            Ok(Step::Waiting("a cloud".to_owned()))
        })
        .await
        .expect_err("the condition never holds");
        let text = error.to_string();
        assert!(text.contains("the moon") && text.contains("a cloud"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_still_times_out() {
        let error =
            until::<(), _, _>("an answer", Duration::from_millis(50), || async { std::future::pending().await })
                .await
                .expect_err("the look never comes back");
        assert!(error.to_string().contains("did not come back"));
    }

    #[tokio::test]
    async fn the_first_look_that_is_done_ends_the_wait() {
        let mut looks = 0;
        let found = until("three", Duration::from_secs(5), || {
            looks += 1;
            let now = looks;
            async move { Ok(Step::when(now == 3, now, format!("{now}"))) }
        })
        .await
        .expect("the third look is done");
        assert_eq!(found, 3);
    }
}
