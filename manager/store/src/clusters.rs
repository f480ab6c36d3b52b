//! Clusters: their desired state and their identity. What a cluster reports is in `observed.rs`.

use crate::{
    error::{RowRef, StoreError, failed, one_row},
    wire,
};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    cluster::{Approval, Cluster, ClusterId, ClusterName, ClusterRef, ClusterState, StateNote},
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
    state_reason: String,
    state_message: String,
    approval: String,
    enrolled_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
}

impl TryFrom<Row> for Cluster {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let at = RowRef { table: "clusters", id: &row.id };
        Ok(Self {
            id: at.cluster_id("id", &row.id)?,
            name: ClusterName::parse(&row.name).map_err(|error| at.invalid("name", error))?,
            labels: wire::labels_from_json(row.labels).map_err(|error| at.invalid("labels", error))?,
            components: wire::components_from_json(&row.components),
            state: at.parse("state", &row.state, ClusterState::parse)?,
            approval: at.parse("approval", &row.approval, Approval::parse)?,
            datacenter: row.datacenter,
            generation: row.generation,
            epoch: row.epoch,
            revision: row.revision_counter,
            kubernetes_uid: row.kubernetes_uid,
            incarnation: row.incarnation,
            state_note: (!row.state_reason.is_empty())
                .then_some(StateNote { reason: row.state_reason, message: row.state_message }),
            enrolled_at: row.enrolled_at.map(Timestamp::to_jiff),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
        })
    }
}

/// Adds a cluster.
/// A taken name is a [refusal](StoreError::refusal).
pub async fn insert(connection: &mut PgConnection, cluster: &Cluster) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into clusters (id, name, datacenter, labels, components, generation, epoch, revision_counter, state,
                               approval, created_at, updated_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        cluster.id.as_str(),
        cluster.name.as_str(),
        cluster.datacenter,
        wire::labels_to_json(&cluster.labels),
        wire::components_to_json(&cluster.components),
        cluster.generation,
        cluster.epoch,
        cluster.revision,
        cluster.state.as_str(),
        cluster.approval.as_str(),
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
pub async fn find(connection: &mut PgConnection, cluster: &ClusterRef) -> Result<Option<Cluster>, StoreError> {
    Ok(find_all(connection, std::slice::from_ref(cluster)).await?.pop())
}

/// The same, its enrollment tokens and its row locked until the transaction ends, in the order in which an enrollment locks them.
pub async fn lock(connection: &mut PgConnection, cluster: &ClusterRef) -> Result<Option<Cluster>, StoreError> {
    let text = cluster.to_string();
    sqlx::query!(
        "select e.id from enrollments e join clusters c on c.id = e.cluster_id
         where (c.id = $1 or c.name = $1) and e.revoked_at is null order by e.id for update of e",
        text,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("lock the enrollment tokens of a cluster"))?;
    sqlx::query_scalar!("select id from clusters where id = $1 or name = $1 for update", text)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("lock a cluster"))?;
    find(connection, cluster).await
}

/// The clusters with these ids, in id order, and their rows locked until the transaction ends. None of them is enrolled or purged by
/// the caller: whoever does so uses [`lock`].
pub async fn lock_all(connection: &mut PgConnection, clusters: &[ClusterId]) -> Result<Vec<Cluster>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query_scalar!("select id from clusters where id = any($1) order by id for no key update", &ids)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("lock clusters"))?;
    let clusters: Vec<ClusterRef> = clusters.iter().cloned().map(ClusterRef::Id).collect();
    find_all(connection, &clusters).await
}

/// Changes what a cluster should have installed. Must run in a transaction that holds it.
pub async fn update_components(connection: &mut PgConnection, cluster: &Cluster) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update clusters set components = $2, generation = $3, updated_at = $4 where id = $1",
        cluster.id.as_str(),
        wire::components_to_json(&cluster.components),
        cluster.generation,
        cluster.updated_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("change the components of a cluster"))?;
    one_row(done.rows_affected(), "clusters", &cluster.id)
}

/// Every cluster, in id order.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<Cluster>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, datacenter, labels, components, generation, epoch, revision_counter, kubernetes_uid, incarnation,
                state, approval, state_reason, state_message, enrolled_at, created_at, updated_at, created_by
         from clusters order by id",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read all clusters"))?;
    rows.into_iter().map(Cluster::try_from).collect()
}

/// The clusters with these ids or names, in id order; those that do not exist are missing.
pub async fn find_all(connection: &mut PgConnection, clusters: &[ClusterRef]) -> Result<Vec<Cluster>, StoreError> {
    let texts: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        "select id, name, datacenter, labels, components, generation, epoch, revision_counter, kubernetes_uid, incarnation,
                state, approval, state_reason, state_message, enrolled_at, created_at, updated_at, created_by
         from clusters where id = any($1) or name = any($1) order by id",
        &texts,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find clusters"))?;
    rows.into_iter().map(Cluster::try_from).collect()
}

/// One page of clusters by id (so by age), and one row more when there is a next page.
pub async fn list(connection: &mut PgConnection, page: &Page) -> Result<Vec<Cluster>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, datacenter, labels, components, generation, epoch, revision_counter, kubernetes_uid, incarnation,
                state, approval, state_reason, state_message, enrolled_at, created_at, updated_at, created_by
         from clusters where id > $1 order by id limit $2",
        page.after.as_deref().unwrap_or_default(),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list clusters"))?;
    rows.into_iter().map(Cluster::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, cluster};
    use kubenova_core::refusal::Reason;

    #[tokio::test]
    async fn clusters_read_back_by_id_and_by_name_in_id_order() {
        let fixture = Fixture::new().await;
        let ids = fixture.clusters(3).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let wanted =
            [ClusterRef::Name("cluster-3".into()), ClusterRef::Id(ids[0].clone()), ClusterRef::Name("x".into())];
        assert_eq!(find_all(&mut connection, &wanted).await.unwrap(), [cluster(1), cluster(3)]);
        assert_eq!(find(&mut connection, &ClusterRef::Name("x".into())).await.unwrap(), None);
    }

    #[tokio::test]
    async fn components_are_changed_under_a_lock() {
        let fixture = Fixture::new().await;
        let ids = fixture.clusters(3).await;
        let mut tx = fixture.begin().await;
        let mut held = lock_all(&mut tx, &[ids[2].clone(), ids[0].clone()]).await.unwrap();
        assert_eq!(held, [cluster(1), cluster(3)]);
        let changed = &mut held[0];
        (changed.generation, changed.components.capsule.enabled) = (2, true);
        update_components(&mut tx, changed).await.unwrap();
        assert_eq!(all(&mut tx).await.unwrap(), [changed.clone(), cluster(2), cluster(3)]);
        let mut other = fixture.begin().await;
        let blocked = fixture.blocked(&mut other).await;
        tokio::select! {
            () = blocked => {}
            taken = lock_all(&mut other, &ids[..1]) => panic!("two hold one cluster: {taken:?}"),
        }
    }

    #[tokio::test]
    async fn a_taken_name_is_a_refusal() {
        let fixture = Fixture::new().await;
        fixture.clusters(1).await;
        let other = Cluster { name: cluster(1).name, ..cluster(2) };
        let error = insert(&mut fixture.store.acquire().await.unwrap(), &other).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().reason, Reason::NameTaken);
    }

    #[tokio::test]
    async fn pages_show_every_cluster_once() {
        let fixture = Fixture::new().await;
        let ids = fixture.clusters(5).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut seen = Vec::new();
        let mut page = Page::new(None, Some(2));
        loop {
            let mut rows = list(&mut connection, &page).await.unwrap();
            let more = page.cut(&mut rows);
            seen.extend(rows.into_iter().map(|cluster| cluster.id));
            page.after = seen.last().map(ToString::to_string);
            if !more {
                break;
            }
        }
        assert_eq!(seen, ids);
    }
}
