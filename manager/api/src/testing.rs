//! The API in tests: the whole router on a database of its own, callers of every role, and requests whose answers are
//! compared with the OpenAPI document. A status, reason, header or field that the document does not have fails the test.
//!
//! ```ignore
//! let api = TestApi::start().await;
//! let admin = api.caller(Role::Admin, None).await;
//! let answer = api.post("/api/v1/tenants").json(&json!({ "name": "acme" })).send(&admin).await;
//! assert_eq!(answer.status, 201);
//! api.get("/api/v1/tenants/none").send(&admin).await.refused(Reason::TenantNotFound);
//! ```

mod as_of;
mod cluster;
mod contract;
pub(crate) mod enrollment;

use crate::{router, state::AppState, token};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use futures::stream;
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    cluster::ClusterId,
    command::CommandId,
    refusal::Reason,
    tenant::TenantId,
};
use kubenova_runtime::{clock, random};
use kubenova_store::{
    access,
    pool::{Limits, Store},
};
use kubenova_test_postgres::Database;
use serde_json::{Value, json};
use std::{io, time::Duration};
use tower::ServiceExt as _;

/// Connections of one test; more than one so that requests can wait for each other in Postgres.
const CONNECTIONS: u32 = 4;

/// The API on a database that no other test uses.
pub(crate) struct TestApi {
    router: Router,
    pub(crate) state: AppState,
    pub(crate) database: Database,
}

/// The token of a caller; none for a caller without one.
#[derive(Debug, Clone)]
pub(crate) struct Token(Option<String>);

impl Token {
    /// Its text.
    pub(crate) fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl TestApi {
    /// Starts the API with default settings.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Router::new()).await
    }

    /// Starts the API with further routes, as the Manager does with enrollment.
    pub(crate) async fn start_with(others: impl FnOnce(&Store) -> Router) -> Self {
        let database = Database::new().await;
        let store = Store::open(database.url(), CONNECTIONS).unwrap();
        let others = others(&store);
        let state = AppState::without_clusters(store);
        Self { router: router::router_with(state.clone(), others), state, database }
    }

    /// The same API with less patience for bodies.
    pub(crate) fn with_body_timeout(mut self, body_timeout: Duration) -> Self {
        self.state.body_timeout = body_timeout;
        self.router = router::router(self.state.clone());
        self
    }

    /// The same API with other limits of time in Postgres.
    pub(crate) fn with_limits(mut self, limits: Limits) -> Self {
        self.state.store = Store::open_with(self.database.url(), CONNECTIONS, limits).unwrap();
        self.router = router::router(self.state.clone());
        self
    }

    /// The same API when its database is gone.
    pub(crate) fn without_database(mut self) -> Self {
        let nowhere = std::env::temp_dir().join("kubenova-no-postgres");
        self.state.store = Store::open(&format!("postgres://u@localhost/x?host={}", nowhere.display()), 1).unwrap();
        self.router = router::router(self.state.clone());
        self
    }

    /// A caller with this role, limited to a tenant or not.
    pub(crate) async fn caller(&self, role: Role, tenant: Option<TenantId>) -> Token {
        let text = token::mint(random::bytes());
        let now = clock::now();
        let token = ApiToken {
            id: random::uuid_v7(),
            caller: Caller { subject: Self::subject(role), role, tenant },
            created_at: now,
            created_by: "test".to_owned(),
            expires_at: None,
            revoked_at: None,
        };
        let mut connection = self.state.store.acquire().await.unwrap();
        access::insert(&mut connection, &token, &token::sha256(&text)).await.unwrap();
        Token(Some(text))
    }

    /// The subject of callers with this role.
    pub(crate) fn subject(role: Role) -> String {
        format!("{}-caller", role.as_str())
    }

    /// A caller without a token.
    pub(crate) const fn anonymous() -> Token {
        Token(None)
    }

    /// A caller with this text as its token.
    pub(crate) fn token(text: &str) -> Token {
        Token(Some(text.to_owned()))
    }

    /// Creates a cluster and returns its id.
    pub(crate) async fn cluster(&self, admin: &Token, name: &str) -> ClusterId {
        let answer = self.post("/api/v1/clusters").json(&json!({ "name": name })).send(admin).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        ClusterId::parse(answer.body["id"].as_str().unwrap()).unwrap()
    }

    /// Creates a tenant on these clusters and returns its id.
    pub(crate) async fn tenant(&self, admin: &Token, name: &str, clusters: &[&str]) -> TenantId {
        let body = json!({ "name": name, "clusters": clusters });
        let answer = self.post("/api/v1/tenants").json(&body).send(admin).await;
        assert!(answer.status.is_success(), "{answer:?}");
        TenantId::parse(answer.body["id"].as_str().unwrap()).unwrap()
    }

    /// `GET path`.
    pub(crate) fn get(&self, path: &str) -> TestRequest<'_> {
        self.request(Method::GET, path)
    }

    /// `POST path`.
    pub(crate) fn post(&self, path: &str) -> TestRequest<'_> {
        self.request(Method::POST, path)
    }

    /// `PUT path`.
    pub(crate) fn put(&self, path: &str) -> TestRequest<'_> {
        self.request(Method::PUT, path)
    }

    /// `DELETE path`.
    pub(crate) fn delete(&self, path: &str) -> TestRequest<'_> {
        self.request(Method::DELETE, path)
    }

    /// Any request.
    pub(crate) fn request(&self, method: Method, path: &str) -> TestRequest<'_> {
        TestRequest { api: self, method, path: path.to_owned(), headers: Vec::new(), body: Vec::new(), endless: false }
    }
}

/// A request in the making.
pub(crate) struct TestRequest<'a> {
    api: &'a TestApi,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    endless: bool,
}

impl TestRequest<'_> {
    /// Adds a header; twice the same name sends it twice.
    #[expect(clippy::needless_pass_by_value, reason = "callers pass literals, constants and strings alike")]
    pub(crate) fn header(mut self, name: impl ToString, value: impl ToString) -> Self {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// With an Idempotency-Key.
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    /// With a JSON body.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", &body.to_string())
    }

    /// With any body.
    pub(crate) fn body(mut self, content_type: &str, text: &str) -> Self {
        self.body = text.as_bytes().to_vec();
        self.header(header::CONTENT_TYPE, content_type)
    }

    /// With a body that never arrives.
    pub(crate) fn endless_body(mut self) -> Self {
        self.endless = true;
        self
    }

    /// Sends it as this caller and compares the answer with the OpenAPI document.
    pub(crate) async fn send(self, token: &Token) -> TestAnswer {
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        if let Token(Some(text)) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {text}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let sent = self.body.clone();
        let body =
            if self.endless { Body::from_stream(stream::pending::<io::Result<Bytes>>()) } else { self.body.into() };
        let request = request.body(body).expect("the test makes a valid request");
        let response = self.api.router.clone().oneshot(request).await.expect("the router answers every request");
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let answer = TestAnswer { status: parts.status, headers: parts.headers, bytes, body };
        contract::check(&self.method, &self.path, &sent, &answer);
        answer
    }
}

/// What came back.
#[derive(Clone)]
pub(crate) struct TestAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// The body as JSON; null when it is not.
    pub(crate) body: Value,
}

impl std::fmt::Debug for TestAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.headers, String::from_utf8_lossy(&self.bytes))
    }
}

impl TestAnswer {
    /// A header's first value; empty when absent.
    pub(crate) fn header(&self, name: impl AsRef<str>) -> &str {
        self.headers.get(name.as_ref()).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Ids of the commands that the request caused.
    pub(crate) fn commands(&self) -> Vec<CommandId> {
        let commands = self.body["commands"].as_array().expect("an answer to a change");
        commands.iter().map(|command| CommandId::parse(command["id"].as_str().unwrap()).unwrap()).collect()
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// Asserts the status of a success, and returns the body.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.body.clone()
    }

    /// Asserts that the request was refused for this reason, and returns the problem.
    #[track_caller]
    pub(crate) fn refused(&self, reason: Reason) -> Value {
        assert_eq!(self.body["reason"], reason.as_str(), "{self:?}");
        assert_eq!(self.status.as_u16(), reason.status(), "{self:?}");
        self.body.clone()
    }

    /// Status, reason and the pointer of the first field: what a refusal is about.
    pub(crate) fn refusal(&self) -> (u16, &str, &str) {
        (
            self.status.as_u16(),
            self.body["reason"].as_str().unwrap_or_default(),
            self.body["fields"][0]["pointer"].as_str().unwrap_or_default(),
        )
    }
}
