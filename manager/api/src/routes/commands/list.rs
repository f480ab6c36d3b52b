//! `GET /commands`.

use crate::{
    cursor::{self, PageLimit},
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::{clusters::found, tenants},
    state::AppState,
    views,
};
use axum::{Json, extract::State};
use kubenova_api_types::{
    commands::{self as commands_api, CommandList},
    list::List,
};
use kubenova_core::{
    application::ApplicationName,
    cluster::ClusterRef,
    command::{CommandFilter, CommandId},
    refusal::{Reason, Refusal},
};
use kubenova_store::{clusters, commands, connection::Connection, placements};

const LIST: &str = "commands";

/// Query of this list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommandParams {
    /// Commands for this cluster, by id or name.
    #[param(pattern = "^[a-z0-9-]+$", max_length = 50)]
    pub cluster: Option<String>,
    /// Commands about this tenant, by id or name.
    #[param(pattern = "^[a-z0-9-]+$", max_length = 50)]
    pub tenant: Option<String>,
    /// Commands about applications of this name.
    #[param(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length = 50)]
    pub application: Option<String>,
    /// Commands in this state.
    #[param(inline)]
    pub state: Option<commands_api::CommandState>,
    /// `nextCursor` of the page before, with the same filter.
    #[param(pattern = "^[A-Za-z0-9_-]+$", max_length = 1024)]
    pub cursor: Option<String>,
    /// Objects in a page.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<PageLimit>,
}

/// List commands, newest first.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", operation_id = "listCommands", params(CommandParams),
    responses((status = 200, description = "One page", body = CommandList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<CommandParams>,
) -> Result<Json<CommandList>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let filter = filter(&mut connection, &ctx, &params).await?;
    let text = cursor::fingerprint([
        ("cluster", filter.cluster.as_ref().map(ToString::to_string)),
        ("tenant", filter.tenant.map(|tenant| tenant.to_string())),
        ("application", filter.application.clone()),
        ("state", filter.state.map(|state| state.as_str().to_owned())),
    ]);
    let page =
        cursor::page(LIST, &text, params.cursor.as_deref(), params.limit, |key| CommandId::parse(key).is_some())?;
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
    let mut filter = CommandFilter {
        tenant: ctx.scope.tenant(),
        application: params.application.clone(),
        state: params.state.map(views::to_command_state),
        cluster: None,
    };
    if let Some(name) = &params.application {
        let invalid = |refusal: Refusal| Refusal::new(Reason::QueryInvalid, refusal.detail);
        ApplicationName::parse(name).map_err(invalid)?;
    }
    if let Some(named) = &params.tenant {
        filter.tenant = Some(tenants::find(connection, ctx, named).await?.id);
    }
    if let Some(named) = params.cluster.as_deref().map(ClusterRef::parse) {
        let cluster = found(clusters::find(connection, &named).await?, &named);
        // To a caller that is limited to a tenant, clusters without that tenant do not exist.
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

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::{Value, json};

    fn kinds(page: &Value) -> Vec<&str> {
        page["items"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn filters_select_and_pages_go_on_under_the_same_filter_only() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        api.cluster(&admin, "dc1-b").await;
        api.tenant(&admin, "acme", &["dc1-a", "dc1-b"]).await;
        let list = |query: &str| api.get(&format!("/api/v1/commands{query}")).send(&admin);
        assert_eq!(list("").await.ok(200)["items"].as_array().unwrap().len(), 4);
        assert_eq!(kinds(&list("?tenant=acme").await.ok(200)).len(), 2);
        let on_one = list("?tenant=acme&cluster=dc1-a&state=queued").await.ok(200);
        assert_eq!(on_one["items"][0]["clusterName"], "dc1-a");
        assert_eq!(list("?state=succeeded").await.ok(200)["items"], json!([]));
        assert_eq!(list("?application=shop").await.ok(200)["items"], json!([]));

        let first = list("?tenant=acme&limit=1").await.ok(200);
        let cursor = first["nextCursor"].as_str().unwrap();
        let second = list(&format!("?tenant=acme&limit=1&cursor={cursor}")).await.ok(200);
        assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
        assert_eq!(second["nextCursor"], Value::Null);
        list(&format!("?cursor={cursor}")).await.refused(Reason::CursorInvalid);

        list("?state=done").await.refused(Reason::QueryInvalid);
        list("?application=").await.refused(Reason::QueryInvalid);
        list("?state=").await.refused(Reason::QueryInvalid);
        list("?tenant=none").await.refused(Reason::TenantNotFound);
        list("?cluster=none").await.refused(Reason::ClusterNotFound);
    }

    #[tokio::test]
    async fn callers_of_a_tenant_see_its_commands_and_its_clusters_only() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        api.cluster(&admin, "dc1-b").await;
        let acme = api.tenant(&admin, "acme", &["dc1-a"]).await;
        api.tenant(&admin, "other", &["dc1-a", "dc1-b"]).await;
        let owner = api.caller(Role::TenantOwner, Some(acme)).await;
        let list = |query: &str| api.get(&format!("/api/v1/commands{query}")).send(&owner);
        let own = list("").await.ok(200);
        assert_eq!((kinds(&own).len(), &own["items"][0]["tenantId"]), (1, &json!(acme.to_string())));
        assert_eq!(kinds(&list("?cluster=dc1-a").await.ok(200)).len(), 1);
        list("?cluster=dc1-b").await.refused(Reason::ClusterNotFound);
    }
}
