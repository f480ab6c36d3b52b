//! What an Application's status says: the progress of its command, and the status for the Manager.
//!
//! KubeVela's condition `Ready` says that it has reconciled, also when nothing of the application runs: it is reported as
//! `Reconciled`. `Ready` here means that the application runs at its present generation and its tenant is ready.

use super::{
    detail,
    failure::Failure,
    live::{is_current, is_deleting, is_healthy, items, message, phase, text, waits_for_job},
};
use crate::{outcome::CommandProgress, tenant::digest::NotReady};
use kubenova_crds::labels;
use kubenova_schema::{
    kinds::ObjectKey,
    mutant,
    v1::{Condition, ObjectStatus},
};
use serde_json::Value;

/// The condition that says whether the application can be used.
pub const READY: &str = "Ready";
/// Reason of an application whose jobs have not ended and do not fail.
const JOB_RUNNING: &str = "JobRunning";
/// KubeVela's phase of an application whose workflow is suspended.
const SUSPENDED: &str = "workflowSuspending";
/// Reasons of an application that is not ready and may stay so: what it waits for takes its time.
pub const HELD: [&str; 2] = [JOB_RUNNING, "WorkflowSuspending"];

/// What the cluster says about an application beyond KubeVela's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first that was found.
    pub failure: Option<Failure>,
    /// Why its tenant is not ready; none when it is.
    pub tenant: Option<NotReady>,
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
        SUSPENDED if current => CommandProgress::waiting(
            upper_first(phase),
            "the workflow is held until it is resumed: POST .../apps/{application}/workflow/resume at the Manager",
        ),
        "workflowFailed" | "workflowTerminated" if current => {
            let message = last_error(live, findings).unwrap_or_else(|| "the workflow failed".to_owned());
            CommandProgress::failed("WorkflowFailed", message)
        }
        _ => {
            let reason = if phase.is_empty() || !current { "Applied".to_owned() } else { upper_first(phase) };
            let is_working = findings.failure.is_none() && waits_for_job(live);
            let message = last_error(live, findings)
                .unwrap_or_else(|| "waiting for the application to become healthy".to_owned());
            CommandProgress { waits: is_working, ..CommandProgress::running(reason, message) }
        }
    }
}

/// Status for the Manager: conditions, and a compact detail of phase, services, workflow and last error. None for an
/// object without a name or a tenant. Conditions that are made here have no time yet: [`super::since`].
#[must_use]
pub fn status(live: &Value, findings: &Findings) -> Option<ObjectStatus> {
    let metadata = &live["metadata"];
    let (name, tenant_id) = (text(metadata, "name"), text(&metadata["labels"], labels::TENANT_ID));
    if tenant_id.is_empty() || name.is_empty() {
        return None;
    }
    let last_error = last_error(live, findings);
    let detail = detail::of(live, last_error.as_deref());
    let revision = text(&metadata["annotations"], labels::REVISION).parse().unwrap_or_default();
    let mut conditions: Vec<Condition> = items(live, "/status/conditions").map(condition).collect();
    conditions.push(healthy_condition(live, last_error.clone()));
    conditions.push(ready_condition(live, findings, last_error));
    Some(ObjectStatus {
        key: ObjectKey::Application { tenant_id, name }.to_string(),
        revision,
        absent: false,
        conditions,
        detail,
    })
}

/// Whether a status says that the application can be used.
#[must_use]
pub fn is_ready(status: &ObjectStatus) -> bool {
    status.conditions.iter().any(|condition| condition.r#type == READY && condition.status == "True")
}

fn healthy_condition(live: &Value, last_error: Option<String>) -> Condition {
    made_here("Healthy", live, is_healthy(live), phase_reason(live), last_error.unwrap_or_default())
}

fn ready_condition(live: &Value, findings: &Findings, last_error: Option<String>) -> Condition {
    if let Some(NotReady { reason, message }) = &findings.tenant {
        let message = format!("the application's tenant is not ready: {reason}: {message}");
        return made_here(READY, live, false, "TenantNotReady".to_owned(), message);
    }
    if (is_healthy(live) || mutant::is_on("application.reconciled-is-ready")) && !is_deleting(live) {
        return made_here(READY, live, true, "Running".to_owned(), "the application runs and is healthy".to_owned());
    }
    // Whatever fails meanwhile: its command waits, too, and to resume it is the first thing to do.
    if phase(live) == SUSPENDED && is_current(live) {
        let mut message = "the workflow is suspended until it is resumed".to_owned();
        if let Some(error) = last_error {
            message = format!("{message}; meanwhile: {error}");
        }
        return made_here(READY, live, false, phase_reason(live), message);
    }
    if findings.failure.is_none() && waits_for_job(live) {
        let message = last_error.unwrap_or_else(|| "waiting until its jobs have ended".to_owned());
        return made_here(READY, live, false, JOB_RUNNING.to_owned(), message);
    }
    let reason = findings.failure.as_ref().map(|failure| failure.reason.clone()).filter(|reason| !reason.is_empty());
    let message = last_error.unwrap_or_else(|| "waiting for the application to become healthy".to_owned());
    made_here(READY, live, false, reason.unwrap_or_else(|| phase_reason(live)), message)
}

fn made_here(kind: &str, live: &Value, holds: bool, reason: String, message: String) -> Condition {
    Condition {
        r#type: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason,
        message,
        observed_generation: live["status"]["observedGeneration"].as_i64().unwrap_or_default(),
        ..Condition::default()
    }
}

fn phase_reason(live: &Value) -> String {
    match phase(live) {
        "" => "Pending".to_owned(),
        // Of the generation before.
        _ if !is_current(live) => "Applied".to_owned(),
        phase => upper_first(phase),
    }
}

fn condition(value: &Value) -> Condition {
    let kind = text(value, "type");
    Condition {
        r#type: if kind == READY { "Reconciled".to_owned() } else { kind },
        status: text(value, "status"),
        reason: text(value, "reason"),
        message: message(value),
        last_transition_time: text(value, "lastTransitionTime"),
        observed_generation: value["observedGeneration"].as_i64().unwrap_or_default(),
    }
}

/// What went wrong last: a failed step, else what the cluster says of a workload, else a False condition, else an unhealthy service.
fn last_error(live: &Value, findings: &Findings) -> Option<String> {
    if is_healthy(live) {
        return None;
    }
    let named = |value: &Value| {
        let message = Some(message(value)).filter(|text| !text.is_empty())?;
        Some(format!("{}: {message}", value["name"].as_str()?))
    };
    let step = items(live, "/status/workflow/steps")
        .filter(|step| step["phase"] == "failed")
        .find_map(|step| Some(format!("step {}", named(step)?)));
    let failure = || findings.failure.as_ref().map(ToString::to_string);
    let condition = || {
        items(live, "/status/conditions")
            .filter(|condition| condition["status"] == "False" && condition["type"] != READY)
            .map(message)
            .find(|message| !message.is_empty())
    };
    let service = || items(live, "/status/services").filter(|service| service["healthy"] == false).find_map(named);
    step.or_else(failure).or_else(condition).or_else(service)
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

    fn live(phase: &str, observed: i64) -> Value {
        json!({"metadata":{"name":"shop","namespace":"acme-apps","generation":2,
            "labels":{"kubenova.io/tenant-id":"id","kubenova.io/tenant":"acme"},"annotations":{"kubenova.io/revision":"9"}},
            "status":{"status":phase,"observedGeneration":observed,"conditions":[
                {"type":"Ready","status":"True","reason":"ReconcileSuccess","lastTransitionTime":"2026-01-01T00:00:00Z"}]}})
    }

    fn failure() -> Findings {
        let (name, reason, message) = ("web".into(), "FailedCreate".into(), "exceeded quota".into());
        Findings { failure: Some(Failure { kind: "Deployment", name, reason, message }), tenant: None }
    }

    fn ready(live: &Value, findings: &Findings) -> (String, String, String) {
        let status = status(live, findings).unwrap();
        let found = status.conditions.iter().filter(|condition| condition.r#type == READY).collect::<Vec<_>>();
        let [condition] = found[..] else { panic!("not one condition Ready: {found:?}") };
        assert_eq!(is_ready(&status), condition.status == "True");
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
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
        assert!(!waits(&live("runningWorkflow", json!([job])), &failure()), "it does not even begin");
    }

    #[test]
    fn a_deployment_without_pods_is_the_last_error() {
        let live = live("runningWorkflow", 2);
        let status = status(&live, &failure()).unwrap();
        assert_eq!((status.key.as_str(), status.revision), ("application/id/shop", 9));
        assert!(status.detail.contains("exceeded quota"), "{}", status.detail);
        assert_eq!(progress(&live, &failure()).message, "Deployment web: exceeded quota");
        let said = ("False".into(), "FailedCreate".into(), "Deployment web: exceeded quota".into());
        assert_eq!(ready(&live, &failure()), said);
    }

    #[test]
    fn an_application_is_ready_while_it_runs_at_its_generation_and_its_tenant_is_ready() {
        let of = |live: &Value| ready(live, &Findings::default()).1;
        assert_eq!(ready(&live("running", 2), &Findings::default()).0, "True");
        assert_eq!(of(&live("running", 1)), "Applied", "of the generation before");
        assert_eq!(of(&live("unhealthy", 2)), "Unhealthy");
        assert_eq!(of(&live("", 2)), "Pending");
        let mut deleting = live("running", 2);
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(ready(&deleting, &Findings::default()).0, "False");
        let tenant = NotReady { reason: "NamespaceTaken".into(), message: "acme-apps is not ours".into() };
        let (status, reason, message) = ready(&live("running", 2), &Findings { tenant: Some(tenant), failure: None });
        assert_eq!((status.as_str(), reason.as_str()), ("False", "TenantNotReady"));
        assert_eq!(message, "the application's tenant is not ready: NamespaceTaken: acme-apps is not ours");
    }

    #[test]
    fn a_job_that_works_and_a_workflow_that_is_suspended_take_their_time() {
        let service =
            |kind: &str, healthy: bool| json!({"name": "a", "healthy": healthy, "workloadDefinition": {"kind": kind}});
        let reason = |services: Value, findings: &Findings| {
            let mut live = live("runningWorkflow", 2);
            live["status"]["services"] = services;
            ready(&live, findings).1
        };
        let job = json!([service("Deployment", true), service("Job", false)]);
        assert_eq!(reason(job.clone(), &Findings::default()), JOB_RUNNING);
        assert_eq!(reason(job, &failure()), "FailedCreate", "it does not even begin");
        let both = json!([service("Deployment", false), service("Job", false)]);
        assert_eq!(reason(both, &Findings::default()), "RunningWorkflow");
        assert_eq!(reason(json!([]), &Findings::default()), "RunningWorkflow");
        let suspended = ready(&live(SUSPENDED, 2), &Findings::default()).1;
        assert!(HELD.contains(&suspended.as_str()), "{suspended}");
        let (_, reason, message) = ready(&live(SUSPENDED, 2), &failure());
        assert_eq!(reason, suspended, "whatever fails meanwhile");
        assert_eq!(message, "the workflow is suspended until it is resumed; meanwhile: Deployment web: exceeded quota");
        assert_eq!(ready(&live(SUSPENDED, 1), &failure()).1, "FailedCreate", "of the generation before");
    }

    #[test]
    fn what_kubevela_calls_ready_is_that_it_has_reconciled() {
        let status = status(&live("unhealthy", 2), &Findings::default()).unwrap();
        let types: Vec<&str> = status.conditions.iter().map(|condition| condition.r#type.as_str()).collect();
        assert_eq!(types, ["Reconciled", "Healthy", "Ready"]);
        assert_eq!(status.conditions[0].last_transition_time, "2026-01-01T00:00:00Z");
    }

    #[test]
    fn no_message_has_the_cue_value_of_what_failed() {
        let mut live = live("workflowFailed", 2);
        let message = "function call error for return: no such image (value: cue/format: unsupported node type <nil>)";
        live["status"]["workflow"] =
            json!({"message": message, "steps": [{"name": "deploy", "phase": "failed", "message": message}]});
        live["status"]["services"] =
            json!([{"name": "web", "healthy": false, "message": message, "traits": [{"message": message}]}]);
        live["status"]["conditions"] = json!([{"type": "Workflow", "status": "False", "message": message}]);
        let status = status(&live, &Findings::default()).unwrap();
        let all = format!("{status:?} {:?}", progress(&live, &Findings::default()));
        assert!(all.contains("step deploy: function call error for return: no such image"), "{all}");
        assert!(!all.contains("unsupported node type"), "{all}");
    }
}
