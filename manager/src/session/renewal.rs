//! Renewals that the Manager wants: of clusters whose credentials were issued with other keys than it has now. What the new ones bring is
//! in the answer to the renewal; the request carries nothing.
//!
//! A renewal is wanted until the cluster names the new keys in a hello, so a request that is lost is repeated.

use super::asking::{self, Pace};
use kubenova_bus::Connection;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::clock;
use kubenova_schema::{mutant, subjects::RENEWAL_WANTED, v1::RenewalWanted};
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Time between two requests to one cluster: an Operator that received the first has renewed by then.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Requests within a second: a fifth of the renewals that a Manager carries out in that time, so that other work goes on.
const A_SECOND_MAX: usize = 20;
/// Reason of the request.
const KEYS_CHANGED: &str = "KeysChanged";

/// When clusters were asked.
#[derive(Debug)]
pub(super) struct Renewals {
    asked_at: BTreeMap<ClusterId, Instant>,
    pace: Pace,
}

impl Default for Renewals {
    fn default() -> Self {
        Self { asked_at: BTreeMap::new(), pace: Pace::new(A_SECOND_MAX) }
    }
}

impl Renewals {
    /// Whether to ask a cluster now, whose credentials were issued with these keys, when the Manager has those.
    pub(super) fn is_due(&mut self, cluster: &ClusterId, issued_with: &str, current: &str, now: Instant) -> bool {
        // One that says nothing cannot be told apart.
        if issued_with.is_empty() || issued_with == current || mutant::is_on("rotation.never-asked") {
            self.asked_at.remove(cluster);
            return false;
        }
        let asked_before = self.asked_at.get(cluster).is_some_and(|at| now.duration_since(*at) < AGAIN_AFTER);
        if asked_before || !self.pace.take(now) {
            return false;
        }
        self.asked_at.insert(cluster.clone(), now);
        true
    }

    /// Forgets clusters that have not been asked for so long that they may be asked at once.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.asked_at.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
    }
}

/// Asks a cluster to renew its credentials.
pub(super) async fn ask(connection: &Connection, requests: &Counter, cluster: &ClusterId) {
    tracing::info!(cluster.id = %cluster, reason = KEYS_CHANGED, "asking a cluster to renew its credentials: they were issued with other keys");
    requests.inc();
    let wanted = RenewalWanted {
        cluster_id: cluster.to_string(),
        reason: KEYS_CHANGED.to_owned(),
        message: "the Manager's keys have changed since the cluster's credentials were issued".to_owned(),
        at: clock::rfc3339_ms(clock::now()),
    };
    asking::send(connection, cluster, RENEWAL_WANTED, &wanted).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_cluster_is_asked_until_it_names_the_keys_and_many_are_asked_one_after_the_other() {
        let (mut renewals, start) = (Renewals::default(), Instant::now());
        let cluster = |number| ClusterId::from_uuid(Uuid::from_u128(number));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(renewals.is_due(&cluster(1), "old", "new", at(0)));
        assert!(!renewals.is_due(&cluster(1), "old", "new", at(29)));
        assert!(renewals.is_due(&cluster(1), "old", "new", at(30)), "the request was lost");
        assert!(!renewals.is_due(&cluster(1), "new", "new", at(60)));
        assert!(renewals.is_due(&cluster(1), "new", "newer", at(61)), "rotated again");
        assert!(!renewals.is_due(&cluster(2), "", "new", at(61)));
        let count = |renewals: &mut Renewals, seconds| {
            (10..200).filter(|number| renewals.is_due(&cluster(*number), "old", "new", at(seconds))).count()
        };
        assert_eq!([count(&mut renewals, 100), count(&mut renewals, 101)], [20, 20]);
        renewals.forget_old(at(200));
        assert!(renewals.asked_at.is_empty());
    }
}
