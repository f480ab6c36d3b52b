//! The listing: what the inbox records hold. One hash over key, revision and document of every record whose last command is
//! *apply* says, in hello and in heartbeats, whether both sides agree; where they do not, the entries are sent. No live
//! object is hashed; drift is the controllers' job.

use crate::digest::RecordDigest;
use kubenova_schema::{
    mutant,
    signature::sha256_hex,
    v1::{ListingEntry, ListingPart},
};

/// Entries in one part: each is below 500 bytes, and a cluster's message is at most 256 KiB.
pub const PART_ENTRIES: usize = 500;

/// One SHA-256 over the sorted listing. Deletes and operations are not in it, so that forgetting one changes nothing.
#[must_use]
pub fn sha256<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> String {
    let mut lines: Vec<String> = records.into_iter().filter_map(line).collect();
    lines.sort();
    sha256_hex(lines.concat().as_bytes())
}

fn line(record: &RecordDigest) -> Option<String> {
    let kind = record.kind?;
    if (kind.is_delete() && !mutant::is_on("listing.deletes")) || kind.is_operation() {
        return None;
    }
    Some(format!("{} {} {}\n", record.key, record.revision, record.document_sha256.as_ref()?))
}

/// The entries of these records in the order of their keys; none of an operation, which is not sent again, nor of a record whose kind
/// or body is of a newer release.
#[must_use]
pub fn entries<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> Vec<ListingEntry> {
    all_entries(records.into_iter().filter(|record| !record.is_operation()))
}

/// The same with operations: what a Manager has to know whose database lost some.
#[must_use]
pub fn all_entries<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> Vec<ListingEntry> {
    let mut entries: Vec<ListingEntry> = records.into_iter().filter_map(entry).collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

/// A listing in messages, in order; at least one. `session` is the one in which it is wanted, `at` when the records were read.
#[must_use]
pub fn parts(cluster_id: &str, session: u64, at: &str, entries: &[ListingEntry]) -> Vec<ListingPart> {
    let begins = (0..entries.len().max(1)).step_by(PART_ENTRIES);
    let part = |begin: usize| {
        let end = entries.len().min(begin + PART_ENTRIES);
        let after_key = begin.checked_sub(1).map(|before| entries[before].key.clone());
        ListingPart {
            cluster_id: cluster_id.to_owned(),
            session,
            at: at.to_owned(),
            after_key: after_key.unwrap_or_default(),
            last: end == entries.len(),
            entries: entries[begin..end].to_vec(),
        }
    };
    begins.map(part).collect()
}

fn entry(record: &RecordDigest) -> Option<ListingEntry> {
    Some(ListingEntry {
        key: record.key.clone(),
        kind: record.kind?.as_str().to_owned(),
        revision: record.revision,
        command_id: record.command_id.clone(),
        epoch: record.epoch,
        document_sha256: record.document_sha256.clone()?,
    })
}

/// The record with the highest revision: its revision and command id, sent in hello.
#[must_use]
pub fn highest<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> Option<(u64, String)> {
    let top = records.into_iter().max_by_key(|record| record.revision)?;
    Some((top.revision, top.command_id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::kinds::CommandKind;

    fn record(key: &str, kind: CommandKind, revision: u64, document: &str) -> RecordDigest {
        RecordDigest {
            name: String::new(),
            uid: String::new(),
            resource_version: String::new(),
            kind: Some(kind),
            key: key.to_owned(),
            epoch: 1,
            revision,
            command_id: String::new(),
            command_sha256: String::new(),
            document_sha256: Some(sha256_hex(document.as_bytes())),
            stored_at: None,
            has_ended: true,
            operates_on: None,
        }
    }

    #[test]
    fn the_hash_depends_on_key_revision_and_document_of_applies_and_on_nothing_else() {
        let apply = |key, revision, document| record(key, CommandKind::ApplyTenant, revision, document);
        let (a, b) = (apply("tenant/a", 1, "{}"), apply("tenant/b", 2, "{}"));
        let hash = sha256([&a, &b]);
        assert_eq!(hash, sha256([&b, &a, &record("tenant/c", CommandKind::DeleteTenant, 3, "{}")]));
        assert_ne!(hash, sha256([&a]));
        for other in [apply("tenant/x", 2, "{}"), apply("tenant/b", 3, "{}"), apply("tenant/b", 2, "{ }")] {
            assert_ne!(hash, sha256([&a, &other]));
        }
        assert_eq!(sha256([]), sha256_hex(b""));
    }

    #[test]
    fn operations_are_in_no_listing() {
        let operation = record("operation/0198", CommandKind::RestartWorkflow, 7, "{}");
        assert_eq!(sha256([&operation]), sha256([]));
        assert_eq!(entries([&operation]), []);
        assert_eq!(all_entries([&operation])[0].key, "operation/0198", "but what a database lost is everything");
    }

    #[test]
    fn entries_come_in_the_order_of_their_keys_with_deletes_among_them() {
        let records = [
            record("tenant/b", CommandKind::DeleteTenant, 2, "{}"),
            record("tenant/a", CommandKind::ApplyTenant, 1, "{}"),
        ];
        let entries = entries(&records);
        let seen: Vec<_> = entries.iter().map(|one| (one.key.as_str(), one.kind.as_str(), one.revision)).collect();
        assert_eq!(seen, [("tenant/a", "apply-tenant", 1), ("tenant/b", "delete-tenant", 2)]);
        assert_eq!(entries[0].document_sha256, sha256_hex(b"{}"));
    }

    #[test]
    fn parts_follow_each_other_and_the_last_says_so() {
        let entry = |number: usize| ListingEntry { key: format!("tenant/{number:04}"), ..ListingEntry::default() };
        for (count, lengths) in
            [(0, vec![0]), (PART_ENTRIES, vec![PART_ENTRIES]), (PART_ENTRIES + 1, vec![PART_ENTRIES, 1])]
        {
            let entries: Vec<ListingEntry> = (0..count).map(entry).collect();
            let parts = parts("c1", 3, "t", &entries);
            assert_eq!(parts.iter().map(|part| part.entries.len()).collect::<Vec<_>>(), lengths);
            let mut after = String::new();
            for (number, part) in parts.iter().enumerate() {
                assert_eq!((part.after_key.as_str(), part.last), (after.as_str(), number + 1 == lengths.len()));
                after = part.entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
            }
            assert_eq!(parts.into_iter().flat_map(|part| part.entries).collect::<Vec<_>>(), entries);
        }
    }
}
