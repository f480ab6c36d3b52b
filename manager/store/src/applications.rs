//! Applications as people wish them, and on which clusters each should run.

use crate::{
    error::{StoreError, failed, inconsistent},
    outbox::EnqueuedCommand,
};
use jiff_sqlx::{Timestamp, ToSqlx as _};
use kubenova_core::{
    application::{Application, ApplicationId, ApplicationName, Form},
    cluster::ClusterId,
    command::{CommandId, CommandState},
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
            deleting_since: row.deleting_since.map(Timestamp::to_jiff),
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

/// What happened to an application on one of its clusters, as far as its removal needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// True when a command about it was ever sent there since it was last removed.
    pub ever_sent: bool,
    /// Where the delete command is that an earlier delete left.
    pub delete_state: Option<CommandState>,
}

/// The histories of an application on these clusters. Its queued commands are locked, so that none of them is sent before
/// the transaction ends.
pub async fn histories(
    connection: &mut PgConnection,
    id: ApplicationId,
    object_key: &str,
    clusters: &[ClusterId],
) -> Result<Vec<History>, StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "select id from commands where cluster_id = any($1) and object_key = $2 and state = 'queued'
         order by cluster_id, revision for update",
        &clusters,
        object_key,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("lock queued commands"))?;
    // A new statement, so that it sees what the relay committed while this waited for its lock.
    let rows = sqlx::query!(
        r#"select a.cluster_id, d.state as "delete_state?",
                  exists (select from commands k where k.cluster_id = a.cluster_id and k.object_key = $3
                             and k.sent_at is not null
                             and k.revision > coalesce((select max(g.revision) from commands g
                                   where g.cluster_id = a.cluster_id and g.object_key = $3
                                     and g.kind = 'delete-application' and g.state = 'succeeded'), 0)) as "ever_sent!"
           from application_clusters a left join commands d on d.id = a.delete_command
           where a.application_id = $1 and a.cluster_id = any($2) order by a.cluster_id"#,
        id.0,
        &clusters,
        object_key,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read an application's history"))?;
    rows.into_iter()
        .map(|row| {
            let wrong = |column| inconsistent("application_clusters", column, &row.cluster_id);
            let delete_state = match &row.delete_state {
                None => None,
                Some(text) => Some(CommandState::parse(text).ok_or_else(|| wrong("delete_command"))?),
            };
            let cluster_id = ClusterId::parse(&row.cluster_id).ok_or_else(|| wrong("cluster_id"))?;
            Ok(History { cluster_id, ever_sent: row.ever_sent, delete_state })
        })
        .collect()
}

/// Cancels commands about an object that were not sent yet. Only for clusters that were never sent one: elsewhere a newer
/// command has to take their place.
pub async fn cancel_queued(
    connection: &mut PgConnection,
    object_key: &str,
    clusters: &[ClusterId],
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "update commands set state = 'cancelled', reason = 'Deleted', waiting_for = '', finished_at = $3,
                message = 'the application was deleted before this command was sent'
         where cluster_id = any($1) and object_key = $2 and state = 'queued'",
        &clusters,
        object_key,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("cancel queued commands"))?;
    Ok(())
}

/// The application leaves a cluster once this delete command succeeded there.
pub async fn await_removal(
    connection: &mut PgConnection,
    id: ApplicationId,
    deletes: &[EnqueuedCommand],
) -> Result<(), StoreError> {
    let clusters: Vec<String> = deletes.iter().map(|delete| delete.cluster_id.to_string()).collect();
    let commands: Vec<Uuid> = deletes.iter().map(|delete| delete.command_id.0).collect();
    sqlx::query!(
        "update application_clusters a set delete_command = d.command
         from unnest($2::text[], $3::uuid[]) as d (cluster, command)
         where a.application_id = $1 and a.cluster_id = d.cluster",
        id.0,
        &clusters,
        &commands,
    )
    .execute(connection)
    .await
    .map_err(failed("note delete commands"))?;
    Ok(())
}

/// Notes that a delete was accepted; a later one changes nothing.
pub async fn mark_deleting(
    connection: &mut PgConnection,
    id: ApplicationId,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update applications set deleting_since = coalesce(deleting_since, $2) where id = $1",
        id.0,
        now.to_sqlx()
    )
    .execute(connection)
    .await
    .map_err(failed("mark an application as deleting"))?;
    Ok(())
}

/// Removes an application that is being deleted and is on no cluster any more; true when it did. Its commands stay, and
/// with them its history.
pub async fn remove_if_nowhere(connection: &mut PgConnection, id: ApplicationId) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "delete from applications a where a.id = $1 and a.deleting_since is not null
           and not exists (select from application_clusters c where c.application_id = a.id)",
        id.0
    )
    .execute(connection)
    .await
    .map_err(failed("remove an application"))?;
    Ok(removed.rows_affected() == 1)
}

/// A delete command succeeded: the application it belongs to left that cluster, and is gone once it left the last one.
/// A command that no application waits for changes nothing.
pub(crate) async fn delete_succeeded(connection: &mut PgConnection, command: CommandId) -> Result<(), StoreError> {
    // The application before its clusters, as every writer locks them.
    let application = sqlx::query_scalar!(
        "select a.id from applications a join application_clusters c on c.application_id = a.id
         where c.delete_command = $1 for update of a",
        command.0,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock an application that left a cluster"))?;
    let Some(application) = application else { return Ok(()) };
    sqlx::query!("delete from application_clusters where delete_command = $1", command.0)
        .execute(&mut *connection)
        .await
        .map_err(failed("note that an application left a cluster"))?;
    remove_if_nowhere(connection, ApplicationId(application)).await?;
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

/// Where these applications should run, ordered by application and cluster.
///
/// # Errors
/// When Postgres does not answer.
pub async fn targets(connection: &mut PgConnection, applications: &[ApplicationId]) -> Result<Vec<Target>, StoreError> {
    let ids: Vec<Uuid> = applications.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "select a.application_id, a.cluster_id, c.name as cluster_name, a.generation, a.delete_command
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
            Ok(Target {
                application_id,
                cluster_id,
                cluster_name: row.cluster_name,
                generation: row.generation,
                delete_command: row.delete_command.map(CommandId),
            })
        })
        .collect()
}
