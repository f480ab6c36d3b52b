//! `POST /clusters`: a new cluster, its first command (the configuration) and the token that enrolls it.

use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    routes::{components, enrollments::ticket},
    state::AppState,
    views,
};
use axum::{extract::State, response::Response};
use kubenova_api_types::clusters::{ClusterCreate, ClusterCreated};
use kubenova_core::{
    change::Change,
    cluster::{self, Cluster, ClusterId, ClusterName, ClusterState},
    refusal::Refusal,
};
use kubenova_runtime::random;
use kubenova_store::{clusters, enrollments};

/// Create a cluster.
///
/// The answer contains the enrollment token, which is shown only this once, and the helm command that uses it.
#[utoipa::path(post, path = "/api/v1/clusters", tag = "clusters", operation_id = "createCluster", params(ChangeParams),
    request_body = ClusterCreate, responses((status = 201, description = "Created; the answer contains the enrollment token", body = ClusterCreated)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterCreate>,
) -> Result<Response, ApiError> {
    let mut cluster = requested(&state, &ctx, body)?;
    let ticket = ticket::make(&state, &ctx, &cluster.id, state.settings.enrollment.token_ttl);

    ctx.write(&state, params.dry_run, async |tx| {
        clusters::insert(tx.connection(), &cluster).await?;
        enrollments::insert(tx.connection(), &ticket.kept).await?;
        let change = Change::ClusterConfig { components: cluster.components.clone(), generation: cluster.generation };
        let enqueued = tx.enqueue_commands(std::slice::from_ref(&cluster.id), &change).await?;
        tx.audit(ctx.action, "create", &format!("cluster/{}", cluster.id), None).await?;

        cluster.revision = enqueued.iter().map(|one| one.revision).max().unwrap_or_default();
        let shown = ClusterCreated {
            cluster: views::cluster(&cluster),
            enrollment: ticket.shown,
            commands: views::enqueued(&enqueued),
        };
        let mut repeated = shown.clone();
        repeated.enrollment.token = None;
        Ok(MutationResponse::created(&shown)
            .repeated_as(&repeated)
            .location(format!("/api/v1/clusters/{}", cluster.id))
            .etag(response::etag(&cluster.id, cluster.generation))
            .operations(&enqueued))
    })
    .await
}

/// Create a cluster (the same as `POST /api/v1/clusters`).
#[utoipa::path(post, path = "/clusters", tag = "clusters", operation_id = "createClusterAtRoot", params(ChangeParams),
    request_body = ClusterCreate, responses((status = 201, description = "Created; the answer contains the enrollment token", body = ClusterCreated)))]
pub async fn create_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    params: Params<ChangeParams>,
    body: JsonBody<ClusterCreate>,
) -> Result<Response, ApiError> {
    create(state, ctx, params, body).await
}

fn requested(state: &AppState, ctx: &RequestContext, body: ClusterCreate) -> Result<Cluster, Refusal> {
    let name = ClusterName::parse(&body.name)?;
    cluster::check_descriptions(&body.datacenter, &body.labels)?;
    Ok(Cluster {
        id: ClusterId::from_uuid(random::uuid_v7()),
        name,
        datacenter: body.datacenter,
        labels: body.labels,
        components: components::changed(state.settings.components.clone(), &body.components.unwrap_or_default())?,
        generation: 1,
        epoch: 1,
        revision: 0,
        kubernetes_uid: None,
        incarnation: 0,
        state: ClusterState::PendingBootstrap,
        state_note: None,
        approval: body.approval.map(views::to_approval).unwrap_or_default(),
        enrolled_at: None,
        created_at: ctx.now,
        updated_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::{Value, json};

    const PATH: &str = "/api/v1/clusters";

    #[tokio::test]
    async fn a_cluster_is_created_with_its_token_and_its_first_command() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        let body = json!({
            "name": "dc1-a", "datacenter": "dc1", "labels": { "example.com/tier": "gold" },
            "components": { "capsule": { "replicas": 2 } },
        });
        let answer = api.post(PATH).json(&body).send(&ops).await;
        let created = answer.ok(201);
        assert_eq!(created["state"], "pendingBootstrap");
        assert_eq!(created["connection"], "unknown");
        let capsule = &created["components"]["capsule"];
        assert_eq!(
            (&capsule["replicas"], &capsule["version"]),
            (&json!(2), &json!("0.14.0")),
            "the rest is the Manager's default"
        );
        assert!(created["enrollment"]["token"].as_str().unwrap().starts_with("kn1."));
        let command = created["commands"][0]["id"].as_str().unwrap();
        assert_eq!(answer.header("operation-location"), format!("/api/v1/commands/{command}"));
        let location = answer.header("location").to_owned();
        let read = api.get(&location).send(&ops).await;
        assert_eq!(read.ok(200)["name"], "dc1-a");
        assert_eq!(read.header("etag"), answer.header("etag"));
        let command = api.get(&format!("/api/v1/commands/{command}")).send(&ops).await.ok(200);
        assert_eq!((&command["state"], &command["waitingFor"]), (&json!("queued"), &json!("ClusterNotJoined")));
        assert!(command["message"].as_str().unwrap().starts_with("cluster dc1-a has not connected yet"), "{command}");
    }

    #[tokio::test]
    async fn the_path_at_the_root_does_the_same() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let answer = api.post("/clusters").json(&json!({ "name": "dc1-a" })).send(&admin).await;
        assert_eq!(answer.ok(201)["name"], "dc1-a");
        api.post(PATH).json(&json!({ "name": "dc1-a" })).send(&admin).await.refused(Reason::NameTaken);
    }

    #[tokio::test]
    async fn a_repeated_request_creates_nothing_and_shows_no_token() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let send = |name: &str| api.post(PATH).key("key-1").json(&json!({ "name": name })).send(&admin);
        let first = send("dc1-a").await;
        let again = send("dc1-a").await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.ok(201)["id"], first.ok(201)["id"]);
        assert_eq!(again.body["enrollment"]["token"], Value::Null);
        send("dc1-b").await.refused(Reason::IdempotencyKeyReused);
        assert_eq!(api.get(PATH).send(&admin).await.ok(200)["items"].as_array().unwrap().len(), 1);
        let empty = api.post(PATH).key("").json(&json!({ "name": "dc1-c" })).send(&admin).await;
        empty.refused(Reason::HeaderInvalid);
    }

    #[tokio::test]
    async fn a_dry_run_checks_and_changes_nothing() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let dry = |name: &str| api.post("/api/v1/clusters?dryRun=true").json(&json!({ "name": name })).send(&admin);
        let answer = dry("dc1-a").await;
        let body = answer.ok(200);
        assert_eq!((&body["commands"], &body["enrollment"]["token"]), (&json!([]), &Value::Null));
        assert_eq!((answer.header("location"), answer.header("operation-location")), ("", ""));
        assert_eq!(api.get(PATH).send(&admin).await.ok(200)["items"], json!([]));
        dry("Not A Name").await.refused(Reason::NameInvalid);
        api.post("/api/v1/clusters?dryRun=perhaps").json(&json!({})).send(&admin).await.refused(Reason::QueryInvalid);
        api.post("/api/v1/clusters?dry=true").json(&json!({})).send(&admin).await.refused(Reason::QueryInvalid);
    }

    #[tokio::test]
    async fn bad_bodies_name_the_field() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        for (body, reason, pointer) in [
            (json!({ "name": "Not A Name" }), Reason::NameInvalid, "/name"),
            (json!({ "name": "a", "datacenter": "a\nb" }), Reason::FieldInvalid, "/datacenter"),
            (json!({ "name": "a", "labels": { "a b": "x" } }), Reason::FieldInvalid, "/labels/a b"),
            (
                json!({ "name": "a", "components": { "capsule": { "replicas": 6 } } }),
                Reason::FieldInvalid,
                "/components/capsule/replicas",
            ),
            (
                json!({ "name": "a", "components": { "capsuleProxy": { "publicURL": "http://x" } } }),
                Reason::FieldInvalid,
                "/components/capsuleProxy/publicURL",
            ),
        ] {
            let problem = api.post(PATH).json(&body).send(&admin).await.refused(reason);
            assert_eq!(problem["fields"][0]["pointer"], pointer, "{problem}");
        }
        api.post(PATH).body("application/json", "{").send(&admin).await.refused(Reason::BodyMalformed);
        api.post(PATH).body("application/yaml", "name: a").send(&admin).await.refused(Reason::MediaTypeUnsupported);
        let large = format!("{{\"name\":\"{}\"}}", "a".repeat(crate::body::BODY_BYTES_MAX));
        api.post(PATH).body("application/json", &large).send(&admin).await.refused(Reason::BodyTooLarge);
    }
}
