//! What the runner reports to the API server about a pod.
//!
//! Guarantees: a strategic merge patch of the pod's status (a JSON merge would replace conditions
//! of others), with what controllers read (podIP, Ready) and what kubectl shows (phase, restarts,
//! reasons).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::supervisor::{Ended, Phase, State};

/// The status patch of a pod whose containers are in these states.
pub(crate) fn patch(pod: &Pod, address: &str, started: Timestamp, now: Timestamp, states: &[State]) -> Value {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ready = !states.is_empty() && states.iter().all(|state| state.ready);
    let why = states.iter().find_map(|state| state.message.clone());
    json!({"status": {
        "phase": phase(states),
        "startTime": started.to_string(),
        "hostIP": address.rsplit_once('.').map(|(network, _)| format!("{network}.2")),
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            condition(pod, "PodScheduled", true, None, now),
            condition(pod, "Initialized", true, None, now),
            condition(pod, "ContainersReady", ready, why.as_deref(), now),
            condition(pod, "Ready", ready, why.as_deref(), now),
        ],
        "containerStatuses": containers
            .iter()
            .zip(states)
            .map(|(container, state)| container_status(container, state))
            .collect::<Vec<_>>(),
    }})
}

/// The status patch of a pod that ran to its end in no time: a Job of an image that no program here plays.
pub(crate) fn succeeded(now: Timestamp) -> Value {
    json!({"status": {
        "phase": "Succeeded",
        "startTime": now.to_string(),
        "message": "the image is unknown here; the job counts as done",
    }})
}

/// The status patch of a pod that cannot start yet.
pub(crate) fn pending(pod: &Pod, reason: &str, message: &str) -> Value {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    json!({"status": {
        "phase": "Pending",
        "containerStatuses": containers
            .iter()
            .map(|container| json!({
                "name": container.name,
                "image": container.image,
                "imageID": "",
                "ready": false,
                "started": false,
                "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}},
            }))
            .collect::<Vec<_>>(),
    }})
}

fn phase(states: &[State]) -> &'static str {
    let ended = |code_is_fine: fn(i32) -> bool| {
        !states.is_empty()
            && states.iter().all(|state| matches!(&state.phase, Phase::Terminated(ended) if code_is_fine(ended.code)))
    };
    if ended(|code| code == 0) {
        "Succeeded"
    } else if ended(|_| true) {
        "Failed"
    } else if states
        .iter()
        .all(|state| state.restarts == 0 && matches!(state.phase, Phase::Waiting("ContainerCreating")))
    {
        "Pending"
    } else {
        "Running"
    }
}

/// A condition; its transition time stays while its status does.
fn condition(pod: &Pod, kind: &str, holds: bool, why: Option<&str>, now: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == kind && condition.status == status)
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0);
    json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": before.unwrap_or(now).to_string(),
        "reason": (!holds).then_some("ContainersNotReady"),
        "message": why.filter(|_| !holds),
    })
}

fn container_status(container: &Container, state: &State) -> Value {
    let current = match &state.phase {
        Phase::Waiting(reason) => json!({
            "waiting": {"reason": reason, "message": state.message},
            "running": null,
            "terminated": null,
        }),
        Phase::Running { since, .. } => {
            json!({"running": {"startedAt": since.to_string()}, "waiting": null, "terminated": null})
        }
        Phase::Terminated(ended) => {
            json!({"terminated": terminated(ended), "waiting": null, "running": null})
        }
    };
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": state.ready,
        "started": matches!(state.phase, Phase::Running { .. }),
        "restartCount": state.restarts,
        "state": current,
        "lastState": state.last.as_ref().map(|ended| json!({"terminated": terminated(ended)})),
    })
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.code,
        "signal": ended.signal,
        "reason": if ended.code == 0 { "Completed" } else { "Error" },
        "startedAt": ended.since.to_string(),
        "finishedAt": ended.at.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_stands() {
        let now = time("2026-02-02T00:00:00Z");
        let same = condition(&pod(), "Ready", false, Some("why"), now);
        assert_eq!(same["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(same["message"], "why");
        let other = condition(&pod(), "Ready", true, Some("why"), now);
        assert_eq!(other["lastTransitionTime"], "2026-02-02T00:00:00Z");
        assert_eq!(other["message"], Value::Null);
    }

    #[test]
    fn a_restart_shows_as_not_ready_and_counted() {
        let now = time("2026-02-02T00:00:00Z");
        let ended = Ended { code: 137, signal: Some(9), at: now, since: now };
        let state = State { restarts: 1, last: Some(ended), ..State::waiting("CrashLoopBackOff", None) };
        let patch = patch(&pod(), "10.77.1.11", now, now, &[state]);
        let status = &patch["status"];
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
        assert_eq!(status["containerStatuses"][0]["ready"], false);
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
        assert_eq!(status["hostIP"], "10.77.1.2");
    }
}
