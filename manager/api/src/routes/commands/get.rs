//! `GET /commands/{command}`.

use crate::{error::ApiError, request_context::RequestContext, state::AppState, views};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::commands::Command;
use kubenova_core::{
    access::Scope,
    command::{self, CommandId},
    refusal::{Reason, Refusal},
};
use kubenova_store::commands;

/// Read a command with every station it passed.
#[utoipa::path(get, path = "/api/v1/commands/{command}", tag = "commands", operation_id = "getCommand",
    params(("command" = String, Path, description = "Id")),
    responses((status = 200, description = "The command", body = Command)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<Command>, ApiError> {
    let mut connection = state.store.read().await?;
    let command = match CommandId::parse(&named) {
        Some(id) => commands::find(&mut connection, id).await?,
        None => None,
    };
    let command = command
        .filter(|command| visible(ctx.scope, command))
        .ok_or_else(|| Refusal::new(Reason::CommandNotFound, format!("there is no command {named:?}")))?;
    Ok(Json(views::command(&command, ctx.now)))
}

/// A cluster's own commands belong to no tenant: only who reaches everything sees them.
fn visible(scope: Scope, command: &command::Command) -> bool {
    match (scope, command.tenant_id) {
        (Scope::All, _) => true,
        (Scope::Tenant(_), Some(tenant)) => scope.sees(tenant),
        (Scope::Tenant(_), None) => false,
    }
}
