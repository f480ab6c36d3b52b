//! Status reports into `observed`: newest wins, silence deletes nothing.

use async_nats::jetstream;
use kubenova_bus::{
    consume::{self, Delivery, Verdict},
    durable, streams as made,
};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message, streams, subjects,
    v1::{Condition, ObjectStatus, StatusReport},
};
use kubenova_store::{
    error::StoreError,
    observed::{self, ObservedObject, Version},
    pool::Store,
};
use serde_json::{Value, json};
use std::time::Duration;

/// The Manager's own durable on KN_STS for status.
const DURABLE: &str = "manager-status";
/// Time to commit one report before it comes again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Pause after Postgres did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Ingests until a stop is asked for.
pub async fn run(store: Store, jetstream: jetstream::Context, shutdown: Shutdown) {
    let handle = |delivery: Delivery| {
        let store = store.clone();
        async move { verdict(&store, &delivery).await }
    };
    let missing = || ensure(&jetstream);
    missing().await;
    consume::run(&jetstream, streams::STATUS.name, DURABLE, &shutdown, handle, missing).await;
}

async fn ensure(jetstream: &jetstream::Context) {
    let made = async {
        made::ensure(jetstream, &streams::STATUS).await?;
        durable::ensure_own(jetstream, streams::STATUS.name, DURABLE, subjects::every::OBJECT_STATUS, ACK_WAIT).await
    };
    if let Err(error) = made.await {
        tracing::debug!(error = %telemetry::chain(&error), "could not ensure the durable for status; trying again");
    }
}

async fn verdict(store: &Store, delivery: &Delivery) -> Verdict {
    let (cluster, version, objects) = match read(delivery) {
        Ok(read) => read,
        Err(reason) => return Verdict::Poison(reason),
    };
    match merge(store, &cluster, version, &objects).await {
        Ok(changed) => {
            tracing::debug!(cluster.id = %cluster, objects = objects.len(), changed, "status report");
            Verdict::Done
        }
        Err(error) => {
            tracing::warn!(error = %telemetry::chain(&error), "could not merge a status report; it will come again");
            Verdict::Later(RETRY)
        }
    }
}

async fn merge(
    store: &Store,
    cluster: &ClusterId,
    version: Version,
    objects: &[ObservedObject],
) -> Result<u64, StoreError> {
    let mut connection = store.read().await?;
    observed::merge(&mut connection, cluster, version, objects).await
}

fn read(delivery: &Delivery) -> Result<(ClusterId, Version, Vec<ObservedObject>), String> {
    let report: StatusReport = message::from_json(&delivery.payload).map_err(|error| telemetry::chain(&error))?;
    let cluster = subjects::cluster_of(&delivery.subject).and_then(ClusterId::parse);
    let cluster = cluster.ok_or_else(|| format!("subject \"{}\" names no cluster", delivery.subject))?;
    if report.cluster_id != cluster.as_str() {
        return Err(format!("cluster {cluster} reported for cluster \"{}\"", report.cluster_id));
    }
    let number = |value: u64| i64::try_from(value).map_err(|_| format!("{value} is too large"));
    let version =
        Version { epoch: number(report.epoch)?, session: number(report.session)?, counter: number(report.counter)? };
    let as_of = report.at.parse().unwrap_or_else(|_| clock::now());
    let objects = report.objects.into_iter().map(|object| observed_object(object, as_of)).collect::<Result<_, _>>()?;
    Ok((cluster, version, objects))
}

fn observed_object(object: ObjectStatus, as_of: jiff::Timestamp) -> Result<ObservedObject, String> {
    let revision = i64::try_from(object.revision).map_err(|_| format!("{} is too large", object.revision))?;
    let detail = if object.detail.is_empty() {
        json!({})
    } else {
        serde_json::from_str(&object.detail)
            .map_err(|error| format!("detail of \"{}\" is no JSON: {error}", object.key))?
    };
    Ok(ObservedObject {
        object_key: object.key,
        revision,
        absent: object.absent,
        conditions: object.conditions.iter().map(condition).collect(),
        detail,
        as_of,
    })
}

fn condition(condition: &Condition) -> Value {
    json!({
        "type": condition.r#type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
        "observedGeneration": condition.observed_generation,
    })
}
