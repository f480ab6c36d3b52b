//! Around every request of REST and enrollment: a span, a trace, its latency, and one line in the log.
//!
//! The span carries the method, the route, `trace.id`, and what later layers record: `request.id`, `caller.role` and
//! `tenant.id`. The trace is the caller's `traceparent` or a new one; commands that the request causes carry it to the
//! cluster. The line is at level debug, and at error when the Manager failed; that it is busy (503) is its cause's line.

use crate::metrics::{Method, RequestLabels, Route};
use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use kubenova_runtime::{random, telemetry::trace_context};
use kubenova_schema::trace::{self, TraceParent};
use prometheus_client::metrics::{family::Family, histogram::Histogram};
use std::time::{Duration, Instant};
use tracing::{Instrument as _, Span, field::Empty};

/// The router with span, trace, latency and log line around each of its routes.
pub fn observed(router: Router, requests: Family<RequestLabels, Histogram>) -> Router {
    router.layer(from_fn_with_state(requests, observe))
}

async fn observe(
    State(requests): State<Family<RequestLabels, Histogram>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = Method::of(request.method());
    let route = Route::of(request.extensions().get::<MatchedPath>());
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        http.request.method = method.as_str(),
        http.route = route.as_str(),
        http.response.status_code = Empty,
        trace.id = Empty,
        request.id = Empty,
        caller.role = Empty,
        tenant.id = Empty,
    );
    let parent = parent(&request, &span);
    span.record("trace.id", parent.trace_id());
    request.extensions_mut().insert(parent);
    let response = async {
        let response = next.run(request).await;
        log(response.status(), started.elapsed());
        response
    };
    let response = response.instrument(span).await;
    let labels = RequestLabels { method, route, status: response.status().as_u16() };
    requests.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
    response
}

/// What the request's commands name as their parent: the span when it is exported, else the caller's trace or a new one.
fn parent(request: &Request, span: &Span) -> TraceParent {
    let given = request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok());
    let given = given.and_then(TraceParent::parse);
    if let Some(given) = given {
        trace_context::follow(span, &given.to_string());
    }
    let exported = trace_context::of(span).as_deref().and_then(TraceParent::parse);
    exported.or(given).unwrap_or_else(|| TraceParent::from_random(random::bytes()))
}

fn log(status: StatusCode, time: Duration) {
    Span::current().record("http.response.status_code", status.as_u16());
    let (status, duration_ms) = (status.as_u16(), time.as_millis());
    if status >= 500 && status != StatusCode::SERVICE_UNAVAILABLE.as_u16() {
        tracing::error!(status, duration_ms, "a request failed");
    } else {
        tracing::debug!(status, duration_ms, "answered a request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, PREFIX};
    use axum::{Extension, body::Body, http::StatusCode, routing::get};
    use kubenova_runtime::metrics::Registry;
    use tower::ServiceExt as _;

    fn router(registry: &mut Registry) -> Router {
        let echo = get(|Extension(parent): Extension<TraceParent>| async move { parent.to_string() });
        observed(Router::new().route("/tenants/{tenant}", echo), Metrics::register(registry).requests)
    }

    async fn ask(router: &Router, path: &str, traceparent: &str) -> (StatusCode, String) {
        let request = axum::http::Request::get(path).header(trace::HEADER, traceparent).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_request_keeps_its_trace_or_gets_one() {
        let router = router(&mut Registry::new(PREFIX));
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(ask(&router, "/tenants/a", given).await.1, given);
        let made = ask(&router, "/tenants/a", "nonsense").await.1;
        assert!(TraceParent::parse(&made).is_some(), "{made}");
    }

    #[tokio::test]
    async fn latency_is_counted_by_the_template_of_the_route() {
        let mut registry = Registry::new(PREFIX);
        let router = router(&mut registry);
        for path in ["/tenants/a", "/tenants/b", "/nothing/here"] {
            ask(&router, path, "").await;
        }
        let text = registry.encode();
        let counted = |labels: &str| format!("kubenova_manager_http_request_duration_seconds_count{{{labels}}}");
        let found = counted("method=\"GET\",route=\"/tenants/{tenant}\",status=\"200\"");
        assert!(text.contains(&format!("{found} 2")), "{text}");
        assert!(text.contains(&counted("method=\"GET\",route=\"none\",status=\"404\"")), "{text}");
    }
}
