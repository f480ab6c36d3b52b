//! Sessions: whether the hello of a cluster opens one.
//!
//! Decided from what the cluster says and what the Manager holds. A refusal carries a reason for machines and a sentence
//! with the remedy; both end up in the cluster's conditions.

use crate::cluster::{ClusterState, OFFLINE_AFTER};
use jiff::Timestamp;
use kubenova_schema::mutant;

/// What a cluster says of itself, as far as it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello<'a> {
    /// UID of its kube-system namespace.
    pub cluster_uid: &'a str,
    /// Highest epoch it has seen.
    pub epoch: u64,
}

/// What the Manager holds about the cluster that says hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whether it is trusted.
    pub state: ClusterState,
    /// UID of the kube-system namespace that enrolled; none before enrollment.
    pub kubernetes_uid: Option<String>,
    /// Current epoch.
    pub epoch: i64,
    /// The highest revision that the cluster names is here too, with the same command.
    pub knows_revision: bool,
}

/// Why a hello opens no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloRefusal {
    /// No record has this id.
    ClusterUnknown,
    /// The record is not in a state that is sent to.
    ClusterNotTrusted(ClusterState),
    /// Another cluster enrolled under this record.
    ClusterUidMismatch,
    /// The cluster holds commands that Postgres does not: it was restored to the past.
    Diverged,
}

impl HelloRefusal {
    /// One CamelCase word, the reason of the condition in the cluster.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ClusterUnknown => "ClusterUnknown",
            Self::ClusterNotTrusted(_) => "ClusterNotTrusted",
            Self::ClusterUidMismatch => "ClusterUidMismatch",
            Self::Diverged => "Diverged",
        }
    }
}

impl std::fmt::Display for HelloRefusal {
    /// What is wrong and what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClusterUnknown => f.write_str(
                "the Manager does not know this cluster; create it and install the Operator with a new enrollment token",
            ),
            Self::ClusterNotTrusted(ClusterState::Purged) => f.write_str(
                "the Manager has given this cluster up (purged); create a new cluster there and install the Operator with its token",
            ),
            Self::ClusterNotTrusted(state) => write!(
                f,
                "the Manager holds this cluster as {}; make a new enrollment token for it",
                state.as_str()
            ),
            Self::ClusterUidMismatch => f.write_str(
                "another cluster enrolled under this record, so its credentials were copied; create a record of its own for this cluster",
            ),
            Self::Diverged => f.write_str(
                "the cluster holds commands that the Manager's database does not, because that was restored to an earlier point; nothing is sent to this cluster until an administrator decides: type kubenova-manager recover list at the Manager",
            ),
        }
    }
}

/// The epoch of the session to open, or why there is none.
///
/// # Errors
/// With the first reason that applies.
pub fn admit(hello: &Hello<'_>, held: Option<&Held>) -> Result<i64, HelloRefusal> {
    let held = held.ok_or(HelloRefusal::ClusterUnknown)?;
    if held.state != ClusterState::Enrolled {
        return Err(HelloRefusal::ClusterNotTrusted(held.state));
    }
    if held.kubernetes_uid.as_deref() != Some(hello.cluster_uid) {
        return Err(HelloRefusal::ClusterUidMismatch);
    }
    // An epoch is given by the Manager alone, so a higher one than ours is from a later database.
    let is_ahead = !held.knows_revision || hello.epoch > u64::try_from(held.epoch).unwrap_or_default();
    if is_ahead && !mutant::is_on("session.diverged") {
        return Err(HelloRefusal::Diverged);
    }
    Ok(held.epoch)
}

/// Why a cluster is asked for a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloWanted {
    /// Its heartbeat belongs to another session than the open one, or names a revision that Postgres does not know.
    HeartbeatNotCounted,
    /// Its heartbeat is the first after a silence in which reports may have been lost: its own, or the Manager's.
    AfterSilence,
    /// Postgres was started since the session was opened: it may have been restored to an earlier point.
    PostgresStarted,
    /// The cluster holds other documents than Postgres expects, and no command explains it.
    ListingDiffers,
}

impl HelloWanted {
    /// After a heartbeat that counted: when the one before it was recorded, and whether its session is confirmed by the
    /// running server of Postgres; after one that did not: none.
    #[must_use]
    pub fn after_heartbeat(counted: Option<(Timestamp, bool)>, now: Timestamp) -> Option<Self> {
        match counted {
            None => Some(Self::HeartbeatNotCounted),
            Some((_, false)) => Some(Self::PostgresStarted),
            Some((previous, true)) if now.duration_since(previous) >= OFFLINE_AFTER => Some(Self::AfterSilence),
            Some(_) => None,
        }
    }

    /// One CamelCase word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HeartbeatNotCounted => "HeartbeatNotCounted",
            Self::AfterSilence => "AfterSilence",
            Self::PostgresStarted => "PostgresStarted",
            Self::ListingDiffers => "ListingDiffers",
        }
    }

    /// A sentence.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::HeartbeatNotCounted => {
                "the heartbeat belongs to another session than the one the Manager holds, or names a revision that the Manager does not know"
            }
            Self::AfterSilence => "the Manager has recorded no heartbeat of this cluster for minutes",
            Self::PostgresStarted => "the Manager's database was started since the session was opened",
            Self::ListingDiffers => "the cluster holds other documents than the Manager expects",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_wanted_after_a_heartbeat_that_does_not_count_and_after_a_silence() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let wanted = |previous, confirmed| HelloWanted::after_heartbeat(Some((at(previous), confirmed)), at(1000));
        assert_eq!(HelloWanted::after_heartbeat(None, at(1000)), Some(HelloWanted::HeartbeatNotCounted));
        assert_eq!(wanted(985, true), None);
        assert_eq!(wanted(701, true), None);
        assert_eq!(wanted(700, true), Some(HelloWanted::AfterSilence));
        assert_eq!(wanted(985, false), Some(HelloWanted::PostgresStarted));
    }

    const HELLO: Hello<'_> = Hello { cluster_uid: "uid", epoch: 1 };

    fn held() -> Held {
        Held { state: ClusterState::Enrolled, kubernetes_uid: Some("uid".to_owned()), epoch: 1, knows_revision: true }
    }

    #[test]
    fn an_enrolled_cluster_whose_revision_is_known_gets_a_session_of_the_current_epoch() {
        assert_eq!(admit(&HELLO, Some(&held())), Ok(1));
        assert_eq!(admit(&HELLO, Some(&Held { epoch: 2, ..held() })), Ok(2));
    }

    #[test]
    fn each_cause_is_refused_with_its_own_reason() {
        assert_eq!(admit(&HELLO, None), Err(HelloRefusal::ClusterUnknown));
        for state in ClusterState::ALL.into_iter().filter(|state| *state != ClusterState::Enrolled) {
            let refused = admit(&HELLO, Some(&Held { state, ..held() }));
            assert_eq!(refused, Err(HelloRefusal::ClusterNotTrusted(state)));
            assert!(refused.unwrap_err().to_string().contains(state.as_str()));
        }
        for kubernetes_uid in [None, Some("other".to_owned())] {
            let refused = admit(&HELLO, Some(&Held { kubernetes_uid, ..held() }));
            assert_eq!(refused, Err(HelloRefusal::ClusterUidMismatch));
        }
        assert_eq!(admit(&HELLO, Some(&Held { knows_revision: false, ..held() })), Err(HelloRefusal::Diverged));
        assert_eq!(admit(&HELLO, Some(&Held { epoch: 0, ..held() })), Err(HelloRefusal::Diverged));
    }
}
