//! Tenants: their desired state. On which clusters they are: `placements.rs`.

use crate::error::{RowRef, StoreError, failed, one_row};
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
        let at = RowRef { table: "tenants", id: &row.id };
        Ok(Self {
            id: TenantId(row.id),
            name: TenantName::parse(&row.name).map_err(|error| at.invalid("name", error))?,
            quota: Quota {
                cpu: row.quota_cpu,
                memory: row.quota_memory,
                pods: u32::try_from(row.quota_pods).map_err(|error| at.invalid("quota_pods", error))?,
            },
            pod_security: at.parse("pod_security", &row.pod_security, PodSecurity::parse)?,
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
        })
    }
}

/// Adds a tenant.
/// A taken name is a [refusal](StoreError::refusal).
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

/// Changes what a tenant may use.
pub(crate) async fn update(connection: &mut PgConnection, tenant: &Tenant) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update tenants set quota_cpu = $2, quota_memory = $3, quota_pods = $4, pod_security = $5, generation = $6, updated_at = $7
         where id = $1",
        tenant.id.0,
        tenant.quota.cpu,
        tenant.quota.memory,
        i64::from(tenant.quota.pods),
        tenant.pod_security.as_str(),
        tenant.generation,
        tenant.updated_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("change a tenant"))?;
    one_row(done.rows_affected(), "tenants", &tenant.id.0)
}

/// The tenant with this id or name.
pub async fn find(connection: &mut PgConnection, tenant: &TenantRef) -> Result<Option<Tenant>, StoreError> {
    let (id, name) = id_or_name(tenant);
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

/// The tenant with this id or name, locked until the transaction ends: others may read and lock it too, none may change
/// it.
pub async fn find_for_share(connection: &mut PgConnection, tenant: &TenantRef) -> Result<Option<Tenant>, StoreError> {
    let (id, name) = id_or_name(tenant);
    let row = sqlx::query_as!(
        Row,
        "select id, name, quota_cpu, quota_memory, quota_pods, pod_security, generation, created_at, updated_at, created_by
         from tenants where id = $1 or name = $2 for share",
        id,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock a tenant"))?;
    row.map(Tenant::try_from).transpose()
}

fn id_or_name(tenant: &TenantRef) -> (Option<Uuid>, Option<&str>) {
    match tenant {
        TenantRef::Id(id) => (Some(id.0), None),
        TenantRef::Name(name) => (None, Some(name)),
    }
}

/// One page of tenants by id (so by age), all or the one that the caller may see, and one row more when there is a next page.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, tenant};
    use kubenova_core::refusal::Reason;

    #[tokio::test]
    async fn a_tenant_reads_back_by_id_and_by_name() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for reference in [TenantRef::Id(tenant.id), TenantRef::Name(tenant.name.to_string())] {
            assert_eq!(find(&mut connection, &reference).await.unwrap().as_ref(), Some(&tenant));
            assert_eq!(find_for_share(&mut connection, &reference).await.unwrap().as_ref(), Some(&tenant));
        }
        assert_eq!(find(&mut connection, &TenantRef::Name("other".into())).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_taken_name_is_a_refusal() {
        let fixture = Fixture::new().await;
        let first = fixture.tenant().await;
        let second = Tenant { name: first.name.clone(), ..tenant(2) };
        let error = insert(&mut fixture.store.acquire().await.unwrap(), &second).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().reason, Reason::NameTaken);
        assert!(!error.is_transient());
    }

    #[tokio::test]
    async fn pages_show_every_tenant_once_and_a_limited_caller_sees_its_own() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for number in 1..=5 {
            insert(&mut connection, &tenant(number)).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut page = Page::new(None, Some(2));
        loop {
            let mut rows = list(&mut connection, &page, None).await.unwrap();
            let more = page.cut(&mut rows);
            seen.extend(rows.iter().map(|tenant| tenant.id));
            page.after = seen.last().map(ToString::to_string);
            if !more {
                break;
            }
        }
        assert_eq!(seen, (1..=5).map(|number| tenant(number).id).collect::<Vec<_>>());
        let own = list(&mut connection, &Page::new(None, None), Some(tenant(3).id)).await.unwrap();
        assert_eq!(own.iter().map(|tenant| tenant.id).collect::<Vec<_>>(), [tenant(3).id]);
    }

    #[tokio::test]
    async fn a_shared_lock_allows_other_readers_and_blocks_changes() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        let reference = TenantRef::Id(tenant.id);
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        find_for_share(&mut one, &reference).await.unwrap();
        find_for_share(&mut other, &reference).await.unwrap();
        drop(other);
        let mut connection = fixture.store.acquire().await.unwrap();
        let error = sqlx::query("select 1 from tenants for update nowait").execute(&mut *connection).await.unwrap_err();
        assert!(error.to_string().contains("could not obtain lock"), "{error}");
    }

    #[tokio::test]
    async fn an_edited_row_is_named_with_its_cause() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        fixture.execute("update tenants set name = 'Not A Name'").await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let error = find(&mut connection, &TenantRef::Id(tenant.id)).await.unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("column name of row {} in table tenants", tenant.id)),
            "{error}"
        );
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.refusal(), None);
    }
}
