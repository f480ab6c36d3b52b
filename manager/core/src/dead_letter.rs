//! Dead letters: messages of clusters that can never be handled, kept for a person to look at.

use crate::label::id_type;
use jiff::Timestamp;
use kubenova_schema::subjects;

id_type! {
    /// A dead letter's id (UUIDv7).
    DeadLetterId
}

/// What a message was meant to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterKind {
    /// How a command ended.
    Outcome,
    /// Observed objects.
    Status,
    /// Usage of a window.
    Usage,
    /// Nothing that its subject tells.
    Other,
}

impl DeadLetterKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Outcome, Self::Status, Self::Usage, Self::Other];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Status => "status",
            Self::Usage => "usage",
            Self::Other => "other",
        }
    }

    /// The kind with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The kind of a message on this subject.
    #[must_use]
    pub fn of_subject(subject: &str) -> Self {
        match subjects::cluster_of(subject) {
            Some(cluster) if subject == subjects::outcome(cluster) => Self::Outcome,
            Some(cluster) if subject == subjects::status(cluster) => Self::Status,
            Some(cluster) if subject.starts_with(&subjects::usage(cluster, "")) => Self::Usage,
            _ => Self::Other,
        }
    }
}

/// A message that can never be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: DeadLetterId,
    /// The cluster that its subject names; empty when it names none.
    pub cluster: String,
    /// What it was meant to report.
    pub kind: DeadLetterKind,
    /// The subject it was published on.
    pub subject: String,
    /// Why it cannot be handled.
    pub reason: String,
    /// Its size.
    pub payload_bytes: i64,
    /// SHA-256 of its payload, in hex.
    pub payload_sha256: String,
    /// How often it was delivered.
    pub times: i64,
    /// First delivered.
    pub first_seen_at: Timestamp,
    /// Last delivered.
    pub last_seen_at: Timestamp,
    /// Older messages of its cluster that were deleted because it had too many.
    pub cluster_dropped: i64,
}

/// Which dead letters a list shows; a field that is none filters nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this cluster.
    pub cluster: Option<String>,
    /// Of this kind.
    pub kind: Option<DeadLetterKind>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_tells_the_kind() {
        let cluster = "c0123456789abcdefghjkmnpqrs";
        for (subject, kind) in [
            (subjects::outcome(cluster), DeadLetterKind::Outcome),
            (subjects::status(cluster), DeadLetterKind::Status),
            (subjects::usage(cluster, "w1800000000-3600"), DeadLetterKind::Usage),
            (subjects::heartbeat(cluster), DeadLetterKind::Other),
            (String::new(), DeadLetterKind::Other),
        ] {
            assert_eq!(DeadLetterKind::of_subject(&subject), kind, "{subject}");
        }
        assert!(DeadLetterKind::ALL.iter().all(|kind| DeadLetterKind::parse(kind.as_str()) == Some(*kind)));
    }
}
