//! `POST /tenants/{tenant}/apps`, also `/users/{tenant}/apps`: a new application on the tenant's clusters.

use super::{ApplicationParams, accepted, choose_clusters, document, not_deleting, view::Surroundings};
use crate::{
    body::DocumentBody,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::tenants,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::{ApplicationAccepted, ApplicationBody};
use kubenova_core::{
    application::{Application, ApplicationId},
    change::Change,
};
use kubenova_runtime::random;
use kubenova_store::applications;

/// Create an application: the typed form, or a KubeVela Application as JSON or YAML.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps", tag = "applications", operation_id = "createApplication",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Stored; the clusters are sent commands", body = ApplicationAccepted)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
        let request = document::read(body, params.named(), &tenant)?;
        // Found before the unique name is, to say why it is not free yet.
        if let Some(present) = applications::find(tx.connection(), tenant.id, request.name.as_str()).await? {
            not_deleting(&present)?;
        }
        let clusters = choose_clusters(tx.connection(), &tenant, request.clusters.as_deref()).await?;
        let application = Application {
            id: ApplicationId(random::uuid_v7()),
            tenant_id: tenant.id,
            name: request.name,
            form: request.form,
            labels: request.labels,
            annotations: request.annotations,
            spec: request.spec,
            generation: 1,
            created_at: ctx.now,
            updated_at: ctx.now,
            created_by: ctx.caller.subject.clone(),
            deleting_since: None,
        };
        let targets = applications::insert(tx.connection(), &application, &clusters).await?;
        let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
        let enqueued = tx.enqueue_commands(&clusters, &change).await?;
        tx.audit(ctx.action, "create", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id))
            .await?;

        Ok(accepted(&tenant, &application, &Surroundings::of_created(targets), &enqueued, ctx.now))
    })
    .await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Stored; the clusters are sent commands", body = ApplicationAccepted)))]
pub async fn create_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ctx, named, params, body).await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/api/v1/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationOfUser",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Stored; the clusters are sent commands", body = ApplicationAccepted)))]
pub async fn create_of_user(
    state: State<AppState>,
    ctx: RequestContext,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ctx, named, params, body).await
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, application, form};
    use crate::testing::TestApi;
    use kubenova_core::access::Role;
    use serde_json::{Value, json};

    const YAML: &str = "application/yaml";

    #[tokio::test]
    async fn an_application_is_stored_and_one_command_a_cluster_enqueued() {
        let world = World::new().await;
        let body = json!({ "name": "shop", "image": "nginx:1", "clusters": ["east", "west"] });
        let created = world.post(APPS, body).await.is(202);
        assert_eq!(created.commands().len(), 2);
        assert_eq!(created.body["state"], "active");
        assert_eq!(created.header("etag"), format!("\"{}.1\"", created.body["id"].as_str().unwrap()));
        assert!(created.header("location").ends_with("/apps/shop"));
        assert_eq!(created.headers.get_all("operation-location").iter().count(), 2);
        let read = world.get(SHOP).await.is(200);
        assert_eq!(read.body["typed"]["image"], "nginx:1");
        assert_eq!(read.header("etag"), created.header("etag"));
        assert_eq!(world.post(APPS, form("west")).await.refusal(), (409, "NAME_TAKEN", "/name"));
    }

    #[tokio::test]
    async fn the_other_two_paths_do_the_same() {
        let world = World::new().await;
        for (path, name) in [("/users/acme/apps", "one"), ("/api/v1/users/acme/apps", "two")] {
            world.post(path, json!({ "name": name, "image": "x", "clusters": ["west"] })).await.is(202);
            world.get(&format!("{APPS}/{name}")).await.is(200);
        }
    }

    #[tokio::test]
    async fn yaml_means_what_kubectl_makes_of_it() {
        let world = World::new().await;
        let yaml = "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {name: shop}\nspec:\n  components:\n\
                    \x20 - name: web\n    type: webservice\n    properties:\n      image: nginx\n      defaultMode: 0400\n\
                    \x20     other: 0o400\n      env: [{name: A, value: \"007\"}]\n";
        let path = format!("{APPS}?clusters=west");
        world.api.post(&path).body(YAML, yaml).send(&world.admin).await.is(202);
        let spec = world.get(SHOP).await.body["spec"].clone();
        let properties = &spec["components"][0]["properties"];
        assert_eq!(properties["defaultMode"].to_string(), "256");
        assert_eq!(properties["other"].to_string(), "256");
        assert_eq!(properties["env"][0]["value"], "007");
    }

    #[tokio::test]
    async fn bodies_that_cannot_be_read_are_refused() {
        let world = World::new().await;
        for (content_type, body, expected) in [
            ("application/json", "{", (400, "BODY_MALFORMED", "")),
            ("application/json", "[]", (400, "BODY_MALFORMED", "")),
            (YAML, "a: 1\n---\nb: 2\n", (400, "BODY_MALFORMED", "")),
            (YAML, "a:\n\tb: 1\n", (400, "BODY_MALFORMED", "")),
            ("text/plain", "x", (415, "MEDIA_TYPE_UNSUPPORTED", "")),
            ("application/json; charset=utf-16", "{}", (415, "MEDIA_TYPE_UNSUPPORTED", "")),
        ] {
            let refused = world.api.post(APPS).body(content_type, body).send(&world.admin).await;
            assert_eq!(refused.refusal(), expected, "{content_type}: {body}");
        }
        let large = json!({ "name": "shop", "image": "x", "env": { "A": "x".repeat(2_000_000) } });
        assert_eq!(world.post(APPS, large).await.refusal(), (413, "BODY_TOO_LARGE", ""));
    }

    #[tokio::test]
    async fn each_refusal_names_its_field() {
        let world = World::new().await;
        let with = |pointer: &str, value: Value| {
            let mut application = application();
            *application.pointer_mut(pointer).unwrap() = value;
            json!({ "application": application, "clusters": ["west"] })
        };
        for (body, expected) in [
            (json!({ "name": "Shop", "image": "x" }), (422, "NAME_INVALID", "/name")),
            (json!({ "name": "shop" }), (422, "FIELD_INVALID", "/image")),
            (json!({ "name": "shop", "image": "x", "port": 0 }), (422, "FIELD_INVALID", "/port")),
            (json!({ "name": "shop", "image": "x", "port": "80" }), (422, "FIELD_INVALID", "/port")),
            (json!({ "name": "shop", "image": "x", "env": ["A"] }), (422, "FIELD_INVALID", "/env")),
            (json!({ "name": "shop", "image": "x", "colour": 1 }), (422, "FIELD_INVALID", "/colour")),
            (
                with("/metadata", json!({ "name": "shop", "labels": { "a b": "x" } })),
                (422, "APPLICATION_INVALID", "/application/metadata/labels/a b"),
            ),
            (
                with("/metadata", json!({ "name": "shop", "namespace": "other-apps" })),
                (422, "APPLICATION_NAMESPACE", "/application/metadata/namespace"),
            ),
            (
                with("/spec/components/0/type", json!("webservce")),
                (422, "APPLICATION_INVALID", "/application/spec/components/0/type"),
            ),
            (json!({ "name": "shop", "image": "x" }), (422, "PLACEMENT_REQUIRED", "/clusters")),
            (form("nowhere"), (422, "NOT_PLACED", "/clusters")),
        ] {
            assert_eq!(world.post(APPS, body.clone()).await.refusal(), expected, "{body}");
        }
        let query = world.post(&format!("{APPS}?dryrun=true"), form("west")).await;
        assert_eq!(query.status, 400, "{}", query.body);
        assert_eq!(world.get(APPS).await.body["items"], json!([]));
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing() {
        let world = World::new().await;
        let answer = world.post(&format!("{APPS}?dryRun=true"), form("west")).await.is(200);
        assert_eq!(answer.body["name"], "shop");
        world.get(SHOP).await.is(404);
    }

    #[tokio::test]
    async fn a_repeated_key_is_answered_again_whatever_the_order_of_its_json() {
        let world = World::new().await;
        let send =
            |path: &str, body: &str| world.api.post(path).key("k1").body("application/json", body).send(&world.admin);
        let path = "/api/v1/tenants/acme/apps?dryRun=false&clusters=west";
        let first = send(path, r#"{"name":"shop","image":"nginx","env":{"A":"1","B":"2"}}"#).await.is(202);
        let again = send(
            "/api/v1/tenants/acme/apps?clusters=west&dryRun=false",
            r#"{ "env": {"B": "2", "A": "1"}, "image": "nginx", "name": "shop" }"#,
        )
        .await
        .is(202);
        assert_eq!(again.body, first.body);
        assert_eq!(again.header("idempotency-replayed"), "true");
        let other = send(path, r#"{"name":"shop","image":"nginx:2"}"#).await;
        assert_eq!(other.refusal(), (422, "IDEMPOTENCY_KEY_REUSED", ""));
    }

    #[tokio::test]
    async fn who_may_create() {
        let world = World::new().await;
        for (role, status) in [
            (Role::Ops, 202),
            (Role::TenantOwner, 202),
            (Role::ProjectDev, 202),
            (Role::ReadOnly, 403),
            (Role::Billing, 403),
        ] {
            let token = world.token(role, (role != Role::Ops).then_some(world.acme)).await;
            let body = json!({ "name": format!("app-{status}-{}", role.as_str().to_lowercase().replace('_', "-")), "image": "x", "clusters": ["west"] });
            let own = world.api.post(APPS).json(&body).send(&token).await;
            assert_eq!(own.status, status, "{role:?}: {}", own.body);
        }
        let owner = world.token(Role::TenantOwner, Some(world.acme)).await;
        let foreign = world.api.post("/api/v1/tenants/other/apps").json(&form("west")).send(&owner).await;
        assert_eq!(foreign.refusal(), (404, "TENANT_NOT_FOUND", ""));
        let refused = world.api.post(APPS).send(&TestApi::token("knt_x")).await;
        assert_eq!(refused.refusal(), (401, "UNAUTHENTICATED", ""));
    }
}
