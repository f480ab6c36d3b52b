//! Anti-entropy: what the inbox of a cluster holds beside what Postgres says it holds.
//!
//! Decided key by key, without clock or database. Nothing here deletes because something is absent: a delete is issued again
//! only where the last thing that was asked is a delete, and a key that Postgres does not know is shown and kept.

use kubenova_schema::mutant;

/// The hash that a cluster states of its listing, or nothing when that is no hash in hex.
#[must_use]
pub fn hash(stated: String) -> String {
    let is_hash = stated.len() == 64 && stated.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { stated } else { String::new() }
}

/// The last command about a key that the cluster acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its revision.
    pub revision: u64,
    /// Whether it deletes the object.
    pub is_delete: bool,
    /// Hex SHA-256 of its document.
    pub document_sha256: String,
}

/// What Postgres holds about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// A command about it has not ended, or ended a moment ago, or the last one was refused: nothing can be concluded.
    pub unsettled: bool,
    /// None when the cluster never acknowledged a command about it.
    pub acknowledged: Option<Acknowledged>,
}

/// What the cluster holds about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Revision of the command in the inbox record.
    pub revision: u64,
    /// Whether it deletes the object.
    pub is_delete: bool,
    /// Hex SHA-256 of its document.
    pub document_sha256: String,
}

/// What follows for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Both sides agree.
    InSync,
    /// Compared again later.
    Unsettled,
    /// The cluster lost it: it is sent again.
    Missing,
    /// The cluster holds an earlier or another document: it is sent again.
    Outdated,
    /// The cluster holds what was deleted: the delete is issued again.
    Undeleted,
    /// Postgres does not know it: shown and kept.
    Unknown,
    /// The cluster holds a later command than Postgres: shown and kept.
    Ahead,
}

impl Finding {
    /// Whether the last acknowledged command is sent again under a new revision.
    #[must_use]
    pub const fn is_sent_again(self) -> bool {
        matches!(self, Self::Missing | Self::Outdated | Self::Undeleted)
    }

    /// Whether a person has to know.
    #[must_use]
    pub const fn is_shown(self) -> bool {
        matches!(self, Self::Unknown | Self::Ahead)
    }

    /// One CamelCase word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "InSync",
            Self::Unsettled => "Unsettled",
            Self::Missing => "Missing",
            Self::Outdated => "Outdated",
            Self::Undeleted => "Undeleted",
            Self::Unknown => "Unknown",
            Self::Ahead => "Ahead",
        }
    }
}

/// Compares what both sides hold about a key.
#[must_use]
pub fn compare(known: Option<&Known>, listed: Option<&Listed>) -> Finding {
    let Some(known) = known else {
        return match listed {
            // The record of a delete whose command was deleted from Postgres after its time.
            Some(listed) if listed.is_delete => Finding::InSync,
            Some(_) if mutant::is_on("listing.unknown-deleted") => Finding::Undeleted,
            Some(_) => Finding::Unknown,
            None => Finding::InSync,
        };
    };
    if known.unsettled && !mutant::is_on("listing.under-way") {
        return Finding::Unsettled;
    }
    match (&known.acknowledged, listed) {
        (None, None) => Finding::InSync,
        (None, Some(listed)) => {
            if listed.is_delete {
                Finding::InSync
            } else {
                Finding::Ahead
            }
        }
        // A forgotten delete is as good as one that is remembered.
        (Some(acknowledged), None) => {
            if acknowledged.is_delete {
                Finding::InSync
            } else {
                Finding::Missing
            }
        }
        (Some(acknowledged), Some(listed)) => compare_both(acknowledged, listed),
    }
}

fn compare_both(acknowledged: &Acknowledged, listed: &Listed) -> Finding {
    if listed.revision > acknowledged.revision {
        return Finding::Ahead;
    }
    if acknowledged.is_delete {
        return if listed.is_delete { Finding::InSync } else { Finding::Undeleted };
    }
    let same = listed.revision == acknowledged.revision
        && !listed.is_delete
        && listed.document_sha256 == acknowledged.document_sha256;
    if same { Finding::InSync } else { Finding::Outdated }
}

/// What the hash of a whole listing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashes {
    /// Both sides hold the same.
    Equal,
    /// They do not, and no command explains it.
    Differ,
    /// They do not, while commands are on their way: compared again later.
    Unsettled,
}

/// Compares the hashes of the two listings. `unsettled`: commands have not ended, or ended a moment ago. A difference that has
/// lasted `too_long` is looked into in spite of them: a cluster that always has work must not stay unchecked.
#[must_use]
pub fn compare_hashes(expected: &str, reported: &str, unsettled: bool, too_long: bool) -> Hashes {
    if expected == reported {
        Hashes::Equal
    } else if unsettled && !too_long {
        Hashes::Unsettled
    } else {
        Hashes::Differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(revision: u64, is_delete: bool, document: &str) -> Known {
        let acknowledged = Acknowledged { revision, is_delete, document_sha256: document.to_owned() };
        Known { unsettled: false, acknowledged: Some(acknowledged) }
    }

    fn listed(revision: u64, is_delete: bool, document: &str) -> Listed {
        Listed { revision, is_delete, document_sha256: document.to_owned() }
    }

    #[test]
    fn each_difference_has_its_own_finding() {
        let apply = known(5, false, "a");
        let delete = known(5, true, "");
        let never = Known { unsettled: false, acknowledged: None };
        for (known, listed, finding) in [
            (Some(&apply), Some(listed(5, false, "a")), Finding::InSync),
            (Some(&apply), None, Finding::Missing),
            (Some(&apply), Some(listed(4, false, "a")), Finding::Outdated),
            (Some(&apply), Some(listed(5, false, "b")), Finding::Outdated),
            (Some(&apply), Some(listed(4, true, "")), Finding::Outdated),
            (Some(&apply), Some(listed(6, false, "a")), Finding::Ahead),
            (Some(&delete), None, Finding::InSync),
            (Some(&delete), Some(listed(5, true, "")), Finding::InSync),
            (Some(&delete), Some(listed(4, false, "a")), Finding::Undeleted),
            (Some(&delete), Some(listed(6, false, "a")), Finding::Ahead),
            (Some(&never), Some(listed(6, false, "a")), Finding::Ahead),
            (Some(&never), None, Finding::InSync),
            (None, Some(listed(1, false, "a")), Finding::Unknown),
            (None, Some(listed(1, true, "")), Finding::InSync),
        ] {
            assert_eq!(compare(known, listed.as_ref()), finding, "{known:?} {listed:?}");
        }
    }

    #[test]
    fn nothing_is_concluded_while_a_command_is_under_way() {
        for known in [known(5, false, "a"), known(5, true, "")] {
            let unsettled = Known { unsettled: true, ..known };
            for listed in [None, Some(listed(4, false, "b"))] {
                assert_eq!(compare(Some(&unsettled), listed.as_ref()), Finding::Unsettled);
            }
        }
    }

    #[test]
    fn absence_on_either_side_never_deletes() {
        assert!(!compare(None, Some(&listed(1, false, "a"))).is_sent_again());
        let never = Known { unsettled: false, acknowledged: None };
        assert!(!compare(Some(&never), Some(&listed(1, false, "a"))).is_sent_again());
    }

    #[test]
    fn hashes_that_differ_while_commands_are_under_way_are_compared_again_but_not_for_ever() {
        assert_eq!(compare_hashes("a", "a", true, true), Hashes::Equal);
        assert_eq!(compare_hashes("a", "b", false, false), Hashes::Differ);
        assert_eq!(compare_hashes("a", "b", true, false), Hashes::Unsettled);
        assert_eq!(compare_hashes("a", "b", true, true), Hashes::Differ);
    }
}
