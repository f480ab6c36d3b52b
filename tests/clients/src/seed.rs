//! The objects that are there to begin with, and a token for each role. Objects are made over REST, as a caller would
//! make them; what clusters would report of them is in `reports.rs`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, header},
};
use kubenova_api::{state::AppState, token};
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    cluster::ClusterId,
    tenant::TenantId,
};
use kubenova_runtime::{clock, random};
use kubenova_store::access;
use serde::Serialize;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::reports;

/// Longest answer that is read; the longest is a tenant of a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a client may use.
#[derive(Debug, Serialize)]
pub(crate) struct Seeded {
    /// A token for each role; tenant owners and developers are limited to `tenant`.
    tokens: BTreeMap<&'static str, String>,
    /// The tenant with applications, usage and reports, by name.
    tenant: &'static str,
    /// A cluster on which it is.
    cluster: &'static str,
}

/// Clusters `west` (in session, with reports) and `east` (never enrolled), tenant `acme` on both with an application in
/// each form and one that is being deleted, tenant `other` on `west`, and a window of usage.
pub(crate) async fn seed(state: &AppState, router: &Router) -> Result<Seeded> {
    let admin = mint(state, Role::Admin, None).await?;
    let api = Api { router, token: &admin };
    let west = api.cluster("west").await?;
    api.cluster("east").await?;
    let acme = api.tenant("acme", &["west", "east"]).await?;
    api.tenant("other", &["west"]).await?;

    let apps = "/api/v1/tenants/acme/apps";
    let shop = api.post(apps, json!({ "name": "shop", "image": "nginx:1.29", "clusters": ["west", "east"] })).await?;
    let component = json!({ "name": "web", "type": "webservice", "properties": { "image": "nginx:1.29" } });
    let document = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": "blog", "labels": { "team": "web" } },
        "spec": { "components": [component] },
    });
    api.post(apps, json!({ "application": document, "clusters": ["west"] })).await?;
    api.post(apps, json!({ "name": "old", "image": "nginx:1.28", "clusters": ["west"] })).await?;
    reports::record(state, &west, acme, &shop).await?;
    api.send(Method::DELETE, "/api/v1/tenants/acme/apps/old", None).await?;

    let mut tokens = BTreeMap::from([(Role::Admin.as_str(), admin)]);
    for role in [Role::Ops, Role::TenantOwner, Role::ProjectDev, Role::ReadOnly, Role::Billing] {
        let limited = matches!(role, Role::TenantOwner | Role::ProjectDev).then_some(acme);
        tokens.insert(role.as_str(), mint(state, role, limited).await?);
    }
    Ok(Seeded { tokens, tenant: "acme", cluster: "west" })
}

async fn mint(state: &AppState, role: Role, tenant: Option<TenantId>) -> Result<String> {
    let text = token::mint(random::bytes());
    let kept = ApiToken {
        id: random::uuid_v7(),
        caller: Caller { subject: format!("{}-client", role.as_str()), role, tenant },
        created_at: clock::now(),
        created_by: "clients".to_owned(),
        expires_at: None,
        revoked_at: None,
    };
    access::insert(&mut *state.store.acquire().await?, &kept, &token::sha256(&text)).await?;
    Ok(text)
}

/// The API as one caller uses it.
struct Api<'a> {
    router: &'a Router,
    token: &'a str,
}

impl Api<'_> {
    async fn cluster(&self, name: &str) -> Result<ClusterId> {
        let cluster = self.post("/api/v1/clusters", json!({ "name": name, "datacenter": "fra" })).await?;
        cluster["id"].as_str().and_then(ClusterId::parse).context("a cluster has an id")
    }

    async fn tenant(&self, name: &str, clusters: &[&str]) -> Result<TenantId> {
        let tenant = self.post("/api/v1/tenants", json!({ "name": name, "clusters": clusters })).await?;
        tenant["id"].as_str().and_then(TenantId::parse).context("a tenant has an id")
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))
            .context("could not make a request")?;
        // A router answers every request.
        let Ok(response) = self.router.clone().oneshot(request).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.context("could not read an answer")?;
        ensure!(status.is_success(), "{method} {path} was answered {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).context("an answer is JSON")
    }
}
