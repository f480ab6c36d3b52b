//! Status reports into table `observed`: the newest wins, silence deletes nothing.

use super::{
    by_cluster::{self, Reports},
    durable::{self, Ingest, IngestError},
};
use kubenova_bus::{consume::Delivery, durable::OwnDurable};
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message, streams, subjects,
    v1::{Condition, ObjectStatus, StatusReport},
};
use kubenova_store::{
    cluster_reports::{self, ObservedReport},
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
    let status = Status { store: ingest.store.clone() };
    Box::pin(by_cluster::run(&STATUS, &ingest, &shutdown, status)).await;
}

struct Status {
    store: Store,
}

impl Reports for Status {
    type Report = ObservedReport;

    fn read(&self, delivery: &Delivery) -> Result<ObservedReport, IngestError> {
        let report: StatusReport =
            message::from_json(&delivery.payload).map_err(|error| IngestError::Invalid(telemetry::chain(&error)))?;
        let cluster_id = durable::sender_named(&delivery.subject, &report.cluster_id)?;
        let (version, objects) = versioned(report).map_err(IngestError::Invalid)?;
        Ok(ObservedReport { cluster_id, version, objects })
    }

    async fn store(&self, reports: &[ObservedReport]) -> Result<Vec<Result<(), String>>, StoreError> {
        let changed = if let [report] = reports {
            // One statement needs no transaction around it.
            let mut connection = self.store.acquire().await?;
            observed::merge(&mut connection, &report.cluster_id, report.version, &report.objects).await?
        } else {
            let merge = self
                .store
                .transaction("merge status reports", async |tx| cluster_reports::merge_status(tx, reports).await);
            merge.await?
        };
        let objects: usize = reports.iter().map(|report| report.objects.len()).sum();
        tracing::debug!(reports = reports.len(), objects, changed, "merged status reports");
        Ok(vec![Ok(()); reports.len()])
    }
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
