//! What the tests of these routes share: the whole router on a database of its own, two clusters, tenants on them, and
//! the cluster's side of a command.

use crate::{
    router,
    state::{AppState, EnrollmentSettings, Settings, TOKEN_TTL, default_components},
    token,
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    cluster::ClusterId,
    command::{CommandId, CommandState},
    tenant::TenantId,
};
use kubenova_runtime::{clock, probe::Gates, random};
use kubenova_store::{
    access,
    cluster_queue::{self, Due},
    enrollments,
    outcomes::{self, Recorded, Reported},
    pool::Store,
};
use kubenova_test_postgres::Database;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt as _;

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

/// The API with tenant `acme` on clusters `west` and `east`, and tenant `other` on `west`.
#[derive(Debug)]
pub(super) struct World {
    router: Router,
    pub(super) store: Store,
    pub(super) admin: String,
    pub(super) west: ClusterId,
    pub(super) east: ClusterId,
    pub(super) acme: TenantId,
    _database: Database,
}

impl World {
    pub(super) async fn new() -> Self {
        let database = Database::new().await;
        let store = Store::open(database.url(), 4).unwrap();
        let state = AppState {
            store: store.clone(),
            settings: Arc::new(Settings {
                enrollment: EnrollmentSettings {
                    endpoints: vec!["https://manager.example".to_owned()],
                    ca_spki_sha256: "00".repeat(32),
                    token_ttl: TOKEN_TTL,
                    chart: "chart".to_owned(),
                },
                components: default_components(),
            }),
            gates: Gates::default(),
            listening_since: clock::now(),
        };
        let nil = ClusterId::from_uuid(uuid::Uuid::nil());
        let mut world = Self {
            router: router::router(state),
            admin: caller(&store, Role::Admin, None).await,
            store,
            west: nil.clone(),
            east: nil,
            acme: TenantId(uuid::Uuid::nil()),
            _database: database,
        };
        world.west = world.cluster("west").await;
        world.east = world.cluster("east").await;
        world.acme = world.tenant("acme", &["west", "east"]).await;
        world.tenant("other", &["west"]).await;
        world
    }

    async fn cluster(&self, name: &str) -> ClusterId {
        let answer = self.post("/api/v1/clusters", json!({ "name": name })).await.is(201);
        ClusterId::parse(answer.body["id"].as_str().unwrap()).unwrap()
    }

    async fn tenant(&self, name: &str, clusters: &[&str]) -> TenantId {
        let answer = self.post("/api/v1/tenants", json!({ "name": name })).await;
        assert!(answer.status.is_success(), "{}", answer.body);
        for cluster in clusters {
            let path = format!("/api/v1/tenants/{name}/placements");
            let placed = self.post(&path, json!({ "cluster": cluster })).await;
            assert!(placed.status.is_success(), "{}", placed.body);
        }
        TenantId::parse(answer.body["id"].as_str().unwrap()).unwrap()
    }

    /// A token of this role for `acme`, or for all tenants.
    pub(super) async fn token(&self, role: Role, tenant: Option<TenantId>) -> String {
        caller(&self.store, role, tenant).await
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A request with these headers and body.
    pub(super) async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::GET, path, &[], Body::empty()).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.admin, Method::POST, path, &[], body.to_string()).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(&self.admin, Method::PUT, path, &[], body.to_string()).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::DELETE, path, &[], Body::empty()).await
    }

    /// Sends what is due to a cluster, as the relay does.
    pub(super) async fn relay(&self, cluster: &ClusterId) {
        let now = clock::now();
        let mut tx = self.store.begin("test").await.unwrap();
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
        let mut tx = self.store.begin("test").await.unwrap();
        let recorded = outcomes::record(&mut tx, reported, clock::now()).await.unwrap();
        assert_eq!(recorded, Recorded::Moved);
        tx.commit().await.unwrap();
    }
}

fn in_seconds(seconds: i64) -> Timestamp {
    clock::now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

async fn caller(store: &Store, role: Role, tenant: Option<TenantId>) -> String {
    let text = token::mint(random::bytes());
    let token = ApiToken {
        id: random::uuid_v7(),
        caller: Caller { subject: format!("{}-of-{tenant:?}", role.as_str()), role, tenant },
        created_at: clock::now(),
        created_by: "test".to_owned(),
        expires_at: None,
        revoked_at: None,
    };
    let mut connection = store.acquire().await.unwrap();
    access::insert(&mut connection, &token, &token::sha256(&text)).await.unwrap();
    text
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
