//! The outbox: one command per cluster, written in the transaction of the change it carries.
//!
//! The revision is the cluster's counter, bumped under a lock that is held to the commit and taken in id order, so commit
//! order is revision order and two writers cannot deadlock. After it: the relay sends what is due (`cluster_queue.rs`).

use crate::{
    error::{RowRef, StoreError, every_row, failed},
    outbox_notification, wire,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{change::Change, cluster::ClusterId, command::CommandId};
use kubenova_schema::{signature::sha256_hex, trace::TraceParent};
use sqlx::PgConnection;
use uuid::Uuid;

/// Most bytes of a document as it is carried: below the broker's 1 MiB a message and etcd's 1.5 MiB a request.
const CARRIED_BYTES_MAX: usize = 900_000;

/// Bytes of a document in the inbox record: there it is a text within the command's text, quoted twice.
fn carried_bytes(document: &str) -> usize {
    let quoted = |text: &str| serde_json::to_string(text).map_or(usize::MAX, |text| text.len());
    serde_json::to_string(document).map_or(usize::MAX, |once| quoted(&once))
}

/// Who issues commands and when.
#[derive(Debug, Clone, Copy)]
pub struct Issuer<'a> {
    /// Name of the caller, for `created_by` and the audit log.
    pub subject: &'a str,
    /// Role of the caller, or `manager`.
    pub role: &'a str,
    /// Id of the request; empty when the Manager issues them by itself.
    pub request_id: &'a str,
    /// Now.
    pub now: Timestamp,
    /// Makes new ids (UUIDv7).
    pub new_id: fn() -> Uuid,
    /// The trace of the request that caused them.
    pub traceparent: Option<TraceParent>,
}

impl<'a> Issuer<'a> {
    /// Who issues commands outside any request.
    #[must_use]
    pub const fn without_request(subject: &'a str, role: &'a str, now: Timestamp, new_id: fn() -> Uuid) -> Self {
        Self { subject, role, request_id: "", now, new_id, traceparent: None }
    }
}

/// A command that was written but not sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnqueuedCommand {
    /// Its id.
    pub command_id: CommandId,
    /// The cluster it is for.
    pub cluster_id: ClusterId,
    /// Its place in the order of the cluster's commands.
    pub revision: i64,
}

/// Writes one command per cluster and supersedes those about the same object that were not sent yet. Fails with
/// [`StoreError::TooLarge`] when the document does not fit into a message, and with [`StoreError::Missing`] when a
/// cluster does not exist.
pub async fn enqueue_commands(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    clusters: &[ClusterId],
    change: &Change,
) -> Result<Vec<EnqueuedCommand>, StoreError> {
    let encoded = wire::encode(change);
    let bytes = carried_bytes(&encoded.document);
    if bytes > CARRIED_BYTES_MAX {
        return Err(StoreError::TooLarge { bytes, most: CARRIED_BYTES_MAX });
    }
    let enqueued = assign_revisions(connection, issuer, clusters).await?;
    let ids: Vec<Uuid> = enqueued.iter().map(|one| one.command_id.0).collect();
    let names: Vec<String> = enqueued.iter().map(|one| one.cluster_id.to_string()).collect();
    let revisions: Vec<i64> = enqueued.iter().map(|one| one.revision).collect();
    let key = encoded.key.to_string();
    let document_sha256 = sha256_hex(encoded.document.as_bytes());
    // A statement of its own, after the lock: it sees every command that was written before.
    sqlx::query!(
        "with ended as (
             update commands set state = 'superseded', reason = 'NewerChange',
                    message = 'a newer change replaced it before it was sent', waiting_for = '', finished_at = $11
             where cluster_id = any($2) and object_key = $5 and finished_at is null and (state = 'queued') is true returning *
         ), enqueued as (
             insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                                   created_by, queued_at, traceparent)
             select new.id, new.cluster_id, new.revision, $4, $5, $6, $7, $8, $9, $10, $11, $12
             from unnest($1::uuid[], $2::text[], $3::bigint[]) as new (id, cluster_id, revision)
             returning *
         ), audited as (
             insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                                        document_sha256, detail)
             select $11, 'manager', 'manager', 'command/superseded', object_key, tenant_id, '', id, cluster_id, revision, '', reason
             from ended
             union all
             select $11, created_by, $13, 'command/enqueued', object_key, tenant_id, $14, id, cluster_id, revision, $15, kind
             from enqueued
             -- What was superseded first, then by cluster and revision.
             order by 4 desc, 9, 10
         )
         select pg_notify($16, $17)",
        &ids,
        &names,
        &revisions,
        encoded.kind.as_str(),
        key,
        encoded.document,
        change.tenant_id().map(|tenant| tenant.0),
        change.application_name(),
        change.generation(),
        issuer.subject,
        issuer.now.to_sqlx(),
        issuer.traceparent.map(|parent| parent.to_string()),
        issuer.role,
        issuer.request_id,
        document_sha256,
        outbox_notification::CHANNEL,
        outbox_notification::payload(&names),
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("write commands"))?;
    Ok(enqueued)
}

/// Writes commands of a cluster once more under new revisions, in this order: what they carry is still wanted and is not there.
/// They are sent at once, or at this time. What waited for one of them waits for its successor.
pub async fn enqueue_again(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    cluster: &ClusterId,
    commands: &[CommandId],
    send_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    if commands.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = commands.iter().map(|command| command.0).collect();
    let new_ids: Vec<Uuid> = commands.iter().map(|_| (issuer.new_id)()).collect();
    let count = i64::try_from(commands.len()).unwrap_or(i64::MAX);
    let written = sqlx::query!(
        "with counter as (
             update clusters set revision_counter = revision_counter + $3 where id = $1
             returning revision_counter - $3 as given
         ), enqueued as (
             insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name,
                                   generation, created_by, queued_at, traceparent, next_send_at)
             select again.new_id, k.cluster_id, counter.given + again.number, k.kind, k.object_key, k.document, k.tenant_id,
                    k.application_name, k.generation, $5, $6, $7, $10
             from counter, unnest($2::uuid[], $4::uuid[]) with ordinality as again (id, new_id, number)
             join commands k on k.id = again.id and k.cluster_id = $1
             returning *
         ), handed_over as (
             update application_clusters a set delete_command = again.new_id
             from unnest($2::uuid[], $4::uuid[]) as again (id, new_id)
             where a.delete_command = again.id and a.cluster_id = $1
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                                    document_sha256, detail)
         select queued_at, created_by, $8, 'command/enqueued', object_key, tenant_id, $9, id, cluster_id, revision,
                encode(sha256(convert_to(document, 'UTF8')), 'hex'), kind
         from enqueued order by revision",
        cluster.as_str(),
        &ids,
        count,
        &new_ids,
        issuer.subject,
        issuer.now.to_sqlx(),
        issuer.traceparent.map(|parent| parent.to_string()),
        issuer.role,
        issuer.request_id,
        send_at.map(|at| at.to_sqlx()) as _,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("write commands again"))?;
    every_row(written.rows_affected(), commands.len(), "commands", cluster)?;
    outbox_notification::send(connection, &[cluster.to_string()]).await
}

/// Has whoever writes a command for this cluster wait until the transaction ends. A statement after it sees every command that was
/// written before, so that what is decided from it stands above nothing newer.
pub(crate) async fn lock_cluster(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query!("select id from clusters where id = $1 for no key update", cluster.as_str())
        .fetch_optional(connection)
        .await
        .map(drop)
        .map_err(failed("lock the cluster of commands"))
}

/// Locks the clusters in id order and gives each its next revision.
pub(crate) async fn assign_revisions(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    clusters: &[ClusterId],
) -> Result<Vec<EnqueuedCommand>, StoreError> {
    let names: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "with locked as materialized (
             select id from clusters where id = any($1) and state <> 'purged' order by id for no key update
         )
         update clusters set revision_counter = clusters.revision_counter + 1
         from locked where clusters.id = locked.id
         returning clusters.id, clusters.revision_counter",
        &names,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("assign revisions to commands"))?;
    let mut enqueued = rows
        .into_iter()
        .map(|row| {
            let cluster_id = RowRef { table: "clusters", id: &row.id }.cluster_id("id", &row.id)?;
            Ok(EnqueuedCommand { command_id: CommandId((issuer.new_id)()), cluster_id, revision: row.revision_counter })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    enqueued.sort_by(|a, b| a.cluster_id.cmp(&b.cluster_id));
    let mut wanted = clusters.to_vec();
    wanted.sort();
    wanted.dedup();
    match wanted.iter().find(|cluster| !enqueued.iter().any(|one| one.cluster_id == **cluster)) {
        Some(missing) => Err(purged_or_missing(connection, missing).await?),
        None => Ok(enqueued),
    }
}

/// Why a cluster gets no command. A purge may have ended while the request that named it waited for its lock.
async fn purged_or_missing(connection: &mut PgConnection, cluster: &ClusterId) -> Result<StoreError, StoreError> {
    let found = sqlx::query_scalar!("select name from clusters where id = $1", cluster.as_str())
        .fetch_optional(connection)
        .await
        .map_err(failed("find a cluster without commands"))?;
    Ok(match found {
        Some(name) => StoreError::Purged { cluster: name },
        None => StoreError::Missing { table: "clusters", id: cluster.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands,
        fixture::{Fixture, application, cluster, issuer, rows_read},
    };
    use kubenova_core::{
        cluster::{ClusterRef, Components},
        command::CommandState,
        refusal::Reason,
    };

    #[test]
    fn what_must_be_quoted_counts_as_often_as_it_is() {
        assert_eq!(carried_bytes("abc"), 3 + 2 + 4, "two quotes, then two more that escape those");
        let quotes = "\"".repeat(1000);
        assert!(carried_bytes(&quotes) > 4 * 1000);
    }

    #[tokio::test]
    async fn each_cluster_counts_its_own_revisions_and_a_newer_change_supersedes_what_was_not_sent() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let first = fixture.enqueue(&clusters[..1], &Change::Tenant(tenant.clone())).await;
        let second = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        assert_eq!(first[0].revision, 1);
        assert_eq!(second.iter().map(|one| one.revision).collect::<Vec<_>>(), [2, 1]);
        let mut connection = fixture.store.acquire().await.unwrap();
        let state = |command: Option<kubenova_core::command::Command>| command.unwrap().state;
        let superseded = commands::find(&mut connection, first[0].command_id).await.unwrap();
        assert_eq!(state(superseded), CommandState::Superseded);
        assert_eq!(state(commands::find(&mut connection, second[0].command_id).await.unwrap()), CommandState::Queued);
    }

    #[tokio::test]
    async fn commands_that_wait_make_another_cost_no_more() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let change = Change::Tenant(tenant);
        fixture.enqueue(&clusters, &change).await;
        // Postgres knows of a history and of none that wait, as after a quiet day.
        fixture
            .database
            .execute(
                "insert into commands (id, cluster_id, revision, kind, object_key, document, generation, created_by, queued_at,
                                       state, finished_at)
                 select gen_random_uuid(), c.id, n, 'apply-tenant', 'tenant/' || n % 500, '{}', 1, 'ann', now(), 'succeeded', now()
                 from clusters c, generate_series(1000, 5999) n;
                 analyze;
                 insert into commands (id, cluster_id, revision, kind, object_key, document, generation, created_by, queued_at)
                 select gen_random_uuid(), c.id, n, 'apply-tenant', 'tenant/' || n % 500, '{}', 1, 'ann', now()
                 from clusters c, generate_series(6000, 10999) n",
            )
            .await;
        let mut tx = fixture.begin().await;
        enqueue_commands(&mut tx, issuer(), &clusters, &change).await.unwrap();
        let read = rows_read(&mut tx).await;
        assert!(read <= 5, "{read} rows were read to supersede one");
    }

    #[tokio::test]
    async fn a_change_of_another_object_supersedes_nothing() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let first = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let config = Change::ClusterConfig { components: Components::default(), generation: 1 };
        fixture.enqueue(&clusters, &config).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let command = commands::find(&mut connection, first[0].command_id).await.unwrap().unwrap();
        assert_eq!(command.state, CommandState::Queued);
    }

    #[tokio::test]
    async fn a_missing_cluster_and_a_document_that_fits_no_message_write_nothing() {
        let fixture = Fixture::new().await;
        let (mut clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        clusters.push(cluster(9).id);
        let write = async |clusters: &[ClusterId], change: Change| {
            let enqueue = async |tx: &mut PgConnection| enqueue_commands(tx, issuer(), clusters, &change).await;
            fixture.store.transaction("test", enqueue).await
        };
        let missing = write(&clusters, Change::Tenant(tenant.clone())).await;
        assert!(matches!(missing, Err(StoreError::Missing { table: "clusters", .. })), "{missing:?}");
        let mut application = application(&tenant, "large");
        application.spec = format!("\"{}\"", "x".repeat(CARRIED_BYTES_MAX));
        let change = Change::Application { tenant: tenant.name.clone(), application };
        let large = write(&clusters[..1], change).await.unwrap_err();
        assert!(large.refusal().is_some(), "{large}");
    }

    #[tokio::test]
    async fn writers_that_name_clusters_in_opposite_order_do_not_deadlock_and_share_no_revision() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let backwards: Vec<ClusterId> = clusters.iter().rev().cloned().collect();
        let change = Change::Tenant(tenant);
        let rounds = 8_usize;
        let write = |order: Vec<ClusterId>| {
            let (fixture, change) = (&fixture, &change);
            async move {
                for _ in 0..rounds {
                    fixture.enqueue(&order, change).await;
                }
            }
        };
        tokio::join!(write(clusters.clone()), write(backwards));
        let mut connection = fixture.store.acquire().await.unwrap();
        for id in clusters {
            let cluster = crate::clusters::find(&mut connection, &ClusterRef::Id(id)).await.unwrap().unwrap();
            assert_eq!(cluster.revision, i64::try_from(2 * rounds).unwrap());
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_purged_meanwhile_gets_no_command() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let (mut purge, mut tx) = (fixture.begin().await, fixture.begin().await);
        sqlx::query("update clusters set state = 'purged'").execute(&mut *purge).await.unwrap();
        let blocked = fixture.blocked(&mut tx).await;
        let purged = async {
            blocked.await;
            purge.commit().await.unwrap();
        };
        let change = Change::Tenant(tenant);
        let (written, ()) = tokio::join!(enqueue_commands(&mut tx, issuer(), &clusters, &change), purged);
        let refused = written.unwrap_err();
        assert!(matches!(refused, StoreError::Purged { .. }), "{refused:?}");
        assert_eq!(refused.refusal().unwrap().reason, Reason::ClusterNotUsable);
    }

    #[tokio::test]
    async fn a_command_of_another_cluster_is_not_sent_again() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let commands = fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let foreign = [commands[1].command_id];
        let error = enqueue_again(&mut connection, issuer(), &clusters[0], &foreign, None).await;
        assert!(error.is_err());
    }
}
