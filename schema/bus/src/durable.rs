//! The durable consumers: one per cluster on `KN_CMD`, a few for the Manager itself.

use crate::BusError;
use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::{ConsumerError, ConsumerErrorKind},
};
use kubenova_schema::{streams, subjects};
use std::time::Duration;

/// Creates the durable from which a cluster pulls its commands. It is named by the cluster's id; its description has the
/// name, so that `nats consumer ls KN_CMD` shows which cluster is which.
///
/// # Errors
/// When the broker refuses it or does not answer.
pub async fn ensure_cluster(jetstream: &jetstream::Context, cluster: &str, name: &str) -> Result<(), BusError> {
    let config = pull::Config {
        durable_name: Some(cluster.to_owned()),
        description: Some(format!("Commands for cluster {name}")),
        filter_subject: subjects::commands_to(cluster),
        ack_policy: AckPolicy::Explicit,
        ack_wait: streams::COMMAND_ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: i64::from(streams::COMMAND_WINDOW) * 2,
        max_waiting: 8,
        // Whatever the stream has: ten thousand replicated consumers would be ten thousand Raft groups.
        num_replicas: 1,
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    ensure(jetstream, streams::COMMANDS.name, cluster, config).await
}

/// A durable of the Manager itself.
#[derive(Debug, Clone, Copy)]
pub struct OwnDurable {
    /// The stream it reads.
    pub stream: streams::Stream,
    /// Its name.
    pub name: &'static str,
    /// What it is for; `nats consumer info` shows it.
    pub description: &'static str,
    /// The subjects it reads.
    pub filter: &'static str,
    /// Time to handle a message before it is delivered again.
    pub ack_wait: Duration,
}

/// Deliveries that the Manager may hold unacknowledged: a burst of a thousand clusters.
const OWN_ACK_PENDING_MAX: i64 = 1_000;

/// Creates a durable of the Manager itself.
///
/// # Errors
/// When the broker refuses it or does not answer.
pub async fn ensure_own(jetstream: &jetstream::Context, own: &OwnDurable) -> Result<(), BusError> {
    let config = pull::Config {
        durable_name: Some(own.name.to_owned()),
        description: Some(own.description.to_owned()),
        filter_subject: own.filter.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: own.ack_wait,
        max_deliver: -1,
        max_ack_pending: OWN_ACK_PENDING_MAX,
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    ensure(jetstream, own.stream.name, own.name, config).await
}

async fn ensure(
    jetstream: &jetstream::Context,
    stream: &str,
    durable: &str,
    config: pull::Config,
) -> Result<(), BusError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| BusError::Durable {
        stream: stream.to_owned(),
        durable: durable.to_owned(),
        source,
    };
    let create = || jetstream.create_consumer_on_stream(config.clone(), stream);
    let created = match create().await {
        // Some settings cannot be updated. What a durable knew may be lost: all that the stream holds is delivered again.
        Err(error) if is_refused(&error) && jetstream.delete_consumer_from_stream(durable, stream).await.is_ok() => {
            tracing::warn!(stream, durable, %error, "deleted a durable that could not be updated, to create it again");
            create().await
        }
        created => created,
    };
    let created = created.map_err(|error| failed(error.into()))?;
    // The server keeps a pause in an update that names none.
    if created.cached_info().paused {
        let stream = jetstream.get_stream_no_info(stream).await.map_err(|error| failed(error.into()))?;
        stream.resume_consumer(durable).await.map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// The server does not accept the settings of a durable that it has.
fn is_refused(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_CREATE)
}

/// Deletes all messages to a cluster: after a hello the relay sends again what is still open in Postgres.
///
/// # Errors
/// When the broker refuses it or does not answer.
pub async fn purge_cluster(jetstream: &jetstream::Context, cluster: &str) -> Result<(), BusError> {
    let subject = subjects::commands_to(cluster);
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| BusError::Purge { subject: subject.clone(), source };
    let stream = jetstream.get_stream_no_info(streams::COMMANDS.name).await.map_err(|error| failed(error.into()))?;
    stream.purge().filter(subject.clone()).await.map_err(|error| failed(error.into()))?;
    Ok(())
}
