//! Anti-entropy by hashes: the hash of the listing that a cluster reports beside the one that this database expects.
//!
//! Before it: heartbeats and hellos bring the hash. After it: where they differ, the listing itself is compared
//! (`listing_exchange.rs`).

use crate::error::{RowRef, StoreError, failed};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    listing::{self, Hashes},
};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Least time between two comparisons because of a heartbeat: in a cluster that is worked on every one has another hash.
const AGAIN_WHEN_CHANGED: SignedDuration = SignedDuration::from_secs(60);
/// A command that changed less than this long ago may not be in the hash that the cluster computed.
pub(crate) const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Time between two comparisons of listings that are the same: catches what an administrator changes in Postgres.
const AGAIN_WHEN_SAME: SignedDuration = SignedDuration::from_hours(1);
/// Time between two comparisons while commands are under way.
const AGAIN_WHEN_UNSETTLED: SignedDuration = SignedDuration::from_secs(60);
/// Time between two exchanges with one cluster, so that one which states a false listing causes bounded work.
const AGAIN_WHEN_DIFFERENT: SignedDuration = SignedDuration::from_mins(5);
/// A difference that lasts so long is looked into although commands are under way.
const TOO_LONG: SignedDuration = SignedDuration::from_mins(30);
/// Clusters that a round of heartbeats compares: each takes some milliseconds, the others are due in the next round.
const COMPARED_AT_ONCE: i64 = 20;

pub(crate) fn before(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn after(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Records the hash of a hello. The row of each cluster begins here.
async fn record_hello(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    reported_sha256: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into listings as l (cluster_id, reported_sha256, reported_at) values ($1, $2, $3)
         on conflict (cluster_id) do update
            set reported_sha256 = excluded.reported_sha256, reported_at = excluded.reported_at,
                compare_at = greatest(l.compared_at + make_interval(secs => $4), $3)
          where l.reported_sha256 <> excluded.reported_sha256",
        cluster.as_str(),
        reported_sha256,
        now.to_sqlx(),
        AGAIN_WHEN_CHANGED.as_secs_f64(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record the hash of a listing"))
}

/// Records the hashes of heartbeats that differ from those before. The hello that opened the session has made the row of each
/// cluster; to make one here would wait for the lock that a hello has on its cluster, while that hello waits for the row.
pub async fn record_reported(
    connection: &mut PgConnection,
    reported: &[(ClusterId, String)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let clusters: Vec<String> = reported.iter().map(|(cluster, _)| cluster.to_string()).collect();
    let hashes: Vec<String> = reported.iter().map(|(_, hash)| hash.clone()).collect();
    sqlx::query!(
        "with changed as materialized (
             select l.cluster_id, r.sha256
             from listings l join unnest($1::text[], $2::text[]) as r (cluster_id, sha256)
                             on r.cluster_id = l.cluster_id and r.sha256 <> l.reported_sha256
             order by l.cluster_id for update of l
         )
         update listings l
            set reported_sha256 = changed.sha256, reported_at = $3,
                compare_at = greatest(l.compared_at + make_interval(secs => $4), $3)
           from changed where l.cluster_id = changed.cluster_id",
        &clusters,
        &hashes,
        now.to_sqlx(),
        AGAIN_WHEN_CHANGED.as_secs_f64(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record the changed hashes of listings"))
}

/// Has the next heartbeat of a cluster compared. One that never said hello is compared at its hello.
pub async fn compare_next(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query!("update listings set compare_at = null where cluster_id = $1", cluster.as_str())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("have a listing compared"))
}

/// What is wanted on a cluster was replaced as a whole: nothing follows from what was found before, and its next heartbeat is compared.
pub(crate) async fn unsettle(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query!("update listings set compare_at = null, is_unsettled = true where cluster_id = $1", cluster.as_str())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("void the comparison of a listing"))
}

/// Those of these clusters whose listing is to be compared now. Each is returned to one caller.
pub async fn due(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
    now: Timestamp,
) -> Result<Vec<ClusterId>, StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let due = sqlx::query_scalar!(
        "with due as (
             select cluster_id from listings
             where cluster_id = any($1) and (compare_at is null or compare_at <= $2)
             order by cluster_id limit $4 for update skip locked
         )
         update listings l set compare_at = $3 from due where l.cluster_id = due.cluster_id returning l.cluster_id",
        &clusters,
        now.to_sqlx(),
        after(now, AGAIN_WHEN_UNSETTLED).to_sqlx(),
        COMPARED_AT_ONCE,
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
                             is_unsettled = $5, compared_at = $3, compare_at = $4
         where cluster_id = $1",
        cluster.as_str(),
        equal,
        now.to_sqlx(),
        after(now, again).to_sqlx(),
        found == Hashes::Unsettled,
    )
    .execute(connection)
    .await
    .map_err(failed("record a comparison of listings"))?;
    Ok(found == Hashes::Differ)
}

/// The hash of the listing that this database expects of a cluster, and whether commands are on their way there: one that is being
/// carried out was acknowledged, and is in both listings. What is known to be unknown there counts as expected: it was shown, and is
/// not looked into again.
async fn expected(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    now: Timestamp,
) -> Result<(String, bool), StoreError> {
    let row = sqlx::query!(
        r#"with documents as (
             select d.object_key, d.is_pending or d.changed_at > $2 as unsettled,
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
    record_hello(&mut *connection, cluster, reported_sha256, now).await?;
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
    /// Since when they differ; none while that is unsettled.
    pub differs_since: Option<Timestamp>,
    /// Nothing follows from the last comparison, and the next one is due within a minute: commands that were on their way may explain a
    /// difference, or what is wanted was replaced since.
    pub unsettled: bool,
    /// The last exchange of the listing, with the number of keys of each finding.
    pub exchange: Option<(Timestamp, BTreeMap<String, i64>)>,
    /// Commands that have not ended.
    pub open_commands: i64,
    /// At most [`crate::listing_exchange::UNKNOWN_MAX`].
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
        r#"select reported_sha256, reported_at, in_sync_at, differs_since, is_unsettled, exchanged_at,
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
        unsettled: false,
        exchange: None,
        open_commands,
        unknown: unknown.collect(),
    };
    if let Some(row) = row {
        state.reported = Some((row.reported_sha256, row.reported_at.to_jiff()));
        state.in_sync_at = row.in_sync_at.map(jiff_sqlx::Timestamp::to_jiff);
        state.differs_since = row.differs_since.filter(|_| !row.is_unsettled).map(jiff_sqlx::Timestamp::to_jiff);
        state.unsettled = row.is_unsettled;
        state.exchange = row.exchanged_at.map(|at| (at.to_jiff(), row.findings.0));
    }
    Ok(state)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A cluster, what its inbox holds, and the hash that it reports.

    use crate::fixture::{Fixture, at, tenant};
    use jiff::Timestamp;
    use kubenova_core::{change::Change, cluster::ClusterId, listing::Listed};
    use kubenova_schema::signature::sha256_hex;
    use std::collections::BTreeMap;

    pub(crate) const ALL_SUCCEED: &str = "update commands set state = 'succeeded', acknowledged_at = queued_at, \
                               finished_at = queued_at where state = 'queued'";

    /// Time of the comparisons: long after every command of the fixture ended.
    pub(crate) fn later(seconds: i64) -> Timestamp {
        at(100_000 + seconds)
    }

    /// A cluster in session, with three tenants of which the third was deleted again; all commands have succeeded.
    pub(crate) async fn settled(fixture: &Fixture) -> ClusterId {
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
    pub(crate) async fn inbox(fixture: &Fixture, cluster: &ClusterId) -> BTreeMap<String, Listed> {
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
    pub(crate) fn sha256_of(inbox: &BTreeMap<String, Listed>) -> String {
        let applies = inbox.iter().filter(|(_, listed)| !listed.is_delete);
        let mut lines: Vec<String> =
            applies.map(|(key, listed)| format!("{key} {} {}\n", listed.revision, listed.document_sha256)).collect();
        lines.sort();
        sha256_hex(lines.concat().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};
    use crate::{
        fixture::{Fixture, at, tenant},
        sessions,
    };
    use kubenova_core::change::Change;
    use kubenova_schema::signature::sha256_hex;
    use std::time::Duration;

    /// Less than any lock is waited for, and much more than a statement takes.
    const WAITS_FOR_NONE: Duration = Duration::from_secs(3);

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
    async fn a_heartbeat_is_compared_when_its_hash_changes_and_otherwise_once_an_hour() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let held = sha256_of(&inbox(&fixture, &cluster).await);
        let mut connection = fixture.store.acquire().await.unwrap();
        record_hello(&mut connection, &cluster, &held, later(0)).await.unwrap();
        let mut compared = async |hash: &str, now| {
            record_reported(&mut connection, &[(cluster.clone(), hash.to_owned())], now).await.unwrap();
            let due = due(&mut connection, std::slice::from_ref(&cluster), now).await.unwrap();
            if due.is_empty() { None } else { Some(compare(&mut connection, &cluster, now).await.unwrap()) }
        };
        assert_eq!(compared(&held, later(0)).await, Some(false));
        assert_eq!(compared(&held, later(3599)).await, None);
        assert_eq!(compared(&held, later(3600)).await, Some(false));
        assert_eq!(compared("other", later(3659)).await, None, "one whose hash always changes causes bounded work");
        assert_eq!(compared("other", later(3660)).await, Some(true));
        assert_eq!(compared("other", later(3959)).await, None, "and so does one that lies");
        assert_eq!(compared("other", later(3960)).await, Some(true));
        assert_eq!(compared(&held, later(4020)).await, Some(false));
    }

    #[tokio::test]
    async fn a_difference_while_commands_are_under_way_is_looked_into_after_a_while() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant(1))).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        record_hello(&mut connection, &cluster, "other", later(0)).await.unwrap();
        let mut differs = async |now| {
            record_reported(&mut connection, &[(cluster.clone(), "other".to_owned())], now).await.unwrap();
            compare(&mut connection, &cluster, now).await.unwrap()
        };
        assert!(!differs(later(0)).await);
        assert!(!differs(later(1799)).await);
        assert!(differs(later(1800)).await);
    }

    #[tokio::test]
    async fn what_a_command_on_its_way_may_explain_is_shown_as_a_difference_only_once_it_is_one() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant(1))).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(!at_hello(&mut connection, &cluster, "other", 2, later(0)).await.unwrap());
        let shown = state(&mut connection, &cluster).await.unwrap();
        assert_eq!((shown.unsettled, shown.differs_since), (true, None));
        fixture.execute(ALL_SUCCEED).await;
        assert!(compare(&mut connection, &cluster, later(60)).await.unwrap());
        let shown = state(&mut connection, &cluster).await.unwrap();
        assert_eq!((shown.unsettled, shown.differs_since), (false, Some(later(0))));
        unsettle(&mut connection, &cluster).await.unwrap();
        let shown = state(&mut connection, &cluster).await.unwrap();
        assert_eq!((shown.unsettled, shown.differs_since), (true, None));
        let due = due(&mut connection, std::slice::from_ref(&cluster), later(61)).await.unwrap();
        assert_eq!(due, [cluster], "it is compared again at once");
    }

    #[tokio::test]
    async fn a_command_that_is_being_carried_out_explains_no_difference_of_others() {
        let fixture = Fixture::new().await;
        let cluster = settled(&fixture).await;
        let command = fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant(1))).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let running = "update commands set state = 'running', acknowledged_at = queued_at where id = $1";
        sqlx::query(running).bind(command.command_id.0).execute(&mut *connection).await.unwrap();
        let mut held = inbox(&fixture, &cluster).await;
        assert!(!at_hello(&mut connection, &cluster, &sha256_of(&held), 2, later(0)).await.unwrap(), "it is in both");
        let other = held.keys().nth(1).cloned().unwrap();
        held.remove(&other);
        assert!(at_hello(&mut connection, &cluster, &sha256_of(&held), 3, later(1)).await.unwrap());
    }

    #[tokio::test]
    async fn a_heartbeat_does_not_wait_for_a_hello() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let reported: Vec<(ClusterId, String)> =
            clusters.iter().map(|cluster| (cluster.clone(), "new".to_owned())).collect();
        let mut connection = fixture.store.acquire().await.unwrap();
        record_hello(&mut connection, &clusters[0], "old", at(0)).await.unwrap();
        // The first hello of the second cluster: it has locked its cluster, and has not come to its listing yet.
        let mut hello = fixture.begin().await;
        sessions::lock_cluster(&mut hello, &clusters[1]).await.unwrap();
        let recorded = tokio::time::timeout(WAITS_FOR_NONE, record_reported(&mut connection, &reported, at(1))).await;
        recorded.expect("it waits for no lock of a hello").unwrap();
        record_hello(&mut hello, &clusters[1], "new", at(1)).await.unwrap();
        hello.commit().await.unwrap();
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
}
