//! Takes in the listings of clusters that hold something else than Postgres expects: what is missing or outdated there is
//! enqueued again, what was deleted is deleted again, and what is unknown is recorded.
//!
//! Each part stands for itself, so parts of one listing may reach different Managers. Before it: `open.rs` asked for the
//! listing in its answer. After it: the relay.

use super::{Sessions, Subscribed, subscribe};
use async_nats::Message;
use kubenova_bus::Connection;
use kubenova_core::{
    cluster::ClusterId,
    listing::{Finding, Listed},
};
use kubenova_runtime::{clock, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    message, subjects,
    v1::{ListingAnswer, ListingEntry, ListingPart},
};
use kubenova_store::{
    listing_exchange::{self, Findings, Part},
    outbox::Issuer,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

/// Parts that are taken in at once: each takes a connection of Postgres.
const PARTS_MAX: usize = 2;
/// Parts that wait for their turn; a cluster whose part is dropped is asked for its listing again.
const WAITING_MAX: usize = 64;
/// Longest time for a part.
const PART_MAX: Duration = Duration::from_secs(25);
/// Managers that share the listings of all clusters.
const GROUP: &str = "manager-listing";
/// Name of the author of commands that are sent again.
const SUBJECT: &str = "anti-entropy";

/// Takes listings in until a stop is requested.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let sessions = Arc::new(sessions);
    let (slots, waiting) = (Arc::new(Semaphore::new(PARTS_MAX)), Arc::new(Semaphore::new(WAITING_MAX)));
    let handle = |message: Message| {
        if let Ok(place) = Arc::clone(&waiting).try_acquire_owned() {
            let (sessions, slots) = (Arc::clone(&sessions), Arc::clone(&slots));
            let cluster = subjects::cluster_of(&message.subject).unwrap_or_default().to_owned();
            let work = async move {
                let _place = place;
                let Ok(_slot) = slots.acquire().await else { return };
                answer(&sessions, &message).await;
            };
            let span = tracing::info_span!("listing", cluster.id = cluster);
            shutdown.spawn_work("take in a listing", work.instrument(span));
        }
        std::future::ready(())
    };
    let from = Subscribed { subject: subjects::every::LISTING, group: Some(GROUP) };
    subscribe(&sessions.connection, from, &shutdown, handle).await;
}

async fn answer(sessions: &Sessions, message: &Message) {
    let answer = match read(&message.subject, &message.payload) {
        Ok(part) => take(sessions, &part).await,
        Err(reason) => refusal("ListingMalformed", reason),
    };
    if !answer.accepted {
        tracing::warn!(reason = answer.reason, message = answer.message, "refused a part of a listing");
    }
    if let Some(reply) = message.reply.clone() {
        send(&sessions.connection, reply, &answer).await;
    }
}

async fn send(connection: &Connection, reply: async_nats::Subject, answer: &ListingAnswer) {
    if let Err(error) = connection.client.publish(reply, message::to_json(answer).into()).await {
        tracing::warn!(%error, "could not answer a part of a listing; the cluster is asked for it again");
    }
}

async fn take(sessions: &Sessions, part: &Part) -> ListingAnswer {
    let issuer = Issuer {
        subject: SUBJECT,
        role: "manager",
        request_id: "",
        now: clock::now(),
        new_id: random::uuid_v7,
        traceparent: None,
    };
    let take =
        sessions.store.transaction("take in a listing", async |tx| listing_exchange::take(tx, issuer, part).await);
    match tokio::time::timeout(PART_MAX, take).await {
        Ok(Ok(Some(findings))) => {
            report(&findings);
            if findings.keys().any(|finding| finding.is_sent_again()) {
                sessions.wake.notify_one();
            }
            ListingAnswer { accepted: true, ..ListingAnswer::default() }
        }
        Ok(Ok(None)) => refusal("ListingNotWanted", "the Manager wants no listing in this session".to_owned()),
        Ok(Err(error)) => refusal(super::NOT_READY, telemetry::chain(&error)),
        Err(_) => refusal(super::NOT_READY, format!("Postgres did not answer within {} s", PART_MAX.as_secs())),
    }
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

fn refusal(reason: &str, message: String) -> ListingAnswer {
    ListingAnswer { accepted: false, reason: reason.to_owned(), message }
}

/// Reads a part. Whose it is says the subject, where the broker lets only that cluster publish.
fn read(subject: &str, payload: &[u8]) -> Result<Part, String> {
    let part: ListingPart = message::from_json(payload).map_err(|error| telemetry::chain(&error))?;
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let Some(cluster_id) = cluster.filter(|cluster| cluster.as_str() == part.cluster_id) else {
        return Err(format!("it names cluster \"{}\", its subject another one", part.cluster_id));
    };
    let session = i64::try_from(part.session).map_err(|_| "its session is too large".to_owned())?;
    let mut entries = BTreeMap::new();
    for entry in part.entries {
        if ObjectKey::parse(&entry.key).is_none() {
            return Err(format!("\"{}\" is no key of an object", entry.key));
        }
        if entry.key <= part.after_key {
            return Err(format!("\"{}\" is not above the key after which the part begins", entry.key));
        }
        entries.insert(entry.key.clone(), listed(&entry)?);
    }
    Ok(Part { cluster_id, session, after_key: part.after_key, last: part.last, entries })
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
        read(&subjects::listing(cluster), &message::to_json(part))
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
