//! Status of objects: a full snapshot opens each session, later reports carry what changed, newest wins.
//!
//! (epoch, session, counter) orders reports, so that one that arrives late changes nothing at the Manager. Before this:
//! controllers write the [`super::status_cache::StatusCache`].

use crate::{
    apiserver::{self, verbs},
    context::{BrokerContext, ClusterContext},
    controllers::application::observe,
    session::state::{Session, session_ended, wait_for_session},
};
use kube::Api;
use kubenova_bus::publish as bus;
use kubenova_crds::{cluster_config::NovaClusterConfig, tenant::NovaTenant};
use kubenova_operator_core::observed;
use kubenova_runtime::{backoff::Backoff, clock, failpoint, random, retry::Retry, telemetry};
use kubenova_schema::{
    message, signature, streams, subjects,
    v1::{ObjectStatus, StatusReport},
};
use std::{collections::BTreeSet, time::Duration};

/// Objects in one report: an object's status is below 16 KiB, mostly far below it.
const OBJECTS_MAX: usize = 50;
/// Bytes of one report: what a cluster may send, less the headers.
const REPORT_BYTES_MAX: usize = streams::CLUSTER_MESSAGE_BYTES_MAX - 4 * 1024;
/// Changes that come within this time are sent in one report.
const SETTLE: Duration = Duration::from_millis(100);

/// Reports until the process stops.
pub async fn run(cluster: ClusterContext, broker: BrokerContext) {
    let mut session = broker.session.clone();
    loop {
        let Some(open) = wait_for_session(&mut session, &cluster.shutdown).await else { return };
        tokio::select! {
            () = cluster.shutdown.requested() => return,
            () = serve(&cluster, &broker, &open) => {}
            () = session_ended(&mut session, &open) => {}
        }
    }
}

async fn serve(cluster: &ClusterContext, broker: &BrokerContext, session: &Session) {
    let mut reports = Reports { cluster, broker, session, counter: 0 };
    let refreshed = Retry::new("read the cluster's objects for a status snapshot")
        .until_ok(&cluster.shutdown, || refresh(cluster))
        .await;
    if refreshed.is_none() {
        return;
    }
    reports.send(true, cluster.status.snapshot()).await;
    loop {
        cluster.status.changed().await;
        tokio::time::sleep(SETTLE).await;
        loop {
            let changes = cluster.status.take_changes(OBJECTS_MAX);
            if changes.is_empty() {
                break;
            }
            reports.send(false, changes).await;
        }
    }
}

struct Reports<'a> {
    cluster: &'a ClusterContext,
    broker: &'a BrokerContext,
    session: &'a Session,
    counter: u64,
}

impl Reports<'_> {
    /// Sends until the stream has it. A snapshot that is too big is sent as changes instead.
    async fn send(&mut self, snapshot: bool, mut objects: Vec<ObjectStatus>) {
        // A snapshot says "this is everything"; only one that fits into a message may say so.
        let snapshot = snapshot && objects.len() <= OBJECTS_MAX && bytes(&objects) <= REPORT_BYTES_MAX;
        while !objects.is_empty() || snapshot {
            let rest = objects.split_off(fitting(&objects));
            self.send_one(snapshot, objects).await;
            if rest.is_empty() {
                return;
            }
            objects = rest;
        }
    }

    async fn send_one(&mut self, snapshot: bool, objects: Vec<ObjectStatus>) {
        self.counter += 1;
        let report = StatusReport {
            cluster_id: self.broker.cluster_id().to_owned(),
            epoch: self.session.epoch,
            session: self.session.number,
            counter: self.counter,
            at: clock::rfc3339_ms(clock::now()),
            snapshot,
            objects,
        };
        let body = message::to_json(&report);
        failpoint::passing("outbound.status");
        let mut backoff = Backoff::default();
        loop {
            let Some(connection) = self.broker.connection() else { return };
            let id = random::uuid_v4().to_string();
            let headers = bus::headers(&id, &[(signature::SCHEMA_HEADER, "kubenova.v1.StatusReport")]);
            let subject = subjects::status(self.broker.cluster_id());
            match bus::publish(&connection.jetstream, &subject, headers, body.clone()).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(error = %telemetry::chain(&error), "could not publish status; trying again");
                    self.broker.rehello.notify_one();
                    if !snapshot {
                        self.cluster.status.mark_changed(&report.objects);
                    }
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

/// How many of these objects fit into one report; at least one.
fn fitting(objects: &[ObjectStatus]) -> usize {
    let mut count = objects.len().min(OBJECTS_MAX);
    while count > 1 && bytes(&objects[..count]) > REPORT_BYTES_MAX {
        count /= 2;
    }
    count
}

/// Bytes of a report with these objects.
fn bytes(objects: &[ObjectStatus]) -> usize {
    message::to_json(&StatusReport { objects: objects.to_vec(), ..StatusReport::default() }).len() + HEAD_BYTES
}

/// Bytes of a report without objects, at most.
const HEAD_BYTES: usize = 1024;

/// Brings the cache in line with the API server: what vanished while the Operator was down is reported absent.
async fn refresh(cluster: &ClusterContext) -> Result<(), apiserver::Error> {
    let before = cluster.status.keys();
    let mut now = Vec::new();
    let configs: Api<NovaClusterConfig> = Api::all(cluster.apiserver.client());
    now.extend(verbs::list(&configs, "").await?.iter().filter_map(observed::cluster_config));
    let tenants: Api<NovaTenant> = Api::all(cluster.apiserver.client());
    now.extend(verbs::list(&tenants, "").await?.iter().map(observed::tenant));
    now.extend(observe::all(cluster).await?);
    let present: BTreeSet<String> = now.iter().map(|status| status.key.clone()).collect();
    for status in now {
        cluster.status.put(status);
    }
    for gone in before.difference(&present) {
        cluster.status.remove(gone);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_as_many_objects_as_a_message_has_room_for() {
        let objects = |count: usize, bytes: usize| {
            vec![ObjectStatus { key: "tenant/x".into(), detail: "x".repeat(bytes), ..ObjectStatus::default() }; count]
        };
        assert_eq!(fitting(&objects(3, 10)), 3);
        assert_eq!(fitting(&objects(70, 10)), OBJECTS_MAX);
        let large = objects(OBJECTS_MAX, 16 * 1024);
        let count = fitting(&large);
        assert!(count > 1 && bytes(&large[..count]) <= REPORT_BYTES_MAX, "{count}");
        assert_eq!(fitting(&objects(2, 2 * REPORT_BYTES_MAX)), 1, "one is sent alone whatever its size");
    }
}
