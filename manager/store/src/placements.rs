//! Placements: which tenant is on which cluster.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    tenant::{Placement, TenantId},
};
use sqlx::PgConnection;

/// Most clusters of one tenant: more than any installation has, and few enough to be read at once.
pub const PER_TENANT_MAX: i64 = 1000;

/// Puts a tenant on clusters.
/// A placement that exists is a [refusal](StoreError::refusal).
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    clusters: &[ClusterId],
    by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "insert into placements (tenant_id, cluster_id, created_at, created_by)
         select $1, cluster, $3, $4 from unnest($2::text[]) as cluster order by cluster",
        tenant.0,
        &clusters,
        now.to_sqlx(),
        by,
    )
    .execute(connection)
    .await
    .map_err(failed("place a tenant"))?;
    Ok(())
}

/// Puts a tenant on a cluster unless it is there.
pub(crate) async fn insert_missing(
    connection: &mut PgConnection,
    tenant: TenantId,
    cluster: &ClusterId,
    by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into placements (tenant_id, cluster_id, created_at, created_by) values ($1, $2, $3, $4)
         on conflict (tenant_id, cluster_id) do nothing",
        tenant.0,
        cluster.as_str(),
        now.to_sqlx(),
        by,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("place a tenant that is in the cluster"))
}

/// Which of these tenants are or were on a cluster: a placement that ended still has its commands.
pub async fn ever_on(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    tenants: &[TenantId],
) -> Result<Vec<TenantId>, StoreError> {
    let tenants: Vec<uuid::Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    let known = sqlx::query_scalar!(
        r#"select t.id as "id!" from unnest($2::uuid[]) as t (id)
           where exists (select from placements p where p.cluster_id = $1 and p.tenant_id = t.id)
              or exists (select from commands k where k.cluster_id = $1 and k.tenant_id = t.id)"#,
        cluster.as_str(),
        &tenants,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find the tenants of a cluster"))?;
    Ok(known.into_iter().map(TenantId).collect())
}

/// The clusters of these tenants, ordered by tenant and cluster.
pub async fn of_tenants(connection: &mut PgConnection, tenants: &[TenantId]) -> Result<Vec<Placement>, StoreError> {
    let tenants: Vec<uuid::Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    let rows = sqlx::query!(
        "select p.tenant_id, p.cluster_id, c.name as cluster_name, p.created_at, p.created_by
         from placements p join clusters c on c.id = p.cluster_id
         where p.tenant_id = any($1) order by p.tenant_id, p.cluster_id",
        &tenants,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list placements"))?;
    rows.into_iter()
        .map(|row| {
            Ok(Placement {
                tenant_id: TenantId(row.tenant_id),
                cluster_id: RowRef { table: "placements", id: &row.cluster_id }
                    .cluster_id("cluster_id", &row.cluster_id)?,
                cluster_name: row.cluster_name,
                created_at: row.created_at.to_jiff(),
                created_by: row.created_by,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, tenant};
    use kubenova_core::{change::Change, refusal::Reason};

    #[tokio::test]
    async fn a_tenant_is_placed_on_a_cluster_once() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, tenant.id, &clusters, "ann", at(1)).await.unwrap();
        let placed = of_tenants(&mut connection, &[tenant.id]).await.unwrap();
        assert_eq!(placed.iter().map(|one| one.cluster_name.as_str()).collect::<Vec<_>>(), ["cluster-1", "cluster-2"]);
        let error = insert(&mut connection, tenant.id, &clusters[1..], "ann", at(2)).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().reason, Reason::PlacementExists);
    }

    #[tokio::test]
    async fn an_ended_placement_is_known_by_its_commands() {
        let fixture = Fixture::new().await;
        let (clusters, own) = (fixture.clusters(2).await, fixture.tenant().await);
        let mut connection = fixture.store.acquire().await.unwrap();
        let deleted = Change::TenantDeleted { id: own.id, name: own.name.clone(), generation: 2 };
        fixture.enqueue(&clusters[..1], &deleted).await;
        let both = [own.id, tenant(2).id];
        assert_eq!(ever_on(&mut connection, &clusters[0], &both).await.unwrap(), [own.id]);
        assert_eq!(ever_on(&mut connection, &clusters[1], &both).await.unwrap(), []);
    }
}
