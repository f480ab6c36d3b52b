//! Why a workload of an application does not run, as the cluster says it: KubeVela shows none of this.

use super::made::Workload;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{ContainerStatus, Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::fmt;

/// Reason of the events about pods that could not be made, such as those beyond a quota.
pub const FAILED_CREATE: &str = "FailedCreate";
/// What a container waits for while nothing is wrong.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What keeps an object from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: &'static str,
    pub name: String,
    /// CamelCase, of Kubernetes.
    pub reason: String,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, reason, message } = self;
        match message.as_str() {
            "" => write!(f, "{kind} {name}: {reason}"),
            message => write!(f, "{kind} {name}: {message}"),
        }
    }
}

/// How a workload does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// As many pods are ready as it asks for, or it has ended well.
    Fine,
    /// It says itself what is wrong.
    Failed(Failure),
    /// It lacks pods; an event says why they cannot be made.
    LacksPods(Lacking),
    /// Its pods say why they are not ready.
    NotReady(Lacking),
}

/// A workload that is not ready, and how its events and pods are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    pub kind: &'static str,
    pub name: String,
    pub uid: String,
    /// Label selector of its pods.
    pub selector: String,
}

impl Lacking {
    fn of(kind: &'static str, metadata: &ObjectMeta, selector: Option<&LabelSelector>) -> Self {
        let name = metadata.name.clone().unwrap_or_default();
        Self {
            kind,
            name,
            uid: metadata.uid.clone().unwrap_or_default(),
            selector: selector.map(text).unwrap_or_default(),
        }
    }

    /// What its pods say, if one of these is its own. Applications may have selectors that also match pods of others.
    #[must_use]
    pub fn failing_pod(&self, pods: &[Pod]) -> Option<Failure> {
        let own = Workload { kind: self.kind, name: &self.name };
        pods.iter().filter(|pod| Workload::of(&pod.metadata) == Some(own)).find_map(of_pod)
    }

    /// What an event says about it.
    #[must_use]
    pub fn failure(&self, event: &Event) -> Failure {
        Failure {
            kind: self.kind,
            name: self.name.clone(),
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
        }
    }
}

/// Of the simple part of a selector; the definitions and most documents use no other.
fn text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

fn failed(kind: &'static str, metadata: &ObjectMeta, reason: Option<&String>, message: Option<&String>) -> Health {
    let name = metadata.name.clone().unwrap_or_default();
    let (reason, message) = (reason.cloned().unwrap_or_default(), message.cloned().unwrap_or_default());
    Health::Failed(Failure { kind, name, reason, message })
}

/// When an event was last seen.
#[must_use]
pub fn time_of(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let seen = [event.last_timestamp.as_ref().map(|time| time.0), event.event_time.as_ref().map(|time| time.0), series];
    seen.into_iter().flatten().max()
}

/// A kind of workload, whose status says how it does.
pub trait HasHealth {
    fn health(&self) -> Health;
}

impl HasHealth for Deployment {
    fn health(&self) -> Health {
        let status = self.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.iter().flatten();
        if let Some(found) = conditions
            .find(|found| found.type_.as_deref() == Some("ReplicaFailure") && found.status.as_deref() == Some("True"))
        {
            return failed("Deployment", &self.metadata, found.reason.as_ref(), found.message.as_ref());
        }
        let wanted = self.spec.replicas.unwrap_or(1);
        let ready = status.updated_replicas.unwrap_or_default().min(status.available_replicas.unwrap_or_default());
        if ready >= wanted {
            Health::Fine
        } else {
            Health::NotReady(Lacking::of("Deployment", &self.metadata, Some(&self.spec.selector)))
        }
    }
}

impl HasHealth for StatefulSet {
    fn health(&self) -> Health {
        let status = self.status.clone().unwrap_or_default();
        let wanted = self.spec.replicas.unwrap_or(1);
        let lacking = || Lacking::of("StatefulSet", &self.metadata, Some(&self.spec.selector));
        let ready = status.ready_replicas.unwrap_or_default();
        match status.replicas {
            _ if ready >= wanted => Health::Fine,
            // It makes one pod after the other, each when the one before is ready.
            made if made <= ready => Health::LacksPods(lacking()),
            _ => Health::NotReady(lacking()),
        }
    }
}

impl HasHealth for DaemonSet {
    fn health(&self) -> Health {
        let status = self.status.clone().unwrap_or_default();
        let lacking = || Lacking::of("DaemonSet", &self.metadata, Some(&self.spec.selector));
        if status.number_ready >= status.desired_number_scheduled {
            Health::Fine
        } else if status.current_number_scheduled < status.desired_number_scheduled {
            Health::LacksPods(lacking())
        } else {
            Health::NotReady(lacking())
        }
    }
}

impl HasHealth for Job {
    fn health(&self) -> Health {
        let status = self.status.clone().unwrap_or_default();
        let holds = |kind: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|found| found.type_ == kind && found.status == "True").cloned()
        };
        if let Some(found) = holds("Failed").or_else(|| holds("FailureTarget")) {
            return failed("Job", &self.metadata, found.reason.as_ref(), found.message.as_ref());
        }
        let spec = self.spec.as_ref();
        let lacking = || Lacking::of("Job", &self.metadata, spec.and_then(|spec| spec.selector.as_ref()));
        let (active, ready) = (status.active.unwrap_or_default(), status.ready.unwrap_or_default());
        if holds("Complete").is_some() || spec.is_some_and(|spec| spec.suspend == Some(true)) {
            Health::Fine
        } else if active == 0 {
            Health::LacksPods(lacking())
        } else if ready < active {
            Health::NotReady(lacking())
        } else {
            Health::Fine
        }
    }
}

/// Why a pod is not ready; none when nothing is wrong, or nothing yet.
fn of_pod(pod: &Pod) -> Option<Failure> {
    let status = pod.status.as_ref()?;
    let name = || pod.metadata.name.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|found| found.type_ == "PodScheduled" && found.status == "False");
    if let Some(found) = unscheduled {
        let (reason, message) = (found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default());
        return Some(Failure { kind: "Pod", name: name(), reason, message });
    }
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let (reason, message) = containers.into_iter().flatten().flatten().find_map(of_container)?;
    Some(Failure { kind: "Pod", name: name(), reason, message })
}

/// Reason and message of a container that waits because something went wrong.
fn of_container(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| !STARTING.contains(&reason.as_str()))?;
    let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = ended.map(|ended| format!("it ended with exit code {}", ended.exit_code));
    let words: Vec<String> =
        [waiting.message.clone().filter(|words| !words.is_empty()), ended].into_iter().flatten().collect();
    let mut message = format!("container {}: {reason}", container.name);
    if !words.is_empty() {
        message = format!("{message}: {}", words.join("; "));
    }
    Some((reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn health<K: HasHealth + DeserializeOwned>(spec: &Value, status: &Value) -> Health {
        let object = json!({"metadata": {"name": "a", "uid": "u"}, "spec": spec, "status": status});
        serde_json::from_value::<K>(object).unwrap().health()
    }

    fn spec(replicas: i32) -> Value {
        json!({"replicas": replicas, "serviceName": "", "selector": {"matchLabels": {"app": "a", "tier": "b"}}, "template": {}})
    }

    #[test]
    fn a_deployment_says_itself_why_it_has_no_pods() {
        let failed = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": "exceeded quota"}]});
        let Health::Failed(failure) = health::<Deployment>(&spec(2), &failed) else { panic!("not failed") };
        assert_eq!(
            (failure.reason.as_str(), failure.to_string().as_str()),
            ("FailedCreate", "Deployment a: exceeded quota")
        );
        let available = |count: i32| json!({"updatedReplicas": 2, "availableReplicas": count});
        assert_eq!(health::<Deployment>(&spec(2), &available(2)), Health::Fine);
        let Health::NotReady(lacking) = health::<Deployment>(&spec(2), &available(1)) else { panic!("ready") };
        assert_eq!((lacking.uid.as_str(), lacking.selector.as_str()), ("u", "app=a,tier=b"));
        let old = json!({"updatedReplicas": 1, "availableReplicas": 2});
        assert!(matches!(health::<Deployment>(&spec(2), &old), Health::NotReady(_)), "pods of the version before");
    }

    #[test]
    fn what_makes_no_pods_has_events_and_what_has_pods_is_asked_for_them() {
        let set =
            |made: i32, ready: i32| health::<StatefulSet>(&spec(2), &json!({"replicas": made, "readyReplicas": ready}));
        assert!(matches!(set(0, 0), Health::LacksPods(_)) && matches!(set(1, 1), Health::LacksPods(_)));
        assert!(matches!(set(1, 0), Health::NotReady(_)) && set(2, 2) == Health::Fine);
        let daemons = |made: i32, ready: i32| {
            let status = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": made, "numberReady": ready,
                "numberMisscheduled": 0});
            health::<DaemonSet>(&spec(0), &status)
        };
        assert!(matches!(daemons(1, 1), Health::LacksPods(_)) && matches!(daemons(2, 1), Health::NotReady(_)));
        assert_eq!(daemons(2, 2), Health::Fine);
    }

    #[test]
    fn a_job_fails_or_lacks_pods_or_waits_for_them() {
        let job = |status: Value| health::<Job>(&json!({"template": {}}), &status);
        let condition =
            |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "reason": "BackoffLimitExceeded"}]});
        let Health::Failed(failure) = job(condition("Failed")) else { panic!("not failed") };
        assert_eq!(failure.to_string(), "Job a: BackoffLimitExceeded");
        assert_eq!(job(condition("Complete")), Health::Fine);
        assert!(matches!(job(json!({})), Health::LacksPods(_)));
        assert!(matches!(job(json!({"active": 2, "ready": 1})), Health::NotReady(_)));
        assert_eq!(job(json!({"active": 2, "ready": 2})), Health::Fine, "it runs");
    }

    #[test]
    fn a_pod_says_what_its_containers_wait_for() {
        let pod = |status: Value| {
            let pod = json!({"metadata": {"name": "a-0"}, "status": status});
            of_pod(&serde_json::from_value(pod).unwrap()).map(|failure| (failure.reason.clone(), failure.to_string()))
        };
        let waiting = |reason: &str, message: &str, last: Value| {
            pod(
                json!({"containerStatuses": [{"name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]}),
            )
        };
        let said = |reason: &str, text: &str| Some((reason.to_owned(), text.to_owned()));
        assert_eq!(waiting("ContainerCreating", "", json!({})), None);
        assert_eq!(
            waiting("ImagePullBackOff", "Back-off pulling image", json!({})),
            said("ImagePullBackOff", "Pod a-0: container web: ImagePullBackOff: Back-off pulling image")
        );
        assert_eq!(
            waiting("CrashLoopBackOff", "", json!({"terminated": {"exitCode": 3}})),
            said("CrashLoopBackOff", "Pod a-0: container web: CrashLoopBackOff: it ended with exit code 3")
        );
        assert_eq!(
            pod(json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/1 nodes are available"}]})),
            said("Unschedulable", "Pod a-0: 0/1 nodes are available")
        );
        assert_eq!(pod(json!({"phase": "Running"})), None);
    }

    #[test]
    fn only_its_own_pods_are_asked() {
        let pod = |name: &str, set: &str| {
            let pod = json!({
                "metadata": {"name": name, "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": set, "uid": "u", "controller": true}]},
                "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            });
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let name = Some("db".to_owned());
        let lacking = Lacking::of("StatefulSet", &ObjectMeta { name, ..ObjectMeta::default() }, None);
        let found = lacking.failing_pod(&[pod("other-0", "other"), pod("db-0", "db")]).map(|failure| failure.name);
        assert_eq!(found.as_deref(), Some("db-0"));
        assert_eq!(lacking.failing_pod(&[pod("other-0", "other")]), None);
    }

    #[test]
    fn an_event_names_what_it_is_about() {
        let lacking =
            Lacking::of("StatefulSet", &ObjectMeta { name: Some("db".into()), ..ObjectMeta::default() }, None);
        let event =
            Event { reason: Some(FAILED_CREATE.into()), message: Some("exceeded quota".into()), ..Event::default() };
        assert_eq!(lacking.failure(&event).to_string(), "StatefulSet db: exceeded quota");
    }
}
