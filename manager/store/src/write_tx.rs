//! The transaction of one accepted request: state, commands, audit row and stored response commit together or not at all.

use crate::{
    audit,
    cluster_purge::{self, Purged},
    command_cancel,
    connection::Connection,
    error::StoreError,
    idempotency::{self, Claim, ResponseRecord},
    operations,
    outbox::{self, EnqueuedCommand, Issuer},
    transaction::Tx,
};
use jiff::Timestamp;
use kubenova_core::{
    access::{Action, Caller},
    change::Change,
    cluster::ClusterId,
    command::{Command, CommandId},
    operation::Operation,
    tenant::TenantId,
};
use kubenova_schema::trace::TraceParent;
use uuid::Uuid;

/// Who writes, when, and from where new ids come.
#[derive(Debug, Clone)]
pub struct WriteContext {
    /// The authenticated caller.
    pub caller: Caller,
    /// Id of the request, for the audit row.
    pub request_id: String,
    /// Trace of the request, for the commands that it causes.
    pub traceparent: Option<TraceParent>,
    /// Now.
    pub now: Timestamp,
    /// Makes new ids (UUIDv7).
    pub new_id: fn() -> Uuid,
    /// The request's idempotency key, if it has one.
    pub claim: Option<Claim>,
    /// Whether everything is rolled back in the end.
    pub dry_run: bool,
}

impl WriteContext {
    fn issuer(&self) -> Issuer<'_> {
        Issuer {
            subject: &self.caller.subject,
            role: self.caller.role.as_str(),
            request_id: &self.request_id,
            now: self.now,
            new_id: self.new_id,
            traceparent: self.traceparent,
        }
    }
}

/// The open transaction of one request, see [`crate::pool::Store::write`].
#[derive(Debug)]
pub struct WriteTx {
    tx: Tx,
    context: WriteContext,
}

impl WriteTx {
    pub(crate) const fn new(tx: Tx, context: WriteContext) -> Self {
        Self { tx, context }
    }

    /// The connection, for the functions of the noun files.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.tx
    }

    /// Who writes and when.
    #[must_use]
    pub const fn context(&self) -> &WriteContext {
        &self.context
    }

    /// Writes one command per cluster that carries the change, in this transaction.
    pub async fn enqueue_commands(
        &mut self,
        clusters: &[ClusterId],
        change: &Change,
    ) -> Result<Vec<EnqueuedCommand>, StoreError> {
        let Self { tx, context } = self;
        outbox::enqueue_commands(tx, context.issuer(), clusters, change).await
    }

    /// Writes one operation per cluster, in this transaction.
    pub async fn enqueue_operations(
        &mut self,
        clusters: &[ClusterId],
        operation: &Operation,
        not_after: Timestamp,
    ) -> Result<Vec<EnqueuedCommand>, StoreError> {
        let Self { tx, context } = self;
        operations::enqueue(tx, context.issuer(), clusters, operation, not_after).await
    }

    /// Asks the cluster of an operation that was sent to keep it from beginning: the command that does so, none when it has ended.
    pub async fn request_cancel(&mut self, operation: &Command) -> Result<Option<EnqueuedCommand>, StoreError> {
        let Self { tx, context } = self;
        operations::request_cancel(tx, context.issuer(), operation).await
    }

    /// Ends a command that was not sent yet. False when it is not queued: another transaction sent or ended it.
    pub async fn cancel_command(&mut self, command: CommandId) -> Result<bool, StoreError> {
        let Self { tx, context } = self;
        command_cancel::cancel(tx, command, &context.caller, &context.request_id, context.now).await
    }

    /// Purges a cluster that the caller holds ([`crate::clusters::lock`]).
    pub async fn purge_cluster(&mut self, cluster: &ClusterId) -> Result<Purged, StoreError> {
        let Self { tx, context } = self;
        cluster_purge::purge(tx, cluster, &context.caller, &context.request_id, context.now).await
    }

    /// Adds the audit record of the request; `verb` says what was done ("create", "replace").
    pub async fn audit(
        &mut self,
        action: Action,
        verb: &str,
        target: &str,
        tenant: Option<TenantId>,
    ) -> Result<(), StoreError> {
        let entry = audit::Entry {
            at: self.context.now,
            subject: self.context.caller.subject.clone(),
            role: self.context.caller.role,
            action: format!("{}/{verb}", action.as_str()),
            target: target.to_owned(),
            tenant,
            request_id: self.context.request_id.clone(),
        };
        audit::insert(&mut self.tx, &entry).await
    }

    /// Takes the request's idempotency key until the transaction ends.
    pub(crate) async fn lock_key(&mut self) -> Result<(), StoreError> {
        let Some(claim) = &self.context.claim else { return Ok(()) };
        idempotency::lock_key(&mut self.tx, &self.context.caller.identity(), claim, self.context.now).await
    }

    /// Stores the response under the request's idempotency key.
    pub(crate) async fn store_response(&mut self, response: &ResponseRecord) -> Result<(), StoreError> {
        let Some(claim) = &self.context.claim else { return Ok(()) };
        idempotency::insert(&mut self.tx, &self.context.caller.identity(), claim, response, self.context.now).await
    }

    /// Commits, or rolls a dry run back.
    pub(crate) async fn end(self) -> Result<(), StoreError> {
        if self.context.dry_run {
            self.roll_back().await;
            return Ok(());
        }
        self.tx.commit().await
    }

    pub(crate) async fn roll_back(self) {
        self.tx.roll_back().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue,
        fixture::{Fixture, at, caller, claim_options, new_id},
    };

    /// The traceparent of the command that the relay claims after a request with this one.
    async fn claimed(traceparent: Option<TraceParent>) -> Option<TraceParent> {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        let context = WriteContext {
            caller: caller(),
            request_id: "r".into(),
            traceparent,
            now: at(0),
            new_id,
            claim: None,
            dry_run: false,
        };
        let write = fixture.store.write(context, async |tx| {
            tx.enqueue_commands(std::slice::from_ref(&cluster), &Change::Tenant(tenant.clone())).await?;
            Ok::<_, StoreError>(((), ResponseRecord { status: 202, headers: Vec::new(), body: String::new() }))
        });
        write.await.unwrap();
        let due = claim_options();
        let mut tx = fixture.begin().await;
        let queue = cluster_queue::claim(&mut tx, &cluster, &due).await.unwrap().unwrap();
        queue.due[0].traceparent
    }

    #[tokio::test]
    async fn a_command_carries_the_trace_of_its_request_to_the_relay() {
        let traceparent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(traceparent.is_some());
        assert_eq!(claimed(traceparent).await, traceparent);
        assert_eq!(claimed(None).await, None);
    }
}
