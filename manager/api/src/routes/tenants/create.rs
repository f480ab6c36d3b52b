//! `POST /tenants`: a new tenant, placed on the named clusters.

use super::clusters_to_change;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    state::AppState,
    views,
};
use axum::{extract::State, response::Response};
use kubenova_api_types::tenants::{QuotaChange, TenantAccepted, TenantCreate};
use kubenova_core::{
    change::Change,
    cluster::ClusterId,
    refusal::{Reason, Refusal},
    tenant::{Quota, Tenant, TenantId, TenantName},
};
use kubenova_runtime::random;
use kubenova_store::{placements, tenants};

/// Most clusters in one request: each costs a command in the same transaction.
const CLUSTERS_MAX: usize = 100;

/// Create a tenant and place it on the clusters that are named.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", operation_id = "createTenant", params(ChangeParams),
    request_body = TenantCreate,
    responses((status = 201, description = "Created; it is not placed on any cluster yet", body = TenantAccepted),
              (status = 202, description = "Stored; commands for the clusters are enqueued", body = TenantAccepted)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<TenantCreate>,
) -> Result<Response, ApiError> {
    let tenant = requested(&ctx, &body)?;
    if body.clusters.len() > CLUSTERS_MAX {
        return Err(Refusal::at(
            Reason::FieldInvalid,
            "/clusters",
            format!(
                "{} clusters, the most is {CLUSTERS_MAX}; place the tenant on the others with POST /api/v1/tenants/{{tenant}}/placements",
                body.clusters.len()
            ),
        )
        .into());
    }

    ctx.write(&state, params.dry_run, async |tx| {
        let clusters = clusters_to_change(tx.connection(), &body.clusters, "/clusters").await?;
        let ids: Vec<ClusterId> = clusters.into_iter().map(|cluster| cluster.id).collect();
        tenants::insert(tx.connection(), &tenant).await?;
        placements::insert(tx.connection(), tenant.id, &ids, &tenant.created_by, ctx.now).await?;
        let enqueued = tx.enqueue_commands(&ids, &Change::Tenant(tenant.clone())).await?;
        tx.audit(ctx.action, "create", &format!("tenant/{}", tenant.id), Some(tenant.id)).await?;

        let placed = placements::of_tenants(tx.connection(), &[tenant.id]).await?;
        let body = TenantAccepted { tenant: views::tenant(&tenant, &placed), commands: views::enqueued(&enqueued) };
        let response =
            if enqueued.is_empty() { MutationResponse::created(&body) } else { MutationResponse::accepted(&body) };
        Ok(response
            .location(format!("/api/v1/tenants/{}", tenant.id))
            .etag(response::etag(&tenant.id, tenant.generation))
            .operations(&enqueued))
    })
    .await
}

fn requested(ctx: &RequestContext, body: &TenantCreate) -> Result<Tenant, Refusal> {
    let name = TenantName::parse(&body.name)?;
    let mut tenant = Tenant::new(TenantId(random::uuid_v7()), name, ctx.now, &ctx.caller.subject);
    if let Some(change) = &body.quota {
        tenant.quota = quota(change.clone());
        tenant.quota.check()?;
    }
    if let Some(level) = body.pod_security {
        tenant.pod_security = views::to_pod_security(level);
    }
    Ok(tenant)
}

fn quota(change: QuotaChange) -> Quota {
    let default = Quota::default();
    Quota {
        cpu: change.cpu.unwrap_or(default.cpu),
        memory: change.memory.unwrap_or(default.memory),
        pods: change.pods.unwrap_or(default.pods),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::{Value, json};

    const PATH: &str = "/api/v1/tenants";

    #[tokio::test]
    async fn a_tenant_without_clusters_is_created_at_once() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let answer = api.post(PATH).json(&json!({ "name": "acme" })).send(&admin).await;
        let tenant = answer.ok(201);
        assert_eq!(tenant["quota"], json!({ "cpu": "8", "memory": "16Gi", "pods": 50 }));
        assert_eq!((&tenant["podSecurity"], &tenant["commands"]), (&json!("baseline"), &json!([])));
        let location = answer.header("location").to_owned();
        assert_eq!(api.get(&location).send(&admin).await.header("etag"), answer.header("etag"));
        api.post(PATH).json(&json!({ "name": "acme" })).send(&admin).await.refused(Reason::NameTaken);
    }

    #[tokio::test]
    async fn a_tenant_on_clusters_is_accepted_with_a_command_for_each() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let first = api.cluster(&admin, "dc1-a").await;
        api.cluster(&admin, "dc1-b").await;
        let body = json!({
            "name": "acme", "clusters": [first.to_string(), "dc1-b", "dc1-a"],
            "quota": { "pods": 5 }, "podSecurity": "restricted",
        });
        let answer = api.post(PATH).json(&body).send(&admin).await;
        let tenant = answer.ok(202);
        assert_eq!(tenant["commands"].as_array().unwrap().len(), 2, "each cluster once: {tenant}");
        assert_eq!(answer.headers.get_all("operation-location").iter().count(), 2);
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!((&tenant["podSecurity"], &tenant["quota"]["pods"]), (&json!("restricted"), &json!(5)));
    }

    #[tokio::test]
    async fn a_dry_run_returns_no_commands_and_stores_nothing() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let body = json!({ "name": "acme", "clusters": ["dc1-a"] });
        let tenant = api.post("/api/v1/tenants?dryRun=true").json(&body).send(&admin).await.ok(200);
        assert_eq!(tenant["commands"], json!([]));
        assert_eq!(tenant["placements"][0]["clusterName"], "dc1-a");
        assert_eq!(api.get(PATH).send(&admin).await.ok(200)["items"], json!([]));
    }

    #[tokio::test]
    async fn bad_bodies_name_the_field() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        for (body, reason, pointer) in [
            (json!({ "name": "Acme" }), Reason::NameInvalid, "/name"),
            (json!({ "name": "default" }), Reason::NameReserved, "/name"),
            (json!({ "name": "acme", "quota": { "cpu": "lots" } }), Reason::FieldInvalid, "/quota/cpu"),
            (json!({ "name": "acme", "quota": { "pods": 100_001 } }), Reason::FieldInvalid, "/quota/pods"),
            (json!({ "name": "acme", "clusters": ["none"] }), Reason::FieldInvalid, "/clusters"),
            (json!({ "name": "acme", "clusters": vec!["a"; 101] }), Reason::FieldInvalid, "/clusters"),
        ] {
            let problem = api.post(PATH).json(&body).send(&admin).await.refused(reason);
            assert_eq!(problem["fields"][0]["pointer"], pointer, "{problem}");
        }
        for body in [json!({ "name": "acme", "podSecurity": "none" }), json!({}), json!({ "name": "acme", "x": 1 })] {
            api.post(PATH).json(&body).send(&admin).await.refused(Reason::FieldInvalid);
        }
        assert_eq!(api.get(PATH).send(&admin).await.ok(200)["nextCursor"], Value::Null);
    }
}
