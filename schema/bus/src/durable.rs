//! The durable consumers: one per cluster on `KN_CMD`, a few for the Manager itself.

use crate::BusError;
use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, Consumer, DeliverPolicy, Info, IntoConsumerConfig as _, pull},
    stream::{ConsumerError, ConsumerErrorKind},
};
use kubenova_schema::{streams, subjects};
use std::time::Duration;

/// Creates the durable from which a cluster pulls its commands, unless it is there as it must be. It is named by the cluster's id; its
/// description has the name, so that `nats consumer ls KN_CMD` shows which cluster is which. Returns how many messages it would still
/// deliver, for the first time or again.
///
/// Thousands of clusters say hello at once when the broker comes back, so it is looked for before it is created: nats-server 2.15.1 writes
/// two files for a consumer that is created as it already is (`consumerFileStore.UpdateConfig`), and none to describe it. That is
/// 0.5 ms of its processor against 0.08 ms.
///
/// # Errors
/// When the broker refuses it or does not answer.
pub async fn ensure_cluster(jetstream: &jetstream::Context, cluster: &str, name: &str) -> Result<u64, BusError> {
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
    let stream = streams::COMMANDS.name;
    let info = match jetstream.get_consumer_from_stream::<pull::Config, _, _>(cluster, stream).await {
        Ok(present) if is_as_wanted(present.cached_info(), &config) => present.cached_info().clone(),
        // One that is busy is not asked for more.
        Err(error) if !is_absent(&error) => return Err(failed(stream, cluster, error.into())),
        Ok(_) | Err(_) => ensure(jetstream, stream, cluster, config).await?.cached_info().clone(),
    };
    Ok(info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX))
}

/// Whether a durable delivers, and has these settings. What the server adds by itself does not count.
fn is_as_wanted(present: &Info, wanted: &pull::Config) -> bool {
    let mut config = present.config.clone();
    config.name = None;
    config.metadata.clear();
    config.pause_until = None;
    config == wanted.clone().into_consumer_config() && !present.paused
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
    ensure(jetstream, own.stream.name, own.name, config).await.map(drop)
}

async fn ensure(
    jetstream: &jetstream::Context,
    stream: &str,
    durable: &str,
    config: pull::Config,
) -> Result<Consumer<pull::Config>, BusError> {
    let failed = |source| failed(stream, durable, source);
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
    Ok(created)
}

fn failed(stream: &str, durable: &str, source: Box<dyn std::error::Error + Send + Sync>) -> BusError {
    BusError::Durable { stream: stream.to_owned(), durable: durable.to_owned(), source }
}

/// The server has no such durable, or not its stream.
fn is_absent(error: &ConsumerError) -> bool {
    let is = |code| matches!(error.kind(), ConsumerErrorKind::JetStream(ref error) if error.error_code() == code);
    is(ErrorCode::CONSUMER_NOT_FOUND) || is(ErrorCode::STREAM_NOT_FOUND)
}

/// The server does not accept the settings of a durable that it has.
fn is_refused(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_CREATE)
}

/// Deletes all messages to a cluster: after a hello the relay sends again what is still open in Postgres.
///
/// Only for a cluster for which there are some: nats-server 2.15.1 compares the subject with the filter of each consumer of the stream,
/// whether or not there is a message (`stream.purgeLocked`). That is 0.2 ms of its processor with 600 consumers, 0.8 ms with 2,000
/// and 2.8 ms with 6,000.
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
