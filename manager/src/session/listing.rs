//! Takes in the listings of clusters that hold something else than Postgres expects: what is missing or outdated there is
//! enqueued again, what was deleted is deleted again, and what is unknown is recorded.
//!
//! Each part stands for itself, so parts of one listing may reach different Managers. Before it: `open.rs` asked for the
//! listing in its answer. After it: the relay.

use super::{
    Sessions, Subscribed,
    parts::{self, refusal},
    records,
};
use async_nats::Message;
use kubenova_core::{
    command::CommandId,
    listing::{Finding, Listed},
    recovery::ListedRecord,
};
use kubenova_runtime::{clock, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    message, subjects,
    v1::{ListingAnswer, ListingEntry, ListingPart},
};
use kubenova_store::{
    diverged_records::RecordsListed,
    listing_exchange::{self, Findings, Part},
    outbox::Issuer,
};
use std::collections::BTreeMap;

/// Managers that share the listings of all clusters.
const GROUP: &str = "manager-listing";
/// Name of the author of commands that are sent again.
const SUBJECT: &str = "anti-entropy";

/// Takes listings in until a stop is requested.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let from = Subscribed { subject: subjects::every::LISTING, group: Some(GROUP) };
    parts::run(sessions, from, shutdown, |sessions, message| Box::pin(answer(sessions, message))).await;
}

async fn answer(sessions: &Sessions, message: &Message) -> ListingAnswer {
    match read(&message.subject, &message.payload) {
        Ok(Read::InSession(part)) => take(sessions, &part).await,
        Ok(Read::Diverged(part)) => records::take_listing(sessions, &part).await,
        Err(reason) => refusal("ListingMalformed", reason),
    }
}

async fn take(sessions: &Sessions, part: &Part) -> ListingAnswer {
    let issuer = Issuer::without_request(SUBJECT, "manager", clock::now(), random::uuid_v7);
    let take = async {
        let taken = sessions
            .store
            .transaction("take in a listing", async |tx| listing_exchange::take(tx, issuer, part).await)
            .await?;
        let Some(findings) = taken else {
            return Ok(refusal("ListingNotWanted", "the Manager wants no listing in this session".to_owned()));
        };
        report(&findings);
        if findings.keys().any(|finding| finding.is_sent_again()) {
            sessions.signals.cluster(&part.cluster_id);
        }
        Ok(parts::taken())
    };
    parts::in_time(take).await
}

fn report(findings: &Findings) {
    let count = |finding: Finding| findings.get(&finding).copied().unwrap_or_default();
    tracing::info!(
        in_sync = count(Finding::InSync),
        missing = count(Finding::Missing),
        outdated = count(Finding::Outdated),
        undeleted = count(Finding::Undeleted),
        unknown = count(Finding::Unknown),
        ahead = count(Finding::Ahead),
        unsettled = count(Finding::Unsettled),
        "compared the listing of a cluster: what is missing or outdated there is sent again, what was deleted is deleted again"
    );
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Read {
    /// Anti-entropy.
    InSession(Part),
    /// Of a cluster that holds what this database lost.
    Diverged(RecordsListed),
}

fn read(subject: &str, payload: &[u8]) -> Result<Read, String> {
    let part: ListingPart = message::from_json(payload).map_err(|error| telemetry::chain(&error))?;
    let cluster_id = parts::sender(subject, &part.cluster_id)?;
    let session = i64::try_from(part.session).map_err(|_| "its session is too large".to_owned())?;
    let (mut entries, mut records) = (BTreeMap::new(), BTreeMap::new());
    for entry in part.entries {
        if ObjectKey::parse(&entry.key).is_none() {
            return Err(format!("\"{}\" is no key of an object", entry.key));
        }
        if entry.key <= part.after_key {
            return Err(format!("\"{}\" is not above the key after which the part begins", entry.key));
        }
        if session == 0 {
            records.insert(entry.key.clone(), record(&entry)?);
        } else {
            entries.insert(entry.key.clone(), listed(&entry)?);
        }
    }
    let (after_key, last) = (part.after_key, part.last);
    if session > 0 {
        return Ok(Read::InSession(Part { cluster_id, session, after_key, last, entries }));
    }
    Ok(Read::Diverged(RecordsListed { cluster_id, after_key, last, records: records.into_values().collect() }))
}

/// An entry with what names its command.
fn record(entry: &ListingEntry) -> Result<ListedRecord, String> {
    let Listed { document_sha256, .. } = listed(entry)?;
    let id = CommandId::parse(&entry.command_id);
    let (Some(command_id), Ok(revision @ 1..)) = (id, i64::try_from(entry.revision)) else {
        return Err(format!("the command id or revision of \"{}\" is malformed", entry.key));
    };
    if CommandKind::parse(&entry.kind).is_none() {
        return Err(format!("the kind of \"{}\" is not known to this release of the Manager", entry.key));
    }
    Ok(ListedRecord { key: entry.key.clone(), kind: entry.kind.clone(), revision, command_id, document_sha256 })
}

fn listed(entry: &ListingEntry) -> Result<Listed, String> {
    let is_hash =
        entry.document_sha256.len() == 64 && entry.document_sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hash || i64::try_from(entry.revision).is_err() {
        return Err(format!("the revision or hash of \"{}\" is malformed", entry.key));
    }
    Ok(Listed {
        revision: entry.revision,
        is_delete: CommandKind::parse(&entry.kind).is_some_and(CommandKind::is_delete),
        document_sha256: entry.document_sha256.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

    fn part(entries: Vec<ListingEntry>) -> ListingPart {
        ListingPart { cluster_id: CLUSTER.to_owned(), session: 3, last: true, entries, ..ListingPart::default() }
    }

    fn entry(key: &str) -> ListingEntry {
        ListingEntry {
            key: key.to_owned(),
            kind: "apply-tenant".to_owned(),
            revision: 7,
            document_sha256: "a".repeat(64),
            ..ListingEntry::default()
        }
    }

    fn read_as(cluster: &str, part: &ListingPart) -> Result<Part, String> {
        match read(&subjects::listing(cluster), &message::to_json(part))? {
            Read::InSession(part) => Ok(part),
            Read::Diverged(_) => Err("of no session".to_owned()),
        }
    }

    #[test]
    fn a_part_without_a_session_names_the_commands_that_the_cluster_holds() {
        let id = "01930000-0000-7000-8000-000000000001";
        let read_entry = |entry| {
            let part = ListingPart { session: 0, ..part(vec![entry]) };
            read(&subjects::listing(CLUSTER), &message::to_json(&part))
        };
        let good = ListingEntry { command_id: id.to_owned(), ..entry("tenant/a") };
        let Ok(Read::Diverged(read)) = read_entry(good.clone()) else { panic!("a part without a session") };
        assert_eq!((read.records[0].command_id.to_string().as_str(), read.records[0].revision), (id, 7));
        for (broken, word) in [
            (entry("tenant/a"), "command id"),
            (ListingEntry { revision: 0, ..good.clone() }, "revision"),
            (ListingEntry { kind: "drop".to_owned(), ..good }, "kind"),
        ] {
            let error = read_entry(broken).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_part_is_read_with_its_entries_by_key() {
        let read = read_as(CLUSTER, &part(vec![entry("tenant/b"), entry("tenant/a")])).unwrap();
        assert_eq!((read.session, read.last, read.entries.len()), (3, true, 2));
        assert_eq!(read.entries["tenant/a"].revision, 7);
    }

    #[test]
    fn only_its_own_cluster_may_send_it_and_only_whole() {
        let other = read_as("c1123456789abcdefghjkmnpqrs", &part(Vec::new()));
        assert!(other.unwrap_err().contains("another"), "the subject decides");
        for (broken, word) in [
            (part(vec![entry("secret/x")]), "no key"),
            (part(vec![ListingEntry { document_sha256: "x".into(), ..entry("tenant/a") }]), "malformed"),
            (part(vec![ListingEntry { revision: u64::MAX, ..entry("tenant/a") }]), "malformed"),
            (ListingPart { after_key: "tenant/b".into(), ..part(vec![entry("tenant/a")]) }, "not above"),
        ] {
            let error = read_as(CLUSTER, &broken).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
