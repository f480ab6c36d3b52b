//! Commands: states, and who may move one from which to which. The first terminal state wins.

use crate::{
    cluster::{ClusterId, ClusterState, STALE_AFTER},
    label::id_type,
    tenant::TenantId,
};
use jiff::Timestamp;
use kubenova_schema::mutant;

id_type! {
    /// A command's id (UUIDv7), the same in every re-send.
    CommandId
}

/// How the object keys of operations begin.
pub const OPERATION_KEY_PREFIX: &str = "operation/";

/// A command: the message about one change to one cluster, with the time of every hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// The cluster it is for.
    pub cluster_id: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// Its revision: commands of one cluster are numbered in commit order.
    pub revision: i64,
    /// What to do (`schema/kinds.rs`).
    pub kind: String,
    /// The object it is about (`schema/kinds.rs`).
    pub object_key: String,
    /// The tenant whose object that is.
    pub tenant_id: Option<TenantId>,
    /// The application it is about.
    pub application_name: Option<String>,
    /// Generation of the resource it carries.
    pub generation: i64,
    /// Where it is.
    pub state: CommandState,
    /// Why, as one CamelCase word; may be empty.
    pub reason: String,
    /// Why, as a sentence; may be empty.
    pub message: String,
    /// What it waits for; empty when it moves on.
    pub waiting_for: String,
    /// Who requested it.
    pub created_by: String,
    /// Deadline of an operation or delete.
    pub not_after: Option<Timestamp>,
    /// Committed.
    pub queued_at: Timestamp,
    /// First sent.
    pub sent_at: Option<Timestamp>,
    /// Stored in the cluster.
    pub acknowledged_at: Option<Timestamp>,
    /// Begun there.
    pub running_at: Option<Timestamp>,
    /// Ended.
    pub finished_at: Option<Timestamp>,
    /// Hops as the cluster reported them.
    pub hops: Vec<Hop>,
    /// How often it was sent.
    pub send_count: i32,
    /// When it is sent again at the latest, while it is sent and the cluster has not acknowledged it.
    pub next_send_at: Option<Timestamp>,
    /// When its cluster last sent a heartbeat; none when it never joined.
    pub cluster_last_heartbeat_at: Option<Timestamp>,
    /// Why a hello of the cluster was refused since its last heartbeat; empty when none was.
    pub cluster_refused: String,
    /// Whether the cluster is trusted.
    pub cluster_state: ClusterState,
}

/// What an open command waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// One CamelCase word.
    pub word: String,
    /// What it waits for, and what to do, as a sentence.
    pub message: String,
}

impl Command {
    /// True for an operation and for its cancellation.
    #[must_use]
    pub fn is_operation(&self) -> bool {
        self.object_key.starts_with(OPERATION_KEY_PREFIX)
    }

    /// Up to when it is known what the cluster did about it: its last heartbeat, or its last report when that came later. None
    /// before it reported anything.
    #[must_use]
    pub fn as_of(&self) -> Option<Timestamp> {
        // Once it was sent, only the cluster ends it.
        let ended_there = self.finished_at.filter(|_| self.sent_at.is_some());
        self.cluster_last_heartbeat_at.max(self.acknowledged_at).max(self.running_at).max(ended_there)
    }

    /// What an open command waits for, none when it moves on. What the cluster said takes precedence.
    #[must_use]
    pub fn waits_for(&self, now: Timestamp) -> Option<Wait> {
        if self.state.is_terminal() {
            return None;
        }
        if !self.waiting_for.is_empty() {
            return Some(Wait { word: self.waiting_for.clone(), message: self.message.clone() });
        }
        let name = &self.cluster_name;
        let (word, message) = match self.cluster_last_heartbeat_at {
            _ if self.cluster_state == ClusterState::Quarantined => (
                "ClusterQuarantined",
                format!(
                    "cluster {name} is quarantined, because two Kubernetes clusters claim to be it; GET /api/v1/clusters/{name} \
                     says why: nothing is sent until it is released (POST /api/v1/clusters/{name}/release), or the right one \
                     enrolls with a new token (POST /api/v1/clusters/{name}/enrollments)"
                ),
            ),
            _ if matches!(self.cluster_state, ClusterState::Revoking | ClusterState::Revoked) => (
                "ClusterRevoked",
                format!(
                    "the credentials of cluster {name} were revoked; GET /api/v1/clusters/{name} says by whom: the command is sent \
                     when the cluster has enrolled with a new token, from POST /api/v1/clusters/{name}/enrollments"
                ),
            ),
            _ if self.cluster_state == ClusterState::Detached => (
                "ClusterDetached",
                format!(
                    "cluster {name} is detached: the command is sent when the cluster was taken back \
                     (POST /api/v1/clusters/{name}/undelete) and has enrolled with a new token"
                ),
            ),
            _ if self.cluster_refused == "Diverged" => (
                "SessionRefused",
                format!(
                    "cluster {name} holds commands that this database lost in a restore (Diverged): nothing is sent until an \
                     administrator decides, see kubenova-manager recover list --cluster {name}"
                ),
            ),
            _ if !self.cluster_refused.is_empty() => (
                "SessionRefused",
                format!(
                    "the Manager refuses the session of cluster {name} ({}): condition BusConnected of the NovaClusterConfig in the \
                     cluster says what to do",
                    self.cluster_refused
                ),
            ),
            None => (
                "ClusterNotJoined",
                format!(
                    "cluster {name} has not connected yet: install the Operator there with its enrollment token, or see its \
                     enrollment attempts with GET /api/v1/clusters/{name}"
                ),
            ),
            Some(last) if now.duration_since(last) >= STALE_AFTER => (
                "ClusterOffline",
                format!(
                    "cluster {name} has sent no heartbeat since {last:.0}: the command is sent when it connects again; check \
                     its Operator and its way to the broker"
                ),
            ),
            Some(_) => return None,
        };
        Some(Wait { word: word.to_owned(), message })
    }
}

/// One hop of a command in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// What happened.
    pub name: String,
    /// When, by the cluster's clock, RFC 3339.
    pub at: String,
    /// The object as it was read or written there, `<uid>/<resourceVersion>`; empty without one.
    pub object: String,
}

/// Which commands a list shows; a field that is none filters nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandFilter {
    /// For this cluster.
    pub cluster: Option<ClusterId>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// About this application.
    pub application: Option<String>,
    /// In this state.
    pub state: Option<CommandState>,
}

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CommandState {
    /// Committed, not sent yet.
    Queued,
    /// Signed and handed to the broker, perhaps more than once.
    Sent,
    /// Stored in the cluster's API server.
    Acknowledged,
    /// Being carried out there.
    Running,
    /// This revision is Ready.
    Succeeded,
    /// Permanently not possible, or not done within its progress deadline.
    Failed,
    /// The cluster refused it.
    Refused,
    /// Cancelled before it was done.
    Cancelled,
    /// Replaced by a newer one.
    Superseded,
    /// Its deadline passed before it was started.
    Expired,
}

/// Who changes the state of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// The Manager by itself.
    Manager,
    /// The Manager because of what the cluster's Operator reported.
    Operator,
}

impl CommandState {
    /// Every state, in the order of a command's life.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Sent,
        Self::Acknowledged,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Refused,
        Self::Cancelled,
        Self::Superseded,
        Self::Expired,
    ];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
        }
    }

    /// The state with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True when nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        self.rank() == TERMINAL
    }

    /// Open states rise; all terminal ones are equal.
    const fn rank(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Sent => 1,
            Self::Acknowledged => 2,
            Self::Running => 3,
            _ => TERMINAL,
        }
    }

    /// True when the cluster that reports it has stored the command: the fence then keeps lower commands of the object out.
    #[must_use]
    pub const fn proves_storage(self) -> bool {
        matches!(self, Self::Acknowledged | Self::Running | Self::Succeeded | Self::Failed)
    }

    /// True when the mover may move a command from this state to the next one.
    ///
    /// The Manager alone ends a command only before it was sent; from then on only the Operator's word does, because only
    /// the cluster can know. An Operator cannot know of a queued command.
    #[must_use]
    pub fn may_become(self, next: Self, mover: Mover) -> bool {
        if (self.is_terminal() || next.rank() <= self.rank()) && !mutant::is_on("command.moves-after-end") {
            return false;
        }
        match mover {
            Mover::Manager => {
                matches!(self, Self::Queued)
                    && matches!(next, Self::Sent | Self::Failed | Self::Cancelled | Self::Superseded | Self::Expired)
            }
            Mover::Operator => !matches!(self, Self::Queued),
        }
    }
}

const TERMINAL: u8 = 4;

/// What a cluster may report about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeReport {
    /// It reached this state.
    State(CommandState),
    /// The Operator does not know this kind or something it requires: refused.
    Unsupported,
    /// Not now, for example because a limit of the cluster is reached: to be sent again later.
    Deferred,
}

impl OutcomeReport {
    /// Reads the text of an outcome message. None when a cluster may not report it: that a command is queued or sent is
    /// for the Manager to say.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "deferred" => Some(Self::Deferred),
            "unsupported" => Some(Self::Unsupported),
            other => CommandState::parse(other)
                .filter(|state| !matches!(state, CommandState::Queued | CommandState::Sent))
                .map(Self::State),
        }
    }

    /// The state of the command then; none when the report changes no state.
    #[must_use]
    pub const fn state(self) -> Option<CommandState> {
        match self {
            Self::State(state) => Some(state),
            Self::Unsupported => Some(CommandState::Refused),
            Self::Deferred => None,
        }
    }
}

/// A command in this state.
#[cfg(test)]
pub(crate) fn example(state: CommandState) -> Command {
    Command {
        id: CommandId(uuid::Uuid::nil()),
        cluster_id: ClusterId::from_uuid(uuid::Uuid::nil()),
        cluster_name: "dc1-a".to_owned(),
        revision: 1,
        kind: String::new(),
        object_key: String::new(),
        tenant_id: None,
        application_name: None,
        generation: 1,
        state,
        reason: String::new(),
        message: String::new(),
        waiting_for: String::new(),
        created_by: String::new(),
        not_after: None,
        queued_at: Timestamp::UNIX_EPOCH,
        sent_at: None,
        acknowledged_at: None,
        running_at: None,
        finished_at: None,
        hops: Vec::new(),
        send_count: 0,
        next_send_at: None,
        cluster_last_heartbeat_at: None,
        cluster_refused: String::new(),
        cluster_state: ClusterState::Enrolled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = CommandState> {
        prop::sample::select(CommandState::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn reports_in_any_order_never_go_back_and_end_once(
            reports in prop::collection::vec((any_state(), prop::bool::ANY), 0..40),
        ) {
            let mut state = CommandState::Queued;
            let mut ends = 0;
            for (next, operator) in reports {
                let mover = if operator { Mover::Operator } else { Mover::Manager };
                if state.may_become(next, mover) {
                    prop_assert!(next.rank() > state.rank());
                    prop_assert!(!(state != CommandState::Queued && mover == Mover::Manager), "only the cluster ends a sent one");
                    state = next;
                    ends += u32::from(next.is_terminal());
                }
            }
            prop_assert!(ends <= 1);
            prop_assert_eq!(ends == 1, state.is_terminal());
        }
    }

    #[test]
    fn a_command_is_known_up_to_the_last_heartbeat_or_the_last_report() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let queued = example(CommandState::Queued);
        assert_eq!(queued.as_of(), None, "its cluster never connected");
        let cancelled = Command { finished_at: Some(at(90)), ..queued.clone() };
        assert_eq!(cancelled.as_of(), None, "the Manager ended it");
        let beating = Command { cluster_last_heartbeat_at: Some(at(100)), ..queued };
        assert_eq!(beating.as_of(), Some(at(100)));
        let running = Command { sent_at: Some(at(80)), running_at: Some(at(104)), ..beating };
        assert_eq!(running.as_of(), Some(at(104)));
        let ended = Command { finished_at: Some(at(107)), ..running };
        assert_eq!(ended.as_of(), Some(at(107)));
        let confirmed = Command { cluster_last_heartbeat_at: Some(at(115)), ..ended };
        assert_eq!(confirmed.as_of(), Some(at(115)));
    }

    #[test]
    fn an_open_command_says_what_it_waits_for() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let command = |state, heartbeat_at, refused: &str, waiting: &str| Command {
            waiting_for: waiting.to_owned(),
            cluster_last_heartbeat_at: heartbeat_at,
            cluster_refused: refused.to_owned(),
            ..example(state)
        };
        let (queued, sent) = (CommandState::Queued, CommandState::Sent);
        let quarantined = Command {
            cluster_state: ClusterState::Quarantined,
            ..command(queued, Some(at(190)), "StaleIncarnation", "")
        };
        let in_state = |cluster_state| Command { cluster_state, ..command(queued, None, "", "") };
        for (command, word, part) in [
            (in_state(ClusterState::Revoked), "ClusterRevoked", "/enrollments"),
            (in_state(ClusterState::Revoking), "ClusterRevoked", "were revoked"),
            (in_state(ClusterState::Detached), "ClusterDetached", "/undelete"),
            (command(queued, Some(at(190)), "Diverged", ""), "SessionRefused", "recover list --cluster dc1-a"),
            (command(queued, None, "", ""), "ClusterNotJoined", "install the Operator"),
            (command(sent, Some(at(100)), "", ""), "ClusterOffline", "since 1970-01-01T00:01:40Z"),
            (command(queued, Some(at(190)), "StaleIncarnation", ""), "SessionRefused", "(StaleIncarnation)"),
            (quarantined, "ClusterQuarantined", "two Kubernetes clusters"),
        ] {
            let wait = command.waits_for(at(200)).unwrap();
            assert_eq!(wait.word, word);
            assert!(wait.message.contains("cluster dc1-a") && wait.message.contains(part), "{}", wait.message);
        }
        let deferred = Command { message: "not before noon".to_owned(), ..command(sent, None, "", "Late") };
        let expected = Wait { word: "Late".to_owned(), message: "not before noon".to_owned() };
        assert_eq!(deferred.waits_for(at(200)), Some(expected), "the cluster's own word and message");
        assert_eq!(command(sent, Some(at(190)), "", "").waits_for(at(200)), None);
        assert_eq!(command(CommandState::Succeeded, None, "", "Late").waits_for(at(200)), None);
    }

    #[test]
    fn texts_read_back() {
        for state in CommandState::ALL {
            assert_eq!(CommandState::parse(state.as_str()), Some(state));
        }
        assert_eq!(CommandState::parse("done"), None);
    }

    #[test]
    fn a_cluster_reports_only_what_it_can_know() {
        let state = |text| OutcomeReport::parse(text).map(OutcomeReport::state);
        assert_eq!(state("succeeded"), Some(Some(CommandState::Succeeded)));
        assert_eq!(state("unsupported"), Some(Some(CommandState::Refused)));
        assert_eq!(state("deferred"), Some(None));
        for text in ["queued", "sent", "done", ""] {
            assert_eq!(state(text), None, "{text}");
        }
    }

    #[test]
    fn who_may_end_what() {
        use CommandState::{Acknowledged, Cancelled, Queued, Sent, Succeeded, Superseded};
        assert!(Queued.may_become(Superseded, Mover::Manager));
        assert!(!Sent.may_become(Superseded, Mover::Manager));
        assert!(Sent.may_become(Superseded, Mover::Operator));
        assert!(Sent.may_become(Succeeded, Mover::Operator), "an outcome may overtake its acknowledgement");
        assert!(!Queued.may_become(Acknowledged, Mover::Operator));
        assert!(!Succeeded.may_become(Cancelled, Mover::Operator));
    }
}
