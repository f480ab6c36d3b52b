//! The audit log as a hash chain: what a record's hash is made of, and how a chain is checked.
//!
//! A record's hash covers the hash of the record before it, so that no record can be changed, removed, added or moved without
//! changing every hash after it. The form of the hashed bytes is fixed: `docs/operations/audit.md` describes it for whoever
//! checks a chain without this code.

use jiff::Timestamp;
use kubenova_schema::{mutant, signature::sha256_hex};
use uuid::Uuid;

/// Names the form of the hashed bytes; another form gets another name.
const FORM: &str = "kubenova.audit.1";
/// Stands for the hash of the record before the first one.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The action of a record that says up to where older records were deleted; its detail is a [`Head`].
pub const PRUNE: &str = "audit/prune";

/// What one record says. Never a body or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in whole microseconds, as Postgres keeps it.
    pub at: Timestamp,
    /// Who did it: a caller, a cluster or the Manager.
    pub subject: String,
    /// Role of the caller, `cluster` or `manager`.
    pub role: String,
    /// What was done: `writeTenants/create`, `command/enqueued`, `command/succeeded`.
    pub action: String,
    /// The object: `tenant/<id>`.
    pub target: String,
    /// The tenant it belongs to.
    pub tenant: Option<Uuid>,
    /// Id of the request, as in its `X-Request-Id`; empty when there was none.
    pub request_id: String,
    /// The command it is about.
    pub command: Option<Uuid>,
    /// The command's cluster; empty when it is about no command.
    pub cluster: String,
    /// The command's revision.
    pub revision: Option<i64>,
    /// SHA-256 of the command's document in hex; empty where the record does not name it.
    pub document_sha256: String,
    /// Why, where there is a reason.
    pub detail: String,
}

impl Record {
    /// The hash of this record after the one with the hash `previous`, in hex.
    #[must_use]
    pub fn sha256(&self, previous: &str) -> String {
        sha256_hex(&self.hashed_bytes(previous))
    }

    /// Every field as a netstring (its length in bytes, a colon, its bytes, a comma), in a fixed order; what is absent is
    /// empty. No two records have the same bytes.
    fn hashed_bytes(&self, previous: &str) -> Vec<u8> {
        let optional = |value: Option<String>| value.unwrap_or_default();
        let fields = [
            FORM.to_owned(),
            previous.to_owned(),
            format!("{:.6}", self.at),
            self.subject.clone(),
            self.role.clone(),
            self.action.clone(),
            self.target.clone(),
            optional(self.tenant.map(|id| id.to_string())),
            self.request_id.clone(),
            optional(self.command.map(|id| id.to_string())),
            self.cluster.clone(),
            optional(self.revision.map(|revision| revision.to_string())),
            self.document_sha256.clone(),
            self.detail.clone(),
        ];
        fields.iter().flat_map(|field| format!("{}:{field},", field.len()).into_bytes()).collect()
    }
}

/// A record with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedRecord {
    /// Its place, from 1.
    pub position: i64,
    /// What it says.
    pub record: Record,
    /// Hash of the record before, as stored.
    pub previous_sha256: String,
    /// Its own hash, as stored.
    pub sha256: String,
}

/// A place in a chain with its hash, written `<position>:<hash>`: who knows it from elsewhere knows everything before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Position of a record; 0 before the first.
    pub position: i64,
    /// Its hash in hex.
    pub sha256: String,
}

impl Head {
    /// The head of a chain without records.
    #[must_use]
    pub fn none() -> Self {
        Self { position: 0, sha256: NO_HASH.to_owned() }
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (position, sha256) = text.split_once(':')?;
        let position = position.parse().ok().filter(|position| *position >= 0)?;
        let is_hash =
            sha256.len() == NO_HASH.len() && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| Self { position, sha256: sha256.to_owned() })
    }

    /// The records that follow this one, linked.
    #[must_use]
    pub fn link(&self, records: Vec<Record>) -> Vec<LinkedRecord> {
        let mut head = self.clone();
        let link = |record: Record| {
            let sha256 = record.sha256(&head.sha256);
            let previous_sha256 = std::mem::replace(&mut head.sha256, sha256.clone());
            head.position += 1;
            LinkedRecord { position: head.position, record, previous_sha256, sha256 }
        };
        records.into_iter().map(link).collect()
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.position, self.sha256)
    }
}

/// The first record at which a chain is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Records are missing; both ends included.
    Missing {
        /// The first.
        first: i64,
        /// The last.
        last: i64,
    },
    /// The content or the hash of a record was changed.
    Changed {
        /// The record.
        position: i64,
        /// Its time, as it stands there now.
        at: Timestamp,
    },
    /// A record is not the one that was written after the record before it.
    Misplaced {
        /// The record.
        position: i64,
        /// Its time.
        at: Timestamp,
    },
    /// The chain begins later than the records of deletions on schedule say.
    NotPruned {
        /// The last record that is gone.
        position: i64,
    },
    /// A record has another hash than the one that was noted elsewhere.
    OtherHead {
        /// The record.
        position: i64,
        /// Its hash in the chain.
        found: String,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { first, last } if first == last => write!(f, "record {first} is missing"),
            Self::Missing { first, last } => write!(f, "records {first} to {last} are missing"),
            Self::Changed { position, at } => {
                write!(f, "record {position} of {at} was changed: its content does not have its hash")
            }
            Self::Misplaced { position, at } => write!(
                f,
                "record {position} of {at} does not follow the record before it: the order was changed, or record {} was replaced together with its hash",
                position - 1
            ),
            Self::NotPruned { position } => write!(
                f,
                "the records up to {position} are missing, and no record says that they were deleted on schedule"
            ),
            Self::OtherHead { position, found } => write!(
                f,
                "record {position} has the hash {found}, not the expected one: the chain was written again from that record or an earlier one"
            ),
        }
    }
}

/// Walks a chain from its begin, or from a record that is known to be right.
#[derive(Debug, Clone)]
pub struct Verifier {
    begin: Head,
    head: Head,
    expected: Option<Head>,
    pruned: Option<Head>,
}

impl Verifier {
    /// Begins after this record. At `expected` the chain must have the hash that was noted.
    #[must_use]
    pub fn new(begin: Head, expected: Option<Head>) -> Self {
        Self { head: begin.clone(), begin, expected, pruned: None }
    }

    /// The last record that was checked.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// With the first fault.
    pub fn check(&mut self, linked: &LinkedRecord) -> Result<(), Fault> {
        let LinkedRecord { position, record, previous_sha256, sha256 } = linked;
        let (position, at, next) = (*position, record.at, self.head.position + 1);
        if position != next {
            return Err(Fault::Missing { first: next, last: position - 1 });
        }
        if record.sha256(previous_sha256) != *sha256 {
            return Err(Fault::Changed { position, at });
        }
        if *previous_sha256 != self.head.sha256 && !mutant::is_on("audit.order") {
            return Err(Fault::Misplaced { position, at });
        }
        self.head = Head { position, sha256: sha256.clone() };
        if record.action == PRUNE {
            self.pruned = Head::parse(&record.detail).or(self.pruned.take());
        }
        match &self.expected {
            Some(expected) if expected.position == position && expected.sha256 != *sha256 => {
                Err(Fault::OtherHead { position, found: sha256.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Checks the end: nothing may be missing there, and what is missing at the begin must have been deleted on schedule.
    /// `whole` is false when the walk began at a record that the caller knows.
    ///
    /// # Errors
    /// With the fault.
    pub fn finish(self, whole: bool) -> Result<Head, Fault> {
        let Self { begin, head, expected, pruned } = self;
        if whole && begin.position > 0 && pruned.as_ref() != Some(&begin) {
            return Err(Fault::NotPruned { position: begin.position });
        }
        match expected {
            Some(expected) if expected.position > head.position => {
                Err(Fault::Missing { first: head.position + 1, last: expected.position })
            }
            Some(expected) if expected.position == begin.position && expected.sha256 != begin.sha256 => {
                Err(Fault::OtherHead { position: begin.position, found: begin.sha256 })
            }
            _ => Ok(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(second: i64) -> Record {
        Record {
            at: Timestamp::from_second(second).unwrap(),
            subject: "ann".into(),
            role: "ops".into(),
            action: "writeTenants/create".into(),
            target: "tenant/1".into(),
            tenant: None,
            request_id: "r".into(),
            command: None,
            cluster: String::new(),
            revision: None,
            document_sha256: String::new(),
            detail: String::new(),
        }
    }

    fn chain() -> Vec<LinkedRecord> {
        Head::none().link((0..6).map(record).collect())
    }

    fn verify(chain: &[LinkedRecord], expected: Option<Head>) -> Result<Head, Fault> {
        let mut verifier = Verifier::new(Head::none(), expected);
        chain.iter().try_for_each(|linked| verifier.check(linked))?;
        verifier.finish(true)
    }

    fn head_of(linked: &LinkedRecord) -> Head {
        Head { position: linked.position, sha256: linked.sha256.clone() }
    }

    #[test]
    fn the_hashed_bytes_are_those_of_the_document() {
        let text = String::from_utf8(record(0).hashed_bytes(NO_HASH)).unwrap();
        let expected = format!(
            "16:kubenova.audit.1,64:{NO_HASH},27:1970-01-01T00:00:00.000000Z,3:ann,3:ops,19:writeTenants/create,\
             8:tenant/1,0:,1:r,0:,0:,0:,0:,0:,"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn every_field_changes_the_hash() {
        let id = Some(Uuid::from_u128(7));
        let changed = [
            Record { at: Timestamp::from_microsecond(1).unwrap(), ..record(0) },
            Record { subject: "bob".into(), ..record(0) },
            Record { role: "admin".into(), ..record(0) },
            Record { action: "writeTenants/delete".into(), ..record(0) },
            Record { target: "tenant/2".into(), ..record(0) },
            Record { tenant: id, ..record(0) },
            Record { request_id: "s".into(), ..record(0) },
            Record { command: id, ..record(0) },
            Record { cluster: "c".into(), ..record(0) },
            Record { revision: Some(1), ..record(0) },
            Record { document_sha256: "0".into(), ..record(0) },
            Record { detail: "d".into(), ..record(0) },
        ];
        for other in changed {
            assert_ne!(other.sha256(NO_HASH), record(0).sha256(NO_HASH), "{other:?}");
        }
        assert_ne!(record(0).sha256(NO_HASH), record(0).sha256(&"1".repeat(64)));
    }

    #[test]
    fn an_untouched_chain_verifies_up_to_its_head() {
        let chain = chain();
        let head = head_of(&chain[5]);
        assert_eq!(verify(&chain, None), Ok(head.clone()));
        assert_eq!(verify(&chain, Some(head_of(&chain[2]))), Ok(head));
        assert_eq!(verify(&[], None), Ok(Head::none()));
    }

    #[test]
    fn each_kind_of_tampering_is_found_at_its_record() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut changed = chain();
        changed[3].record.subject = "bob".into();
        assert_eq!(verify(&changed, None), Err(Fault::Changed { position: 4, at: at(3) }));

        let mut replaced = chain();
        replaced[3].record.subject = "bob".into();
        replaced[3].sha256 = replaced[3].record.sha256(&replaced[3].previous_sha256);
        assert_eq!(verify(&replaced, None), Err(Fault::Misplaced { position: 5, at: at(4) }));

        let mut missing = chain();
        missing.drain(2..4);
        assert_eq!(verify(&missing, None), Err(Fault::Missing { first: 3, last: 4 }));

        let mut swapped = chain();
        swapped.swap(2, 3);
        (swapped[2].position, swapped[3].position) = (3, 4);
        assert_eq!(verify(&swapped, None), Err(Fault::Misplaced { position: 3, at: at(3) }));

        let mut closed_up = chain();
        closed_up.remove(2);
        for (linked, position) in closed_up.iter_mut().zip(1..) {
            linked.position = position;
        }
        assert_eq!(verify(&closed_up, None), Err(Fault::Misplaced { position: 3, at: at(3) }));
    }

    #[test]
    fn only_a_head_noted_elsewhere_shows_a_cut_end_and_a_chain_that_was_written_again() {
        let chain = chain();
        let noted = head_of(&chain[5]);
        assert_eq!(verify(&chain[..4], Some(noted.clone())), Err(Fault::Missing { first: 5, last: 6 }));
        let again = Head::none().link((10..16).map(record).collect());
        assert!(verify(&again, None).is_ok());
        let other = verify(&again, Some(noted));
        assert_eq!(other, Err(Fault::OtherHead { position: 6, found: again[5].sha256.clone() }));
    }

    #[test]
    fn a_missing_begin_is_right_only_when_the_chain_says_that_it_was_pruned() {
        let whole = chain();
        let start = head_of(&whole[2]);
        let pruned = Record { action: PRUNE.into(), detail: start.to_string(), ..record(9) };
        let walk = |records: &[LinkedRecord]| {
            let mut verifier = Verifier::new(start.clone(), None);
            records.iter().try_for_each(|linked| verifier.check(linked))?;
            verifier.finish(true)
        };
        assert_eq!(walk(&whole[3..]), Err(Fault::NotPruned { position: 3 }));
        let mut said = whole.clone();
        said.extend(head_of(&whole[5]).link(vec![pruned]));
        assert_eq!(walk(&said[3..]), Ok(head_of(&said[6])));
    }

    #[test]
    fn heads_read_back_and_other_texts_do_not() {
        let head = Head { position: 12, sha256: "a".repeat(64) };
        assert_eq!(Head::parse(&head.to_string()), Some(head));
        for bad in ["", "12", "12:abc", &format!("-1:{NO_HASH}"), &format!("1:{}", "A".repeat(64))] {
            assert_eq!(Head::parse(bad), None, "{bad}");
        }
    }
}
