//! The listing: key, revision and hash of every document whose last command is *apply*. One hash over it, in hello and in
//! heartbeats, says whether both sides agree. No live object is hashed; drift is the controllers' job.

use kubenova_crds::command::NovaCommand;
use kubenova_schema::{kinds::CommandKind, message, signature::sha256_hex, v1::Command};

/// One SHA-256 over the sorted listing.
#[must_use]
pub fn sha256<'a>(records: impl IntoIterator<Item = &'a NovaCommand>) -> String {
    let mut lines: Vec<String> = records.into_iter().filter_map(line).collect();
    lines.sort();
    sha256_hex(lines.concat().as_bytes())
}

fn line(record: &NovaCommand) -> Option<String> {
    let spec = &record.spec;
    if CommandKind::parse(&spec.kind)?.is_delete() {
        return None;
    }
    let command: Command = message::from_json(spec.body.as_bytes()).ok()?;
    Some(format!("{} {} {}\n", spec.key, spec.revision, sha256_hex(command.document.as_bytes())))
}

/// The record with the highest revision: its revision and command id, sent in hello.
#[must_use]
pub fn highest<'a>(records: impl IntoIterator<Item = &'a NovaCommand>) -> Option<(u64, String)> {
    let top = records.into_iter().max_by_key(|record| record.spec.revision)?;
    Some((u64::try_from(top.spec.revision).ok()?, top.spec.command_id.clone()))
}
