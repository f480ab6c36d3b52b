//! The durables: one per cluster on `KN_CMD`, a few of the Manager's own.

use crate::BusError;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use kubenova_schema::{streams, subjects};
use std::time::Duration;

/// Makes the durable from which a cluster pulls; its name is the cluster's id. One replica whatever the stream has:
/// ten thousand replicated consumers would be ten thousand Raft groups.
///
/// # Errors
/// When the server refuses it or does not answer.
pub async fn ensure_cluster(jetstream: &jetstream::Context, cluster: &str) -> Result<(), BusError> {
    let config = pull::Config {
        durable_name: Some(cluster.to_owned()),
        filter_subject: subjects::commands_to(cluster),
        ack_policy: AckPolicy::Explicit,
        ack_wait: streams::COMMAND_ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: i64::from(streams::COMMAND_WINDOW) * 2,
        max_waiting: 8,
        num_replicas: 1,
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    ensure(jetstream, streams::COMMANDS.name, cluster, config).await
}

/// Makes a durable of the Manager's own on a stream, limited to some subjects.
///
/// # Errors
/// When the server refuses it or does not answer.
pub async fn ensure_own(
    jetstream: &jetstream::Context,
    stream: &str,
    durable: &str,
    filter: &str,
    ack_wait: Duration,
) -> Result<(), BusError> {
    let config = pull::Config {
        durable_name: Some(durable.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        max_deliver: -1,
        max_ack_pending: 1_000,
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    ensure(jetstream, stream, durable, config).await
}

async fn ensure(
    jetstream: &jetstream::Context,
    stream: &str,
    durable: &str,
    config: pull::Config,
) -> Result<(), BusError> {
    jetstream.create_consumer_on_stream(config, stream).await.map(drop).map_err(|source| BusError::Durable {
        stream: stream.to_owned(),
        durable: durable.to_owned(),
        source: source.into(),
    })
}

/// Removes everything that is on the wire to a cluster: after a hello, Postgres sends what is still open again.
///
/// # Errors
/// When the server refuses it or does not answer.
pub async fn purge_cluster(jetstream: &jetstream::Context, cluster: &str) -> Result<(), BusError> {
    let subject = subjects::commands_to(cluster);
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| BusError::Purge { subject: subject.clone(), source };
    let stream = jetstream.get_stream_no_info(streams::COMMANDS.name).await.map_err(|error| failed(error.into()))?;
    stream.purge().filter(subject.clone()).await.map_err(|error| failed(error.into()))?;
    Ok(())
}
