//! `PUT /tenants/{tenant}/apps/{application}`: the desired state as a whole. Clusters no longer named get a delete
//! command.

use super::{
    ApplicationParams, accepted, choose_clusters, document, document::ApplicationRequest, found, not_deleting, removal,
    view::Surroundings,
};
use crate::{
    body::DocumentBody,
    error::ApiError,
    request_context::{Params, RequestContext},
    response,
    routes::tenants,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::{ApplicationAccepted, ApplicationBody};
use kubenova_core::{
    application::{self, Application},
    change::Change,
    cluster::ClusterId,
    refusal::{Reason, Refusal},
};
use kubenova_store::{
    applications::{self, Target},
    commands,
    connection::Connection,
    wire,
};

/// Replace an application. Without `clusters` it stays where it is.
///
/// A body that asks for what is stored already makes no new generation. Then commands go only to clusters whose newest
/// command ended without success; where there is none the answer is 200 without commands.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "replaceApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses(
        (status = 202, description = "Stored; clusters are sent commands", body = ApplicationAccepted),
        (status = 200, description = "Nothing to do: this is stored already; or a dry run", body = ApplicationAccepted)))]
pub async fn replace(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
        let request = document::read(body, params.named(), &tenant)?;
        let before = found(applications::find_for_update(tx.connection(), tenant.id, &name).await?, &name)?;
        ctx.matches(&response::etag(&before.id, before.generation))?;
        not_deleting(&before)?;
        check_name(&request, &before)?;
        let targets = applications::targets(tx.connection(), &[before.id]).await?;
        let present: Vec<ClusterId> = wanted(&targets).collect();
        let clusters = match &request.clusters {
            None => present.clone(),
            Some(named) => choose_clusters(tx.connection(), &tenant, Some(named)).await?,
        };
        let mut application = Application {
            form: request.form,
            labels: request.labels,
            annotations: request.annotations,
            spec: request.spec,
            ..before.clone()
        };
        let unchanged = application.is_same_request(&before) && clusters == present;
        let commanded = if unchanged {
            again(tx.connection(), &application, &clusters).await?
        } else {
            application.generation += 1;
            application.updated_at = ctx.now;
            applications::update(tx.connection(), &application, &clusters).await?;
            clusters.clone()
        };
        let left: Vec<ClusterId> = present.into_iter().filter(|cluster| !clusters.contains(cluster)).collect();
        let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
        let mut enqueued = tx.enqueue_commands(&commanded, &change).await?;
        enqueued.extend(removal::remove_from(tx, &tenant, &application, &left, ctx.now).await?);
        if !unchanged || !enqueued.is_empty() {
            let target = format!("application/{}/{}", tenant.id, application.name);
            tx.audit(ctx.action, "replace", &target, Some(tenant.id)).await?;
        }

        let surroundings = Surroundings::read(tx.connection(), std::slice::from_ref(&application)).await?;
        Ok(accepted(&tenant, &application, &surroundings, &enqueued, ctx.now))
    })
    .await
}

fn check_name(request: &ApplicationRequest, before: &Application) -> Result<(), Refusal> {
    if request.name == before.name {
        return Ok(());
    }
    let detail = format!(
        "the body names \"{}\", the path \"{}\"; a name cannot change: send the path's, or create another application",
        request.name, before.name
    );
    Err(Refusal::at(Reason::FieldInvalid, request.name_pointer.clone(), detail))
}

fn wanted(targets: &[Target]) -> impl Iterator<Item = ClusterId> {
    targets.iter().filter(|target| target.delete_command.is_none()).map(|target| target.cluster_id.clone())
}

/// The clusters that need a command about a desired state that did not change.
async fn again(
    connection: &mut Connection,
    application: &Application,
    clusters: &[ClusterId],
) -> Result<Vec<ClusterId>, ApiError> {
    let key = wire::application_key(application).to_string();
    let newest = commands::newest(connection, clusters, std::slice::from_ref(&key)).await?;
    let state =
        |cluster: &ClusterId| newest.iter().find(|command| command.cluster_id == *cluster).map(|command| command.state);
    Ok(clusters.iter().filter(|cluster| application::needs_command_again(state(cluster))).cloned().collect())
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, application, form};
    use kubenova_core::{access::Role, command::CommandState};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn an_identical_body_makes_no_generation_and_no_command() {
        let world = World::new().await;
        let created = world.post(APPS, form("west")).await.is(202);
        let same = world.put(SHOP, form("west")).await.is(200);
        assert_eq!(same.commands(), []);
        assert_eq!(same.body["generation"], "1");
        assert_eq!(same.header("etag"), created.header("etag"));
        assert_eq!(same.header("operation-location"), "");
        assert_eq!(world.get(SHOP).await.body["updatedAt"], created.body["updatedAt"]);
    }

    #[tokio::test]
    async fn an_identical_body_tries_again_where_the_last_command_failed() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        world.api.report(&world.west, command, CommandState::Refused, "Freeze").await;
        let again = world.put(SHOP, form("west")).await.is(202);
        assert_eq!((again.commands().len(), &again.body["generation"]), (1, &"1".into()));
    }

    #[tokio::test]
    async fn another_body_is_a_new_generation() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        let changed = world.put(SHOP, json!({ "name": "shop", "image": "nginx:2" })).await.is(202);
        assert_eq!((changed.commands().len(), &changed.body["generation"]), (1, &"2".into()));
        assert!(changed.header("etag").ends_with(".2\""));
        assert_eq!(world.get(SHOP).await.body["typed"]["image"], "nginx:2");
    }

    /// What `kubectl get application shop -n acme-apps -o yaml` prints, as JSON.
    fn printed_by_kubectl(tenant_id: &str) -> Value {
        let mut printed = application();
        printed["metadata"] = json!({
            "name": "shop", "namespace": "acme-apps", "uid": "7f3c", "resourceVersion": "912", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{ "manager": "kubenova" }],
            "finalizers": ["app.oam.dev/resource-tracker-finalizer"],
            "labels": {
                "kubenova.io/tenant": "acme", "kubenova.io/tenant-id": tenant_id, "kubenova.io/project": "acme",
                "kubenova.io/application": "shop", "capsule.clastix.io/managed-by": "acme", "team": "web",
            },
            "annotations": {
                "kubenova.io/revision": "7", "kubenova.io/command-id": "0198", "oam.dev/kubevela-version": "v1.10.9",
                "app.oam.dev/username": "system:serviceaccount:acme-owner:kubenova-deployer",
                "app.oam.dev/group": "", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        });
        printed["status"] = json!({ "status": "running" });
        printed
    }

    #[tokio::test]
    async fn what_kubectl_prints_can_be_sent_back() {
        let world = World::new().await;
        let mut first = application();
        first["metadata"]["labels"] = json!({ "team": "web" });
        world.post(&format!("{APPS}?clusters=west"), first).await.is(202);
        let printed = printed_by_kubectl(&world.acme.to_string());
        assert_eq!(world.put(SHOP, printed.clone()).await.is(200).body["generation"], "1");
        for (map, key, value) in [
            ("labels", "kubenova.io/tenant", "other"),
            ("labels", "capsule.clastix.io/managed-by", "other"),
            ("annotations", "app.oam.dev/username", "system:admin"),
            ("annotations", "controller.core.oam.dev/pause", "true"),
        ] {
            let mut foreign = printed.clone();
            foreign["metadata"][map][key] = json!(value);
            let pointer = format!("/metadata/{map}/{}", key.replace('/', "~1"));
            assert_eq!(world.put(SHOP, foreign).await.refusal(), (422, "APPLICATION_INVALID", pointer.as_str()));
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_no_longer_named_gets_a_delete_command_and_is_shown_until_it_succeeded() {
        let world = World::new().await;
        let both = json!({ "name": "shop", "image": "nginx:1", "clusters": ["west", "east"] });
        world.post(APPS, both).await.is(202);
        world.api.relay(&world.east).await;
        let moved = world.put(SHOP, form("west")).await.is(202);
        assert_eq!(moved.commands().len(), 2);
        let clusters = world.get(SHOP).await.body["clusters"].clone();
        let of = |name: &str| clusters.as_array().unwrap().iter().find(|it| it["clusterName"] == name).unwrap().clone();
        assert_eq!((&of("west")["state"], &of("east")["state"]), (&"active".into(), &"deleting".into()));
        assert_eq!(of("east")["removal"]["commandId"], moved.commands()[1].to_string());
        world.api.relay(&world.east).await;
        world.api.report(&world.east, moved.commands()[1], CommandState::Succeeded, "Gone").await;
        let clusters = world.get(SHOP).await.body["clusters"].clone();
        assert_eq!(clusters.as_array().unwrap().len(), 1);
        world.put(SHOP, form("east")).await.is(202);
        world.put(SHOP, form("west")).await.is(202);
        assert_eq!(
            world.get(SHOP).await.body["clusters"].as_array().unwrap().len(),
            1,
            "nothing was sent to east again"
        );
    }

    #[tokio::test]
    async fn an_etag_guards_against_lost_updates() {
        let world = World::new().await;
        let created = world.post(APPS, form("west")).await.is(202);
        let body = json!({ "name": "shop", "image": "nginx:2" });
        let put = |etag: &str| world.api.put(SHOP).header("if-match", etag).json(&body).send(&world.admin);
        assert_eq!(put("\"other.1\"").await.refusal(), (412, "ETAG_MISMATCH", ""));
        put(created.header("etag")).await.is(202);
        assert_eq!(put(created.header("etag")).await.refusal(), (412, "ETAG_MISMATCH", ""));
    }

    #[tokio::test]
    async fn refusals() {
        let world = World::new().await;
        assert_eq!(world.put(SHOP, form("west")).await.refusal(), (404, "APPLICATION_NOT_FOUND", ""));
        world.post(APPS, form("west")).await.is(202);
        let renamed = json!({ "name": "blog", "image": "nginx:1" });
        assert_eq!(world.put(SHOP, renamed).await.refusal(), (422, "FIELD_INVALID", "/name"));
        assert_eq!(world.put(SHOP, form("nowhere")).await.refusal(), (422, "NOT_PLACED", "/clusters"));
        let dry =
            world.put(&format!("{SHOP}?dryRun=true"), json!({ "name": "shop", "image": "nginx:9" })).await.is(200);
        assert_eq!(dry.body["generation"], "2");
        assert_eq!(world.get(SHOP).await.body["generation"], "1");
        let reader = world.token(Role::ReadOnly, Some(world.acme)).await;
        world.api.put(SHOP).json(&form("west")).send(&reader).await.is(403);
    }
}
