//! Reading a live Application. KubeVela writes its status and may change its form, so what is not as expected reads as absent.

use super::cue;
use serde_json::Value;

/// KubeVela's phases of an application whose workflow has not ended.
pub(super) const BEFORE_THE_END_OF_THE_WORKFLOW: [&str; 6] =
    ["", "starting", "rendering", "policyGenerating", "runningWorkflow", "workflowSuspending"];

/// A field's text, empty when it is absent or no text.
pub(super) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The field `message`, as users read it.
pub(super) fn message(value: &Value) -> String {
    cue::without_value(value["message"].as_str().unwrap_or_default()).to_owned()
}

pub(super) fn phase(live: &Value) -> &str {
    live.pointer("/status/status").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_current(live: &Value) -> bool {
    live["status"]["observedGeneration"].as_i64() == live["metadata"]["generation"].as_i64()
}

pub(super) fn is_healthy(live: &Value) -> bool {
    phase(live) == "running" && is_current(live)
}

pub(super) fn is_deleting(live: &Value) -> bool {
    live["metadata"].get("deletionTimestamp").is_some()
}

pub(super) fn items<'a>(live: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    live.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Everything of it that is not healthy is a job, whose work takes its time.
pub(super) fn waits_for_job(live: &Value) -> bool {
    let mut unhealthy = items(live, "/status/services").filter(|service| service["healthy"] != true).peekable();
    let is_job = |service: &Value| service["workloadDefinition"]["kind"] == "Job";
    is_current(live) && unhealthy.peek().is_some() && unhealthy.all(is_job)
}
