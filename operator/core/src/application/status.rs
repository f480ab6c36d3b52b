//! What an Application's status says: the progress of its command, and the status for the Manager.
//!
//! Healthy means `status.status == "running"` at the present generation. KubeVela does not show why a Deployment has no
//! pods; its `ReplicaFailure` is added here.

use crate::outcome::CommandProgress;
use kubenova_crds::labels;
use kubenova_schema::{
    kinds::ObjectKey,
    v1::{Condition, ObjectStatus},
};
use serde::Serialize;
use serde_json::Value;

/// What the cluster says about an application beyond KubeVela's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Deployments without pods: name and the cluster's message.
    pub replica_failures: Vec<(String, String)>,
}

/// The progress of a live Application at its present generation.
#[must_use]
pub fn progress(live: &Value, findings: &Findings) -> CommandProgress {
    let phase = phase(live);
    let current = is_current(live);
    match phase {
        "running" if current => {
            CommandProgress::succeeded("Running", "the application runs and is healthy").at("ready")
        }
        "workflowSuspending" if current => CommandProgress::waiting(
            upper_first(phase),
            "the workflow is held until it is resumed: POST .../apps/{application}/workflow/resume at the Manager",
        ),
        "workflowFailed" | "workflowTerminated" if current => {
            let message = last_error(live, findings).unwrap_or_else(|| "the workflow failed".to_owned());
            CommandProgress::failed("WorkflowFailed", message)
        }
        _ => {
            let reason = if phase.is_empty() || !current { "Applied".to_owned() } else { upper_first(phase) };
            let is_working = current && waits_for_job(live) && *findings == Findings::default();
            let message = last_error(live, findings)
                .unwrap_or_else(|| "waiting for the application to become healthy".to_owned());
            CommandProgress { waits: is_working, ..CommandProgress::running(reason, message) }
        }
    }
}

/// Status for the Manager: conditions, and a compact detail of phase, services, workflow and last error. None for an
/// object without a name or a tenant.
#[must_use]
pub fn status(live: &Value, findings: &Findings) -> Option<ObjectStatus> {
    let metadata = &live["metadata"];
    let (name, tenant_id) = (text(metadata, "name"), text(&metadata["labels"], labels::TENANT_ID));
    if tenant_id.is_empty() || name.is_empty() {
        return None;
    }
    let last_error = last_error(live, findings);
    let detail = Detail {
        name: &name,
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
        last_error: last_error.as_deref(),
    };
    let detail = serde_json::to_string(&detail).expect("a struct of texts, numbers and lists is JSON");
    let revision = text(&metadata["annotations"], labels::REVISION).parse().unwrap_or_default();
    let mut conditions: Vec<Condition> = items(live, "/status/conditions").map(condition).collect();
    conditions.push(healthy_condition(live, last_error));
    Some(ObjectStatus {
        key: ObjectKey::Application { tenant_id, name }.to_string(),
        revision,
        absent: false,
        conditions,
        detail,
    })
}

fn healthy_condition(live: &Value, last_error: Option<String>) -> Condition {
    Condition {
        r#type: "Healthy".to_owned(),
        status: if is_healthy(live) { "True" } else { "False" }.to_owned(),
        reason: if phase(live).is_empty() { "Pending".to_owned() } else { upper_first(phase(live)) },
        message: last_error.unwrap_or_default(),
        observed_generation: live["status"]["observedGeneration"].as_i64().unwrap_or_default(),
        ..Condition::default()
    }
}

/// The detail of an application's status, as the Manager shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    name: &'a str,
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
            message: text(service, "message"),
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
            message: text(found, "message"),
        }
    }
}

#[derive(Debug, Serialize)]
struct Workflow {
    status: String,
    message: String,
    steps: Vec<WorkflowStep>,
}

impl Workflow {
    fn of(live: &Value) -> Self {
        let workflow = &live["status"]["workflow"];
        Self {
            status: text(workflow, "status"),
            message: text(workflow, "message"),
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
            message: text(step, "message"),
        }
    }
}

fn condition(value: &Value) -> Condition {
    Condition {
        r#type: text(value, "type"),
        status: text(value, "status"),
        reason: text(value, "reason"),
        message: text(value, "message"),
        last_transition_time: text(value, "lastTransitionTime"),
        observed_generation: value["observedGeneration"].as_i64().unwrap_or_default(),
    }
}

/// A field's text, empty when it is absent or no text: KubeVela writes the status and may change its form.
fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// Everything of it that is not healthy is a job, whose work takes its time.
fn waits_for_job(live: &Value) -> bool {
    let mut unhealthy = items(live, "/status/services").filter(|service| service["healthy"] != true).peekable();
    unhealthy.peek().is_some()
        && unhealthy.all(|service| {
            let workload = &service["workloadDefinition"];
            workload["kind"] == "Job"
                && workload["apiVersion"].as_str().is_some_and(|version| version.starts_with("batch/"))
        })
}

fn phase(live: &Value) -> &str {
    live.pointer("/status/status").and_then(Value::as_str).unwrap_or_default()
}

fn is_current(live: &Value) -> bool {
    live["status"]["observedGeneration"].as_i64() == live["metadata"]["generation"].as_i64()
}

fn is_healthy(live: &Value) -> bool {
    phase(live) == "running" && is_current(live)
}

fn items<'a>(live: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    live.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// What went wrong last: a failed step, else a False condition, else a Deployment that gets no pods.
fn last_error(live: &Value, findings: &Findings) -> Option<String> {
    if is_healthy(live) {
        return None;
    }
    let step = items(live, "/status/workflow/steps")
        .filter(|step| step["phase"] == "failed")
        .find_map(|step| Some(format!("step {}: {}", step["name"].as_str()?, step["message"].as_str()?)));
    let replicas = || findings.replica_failures.first().map(|(name, message)| format!("Deployment {name}: {message}"));
    let condition = || {
        items(live, "/status/conditions")
            .filter(|condition| condition["status"] == "False" && condition["type"] != "Ready")
            .find_map(|condition| condition["message"].as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    };
    let service = || {
        items(live, "/status/services").filter(|service| service["healthy"] == false).find_map(|service| {
            Some(format!(
                "{}: {}",
                service["name"].as_str()?,
                service["message"].as_str().filter(|text| !text.is_empty())?
            ))
        })
    };
    step.or_else(replicas).or_else(condition).or_else(service)
}

fn upper_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::State;
    use serde_json::json;

    #[test]
    fn only_running_at_the_present_generation_succeeds() {
        let live = |phase: &str, observed: i64| json!({"metadata":{"generation":2},"status":{"status":phase,"observedGeneration":observed}});
        assert_eq!(progress(&live("running", 2), &Findings::default()).state, State::Succeeded);
        assert_eq!(progress(&live("running", 1), &Findings::default()).state, State::Running);
        assert_eq!(progress(&live("workflowFailed", 2), &Findings::default()).state, State::Failed);
        assert_eq!(progress(&json!({"metadata":{"generation":1}}), &Findings::default()).state, State::Running);
    }

    #[test]
    fn a_workflow_that_is_held_and_a_job_that_works_wait() {
        let live = |phase: &str, services: Value| json!({"metadata":{"generation":2},"status":{"status":phase,"observedGeneration":2,"services":services}});
        let service = |kind: &str, api_version: &str, healthy: bool| json!({"name":"a","healthy":healthy,"workloadDefinition":{"kind":kind,"apiVersion":api_version}});
        let (job, web) = (service("Job", "batch/v1", false), service("Deployment", "apps/v1", false));
        let ready = service("Deployment", "apps/v1", true);
        let waits = |live: &Value, findings: &Findings| progress(live, findings).waits;
        let none = Findings::default();
        let held = progress(&live("workflowSuspending", json!([])), &none);
        assert!(held.waits && held.state == State::Running && held.reason == "WorkflowSuspending");
        assert!(waits(&live("runningWorkflow", json!([ready, job])), &none));
        assert!(!waits(&live("runningWorkflow", json!([web, job])), &none), "a deployment does not work, it fails");
        assert!(!waits(&live("runningWorkflow", json!([ready])), &none));
        assert!(!waits(&live("runningWorkflow", json!([])), &none));
        assert!(!waits(&live("running", json!([job])), &none), "it has succeeded");
        let failures = Findings { replica_failures: vec![("a".into(), "exceeded quota".into())] };
        assert!(!waits(&live("runningWorkflow", json!([job])), &failures), "it does not even begin");
    }

    #[test]
    fn a_deployment_without_pods_is_the_last_error() {
        let live = json!({"metadata":{"name":"shop","namespace":"acme-apps","generation":1,
            "labels":{"kubenova.io/tenant-id":"id","kubenova.io/tenant":"acme"},"annotations":{"kubenova.io/revision":"9"}},
            "status":{"status":"runningWorkflow","observedGeneration":1}});
        let findings = Findings { replica_failures: vec![("web".into(), "exceeded quota".into())] };
        let status = status(&live, &findings).unwrap();
        assert_eq!((status.key.as_str(), status.revision), ("application/id/shop", 9));
        assert!(status.detail.contains("exceeded quota"), "{}", status.detail);
        assert_eq!(progress(&live, &findings).message, "Deployment web: exceeded quota");
    }
}
