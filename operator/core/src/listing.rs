//! The listing: key, revision and hash of every document whose last command is *apply*. One hash over it, in hello and in
//! heartbeats, says whether both sides agree. No live object is hashed; drift is the controllers' job.

use crate::digest::RecordDigest;
use kubenova_schema::signature::sha256_hex;

/// One SHA-256 over the sorted listing.
#[must_use]
pub fn sha256<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> String {
    let mut lines: Vec<String> = records.into_iter().filter_map(line).collect();
    lines.sort();
    sha256_hex(lines.concat().as_bytes())
}

fn line(record: &RecordDigest) -> Option<String> {
    if record.kind?.is_delete() {
        return None;
    }
    Some(format!("{} {} {}\n", record.key, record.revision, record.document_sha256.as_ref()?))
}

/// The record with the highest revision: its revision and command id, sent in hello.
#[must_use]
pub fn highest<'a>(records: impl IntoIterator<Item = &'a RecordDigest>) -> Option<(u64, String)> {
    let top = records.into_iter().max_by_key(|record| record.revision)?;
    Some((top.revision, top.command_id.clone()))
}
