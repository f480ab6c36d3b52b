//! `DELETE /dead-letters/{deadLetter}`.

use super::{find, view};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::dead_letters::DeadLetter;
use kubenova_store::dead_letters;

/// Discard a dead letter.
///
/// Nothing is sent or handled again. When the cluster publishes the same message once more, it is a new dead letter.
#[utoipa::path(delete, path = "/api/v1/dead-letters/{deadLetter}", tag = "dead letters", operation_id = "discardDeadLetter",
    params(("deadLetter" = String, Path, description = "Id"), ChangeParams),
    responses((status = 200, description = "What was discarded; or a dry run", body = DeadLetter)))]
pub async fn discard(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let letter = find(tx.connection(), &named).await?;
        if dead_letters::delete(tx.connection(), letter.id).await? {
            tx.audit(ctx.action, "discard", &format!("dead-letter/{}", letter.id), None).await?;
        }
        Ok(MutationResponse::done(&view(&letter)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::{routes::dead_letters::testing::store, testing::TestApi};
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_store::audit_chain;

    #[tokio::test]
    async fn it_is_gone_and_the_audit_log_says_who_discarded_it() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        let path = format!("/api/v1/dead-letters/{}", store(&api, "c1", "s", b"x").await);
        let records = async || audit_chain::pending(&mut api.state.store.acquire().await.unwrap()).await.unwrap();
        api.delete(&format!("{path}?dryRun=true")).send(&ops).await.is(200);
        assert_eq!(records().await, 0);
        assert_eq!(api.delete(&path).key("k").send(&ops).await.ok(200)["reason"], "it is no outcome");
        api.delete(&path).key("k").send(&ops).await.is(200);
        assert_eq!(records().await, 1);
        api.delete(&path).send(&ops).await.refused(Reason::DeadLetterNotFound);
        api.get(&path).send(&ops).await.refused(Reason::DeadLetterNotFound);
    }
}
