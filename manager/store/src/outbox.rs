//! Announcing a change: one command row per cluster, in the transaction of the change itself.
//!
//! The revision is the cluster's counter, bumped under a lock that is held to the commit and taken in id order, so commit
//! order is revision order and two writers cannot deadlock. After this the relay sends what it finds (`cluster_queue.rs`).

use crate::{
    error::{StoreError, failed, inconsistent},
    wire,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{change::Change, cluster::ClusterId, command::CommandId};
use sqlx::PgConnection;
use uuid::Uuid;

/// Channel on which the relay is woken; the payload is the cluster's id. A poll is the truth, this only makes it sooner.
pub const CHANNEL: &str = "kubenova_outbox";

/// Most bytes of a document as it is carried: below the broker's 1 MiB a message and etcd's 1.5 MiB a request.
const CARRIED_BYTES_MAX: usize = 900_000;

/// Bytes of a document in the inbox record: there it is a text within the command's text, quoted twice.
fn carried_bytes(document: &str) -> usize {
    let quoted = |text: &str| serde_json::to_string(text).map_or(usize::MAX, |text| text.len());
    serde_json::to_string(document).map_or(usize::MAX, |once| quoted(&once))
}

/// Who announces, when, and from where ids come.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// Who.
    pub by: &'a str,
    /// Now.
    pub now: Timestamp,
    /// Maker of ids (UUIDv7).
    pub new_id: fn() -> Uuid,
}

/// A command that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnqueuedCommand {
    /// Its id.
    pub command_id: CommandId,
    /// Whom it is for.
    pub cluster_id: ClusterId,
    /// Its place in the cluster's encoded.
    pub revision: i64,
}

/// Writes one command per cluster and ends what it supersedes: rows about the same object that were not sent yet.
///
/// # Errors
/// When Postgres says no, or a cluster does not exist.
pub async fn enqueue_commands(
    connection: &mut PgConnection,
    stamp: Stamp<'_>,
    clusters: &[ClusterId],
    change: &Change,
) -> Result<Vec<EnqueuedCommand>, StoreError> {
    let encoded = wire::encode(change);
    let bytes = carried_bytes(&encoded.document);
    if bytes > CARRIED_BYTES_MAX {
        return Err(StoreError::TooLarge { bytes, most: CARRIED_BYTES_MAX });
    }
    let enqueued = number(connection, stamp, clusters).await?;
    let ids: Vec<Uuid> = enqueued.iter().map(|one| one.command_id.0).collect();
    let names: Vec<String> = enqueued.iter().map(|one| one.cluster_id.to_string()).collect();
    let revisions: Vec<i64> = enqueued.iter().map(|one| one.revision).collect();
    let key = encoded.key.to_string();
    sqlx::query!(
        "update commands set state = 'superseded', reason = 'NewerChange', message = 'a newer change took its place before it was sent',
                waiting_for = '', finished_at = $3
         where cluster_id = any($1) and object_key = $2 and state = 'queued'",
        &names,
        key,
        stamp.now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("supersede queued commands"))?;
    sqlx::query!(
        "insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                               created_by, queued_at)
         select fresh.id, fresh.cluster_id, fresh.revision, $4, $5, $6, $7, $8, $9, $10, $11
         from unnest($1::uuid[], $2::text[], $3::bigint[]) as fresh (id, cluster_id, revision)",
        &ids,
        &names,
        &revisions,
        encoded.kind.as_str(),
        key,
        encoded.document,
        change.tenant_id().map(|tenant| tenant.0),
        change.application_name(),
        change.generation(),
        stamp.by,
        stamp.now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("write commands"))?;
    sqlx::query!("select pg_notify($1, cluster) from unnest($2::text[]) as cluster", CHANNEL, &names)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("wake the relay"))?;
    Ok(enqueued)
}

/// Locks the clusters in id order and gives each its next revision.
async fn number(
    connection: &mut PgConnection,
    stamp: Stamp<'_>,
    clusters: &[ClusterId],
) -> Result<Vec<EnqueuedCommand>, StoreError> {
    let names: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "with locked as materialized (select id from clusters where id = any($1) order by id for no key update)
         update clusters set revision_counter = clusters.revision_counter + 1
         from locked where clusters.id = locked.id
         returning clusters.id, clusters.revision_counter",
        &names,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("number commands"))?;
    let mut enqueued = rows
        .into_iter()
        .map(|row| {
            let cluster_id = ClusterId::parse(&row.id).ok_or_else(|| inconsistent("clusters", "id", &row.id))?;
            Ok(EnqueuedCommand { command_id: CommandId((stamp.new_id)()), cluster_id, revision: row.revision_counter })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    enqueued.sort_by(|a, b| a.cluster_id.cmp(&b.cluster_id));
    let mut wanted = clusters.to_vec();
    wanted.sort();
    wanted.dedup();
    match wanted.iter().find(|cluster| !enqueued.iter().any(|one| one.cluster_id == **cluster)) {
        Some(missing) => Err(inconsistent("clusters", "id", missing)),
        None => Ok(enqueued),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_quoted_counts_as_often_as_it_is() {
        assert_eq!(carried_bytes("abc"), 3 + 2 + 4, "two quotes, then two more that escape those");
        let quotes = "\"".repeat(1000);
        assert!(carried_bytes(&quotes) > 4 * 1000);
    }
}
