//! What an application made, as it stood before its delete: kept in the delete's record, since nothing else says it afterwards.
//!
//! KubeVela's label finds most of it. It is not on pods and claims of workloads that a document wrote out itself
//! (`k8s-objects`), nor on what a `garbage-collect` policy has KubeVela leave behind.

use crate::outcome::{self, State};
use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::StatefulSet, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kubenova_crds::command::{CommandSpec, CommandStatus};
use kubenova_schema::mutant;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Objects of one application that are remembered. A record may have 900 KB beside them.
const OBJECTS_MAX: usize = 1_000;
/// Labels by which the Job controller finds its pods. They stay when a Job goes without them.
const JOB_NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
/// Label by which a ReplicaSet finds its pods; its value ends the ReplicaSet's name.
const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// What an application made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    pub objects: Vec<MadeObject>,
    /// What its StatefulSets name their claims after.
    pub claim_templates: Vec<ClaimTemplate>,
    /// When the application was found to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Timestamp>,
}

/// An object, as KubeVela's status names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeObject {
    pub kind: String,
    pub name: String,
}

/// A claim template of a StatefulSet: the claims are named `<template>-<stateful set>-<ordinal>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    pub stateful_set: String,
    pub template: String,
}

impl ClaimTemplate {
    /// Those of a StatefulSet.
    pub fn of(set: &StatefulSet) -> Vec<Self> {
        let name = set.metadata.name.clone().unwrap_or_default();
        let templates = set.spec.volume_claim_templates.iter().flatten();
        templates
            .filter_map(|template| template.metadata.name.clone())
            .map(|template| Self { stateful_set: name.clone(), template })
            .collect()
    }

    /// Whether a claim of this name is made from it.
    #[must_use]
    pub fn names(&self, claim: &str) -> bool {
        let ordinal = claim
            .strip_prefix(&self.template)
            .and_then(|rest| rest.strip_prefix('-')?.strip_prefix(&self.stateful_set)?.strip_prefix('-'));
        ordinal.is_some_and(is_number) || mutant::is_on("made.claims") && claim.starts_with(&self.template)
    }
}

impl Made {
    /// What the status of a live Application names, without claims.
    #[must_use]
    pub fn of(live: &Value) -> Self {
        let namespace = &live["metadata"]["namespace"];
        let applied = live.pointer("/status/appliedResources").and_then(Value::as_array);
        let objects =
            applied.into_iter().flatten().filter(|object| object["namespace"] == *namespace).filter_map(|object| {
                Some(MadeObject {
                    kind: object["kind"].as_str()?.to_owned(),
                    name: object["name"].as_str()?.to_owned(),
                })
            });
        Self { objects: objects.take(OBJECTS_MAX).collect(), ..Self::default() }
    }

    /// What a delete may delete: what was remembered for it, and nothing once it has ended. Its record stays, and from then on another
    /// application may make objects of the same names. Of a former delete of the same object, which ended without success, everything is
    /// taken over that was there before it ended: the Application, which says what it made, may be gone since.
    #[must_use]
    pub fn of_delete(spec: &CommandSpec, status: Option<&CommandStatus>) -> Self {
        let Some(status) = status.filter(|_| !outcome::has_ended(spec, status)) else { return Self::default() };
        let made = Self::read(&status.found);
        if status.command_id == spec.command_id {
            return made;
        }
        if status.state == State::Succeeded.as_str() {
            return Self::default();
        }
        let ended_at = Some(&status.at).filter(|_| outcome::is_terminal(&status.state));
        Self { gone_at: made.gone_at.or_else(|| ended_at?.parse().ok()), ..made }
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.claim_templates.is_empty()
    }

    /// Whether an object is older than the end of the application, so that it can be its own.
    #[must_use]
    pub fn is_old_enough(&self, object: &ObjectMeta) -> bool {
        match (self.gone_at, &object.creation_timestamp) {
            (Some(gone_at), Some(created)) => created.0 <= gone_at,
            _ => true,
        }
    }

    /// As it was remembered; nothing when nothing was.
    #[must_use]
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a struct of texts is JSON")
    }

    pub fn stateful_sets(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().filter(|object| object.kind == "StatefulSet").map(|object| object.name.as_str())
    }

    /// Whether a pod is of one of its workloads.
    #[must_use]
    pub fn has_pod(&self, pod: &ObjectMeta) -> bool {
        let Some(workload) = Workload::of(pod) else { return false };
        !mutant::is_on("made.pods")
            && self.objects.iter().any(|object| match (object.kind.as_str(), workload.kind) {
                ("CronJob", "Job") => {
                    let run = workload.name.strip_prefix(&object.name).and_then(|rest| rest.strip_prefix('-'));
                    run.is_some_and(is_number)
                }
                (kind, its) => kind == its && object.name == workload.name,
            })
    }
}

/// What makes a pod, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload<'a> {
    pub kind: &'a str,
    pub name: &'a str,
}

impl<'a> Workload<'a> {
    /// The workload of a pod: its controller, the Deployment of that controller, or the Job that went without it.
    #[must_use]
    pub fn of(pod: &'a ObjectMeta) -> Option<Self> {
        let label = |name: &str| pod.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let Some(owner) = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) else {
            return JOB_NAME_LABELS.into_iter().find_map(label).map(|name| Self { kind: "Job", name });
        };
        let hash = label(TEMPLATE_HASH_LABEL).filter(|_| owner.kind == "ReplicaSet");
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        Some(match deployment {
            Some(name) => Self { kind: "Deployment", name },
            None => Self { kind: &owner.kind, name: &owner.name },
        })
    }
}

/// True when a controller will delete the object, or has made it and may make it again.
#[must_use]
pub fn has_controller(object: &ObjectMeta) -> bool {
    object.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(metadata: Value) -> ObjectMeta {
        serde_json::from_value(metadata).unwrap()
    }

    fn owned(kind: &str, name: &str) -> ObjectMeta {
        pod(json!({"name": "p", "labels": {"pod-template-hash": "7d4f"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}
        ]}))
    }

    fn of(objects: &[(&str, &str)]) -> Made {
        let object = |(kind, name): &(&str, &str)| MadeObject { kind: (*kind).to_owned(), name: (*name).to_owned() };
        Made { objects: objects.iter().map(object).collect(), ..Made::default() }
    }

    #[test]
    fn a_delete_that_has_ended_deletes_nothing_more_of_what_was_remembered() {
        let made = of(&[("StatefulSet", "db")]);
        let spec = CommandSpec { command_id: "a".into(), ..CommandSpec::default() };
        let status = |command_id: &str, state: &str| CommandStatus {
            command_id: command_id.to_owned(),
            state: state.to_owned(),
            found: made.to_text(),
            ..CommandStatus::default()
        };
        assert_eq!(Made::of_delete(&spec, Some(&status("a", "running"))), made);
        for state in ["succeeded", "failed"] {
            assert!(Made::of_delete(&spec, Some(&status("a", state))).is_empty(), "{state}");
        }
        assert!(Made::of_delete(&spec, None).is_empty());
    }

    #[test]
    fn a_repeated_delete_takes_over_what_the_former_one_had_remembered() {
        let mut made = of(&[("StatefulSet", "db")]);
        let repeated = CommandSpec { command_id: "b".into(), ..CommandSpec::default() };
        let taken_over = |made: &Made, state: &str| {
            let status = CommandStatus {
                command_id: "a".to_owned(),
                state: state.to_owned(),
                at: "2026-01-01T00:00:10Z".to_owned(),
                found: made.to_text(),
                ..CommandStatus::default()
            };
            Made::of_delete(&repeated, Some(&status))
        };
        assert!(taken_over(&made, "succeeded").is_empty(), "nothing was left");
        let ended_at = "2026-01-01T00:00:10Z".parse().ok();
        assert_eq!(taken_over(&made, "failed"), Made { gone_at: ended_at, ..made.clone() });
        assert_eq!(taken_over(&made, "running"), made);
        made.gone_at = "2026-01-01T00:00:05Z".parse().ok();
        assert_eq!(taken_over(&made, "failed"), made);
    }

    #[test]
    fn what_was_created_after_the_application_was_gone_is_not_its_own() {
        let created = |at: &str| pod(json!({"name": "db", "creationTimestamp": at}));
        let (before, after) = (created("2026-01-01T00:00:10Z"), created("2026-01-01T00:00:11Z"));
        let mut made = of(&[("StatefulSet", "db")]);
        assert!(made.is_old_enough(&after), "it is there still");
        made.gone_at = Some("2026-01-01T00:00:10.5Z".parse().unwrap());
        assert!(made.is_old_enough(&before) && !made.is_old_enough(&after));
        assert_eq!(Made::read(&made.to_text()), made);
    }

    #[test]
    fn what_kubevela_applied_in_the_namespace_is_remembered() {
        let live = json!({"metadata": {"namespace": "acme-apps"}, "status": {"appliedResources": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "namespace": "acme-apps", "name": "db"},
            {"apiVersion": "v1", "kind": "Service", "namespace": "elsewhere", "name": "db"},
            {"apiVersion": "v1", "kind": "Service"}
        ]}});
        let mut made = Made::of(&live);
        assert_eq!(made, of(&[("StatefulSet", "db")]));
        assert_eq!(made.stateful_sets().collect::<Vec<_>>(), ["db"]);
        let set = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "", "selector": {}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
        made.claim_templates = ClaimTemplate::of(&serde_json::from_value(set).unwrap());
        assert_eq!(Made::read(&made.to_text()), made);
        assert_eq!(Made::read(""), Made::default());
        assert_eq!(Made::of(&json!({})), Made::default());
    }

    #[test]
    fn a_claim_is_named_by_template_set_and_ordinal() {
        let template = ClaimTemplate { stateful_set: "db".into(), template: "data".into() };
        assert!(template.names("data-db-0") && template.names("data-db-12"));
        for other in ["data-db", "data-db-", "data-db-x", "data-db-0-x", "data-dbx-0", "data-x-db-0", "log-db-0"] {
            assert!(!template.names(other), "{other}");
        }
    }

    #[test]
    fn a_pod_is_of_the_workload_that_makes_it() {
        let made = of(&[("Deployment", "web"), ("StatefulSet", "db"), ("Job", "once"), ("CronJob", "daily")]);
        assert!(made.has_pod(&owned("ReplicaSet", "web-7d4f")));
        assert!(made.has_pod(&owned("StatefulSet", "db")) && made.has_pod(&owned("Job", "once")));
        assert!(made.has_pod(&owned("Job", "daily-29384710")));
        for (kind, name) in [
            ("ReplicaSet", "web-2-7d4f"),
            ("ReplicaSet", "web"),
            ("DaemonSet", "db"),
            ("Job", "daily-x"),
            ("Job", "dailies-29384710"),
        ] {
            assert!(!made.has_pod(&owned(kind, name)), "{kind} {name}");
        }
    }

    #[test]
    fn a_pod_that_its_job_left_is_of_that_job() {
        let made = of(&[("Job", "once")]);
        let left = |label: &str| pod(json!({"name": "once-x", "labels": {label: "once"}}));
        for label in JOB_NAME_LABELS {
            assert!(made.has_pod(&left(label)) && !has_controller(&left(label)), "{label}");
        }
        assert!(!made.has_pod(&left("app")));
        assert!(has_controller(&owned("Job", "once")));
    }
}
