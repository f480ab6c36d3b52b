//! Status reports into table `observed`: the newest wins, silence deletes nothing.

use super::durable::{self, Handled, Ingest, IngestError};
use kubenova_bus::{consume::Delivery, durable::OwnDurable};
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

const STATUS: OwnDurable = OwnDurable {
    stream: streams::STATUS,
    name: "manager-status",
    description: "The Manager's reader of object status",
    filter: subjects::every::OBJECT_STATUS,
    ack_wait: Duration::from_secs(30),
};

/// Ingests until a stop is requested.
pub async fn run(ingest: Ingest, shutdown: Shutdown) {
    Box::pin(durable::run(&STATUS, &ingest, &shutdown, |delivery| handle(&ingest.store, delivery))).await;
}

async fn handle(store: &Store, delivery: Delivery) -> Result<Handled, IngestError> {
    let (cluster, version, objects) = read(&delivery)?;
    let changed = merge(store, &cluster, version, &objects).await?;
    tracing::debug!(cluster.id = %cluster, objects = objects.len(), changed, "merged a status report");
    Ok(Handled::Committed)
}

async fn merge(
    store: &Store,
    cluster: &ClusterId,
    version: Version,
    objects: &[ObservedObject],
) -> Result<u64, StoreError> {
    let mut connection = store.acquire().await?;
    observed::merge(&mut connection, cluster, version, objects).await
}

fn read(delivery: &Delivery) -> Result<(ClusterId, Version, Vec<ObservedObject>), IngestError> {
    let report: StatusReport =
        message::from_json(&delivery.payload).map_err(|error| IngestError::Invalid(telemetry::chain(&error)))?;
    let cluster = durable::sender_named(&delivery.subject, &report.cluster_id)?;
    versioned(report).map(|(version, objects)| (cluster, version, objects)).map_err(IngestError::Invalid)
}

fn versioned(report: StatusReport) -> Result<(Version, Vec<ObservedObject>), String> {
    let number = |value: u64| i64::try_from(value).map_err(|_| format!("{value} is too large"));
    let version =
        Version { epoch: number(report.epoch)?, session: number(report.session)?, counter: number(report.counter)? };
    let as_of = report.at.parse().unwrap_or_else(|_| clock::now());
    let objects = report.objects.into_iter().map(|object| observed_object(object, as_of)).collect::<Result<_, _>>()?;
    Ok((version, objects))
}

fn observed_object(object: ObjectStatus, as_of: jiff::Timestamp) -> Result<ObservedObject, String> {
    let revision = i64::try_from(object.revision).map_err(|_| format!("{} is too large", object.revision))?;
    let detail = if object.detail.is_empty() {
        json!({})
    } else {
        serde_json::from_str(&object.detail)
            .map_err(|error| format!("detail of \"{}\" is not JSON: {error}", object.key))?
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
