//! `GET /commands/{command}`.

use crate::{ask::Ask, error::ApiError, show, state::AppState};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::commands::Command;
use kubenova_core::{
    access::Reach,
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
    ask: Ask,
    Path(named): Path<String>,
) -> Result<Json<Command>, ApiError> {
    let mut connection = state.store.read().await?;
    let command = match CommandId::parse(&named) {
        Some(id) => commands::find(&mut connection, id).await?,
        None => None,
    };
    let command = command
        .filter(|command| visible(ask.reach, command))
        .ok_or_else(|| Refusal::new(Reason::CommandNotFound, format!("there is no command {named:?}")))?;
    Ok(Json(show::command(&command, ask.now)))
}

/// A cluster's own commands belong to no tenant: only who reaches everything sees them.
fn visible(reach: Reach, command: &command::Command) -> bool {
    match (reach, command.tenant_id) {
        (Reach::All, _) => true,
        (Reach::Tenant(_), Some(tenant)) => reach.sees(tenant),
        (Reach::Tenant(_), None) => false,
    }
}
