//! Anti-entropy: the listing that a cluster reports beside the one that this database expects, and what is sent again.
//!
//! Before it: heartbeats and hellos bring the hash, `manager/src/session/listing.rs` the listing. After it: the relay sends
//! what was enqueued again.

use crate::{
    error::{RowRef, StoreError, failed},
    outbox::{self, Issuer},
};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::CommandId,
    listing::{self, Acknowledged, Finding, Hashes, Known, Listed},
};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Least time between two comparisons because of a heartbeat: in a cluster that is worked on every one has another hash.
const AGAIN_WHEN_CHANGED: SignedDuration = SignedDuration::from_secs(60);
/// A command that changed less than this long ago may not be in the hash that the cluster computed.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Time between two comparisons of listings that are the same: catches what an administrator changes in Postgres.
const AGAIN_WHEN_SAME: SignedDuration = SignedDuration::from_hours(1);
/// Time between two comparisons while commands are under way.
const AGAIN_WHEN_UNSETTLED: SignedDuration = SignedDuration::from_secs(60);
/// Time between two exchanges with one cluster, so that one which states a false listing causes bounded work.
const AGAIN_WHEN_DIFFERENT: SignedDuration = SignedDuration::from_mins(5);
/// A difference that lasts so long is looked into although commands are under way.
const TOO_LONG: SignedDuration = SignedDuration::from_mins(30);
/// Unknown objects that are kept of one cluster.
pub const UNKNOWN_MAX: i64 = 1000;

fn before(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn after(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Records the hashes that heartbeats bring, and returns the clusters whose listing is to be compared now. Each is returned
/// to one caller.
pub async fn record_reported(
    connection: &mut PgConnection,
    reported: &[(ClusterId, String)],
    now: Timestamp,
) -> Result<Vec<ClusterId>, StoreError> {
    let clusters: Vec<String> = reported.iter().map(|(cluster, _)| cluster.to_string()).collect();
    let hashes: Vec<String> = reported.iter().map(|(_, hash)| hash.clone()).collect();
    sqlx::query!(
        "insert into listings as l (cluster_id, reported_sha256, reported_at)
         select r.cluster_id, r.sha256, $3 from unnest($1::text[], $2::text[]) as r (cluster_id, sha256)
         order by r.cluster_id
         on conflict (cluster_id) do update
            set reported_sha256 = excluded.reported_sha256, reported_at = excluded.reported_at,
                compare_at = greatest(l.compared_at + make_interval(secs => $4), $3)
          where l.reported_sha256 <> excluded.reported_sha256",
        &clusters,
        &hashes,
        now.to_sqlx(),
        AGAIN_WHEN_CHANGED.as_secs_f64(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record the hashes of listings"))?;
    let due = sqlx::query_scalar!(
        "with due as (
             select cluster_id from listings
             where cluster_id = any($1) and (compare_at is null or compare_at <= $2)
             order by cluster_id limit 20 for update skip locked
         )
         update listings l set compare_at = $3 from due where l.cluster_id = due.cluster_id returning l.cluster_id",
        &clusters,
        now.to_sqlx(),
        after(now, AGAIN_WHEN_UNSETTLED).to_sqlx(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find listings to compare"))?;
    due.iter().map(|id| RowRef { table: "listings", id }.cluster_id("cluster_id", id)).collect()
}

/// Compares the hash that a cluster reported last with the one that this database expects, and records the result. True when
/// they differ and no command explains it.
pub async fn compare(connection: &mut PgConnection, cluster: &ClusterId, now: Timestamp) -> Result<bool, StoreError> {
    let Some(row) = sqlx::query!(
        "select reported_sha256, differs_since from listings where cluster_id = $1 for update",
        cluster.as_str()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("read the listing of a cluster"))?
    else {
        return Ok(false);
    };
    let (expected, unsettled) = expected(&mut *connection, cluster, now).await?;
    let since = row.differs_since.map(jiff_sqlx::Timestamp::to_jiff);
    let too_long = since.is_some_and(|since| since <= before(now, TOO_LONG));
    let found = listing::compare_hashes(&expected, &row.reported_sha256, unsettled, too_long);
    let again = match found {
        Hashes::Equal => AGAIN_WHEN_SAME,
        Hashes::Unsettled => AGAIN_WHEN_UNSETTLED,
        Hashes::Differ => AGAIN_WHEN_DIFFERENT,
    };
    let equal = found == Hashes::Equal;
    sqlx::query!(
        "update listings set in_sync_at = case when $2 then $3 else in_sync_at end,
                             differs_since = case when $2 then null else coalesce(differs_since, $3) end,
                             compared_at = $3, compare_at = $4
         where cluster_id = $1",
        cluster.as_str(),
        equal,
        now.to_sqlx(),
        after(now, again).to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("record a comparison of listings"))?;
    Ok(found == Hashes::Differ)
}

/// The hash of the listing that this database expects of a cluster, and whether commands are under way. What is known to be
/// unknown there counts as expected: it was shown, and is not looked into again.
async fn expected(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    now: Timestamp,
) -> Result<(String, bool), StoreError> {
    let row = sqlx::query!(
        r#"with documents as (
             select d.object_key, d.is_open or d.changed_at > $2 as unsettled,
                    case when not d.is_delete and u.object_key is null
                         then d.object_key || ' ' || d.revision || ' ' || d.document_sha256 || E'\n' end as line
             from cluster_documents($1) d
             left join unknown_objects u on u.cluster_id = $1 and u.object_key = d.object_key
             union all
             select object_key, false, object_key || ' ' || revision || ' ' || document_sha256 || E'\n'
             from unknown_objects where cluster_id = $1
         )
         select encode(sha256(convert_to(coalesce(string_agg(line, '' order by line collate "C"), ''), 'UTF8')), 'hex')
                    as "sha256!",
                coalesce(bool_or(unsettled), false) as "unsettled!"
         from documents"#,
        cluster.as_str(),
        before(now, SETTLED_AFTER).to_sqlx(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("compute the expected listing"))?;
    Ok((row.sha256, row.unsettled))
}

/// Compares at a hello, and asks for the listing in this session when the hashes differ. True when it is wanted.
pub async fn at_hello(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    reported_sha256: &str,
    session: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let reported = [(cluster.clone(), reported_sha256.to_owned())];
    record_reported(&mut *connection, &reported, now).await?;
    let exchanged_lately = sqlx::query_scalar!(
        r#"select exchanged_at > $2 as "lately?" from listings where cluster_id = $1"#,
        cluster.as_str(),
        before(now, AGAIN_WHEN_UNSETTLED).to_sqlx(),
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("read the listing of a cluster"))?;
    let wanted = compare(&mut *connection, cluster, now).await? && exchanged_lately != Some(true);
    sqlx::query!(
        "update listings set wanted_in_session = case when $2 then $3::bigint end where cluster_id = $1",
        cluster.as_str(),
        wanted,
        session,
    )
    .execute(connection)
    .await
    .map_err(failed("ask for a listing"))?;
    Ok(wanted)
}

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
pub type Findings = BTreeMap<&'static str, i64>;

/// Takes a part in: what is missing or outdated is enqueued again, what was deleted is deleted again, what is unknown is
/// recorded. None when no listing of this session is wanted.
pub async fn take(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    part: &Part,
) -> Result<Option<Findings>, StoreError> {
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
    let keys: std::collections::BTreeSet<&String> = keys.collect();
    let mut findings = Findings::new();
    let (mut again, mut shown) = (Vec::new(), Vec::new());
    for key in keys {
        let (known, listed) = (known.get(key), part.entries.get(key));
        let finding = listing::compare(known.map(|known| &known.state), listed);
        *findings.entry(finding.as_str()).or_default() += 1;
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
    let names: Vec<String> = findings.keys().map(|name| (*name).to_owned()).collect();
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

/// An object that a cluster holds and this database does not know, or knows an earlier command of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownObject {
    /// As in a command.
    pub object_key: String,
    /// `Unknown` or `Ahead`.
    pub finding: String,
    /// Revision of the command that the cluster holds.
    pub revision: i64,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
    /// When it was last seen.
    pub last_seen_at: Timestamp,
}

/// How far a cluster agrees with this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncState {
    /// The hash that the cluster reported last, and since when it reports it.
    pub reported: Option<(String, Timestamp)>,
    /// When both sides were last seen to hold the same.
    pub in_sync_at: Option<Timestamp>,
    /// Since when they differ.
    pub differs_since: Option<Timestamp>,
    /// The last exchange of the listing, with the number of keys of each finding.
    pub exchange: Option<(Timestamp, BTreeMap<String, i64>)>,
    /// Commands that have not ended.
    pub open_commands: i64,
    /// At most [`UNKNOWN_MAX`].
    pub unknown: Vec<UnknownObject>,
}

/// The state of a cluster's listing.
pub async fn state(connection: &mut PgConnection, cluster: &ClusterId) -> Result<SyncState, StoreError> {
    let open_commands = sqlx::query_scalar!(
        r#"select count(*) as "count!" from commands
           where cluster_id = $1 and state in ('queued', 'sent', 'acknowledged', 'running')"#,
        cluster.as_str()
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("count open commands"))?;
    let row = sqlx::query!(
        r#"select reported_sha256, reported_at, in_sync_at, differs_since, exchanged_at,
                  findings as "findings: sqlx::types::Json<BTreeMap<String, i64>>"
           from listings where cluster_id = $1"#,
        cluster.as_str()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("read the listing of a cluster"))?;
    let unknown = sqlx::query!(
        "select object_key, finding, revision, first_seen_at, last_seen_at from unknown_objects
         where cluster_id = $1 order by object_key",
        cluster.as_str()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the unknown objects of a cluster"))?;
    let unknown = unknown.into_iter().map(|row| UnknownObject {
        object_key: row.object_key,
        finding: row.finding,
        revision: row.revision,
        first_seen_at: row.first_seen_at.to_jiff(),
        last_seen_at: row.last_seen_at.to_jiff(),
    });
    let mut state = SyncState {
        reported: None,
        in_sync_at: None,
        differs_since: None,
        exchange: None,
        open_commands,
        unknown: unknown.collect(),
    };
    if let Some(row) = row {
        state.reported = Some((row.reported_sha256, row.reported_at.to_jiff()));
        state.in_sync_at = row.in_sync_at.map(jiff_sqlx::Timestamp::to_jiff);
        state.differs_since = row.differs_since.map(jiff_sqlx::Timestamp::to_jiff);
        state.exchange = row.exchanged_at.map(|at| (at.to_jiff(), row.findings.0));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, issuer, tenant};
    use kubenova_core::change::Change;
    use kubenova_schema::signature::sha256_hex;

    const ALL_SUCCEED: &str = "update commands set state = 'succeeded', acknowledged_at = queued_at, \
                               finished_at = queued_at where state = 'queued'";

    /// Time of the comparisons: long after every command of the fixture ended.
    fn later(seconds: i64) -> Timestamp {
        at(100_000 + seconds)
    }

    /// A cluster in session, with three tenants of which the third was deleted again; all commands have succeeded.
    async fn settled(fixture: &Fixture) -> ClusterId {
        let cluster = fixture.connected_cluster().await;
        for number in 1..=3 {
            let tenant = tenant(number);
            crate::tenants::insert(&mut fixture.store.acquire().await.unwrap(), &tenant).await.unwrap();
            fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant)).await;
        }
        let gone = tenant(3);
        let deleted = Change::TenantDeleted { id: gone.id, name: gone.name, generation: 2 };
        fixture.enqueue(std::slice::from_ref(&cluster), &deleted).await;
        fixture.execute(ALL_SUCCEED).await;
        cluster
    }

    /// What an inbox holds that received every command, in order of the keys.
    async fn inbox(fixture: &Fixture, cluster: &ClusterId) -> BTreeMap<String, Listed> {
        let rows = sqlx::query_as::<_, (String, i64, String, String)>(
            "select distinct on (object_key) object_key, revision, kind, document from commands
             where cluster_id = $1 order by object_key, revision desc",
        )
        .bind(cluster.as_str())
        .fetch_all(&mut *fixture.store.acquire().await.unwrap())
        .await
        .unwrap();
        let listed = rows.into_iter().map(|(key, revision, kind, document)| {
            let (is_delete, document_sha256) = (kind.starts_with("delete-"), sha256_hex(document.as_bytes()));
            (key, Listed { revision: u64::try_from(revision).unwrap(), is_delete, document_sha256 })
        });
        listed.collect()
    }

    /// As the Operator computes it.
    fn sha256_of(inbox: &BTreeMap<String, Listed>) -> String {
        let applies = inbox.iter().filter(|(_, listed)| !listed.is_delete);
        let mut lines: Vec<String> =
            applies.map(|(key, listed)| format!("{key} {} {}\n", listed.revision, listed.document_sha256)).collect();
        lines.sort();
        sha256_hex(lines.concat().as_bytes())
    }

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
    async fn both_sides_compute_the_same_hash() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let held = sha256_of(&inbox(&fixture, &cluster).await);
        assert!(!at_hello(&mut connection, &cluster, &held, 2, later(0)).await.unwrap());
        let state = state(&mut connection, &cluster).await.unwrap();
        assert_eq!((state.in_sync_at, state.differs_since), (Some(later(0)), None));
        assert!(at_hello(&mut connection, &cluster, &sha256_hex(b""), 3, later(1)).await.unwrap());
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
        assert_eq!(findings, Findings::from([("Missing", 1), ("Outdated", 1), ("Undeleted", 1)]));
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
    async fn what_postgres_never_heard_of_is_shown_and_kept_until_it_is_gone() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = inbox(&fixture, &cluster).await;
        let mut with_unknown = held.clone();
        let stranger = Listed { revision: 90, is_delete: false, document_sha256: sha256_hex(b"{}") };
        with_unknown.insert("tenant/stranger".to_owned(), stranger.clone());
        with_unknown.get_mut(&key(&held, 0)).unwrap().revision = 91;
        let findings = exchange(&fixture, &cluster, with_unknown.clone(), later(0)).await;
        assert_eq!(findings, Findings::from([("Ahead", 1), ("InSync", 2), ("Unknown", 1)]));
        assert_eq!(open_commands(&fixture).await, []);
        let mut connection = fixture.store.acquire().await.unwrap();
        let shown = state(&mut connection, &cluster).await.unwrap().unknown;
        let shown: Vec<_> = shown.iter().map(|one| (one.object_key.as_str(), one.finding.as_str())).collect();
        assert_eq!(shown, [(key(&held, 0).as_str(), "Ahead"), ("tenant/stranger", "Unknown")]);
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
        assert_eq!(take(&mut connection, issuer, &empty).await.unwrap().unwrap()["Missing"], 2);
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
        assert_eq!(take(&mut connection, issuer, &one).await.unwrap().unwrap(), Findings::from([("InSync", 1)]));
        assert_eq!(open_commands(&fixture).await, [], "what stands after its end is not missing");
        let rest = Part { after_key: first, ..part(&cluster, BTreeMap::new()) };
        let findings = take(&mut connection, issuer, &rest).await.unwrap().unwrap();
        assert_eq!(findings, Findings::from([("InSync", 1), ("Missing", 1)]));
        let exchange = state(&mut connection, &cluster).await.unwrap().exchange.unwrap();
        assert_eq!(exchange.1, BTreeMap::from([("InSync".to_owned(), 2), ("Missing".to_owned(), 1)]));
    }

    #[tokio::test]
    async fn a_cluster_that_states_strangers_without_end_fills_no_table() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let stranger = Listed { revision: 90, is_delete: false, document_sha256: sha256_hex(b"{}") };
        let many = (0..UNKNOWN_MAX + 5).map(|number| (format!("tenant/s{number}"), stranger.clone())).collect();
        exchange(&fixture, &cluster, many, later(0)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let shown = state(&mut connection, &cluster).await.unwrap().unknown;
        assert_eq!(i64::try_from(shown.len()).unwrap(), UNKNOWN_MAX);
    }

    #[tokio::test]
    async fn a_heartbeat_is_compared_when_its_hash_changes_and_otherwise_once_an_hour() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = sha256_of(&inbox(&fixture, &cluster).await);
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut due = async |hash: &str, now| {
            let reported = [(cluster.clone(), hash.to_owned())];
            let due = record_reported(&mut connection, &reported, now).await.unwrap();
            if due.is_empty() { None } else { Some(compare(&mut connection, &cluster, now).await.unwrap()) }
        };
        assert_eq!(due(&held, later(0)).await, Some(false));
        assert_eq!(due(&held, later(3599)).await, None);
        assert_eq!(due(&held, later(3600)).await, Some(false));
        assert_eq!(due("other", later(3659)).await, None, "one whose hash always changes causes bounded work");
        assert_eq!(due("other", later(3660)).await, Some(true));
        assert_eq!(due("other", later(3959)).await, None, "and so does one that lies");
        assert_eq!(due("other", later(3960)).await, Some(true));
        assert_eq!(due(&held, later(4020)).await, Some(false));
    }

    #[tokio::test]
    async fn a_difference_while_commands_are_under_way_is_looked_into_after_a_while() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant(1))).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut differs = async |now| {
            record_reported(&mut connection, &[(cluster.clone(), "other".to_owned())], now).await.unwrap();
            compare(&mut connection, &cluster, now).await.unwrap()
        };
        assert!(!differs(later(0)).await);
        assert!(!differs(later(1799)).await);
        assert!(differs(later(1800)).await);
    }

    #[tokio::test]
    async fn a_command_that_ended_a_moment_ago_explains_a_difference() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        // All of them ended at second 0.
        assert!(!at_hello(&mut connection, &cluster, "other", 2, at(59)).await.unwrap());
        assert!(at_hello(&mut connection, &cluster, "other", 3, at(61)).await.unwrap());
    }

    #[tokio::test]
    async fn a_command_of_another_cluster_is_not_sent_again() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let commands = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let foreign = [commands[1].command_id];
        let error = outbox::enqueue_again(&mut connection, issuer(), &clusters[0], &foreign, None).await;
        assert!(error.is_err());
    }
}
