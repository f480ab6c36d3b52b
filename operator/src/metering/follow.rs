//! One watch of one source, without end: notes when each event was received, and reports when the watch was not current.

use crate::apiserver::metered::{self, Listed, SourceEvent};
use crate::manager_clock::ManagerClock;
use futures::StreamExt as _;
use kube::Client;
use kubenova_operator_core::metering::{
    engine::{Change, Listing},
    observed::Source,
};
use kubenova_runtime::backoff::Backoff;
use std::time::Duration;
use tokio::sync::mpsc;

/// What a follower reports to the meter.
#[derive(Debug)]
pub(super) enum WatchUpdate {
    Change {
        source: Source,
        change: Change,
        received_ms: i64,
    },
    /// The watch broke.
    Interrupted {
        /// The last moment it was current.
        since_ms: i64,
    },
    /// The source was listed again.
    Relisted {
        source: Source,
        listing: Listing,
        /// The last moment the watch before it was current.
        since_ms: i64,
        received_ms: i64,
    },
}

/// The API server bookmarks a watch about once a minute; two missed bookmarks mean that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(150);
/// Time between looks for a kind that is not installed.
const ABSENT_RETRY: Duration = Duration::from_secs(5);

/// A follower's state.
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) source: Source,
    pub(super) clock: ManagerClock,
    pub(super) updates: mpsc::Sender<WatchUpdate>,
}

/// Why a watch ended.
enum End {
    /// The server ended it, as it does every few minutes.
    Regular,
    /// It broke.
    Broken,
    /// Its history was compacted.
    Gone,
    /// The meter has stopped.
    Closed,
}

impl Follower {
    /// Follows from a version; `None` when the kind is not installed.
    ///
    /// Not runtime::retry: it ends with the meter, which takes a last checkpoint after a stop was requested, and a break
    /// must be reported before the wait.
    pub(super) async fn run(self, from: Option<u64>) {
        let mut position = from;
        let mut current_ms = self.clock.now_ms();
        let mut backoff = Backoff::default();
        loop {
            let Some(from) = position else {
                match self.relist(current_ms, true).await {
                    Some(found) => position = found,
                    None => return,
                }
                current_ms = self.clock.now_ms();
                continue;
            };
            let mut reached = from;
            let end = self.follow_once(&mut reached, &mut current_ms).await;
            if reached > from {
                backoff.reset();
            }
            position = Some(reached);
            match end {
                End::Regular => {}
                End::Closed => return,
                End::Broken => {
                    if self.updates.send(WatchUpdate::Interrupted { since_ms: current_ms }).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                End::Gone => {
                    tracing::warn!(
                        source = self.source.as_str(),
                        "the API server has compacted the history of a watch; listing again"
                    );
                    match self.relist(current_ms, false).await {
                        Some(found) => position = found,
                        None => return,
                    }
                    current_ms = self.clock.now_ms();
                }
            }
        }
    }

    async fn follow_once(&self, reached: &mut u64, current_ms: &mut i64) -> End {
        let mut events = match metered::watch(&self.client, self.source, *reached).await {
            Ok(events) => events,
            // The kind was uninstalled, which a list tells.
            Err(error) if error.is_not_found() => return End::Gone,
            Err(error) => {
                tracing::debug!(source = self.source.as_str(), error = %error.reason(), "could not open a watch");
                return End::Broken;
            }
        };
        loop {
            let Ok(next) = tokio::time::timeout(SILENCE_MAX, events.next()).await else { return End::Broken };
            let received_ms = self.clock.now_ms();
            match next {
                None => return End::Regular,
                Some(Ok(SourceEvent::Gone)) => return End::Gone,
                Some(Ok(SourceEvent::Change(change))) => {
                    *reached = (*reached).max(match &*change {
                        Change::Put(observation) => observation.resource_version,
                        Change::Removed { resource_version, .. } | Change::Bookmark(resource_version) => {
                            *resource_version
                        }
                    });
                    *current_ms = received_ms;
                    if self
                        .updates
                        .send(WatchUpdate::Change { source: self.source, change: *change, received_ms })
                        .await
                        .is_err()
                    {
                        return End::Closed;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(source = self.source.as_str(), error = %error.reason(), "a watch broke");
                    return End::Broken;
                }
            }
        }
    }

    /// Lists until it succeeds. None: the meter has stopped. `Some(None)`: the kind is not installed, which is reported
    /// only if it was before.
    async fn relist(&self, since_ms: i64, was_absent: bool) -> Option<Option<u64>> {
        let mut backoff = Backoff::default();
        loop {
            let listing = match metered::list(&self.client, self.source, None).await {
                Ok(Listed::Objects(listing)) => listing,
                Ok(Listed::NotInstalled) if was_absent => {
                    tokio::select! {
                        () = self.updates.closed() => return None,
                        () = tokio::time::sleep(ABSENT_RETRY) => continue,
                    }
                }
                Ok(Listed::NotInstalled) => Listing::default(),
                Ok(Listed::Gone) | Err(_) => {
                    tokio::select! {
                        () = self.updates.closed() => return None,
                        () = tokio::time::sleep(backoff.next_wait()) => continue,
                    }
                }
            };
            let position = listing.position;
            let received_ms = self.clock.now_ms();
            let update = WatchUpdate::Relisted { source: self.source, listing, since_ms, received_ms };
            return self.updates.send(update).await.ok().map(|()| position);
        }
    }
}
