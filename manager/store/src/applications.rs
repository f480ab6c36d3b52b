//! Applications as people wish them, and on which clusters each should run.

use crate::error::{StoreError, failed, inconsistent};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    application::{Application, ApplicationId, ApplicationName, Form},
    cluster::ClusterId,
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
}

impl TryFrom<Row> for Application {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| inconsistent("applications", column, &row.id);
        let form = match (row.form.as_str(), row.typed) {
            ("typed", Some(typed)) => Form::Typed(typed.to_string()),
            ("raw", None) => Form::Raw,
            _ => return Err(wrong("form")),
        };
        Ok(Self {
            id: ApplicationId(row.id),
            tenant_id: TenantId(row.tenant_id),
            name: ApplicationName::parse(&row.name).map_err(|_| wrong("name"))?,
            form,
            labels: serde_json::from_str(&row.labels).map_err(|_| wrong("labels"))?,
            annotations: serde_json::from_str(&row.annotations).map_err(|_| wrong("annotations"))?,
            spec: row.spec,
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            created_by: row.created_by,
        })
    }
}

/// The columns of an application that are made from JSON.
struct Texts {
    form: &'static str,
    typed: Option<serde_json::Value>,
    labels: String,
    annotations: String,
}

fn texts(application: &Application) -> Texts {
    let typed = match &application.form {
        Form::Typed(json) => Some(serde_json::from_str(json).expect("the typed form was written from JSON")),
        Form::Raw => None,
    };
    Texts {
        form: if typed.is_some() { "typed" } else { "raw" },
        typed,
        labels: serde_json::to_string(&application.labels).expect("strings are JSON"),
        annotations: serde_json::to_string(&application.annotations).expect("strings are JSON"),
    }
}

/// Adds an application on these clusters.
///
/// # Errors
/// When its name is taken in the tenant ([`StoreError::refusal`]) or Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let texts = texts(application);
    sqlx::query!(
        "insert into applications (id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        application.id.0,
        application.tenant_id.0,
        application.name.as_str(),
        texts.form,
        texts.typed,
        texts.labels,
        texts.annotations,
        application.spec,
        application.generation,
        application.created_at.to_sqlx(),
        application.updated_at.to_sqlx(),
        application.created_by,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("add an application"))?;
    place(connection, application, clusters).await
}

/// Writes the wish of an application that exists. The caller holds it by [`find_to_change`].
///
/// # Errors
/// When Postgres does not answer.
pub async fn update(
    connection: &mut PgConnection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let texts = texts(application);
    sqlx::query!(
        "update applications set form = $2, typed = $3, labels = $4, annotations = $5, spec = $6, generation = $7, updated_at = $8
         where id = $1",
        application.id.0,
        texts.form,
        texts.typed,
        texts.labels,
        texts.annotations,
        application.spec,
        application.generation,
        application.updated_at.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("change an application"))?;
    place(connection, application, clusters).await
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
         on conflict (application_id, cluster_id) do update set generation = excluded.generation",
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

/// Forgets that an application should run on these clusters; the deletes were enqueued in the same transaction.
///
/// # Errors
/// When Postgres does not answer.
pub async fn unplace(
    connection: &mut PgConnection,
    id: ApplicationId,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "delete from application_clusters where application_id = $1 and cluster_id = any($2)",
        id.0,
        &clusters
    )
    .execute(connection)
    .await
    .map_err(failed("unplace an application"))?;
    Ok(())
}

/// Removes the wish altogether. Its commands stay, and with them the story of it.
///
/// # Errors
/// When Postgres does not answer.
pub async fn remove(connection: &mut PgConnection, id: ApplicationId) -> Result<(), StoreError> {
    sqlx::query!("delete from application_clusters where application_id = $1", id.0)
        .execute(&mut *connection)
        .await
        .map_err(failed("unplace an application"))?;
    sqlx::query!("delete from applications where id = $1", id.0)
        .execute(connection)
        .await
        .map_err(failed("remove an application"))?;
    Ok(())
}

/// The tenant's application with this name.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Application>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by
         from applications where tenant_id = $1 and name = $2",
        tenant.0,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find an application"))?;
    row.map(Application::try_from).transpose()
}

/// The tenant's application with this name, locked until the transaction ends.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find_to_change(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Application>, StoreError> {
    // Read after the lock, so that it is what the last writer committed.
    sqlx::query_scalar!("select id from applications where tenant_id = $1 and name = $2 for update", tenant.0, name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("lock an application"))?;
    find(connection, tenant, name).await
}

/// One page of a tenant's applications by id (so by age), and one row more when the list goes on.
///
/// # Errors
/// When Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<Application>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, tenant_id, name, form, typed, labels, annotations, spec, generation, created_at, updated_at, created_by
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
}

/// Where these applications should run, ordered by application and cluster.
///
/// # Errors
/// When Postgres does not answer.
pub async fn targets(connection: &mut PgConnection, applications: &[ApplicationId]) -> Result<Vec<Target>, StoreError> {
    let ids: Vec<Uuid> = applications.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "select a.application_id, a.cluster_id, c.name as cluster_name, a.generation
         from application_clusters a join clusters c on c.id = a.cluster_id
         where a.application_id = any($1) order by a.application_id, a.cluster_id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list an application's clusters"))?;
    rows.into_iter()
        .map(|row| {
            let cluster_id = ClusterId::parse(&row.cluster_id)
                .ok_or_else(|| inconsistent("application_clusters", "cluster_id", &row.cluster_id))?;
            let application_id = ApplicationId(row.application_id);
            Ok(Target { application_id, cluster_id, cluster_name: row.cluster_name, generation: row.generation })
        })
        .collect()
}
