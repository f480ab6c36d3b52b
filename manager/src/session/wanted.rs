//! Hellos that the Manager wants, and the requests for them.
//!
//! A hello is wanted until a later session of the cluster has a heartbeat, so a request that is lost is repeated.

use super::asking::{self, Pace};
use crate::metrics::HelloRequestLabels;
use kubenova_bus::Connection;
use kubenova_core::{cluster::ClusterId, session::HelloWanted as Reason};
use kubenova_runtime::clock;
use kubenova_schema::v1::HelloWanted;
use prometheus_client::metrics::{counter::Counter, family::Family};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Time between two requests to one cluster: an Operator that received the first has said hello by then.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Requests within a second: about a third of the hellos that a Manager answers in that time, so that after a restart of
/// Postgres thousands of clusters do not wait in one queue.
const A_SECOND_MAX: usize = 50;
/// A cluster that sends no heartbeat for so long says hello by itself when it comes back.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The hellos that are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    of: BTreeMap<ClusterId, One>,
    pace: Pace,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { of: BTreeMap::new(), pace: Pace::new(A_SECOND_MAX) }
    }
}

#[derive(Debug)]
struct One {
    reason: Reason,
    /// The session of the heartbeat because of which it is wanted.
    session: i64,
    heard_at: Instant,
    asked_at: Option<Instant>,
}

impl Wanted {
    /// Takes a heartbeat in: its session, and why a hello is wanted because of it. The reason to ask for one now, if any.
    pub(super) fn heartbeat(
        &mut self,
        cluster: &ClusterId,
        session: i64,
        reason: Option<Reason>,
        now: Instant,
    ) -> Option<Reason> {
        let known = self.of.get(cluster).map(|one| (one.reason, one.session));
        let reason = match (reason, known) {
            (Some(reason), _) => reason,
            // Reports may have been lost in the session that goes on.
            (None, Some((Reason::AfterSilence, of))) if of == session => Reason::AfterSilence,
            (None, _) => {
                self.of.remove(cluster);
                return None;
            }
        };
        let one = self.of.entry(cluster.clone()).or_insert(One { reason, session, heard_at: now, asked_at: None });
        (one.reason, one.session, one.heard_at) = (reason, session, now);
        if one.asked_at.is_some_and(|at| now.duration_since(at) < AGAIN_AFTER) || !self.pace.take(now) {
            return None;
        }
        one.asked_at = Some(now);
        Some(reason)
    }

    /// Forgets clusters that have been silent.
    pub(super) fn forget_silent(&mut self, now: Instant) {
        self.of.retain(|_, one| now.duration_since(one.heard_at) < FORGET_AFTER);
    }
}

/// Asks a cluster for a hello.
pub(super) async fn ask(
    connection: &Connection,
    requests: &Family<HelloRequestLabels, Counter>,
    cluster: &ClusterId,
    reason: Reason,
) {
    tracing::info!(cluster.id = %cluster, reason = reason.as_str(), "asking a cluster for a hello: {}", reason.message());
    requests.get_or_create(&HelloRequestLabels { reason: reason.as_str() }).inc();
    let wanted = HelloWanted {
        cluster_id: cluster.to_string(),
        reason: reason.as_str().to_owned(),
        message: reason.message().to_owned(),
        at: clock::rfc3339_ms(clock::now()),
    };
    asking::send(connection, cluster, "kubenova.v1.HelloWanted", &wanted).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn cluster(number: u128) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn a_hello_is_asked_for_again_until_a_later_session_has_a_heartbeat() {
        let (mut wanted, start) = (Wanted::default(), Instant::now());
        let mut beat = |seconds, session, reason| {
            wanted.heartbeat(&cluster(1), session, reason, start + Duration::from_secs(seconds))
        };
        assert_eq!(beat(0, 1, Some(Reason::AfterSilence)), Some(Reason::AfterSilence));
        assert_eq!(beat(5, 1, None), None, "it was asked a moment ago");
        assert_eq!(beat(10, 1, None), Some(Reason::AfterSilence), "the request was lost");
        assert_eq!(beat(20, 2, None), None, "it said hello");
        assert_eq!(beat(30, 2, None), None);
        assert_eq!(beat(40, 1, Some(Reason::HeartbeatNotCounted)), Some(Reason::HeartbeatNotCounted));
        assert_eq!(beat(50, 2, None), None, "the heartbeats of the open session count");
    }

    #[test]
    fn many_clusters_at_once_are_asked_one_after_the_other() {
        let (mut wanted, start) = (Wanted::default(), Instant::now());
        let mut asked = |seconds| {
            let now = start + Duration::from_secs(seconds);
            let ask = |wanted: &mut Wanted, number| {
                wanted.heartbeat(&cluster(number), 1, Some(Reason::PostgresStarted), now).is_some()
            };
            (0..200).filter(|number| ask(&mut wanted, *number)).count()
        };
        assert_eq!([asked(0), asked(1), asked(2), asked(3)], [A_SECOND_MAX; 4]);
        assert_eq!(asked(4), 0, "all of them were asked less than ten seconds ago");
        wanted.forget_silent(start + FORGET_AFTER + Duration::from_secs(4));
        assert!(wanted.of.is_empty());
    }
}
