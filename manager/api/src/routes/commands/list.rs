//! `GET /commands`.

use crate::{
    cursor,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::{clusters::found, tenants},
    state::AppState,
    views,
};
use axum::{Json, extract::State};
use kubenova_api_types::{commands::Command, list::List};
use kubenova_core::{
    cluster::ClusterRef,
    command::{CommandFilter, CommandState},
    refusal::{Reason, Refusal},
};
use kubenova_store::{clusters, commands, placements, pool::Connection};

const LIST: &str = "commands";

/// Query of this list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommandParams {
    /// For this cluster, by id or name.
    pub cluster: Option<String>,
    /// Of this tenant, by id or name.
    pub tenant: Option<String>,
    /// About this application.
    pub application: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// `nextCursor` of the page before, with the same filter.
    pub cursor: Option<String>,
    /// Objects in a page: 50 when absent, at most 500.
    pub limit: Option<u32>,
}

/// List commands, newest first.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", operation_id = "listCommands", params(CommandParams),
    responses((status = 200, description = "One page", body = List<Command>)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<CommandParams>,
) -> Result<Json<List<Command>>, ApiError> {
    let mut connection = state.store.read().await?;
    let filter = filter(&mut connection, &ctx, &params).await?;
    let text = format!("{:?}", (&filter.cluster, filter.tenant, &filter.application, filter.state)).replace('\n', " ");
    let page = cursor::page(LIST, &text, params.cursor.as_deref(), params.limit)?;
    let mut commands = commands::list(&mut connection, &filter, &page).await?;
    let more = page.cut(&mut commands);
    let next_cursor =
        commands.last().filter(|_| more).map(|command| cursor::after(LIST, &text, &command.id.to_string()));
    Ok(Json(List { items: commands.iter().map(|command| views::command(command, ctx.now)).collect(), next_cursor }))
}

async fn filter(
    connection: &mut Connection,
    ctx: &RequestContext,
    params: &CommandParams,
) -> Result<CommandFilter, ApiError> {
    let state = params.state.as_deref().map(|text| {
        CommandState::parse(text)
            .ok_or_else(|| Refusal::new(Reason::QueryInvalid, format!("{text:?} is no state of a command")))
    });
    let mut filter = CommandFilter {
        tenant: ctx.scope.tenant(),
        application: params.application.clone(),
        state: state.transpose()?,
        cluster: None,
    };
    if let Some(named) = &params.tenant {
        filter.tenant = Some(tenants::find(connection, ctx, named).await?.id);
    }
    if let Some(named) = params.cluster.as_deref().map(ClusterRef::parse) {
        let cluster = found(clusters::find(connection, &named).await?, &named);
        // For who is limited to a tenant, other clusters do not exist.
        let placed = match ctx.scope.tenant() {
            Some(tenant) => Some(placements::of_tenants(connection, &[tenant]).await?),
            None => None,
        };
        let visible = cluster.as_ref().ok().filter(|cluster| {
            placed.as_ref().is_none_or(|placed| placed.iter().any(|one| one.cluster_id == cluster.id))
        });
        filter.cluster = match visible {
            Some(cluster) => Some(cluster.id.clone()),
            None => Some(found(None, &named)?.id),
        };
    }
    Ok(filter)
}
