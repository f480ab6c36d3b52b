//! Enrollment tokens of a cluster: create, list, read, revoke, and decide about the installation that waits with one.

pub mod approve;
pub mod create;
pub mod get;
pub mod list;
pub mod reject;
pub mod revoke;
pub(crate) mod ticket;

use super::clusters::found;
use crate::{error::ApiError, request_context::RequestContext, response::MutationResponse, views};
use kubenova_core::{
    cluster::{ClusterId, ClusterRef},
    enrollment_approval,
    enrollment_request::{Decision, Verdict},
    enrollment_token::parse_id,
    refusal::{Reason, Refusal},
};
use kubenova_store::{
    clusters,
    connection::Connection,
    enrollment_approvals,
    enrollment_tokens::{self, TokenRow},
    write_tx::WriteTx,
};
use uuid::Uuid;

/// A token as an audit record names it.
pub(super) fn target(id: Uuid) -> String {
    format!("enrollment/{id}")
}

/// What a path names: a cluster by id or name, and one of its tokens by id.
#[derive(Debug, Clone)]
struct Named {
    cluster: ClusterRef,
    enrollment: String,
}

impl Named {
    fn parse((cluster, enrollment): (String, String)) -> Self {
        Self { cluster: ClusterRef::parse(&cluster), enrollment }
    }

    async fn find(&self, connection: &mut Connection) -> Result<TokenRow, ApiError> {
        let (cluster, id) = self.ids(connection).await?;
        let token = enrollment_tokens::find(connection, &cluster, id).await?;
        Ok(token.ok_or_else(|| self.missing())?)
    }

    /// The token, its row locked until the transaction ends.
    async fn lock(&self, connection: &mut Connection) -> Result<TokenRow, ApiError> {
        let (cluster, id) = self.ids(connection).await?;
        let token = enrollment_tokens::lock(connection, &cluster, id).await?;
        Ok(token.ok_or_else(|| self.missing())?)
    }

    async fn ids(&self, connection: &mut Connection) -> Result<(ClusterId, Uuid), ApiError> {
        let cluster = found(clusters::find(connection, &self.cluster).await?, &self.cluster)?;
        Ok((cluster.id, parse_id(&self.enrollment).ok_or_else(|| self.missing())?))
    }

    fn missing(&self) -> Refusal {
        let detail = format!("cluster \"{}\" has no enrollment token {:?}", self.cluster, self.enrollment);
        Refusal::new(Reason::EnrollmentNotFound, detail)
    }
}

/// Records an administrator's verdict about the installation that waits.
async fn decide(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    named: &Named,
    verdict: Verdict,
    fingerprint: Option<&str>,
    reason: &str,
) -> Result<MutationResponse, ApiError> {
    let token = named.lock(tx.connection()).await?;
    if enrollment_approval::decide(&token.history, token.request.as_ref(), verdict, fingerprint, ctx.now)? {
        let (by, reason) = (ctx.caller.subject.clone(), reason.to_owned());
        enrollment_approvals::decide(tx.connection(), token.id, &Decision { verdict, at: ctx.now, by, reason }).await?;
        let verb = match verdict {
            Verdict::Approved => "approve",
            Verdict::Rejected => "reject",
        };
        tx.audit(ctx.action, verb, &target(token.id), None).await?;
    }
    let token = named.find(tx.connection()).await?;
    Ok(MutationResponse::done(&views::enrollment(&token, ctx.now)))
}
