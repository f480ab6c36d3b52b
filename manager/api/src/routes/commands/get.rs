//! `GET /commands/{command}`.

use super::find;
use crate::{error::ApiError, request_context::RequestContext, state::AppState, views};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::commands::Command;
/// Read a command and the hops that it passed.
#[utoipa::path(get, path = "/api/v1/commands/{command}", tag = "commands", operation_id = "getCommand",
    params(("command" = String, Path, description = "Id")),
    responses((status = 200, description = "The command", body = Command)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<Command>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let command = find(&mut connection, ctx.scope, &named).await?;
    Ok(Json(views::command(&command, ctx.now)))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use jiff::{SignedDuration, Timestamp};
    use kubenova_core::{
        access::Role,
        command::{CommandId, CommandState, Hop},
        refusal::Reason,
    };
    use kubenova_runtime::clock;
    use kubenova_store::outcomes::Reported;

    #[tokio::test]
    async fn a_command_shows_its_hops_to_those_who_may_see_its_object() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let acme = api.tenant(&admin, "acme", &["dc1-a"]).await;
        let other = api.tenant(&admin, "other", &[]).await;
        let (owner, foreign) =
            (api.caller(Role::TenantOwner, Some(acme)).await, api.caller(Role::TenantOwner, Some(other)).await);
        let list = api.get("/api/v1/commands").send(&admin).await.ok(200);
        let path_of = |index: usize| format!("/api/v1/commands/{}", list["items"][index]["id"].as_str().unwrap());
        let (of_tenant, of_cluster) = (path_of(0), path_of(1));
        let command = api.get(&of_tenant).send(&owner).await.ok(200);
        assert_eq!((&command["hops"][0]["name"], &command["hops"][0]["by"]), (&"queued".into(), &"manager".into()));
        api.get(&of_tenant).send(&foreign).await.refused(Reason::CommandNotFound);
        api.get(&of_cluster).send(&admin).await.ok(200);
        api.get(&of_cluster).send(&owner).await.refused(Reason::CommandNotFound);
        api.get("/api/v1/commands/none").send(&admin).await.refused(Reason::CommandNotFound);
    }

    #[tokio::test]
    async fn hops_stand_in_the_order_of_their_times_whoever_recorded_them() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let cluster = api.cluster(&admin, "dc1-a").await;
        let list = api.get("/api/v1/commands").send(&admin).await.ok(200);
        let id = list["items"][0]["id"].as_str().unwrap();
        api.relay(&cluster).await;
        let hop = |name: &str, hours: i64| Hop {
            name: name.to_owned(),
            at: (clock::now() + SignedDuration::from_hours(hours)).to_string(),
            object: String::new(),
        };
        // The cluster's clock is wrong by an hour, in either direction, and it reports the later hop first.
        api.record(&Reported {
            cluster_id: cluster,
            command_id: CommandId::parse(id).unwrap(),
            epoch: 1,
            state: Some(CommandState::Succeeded),
            reason: String::new(),
            message: String::new(),
            hops: vec![hop("applied", 1), hop("stored", -1)],
            send_again_at: None,
        })
        .await;
        let command = api.get(&format!("/api/v1/commands/{id}")).send(&admin).await.ok(200);
        let hops = command["hops"].as_array().unwrap();
        let names: Vec<_> = hops.iter().map(|hop| hop["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["stored", "queued", "sent", "acknowledged", "finished", "applied"]);
        let times: Vec<Timestamp> = hops.iter().map(|hop| hop["at"].as_str().unwrap().parse().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
    }
}
