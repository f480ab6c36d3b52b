//! Tenants as people wish them.

use crate::error::{StoreError, failed, inconsistent};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    page::Page,
    tenant::{PodSecurity, Quota, Tenant, TenantId, TenantName, TenantRef},
};
use sqlx::PgConnection;
use uuid::Uuid;

struct Row {
    id: Uuid,
    name: String,
    quota_cpu: String,
    quota_memory: String,
    quota_pods: i64,
    pod_security: String,
    generation: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| inconsistent("tenants", column, &row.id);
        Ok(Self {
            id: TenantId(row.id),
            name: TenantName::parse(&row.name).map_err(|_| wrong("name"))?,
            quota: Quota {
                cpu: row.quota_cpu,
                memory: row.quota_memory,
                pods: u32::try_from(row.quota_pods).map_err(|_| wrong("quota_pods"))?,
            },
            pod_security: PodSecurity::parse(&row.pod_security).ok_or_else(|| wrong("pod_security"))?,
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
        })
    }
}

/// Adds a tenant.
///
/// # Errors
/// When its name is taken ([`StoreError::refusal`]) or Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, tenant: &Tenant) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into tenants (id, name, quota_cpu, quota_memory, quota_pods, pod_security, generation, created_at, updated_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        tenant.id.0,
        tenant.name.as_str(),
        tenant.quota.cpu,
        tenant.quota.memory,
        i64::from(tenant.quota.pods),
        tenant.pod_security.as_str(),
        tenant.generation,
        tenant.created_at.to_sqlx(),
        tenant.updated_at.to_sqlx(),
        tenant.created_by,
    )
    .execute(connection)
    .await
    .map_err(failed("add a tenant"))?;
    Ok(())
}

/// The tenant with this id or name.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(connection: &mut PgConnection, tenant: &TenantRef) -> Result<Option<Tenant>, StoreError> {
    let (id, name) = halves(tenant);
    let row = sqlx::query_as!(
        Row,
        "select id, name, quota_cpu, quota_memory, quota_pods, pod_security, generation, created_at, updated_at, created_by
         from tenants where id = $1 or name = $2",
        id,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a tenant"))?;
    row.map(Tenant::try_from).transpose()
}

/// The tenant with this id or name, held as it is until the transaction ends: nobody changes it meanwhile, others may
/// hold it too.
///
/// # Errors
/// When Postgres does not answer.
pub async fn hold(connection: &mut PgConnection, tenant: &TenantRef) -> Result<Option<Tenant>, StoreError> {
    let (id, name) = halves(tenant);
    let row = sqlx::query_as!(
        Row,
        "select id, name, quota_cpu, quota_memory, quota_pods, pod_security, generation, created_at, updated_at, created_by
         from tenants where id = $1 or name = $2 for share",
        id,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("hold a tenant"))?;
    row.map(Tenant::try_from).transpose()
}

fn halves(tenant: &TenantRef) -> (Option<Uuid>, Option<&str>) {
    match tenant {
        TenantRef::Id(id) => (Some(id.0), None),
        TenantRef::Name(name) => (None, Some(name)),
    }
}

/// One page of tenants by id (so by age), all or the one that the caller may see, and one row more when it goes on.
///
/// # Errors
/// When Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    page: &Page,
    only: Option<TenantId>,
) -> Result<Vec<Tenant>, StoreError> {
    let after = page.after.as_deref().and_then(TenantId::parse).map(|id| id.0);
    let rows = sqlx::query_as!(
        Row,
        "select id, name, quota_cpu, quota_memory, quota_pods, pod_security, generation, created_at, updated_at, created_by
         from tenants where ($1::uuid is null or id > $1) and ($2::uuid is null or id = $2) order by id limit $3",
        after,
        only.map(|tenant| tenant.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list tenants"))?;
    rows.into_iter().map(Tenant::try_from).collect()
}
