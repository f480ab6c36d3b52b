//! Clusters: what the Manager stores about each, and what a caller may choose.

mod approval;
pub mod component_health;
mod component_settings;
mod components;
mod connectivity;
mod id;

pub use approval::Approval;
pub use components::{Component, ComponentChange, ComponentName, Components, canonical};
pub use connectivity::{Connectivity, OFFLINE_AFTER, STALE_AFTER};
pub use id::{ClusterId, ClusterRef};

use crate::{
    label::name_type,
    metadata,
    plain_text::is_plain,
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use jiff::Timestamp;
use std::collections::BTreeMap;

name_type! {
    /// A cluster's name, unique among clusters and never of the form of an id.
    ClusterName, "cluster", |text| match ClusterId::parse(text) {
        Some(_) => Err(Refusal::at(Reason::NameInvalid, "/name", "cluster name has the form of a cluster id; choose a shorter one")),
        None => Ok(()),
    }
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// Where it is; free text, may be empty.
    pub datacenter: String,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// What should be installed.
    pub components: Components,
    /// Version of this resource, from 1.
    pub generation: i64,
    /// Rises when the Manager recovered from a restore.
    pub epoch: i64,
    /// Highest revision given so far.
    pub revision: i64,
    /// UID of its kube-system namespace, once enrolled.
    pub kubernetes_uid: Option<String>,
    /// Rises with each enrollment; 0 before the first.
    pub incarnation: i64,
    /// Whether it is trusted.
    pub state: ClusterState,
    /// Why it is in this state, when that is not what usually happens.
    pub state_note: Option<StateNote>,
    /// Whether its enrollments wait for an administrator.
    pub approval: Approval,
    /// When it first enrolled.
    pub enrolled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When what is desired last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// Why a cluster is in its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateNote {
    /// One CamelCase word.
    pub reason: String,
    /// What happened, and what to do.
    pub message: String,
}

impl StateNote {
    /// A note.
    #[must_use]
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// Whether a cluster is trusted. Whether it is connected is observed, not stored here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterState {
    /// Created; its token was not used yet.
    PendingBootstrap,
    /// Holds an identity.
    Enrolled,
    /// Two Kubernetes clusters claim to be it; nothing is sent until a person decides.
    Quarantined,
    /// Its credentials are revoked, and not every server of the broker has that yet.
    Revoking,
    /// Its credentials are revoked: no server of the broker accepts them. It can enroll again.
    Revoked,
    /// No longer managed; what runs there stays, and what was wanted there is kept.
    Detached,
    /// Given up as never coming back; what waited for it has failed.
    Purged,
}

impl ClusterState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::PendingBootstrap,
        Self::Enrolled,
        Self::Quarantined,
        Self::Revoking,
        Self::Revoked,
        Self::Detached,
        Self::Purged,
    ];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PendingBootstrap => "pendingBootstrap",
            Self::Enrolled => "enrolled",
            Self::Quarantined => "quarantined",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
            Self::Detached => "detached",
            Self::Purged => "purged",
        }
    }

    /// The state with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True when an installation may enroll under it.
    #[must_use]
    pub const fn may_enroll(self) -> bool {
        matches!(self, Self::PendingBootstrap | Self::Enrolled | Self::Quarantined | Self::Revoked)
    }

    /// True when new placements and applications may be written for it.
    #[must_use]
    pub const fn takes_changes(self) -> bool {
        matches!(self, Self::PendingBootstrap | Self::Enrolled | Self::Quarantined)
    }
}

/// Longest name of a datacenter, in characters.
const DATACENTER_LENGTH_MAX: usize = 63;
/// Most labels on a cluster.
pub const LABELS_MAX: usize = 32;

/// Checks a datacenter's name and labels that a caller chose.
///
/// # Errors
/// With [`Reason::FieldInvalid`] and the pointer of the field.
pub fn check_descriptions(datacenter: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if !is_plain(datacenter, DATACENTER_LENGTH_MAX) {
        return Err(Refusal::at(
            Reason::FieldInvalid,
            "/datacenter",
            format!("datacenter is longer than {DATACENTER_LENGTH_MAX} characters or has control characters"),
        ));
    }
    if labels.len() > LABELS_MAX {
        return Err(Refusal::at(
            Reason::FieldInvalid,
            "/labels",
            format!("{} labels, the most is {LABELS_MAX}", labels.len()),
        ));
    }
    metadata::check_labels(labels, &Pointer::default().field("labels"), Reason::FieldInvalid)
}

/// A cluster with this number, enrolled, without labels.
#[cfg(test)]
pub(crate) fn example(number: u128) -> Cluster {
    Cluster {
        id: ClusterId::from_uuid(uuid::Uuid::from_u128(number)),
        name: ClusterName::parse(&format!("dc{number}")).expect("a name"),
        datacenter: String::new(),
        labels: BTreeMap::new(),
        components: Components::default(),
        generation: 1,
        epoch: 1,
        revision: 0,
        kubernetes_uid: None,
        incarnation: 0,
        state: ClusterState::Enrolled,
        state_note: None,
        approval: Approval::Automatic,
        enrolled_at: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        created_by: "ann".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_an_id_is_refused() {
        assert!(ClusterName::parse("dc-a").is_ok());
        assert!(ClusterName::parse("c00000000000000000000000001").is_err());
    }

    #[test]
    fn the_length_of_a_datacenter_counts_characters() {
        let check = |datacenter: &str| check_descriptions(datacenter, &BTreeMap::new());
        assert!(check(&"ü".repeat(63)).is_ok());
        for bad in ["ü".repeat(64), "a\nb".to_owned(), "a\u{85}b".to_owned()] {
            assert_eq!(check(&bad).unwrap_err().field.as_deref(), Some("/datacenter"), "{bad:?}");
        }
    }
}
