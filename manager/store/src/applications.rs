//! Applications: their desired state, and on which clusters each should run. How one leaves them:
//! `application_removal.rs`.

use crate::error::{RowRef, StoreError, failed, one_row};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    application::{Application, ApplicationId, ApplicationName, Form},
    cluster::ClusterId,
    command::CommandId,
    page::Page,
    tenant::TenantId,
};
use sqlx::PgConnection;
use uuid::Uuid;

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    form: String,
    typed: Option<serde_json::Value>,
    labels: String,
    annotations: String,
    spec: String,
    generation: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
    deleting_since: Option<Timestamp>,
}

impl TryFrom<Row> for Application {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let at = RowRef { table: "applications", id: &row.id };
        let form = match (row.form.as_str(), row.typed) {
            ("typed", Some(typed)) => Form::Typed(typed.to_string()),
            ("raw", None) => Form::Raw,
            (form, _) => return Err(at.invalid("form", format!("{form:?} does not go with the column typed"))),
        };
        Ok(Self {
            id: ApplicationId(row.id),
            tenant_id: TenantId(row.tenant_id),
            name: ApplicationName::parse(&row.name).map_err(|error| at.invalid("name", error))?,
            form,
            labels: serde_json::from_str(&row.labels).map_err(|error| at.invalid("labels", error))?,
            annotations: serde_json::from_str(&row.annotations).map_err(|error| at.invalid("annotations", error))?,
            spec: row.spec,
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
            deleting_since: row.deleting_since.map(Timestamp::to_jiff),
        })
    }
}

/// The columns of an application that hold JSON.
struct JsonColumns {
    form: &'static str,
    typed: Option<serde_json::Value>,
    labels: String,
    annotations: String,
}

fn json_columns(application: &Application) -> JsonColumns {
    let typed = match &application.form {
        Form::Typed(json) => Some(serde_json::from_str(json).expect("the typed form was written from JSON")),
        Form::Raw => None,
    };
    JsonColumns {
        form: if typed.is_some() { "typed" } else { "raw" },
        typed,
        labels: serde_json::to_string(&application.labels).expect("strings are JSON"),
        annotations: serde_json::to_string(&application.annotations).expect("strings are JSON"),
    }
}

/// Adds an application on these clusters, and returns what [`targets`] would of it.
/// A taken name is a [refusal](StoreError::refusal).
pub async fn insert(
    connection: &mut PgConnection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<Vec<Target>, StoreError> {
    let json = json_columns(application);
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        TargetRow,
        r#"with application as (
             insert into applications (id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at,
                                       created_by)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ), placed as (
             insert into application_clusters (application_id, cluster_id, generation, created_at)
             select $1, cluster, $9, $11 from unnest($13::text[]) as cluster order by cluster
             returning *
         )
         select a.application_id as "application_id!", a.cluster_id as "cluster_id!", c.name as cluster_name,
                a.generation as "generation!", a.delete_command
         from placed a join clusters c on c.id = a.cluster_id order by a.cluster_id"#,
        application.id.0,
        application.tenant_id.0,
        application.name.as_str(),
        json.form,
        json.typed,
        json.labels,
        json.annotations,
        application.spec,
        application.generation,
        application.created_at.to_sqlx(),
        application.updated_at.to_sqlx(),
        application.created_by,
        &clusters,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("add an application"))?;
    rows.into_iter().map(Target::try_from).collect()
}

/// Changes an application. The caller has locked it by [`find_for_update`].
pub async fn update(
    connection: &mut PgConnection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let json = json_columns(application);
    let done = sqlx::query!(
        "update applications set form = $2, typed = $3, labels = $4, annotations = $5, spec = $6, generation = $7, updated_at = $8
         where id = $1",
        application.id.0,
        json.form,
        json.typed,
        json.labels,
        json.annotations,
        application.spec,
        application.generation,
        application.updated_at.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("change an application"))?;
    one_row(done.rows_affected(), "applications", &application.id.0)?;
    place(connection, application, clusters).await
}

/// An application that is wanted again is not being deleted.
pub(crate) async fn undelete(connection: &mut PgConnection, id: ApplicationId) -> Result<(), StoreError> {
    sqlx::query!("update applications set deleting_since = null where id = $1 and deleting_since is not null", id.0)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("keep an application"))
}

async fn place(
    connection: &mut PgConnection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "insert into application_clusters (application_id, cluster_id, generation, created_at)
         select $1, cluster, $3, $4 from unnest($2::text[]) as cluster order by cluster
         on conflict (application_id, cluster_id) do update set generation = excluded.generation, delete_command = null",
        application.id.0,
        &clusters,
        application.generation,
        application.updated_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("place an application"))?;
    Ok(())
}

/// The tenant's application with this name.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Application>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by,
                deleting_since
         from applications where tenant_id = $1 and name = $2",
        tenant.0,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find an application"))?;
    row.map(Application::try_from).transpose()
}

/// The tenant's application with this name as the last writer committed it, locked until the transaction ends. None when
/// it was removed while the lock was waited for, also when another of that name was created since: that one is not
/// locked, and the caller has not seen it.
pub async fn find_for_update(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Application>, StoreError> {
    // One statement: a second one could read a row that this one did not lock.
    let row = sqlx::query_as!(
        Row,
        "select id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by,
                deleting_since
         from applications where tenant_id = $1 and name = $2 for update",
        tenant.0,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock an application"))?;
    row.map(Application::try_from).transpose()
}

/// One page of a tenant's applications by id (so by age), and one row more when there is a next page.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<Application>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by,
                deleting_since
         from applications where tenant_id = $1 and ($2::uuid is null or id > $2) order by id limit $3",
        tenant.0,
        page.after.as_deref().and_then(ApplicationId::parse).map(|id| id.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list applications"))?;
    rows.into_iter().map(Application::try_from).collect()
}

/// An application on a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The application.
    pub application_id: ApplicationId,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// Generation last enqueued there.
    pub generation: i64,
    /// The delete command whose success ends it here; none while it should run here.
    pub delete_command: Option<CommandId>,
}

#[derive(Debug)]
struct TargetRow {
    application_id: Uuid,
    cluster_id: String,
    cluster_name: String,
    generation: i64,
    delete_command: Option<Uuid>,
}

impl TryFrom<TargetRow> for Target {
    type Error = StoreError;

    fn try_from(row: TargetRow) -> Result<Self, StoreError> {
        let at = RowRef { table: "application_clusters", id: &row.application_id };
        Ok(Self {
            application_id: ApplicationId(row.application_id),
            cluster_id: at.cluster_id("cluster_id", &row.cluster_id)?,
            cluster_name: row.cluster_name,
            generation: row.generation,
            delete_command: row.delete_command.map(CommandId),
        })
    }
}

/// Where these applications should run, ordered by application and cluster.
pub async fn targets(connection: &mut PgConnection, applications: &[ApplicationId]) -> Result<Vec<Target>, StoreError> {
    let ids: Vec<Uuid> = applications.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        TargetRow,
        "select a.application_id, a.cluster_id, c.name as cluster_name, a.generation, a.delete_command
         from application_clusters a join clusters c on c.id = a.cluster_id
         where a.application_id = any($1) order by a.application_id, a.cluster_id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list an application's clusters"))?;
    rows.into_iter().map(Target::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, application, at};
    use kubenova_core::refusal::Reason;

    #[tokio::test]
    async fn an_application_reads_back_to_the_byte_in_both_forms() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let raw = fixture.application(&tenant, "raw", &clusters).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(find(&mut connection, tenant.id, "raw").await.unwrap(), Some(raw));
        let typed = Application { form: Form::Typed(r#"{"image":"x"}"#.into()), ..application(&tenant, "typed") };
        insert(&mut connection, &typed, &[]).await.unwrap();
        assert_eq!(find_for_update(&mut connection, tenant.id, "typed").await.unwrap(), Some(typed));
        assert_eq!(find(&mut connection, tenant.id, "other").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_name_is_taken_within_its_tenant_only() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        fixture.application(&tenant, "shop", &[]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let error = insert(&mut connection, &application(&tenant, "shop"), &[]).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().reason, Reason::NameTaken);
        let other = crate::fixture::tenant(2);
        crate::tenants::insert(&mut connection, &other).await.unwrap();
        insert(&mut connection, &application(&other, "shop"), &[]).await.unwrap();
    }

    #[tokio::test]
    async fn a_change_raises_the_generation_on_its_clusters_and_leaves_the_others() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(3).await, fixture.tenant().await);
        let first = fixture.application(&tenant, "shop", &clusters[..2]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let second = Application { spec: "{}".into(), generation: 2, updated_at: at(5), ..first };
        update(&mut connection, &second, &clusters[1..]).await.unwrap();
        assert_eq!(find(&mut connection, tenant.id, "shop").await.unwrap().as_ref(), Some(&second));
        let generations = |targets: Vec<Target>| targets.iter().map(|target| target.generation).collect::<Vec<_>>();
        assert_eq!(generations(targets(&mut connection, &[second.id]).await.unwrap()), [1, 2, 2]);
    }

    #[tokio::test]
    async fn a_lock_that_was_waited_for_shows_what_the_last_writer_committed() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        let first = fixture.application(&tenant, "shop", &[]).await;
        let (mut writer, mut waiter) = (fixture.begin().await, fixture.begin().await);
        let second = Application { spec: "{}".into(), generation: 2, ..first };
        update(&mut writer, &second, &[]).await.unwrap();
        let blocked = fixture.blocked(&mut waiter).await;
        let commit = async {
            blocked.await;
            writer.commit().await.unwrap();
        };
        let (found, ()) = tokio::join!(find_for_update(&mut waiter, tenant.id, "shop"), commit);
        assert_eq!(found.unwrap(), Some(second));
    }

    #[tokio::test]
    async fn an_application_created_while_the_lock_was_waited_for_is_not_taken_for_the_removed_one() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        fixture.application(&tenant, "shop", &[]).await;
        let (mut writer, mut waiter) = (fixture.begin().await, fixture.begin().await);
        sqlx::query("delete from applications").execute(&mut *writer).await.unwrap();
        insert(&mut writer, &application(&tenant, "shop"), &[]).await.unwrap();
        let blocked = fixture.blocked(&mut waiter).await;
        let commit = async {
            blocked.await;
            writer.commit().await.unwrap();
        };
        let (found, ()) = tokio::join!(find_for_update(&mut waiter, tenant.id, "shop"), commit);
        assert_eq!(found.unwrap(), None, "it would be read without a lock");
    }

    #[tokio::test]
    async fn a_missing_application_is_not_changed() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let missing = application(&tenant, "missing");
        let outcome = update(&mut connection, &missing, &[]).await;
        assert!(matches!(outcome, Err(StoreError::Missing { table: "applications", .. })), "{outcome:?}");
    }

    #[tokio::test]
    async fn pages_show_every_application_of_the_tenant_once() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await;
        for name in ["a", "b", "c"] {
            fixture.application(&tenant, name, &[]).await;
        }
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut page = Page::new(None, Some(2));
        let mut rows = list(&mut connection, tenant.id, &page).await.unwrap();
        assert!(page.cut(&mut rows));
        page.after = rows.last().map(|application| application.id.to_string());
        rows.extend(list(&mut connection, tenant.id, &page).await.unwrap());
        assert_eq!(rows.iter().map(|application| application.name.to_string()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
