//! What the tests of these routes share: two clusters with tenants on them, and the cluster's side of a command.

use crate::testing::{TestAnswer, TestApi, Token};
use axum::http::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    access::Role,
    cluster::ClusterId,
    command::{CommandId, CommandState},
    tenant::TenantId,
};
use kubenova_runtime::clock;
use kubenova_store::{
    cluster_queue::{self, Due},
    enrollments,
    outcomes::{self, Recorded, Reported},
};
use serde_json::{Value, json};

pub(super) const APPS: &str = "/api/v1/tenants/acme/apps";
pub(super) const SHOP: &str = "/api/v1/tenants/acme/apps/shop";

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    /// Status, reason and the pointer of the first field: what a refusal is about.
    pub(super) fn refusal(&self) -> (u16, &str, &str) {
        (
            self.status.as_u16(),
            self.body["reason"].as_str().unwrap_or_default(),
            self.body["fields"][0]["pointer"].as_str().unwrap_or_default(),
        )
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Ids of the commands that the request caused.
    pub(super) fn commands(&self) -> Vec<CommandId> {
        let commands = self.body["commands"].as_array().expect("an answer to a change");
        commands.iter().map(|command| CommandId::parse(command["id"].as_str().unwrap()).unwrap()).collect()
    }

    #[track_caller]
    pub(super) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self
    }
}

impl From<TestAnswer> for Answer {
    fn from(answer: TestAnswer) -> Self {
        let body = answer.json();
        Self { status: answer.status, headers: answer.headers, body }
    }
}

/// The API with tenant `acme` on clusters `west` and `east`, and tenant `other` on `west`.
pub(super) struct World {
    api: TestApi,
    pub(super) admin: Token,
    pub(super) west: ClusterId,
    pub(super) east: ClusterId,
    pub(super) acme: TenantId,
}

impl World {
    pub(super) async fn new() -> Self {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let west = api.cluster(&admin, "west").await;
        let east = api.cluster(&admin, "east").await;
        let acme = api.tenant(&admin, "acme", &["west", "east"]).await;
        api.tenant(&admin, "other", &["west"]).await;
        Self { api, admin, west, east, acme }
    }

    /// The token of a caller with this role, limited to a tenant or not.
    pub(super) async fn token(&self, role: Role, tenant: Option<TenantId>) -> Token {
        self.api.caller(role, tenant).await
    }

    /// A request with these headers and body.
    pub(super) async fn call(
        &self,
        token: &Token,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<str>,
    ) -> Answer {
        let mut request = self.api.request(method, path);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.body("application/json", body.as_ref());
        }
        for (name, value) in headers {
            request = match *name {
                "content-type" => request.body(value, body.as_ref()),
                name => request.header(name, *value),
            };
        }
        request.send(token).await.into()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.api.get(path).send(&self.admin).await.into()
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.api.post(path).json(&body).send(&self.admin).await.into()
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.api.request(Method::PUT, path).json(&body).send(&self.admin).await.into()
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.api.delete(path).send(&self.admin).await.into()
    }

    /// Sends what is due to a cluster, as the relay does.
    pub(super) async fn relay(&self, cluster: &ClusterId) {
        let now = clock::now();
        let mut tx = self.api.state.store.begin("test").await.unwrap();
        enrollments::enroll(&mut tx, cluster, cluster.as_str(), now).await.unwrap();
        let due = Due { now, heartbeat_since: now, send_again_at: in_seconds(600), window: 32 };
        cluster_queue::claim(&mut tx, cluster, &due).await.unwrap().expect("an enrolled cluster");
        tx.commit().await.unwrap();
    }

    /// What the cluster reports about a command.
    pub(super) async fn report(&self, cluster: &ClusterId, command: CommandId, state: CommandState, reason: &str) {
        let reported = Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            state: Some(state),
            reason: reason.to_owned(),
            message: format!("the cluster says {reason}"),
            hops: Vec::new(),
            send_again_at: None,
        };
        self.record(&reported).await;
    }

    /// The cluster puts a command off.
    pub(super) async fn defer(&self, cluster: &ClusterId, command: CommandId, reason: &str) {
        let reported = Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            state: None,
            reason: reason.to_owned(),
            message: format!("the cluster says {reason}"),
            hops: Vec::new(),
            send_again_at: Some(in_seconds(1800)),
        };
        self.record(&reported).await;
    }

    async fn record(&self, reported: &Reported) {
        let mut tx = self.api.state.store.begin("test").await.unwrap();
        let recorded = outcomes::record(&mut tx, reported, clock::now()).await.unwrap();
        assert_eq!(recorded, Recorded::Moved);
        tx.commit().await.unwrap();
    }
}

fn in_seconds(seconds: i64) -> Timestamp {
    clock::now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// The typed form on one cluster.
pub(super) fn form(cluster: &str) -> Value {
    json!({ "name": "shop", "image": "nginx:1", "clusters": [cluster] })
}

/// The KubeVela Application that everybody knows.
pub(super) fn application() -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": { "name": "shop" },
        "spec": { "components": [{ "name": "web", "type": "webservice", "properties": { "image": "nginx" } }] },
    })
}
