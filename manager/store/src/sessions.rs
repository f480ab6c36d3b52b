//! Sessions: opened by a hello, kept alive by heartbeats. Whether a cluster is connected is derived from them.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::{ClusterId, ClusterState};
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
    /// Whether it is trusted.
    pub state: ClusterState,
}

/// The cluster of a hello, its row locked until the transaction ends: two hellos of one cluster wait for each other.
pub async fn lock_cluster(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<Option<ClusterRecord>, StoreError> {
    let row = sqlx::query!(
        "select name, epoch, kubernetes_uid, state from clusters where id = $1 for update",
        cluster.as_str()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the cluster of a hello"))?;
    row.map(|row| {
        let state = RowRef { table: "clusters", id: cluster }.parse("state", &row.state, ClusterState::parse)?;
        Ok(ClusterRecord { name: row.name, epoch: row.epoch, kubernetes_uid: row.kubernetes_uid, state })
    })
    .transpose()
}

/// Whether this revision of the cluster belongs to this command here too. True for a cluster that stored none yet.
pub async fn revision_matches(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    revision: i64,
    command: Option<Uuid>,
) -> Result<bool, StoreError> {
    if revision == 0 {
        return Ok(true);
    }
    let id = sqlx::query_scalar!(
        "select id from commands where cluster_id = $1 and revision = $2",
        cluster.as_str(),
        revision
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the revision of a hello"))?;
    Ok(id.is_some() && id == command)
}

/// Opens the next session and returns its number.
pub async fn open(connection: &mut PgConnection, hello: &HelloRequest, now: Timestamp) -> Result<i64, StoreError> {
    write(connection, hello, "", now).await
}

/// Records that a hello was refused, and why. The relay sends nothing to the cluster while the reason stands.
pub async fn refuse(
    connection: &mut PgConnection,
    hello: &HelloRequest,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    write(connection, hello, reason, now).await.map(drop)
}

async fn write(
    connection: &mut PgConnection,
    hello: &HelloRequest,
    refused_reason: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, operator_version, kubernetes_version,
                               highest_revision, clock_offset_ms, opened_at, last_heartbeat_at, refused_reason)
         values ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
         on conflict (cluster_id) do update
            set session = sessions.session + 1, incarnation = excluded.incarnation, boot_id = excluded.boot_id,
                lease_term = excluded.lease_term, operator_version = excluded.operator_version,
                kubernetes_version = excluded.kubernetes_version, highest_revision = excluded.highest_revision,
                clock_offset_ms = excluded.clock_offset_ms, opened_at = excluded.opened_at, last_heartbeat_at = excluded.last_heartbeat_at,
                refused_reason = excluded.refused_reason
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
        refused_reason,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("open a session"))
}

/// Records a heartbeat. False when it is not of the open session: that Operator must send a hello first.
pub async fn record_heartbeat(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    session: i64,
    highest_revision: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let rows = sqlx::query!(
        "update sessions set last_heartbeat_at = $3, highest_revision = $4
         where cluster_id = $1 and session = $2 and refused_reason = ''",
        cluster.as_str(),
        session,
        now.to_sqlx(),
        highest_revision,
    )
    .execute(connection)
    .await
    .map_err(failed("record a heartbeat"))?;
    Ok(rows.rows_affected() == 1)
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
    /// Why the last hello was refused; empty when it was not.
    pub refused_reason: String,
}

/// The sessions of these clusters; a cluster that never connected has none.
pub async fn of_clusters(connection: &mut PgConnection, clusters: &[ClusterId]) -> Result<Vec<Session>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select cluster_id, session, operator_version, kubernetes_version, clock_offset_ms, opened_at, last_heartbeat_at,
                refused_reason
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
                refused_reason: row.refused_reason,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, hello};
    use kubenova_core::change::Change;

    #[tokio::test]
    async fn every_hello_raises_the_session_and_only_the_open_one_has_heartbeats() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(open(&mut connection, &hello(&cluster), at(1)).await.unwrap(), 1);
        assert_eq!(open(&mut connection, &hello(&cluster), at(2)).await.unwrap(), 2);
        assert!(!record_heartbeat(&mut connection, &cluster, 1, 7, at(3)).await.unwrap(), "an earlier session");
        assert!(record_heartbeat(&mut connection, &cluster, 2, 7, at(4)).await.unwrap());
        let session = of_clusters(&mut connection, &[cluster]).await.unwrap().remove(0);
        assert_eq!((session.session, session.last_heartbeat_at), (2, at(4)));
    }

    #[tokio::test]
    async fn a_refused_hello_ends_the_session_and_the_next_accepted_one_clears_the_reason() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        open(&mut connection, &hello(&cluster), at(1)).await.unwrap();
        refuse(&mut connection, &hello(&cluster), "UidMismatch", at(2)).await.unwrap();
        assert!(!record_heartbeat(&mut connection, &cluster, 2, 0, at(3)).await.unwrap());
        let refused = of_clusters(&mut connection, std::slice::from_ref(&cluster)).await.unwrap().remove(0);
        assert_eq!(refused.refused_reason, "UidMismatch");
        assert_eq!(open(&mut connection, &hello(&cluster), at(4)).await.unwrap(), 3);
        assert_eq!(of_clusters(&mut connection, &[cluster]).await.unwrap()[0].refused_reason, "");
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
