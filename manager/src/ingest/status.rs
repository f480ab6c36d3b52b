//! Status reports into table `observed`: the newest wins. Silence deletes nothing, but in a snapshot, which says where it is everything.

use super::{
    by_cluster::{self, Reports},
    durable::{self, Ingest, IngestError},
};
use kubenova_bus::{consume::Delivery, durable::OwnDurable};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message, mutant, streams, subjects,
    v1::{Condition, ObjectStatus, StatusReport},
};
use kubenova_store::{
    cluster_reports::{self, ObservedReport},
    error::StoreError,
    observed::{KeyRange, ObservedObject, Version},
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
        observed_report(cluster_id, report).map_err(IngestError::Invalid)
    }

    async fn store(&self, reports: &[ObservedReport]) -> Result<Vec<Result<(), String>>, StoreError> {
        let changed = match reports {
            // One statement needs no transaction around it.
            [report] if report.complete_in.is_none() => {
                cluster_reports::merge_status(&mut *self.store.acquire().await?, reports).await?
            }
            _ => {
                let merge = self
                    .store
                    .transaction("merge status reports", async |tx| cluster_reports::merge_status(tx, reports).await);
                merge.await?
            }
        };
        let objects: usize = reports.iter().map(|report| report.objects.len()).sum();
        tracing::debug!(reports = reports.len(), objects, changed, "merged status reports");
        Ok(vec![Ok(()); reports.len()])
    }
}

fn observed_report(cluster_id: ClusterId, report: StatusReport) -> Result<ObservedReport, String> {
    let number = |value: u64| i64::try_from(value).map_err(|_| format!("{value} is too large"));
    let version =
        Version { epoch: number(report.epoch)?, session: number(report.session)?, counter: number(report.counter)? };
    let as_of = report.at.parse().unwrap_or_else(|_| clock::now());
    let complete_in = complete_in(&report);
    let objects = report.objects.into_iter().map(|object| observed_object(object, as_of)).collect::<Result<_, _>>()?;
    Ok(ObservedReport { cluster_id, version, objects, complete_in, as_of })
}

/// Where a part of a snapshot is everything.
fn complete_in(report: &StatusReport) -> Option<KeyRange> {
    if !report.snapshot || mutant::is_on("status.snapshot-ignored") {
        return None;
    }
    let highest = report.objects.iter().map(|object| &object.key).max().cloned();
    let through = if report.last { None } else { Some(highest?) };
    Some(KeyRange { after: report.after_key.clone(), through })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_snapshot_says_where_it_is_everything() {
        let report = |snapshot, last, keys: &[&str]| StatusReport {
            snapshot,
            last,
            after_key: "b".to_owned(),
            objects: keys
                .iter()
                .map(|key| ObjectStatus { key: (*key).to_owned(), ..ObjectStatus::default() })
                .collect(),
            ..StatusReport::default()
        };
        let range = |through: Option<&str>| KeyRange { after: "b".to_owned(), through: through.map(str::to_owned) };
        assert_eq!(complete_in(&report(false, true, &["c"])), None, "changes are no snapshot");
        assert_eq!(complete_in(&report(true, false, &["d", "c"])), Some(range(Some("d"))));
        assert_eq!(complete_in(&report(true, true, &["c"])), Some(range(None)));
        assert_eq!(complete_in(&report(true, true, &[])), Some(range(None)), "nothing is left up to the end");
        assert_eq!(complete_in(&report(true, false, &[])), None, "a part that ends nowhere");
    }
}
