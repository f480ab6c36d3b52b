//! A queue of names to look at: each at most once at a time, again when something changed meanwhile, again after the
//! time its last pass asked for. You get the name, not the reason.

use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use kubenova_runtime::shutdown::Shutdown;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    time::Duration,
};
use tokio::time::Instant;

/// Passes that run at once: a slow object must not hold up the others, and the API server must not be flooded.
const CONCURRENCY: usize = 16;

/// Runs passes until a stop is asked for. A pass says after which time its object should be looked at again.
pub async fn run<S, P, F>(calls: S, shutdown: &Shutdown, reconcile: P)
where
    S: Stream<Item = Vec<String>>,
    P: Fn(String) -> F,
    F: Future<Output = Option<Duration>>,
{
    let mut calls = pin!(calls.fuse());
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut passes = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        while busy.len() < CONCURRENCY {
            let ready =
                due.iter().find(|(name, at)| **at <= now && !busy.contains(*name)).map(|(name, _)| name.clone());
            let Some(name) = ready else { break };
            due.remove(&name);
            busy.insert(name.clone());
            let running = reconcile(name.clone());
            passes.push(async move { (name, running.await) });
        }
        let next = due.iter().filter(|(name, _)| !busy.contains(*name)).map(|(_, at)| *at).min();
        let full = busy.len() >= CONCURRENCY;
        tokio::select! {
            () = shutdown.requested() => return,
            Some(names) = calls.next() => for name in names {
                due.insert(name, Instant::now());
            },
            Some((name, after)) = passes.next(), if !passes.is_empty() => {
                busy.remove(&name);
                if let Some(after) = after {
                    due.entry(name).or_insert_with(|| Instant::now() + after);
                }
            }
            () = sleep_until(next), if next.is_some() && !full => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_name_called_twice_while_busy_runs_once_more_and_never_twice_at_once() {
        let shutdown = Shutdown::new();
        let log = Mutex::new(Vec::new());
        let calls =
            futures::stream::iter([vec!["a".to_owned()], vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]]);
        let work = run(calls, &shutdown, |name| {
            let log = &log;
            async move {
                log.lock().unwrap().push(format!("+{name}"));
                tokio::time::sleep(Duration::from_millis(30)).await;
                log.lock().unwrap().push(format!("-{name}"));
                None
            }
        });
        let _stopped = tokio::time::timeout(Duration::from_millis(400), work).await;
        let log = log.into_inner().unwrap();
        let of_a: Vec<&String> = log.iter().filter(|line| line.ends_with('a')).collect();
        assert_eq!(of_a, ["+a", "-a", "+a", "-a"]);
    }
}
