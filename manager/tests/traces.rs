//! What a collector receives of a request, over real HTTP from the real router on a real database.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, StatusCode},
    routing::post,
};
use kubenova_api::{router::router, state::AppState, token};
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    cluster::ClusterId,
    tenant::TenantId,
};
use kubenova_manager::{
    http,
    metrics::{Metrics, PREFIX},
};
use kubenova_runtime::{
    clock,
    metrics::Registry,
    random,
    telemetry::{self, Telemetry, TelemetryOptions, trace_context},
};
use kubenova_schema::trace::TraceParent;
use kubenova_store::{
    access,
    cluster_queue::{self, ClaimOptions},
    enrollments,
    error::StoreError,
    pool::Store,
    sessions::{self, HelloRequest},
};
use kubenova_test_postgres::Database;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::json;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::ServiceExt as _;
use tracing::subscriber::DefaultGuard;

/// The trace that the caller of a request is in.
const CALLERS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector, and this thread's spans on their way to it.
struct Traced {
    received: Arc<Mutex<Vec<ResourceSpans>>>,
    telemetry: Telemetry,
    _subscriber: DefaultGuard,
}

impl Traced {
    async fn start() -> Self {
        let received = Arc::<Mutex<Vec<ResourceSpans>>>::default();
        let take = async |State(received): State<Arc<Mutex<Vec<ResourceSpans>>>>, body: Bytes| {
            let spans = ExportTraceServiceRequest::decode(body).unwrap();
            received.lock().unwrap().extend(spans.resource_spans);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&received));
        tokio::spawn(async { axum::serve(listener, collector).await.unwrap() });
        let options =
            TelemetryOptions { service: "kubenova-manager", filter: "info", json: false, otlp_endpoint: Some(&url) };
        let (subscriber, telemetry) = telemetry::subscriber(&options).unwrap();
        Self { received, telemetry, _subscriber: tracing::subscriber::set_default(subscriber) }
    }

    /// Ends telemetry as a process does; what the collector received then.
    async fn finish(self) -> Vec<ResourceSpans> {
        self.telemetry.finish().await;
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

/// The whole Manager's router on a database of its own.
struct Api {
    router: Router,
    store: Store,
    _database: Database,
}

impl Api {
    async fn start() -> Self {
        let database = Database::new().await;
        let store = Store::open(database.url(), 4).unwrap();
        let state = AppState::without_clusters(store.clone());
        let requests = Metrics::register(&mut Registry::new(PREFIX)).requests;
        Self { router: http::observed(router(state), requests), store, _database: database }
    }

    async fn caller(&self, role: Role, tenant: Option<TenantId>) -> String {
        let text = token::mint(random::bytes());
        let token = ApiToken {
            id: random::uuid_v7(),
            caller: Caller { subject: "ann".to_owned(), role, tenant },
            created_at: clock::now(),
            created_by: "test".to_owned(),
            expires_at: None,
            revoked_at: None,
        };
        access::insert(&mut self.store.acquire().await.unwrap(), &token, &token::sha256(&text)).await.unwrap();
        text
    }

    async fn send(&self, token: &str, request: axum::http::request::Builder, body: &str) -> (StatusCode, Bytes) {
        let request = request
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
    }

    /// The id of what a request created.
    async fn create(&self, token: &str, request: axum::http::request::Builder, body: &serde_json::Value) -> String {
        let (status, answer) = self.send(token, request, &body.to_string()).await;
        assert!(status.is_success(), "{status} {answer:?}");
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The trace of the newest command to a cluster, as the relay gets it.
    async fn claimed(&self, cluster: &str) -> TraceParent {
        let cluster = ClusterId::parse(cluster).unwrap();
        let now = clock::now();
        let heartbeat_within = Duration::from_secs(600);
        let due = ClaimOptions { now, send_again_at: now, report_again_at: now, window: 10, heartbeat_within };
        let claimed = self.store.transaction("claim as the relay does", async |tx| {
            enrollments::enroll(tx, &cluster, "uid", now).await?;
            sessions::open(tx, &hello(&cluster), now).await?;
            cluster_queue::claim(tx, &cluster, &due).await
        });
        let queue: Result<_, StoreError> = claimed.await;
        queue.unwrap().unwrap().due.last().unwrap().traceparent.unwrap()
    }
}

fn hello(cluster: &ClusterId) -> HelloRequest {
    HelloRequest {
        cluster_id: cluster.clone(),
        incarnation: "1".to_owned(),
        boot_id: "boot-1".to_owned(),
        lease_term: 1,
        operator_version: String::new(),
        kubernetes_version: String::new(),
        key_set_id: String::new(),
        highest_revision: 0,
        clock_offset_ms: 0,
    }
}

fn spans(received: &[ResourceSpans]) -> Vec<Span> {
    received.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.unwrap_or_else(|| panic!("no attribute {key} in {attributes:?}")).value.as_ref();
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}

#[tokio::test]
async fn a_request_and_what_the_cluster_does_for_it_are_one_trace() {
    let (traced, api) = (Traced::start().await, Api::start().await);
    let admin = api.caller(Role::Admin, None).await;
    let request = Request::post("/api/v1/clusters").header("traceparent", CALLERS).header("x-request-id", "r-1");
    let cluster = api.create(&admin, request, &json!({ "name": "dc1-a" })).await;
    let carried = api.claimed(&cluster).await;
    // As the Operator does with the header of the message.
    let command = tracing::info_span!(target: "kubenova_operator", "command");
    trace_context::follow(&command, &carried.to_string());
    drop(command);

    let received = traced.finish().await;
    let service = received[0].resource.as_ref().unwrap();
    assert_eq!(text(&service.attributes, "service.name"), "kubenova-manager");
    let spans = spans(&received);
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (request, command) = (named("request"), named("command"));
    assert_eq!(request.trace_id, command.trace_id);
    assert_eq!(request.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(request.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(command.parent_span_id, request.span_id);
    assert_eq!(request.kind, i32::from(SpanKind::Server));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/v1/clusters"),
        ("trace.id", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("request.id", "r-1"),
        ("caller.role", "admin"),
    ] {
        assert_eq!(text(&request.attributes, key), value, "{key}");
    }
}

#[tokio::test]
async fn a_request_names_the_tenant_it_is_about_or_its_caller_belongs_to() {
    let (traced, api) = (Traced::start().await, Api::start().await);
    let admin = api.caller(Role::Admin, None).await;
    api.create(&admin, Request::post("/api/v1/clusters"), &json!({ "name": "dc1-a" })).await;
    let tenant = json!({ "name": "acme", "clusters": ["dc1-a"] });
    let id = api.create(&admin, Request::post("/api/v1/tenants"), &tenant).await;
    let owner = api.caller(Role::TenantOwner, TenantId::parse(&id)).await;
    for (token, path) in [(&admin, "/api/v1/tenants/acme"), (&owner, "/api/v1/me")] {
        let (status, _) = api.send(token, Request::get(path), "").await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let spans = spans(&traced.finish().await);
    for (route, role) in [("/api/v1/tenants/{tenant}", "admin"), ("/api/v1/me", "tenantOwner")] {
        let request = spans.iter().find(|span| text(&span.attributes, "http.route") == route).unwrap();
        assert_eq!(text(&request.attributes, "tenant.id"), id, "{route}");
        assert_eq!(text(&request.attributes, "caller.role"), role, "{route}");
        assert!(request.parent_span_id.is_empty(), "a request without a traceparent begins a trace");
    }
}
