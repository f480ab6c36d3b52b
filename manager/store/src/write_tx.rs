//! The transaction of one accepted request: state, outbox rows, audit row and kept answer commit together or not at all.

use crate::{
    audit,
    error::{StoreError, failed},
    idempotency::{self, Claim, ResponseRecord},
    outbox::{self, EnqueuedCommand, Stamp},
};
use jiff::Timestamp;
use kubenova_core::{
    access::{Action, Caller},
    change::Change,
    cluster::ClusterId,
    tenant::TenantId,
};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

/// Who writes, when, and from where new ids come.
#[derive(Debug, Clone)]
pub struct WriteContext {
    /// Who asked.
    pub caller: Caller,
    /// Id of the request, for the audit row.
    pub request_id: String,
    /// Now.
    pub now: Timestamp,
    /// Maker of ids.
    pub new_id: fn() -> Uuid,
    /// The request's idempotency key, if it has one.
    pub claim: Option<Claim>,
}

/// An open transaction of one request. Dropped without a commit, nothing happened.
#[derive(Debug)]
pub struct WriteTx {
    transaction: Transaction<'static, Postgres>,
    context: WriteContext,
}

impl WriteTx {
    pub(crate) const fn new(transaction: Transaction<'static, Postgres>, context: WriteContext) -> Self {
        Self { transaction, context }
    }

    /// The connection, for the functions of the noun files.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Who writes and when.
    #[must_use]
    pub const fn context(&self) -> &WriteContext {
        &self.context
    }

    /// Announces a change to clusters: one command for each, in this transaction.
    ///
    /// # Errors
    /// When Postgres says no.
    pub async fn enqueue_commands(
        &mut self,
        clusters: &[ClusterId],
        change: &Change,
    ) -> Result<Vec<EnqueuedCommand>, StoreError> {
        let stamp = Stamp { by: &self.context.caller.subject, now: self.context.now, new_id: self.context.new_id };
        outbox::enqueue_commands(&mut self.transaction, stamp, clusters, change).await
    }

    /// Leaves the audit row of what was accepted.
    ///
    /// # Errors
    /// When Postgres says no.
    pub async fn audit(
        &mut self,
        action: Action,
        verb: &str,
        target: &str,
        tenant: Option<TenantId>,
    ) -> Result<(), StoreError> {
        let entry = audit::Entry {
            id: (self.context.new_id)(),
            at: self.context.now,
            subject: self.context.caller.subject.clone(),
            role: self.context.caller.role,
            action: format!("{action:?}/{verb}"),
            target: target.to_owned(),
            tenant,
            request_id: self.context.request_id.clone(),
        };
        audit::insert(&mut self.transaction, &entry).await
    }

    /// Commits, with the answer to be repeated when the request is.
    ///
    /// # Errors
    /// When Postgres says no, or a request with the same key committed first.
    pub async fn commit(mut self, answer: &ResponseRecord) -> Result<(), StoreError> {
        if let Some(claim) = &self.context.claim {
            let subject = &self.context.caller.subject;
            idempotency::keep(&mut self.transaction, subject, claim, answer, self.context.now).await?;
        }
        self.transaction.commit().await.map_err(failed("commit a change"))
    }
}
