//! Failpoints: named places where a debug build aborts or waits on demand, to prove that the rest of the system recovers.
//!
//! `KUBENOVA_FAILPOINT=<name>` or `<name>:<n>` exits the process (as `kill -9` would) at the n-th passage, by default
//! the first. At `<name>:<n>:wait` the thread waits ten seconds, in which a test suspends the whole process (`SIGSTOP`), as a machine is
//! that is paused; the process cannot do so itself where it is the first of its namespace. Several are separated by commas. Release
//! builds contain none of it.

/// Aborts or waits here if the environment says so.
pub fn passing(name: &'static str) {
    if cfg!(debug_assertions) {
        debug::passing(name);
    }
}

/// Waits here if the environment says so, and lets other tasks go on.
pub async fn waiting(name: &'static str) {
    if cfg!(debug_assertions) && debug::is_reached(name).is_some_and(|waits| waits) {
        tokio::time::sleep(debug::WAIT).await;
    }
}

mod debug {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    static WANTED: OnceLock<Vec<Wanted>> = OnceLock::new();

    /// Long enough to be suspended in, and over when the process goes on.
    pub(super) const WAIT: Duration = Duration::from_secs(10);

    struct Wanted {
        name: String,
        nth: u32,
        passages: AtomicU32,
        waits: bool,
    }

    fn parse(text: &str) -> Option<Wanted> {
        let mut parts = text.split(':');
        let (name, nth, how) = (parts.next()?.to_owned(), parts.next().unwrap_or("1"), parts.next());
        Some(Wanted { name, nth: nth.parse().ok()?, passages: AtomicU32::new(0), waits: how == Some("wait") })
    }

    /// Whether this is the passage that is named, and whether it is to be waited at.
    pub(super) fn is_reached(name: &'static str) -> Option<bool> {
        let all = WANTED.get_or_init(|| {
            let text = std::env::var("KUBENOVA_FAILPOINT").unwrap_or_default();
            text.split(',').filter_map(parse).collect()
        });
        let wanted = all.iter().find(|wanted| wanted.name == name)?;
        if wanted.passages.fetch_add(1, Ordering::SeqCst) + 1 != wanted.nth {
            return None;
        }
        if wanted.waits {
            tracing::warn!(failpoint = name, "waiting at a failpoint");
        }
        Some(wanted.waits)
    }

    pub(super) fn passing(name: &'static str) {
        match is_reached(name) {
            None => {}
            Some(true) => std::thread::sleep(WAIT),
            Some(false) => {
                tracing::warn!(failpoint = name, "aborting at a failpoint");
                std::process::abort();
            }
        }
    }
}
