//! Room for the commands of a diverged cluster: their revisions may be others' here, and the cluster stores nothing below what
//! it holds.

use super::adoption::{Adoption, Taken};
use crate::{
    diverged_records::StoredRecord,
    error::{StoreError, failed},
};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::command::{CommandId, OPERATION_KEY_PREFIX};
use sqlx::PgConnection;
use uuid::Uuid;

/// Ends what the cluster has replaced, and gives the adopted commands their revisions: others that have one of them move above
/// the highest, and so do those that wait to be sent, for the cluster stores nothing below what it holds. A command that was
/// never sent keeps its id, for no cluster can hold it. Returns those whose content is sent under a new one: they were sent, and
/// are newer than what the cluster holds or have a revision that is another's there. An operation is not sent again.
pub(super) async fn make_room(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    records: &[&StoredRecord],
    taken: &[Taken],
    newer: &[CommandId],
    highest: i64,
) -> Result<Vec<CommandId>, StoreError> {
    let cluster = adoption.cluster.as_str();
    let (keys, ids): (Vec<String>, Vec<Uuid>) =
        taken.iter().map(|one| (one.command.key.to_string(), one.command.id.0)).unzip();
    let revisions: Vec<i64> = taken.iter().map(|one| one.command.revision).collect();
    let known: Vec<Uuid> =
        records.iter().filter(|record| !record.is_lacking).map(|record| record.listed.command_id.0).collect();
    sqlx::query!(
        "with ended as (
             update commands k set state = 'superseded', reason = 'NewerChange', waiting_for = '', next_send_at = null,
                    message = 'the cluster holds a newer change of this object', finished_at = $4
             from unnest($2::text[], $3::uuid[]) as held (object_key, id)
             where k.cluster_id = $1 and k.object_key = held.object_key and k.id < held.id and k.id <> all($5)
               and k.state in ('queued', 'sent', 'acknowledged', 'running')
             returning k.*
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
         select finished_at, $6, $7, 'command/superseded', object_key, tenant_id, id, cluster_id, revision, reason
         from ended order by revision",
        cluster,
        &keys,
        &ids,
        adoption.issuer.now.to_sqlx(),
        &known,
        adoption.issuer.subject,
        adoption.issuer.role,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("supersede what a diverged cluster has replaced"))?;
    let newer: Vec<Uuid> = newer.iter().map(|command| command.0).collect();
    let again = sqlx::query_scalar!(
        r#"with again as (
             select * from commands
             where cluster_id = $1 and (revision = any($2) and state in ('sent', 'acknowledged', 'running')
                                        or id = any($4) and state <> 'queued')
         ), ended as (
             update commands k set state = 'superseded', reason = 'Recovered', waiting_for = '', next_send_at = null,
                    message = 'what it carries is sent under a new revision', finished_at = $3
             from again where k.id = again.id and k.finished_at is null
             returning k.*
         ), audited as (
             insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
             select finished_at, $5, $6, 'command/superseded', object_key, tenant_id, id, cluster_id, revision, reason
             from ended order by revision
         )
         select id from again where not starts_with(object_key, $7) order by revision"#,
        cluster,
        &revisions,
        adoption.issuer.now.to_sqlx(),
        &newer,
        adoption.issuer.subject,
        adoption.issuer.role,
        OPERATION_KEY_PREFIX,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("end sent commands that have to stand above those of the cluster"))?;
    sqlx::query!(
        "with moved as (
             select id, row_number() over (order by revision) as number from commands
             where cluster_id = $1
               and (revision = any($2) or state = 'queued' and revision <= $3 and id <> all($4))
         ), counter as (
             update clusters set revision_counter = $3 + (select count(*) from moved) where id = $1
         )
         update commands k set revision = $3 + moved.number from moved where k.id = moved.id",
        cluster,
        &revisions,
        highest,
        &known,
    )
    .execute(connection)
    .await
    .map_err(failed("move commands above those of a diverged cluster"))?;
    Ok(again.into_iter().map(CommandId).collect())
}
