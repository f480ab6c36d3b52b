//! Sessions: opened by a hello, kept alive by heartbeats. Whether a cluster is connected is derived from them.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::{ClusterId, ClusterState},
    session::SessionHolder,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// What a cluster sends when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloRequest {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// From its credentials.
    pub incarnation: String,
    /// Id of the running Operator process.
    pub boot_id: String,
    /// Rises with every start of an Operator there.
    pub lease_term: i64,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of its API server.
    pub kubernetes_version: String,
    /// Id of the keys that its credentials were issued with.
    pub key_set_id: String,
    /// Highest revision stored there.
    pub highest_revision: i64,
    /// Its clock minus ours.
    pub clock_offset_ms: i64,
}

/// What the Manager compares a hello with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// Its name.
    pub name: String,
    /// Current epoch.
    pub epoch: i64,
    /// UID of the kube-system namespace; none before enrollment.
    pub kubernetes_uid: Option<String>,
    /// Current incarnation.
    pub incarnation: i64,
    /// Whether it is trusted.
    pub state: ClusterState,
}

/// The time of Postgres. Sessions and heartbeats are stamped and checked by it alone: by the clocks of several Managers a cluster would be
/// silent to the one that is ahead.
pub async fn database_time(connection: &mut PgConnection) -> Result<Timestamp, StoreError> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(connection)
        .await
        .map(jiff_sqlx::Timestamp::to_jiff)
        .map_err(failed("read the time of Postgres"))
}

/// The cluster of a hello, its row locked until the transaction ends: two hellos of one cluster wait for each other.
pub async fn lock_cluster(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<Option<ClusterRecord>, StoreError> {
    let row = sqlx::query!(
        "select name, epoch, kubernetes_uid, incarnation, state from clusters where id = $1 for update",
        cluster.as_str()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the cluster of a hello"))?;
    row.map(|row| {
        let state = RowRef { table: "clusters", id: cluster }.parse("state", &row.state, ClusterState::parse)?;
        Ok(ClusterRecord {
            name: row.name,
            epoch: row.epoch,
            kubernetes_uid: row.kubernetes_uid,
            incarnation: row.incarnation,
            state,
        })
    })
    .transpose()
}

/// Whether this revision of the cluster belongs to this command here too, or belonged to one that was deleted on schedule.
/// True for a cluster that stored none yet.
pub async fn revision_matches(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    revision: i64,
    command: Option<Uuid>,
) -> Result<bool, StoreError> {
    if revision == 0 {
        return Ok(true);
    }
    let found = sqlx::query!(
        r#"select (select id from commands where cluster_id = $1 and revision = $2) as id,
                  exists (select from pruned_commands where cluster_id = $1 and revision >= $2) as "pruned!""#,
        cluster.as_str(),
        revision
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find the revision of a hello"))?;
    Ok(found.id.map_or(found.pruned, |id| Some(id) == command))
}

/// Opens the next session and returns its number. An earlier refusal of the same Operator is over; that of another one stays.
pub async fn open(connection: &mut PgConnection, hello: &HelloRequest, now: Timestamp) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "with resolved as (
             delete from hello_refusals where cluster_id = $1 and boot_id = $3
         )
         insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, operator_version, kubernetes_version,
                               highest_revision, clock_offset_ms, opened_at, last_heartbeat_at, recorded_by, key_set_id)
         values ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $9, pg_postmaster_start_time(), $10)
         on conflict (cluster_id) do update
            set session = sessions.session + 1, incarnation = excluded.incarnation, boot_id = excluded.boot_id,
                lease_term = excluded.lease_term, operator_version = excluded.operator_version,
                kubernetes_version = excluded.kubernetes_version, highest_revision = excluded.highest_revision,
                clock_offset_ms = excluded.clock_offset_ms, opened_at = excluded.opened_at,
                last_heartbeat_at = excluded.last_heartbeat_at, recorded_by = excluded.recorded_by,
                key_set_id = excluded.key_set_id,
                contender_boot_id = null, contender_since = null
         returning session",
        hello.cluster_id.as_str(),
        hello.incarnation,
        hello.boot_id,
        hello.lease_term,
        hello.operator_version,
        hello.kubernetes_version,
        hello.highest_revision,
        hello.clock_offset_ms,
        now.to_sqlx(),
        hello.key_set_id,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("open a session"))
}

/// The Operator in session, unless it is one of another incarnation. The cluster is held by [`lock_cluster`].
pub async fn holder(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    incarnation: &str,
) -> Result<Option<SessionHolder>, StoreError> {
    let row = sqlx::query!(
        "select boot_id, lease_term, last_heartbeat_at, contender_boot_id, contender_since
         from sessions where cluster_id = $1 and incarnation = $2",
        cluster.as_str(),
        incarnation,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the Operator in session"))?;
    Ok(row.map(|row| SessionHolder {
        boot_id: row.boot_id,
        lease_term: row.lease_term,
        last_heartbeat_at: row.last_heartbeat_at.to_jiff(),
        contender: row.contender_boot_id.zip(row.contender_since.map(jiff_sqlx::Timestamp::to_jiff)),
    }))
}

/// Records that another Operator says hello beside the one in session; since when it does stays.
pub async fn contend(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    boot_id: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update sessions set contender_boot_id = $2, contender_since = $3
         where cluster_id = $1 and contender_boot_id is distinct from $2",
        cluster.as_str(),
        boot_id,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record a second Operator of a cluster"))
}

/// Why a hello was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedHello {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Id of the Operator process that sent it.
    pub boot_id: String,
    /// One CamelCase word.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// When.
    pub refused_at: Timestamp,
}

/// Records that a hello was refused. The session stays as it is: it belongs to whoever sends its heartbeats.
pub async fn record_refusal(connection: &mut PgConnection, refused: &RefusedHello) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into hello_refusals (cluster_id, boot_id, reason, message, refused_at) values ($1, $2, $3, $4, $5)
         on conflict (cluster_id) do update
            set boot_id = excluded.boot_id, reason = excluded.reason, message = excluded.message,
                refused_at = excluded.refused_at",
        refused.cluster_id.as_str(),
        refused.boot_id,
        refused.reason,
        refused.message,
        refused.refused_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record a refused hello"))
}

/// Deletes refused hellos before this time, at most `limit`; returns how many.
pub async fn delete_refusals(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from hello_refusals where cluster_id in
            (select cluster_id from hello_refusals where refused_at < $1 limit $2)",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old refused hellos"))?;
    Ok(done.rows_affected())
}

/// A heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The session it belongs to.
    pub session: i64,
    /// Highest revision stored there.
    pub highest_revision: i64,
    /// The command with that revision.
    pub highest_command: Option<Uuid>,
}

/// A heartbeat that belongs to the open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedHeartbeat {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// When the one before it was recorded.
    pub previous_at: Timestamp,
    /// Whether the running server of Postgres has confirmed the session: only then commands are sent.
    pub confirmed: bool,
    /// Id of the keys that the cluster's credentials were issued with; empty when it did not say.
    pub key_set_id: String,
}

/// Records heartbeats, at most one a cluster. Those that are missing in the answer do not count: they belong to another
/// session than the open one, or their highest revision is not here with the same command, because this database was
/// restored to an earlier point.
///
/// A row that another transaction holds is passed over, and its heartbeat counts all the same: the next one is recorded. One
/// slow hello must not make every other cluster stale.
pub async fn record_heartbeats(
    connection: &mut PgConnection,
    heartbeats: &[Heartbeat],
    now: Timestamp,
) -> Result<Vec<CountedHeartbeat>, StoreError> {
    let clusters: Vec<String> = heartbeats.iter().map(|one| one.cluster_id.to_string()).collect();
    let sessions: Vec<i64> = heartbeats.iter().map(|one| one.session).collect();
    let revisions: Vec<i64> = heartbeats.iter().map(|one| one.highest_revision).collect();
    let commands: Vec<Option<Uuid>> = heartbeats.iter().map(|one| one.highest_command).collect();
    let rows = sqlx::query!(
        r#"with heartbeat as (
             select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::uuid[])
                        as h (cluster_id, session, highest_revision, command_id)
         ), counted as materialized (
             select s.cluster_id, s.session, s.last_heartbeat_at, s.recorded_by, s.key_set_id, h.highest_revision
             from sessions s join heartbeat h on h.cluster_id = s.cluster_id and h.session = s.session
                             join clusters c on c.id = s.cluster_id and c.state = 'enrolled'
             where h.highest_revision in (0, s.highest_revision)
                or exists (select from commands k where k.cluster_id = h.cluster_id and k.revision = h.highest_revision
                                                    and k.id = h.command_id)
         ), free as materialized (
             select cluster_id from sessions where cluster_id in (select cluster_id from counted)
             order by cluster_id for update skip locked
         ), recorded as (
             update sessions s set last_heartbeat_at = $5, highest_revision = counted.highest_revision
               from counted join free on free.cluster_id = counted.cluster_id
              where s.cluster_id = counted.cluster_id and s.session = counted.session
         )
         select cluster_id, last_heartbeat_at as previous_at, key_set_id, recorded_by = pg_postmaster_start_time() as "confirmed!"
         from counted"#,
        &clusters,
        &sessions,
        &revisions,
        &commands as &[Option<Uuid>],
        now.to_sqlx(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("record heartbeats"))?;
    rows.into_iter()
        .map(|row| {
            let at = RowRef { table: "sessions", id: &row.cluster_id };
            Ok(CountedHeartbeat {
                cluster_id: at.cluster_id("cluster_id", &row.cluster_id)?,
                previous_at: row.previous_at.to_jiff(),
                confirmed: row.confirmed,
                key_set_id: row.key_set_id,
            })
        })
        .collect()
}

/// A session as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its number.
    pub session: i64,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of the API server.
    pub kubernetes_version: String,
    /// Its clock minus ours.
    pub clock_offset_ms: i64,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The last heartbeat.
    pub last_heartbeat_at: Timestamp,
}

/// The sessions of these clusters; a cluster that never connected has none.
pub async fn of_clusters(connection: &mut PgConnection, clusters: &[ClusterId]) -> Result<Vec<Session>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select cluster_id, session, operator_version, kubernetes_version, clock_offset_ms, opened_at, last_heartbeat_at
         from sessions where cluster_id = any($1) order by cluster_id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find sessions"))?;
    rows.into_iter()
        .map(|row| {
            Ok(Session {
                cluster_id: RowRef { table: "sessions", id: &row.cluster_id }
                    .cluster_id("cluster_id", &row.cluster_id)?,
                session: row.session,
                operator_version: row.operator_version,
                kubernetes_version: row.kubernetes_version,
                clock_offset_ms: row.clock_offset_ms,
                opened_at: row.opened_at.to_jiff(),
                last_heartbeat_at: row.last_heartbeat_at.to_jiff(),
            })
        })
        .collect()
}

/// Clusters that are enrolled and not known to have credentials that were issued with these keys: how many there are, and the names
/// of the first, with the state of those that cannot open a session.
pub async fn without_key_set(
    connection: &mut PgConnection,
    key_set_id: &str,
    limit: i64,
) -> Result<(i64, Vec<String>), StoreError> {
    let rows = sqlx::query!(
        r#"select c.name || case c.state when 'enrolled' then '' else ' (' || c.state || ')' end as "name!", count(*) over () as "count!"
           from clusters c left join sessions s on s.cluster_id = c.id
           where c.state in ('enrolled', 'quarantined') and s.key_set_id is distinct from $1 order by c.name limit $2"#,
        key_set_id,
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find clusters that were issued credentials with former keys"))?;
    Ok((rows.first().map_or(0, |row| row.count), rows.into_iter().map(|row| row.name).collect()))
}

/// The last refused hello of each of these clusters that had one.
pub async fn refusals(connection: &mut PgConnection, clusters: &[ClusterId]) -> Result<Vec<RefusedHello>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select cluster_id, boot_id, reason, message, refused_at from hello_refusals where cluster_id = any($1)
         order by cluster_id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find refused hellos"))?;
    rows.into_iter()
        .map(|row| {
            let at = RowRef { table: "hello_refusals", id: &row.cluster_id };
            Ok(RefusedHello {
                cluster_id: at.cluster_id("cluster_id", &row.cluster_id)?,
                boot_id: row.boot_id,
                reason: row.reason,
                message: row.message,
                refused_at: row.refused_at.to_jiff(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, hello};
    use kubenova_core::change::Change;

    fn beat(cluster: &ClusterId, session: i64, revision: i64, command: Option<Uuid>) -> Heartbeat {
        let (cluster_id, highest_revision, highest_command) = (cluster.clone(), revision, command);
        Heartbeat { cluster_id, session, highest_revision, highest_command }
    }

    #[tokio::test]
    async fn every_hello_raises_the_session_and_only_the_open_one_has_heartbeats() {
        let fixture = Fixture::new().await;
        let cluster = fixture.enrolled_clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(open(&mut connection, &hello(&cluster), at(1)).await.unwrap(), 1);
        assert_eq!(open(&mut connection, &hello(&cluster), at(2)).await.unwrap(), 2);
        let earlier = record_heartbeats(&mut connection, &[beat(&cluster, 1, 0, None)], at(3)).await.unwrap();
        assert_eq!(earlier, [], "an earlier session");
        let counted = record_heartbeats(&mut connection, &[beat(&cluster, 2, 0, None)], at(4)).await.unwrap();
        let (previous_at, key_set_id) = (at(2), hello(&cluster).key_set_id);
        let expected = CountedHeartbeat { cluster_id: cluster.clone(), previous_at, confirmed: true, key_set_id };
        assert_eq!(counted, [expected]);
        let session = of_clusters(&mut connection, &[cluster]).await.unwrap().remove(0);
        assert_eq!((session.session, session.last_heartbeat_at), (2, at(4)));
    }

    #[tokio::test]
    async fn a_cluster_has_the_keys_that_it_named_in_its_last_hello() {
        let fixture = Fixture::new().await;
        let clusters = fixture.enrolled_clusters(3).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (cluster, keys) in clusters.iter().zip(["old", "new"]) {
            let hello = HelloRequest { key_set_id: keys.to_owned(), ..hello(cluster) };
            open(&mut connection, &hello, at(1)).await.unwrap();
        }
        let without = async |connection: &mut PgConnection, keys| without_key_set(connection, keys, 2).await.unwrap();
        let (count, names) = without(&mut connection, "new").await;
        assert_eq!((count, names.len()), (2, 2), "one has others, one never said hello");
        assert_eq!(without(&mut connection, "newest").await.0, 3);
        let hello = HelloRequest { key_set_id: "new".to_owned(), ..hello(&clusters[0]) };
        open(&mut connection, &hello, at(2)).await.unwrap();
        assert_eq!(without(&mut connection, "new").await.0, 1);
    }

    #[tokio::test]
    async fn a_heartbeat_counts_only_with_a_revision_that_is_here_with_the_same_command() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.enrolled_clusters(2).await, fixture.tenant().await);
        let commands = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for cluster in &clusters {
            open(&mut connection, &hello(cluster), at(1)).await.unwrap();
        }
        let (one, other) = (commands[0].command_id.0, commands[1].command_id.0);
        for (revision, command, counts) in [
            (1, Some(other), false),
            (1, None, false),
            (2, Some(one), false),
            (1, Some(one), true),
            // Known since the last one; the row of the command may have been deleted.
            (1, None, true),
            (0, None, true),
        ] {
            let sent = [beat(&clusters[0], 1, revision, command), beat(&clusters[1], 1, 0, None)];
            let recorded = record_heartbeats(&mut connection, &sent, at(2)).await.unwrap();
            let ids: Vec<&ClusterId> = recorded.iter().map(|one| &one.cluster_id).collect();
            assert_eq!(ids.contains(&&clusters[0]), counts, "revision {revision}, command {command:?}");
            assert!(ids.contains(&&clusters[1]), "one that does not count takes no other with it");
        }
    }

    #[tokio::test]
    async fn a_session_that_another_server_recorded_is_confirmed_by_a_hello_only() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let confirmed = async |connection: &mut PgConnection| {
            let count = sqlx::query_scalar::<_, i64>("select count(*) from confirmed_sessions").fetch_one(connection);
            count.await.unwrap()
        };
        assert_eq!(confirmed(&mut connection).await, 1);
        // As after a restore: the row is from before the start of this server.
        fixture.execute("update sessions set recorded_by = recorded_by - interval '1 hour'").await;
        let counted = record_heartbeats(&mut connection, &[beat(&cluster, 1, 0, None)], at(1)).await.unwrap();
        assert!(!counted[0].confirmed, "{counted:?}");
        assert_eq!(confirmed(&mut connection).await, 0, "messages of before may still be on the wire");
        open(&mut connection, &hello(&cluster), at(2)).await.unwrap();
        assert_eq!(confirmed(&mut connection).await, 1);
    }

    #[tokio::test]
    async fn a_session_that_a_transaction_holds_delays_no_heartbeat_of_another_cluster() {
        let fixture = Fixture::new().await;
        let clusters = fixture.enrolled_clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for cluster in &clusters {
            open(&mut connection, &hello(cluster), at(1)).await.unwrap();
        }
        let mut holder = fixture.begin().await;
        open(&mut holder, &hello(&clusters[0]), at(2)).await.unwrap();
        let sent = clusters.iter().map(|cluster| beat(cluster, 1, 0, None)).collect::<Vec<_>>();
        assert_eq!(record_heartbeats(&mut connection, &sent, at(3)).await.unwrap().len(), 2);
        let seen = of_clusters(&mut connection, &clusters).await.unwrap();
        assert_eq!(seen.iter().map(|one| one.last_heartbeat_at).collect::<Vec<_>>(), [at(1), at(3)]);
        holder.roll_back().await;
    }

    #[tokio::test]
    async fn a_refused_hello_is_recorded_beside_the_session() {
        let fixture = Fixture::new().await;
        let cluster = fixture.enrolled_clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let refused = |reason: &str, second| RefusedHello {
            cluster_id: cluster.clone(),
            boot_id: "boot-2".into(),
            reason: reason.into(),
            message: "another cluster".into(),
            refused_at: at(second),
        };
        record_refusal(&mut connection, &refused("Diverged", 0)).await.unwrap();
        open(&mut connection, &hello(&cluster), at(1)).await.unwrap();
        record_refusal(&mut connection, &refused("ClusterUidMismatch", 2)).await.unwrap();
        let recorded = record_heartbeats(&mut connection, &[beat(&cluster, 1, 0, None)], at(3)).await.unwrap();
        assert_eq!(recorded.len(), 1, "the session goes on");
        let found = refusals(&mut connection, std::slice::from_ref(&cluster)).await.unwrap();
        assert_eq!(found, [refused("ClusterUidMismatch", 2)]);
    }

    #[tokio::test]
    async fn a_revision_matches_the_command_it_belongs_to() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let command = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        for (revision, id, matches) in [
            (0, None, true),
            (1, Some(command.command_id.0), true),
            (1, Some(crate::fixture::new_id()), false),
            (1, None, false),
            (2, Some(command.command_id.0), false),
        ] {
            let found = revision_matches(&mut connection, &clusters[0], revision, id).await.unwrap();
            assert_eq!(found, matches, "revision {revision}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_exist_has_no_record() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let record = lock_cluster(&mut connection, &cluster).await.unwrap().unwrap();
        assert_eq!((record.epoch, record.kubernetes_uid), (1, None));
        assert!(lock_cluster(&mut connection, &crate::fixture::cluster(2).id).await.unwrap().is_none());
    }
}
