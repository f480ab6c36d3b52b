//! Status of objects: a full snapshot opens each session, in parts, later reports carry what changed, newest wins.
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
use kubenova_operator_core::{
    observed,
    snapshot::{self, OBJECTS_MAX},
};
use kubenova_runtime::{backoff::Backoff, clock, failpoint, random, retry::Retry, telemetry};
use kubenova_schema::{
    message, signature, subjects,
    v1::{ObjectStatus, StatusReport},
};
use std::time::Duration;

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
    let Some(is_complete) = refreshed else { return };
    for report in snapshot::reports(cluster.status.snapshot(), is_complete) {
        reports.send(report).await;
    }
    loop {
        cluster.status.changed().await;
        tokio::time::sleep(SETTLE).await;
        loop {
            let changes = cluster.status.take_changes(OBJECTS_MAX);
            if changes.is_empty() {
                break;
            }
            reports.send_changes(changes).await;
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
    async fn send_changes(&mut self, mut objects: Vec<ObjectStatus>) {
        while !objects.is_empty() {
            let rest = objects.split_off(snapshot::fitting(&objects));
            self.send(StatusReport { objects, ..StatusReport::default() }).await;
            objects = rest;
        }
    }

    /// Sends until the stream has it.
    async fn send(&mut self, report: StatusReport) {
        self.counter += 1;
        let report = StatusReport {
            cluster_id: self.broker.cluster_id().to_owned(),
            epoch: self.session.epoch,
            session: self.session.number,
            counter: self.counter,
            at: clock::rfc3339_ms(clock::now()),
            ..report
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
                    if !report.snapshot {
                        self.cluster.status.mark_changed(&report.objects);
                    }
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

/// Brings the cache in line with the API server: what vanished while the Operator was down is reported absent. Whether every object was
/// read: one that cannot be is not absent.
async fn refresh(cluster: &ClusterContext) -> Result<bool, apiserver::Error> {
    let listing = cluster.status.begin_listing();
    let configs: Api<NovaClusterConfig> = Api::all(cluster.apiserver.client());
    let configs = verbs::list_whole(&configs, "").await?;
    let tenants: Api<NovaTenant> = Api::all(cluster.apiserver.client());
    let tenants = verbs::list_whole(&tenants, "").await?;
    let mut now = observe::all(cluster).await?;
    now.objects.extend(configs.objects.iter().filter_map(observed::cluster_config));
    now.objects.extend(tenants.objects.iter().map(observed::tenant));
    now.is_complete &= configs.is_complete && tenants.is_complete;
    let is_complete = now.is_complete;
    if !is_complete {
        tracing::warn!("not every object can be read; what vanished from the cluster is not reported until it can");
    }
    cluster.status.end_listing(listing, now);
    Ok(is_complete)
}
