//! Anti-entropy key by key: the listing that a cluster sent beside what it acknowledged, and what is sent again.
//!
//! Before it: `listings.rs` found that the hashes differ, `manager/src/session/listing.rs` brings the listing in parts. After it:
//! the relay sends what was enqueued again.

use crate::{
    error::{StoreError, failed},
    listings::{SETTLED_AFTER, before},
    outbox::{self, Issuer},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::CommandId,
    listing::{self, Acknowledged, Finding, Known, Listed},
};
use kubenova_schema::mutant;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// Unknown objects that are kept of one cluster.
pub const UNKNOWN_MAX: i64 = 1000;

/// A part of a cluster's listing: every key above `after_key` up to that of its last entry, or to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The session in which it was sent.
    pub session: i64,
    /// Where it begins; empty for the first.
    pub after_key: String,
    /// Whether it goes up to the end.
    pub last: bool,
    /// What the cluster holds, by key.
    pub entries: BTreeMap<String, Listed>,
}

impl Part {
    fn covers(&self, key: &str) -> bool {
        let end = self.entries.last_key_value().map(|(key, _)| key.as_str());
        key > self.after_key.as_str() && (self.last || end.is_some_and(|end| key <= end))
    }
}

/// How many keys of a part had each finding.
pub type Findings = BTreeMap<Finding, i64>;

/// Takes a part in: what is missing or outdated is enqueued again, what was deleted is deleted again, what is unknown is
/// recorded. None when no listing of this session is wanted.
pub async fn take(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    part: &Part,
) -> Result<Option<Findings>, StoreError> {
    // Before anything is read: a change that is written meanwhile must not end up below what is sent again.
    if !mutant::is_on("listing.unlocked") {
        outbox::lock_cluster(&mut *connection, &part.cluster_id).await?;
    }
    let wanted = sqlx::query_scalar!(
        "select wanted_in_session from listings where cluster_id = $1 for update",
        part.cluster_id.as_str()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("read whether a listing is wanted"))?;
    if wanted.flatten() != Some(part.session) {
        return Ok(None);
    }
    let known = known(&mut *connection, &part.cluster_id, issuer.now).await?;
    let keys = known.keys().chain(part.entries.keys()).filter(|key| part.covers(key));
    let keys: BTreeSet<&String> = keys.collect();
    let mut findings = Findings::new();
    let (mut again, mut shown) = (Vec::new(), Vec::new());
    for key in keys {
        let (known, listed) = (known.get(key), part.entries.get(key));
        let finding = listing::compare(known.map(|known| &known.state), listed);
        *findings.entry(finding).or_default() += 1;
        if let (true, Some(known)) = (finding.is_sent_again(), known) {
            again.extend(known.command.map(|command| (known.revision, command)));
        }
        if let (true, Some(listed)) = (finding.is_shown(), listed) {
            shown.push((key.as_str(), finding, listed));
        }
    }
    again.sort_by_key(|(revision, _)| *revision);
    let again: Vec<CommandId> = again.into_iter().map(|(_, command)| command).collect();
    outbox::enqueue_again(&mut *connection, issuer, &part.cluster_id, &again, None).await?;
    record_unknown(&mut *connection, part, &shown, issuer.now).await?;
    record_findings(connection, part, &findings, issuer.now).await?;
    Ok(Some(findings))
}

/// What is known about a key, and the command that is sent again if need be.
struct KnownKey {
    state: Known,
    revision: i64,
    command: Option<CommandId>,
}

async fn known(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    now: Timestamp,
) -> Result<BTreeMap<String, KnownKey>, StoreError> {
    let rows = sqlx::query!(
        r#"select object_key as "object_key!",
                  is_open or changed_at > $2 or last_state = 'refused' as "unsettled!",
                  command_id, revision, is_delete, document_sha256
           from cluster_documents($1)"#,
        cluster.as_str(),
        before(now, SETTLED_AFTER).to_sqlx(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read what a cluster was commanded"))?;
    let known = rows.into_iter().map(|row| {
        let revision = row.revision.unwrap_or_default();
        let acknowledged = row.command_id.map(|_| Acknowledged {
            revision: u64::try_from(revision).unwrap_or_default(),
            is_delete: row.is_delete.unwrap_or_default(),
            document_sha256: row.document_sha256.unwrap_or_default(),
        });
        let state = Known { unsettled: row.unsettled, acknowledged };
        (row.object_key, KnownKey { state, revision, command: row.command_id.map(CommandId) })
    });
    Ok(known.collect())
}

/// Replaces what is recorded of the part's keys.
async fn record_unknown(
    connection: &mut PgConnection,
    part: &Part,
    shown: &[(&str, Finding, &Listed)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let keys: Vec<String> = shown.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let end = part.entries.last_key_value().map(|(key, _)| key.clone()).filter(|_| !part.last);
    sqlx::query!(
        r#"delete from unknown_objects
           where cluster_id = $1 and object_key > $2 collate "C" and ($3::text is null or object_key <= $3 collate "C")
             and object_key <> all($4)"#,
        part.cluster_id.as_str(),
        part.after_key,
        end,
        &keys,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("forget unknown objects"))?;
    let findings: Vec<String> = shown.iter().map(|(_, finding, _)| finding.as_str().to_owned()).collect();
    let revisions: Vec<i64> =
        shown.iter().map(|(.., listed)| i64::try_from(listed.revision).unwrap_or(i64::MAX)).collect();
    let hashes: Vec<String> = shown.iter().map(|(.., listed)| listed.document_sha256.clone()).collect();
    sqlx::query!(
        "insert into unknown_objects (cluster_id, object_key, finding, revision, document_sha256, first_seen_at, last_seen_at)
         select $1, new.object_key, new.finding, new.revision, new.sha256, $6, $6
         from unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) as new (object_key, finding, revision, sha256)
         limit greatest($7 - (select count(*) from unknown_objects where cluster_id = $1 and object_key <> all($2)), 0)
         on conflict (cluster_id, object_key) do update
            set finding = excluded.finding, revision = excluded.revision, document_sha256 = excluded.document_sha256,
                last_seen_at = excluded.last_seen_at",
        part.cluster_id.as_str(),
        &keys,
        &findings,
        &revisions,
        &hashes,
        now.to_sqlx(),
        UNKNOWN_MAX,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record unknown objects"))
}

/// Adds the findings of a part to those of the parts before it.
async fn record_findings(
    connection: &mut PgConnection,
    part: &Part,
    findings: &Findings,
    now: Timestamp,
) -> Result<(), StoreError> {
    let names: Vec<String> = findings.keys().map(|finding| finding.as_str().to_owned()).collect();
    let counts: Vec<i64> = findings.values().copied().collect();
    sqlx::query!(
        "update listings set exchanged_at = $2,
                wanted_in_session = case when $3 then null else wanted_in_session end,
                findings = (select coalesce(jsonb_object_agg(name, total), '{}')
                            from (select name, sum(number) as total from (
                                     select key as name, value::bigint as number
                                     from jsonb_each_text(case when $4 then '{}' else listings.findings end)
                                     union all
                                     select * from unnest($5::text[], $6::bigint[])) as both_parts
                                  group by name) as added)
         where cluster_id = $1",
        part.cluster_id.as_str(),
        now.to_sqlx(),
        part.last,
        part.after_key.is_empty(),
        &names,
        &counts,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record what a listing showed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, issuer, tenant},
        listings::{at_hello, state, testing::*},
    };
    use kubenova_core::change::Change;
    use kubenova_schema::signature::sha256_hex;
    use uuid::Uuid;

    fn part(cluster: &ClusterId, entries: BTreeMap<String, Listed>) -> Part {
        Part { cluster_id: cluster.clone(), session: 2, after_key: String::new(), last: true, entries }
    }

    fn key(inbox: &BTreeMap<String, Listed>, at: usize) -> String {
        inbox.keys().nth(at).unwrap().clone()
    }

    /// Asks for the listing at a hello and takes this one.
    async fn exchange(
        fixture: &Fixture,
        cluster: &ClusterId,
        entries: BTreeMap<String, Listed>,
        now: Timestamp,
    ) -> Findings {
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(at_hello(&mut connection, cluster, &sha256_of(&entries), 2, now).await.unwrap(), "they differ");
        let issuer = Issuer { now, ..issuer() };
        take(&mut connection, issuer, &part(cluster, entries)).await.unwrap().expect("it is wanted")
    }

    async fn open_commands(fixture: &Fixture) -> Vec<(String, String)> {
        sqlx::query_as("select kind, object_key from commands where state = 'queued' order by revision")
            .fetch_all(&mut *fixture.store.acquire().await.unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_a_restored_cluster_lost_is_sent_again_and_what_it_revived_is_deleted_again() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let mut held = inbox(&fixture, &cluster).await;
        let (outdated, missing, undeleted) = (key(&held, 0), key(&held, 1), key(&held, 2));
        // As an earlier copy of its etcd: tenant 1 as it was before, tenant 2 not yet there, tenant 3 not yet deleted.
        held.get_mut(&outdated).unwrap().document_sha256 = sha256_hex(b"as it was");
        held.remove(&missing);
        *held.get_mut(&undeleted).unwrap() =
            Listed { revision: 3, is_delete: false, document_sha256: sha256_hex(b"3") };
        let findings = exchange(&fixture, &cluster, held, later(0)).await;
        assert_eq!(findings, Findings::from([(Finding::Missing, 1), (Finding::Outdated, 1), (Finding::Undeleted, 1)]));
        let again = [("apply-tenant", &outdated), ("apply-tenant", &missing), ("delete-tenant", &undeleted)];
        let again = again.map(|(kind, key)| (kind.to_owned(), key.clone()));
        assert_eq!(open_commands(&fixture).await, again, "in the order of their revisions");
        // While they are under way the difference is explained.
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(!at_hello(&mut connection, &cluster, "other", 3, later(90)).await.unwrap());
        fixture.execute(ALL_SUCCEED).await;
        let held = sha256_of(&inbox(&fixture, &cluster).await);
        assert!(!at_hello(&mut connection, &cluster, &held, 4, later(600)).await.unwrap());
        assert_eq!(state(&mut connection, &cluster).await.unwrap().in_sync_at, Some(later(600)));
    }

    #[tokio::test]
    async fn a_change_that_is_written_meanwhile_stands_above_what_is_sent_again() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = BTreeMap::new();
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(at_hello(&mut connection, &cluster, &sha256_of(&held), 2, later(0)).await.unwrap());
        let (mut writer, mut exchange) = (fixture.begin().await, fixture.begin().await);
        let changed = Change::Tenant(tenant(1));
        let written = outbox::enqueue_commands(&mut writer, issuer(), std::slice::from_ref(&cluster), &changed);
        let written = written.await.unwrap().remove(0);
        let blocked = fixture.blocked(&mut exchange).await;
        let commit = async {
            blocked.await;
            writer.commit().await.unwrap();
        };
        let empty = part(&cluster, held);
        let (taken, ()) = tokio::join!(take(&mut exchange, Issuer { now: later(0), ..issuer() }, &empty), commit);
        assert_eq!(
            taken.unwrap(),
            Some(Findings::from([(Finding::Unsettled, 1), (Finding::Missing, 1), (Finding::InSync, 1)]))
        );
        exchange.commit().await.unwrap();
        let newest: Uuid = sqlx::query_scalar(
            "select id from commands where object_key = (select object_key from commands where id = $1)
             order by revision desc limit 1",
        )
        .bind(written.command_id.0)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        assert_eq!(newest, written.command_id.0);
    }

    #[tokio::test]
    async fn what_postgres_does_not_know_is_shown_and_kept_until_it_is_gone() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = inbox(&fixture, &cluster).await;
        let mut with_unknown = held.clone();
        let unknown = Listed { revision: 90, is_delete: false, document_sha256: sha256_hex(b"{}") };
        with_unknown.insert("tenant/unknown".to_owned(), unknown.clone());
        with_unknown.get_mut(&key(&held, 0)).unwrap().revision = 91;
        let findings = exchange(&fixture, &cluster, with_unknown.clone(), later(0)).await;
        assert_eq!(findings, Findings::from([(Finding::Ahead, 1), (Finding::InSync, 2), (Finding::Unknown, 1)]));
        assert_eq!(open_commands(&fixture).await, []);
        let mut connection = fixture.store.acquire().await.unwrap();
        let shown = state(&mut connection, &cluster).await.unwrap().unknown;
        let shown: Vec<_> = shown.iter().map(|one| (one.object_key.as_str(), one.finding.as_str())).collect();
        assert_eq!(shown, [(key(&held, 0).as_str(), "Ahead"), ("tenant/unknown", "Unknown")]);
        // Known to be unknown: not asked for again.
        assert!(!at_hello(&mut connection, &cluster, &sha256_of(&with_unknown), 3, later(600)).await.unwrap());
        // Without them the cluster is as it should be.
        exchange(&fixture, &cluster, held, later(1200)).await;
        assert_eq!(state(&mut connection, &cluster).await.unwrap().unknown, []);
    }

    #[tokio::test]
    async fn only_the_listing_that_was_asked_for_is_taken_and_only_once() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let empty = part(&cluster, BTreeMap::new());
        let issuer = Issuer { now: later(0), ..issuer() };
        assert_eq!(take(&mut connection, issuer, &empty).await.unwrap(), None, "never asked");
        assert!(at_hello(&mut connection, &cluster, &sha256_hex(b""), 2, later(0)).await.unwrap());
        let earlier = Part { session: 1, ..empty.clone() };
        assert_eq!(take(&mut connection, issuer, &earlier).await.unwrap(), None, "an earlier session");
        assert_eq!(take(&mut connection, issuer, &empty).await.unwrap().unwrap()[&Finding::Missing], 2);
        assert_eq!(take(&mut connection, issuer, &empty).await.unwrap(), None, "once");
        assert_eq!(open_commands(&fixture).await.len(), 2);
    }

    #[tokio::test]
    async fn each_part_decides_about_its_own_keys() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = inbox(&fixture, &cluster).await;
        let first = key(&held, 0);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(at_hello(&mut connection, &cluster, &sha256_hex(b""), 2, later(0)).await.unwrap());
        let issuer = Issuer { now: later(0), ..issuer() };
        let one = Part { last: false, ..part(&cluster, BTreeMap::from([(first.clone(), held[&first].clone())])) };
        assert_eq!(take(&mut connection, issuer, &one).await.unwrap().unwrap(), Findings::from([(Finding::InSync, 1)]));
        assert_eq!(open_commands(&fixture).await, [], "what stands after its end is not missing");
        let rest = Part { after_key: first, ..part(&cluster, BTreeMap::new()) };
        let findings = take(&mut connection, issuer, &rest).await.unwrap().unwrap();
        assert_eq!(findings, Findings::from([(Finding::InSync, 1), (Finding::Missing, 1)]));
        let exchange = state(&mut connection, &cluster).await.unwrap().exchange.unwrap();
        assert_eq!(exchange.1, BTreeMap::from([("InSync".to_owned(), 2), ("Missing".to_owned(), 1)]));
    }

    #[tokio::test]
    async fn a_cluster_that_states_unknown_objects_without_end_fills_no_table() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let unknown = Listed { revision: 90, is_delete: false, document_sha256: sha256_hex(b"{}") };
        let many = (0..UNKNOWN_MAX + 5).map(|number| (format!("tenant/s{number}"), unknown.clone())).collect();
        exchange(&fixture, &cluster, many, later(0)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let shown = state(&mut connection, &cluster).await.unwrap().unknown;
        assert_eq!(i64::try_from(shown.len()).unwrap(), UNKNOWN_MAX);
    }
}
