//! Operations on the workflow of an application: what all of them share. Each cluster of the application gets one of its own.

use super::{found, not_deleting};
use crate::{
    error::ApiError, request_context::RequestContext, response::MutationResponse, routes::tenants, state::AppState,
    views,
};
use axum::response::Response;
use kubenova_api_types::{applications::ApplicationOperation, commands::OperationAccepted};
use kubenova_core::{
    cluster::{ClusterId, ClusterRef},
    operation::{self, Operation, WorkflowOperation},
    refusal::{Reason, Refusal},
};
use kubenova_store::applications::{self, Target};

/// Which application of which tenant, as the path names them.
pub(super) type Named = (String, String);

/// Writes the operation for each cluster that the body names, or for all of the application.
pub(super) async fn operate(
    state: &AppState,
    ctx: &RequestContext,
    (named, name): Named,
    dry_run: bool,
    body: &ApplicationOperation,
    workflow: WorkflowOperation,
) -> Result<Response, ApiError> {
    ctx.write(state, dry_run, async |tx| {
        let tenant = tenants::hold(tx.connection(), ctx, &named).await?;
        let application = found(applications::find_for_update(tx.connection(), tenant.id, &name).await?, &name)?;
        not_deleting(&application)?;
        let not_after = operation::deadline(body.deadline_seconds, ctx.now)?;
        let targets = applications::targets(tx.connection(), &[application.id]).await?;
        let clusters = chosen(&targets, body.clusters.as_deref())?;
        let operation = Operation::on(&application, workflow);
        let enqueued = tx.enqueue_operations(&clusters, &operation, not_after).await?;
        let target = format!("application/{}/{}", tenant.id, application.name);
        tx.audit(ctx.action, workflow.as_str(), &target, Some(tenant.id)).await?;

        let location = match enqueued.as_slice() {
            [one] => format!("/api/v1/commands/{}", one.command_id),
            _ => format!("/api/v1/commands?tenant={}&application={}", tenant.id, application.name),
        };
        let body = OperationAccepted { not_after, commands: views::enqueued(&enqueued) };
        Ok(MutationResponse::accepted(&body).location(location).operations(&enqueued))
    })
    .await
}

/// The clusters that the request names, or all on which the application should run.
fn chosen(targets: &[Target], named: Option<&[String]>) -> Result<Vec<ClusterId>, Refusal> {
    let runs = || targets.iter().filter(|target| target.delete_command.is_none());
    let Some(named) = named else { return Ok(runs().map(|target| target.cluster_id.clone()).collect()) };
    let refused = |detail: String| Refusal::at(Reason::FieldInvalid, "/clusters", detail);
    if named.is_empty() {
        return Err(refused("clusters is empty; leave it out for all clusters of the application".to_owned()));
    }
    let mut chosen = Vec::new();
    for text in named {
        let reference = ClusterRef::parse(text);
        let is = |target: &&Target| match &reference {
            ClusterRef::Id(id) => target.cluster_id == *id,
            ClusterRef::Name(name) => target.cluster_name == *name,
        };
        let target = runs().find(is);
        let target =
            target.ok_or_else(|| refused(format!("the application does not run on cluster \"{reference}\"")))?;
        if !chosen.contains(&target.cluster_id) {
            chosen.push(target.cluster_id.clone());
        }
    }
    Ok(chosen)
}
