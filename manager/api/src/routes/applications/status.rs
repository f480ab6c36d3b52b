//! `GET /tenants/{tenant}/apps/{application}/status`: how an application does, cluster by cluster.

use super::{found, view};
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, routes::tenants,
    state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{
    applications::{ApplicationClusterStatus, ApplicationState, ApplicationStatus},
    clusters::Observed,
};
use kubenova_core::{
    application::Application,
    cluster::ClusterId,
    command::{Command, CommandState},
};
use kubenova_store::{applications, commands, wire};

/// Read how an application does on each cluster. What came from a cluster says as of when.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps/{application}/status", tag = "applications", operation_id = "getApplicationStatus",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "Its status", body = ApplicationStatus)))]
pub async fn status(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
) -> Result<Json<ApplicationStatus>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let application = found(applications::find(&mut connection, tenant.id, &name).await?, &name)?;
    let targets = applications::targets(&mut connection, &[application.id]).await?;
    let ids: Vec<ClusterId> = targets.iter().map(|target| target.cluster_id.clone()).collect();
    let key = wire::application_key(&application).to_string();
    let newest = commands::newest(&mut connection, &ids, std::slice::from_ref(&key)).await?;
    let observations =
        ClusterObservations::read(&mut connection, &state, ctx.now, &ids, std::slice::from_ref(&key)).await?;
    let clusters: Vec<ApplicationClusterStatus> = targets
        .into_iter()
        .map(|target| {
            let command = newest.iter().find(|command| command.cluster_id == target.cluster_id);
            let observed = observations.object(&target.cluster_id, &key);
            let observed_at = observed.as_ref().map(|observed| observed.as_of);
            ApplicationClusterStatus {
                as_of: observed_at.max(command.and_then(Command::as_of)).max(observations.as_of(&target.cluster_id)),
                cluster_id: target.cluster_id.to_string(),
                cluster_name: target.cluster_name,
                state: view::state(target.delete_command.is_some()),
                ready: target.delete_command.is_none()
                    && command.is_some_and(|command| ready(&application, command, observed.as_ref())),
                command: command.map(|command| views::command(command, ctx.now)),
                observed,
            }
        })
        .collect();
    Ok(Json(answer(&application, clusters)))
}

/// Read how an application does (the same as under `/api/v1/tenants`).
#[utoipa::path(get, path = "/users/{tenant}/apps/{application}/status", tag = "applications", operation_id = "getApplicationStatusAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "Its status", body = ApplicationStatus)))]
pub async fn status_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    names: Path<(String, String)>,
) -> Result<Json<ApplicationStatus>, ApiError> {
    status(state, ctx, names).await
}

/// The requested version is Ready: the cluster says so of this revision or a later one; where it said nothing yet, its last
/// word about the command counts.
fn ready(application: &Application, command: &Command, observed: Option<&Observed>) -> bool {
    let requested = command.generation == application.generation;
    match observed {
        Some(observed) => {
            requested
                && observed.ready
                && observed.revision.parse().is_ok_and(|revision: i64| revision >= command.revision)
        }
        None => requested && command.state == CommandState::Succeeded,
    }
}

fn answer(application: &Application, clusters: Vec<ApplicationClusterStatus>) -> ApplicationStatus {
    let deleting = application.deleting_since.is_some();
    let wanted = clusters.iter().filter(|cluster| cluster.state == ApplicationState::Active);
    ApplicationStatus {
        // None is less than any time: a cluster that has not reported makes it none.
        as_of: clusters.iter().map(|cluster| cluster.as_of).min().flatten(),
        id: application.id.to_string(),
        name: application.name.to_string(),
        tenant_id: application.tenant_id.to_string(),
        generation: application.generation.to_string(),
        state: view::state(deleting),
        ready: !deleting && wanted.clone().next().is_some() && wanted.clone().all(|cluster| cluster.ready),
        clusters,
    }
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::{access::Role, command::CommandState};

    #[tokio::test]
    async fn an_application_is_ready_once_its_clusters_say_so() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        let path = format!("{SHOP}/status");
        let before = world.get(&path).await.is(200).body;
        assert_eq!((&before["ready"], &before["clusters"][0]["command"]["state"]), (&false.into(), &"queued".into()));
        world.api.relay(&world.west).await;
        world.api.report(&world.west, command, CommandState::Succeeded, "Running").await;
        for path in [path.as_str(), "/users/acme/apps/shop/status"] {
            let after = world.get(path).await.is(200).body;
            assert_eq!((&after["ready"], &after["clusters"][0]["ready"]), (&true.into(), &true.into()));
        }
    }

    #[tokio::test]
    async fn an_application_that_is_being_deleted_is_never_ready() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        world.api.report(&world.west, command, CommandState::Succeeded, "Running").await;
        world.delete(SHOP).await.is(202);
        let status = world.get(&format!("{SHOP}/status")).await.is(200).body;
        assert_eq!((&status["state"], &status["ready"]), (&"deleting".into(), &false.into()));
        let cluster = &status["clusters"][0];
        assert_eq!((&cluster["state"], &cluster["ready"]), (&"deleting".into(), &false.into()));
        assert_eq!(cluster["command"]["kind"], "delete-application");
    }

    #[tokio::test]
    async fn who_may_read_it() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        let path = format!("{SHOP}/status");
        for (role, status) in [(Role::ProjectDev, 200), (Role::ReadOnly, 200), (Role::Billing, 403)] {
            let token = world.token(role, Some(world.acme)).await;
            world.api.get(&path).send(&token).await.is(status);
        }
        assert_eq!(world.get(&format!("{APPS}/none/status")).await.refusal(), (404, "APPLICATION_NOT_FOUND", ""));
    }
}
