//! What the tests of these routes share: two clusters with tenants on them.

use crate::testing::{TestAnswer, TestApi, Token};
use kubenova_core::{access::Role, cluster::ClusterId, tenant::TenantId};
use serde_json::{Value, json};

pub(crate) const APPS: &str = "/api/v1/tenants/acme/apps";
pub(crate) const SHOP: &str = "/api/v1/tenants/acme/apps/shop";

/// The API with tenant `acme` on clusters `west` and `east`, and tenant `other` on `west`.
pub(crate) struct World {
    pub(crate) api: TestApi,
    pub(crate) admin: Token,
    pub(crate) west: ClusterId,
    pub(crate) east: ClusterId,
    pub(crate) acme: TenantId,
    pub(crate) other: TenantId,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(TestApi::start().await).await
    }

    /// The same on an API with settings of a test's own.
    pub(crate) async fn on(api: TestApi) -> Self {
        let admin = api.caller(Role::Admin, None).await;
        let west = api.cluster(&admin, "west").await;
        let east = api.cluster(&admin, "east").await;
        let acme = api.tenant(&admin, "acme", &["west", "east"]).await;
        let other = api.tenant(&admin, "other", &["west"]).await;
        Self { api, admin, west, east, acme, other }
    }

    /// The token of a caller with this role, limited to a tenant or not.
    pub(crate) async fn token(&self, role: Role, tenant: Option<TenantId>) -> Token {
        self.api.caller(role, tenant).await
    }

    pub(crate) async fn get(&self, path: &str) -> TestAnswer {
        self.api.get(path).send(&self.admin).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> TestAnswer {
        self.api.post(path).json(&body).send(&self.admin).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> TestAnswer {
        self.api.put(path).json(&body).send(&self.admin).await
    }

    pub(crate) async fn delete(&self, path: &str) -> TestAnswer {
        self.api.delete(path).send(&self.admin).await
    }
}

/// The typed form on one cluster.
pub(crate) fn form(cluster: &str) -> Value {
    json!({ "name": "shop", "image": "nginx:1", "clusters": [cluster] })
}

/// The KubeVela Application that everybody knows.
pub(crate) fn application() -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": { "name": "shop" },
        "spec": { "components": [{ "name": "web", "type": "webservice", "properties": { "image": "nginx" } }] },
    })
}
