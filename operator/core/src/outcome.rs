//! The progress of a command: states, and the rule that the first terminal one wins.
//!
//! The record's status is written before an outcome is published, so that a crash in between only repeats it.

use crate::conditions::ConditionSet;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::ObjectMeta;
use kubenova_crds::{
    command::{CommandHop, CommandSpec, CommandStatus, NovaCommand, condition},
    conditions::ConditionStatus,
};
use kubenova_schema::{
    mutant,
    v1::{Command, Hop, Outcome},
};

/// States the Operator may report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The inbox record is stored.
    Acknowledged,
    /// Being carried out, or waiting for something.
    Running,
    /// This revision is Ready.
    Succeeded,
    /// Refused for good by the cluster, or out of time.
    Failed,
    /// Not stored: the sovereign policy or the fence's divergence check refused it.
    Refused,
    /// An operation that was cancelled before it began.
    Cancelled,
    /// An operation that had not begun when its deadline passed.
    Expired,
    /// Not stored: something newer holds.
    Superseded,
    /// Not stored: this release does not know it.
    Unsupported,
    /// Not stored now: send again later.
    Deferred,
}

impl State {
    /// The text in messages and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Unsupported => "unsupported",
            Self::Deferred => "deferred",
        }
    }
}

/// True for states that end a command.
#[must_use]
pub fn is_terminal(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "refused" | "cancelled" | "expired" | "superseded" | "unsupported")
}

/// True when the record's own command has ended.
#[must_use]
pub fn has_ended(spec: &CommandSpec, status: Option<&CommandStatus>) -> bool {
    status.is_some_and(|status| status.command_id == spec.command_id && is_terminal(&status.state))
}

/// The hop of an operation that has begun.
const STARTED: &str = "started";

/// True when the record's own operation has begun: from then on it can neither expire nor be cancelled.
#[must_use]
pub fn has_started(spec: &CommandSpec, status: Option<&CommandStatus>) -> bool {
    has_ended(spec, status) || has_hop(spec, status, STARTED)
}

/// True when the record's own command has passed this hop.
#[must_use]
pub fn has_hop(spec: &CommandSpec, status: Option<&CommandStatus>, name: &str) -> bool {
    let own = status.filter(|status| status.command_id == spec.command_id);
    own.is_some_and(|status| status.hops.iter().any(|hop| hop.name == name))
}

/// The status of an operation that begins now; none when it has begun or ended before. Written before its effect, with what it
/// found: so a crash in between differs from one before the beginning.
#[must_use]
pub fn begin(
    spec: &CommandSpec,
    present: Option<&CommandStatus>,
    progress: &CommandProgress,
    found: &str,
    at: &str,
) -> Option<CommandStatus> {
    if has_started(spec, present) {
        return None;
    }
    let begun = CommandProgress { hop: Some(STARTED), ..progress.clone() };
    advance(spec, present, &begun, at).map(|status| CommandStatus { found: found.to_owned(), ..status })
}

/// What the record's own operation found when it began, or what the object of its own delete had made; empty without either.
#[must_use]
pub fn found<'a>(spec: &CommandSpec, status: Option<&'a CommandStatus>) -> &'a str {
    status.filter(|status| status.command_id == spec.command_id).map_or("", |status| status.found.as_str())
}

/// What the object of a delete had made, to be written into the delete's record.
#[derive(Debug, Clone, Copy)]
pub struct Remembered<'a> {
    /// As it was read there.
    pub before: &'a str,
    pub made: &'a str,
}

/// The status of a delete with what its object had made; none when something else stands there than was read, or the delete has ended.
/// Written before the object is deleted, since it cannot be asked for afterwards.
#[must_use]
pub fn remember(
    spec: &CommandSpec,
    present: Option<&CommandStatus>,
    progress: &CommandProgress,
    Remembered { before, made }: Remembered<'_>,
    at: &str,
) -> Option<CommandStatus> {
    let own = present.filter(|status| status.command_id == spec.command_id);
    if has_ended(spec, own) || found(spec, own) != before {
        return None;
    }
    let next = advance(spec, own, progress, at).or_else(|| own.cloned());
    next.map(|status| CommandStatus { found: made.to_owned(), ..status })
}

/// What one reconcile of a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandProgress {
    /// The state.
    pub state: State,
    /// CamelCase, for programs.
    pub reason: String,
    /// What happened or is waited for, and what to do about it.
    pub message: String,
    /// A hop that was reached in this reconcile.
    pub hop: Option<&'static str>,
    /// The object as it was read or written, `<uid>/<resourceVersion>`; empty without one.
    pub object: String,
    /// It waits for a person, or for work that takes its time: no deadline counts meanwhile.
    pub waits: bool,
}

impl CommandProgress {
    /// Under way, or waiting for something.
    #[must_use]
    pub fn running(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(State::Running, reason, message)
    }

    /// Waiting for a person, or for work that takes its time.
    #[must_use]
    pub fn waiting(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { waits: true, ..Self::running(reason, message) }
    }

    #[must_use]
    pub fn succeeded(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(State::Succeeded, reason, message)
    }

    /// Failed for good.
    #[must_use]
    pub fn failed(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(State::Failed, reason, message)
    }

    /// Not begun before its deadline.
    #[must_use]
    pub fn expired(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(State::Expired, reason, message)
    }

    fn new(state: State, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { state, reason: reason.into(), message: message.into(), hop: None, object: String::new(), waits: false }
    }

    /// With a hop that was reached.
    #[must_use]
    pub fn at(mut self, hop: &'static str) -> Self {
        self.hop = Some(hop);
        self
    }

    /// About this object: the hop names it in the state in which it was read or written.
    #[must_use]
    pub fn about(mut self, object: &ObjectMeta) -> Self {
        if let (Some(uid), Some(version)) = (&object.uid, &object.resource_version) {
            self.object = format!("{uid}/{version}");
        }
        self
    }
}

/// The record's status after a reconcile, or none when nothing changes: the same again, the command has already ended, or an operation
/// that has begun would expire. (Whoever found it too late to begin had not seen that another Operator began it.)
#[must_use]
pub fn advance(
    spec: &CommandSpec,
    present: Option<&CommandStatus>,
    progress: &CommandProgress,
    at: &str,
) -> Option<CommandStatus> {
    if has_ended(spec, present) && !mutant::is_on("outcome.last-state") {
        return None;
    }
    let expires = progress.state == State::Expired && !mutant::is_on("outcome.begun-expires");
    if expires && has_started(spec, present) {
        return None;
    }
    let present = present.filter(|status| status.command_id == spec.command_id);
    let state = progress.state.as_str();
    let mut hops = present.map_or_else(|| vec![hop("stored", &spec.stored_at, "")], |status| status.hops.clone());
    let found = present.map(|status| status.found.clone()).unwrap_or_default();
    let deadline_from = match present {
        Some(status) if status.waits && !progress.waits => at.to_owned(),
        Some(status) => status.deadline_from.clone(),
        None => String::new(),
    };
    let new_hop = progress.hop.filter(|name| !hops.iter().any(|hop| hop.name == *name));
    let same = present.is_some_and(|status| {
        status.state == state
            && status.reason == progress.reason
            && status.message == progress.message
            && status.waits == progress.waits
    });
    if same && new_hop.is_none() && !mutant::is_on("outcome.repeated") {
        return None;
    }
    if let Some(name) = new_hop {
        hops.push(hop(name, at, &progress.object));
    }
    Some(CommandStatus {
        conditions: conditions(present, progress, at),
        command_id: spec.command_id.clone(),
        state: state.to_owned(),
        reason: progress.reason.clone(),
        message: progress.message.clone(),
        at: at.to_owned(),
        hops,
        found,
        waits: progress.waits,
        deadline_from,
    })
}

/// The same as conditions: what `kubectl wait` can wait for.
fn conditions(present: Option<&CommandStatus>, progress: &CommandProgress, at: &str) -> Vec<Condition> {
    let is_complete = is_terminal(progress.state.as_str());
    let succeeded = match (is_complete, progress.state) {
        (_, State::Succeeded) => ConditionStatus::True,
        (true, _) => ConditionStatus::False,
        (false, _) => ConditionStatus::Unknown,
    };
    let complete = if is_complete { ConditionStatus::True } else { ConditionStatus::False };
    let mut found = ConditionSet::new();
    found.set(condition::COMPLETE, complete, &progress.reason, &progress.message);
    found.set(condition::SUCCEEDED, succeeded, &progress.reason, &progress.message);
    let mut conditions = present.map(|status| status.conditions.clone()).unwrap_or_default();
    let _merged = found.merge_into(&mut conditions, None, at.parse().unwrap_or_default());
    conditions
}

/// Since when the deadline of a record's command counts; none while it does not. An operation may be stored long before it begins.
#[must_use]
pub fn deadline_from(spec: &CommandSpec, present: Option<&CommandStatus>) -> Option<Timestamp> {
    let own = present.filter(|status| status.command_id == spec.command_id);
    let started = own.and_then(|status| status.hops.iter().find(|hop| hop.name == STARTED));
    match (own, started) {
        (Some(status), _) if status.waits => None,
        (Some(status), _) if !status.deadline_from.is_empty() => status.deadline_from.parse().ok(),
        (_, Some(started)) => started.at.parse().ok(),
        _ => spec.stored_at.parse().ok(),
    }
}

fn hop(name: &str, at: &str, object: &str) -> CommandHop {
    CommandHop { name: name.to_owned(), at: at.to_owned(), object: object.to_owned() }
}

/// The verdict about a command that is not stored.
#[must_use]
pub fn of_command(
    cluster_id: &str,
    command: &Command,
    state: State,
    reason: &str,
    message: String,
    at: String,
) -> Outcome {
    Outcome {
        command_id: command.id.clone(),
        cluster_id: cluster_id.to_owned(),
        epoch: command.epoch,
        revision: command.revision,
        key: command.key.clone(),
        kind: command.kind.clone(),
        state: state.as_str().to_owned(),
        reason: reason.to_owned(),
        message,
        at,
        ..Outcome::default()
    }
}

/// What is said about a message without an author: by the command id in its header, which is not signed. So it ends nothing; the Manager shows it at the command that it sent under this id, or as a dead letter when it sent none.
#[must_use]
pub fn of_header(cluster_id: &str, command_id: &str, reason: &str, message: String, at: String) -> Option<Outcome> {
    let command_id = uuid::Uuid::parse_str(command_id).ok()?.to_string();
    Some(Outcome {
        command_id,
        cluster_id: cluster_id.to_owned(),
        state: State::Deferred.as_str().to_owned(),
        reason: reason.to_owned(),
        message,
        at,
        ..Outcome::default()
    })
}

/// What a record reports to the Manager. A record without a status of its own command is acknowledged: it is stored.
#[must_use]
pub fn of_record(cluster_id: &str, record: &NovaCommand) -> Outcome {
    let spec = &record.spec;
    let outcome = Outcome {
        command_id: spec.command_id.clone(),
        cluster_id: cluster_id.to_owned(),
        epoch: u64::try_from(spec.epoch).unwrap_or_default(),
        revision: u64::try_from(spec.revision).unwrap_or_default(),
        key: spec.key.clone(),
        kind: spec.kind.clone(),
        ..Outcome::default()
    };
    match record.status.as_ref().filter(|status| status.command_id == spec.command_id) {
        None => Outcome {
            state: State::Acknowledged.as_str().to_owned(),
            reason: "Stored".to_owned(),
            message: "the command is stored in the cluster".to_owned(),
            at: spec.stored_at.clone(),
            hops: vec![Hop { name: "stored".to_owned(), at: spec.stored_at.clone(), ..Hop::default() }],
            ..outcome
        },
        Some(status) => Outcome {
            state: status.state.clone(),
            reason: status.reason.clone(),
            message: status.message.clone(),
            at: status.at.clone(),
            hops: status.hops.iter().cloned().map(|CommandHop { name, at, object }| Hop { name, at, object }).collect(),
            ..outcome
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CommandSpec {
        CommandSpec { command_id: "a".into(), revision: 3, stored_at: "t0".into(), ..CommandSpec::default() }
    }

    #[test]
    fn the_first_terminal_state_wins() {
        let failed = advance(&spec(), None, &CommandProgress::failed("Denied", "no"), "t1").unwrap();
        assert_eq!(advance(&spec(), Some(&failed), &CommandProgress::succeeded("Ready", "yes"), "t2"), None);
    }

    #[test]
    fn a_status_of_an_older_command_is_ignored() {
        let old = CommandStatus { command_id: "older".into(), state: "succeeded".into(), ..CommandStatus::default() };
        let next = advance(&spec(), Some(&old), &CommandProgress::running("Applied", "").at("applied"), "t1").unwrap();
        assert_eq!(next.state, "running");
        assert_eq!(next.hops.iter().map(|hop| hop.name.as_str()).collect::<Vec<_>>(), ["stored", "applied"]);
    }

    #[test]
    fn a_hop_names_the_object_as_it_was_written() {
        let object = ObjectMeta { uid: Some("u".into()), resource_version: Some("7".into()), ..ObjectMeta::default() };
        let applied = CommandProgress::running("Applied", "").at("applied").about(&object);
        let status = advance(&spec(), None, &applied, "t1").unwrap();
        let later = ObjectMeta { resource_version: Some("8".into()), ..object };
        let again = CommandProgress::running("Waits", "").at("applied").about(&later);
        let status = advance(&spec(), Some(&status), &again, "t2").unwrap();
        let named: Vec<_> = status.hops.iter().map(|hop| (hop.name.as_str(), hop.object.as_str())).collect();
        assert_eq!(named, [("stored", ""), ("applied", "u/7")], "the first time");
    }

    #[test]
    fn the_same_progress_twice_writes_nothing() {
        let progress = CommandProgress::running("Applied", "waits").at("applied");
        let first = advance(&spec(), None, &progress, "t1").unwrap();
        assert_eq!(advance(&spec(), Some(&first), &progress, "t2"), None);
    }

    #[test]
    fn a_deadline_does_not_count_while_a_command_waits_and_counts_again_from_its_end() {
        let spec = CommandSpec { stored_at: "1970-01-01T00:00:01Z".into(), ..spec() };
        let counts_from = |status: Option<&CommandStatus>| deadline_from(&spec, status).map(Timestamp::as_second);
        assert_eq!(counts_from(None), Some(1));
        let applied = advance(&spec, None, &CommandProgress::running("Applied", ""), "1970-01-01T00:00:02Z").unwrap();
        assert_eq!(counts_from(Some(&applied)), Some(1));
        let held = CommandProgress::waiting("WorkflowSuspending", "");
        let held = advance(&spec, Some(&applied), &held, "1970-01-01T00:00:03Z").unwrap();
        assert_eq!(counts_from(Some(&held)), None);
        let on = CommandProgress::running("RunningWorkflow", "");
        let on = advance(&spec, Some(&held), &on, "1970-01-01T00:20:00Z").unwrap();
        assert_eq!(counts_from(Some(&on)), Some(1200));
        let later = CommandProgress::running("RunningWorkflow", "another step");
        let later = advance(&spec, Some(&on), &later, "1970-01-01T00:21:00Z").unwrap();
        assert_eq!(counts_from(Some(&later)), Some(1200), "only the end of a wait begins it again");
        let of_another = CommandSpec { command_id: "b".into(), ..spec.clone() };
        assert_eq!(deadline_from(&of_another, Some(&held)).map(Timestamp::as_second), Some(1));
    }

    #[test]
    fn the_deadline_of_an_operation_counts_from_its_beginning() {
        let spec = CommandSpec { stored_at: "1970-01-01T00:00:01Z".into(), ..spec() };
        let counts_from = |status: &CommandStatus| deadline_from(&spec, Some(status)).map(Timestamp::as_second);
        let waiting = CommandProgress::running("WaitingForApplication", "");
        let waiting = advance(&spec, None, &waiting, "1970-01-01T00:00:02Z").unwrap();
        assert_eq!(counts_from(&waiting), Some(1));
        let started = CommandProgress::running("Started", "");
        let begun = begin(&spec, Some(&waiting), &started, "found", "1970-01-01T10:00:00Z").unwrap();
        assert_eq!(counts_from(&begun), Some(36_000));
        let later = CommandProgress::running("Operating", "").at("applied");
        let later = advance(&spec, Some(&begun), &later, "1970-01-01T10:00:05Z").unwrap();
        assert_eq!(counts_from(&later), Some(36_000));
    }

    #[test]
    fn an_operation_begins_once_and_keeps_what_it_found() {
        let progress = CommandProgress::running("Starting", "");
        let waiting = advance(&spec(), None, &CommandProgress::running("Waiting", ""), "t1").unwrap();
        assert!(!has_started(&spec(), Some(&waiting)));
        let begun = begin(&spec(), Some(&waiting), &progress, "found", "t2").unwrap();
        assert!(has_started(&spec(), Some(&begun)));
        assert_eq!(begin(&spec(), Some(&begun), &progress, "other", "t3"), None);
        let next = advance(&spec(), Some(&begun), &CommandProgress::running("Later", ""), "t3").unwrap();
        assert_eq!(next.found, "found");
        let of_another = CommandSpec { command_id: "b".into(), ..spec() };
        assert!(!has_started(&of_another, Some(&begun)), "a status of an older command");
        let expired = advance(&spec(), None, &CommandProgress::expired("Late", ""), "t1").unwrap();
        assert_eq!(begin(&spec(), Some(&expired), &progress, "", "t2"), None, "what ended does not begin");
    }

    #[test]
    fn what_an_object_made_is_remembered_once_and_kept() {
        let deleting = CommandProgress::running("Deleting", "");
        let remember = |spec: &CommandSpec, present: Option<&CommandStatus>, before: &str, made: &str| {
            remember(spec, present, &deleting, Remembered { before, made }, "t2")
        };
        let remembered = remember(&spec(), None, "", "made").unwrap();
        assert_eq!((remembered.found.as_str(), remembered.state.as_str()), ("made", "running"));
        assert_eq!(remember(&spec(), Some(&remembered), "", "less"), None, "another Operator has written it");
        let more = remember(&spec(), Some(&remembered), "made", "more");
        assert_eq!(more.map(|status| status.found).as_deref(), Some("more"));
        let waiting = CommandStatus { found: String::new(), ..remembered.clone() };
        let same_state = remember(&spec(), Some(&waiting), "", "made");
        assert_eq!(same_state.map(|status| status.found).as_deref(), Some("made"), "in the same state");
        let gone = advance(&spec(), Some(&remembered), &CommandProgress::succeeded("Gone", ""), "t2").unwrap();
        assert_eq!((gone.found.as_str(), remember(&spec(), Some(&gone), "made", "more")), ("made", None));
        let of_another = CommandSpec { command_id: "b".into(), ..spec() };
        assert!(remember(&of_another, Some(&remembered), "", "made").is_some(), "a status of an older command");
    }

    #[test]
    fn an_operation_that_another_operator_has_begun_does_not_expire() {
        let begun = begin(&spec(), None, &CommandProgress::running("Starting", ""), "found", "t1").unwrap();
        assert_eq!(advance(&spec(), Some(&begun), &CommandProgress::expired("Late", ""), "t2"), None);
        let done = advance(&spec(), Some(&begun), &CommandProgress::succeeded("Done", ""), "t2").unwrap();
        assert_eq!(done.state, "succeeded");
    }

    #[test]
    fn a_header_without_a_signature_ends_no_command() {
        let of = |id: &str| of_header("c1", id, "Unreadable", String::new(), String::new());
        let id = "0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3d";
        assert_eq!(
            of(id).map(|outcome| (outcome.command_id, is_terminal(&outcome.state))),
            Some((id.to_owned(), false))
        );
        assert_eq!(of("no id"), None);
    }

    #[test]
    fn a_record_without_a_status_is_acknowledged() {
        let record = NovaCommand::new("x", spec());
        assert_eq!(of_record("c1", &record).state, "acknowledged");
    }
}
