//! Operations: written like documents, under a key of their own, with a deadline.
//!
//! Before they are sent the Manager alone ends them: they expire here, or are cancelled (`command_cancel.rs`). From then on only the
//! cluster can: its cancellation is a command that takes the place of the operation in the inbox, and an acknowledgement of it
//! proves that the operation has not begun and never will (`outcomes.rs`).

use crate::{
    error::{StoreError, failed},
    outbox::{self, EnqueuedCommand, Issuer},
    outbox_notification, wire,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::{Command, CommandId},
    operation::Operation,
};
use kubenova_schema::{kinds::CommandKind, signature::sha256_hex};
use sqlx::PgConnection;
use uuid::Uuid;

/// Writes one command for each cluster, each an operation of its own. Fails with [`StoreError::Missing`] when a cluster does not
/// exist.
pub async fn enqueue(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    clusters: &[ClusterId],
    operation: &Operation,
    not_after: Timestamp,
) -> Result<Vec<EnqueuedCommand>, StoreError> {
    let enqueued = outbox::assign_revisions(connection, issuer, clusters).await?;
    let ids: Vec<Uuid> = enqueued.iter().map(|one| one.command_id.0).collect();
    let names: Vec<String> = enqueued.iter().map(|one| one.cluster_id.to_string()).collect();
    let revisions: Vec<i64> = enqueued.iter().map(|one| one.revision).collect();
    let keys: Vec<String> = enqueued.iter().map(|one| wire::operation_key(one.command_id).to_string()).collect();
    let Operation { tenant_id, application, generation, .. } = operation;
    let (kind, document) = wire::encode_operation(operation);
    sqlx::query!(
        "with enqueued as (
             insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                                   created_by, queued_at, traceparent, not_after)
             select new.id, new.cluster_id, new.revision, $5, new.object_key, $6, $7, $8, $9, $10, $11, $12, $13
             from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[]) as new (id, cluster_id, revision, object_key)
             returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                                    document_sha256, detail)
         select queued_at, created_by, $14, 'command/enqueued', object_key, tenant_id, $15, id, cluster_id, revision, $16, kind
         from enqueued order by cluster_id",
        &ids,
        &names,
        &revisions,
        &keys,
        kind.as_str(),
        document,
        tenant_id.0,
        application.as_str(),
        generation,
        issuer.subject,
        issuer.now.to_sqlx(),
        issuer.traceparent.map(|parent| parent.to_string()),
        not_after.to_sqlx(),
        issuer.role,
        issuer.request_id,
        sha256_hex(document.as_bytes()),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("write operations"))?;
    outbox_notification::send(connection, &names).await?;
    Ok(enqueued)
}

/// Asks the cluster of an operation that was sent to keep it from beginning. The request that is open already, or was carried out,
/// is returned as it is, and one that was itself cancelled is made again; none when the operation is not open.
pub(crate) async fn request_cancel(
    connection: &mut PgConnection,
    issuer: Issuer<'_>,
    operation: &Command,
) -> Result<Option<EnqueuedCommand>, StoreError> {
    // So two requests come one after the other, and no outcome comes between.
    let is_open = sqlx::query_scalar!(
        r#"select state in ('sent', 'acknowledged', 'running') as "is_open!" from commands where id = $1 for update"#,
        operation.id.0,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock an operation"))?;
    if is_open != Some(true) {
        return Ok(None);
    }
    let present = sqlx::query!(
        "select id, revision from commands
         where cluster_id = $1 and object_key = $2 and kind = $3 and state not in ('failed', 'refused', 'superseded', 'cancelled')
         order by revision limit 1",
        operation.cluster_id.as_str(),
        operation.object_key,
        CommandKind::CancelOperation.as_str(),
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the cancellation of an operation"))?;
    if let Some(present) = present {
        let cluster_id = operation.cluster_id.clone();
        return Ok(Some(EnqueuedCommand { command_id: CommandId(present.id), cluster_id, revision: present.revision }));
    }
    let cluster = std::slice::from_ref(&operation.cluster_id);
    let enqueued = outbox::assign_revisions(connection, issuer, cluster).await?.remove(0);
    let document = wire::encode_cancel(operation.id);
    sqlx::query!(
        "with asked as (
             update commands set reason = 'CancelRequested',
                    message = 'its cluster was asked to keep it from beginning'
             where id = $1 returning *
         ), enqueued as (
             insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                                   created_by, queued_at, traceparent)
             select $2, cluster_id, $3, $4, object_key, $5, tenant_id, application_name, generation, $6, $7, $8 from asked
             returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                                    document_sha256, detail)
         select queued_at, created_by, $9, 'command/enqueued', object_key, tenant_id, $10, id, cluster_id, revision, $11, kind
         from enqueued",
        operation.id.0,
        enqueued.command_id.0,
        enqueued.revision,
        CommandKind::CancelOperation.as_str(),
        document,
        issuer.subject,
        issuer.now.to_sqlx(),
        issuer.traceparent.map(|parent| parent.to_string()),
        issuer.role,
        issuer.request_id,
        sha256_hex(document.as_bytes()),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("write the cancellation of an operation"))?;
    outbox_notification::send(connection, &[operation.cluster_id.to_string()]).await?;
    Ok(Some(enqueued))
}

/// Ends operations that were not sent before their deadline. How many those are.
pub async fn expire(connection: &mut PgConnection, now: Timestamp) -> Result<u64, StoreError> {
    let ended = sqlx::query!(
        "with due as materialized (
             select id from commands where state = 'queued' and not_after < $1 order by cluster_id, revision for update skip locked
         ), ended as (
             update commands k set state = 'expired', reason = 'DeadlineExceeded', waiting_for = '', finished_at = $1,
                    message = 'its deadline passed before it was sent: it will not be carried out'
             from due where k.id = due.id returning k.*
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
         select finished_at, 'manager', 'manager', 'command/expired', object_key, tenant_id, id, cluster_id, revision, reason
         from ended order by cluster_id, revision",
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("end operations whose deadline has passed"))?;
    Ok(ended.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue::{self, ClaimOptions, QueueState},
        command_retention::{self, Pass},
        commands,
        fixture::{Fixture, at, claim_options, issuer, new_id, reported},
        listings,
        outcomes::{self, Reported},
    };
    use kubenova_core::operation::WorkflowOperation;
    use kubenova_core::{application::ApplicationName, command::CommandState, tenant::TenantId};

    struct World {
        fixture: Fixture,
        cluster: ClusterId,
        tenant: TenantId,
    }

    impl World {
        async fn new() -> Self {
            let fixture = Fixture::new().await;
            let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
            Self { fixture, cluster, tenant: tenant.id }
        }

        /// A restart that has to begin before this second.
        async fn restart(&self, deadline: i64) -> CommandId {
            let application = ApplicationName::parse("shop").unwrap();
            let workflow = WorkflowOperation::Restart;
            let operation = Operation { workflow, tenant_id: self.tenant, application, generation: 1 };
            let mut tx = self.fixture.begin().await;
            let clusters = std::slice::from_ref(&self.cluster);
            let enqueued = enqueue(&mut tx, issuer(), clusters, &operation, at(deadline)).await.unwrap();
            tx.commit().await.unwrap();
            enqueued[0].command_id
        }

        async fn claim(&self, now: i64) -> QueueState {
            let due = ClaimOptions { now: at(now), send_again_at: at(now + 30), ..claim_options() };
            let mut tx = self.fixture.begin().await;
            let claimed = cluster_queue::claim(&mut tx, &self.cluster, &due).await.unwrap().unwrap();
            tx.commit().await.unwrap();
            claimed
        }

        async fn command(&self, id: CommandId) -> Command {
            commands::find(&mut self.fixture.store.acquire().await.unwrap(), id).await.unwrap().unwrap()
        }

        async fn state(&self, id: CommandId) -> CommandState {
            self.command(id).await.state
        }

        async fn cancel(&self, id: CommandId) -> CommandId {
            let operation = self.command(id).await;
            let mut tx = self.fixture.begin().await;
            let asked = request_cancel(&mut tx, issuer(), &operation).await.unwrap();
            tx.commit().await.unwrap();
            asked.unwrap().command_id
        }

        async fn report(&self, id: CommandId, state: CommandState) {
            let reported = Reported { send_again_at: Some(at(600)), ..reported(&self.cluster, id, state) };
            let mut tx = self.fixture.begin().await;
            outcomes::record(&mut tx, &reported, at(3), new_id).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    #[tokio::test]
    async fn operations_stand_beside_each_other_and_each_carries_its_deadline() {
        let world = World::new().await;
        let (first, second) = (world.restart(100).await, world.restart(200).await);
        let claimed = world.claim(1).await;
        let seen: Vec<_> = claimed.due.iter().map(|due| (due.id, due.not_after, due.object_key.clone())).collect();
        let key = |id: CommandId| format!("operation/{id}");
        assert_eq!(seen, [(first, Some(at(100)), key(first)), (second, Some(at(200)), key(second))]);
    }

    #[tokio::test]
    async fn what_was_not_sent_before_its_deadline_expires_and_is_never_sent() {
        let world = World::new().await;
        let id = world.restart(100).await;
        let expire = async |now| expire(&mut world.fixture.store.acquire().await.unwrap(), at(now)).await.unwrap();
        assert_eq!(expire(100).await, 0);
        assert_eq!(world.claim(101).await.due, [], "also before it is marked");
        assert_eq!(expire(101).await, 1);
        let expired = world.command(id).await;
        assert_eq!((expired.state, expired.finished_at), (CommandState::Expired, Some(at(101))));
        let mut connection = world.fixture.store.acquire().await.unwrap();
        assert_eq!(cluster_queue::floor(&mut connection, &world.cluster).await.unwrap(), 1, "it holds back no floor");
    }

    #[tokio::test]
    async fn what_was_sent_is_ended_by_its_cluster_alone() {
        let world = World::new().await;
        let id = world.restart(100).await;
        assert_eq!(world.claim(1).await.due.len(), 1);
        assert_eq!(expire(&mut world.fixture.store.acquire().await.unwrap(), at(500)).await.unwrap(), 0);
        assert_eq!(world.claim(500).await.due[0].not_after, Some(at(100)), "sent again, with the same deadline");
        world.report(id, CommandState::Expired).await;
        assert_eq!(world.state(id).await, CommandState::Expired);
    }

    #[tokio::test]
    async fn a_cancellation_that_was_cancelled_itself_can_be_asked_for_again() {
        let world = World::new().await;
        let id = world.restart(100).await;
        world.claim(1).await;
        let first = world.cancel(id).await;
        let end = "update commands set state = 'cancelled', finished_at = queued_at where kind = 'cancel-operation'";
        world.fixture.execute(end).await;
        let second = world.cancel(id).await;
        assert_ne!(first, second);
        let sent: Vec<_> = world.claim(2).await.due.iter().map(|due| due.id).collect();
        assert_eq!(sent, [second]);
    }

    #[tokio::test]
    async fn an_acknowledged_cancellation_ends_the_operation_and_a_refused_one_does_not() {
        for (answer, ended) in
            [(CommandState::Acknowledged, CommandState::Cancelled), (CommandState::Refused, CommandState::Sent)]
        {
            let world = World::new().await;
            let id = world.restart(100).await;
            world.claim(1).await;
            let cancellation = world.cancel(id).await;
            assert_eq!(world.cancel(id).await, cancellation, "one request");
            assert_eq!(world.command(id).await.reason, "CancelRequested");
            let sent = world.claim(2).await.due;
            assert_eq!((sent.len(), sent[0].kind.as_str(), sent[0].not_after), (1, "cancel-operation", None));
            let mut connection = world.fixture.store.acquire().await.unwrap();
            cluster_queue::resend_open(&mut connection, &world.cluster, i64::MAX, at(3)).await.unwrap();
            let again: Vec<_> = world.claim(40).await.due.iter().map(|due| due.id).collect();
            assert_eq!(again, [cancellation], "the operation waits for its cancellation");
            world.report(cancellation, answer).await;
            assert_eq!(world.state(id).await, ended);
            let left = usize::from(ended == CommandState::Sent);
            assert_eq!(world.claim(80).await.due.len(), left);
        }
    }

    #[tokio::test]
    async fn a_superseded_operation_is_not_written_again() {
        let world = World::new().await;
        let id = world.restart(100).await;
        world.claim(1).await;
        world.report(id, CommandState::Superseded).await;
        assert_eq!(world.state(id).await, CommandState::Superseded);
        assert_eq!(world.claim(500).await.due, []);
    }

    #[tokio::test]
    async fn operations_are_in_no_listing_and_leave_nothing_behind() {
        let world = World::new().await;
        let (first, last) = (world.restart(100).await, world.restart(100).await);
        world.claim(1).await;
        for id in [first, last] {
            world.report(id, CommandState::Succeeded).await;
        }
        let mut connection = world.fixture.store.acquire().await.unwrap();
        let empty = sha256_hex(b"");
        assert!(!listings::at_hello(&mut connection, &world.cluster, &empty, 1, at(200)).await.unwrap());
        let in_sync = listings::state(&mut connection, &world.cluster).await.unwrap().in_sync_at;
        assert_eq!(in_sync, Some(at(200)), "the listing of a cluster with operations alone is empty");
        // Ids of the fixture are of another time than its rows.
        world
            .fixture
            .execute("update commands set id = ('00000000-0000-7000-8000-' || lpad(revision::text, 12, '0'))::uuid")
            .await;
        command_retention::delete_old(&mut connection, at(9_000), Pass::default(), 10).await.unwrap();
        let left: i64 = sqlx::query_scalar("select count(*) from commands").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(left, 0);
    }
}
