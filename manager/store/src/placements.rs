//! Which tenant is on which cluster.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    tenant::{Placement, TenantId},
};
use sqlx::PgConnection;

/// Most clusters of one tenant; more than a tenant has anywhere, and small enough to be read at once.
pub const PER_TENANT_MAX: i64 = 1000;

/// Puts a tenant on clusters.
///
/// # Errors
/// When it is on one of them already ([`StoreError::refusal`]) or Postgres does not answer.
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

/// Which of these tenants were ever ordered on a cluster: a placement that ended still has its commands.
///
/// # Errors
/// When Postgres does not answer.
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
///
/// # Errors
/// When Postgres does not answer.
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
                cluster_id: ClusterId::parse(&row.cluster_id)
                    .ok_or_else(|| inconsistent("placements", "cluster_id", &row.cluster_id))?,
                cluster_name: row.cluster_name,
                created_at: row.created_at.to_jiff(),
                created_by: row.created_by,
            })
        })
        .collect()
}
