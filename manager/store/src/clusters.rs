//! Clusters as people wish them. What a cluster reports is elsewhere (`observed.rs`).

use crate::{
    error::{StoreError, failed, inconsistent},
    wire,
};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    cluster::{Cluster, ClusterId, ClusterName, ClusterRef, ClusterState},
    page::Page,
};
use sqlx::PgConnection;

struct Row {
    id: String,
    name: String,
    datacenter: String,
    labels: serde_json::Value,
    components: serde_json::Value,
    generation: i64,
    epoch: i64,
    revision_counter: i64,
    kubernetes_uid: Option<String>,
    incarnation: i64,
    state: String,
    enrolled_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
}

impl TryFrom<Row> for Cluster {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| inconsistent("clusters", column, &row.id);
        Ok(Self {
            id: ClusterId::parse(&row.id).ok_or_else(|| wrong("id"))?,
            name: ClusterName::parse(&row.name).map_err(|_| wrong("name"))?,
            labels: wire::labels_from_json(row.labels).ok_or_else(|| wrong("labels"))?,
            components: wire::components_from_json(&row.components),
            state: ClusterState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            datacenter: row.datacenter,
            generation: row.generation,
            epoch: row.epoch,
            revision: row.revision_counter,
            kubernetes_uid: row.kubernetes_uid,
            incarnation: row.incarnation,
            enrolled_at: row.enrolled_at.map(Timestamp::to_jiff),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
        })
    }
}

/// Adds a cluster.
///
/// # Errors
/// When its name is taken ([`StoreError::refusal`]) or Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, cluster: &Cluster) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into clusters (id, name, datacenter, labels, components, generation, epoch, revision_counter, state,
                               created_at, updated_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        cluster.id.as_str(),
        cluster.name.as_str(),
        cluster.datacenter,
        wire::labels_to_json(&cluster.labels),
        wire::components_to_json(&cluster.components),
        cluster.generation,
        cluster.epoch,
        cluster.revision,
        cluster.state.as_str(),
        cluster.created_at.to_sqlx(),
        cluster.updated_at.to_sqlx(),
        cluster.created_by,
    )
    .execute(connection)
    .await
    .map_err(failed("add a cluster"))?;
    Ok(())
}

/// The cluster with this id or name.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(connection: &mut PgConnection, cluster: &ClusterRef) -> Result<Option<Cluster>, StoreError> {
    Ok(find_all(connection, std::slice::from_ref(cluster)).await?.pop())
}

/// The clusters with these ids or names, in id order; those that do not exist are missing.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find_all(connection: &mut PgConnection, clusters: &[ClusterRef]) -> Result<Vec<Cluster>, StoreError> {
    let texts: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        "select id, name, datacenter, labels, components, generation, epoch, revision_counter, kubernetes_uid, incarnation,
                state, enrolled_at, created_at, updated_at, created_by
         from clusters where id = any($1) or name = any($1) order by id",
        &texts,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find clusters"))?;
    rows.into_iter().map(Cluster::try_from).collect()
}

/// One page of clusters by id (so by age), and one row more when the list goes on.
///
/// # Errors
/// When Postgres does not answer.
pub async fn list(connection: &mut PgConnection, page: &Page) -> Result<Vec<Cluster>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, datacenter, labels, components, generation, epoch, revision_counter, kubernetes_uid, incarnation,
                state, enrolled_at, created_at, updated_at, created_by
         from clusters where id > $1 order by id limit $2",
        page.after.as_deref().unwrap_or_default(),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list clusters"))?;
    rows.into_iter().map(Cluster::try_from).collect()
}
