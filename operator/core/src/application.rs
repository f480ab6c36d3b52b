//! KubeVela Applications: the object that is applied for an order, and what its status says.
//!
//! Healthy means `status.status == "running"` at the present generation (reference: KubeVela §3.1). KubeVela does not
//! show why a Deployment has no pods; its `ReplicaFailure` is added here. A caller's document decides labels,
//! annotations and spec; name, namespace and identity are never its own.

use crate::outcome::{CommandProgress, State};
use kubenova_crds::labels;
use kubenova_schema::{
    applications,
    kinds::ObjectKey,
    v1::{Condition, ObjectStatus},
};
use serde_json::{Map, Value, json};

/// API version of Applications.
pub const API_VERSION: &str = "core.oam.dev/v1beta1";

/// Whose it is, and which order asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Name of the tenant.
    pub tenant: &'a str,
    /// Id of the tenant.
    pub tenant_id: &'a str,
    /// Name of the application.
    pub name: &'a str,
    /// Revision of the order.
    pub revision: u64,
    /// Id of its command.
    pub command_id: &'a str,
}

/// The Application to apply for a document.
///
/// # Errors
/// With a sentence when the document holds no Application spec.
pub fn build(document: &str, origin: Origin<'_>) -> Result<Value, String> {
    let document: Value =
        serde_json::from_str(document).map_err(|error| format!("the document is no JSON: {error}"))?;
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or("Application");
    if kind != "Application" {
        return Err(format!("the document is a {kind}, not an Application"));
    }
    let Some(spec) = document.get("spec").filter(|spec| spec.is_object()) else {
        return Err("the document has no spec".to_owned());
    };
    let kept = |field: &str| -> Map<String, Value> {
        let entries = document.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
        entries
            .into_iter()
            .flatten()
            .filter(|(key, _)| !applications::is_reserved(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let (mut wanted_labels, mut annotations) = (kept("labels"), kept("annotations"));
    for (key, value) in [
        (labels::TENANT_ID, origin.tenant_id),
        (labels::TENANT, origin.tenant),
        (labels::PROJECT, origin.tenant),
        (labels::APPLICATION, origin.name),
    ] {
        wanted_labels.insert(key.to_owned(), value.into());
    }
    annotations.insert(labels::REVISION.to_owned(), origin.revision.to_string().into());
    annotations.insert(labels::COMMAND_ID.to_owned(), origin.command_id.into());
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": "Application",
        "metadata": {
            "name": origin.name,
            "namespace": format!("{}-apps", origin.tenant),
            "labels": wanted_labels,
            "annotations": annotations,
        },
        "spec": spec,
    }))
}

/// What the cluster says about an application beyond KubeVela's own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Failures of its Deployments: name and the cluster's own words.
    pub replica_failures: Vec<(String, String)>,
}

/// How far a live Application got with its present generation.
#[must_use]
pub fn progress(live: &Value, findings: &Findings) -> CommandProgress {
    let phase = phase(live);
    let current = is_current(live);
    match phase {
        "running" if current => {
            CommandProgress::new(State::Succeeded, "Running", "the application runs and is healthy").at("ready")
        }
        "workflowFailed" | "workflowTerminated" if current => {
            let message = last_error(live, findings).unwrap_or_else(|| "the workflow failed".to_owned());
            CommandProgress::new(State::Failed, "WorkflowFailed", message)
        }
        _ => {
            let reason = if phase.is_empty() || !current { "Applied".to_owned() } else { upper_first(phase) };
            let message =
                last_error(live, findings).unwrap_or_else(|| "waiting until the application is healthy".to_owned());
            CommandProgress::new(State::Running, reason, message)
        }
    }
}

/// Status for the Manager: conditions, and a compact detail of phase, services, workflow and last error.
#[must_use]
pub fn status(live: &Value, findings: &Findings) -> Option<ObjectStatus> {
    let text = |pointer: &str| live.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let label =
        |name: &str| live["metadata"]["labels"].get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let tenant_id = label(labels::TENANT_ID);
    let name = text("/metadata/name");
    if tenant_id.is_empty() || name.is_empty() {
        return None;
    }
    let services: Vec<Value> = items(live, "/status/services")
        .map(|service| {
            json!({
                "name": service["name"],
                "healthy": service["healthy"].as_bool().unwrap_or_default(),
                "message": service["message"].as_str().unwrap_or_default(),
                "traits": service["traits"].as_array().into_iter().flatten().map(|part| json!({
                    "type": part["type"], "healthy": part["healthy"].as_bool().unwrap_or_default(),
                    "message": part["message"].as_str().unwrap_or_default(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let steps: Vec<Value> = items(live, "/status/workflow/steps")
        .map(|step| {
            json!({
                "name": step["name"], "type": step["type"], "phase": step["phase"],
                "message": step["message"].as_str().unwrap_or_default(),
            })
        })
        .collect();
    let last_error = last_error(live, findings);
    let detail = json!({
        "name": name,
        "namespace": text("/metadata/namespace"),
        "tenant": label(labels::TENANT),
        "phase": phase(live),
        "healthy": is_healthy(live),
        "generation": live["metadata"]["generation"],
        "observedGeneration": live["status"]["observedGeneration"],
        "deleting": live["metadata"].get("deletionTimestamp").is_some(),
        "latestRevision": text("/status/latestRevision/name"),
        "services": services,
        "workflow": { "status": text("/status/workflow/status"), "message": text("/status/workflow/message"), "steps": steps },
        "lastError": last_error,
    });
    let revision = live["metadata"]["annotations"]
        .get(labels::REVISION)
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());
    let mut conditions: Vec<Condition> = items(live, "/status/conditions").map(condition).collect();
    let truth = if is_healthy(live) { "True" } else { "False" };
    conditions.push(Condition {
        r#type: "Healthy".to_owned(),
        status: truth.to_owned(),
        reason: if phase(live).is_empty() { "Pending".to_owned() } else { upper_first(phase(live)) },
        message: last_error.unwrap_or_default(),
        observed_generation: live["status"]["observedGeneration"].as_i64().unwrap_or_default(),
        ..Condition::default()
    });
    Some(ObjectStatus {
        key: ObjectKey::Application { tenant_id, name }.to_string(),
        revision: revision.unwrap_or_default(),
        absent: false,
        conditions,
        detail: detail.to_string(),
    })
}

fn condition(value: &Value) -> Condition {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    Condition {
        r#type: text("type"),
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
        last_transition_time: text("lastTransitionTime"),
        observed_generation: value["observedGeneration"].as_i64().unwrap_or_default(),
    }
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
    let replicas = || findings.replica_failures.first().map(|(name, words)| format!("Deployment {name}: {words}"));
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

    const ORIGIN: Origin<'static> =
        Origin { tenant: "acme", tenant_id: "id", name: "shop", revision: 7, command_id: "cmd" };

    #[test]
    fn a_document_decides_neither_its_place_nor_its_identity() {
        let document = r#"{"metadata":{"name":"evil","namespace":"kube-system","labels":{"team":"a","kubenova.io/tenant":"other"},
            "annotations":{"app.oam.dev/username":"system:admin","note":"b"}},"spec":{"components":[]}}"#;
        let built = build(document, ORIGIN).unwrap();
        assert_eq!(built["metadata"]["name"], "shop");
        assert_eq!(built["metadata"]["namespace"], "acme-apps");
        assert_eq!(built["metadata"]["labels"]["team"], "a");
        assert_eq!(built["metadata"]["labels"][labels::TENANT], "acme");
        assert!(built["metadata"]["annotations"].get("app.oam.dev/username").is_none());
        assert_eq!(built["metadata"]["annotations"][labels::REVISION], "7");
        assert!(build(r#"{"kind":"Pod","spec":{}}"#, ORIGIN).is_err());
        assert!(build("{}", ORIGIN).is_err());
    }

    #[test]
    fn only_running_at_the_present_generation_succeeds() {
        let live = |phase: &str, observed: i64| json!({"metadata":{"generation":2},"status":{"status":phase,"observedGeneration":observed}});
        assert_eq!(progress(&live("running", 2), &Findings::default()).state, State::Succeeded);
        assert_eq!(progress(&live("running", 1), &Findings::default()).state, State::Running);
        assert_eq!(progress(&live("workflowFailed", 2), &Findings::default()).state, State::Failed);
        assert_eq!(progress(&json!({"metadata":{"generation":1}}), &Findings::default()).state, State::Running);
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
