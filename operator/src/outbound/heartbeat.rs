//! The heartbeat: sent every few seconds, stored in no stream. Its absence makes a cluster stale at the Manager.

use crate::{
    context::{BrokerContext, ClusterContext},
    metering::UsageHealth,
    session::hello::Instance,
};
use async_nats::PublishError;
use kubenova_operator_core::listing;
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
};
use kubenova_schema::{message, subjects, v1::Heartbeat};
use std::sync::Arc;
use tokio::sync::watch;

/// Sends heartbeats until the process stops.
pub async fn run(
    cluster: ClusterContext,
    broker: BrokerContext,
    instance: Arc<Instance>,
    usage: watch::Receiver<UsageHealth>,
) {
    let round = || async {
        let unreceipted_windows = usage.borrow().unreceipted_windows;
        let records = cluster.inbox.all();
        let records = || records.iter().map(|record| &**record);
        cluster.highest.raise(records());
        let stated =
            Stated { highest: cluster.highest.now(), listing_sha256: listing::sha256(records()), unreceipted_windows };
        send(&broker, &instance, stated).await.map(|()| Next::Wait)
    };
    Periodic::new("send a heartbeat", cluster.settings.heartbeat()).run(&cluster.shutdown, round).await;
}

/// What a heartbeat says of the cluster.
struct Stated {
    /// Highest revision in the inbox, and its command.
    highest: (u64, String),
    listing_sha256: String,
    unreceipted_windows: u32,
}

/// Without a session there is nothing to send: the Manager counts a heartbeat only with the session's number.
async fn send(broker: &BrokerContext, instance: &Instance, stated: Stated) -> Result<(), PublishError> {
    let Some(connection) = broker.connection() else { return Ok(()) };
    let Some(session) = broker.session.borrow().clone() else { return Ok(()) };
    failpoint::passing("outbound.heartbeat");
    let Stated { highest: (highest_revision, highest_command_id), listing_sha256, unreceipted_windows } = stated;
    let heartbeat = Heartbeat {
        cluster_id: broker.cluster_id().to_owned(),
        boot_id: instance.boot_id.clone(),
        lease_term: instance.lease_term,
        epoch: session.epoch,
        session: session.number,
        at: clock::rfc3339_ms(clock::now()),
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        highest_revision,
        highest_command_id,
        kubernetes_version: instance.kubernetes_version.clone(),
        unreceipted_windows,
        listing_sha256,
    };
    let subject = subjects::heartbeat(broker.cluster_id());
    connection.client.publish(subject, message::to_json(&heartbeat).into()).await
}
