//! Clusters: ids, names and what each should have installed.

use crate::{
    label::name_type,
    metadata,
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Digits of Crockford's base32 in lower case: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// `c` and 26 digits of five bits for 128 bits.
const ID_LENGTH: usize = 27;

/// A cluster's id: `c` and the lower-case Crockford base32 of a UUIDv7. Never numeric (see `schema/subjects.rs`), and
/// its text order is its time order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(String);

impl ClusterId {
    /// The id made from a fresh UUIDv7.
    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        let bits = id.as_u128();
        let digits = (0..ID_LENGTH - 1).rev().map(|place| {
            let digit = (bits >> (place * 5)) & 31;
            char::from(ALPHABET[usize::try_from(digit).expect("five bits fit")])
        });
        Self(std::iter::once('c').chain(digits).collect())
    }

    /// Reads an id; none when the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('c')?.as_bytes();
        // 26 digits carry 130 bits, so the first may be at most 7.
        let is_id = digits.len() == ID_LENGTH - 1 && digits[0] <= b'7' && digits.iter().all(|d| ALPHABET.contains(d));
        is_id.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

name_type! {
    /// A cluster's name, unique among clusters and never of the form of an id.
    ClusterName, "cluster", |text| match ClusterId::parse(text) {
        Some(_) => Err(Refusal::at(Reason::NameInvalid, "/name", "cluster name has the form of a cluster id")),
        None => Ok(()),
    }
}

/// How a path names a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRef {
    /// By id.
    Id(ClusterId),
    /// By name.
    Name(String),
}

impl ClusterRef {
    /// Reads either form; a text of neither form is a name that nobody has.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        ClusterId::parse(text).map_or_else(|| Self::Name(text.to_owned()), Self::Id)
    }
}

impl std::fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What the Manager wishes for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// Where it stands; free text, may be empty.
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
    /// Grows with each enrollment; 0 before the first.
    pub incarnation: i64,
    /// Whether it is trusted.
    pub state: ClusterState,
    /// When it first showed its token.
    pub enrolled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the wish last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// Whether a cluster is trusted. Whether it is connected is observed, not stored here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterState {
    /// Created; its token was not used yet.
    PendingBootstrap,
    /// Holds an identity.
    Enrolled,
    /// Another cluster showed itself under its record; nothing is sent.
    Quarantined,
    /// Its identity is being taken back.
    Revoking,
    /// Its identity was taken back.
    Revoked,
    /// Let go; what runs there stays.
    Detached,
}

impl ClusterState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::PendingBootstrap, Self::Enrolled, Self::Quarantined, Self::Revoking, Self::Revoked, Self::Detached];

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
        }
    }

    /// The state with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True when new placements and applications may be written for it.
    #[must_use]
    pub const fn takes_changes(self) -> bool {
        matches!(self, Self::PendingBootstrap | Self::Enrolled | Self::Quarantined)
    }
}

/// Whether a cluster is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connectivity {
    /// It never said hello, or this Manager has not listened long enough to know.
    Unknown,
    /// Its heartbeat is fresh.
    Connected,
    /// Three heartbeats are missing; what is known of it is as of then.
    Stale,
    /// It was silent for minutes.
    Offline,
}

/// Silence after which a cluster is stale: three heartbeats of 15 s (design §4).
pub const STALE_AFTER: SignedDuration = SignedDuration::from_secs(45);
/// Silence after which a cluster is offline.
pub const OFFLINE_AFTER: SignedDuration = SignedDuration::from_mins(5);

impl Connectivity {
    /// The text in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Stale => "stale",
            Self::Offline => "offline",
        }
    }

    /// Judges a silence. A Manager that has itself been listening for less time than the limit says nothing bad of a
    /// cluster: it would not have heard the heartbeat.
    #[must_use]
    pub fn judge(heard_at: Option<Timestamp>, listening_since: Timestamp, now: Timestamp) -> Self {
        let Some(heard_at) = heard_at else { return Self::Unknown };
        let silence = now.duration_since(heard_at);
        let listened = now.duration_since(listening_since);
        if silence < STALE_AFTER {
            Self::Connected
        } else if listened < STALE_AFTER {
            Self::Unknown
        } else if silence < OFFLINE_AFTER || listened < OFFLINE_AFTER {
            Self::Stale
        } else {
            Self::Offline
        }
    }
}

/// The three components a cluster may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Components {
    /// Tenants' walls.
    pub capsule: Component,
    /// Tenants' view of the API.
    pub capsule_proxy: Component,
    /// Applications.
    pub kubevela: Component,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Should it run?
    pub enabled: bool,
    /// Version; empty means the one the Operator was built for.
    pub version: String,
    /// Take over an install that is already there.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry; empty when unknown.
    pub public_url: String,
}

impl Default for Component {
    fn default() -> Self {
        Self { enabled: false, version: String::new(), adopt: false, replicas: 1, public_url: String::new() }
    }
}

/// Most replicas of a component's controller; more helps nobody.
const REPLICAS_MAX: u32 = 5;

impl Component {
    /// Checks what a person may choose; `field` is the component's JSON pointer.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`] and the pointer of the field.
    pub fn check(&self, field: &str) -> Result<(), Refusal> {
        let refuse = |name: &str, why: String| Err(Refusal::at(Reason::FieldInvalid, format!("{field}/{name}"), why));
        let good_version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        if self.version.len() > 64 || !self.version.chars().all(good_version) {
            return refuse("version", format!("version {:?} is not a version like 1.10.9", self.version));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return refuse("replicas", format!("replicas is {}, possible is 1 to {REPLICAS_MAX}", self.replicas));
        }
        let is_https = self.public_url.starts_with("https://") && !self.public_url.contains(char::is_whitespace);
        if !self.public_url.is_empty() && (!is_https || self.public_url.len() > 2000) {
            return refuse("publicURL", "publicURL must be an https:// URL".to_owned());
        }
        Ok(())
    }
}

/// Most labels on a cluster.
pub const LABELS_MAX: usize = 32;

/// Checks a datacenter's name and labels that a caller chose.
///
/// # Errors
/// With [`Reason::FieldInvalid`] and the pointer of the field.
pub fn check_descriptions(datacenter: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if datacenter.len() > 63 || datacenter.chars().any(char::is_control) {
        return Err(Refusal::at(
            Reason::FieldInvalid,
            "/datacenter",
            "datacenter is longer than 63 bytes or has control characters",
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_have_the_form_keep_their_order_and_read_back(a in any::<u128>(), b in any::<u128>()) {
            let (first, second) = (ClusterId::from_uuid(Uuid::from_u128(a)), ClusterId::from_uuid(Uuid::from_u128(b)));
            prop_assert_eq!(first.as_str().len(), 27);
            prop_assert_eq!(ClusterId::parse(first.as_str()), Some(first.clone()));
            prop_assert_eq!(a.cmp(&b), first.cmp(&second));
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        let good = ClusterId::from_uuid(Uuid::from_u128(1));
        assert_eq!(good.as_str(), "c00000000000000000000000001");
        let bad = [
            "",
            "c",
            "c0000000000000000000000000i",
            "C00000000000000000000000001",
            "c80000000000000000000000000",
            "000000000000000000000000000",
        ];
        for text in bad {
            assert_eq!(ClusterId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_silence_is_judged_only_by_who_listened() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let long = at(-1_000_000);
        let judge = |heard, since| Connectivity::judge(Some(at(heard)), since, at(1000));
        assert_eq!(judge(990, long), Connectivity::Connected);
        assert_eq!(judge(950, long), Connectivity::Stale);
        assert_eq!(judge(100, long), Connectivity::Offline);
        assert_eq!(judge(100, at(990)), Connectivity::Unknown, "the Manager has just started");
        assert_eq!(judge(100, at(900)), Connectivity::Stale);
        assert_eq!(Connectivity::judge(None, long, at(0)), Connectivity::Unknown);
    }

    #[test]
    fn a_name_that_looks_like_an_id_is_refused() {
        assert!(ClusterName::parse("dc-a").is_ok());
        assert!(ClusterName::parse("c00000000000000000000000001").is_err());
    }

    #[test]
    fn components_are_checked() {
        let field = |component: Component| component.check("/components/capsule").unwrap_err().field.unwrap();
        assert!(Component::default().check("/x").is_ok());
        assert_eq!(field(Component { version: "1 2".into(), ..Component::default() }), "/components/capsule/version");
        assert_eq!(field(Component { replicas: 0, ..Component::default() }), "/components/capsule/replicas");
        assert_eq!(
            field(Component { public_url: "http://x".into(), ..Component::default() }),
            "/components/capsule/publicURL"
        );
    }
}
