//! Sessions: whether the hello of a cluster opens one.
//!
//! Decided from what the cluster says and what the Manager holds. A refusal carries a reason for machines and a sentence
//! with the remedy; both end up in the cluster's conditions.

use crate::cluster::{ClusterState, OFFLINE_AFTER};
use jiff::{SignedDuration, Timestamp};
use kubenova_schema::mutant;

/// What a cluster says of itself, as far as it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello<'a> {
    /// UID of its kube-system namespace.
    pub cluster_uid: &'a str,
    /// The incarnation of its credentials.
    pub incarnation: &'a str,
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
    /// Current incarnation.
    pub incarnation: i64,
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
    /// The cluster was enrolled again since, with other keys.
    IncarnationReplaced,
    /// The cluster holds commands that Postgres does not: it was restored to the past.
    Diverged,
    /// Another Operator of this cluster is in session, with a lease term at least as high.
    LeaseTermNotRaised,
    /// Two Operators that know nothing of each other use the cluster's credentials: it is quarantined.
    CredentialsCopied,
}

impl HelloRefusal {
    /// One CamelCase word, the reason of the condition in the cluster.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ClusterUnknown => "ClusterUnknown",
            Self::ClusterNotTrusted(_) => "ClusterNotTrusted",
            Self::ClusterUidMismatch => "ClusterUidMismatch",
            Self::IncarnationReplaced => "IncarnationReplaced",
            Self::Diverged => "Diverged",
            Self::LeaseTermNotRaised => "LeaseTermNotRaised",
            Self::CredentialsCopied => "CredentialsCopied",
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
            Self::LeaseTermNotRaised => f.write_str(
                "another Operator is in session for this cluster, and the lease of this one is not newer; it is admitted once the other is silent, as after a restore of the cluster; two that both go on are quarantined",
            ),
            Self::CredentialsCopied => f.write_str(
                "two Operators with separate leases use the credentials of this cluster: there is a copy of it; nothing is sent until an administrator has revoked its credentials, and enrolled the right one again, or stopped the copy and released the cluster",
            ),
            Self::ClusterNotTrusted(ClusterState::Quarantined) => f.write_str(
                "the Manager holds this cluster as quarantined: an administrator sees why at GET /api/v1/clusters/{cluster}, and releases it or makes a new enrollment token",
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
            Self::IncarnationReplaced => f.write_str(
                "this cluster was enrolled again since, with other keys; stop the installation that is not wanted any more, or enroll this one with a new token",
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
    if hello.incarnation != held.incarnation.to_string() {
        return Err(HelloRefusal::IncarnationReplaced);
    }
    // An epoch is given by the Manager alone, so a higher one than ours is from a later database.
    let is_ahead = !held.knows_revision || hello.epoch > u64::try_from(held.epoch).unwrap_or_default();
    if is_ahead && !mutant::is_on("session.diverged") {
        return Err(HelloRefusal::Diverged);
    }
    Ok(held.epoch)
}

/// The Operator that opened the session, and what was said against it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHolder {
    /// Id of its process.
    pub boot_id: String,
    /// Its lease term: every start of an Operator raises that of its cluster.
    pub lease_term: i64,
    /// Its last heartbeat.
    pub last_heartbeat_at: Timestamp,
    /// Another one that said hello with a lease term no higher, and since when.
    pub contender: Option<(String, Timestamp)>,
}

/// What the lease says about a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOrder {
    /// The same Operator, one that has taken the lease since, or one of a cluster that was restored to an earlier point.
    Admit,
    /// The session belongs to another Operator with a term at least as high. From now on it is watched whether both go on.
    Contend,
    /// Both have gone on.
    Copied,
}

/// Compares the Operator that says hello with the one in session, both of the same incarnation. One Kubernetes cluster has one lease
/// whose term rises with every start, so a term that is not higher comes from one of these:
///
/// - an Operator that was paused while another took over: it says so once and ends when it looks at its lease;
/// - a cluster whose etcd was restored: the other one is gone, and silent;
/// - a copy of the cluster: both go on.
#[must_use]
pub fn lease_order(
    boot_id: &str,
    lease_term: i64,
    holder: &SessionHolder,
    now: Timestamp,
    silent_after: SignedDuration,
) -> LeaseOrder {
    if boot_id == holder.boot_id || lease_term > holder.lease_term || mutant::is_on("session.lease-order") {
        return LeaseOrder::Admit;
    }
    if now.duration_since(holder.last_heartbeat_at) >= silent_after {
        return LeaseOrder::Admit;
    }
    match &holder.contender {
        Some((contender, since))
            if contender == boot_id && holder.last_heartbeat_at.duration_since(*since) >= silent_after =>
        {
            LeaseOrder::Copied
        }
        _ => LeaseOrder::Contend,
    }
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

    #[test]
    fn one_that_was_paused_a_restored_cluster_and_a_copy_are_distinguished() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let holder = |heartbeat, contender: Option<(&str, i64)>| SessionHolder {
            boot_id: "a".to_owned(),
            lease_term: 7,
            last_heartbeat_at: at(heartbeat),
            contender: contender.map(|(boot, since)| (boot.to_owned(), at(since))),
        };
        let order = |boot, term, holder: &SessionHolder, now| {
            lease_order(boot, term, holder, at(now), SignedDuration::from_secs(45))
        };
        let alone = holder(100, None);
        assert_eq!(order("a", 7, &alone, 110), LeaseOrder::Admit, "a hello after a reconnect");
        assert_eq!(order("b", 8, &alone, 110), LeaseOrder::Admit, "took the lease");
        for term in [7, 3] {
            assert_eq!(order("b", term, &alone, 110), LeaseOrder::Contend, "{term}");
            assert_eq!(order("b", term, &alone, 145), LeaseOrder::Admit, "restored: the other is silent");
        }
        let contended = |heartbeat| holder(heartbeat, Some(("b", 100)));
        assert_eq!(order("b", 7, &contended(144), 150), LeaseOrder::Contend, "not yet long enough");
        assert_eq!(order("b", 7, &contended(145), 150), LeaseOrder::Copied);
        assert_eq!(order("c", 7, &contended(145), 150), LeaseOrder::Contend, "a third one begins to contend");
        assert_eq!(order("b", 8, &contended(145), 150), LeaseOrder::Admit, "it has taken the lease meanwhile");
    }

    const HELLO: Hello<'_> = Hello { cluster_uid: "uid", incarnation: "2", epoch: 1 };

    fn held() -> Held {
        Held {
            state: ClusterState::Enrolled,
            kubernetes_uid: Some("uid".to_owned()),
            incarnation: 2,
            epoch: 1,
            knows_revision: true,
        }
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
        for incarnation in [1, 3] {
            let refused = admit(&HELLO, Some(&Held { incarnation, ..held() }));
            assert_eq!(refused, Err(HelloRefusal::IncarnationReplaced));
        }
        assert_eq!(admit(&HELLO, Some(&Held { knows_revision: false, ..held() })), Err(HelloRefusal::Diverged));
        assert_eq!(admit(&HELLO, Some(&Held { epoch: 0, ..held() })), Err(HelloRefusal::Diverged));
    }
}
