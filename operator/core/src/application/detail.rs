//! The detail of an application's status, as the Manager shows it: phase, services, workflow and the last error.

use super::live::{is_healthy, items, message, phase, text};
use kubenova_crds::labels;
use serde::Serialize;
use serde_json::Value;

/// The detail as JSON.
#[must_use]
pub(super) fn of(live: &Value, last_error: Option<&str>) -> String {
    let metadata = &live["metadata"];
    let detail = Detail {
        name: text(metadata, "name"),
        namespace: text(metadata, "namespace"),
        tenant: text(&metadata["labels"], labels::TENANT),
        phase: phase(live),
        healthy: is_healthy(live),
        generation: metadata["generation"].as_i64(),
        observed_generation: live["status"]["observedGeneration"].as_i64(),
        deleting: metadata.get("deletionTimestamp").is_some(),
        latest_revision: text(&live["status"]["latestRevision"], "name"),
        services: items(live, "/status/services").map(Service::of).collect(),
        workflow: Workflow::of(live),
        last_error,
    };
    serde_json::to_string(&detail).expect("a struct of texts, numbers and lists is JSON")
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    name: String,
    namespace: String,
    tenant: String,
    phase: &'a str,
    healthy: bool,
    generation: Option<i64>,
    observed_generation: Option<i64>,
    deleting: bool,
    latest_revision: String,
    services: Vec<Service>,
    workflow: Workflow,
    last_error: Option<&'a str>,
}

/// A component and its traits.
#[derive(Debug, Serialize)]
struct Service {
    name: String,
    healthy: bool,
    message: String,
    traits: Vec<Trait>,
}

impl Service {
    fn of(service: &Value) -> Self {
        Self {
            name: text(service, "name"),
            healthy: service["healthy"].as_bool().unwrap_or_default(),
            message: message(service),
            traits: service["traits"].as_array().into_iter().flatten().map(Trait::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Trait {
    r#type: String,
    healthy: bool,
    message: String,
}

impl Trait {
    fn of(found: &Value) -> Self {
        Self {
            r#type: text(found, "type"),
            healthy: found["healthy"].as_bool().unwrap_or_default(),
            message: message(found),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Workflow {
    status: String,
    started_at: String,
    message: String,
    steps: Vec<WorkflowStep>,
}

impl Workflow {
    fn of(live: &Value) -> Self {
        let workflow = &live["status"]["workflow"];
        Self {
            status: text(workflow, "status"),
            started_at: text(workflow, "startTime"),
            message: message(workflow),
            steps: items(live, "/status/workflow/steps").map(WorkflowStep::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct WorkflowStep {
    name: String,
    r#type: String,
    phase: String,
    message: String,
}

impl WorkflowStep {
    fn of(step: &Value) -> Self {
        Self {
            name: text(step, "name"),
            r#type: text(step, "type"),
            phase: text(step, "phase"),
            message: message(step),
        }
    }
}
