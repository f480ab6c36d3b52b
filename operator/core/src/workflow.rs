//! Operations on the workflow of an application: what each finds before it begins, whether its effect is still due, and what it writes.
//!
//! KubeVela keeps a run of the workflow in the Application's status and goes on from what it reads there, so an operation is a change of
//! that status at the version that was read, the same that `vela workflow` makes. What an operation finds is written into its record
//! before its effect; after a crash the effect is due while the run looks as it did then, and has happened, or cannot happen any more,
//! once it does not.

use crate::outcome::CommandProgress;
use jiff::{SignedDuration, Timestamp};
use kubenova_schema::{kinds::CommandKind, mutant};
use serde_json::Value;

/// What is done with a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Begin it once more.
    Restart,
    /// Hold it where it is.
    Suspend,
    /// Go on from where it is held.
    Resume,
    /// End it, without another attempt.
    Terminate,
}

impl Operation {
    /// Of a command's kind; none when it is no operation on a workflow.
    #[must_use]
    pub const fn of(kind: CommandKind) -> Option<Self> {
        match kind {
            CommandKind::RestartWorkflow => Some(Self::Restart),
            CommandKind::SuspendWorkflow => Some(Self::Suspend),
            CommandKind::ResumeWorkflow => Some(Self::Resume),
            CommandKind::TerminateWorkflow => Some(Self::Terminate),
            _ => None,
        }
    }
}

/// A workflow is restarted only when its present run has begun so long ago: KubeVela dates a run by the second, and the next one
/// must have another date to be distinguished.
const RUN_AGE_MIN: SignedDuration = SignedDuration::from_secs(2);

/// What stands between the date of a run and the steps that hold it, in what an operation found.
const STEPS: char = '/';

/// A run, as the status of an Application has it.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    started_at: &'a str,
    workflow: &'a Value,
}

impl<'a> Run<'a> {
    /// None before KubeVela has begun one.
    fn of(application: &'a Value) -> Option<Self> {
        let workflow = application.pointer("/status/workflow")?;
        Some(Self { started_at: workflow["startTime"].as_str()?, workflow })
    }

    fn is_suspended(self) -> bool {
        self.workflow["suspend"] == true
    }

    fn has_ended(self) -> bool {
        self.workflow["terminated"] == true || self.workflow["finished"] == true
    }

    /// The steps that hold it, by id.
    fn held_by(self) -> Vec<&'a str> {
        let mut ids = Vec::new();
        for step in steps(self.workflow) {
            let sub_steps = step["subSteps"].as_array().into_iter().flatten();
            let held = std::iter::once(step).chain(sub_steps).filter(|step| step["phase"] == SUSPENDING);
            ids.extend(held.filter_map(|step| step["id"].as_str()));
        }
        ids
    }
}

fn steps(workflow: &Value) -> impl Iterator<Item = &Value> {
    workflow["steps"].as_array().into_iter().flatten()
}

/// What an operation finds before it begins, to be written into its record.
///
/// # Errors
/// With what it waits for, or why there is nothing to do for it.
pub fn find(operation: Operation, application: &Value, now: Timestamp) -> Result<String, CommandProgress> {
    let waits = |message: &str| CommandProgress::running("WaitingForWorkflow", message);
    let Some(run) = Run::of(application) else {
        return Err(waits("waiting until KubeVela has begun the application's workflow"));
    };
    let started_at = run.started_at.to_owned();
    match operation {
        Operation::Restart => {
            let is_young = started_at.parse::<Timestamp>().is_ok_and(|at| now.duration_since(at) < RUN_AGE_MIN);
            if is_young {
                Err(waits("waiting until the present run of the workflow is two seconds old"))
            } else {
                Ok(started_at)
            }
        }
        _ if run.has_ended() => {
            Err(CommandProgress::failed("WorkflowEnded", "the workflow has ended; restart it to run it once more"))
        }
        Operation::Suspend if run.is_suspended() => {
            Err(CommandProgress::failed("AlreadySuspended", "the workflow is suspended already"))
        }
        Operation::Resume if !run.is_suspended() => {
            Err(CommandProgress::failed("NotSuspended", "the workflow is not suspended: there is nothing to resume"))
        }
        Operation::Resume => Ok(format!("{started_at}{STEPS}{}", run.held_by().join(","))),
        Operation::Suspend | Operation::Terminate => Ok(started_at),
    }
}

/// Where an operation that has begun is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// What it found is still there.
    Due,
    /// It is gone, and KubeVela has not taken it up.
    Pending,
    /// It has happened, or cannot happen any more.
    Over(CommandProgress),
}

/// Compares what an operation found with what is there. Once its change was written, what is there later may be another's.
#[must_use]
pub fn effect(operation: Operation, found: &str, is_written: bool, application: &Value) -> Effect {
    let run = Run::of(application);
    let found_run = found.split(STEPS).next().unwrap_or_default();
    let same_run = run.filter(|run| run.started_at == found_run);
    let done = |reason: &str, message: &str| Effect::Over(CommandProgress::succeeded(reason, message).at("ready"));
    let failed = |reason: &str, message: &str| Effect::Over(CommandProgress::failed(reason, message));
    let replaced = || {
        failed(
            "RunReplaced",
            "the application was changed and its workflow begun again before the operation took effect; request it again",
        )
    };
    match (operation, run, same_run) {
        (Operation::Restart, None, _) => Effect::Pending,
        (Operation::Restart, Some(_), None) => done("Restarted", "KubeVela has begun the workflow again"),
        (Operation::Restart, Some(_), Some(_)) => Effect::Due,
        (Operation::Resume, _, Some(run)) if is_held_as_found(run, found) => Effect::Due,
        (Operation::Resume, _, _) if is_written => done("Resumed", "the workflow goes on"),
        (_, _, None) => replaced(),
        (Operation::Resume, _, Some(run)) if run.is_suspended() => failed(
            "RunReplaced",
            "another step suspends the workflow by now than when the operation began; to go on from there, request it again",
        ),
        (Operation::Resume, _, Some(run)) if run.workflow["terminated"] == true => {
            failed("WorkflowEnded", "the workflow ended before it was resumed")
        }
        (Operation::Resume, _, Some(_)) => done("Resumed", "the workflow goes on"),
        (Operation::Suspend, _, Some(run)) if run.has_ended() => {
            failed("WorkflowEnded", "the workflow ended before it was held")
        }
        (Operation::Suspend, _, Some(run)) if run.is_suspended() => {
            done("Suspended", "the workflow is held where it is")
        }
        (Operation::Terminate, _, Some(run)) if run.workflow["terminated"] == true => {
            done("Terminated", "the workflow has ended")
        }
        (Operation::Terminate, _, Some(run)) if run.has_ended() => {
            failed("WorkflowEnded", "the workflow ended by itself")
        }
        (Operation::Suspend | Operation::Terminate, _, Some(_)) => Effect::Due,
    }
}

/// The steps that held it then hold it still; others may hold it, too.
fn is_held_as_found(run: Run<'_>, found: &str) -> bool {
    let held_by = run.held_by();
    let steps = found.split_once(STEPS).map_or("", |(_, steps)| steps);
    let holds_still =
        if steps.is_empty() { held_by.is_empty() } else { steps.split(',').all(|step| held_by.contains(&step)) };
    run.is_suspended() && (holds_still || mutant::is_on("workflow.any-suspension"))
}

const RUNNING: &str = "running";
const SUSPENDING: &str = "suspending";
const FAILED: &str = "failed";
/// KubeVela's reason of a step that was ended from outside.
const TERMINATE: &str = "Terminate";
/// Reasons that a failed step keeps when its workflow is ended.
const ENDED_BY_ITSELF: [&str; 2] = ["FailedAfterRetries", "Timeout"];

/// Makes the change in the status of an Application that KubeVela goes on from.
pub fn write(operation: Operation, application: &mut Value) {
    let Some(status) = application.get_mut("status").and_then(Value::as_object_mut) else { return };
    if operation == Operation::Restart {
        status.remove("workflow");
        return;
    }
    let Some(workflow) = status.get_mut("workflow").filter(|workflow| workflow.is_object()) else { return };
    workflow["suspend"] = (operation == Operation::Suspend).into();
    if operation == Operation::Terminate {
        workflow["terminated"] = true.into();
    }
    for step in workflow.get_mut("steps").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_changed = change(operation, step);
        for sub_step in step.get_mut("subSteps").and_then(Value::as_array_mut).into_iter().flatten() {
            // A group is held and let go as a whole.
            if operation == Operation::Terminate || !is_changed {
                change(operation, sub_step);
            } else if !is_finished(sub_step) {
                sub_step["phase"] = phase_of(operation).into();
            }
        }
    }
}

/// Whether the step is one that the operation is about.
fn change(operation: Operation, step: &mut Value) -> bool {
    let phase = step["phase"].as_str().unwrap_or_default();
    let is_concerned = match operation {
        Operation::Suspend => phase == RUNNING,
        Operation::Resume => phase == SUSPENDING,
        Operation::Terminate if phase == FAILED => !ENDED_BY_ITSELF.iter().any(|reason| step["reason"] == *reason),
        Operation::Terminate => phase == RUNNING || phase == SUSPENDING,
        Operation::Restart => false,
    };
    if is_concerned {
        step["phase"] = phase_of(operation).into();
        if operation == Operation::Terminate {
            step["reason"] = TERMINATE.into();
        }
    }
    is_concerned
}

const fn phase_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Suspend => SUSPENDING,
        Operation::Terminate => FAILED,
        Operation::Resume | Operation::Restart => RUNNING,
    }
}

fn is_finished(step: &Value) -> bool {
    match step["phase"].as_str().unwrap_or_default() {
        "succeeded" | "skipped" => true,
        // Any other reason than that of an attempt which is made again.
        FAILED => !matches!(step["reason"].as_str(), None | Some("" | "Execute")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::State;
    use serde_json::json;

    const BEGUN: &str = "1970-01-01T00:01:38Z";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn application(workflow: &Value) -> Value {
        json!({ "status": { "status": "x", "workflow": workflow } })
    }

    fn run(flags: &Value) -> Value {
        let mut workflow = json!({
            "startTime": BEGUN,
            "steps": [
                { "id": "a", "phase": "succeeded" },
                { "id": "b", "phase": "running", "subSteps": [
                    { "id": "b1", "phase": "succeeded" }, { "id": "b2", "phase": "running" }, { "id": "b3", "phase": "pending" },
                    { "id": "b4", "phase": "failed", "reason": "Execute" } ] },
                { "id": "c", "phase": "pending" },
            ],
        });
        for (name, value) in flags.as_object().unwrap() {
            workflow[name] = value.clone();
        }
        application(&workflow)
    }

    const ALL: [Operation; 4] = [Operation::Restart, Operation::Suspend, Operation::Resume, Operation::Terminate];

    fn reason(operation: Operation, application: &Value) -> String {
        match find(operation, application, at(100)) {
            Ok(found) => found,
            Err(progress) => format!("{} {}", progress.state.as_str(), progress.reason),
        }
    }

    #[test]
    fn what_cannot_be_done_ends_and_what_has_not_begun_is_waited_for() {
        for operation in ALL {
            assert_eq!(reason(operation, &json!({})), "running WaitingForWorkflow");
        }
        let ended = [json!({ "finished": true }), json!({ "terminated": true })];
        for ended in ended.iter().map(run) {
            assert_eq!(reason(Operation::Restart, &ended), BEGUN);
            for operation in [Operation::Suspend, Operation::Resume, Operation::Terminate] {
                assert_eq!(reason(operation, &ended), "failed WorkflowEnded");
            }
        }
        assert_eq!(reason(Operation::Resume, &run(&json!({}))), "failed NotSuspended");
        assert_eq!(reason(Operation::Suspend, &run(&json!({ "suspend": true }))), "failed AlreadySuspended");
    }

    #[test]
    fn a_restart_waits_for_a_run_that_the_next_one_can_be_told_from() {
        let found = |second| find(Operation::Restart, &run(&json!({})), at(second)).map_err(|progress| progress.state);
        assert_eq!(found(99), Err(State::Running));
        assert_eq!(found(100).as_deref(), Ok(BEGUN));
    }

    /// A crash may fall before the effect or after it.
    #[test]
    fn every_operation_is_due_before_its_effect_and_over_after_it() {
        for (operation, flags, after) in [
            (Operation::Suspend, json!({}), "Suspended"),
            (Operation::Resume, json!({ "suspend": true }), "Resumed"),
            (Operation::Terminate, json!({}), "Terminated"),
            (Operation::Terminate, json!({ "suspend": true }), "Terminated"),
        ] {
            let mut application = run(&flags);
            let found = find(operation, &application, at(100)).unwrap();
            assert_eq!(effect(operation, &found, false, &application), Effect::Due, "{operation:?}");
            write(operation, &mut application);
            let Effect::Over(progress) = effect(operation, &found, false, &application) else {
                panic!("{operation:?} is due again")
            };
            assert_eq!((progress.state, progress.reason.as_str()), (State::Succeeded, after));
        }
        let mut application = run(&json!({}));
        let found = find(Operation::Restart, &application, at(100)).unwrap();
        assert_eq!(effect(Operation::Restart, &found, false, &application), Effect::Due);
        write(Operation::Restart, &mut application);
        assert_eq!(application, json!({ "status": { "status": "x" } }));
        assert_eq!(effect(Operation::Restart, &found, false, &application), Effect::Pending);
        let next = application_of("1970-01-01T00:02:00Z");
        assert!(
            matches!(effect(Operation::Restart, &found, true, &next), Effect::Over(progress) if progress.state == State::Succeeded)
        );
    }

    fn application_of(started_at: &str) -> Value {
        application(&json!({ "startTime": started_at }))
    }

    #[test]
    fn a_run_that_another_has_replaced_is_left_alone() {
        let next = application_of("1970-01-01T00:02:00Z");
        for operation in [Operation::Suspend, Operation::Terminate] {
            for application in [&next, &json!({})] {
                let Effect::Over(progress) = effect(operation, BEGUN, false, application) else {
                    panic!("{operation:?} is due")
                };
                assert_eq!((progress.state, progress.reason.as_str()), (State::Failed, "RunReplaced"));
            }
        }
    }

    /// A workflow that these of its steps hold; their ids.
    fn held_by(steps: &[&str]) -> Value {
        let step =
            |id: &&str| json!({ "id": id, "phase": if steps.contains(id) { "suspending" } else { "succeeded" } });
        let steps: Vec<Value> = ["b", "c", "d"].iter().map(step).collect();
        application(&json!({ "startTime": BEGUN, "suspend": true, "steps": steps }))
    }

    fn reason_of(effect: Effect) -> String {
        match effect {
            Effect::Due => "due".to_owned(),
            Effect::Pending => "pending".to_owned(),
            Effect::Over(progress) => format!("{} {}", progress.state.as_str(), progress.reason),
        }
    }

    #[test]
    fn a_resume_lets_go_the_suspension_that_it_found_and_no_later_one() {
        let found = find(Operation::Resume, &held_by(&["b"]), at(100)).unwrap();
        let of = |is_written: bool, application: &Value| {
            reason_of(effect(Operation::Resume, &found, is_written, application))
        };
        for (steps, before_writing, after) in [
            (&["b"][..], "due", "due"),
            (&["b", "c"][..], "due", "due"),
            (&["c"][..], "failed RunReplaced", "succeeded Resumed"),
            (&[][..], "failed RunReplaced", "succeeded Resumed"),
        ] {
            assert_eq!(of(false, &held_by(steps)), before_writing, "{steps:?}");
            assert_eq!(of(true, &held_by(steps)), after, "{steps:?}");
        }
        let mut application = held_by(&["b"]);
        write(Operation::Resume, &mut application);
        assert_eq!(application["status"]["workflow"]["steps"][0]["phase"], "running");
        assert_eq!(of(false, &application), "succeeded Resumed");
        let next = application_of("1970-01-01T00:02:00Z");
        assert_eq!([of(false, &next), of(true, &next)], ["failed RunReplaced", "succeeded Resumed"]);
        let ended = run(&json!({ "terminated": true }));
        assert_eq!([of(false, &ended), of(true, &ended)], ["failed WorkflowEnded", "succeeded Resumed"]);
    }

    #[test]
    fn who_finds_the_run_replaced_is_asked_to_request_it_again() {
        let found = find(Operation::Resume, &held_by(&["b"]), at(100)).unwrap();
        for application in [held_by(&["c"]), application_of("1970-01-01T00:02:00Z")] {
            let Effect::Over(progress) = effect(Operation::Resume, &found, false, &application) else {
                panic!("it is due")
            };
            assert!(progress.message.ends_with("request it again"), "{}", progress.message);
        }
    }

    #[test]
    fn steps_are_changed_as_kubevela_does() {
        let phases = |application: &Value| {
            let steps = &application["status"]["workflow"]["steps"];
            let sub_steps = steps[1]["subSteps"].as_array().unwrap().iter();
            let phases = steps.as_array().unwrap().iter().chain(sub_steps).map(|step| step["phase"].as_str().unwrap());
            phases.collect::<Vec<_>>().join(" ")
        };
        let mut application = run(&json!({}));
        write(Operation::Suspend, &mut application);
        assert_eq!(phases(&application), "succeeded suspending pending succeeded suspending suspending suspending");
        assert_eq!(application["status"]["workflow"]["suspend"], true);
        write(Operation::Resume, &mut application);
        assert_eq!(phases(&application), "succeeded running pending succeeded running running running");
        assert_eq!(application["status"]["workflow"]["suspend"], false);
        let mut application = run(&json!({ "suspend": true }));
        write(Operation::Terminate, &mut application);
        assert_eq!(phases(&application), "succeeded failed pending succeeded failed pending failed");
        let workflow = &application["status"]["workflow"];
        assert_eq!((&workflow["suspend"], &workflow["terminated"]), (&json!(false), &json!(true)));
        assert_eq!(workflow["steps"][1]["reason"], "Terminate");
    }

    #[test]
    fn a_step_that_failed_for_good_keeps_its_reason() {
        let failed = |reason: &str| {
            let mut application =
                application(&json!({ "startTime": BEGUN, "steps": [{ "phase": "failed", "reason": reason }] }));
            write(Operation::Terminate, &mut application);
            application["status"]["workflow"]["steps"][0]["reason"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            ["Execute", "Timeout", "FailedAfterRetries"].map(failed),
            ["Terminate", "Timeout", "FailedAfterRetries"]
        );
    }
}
