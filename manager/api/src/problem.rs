//! The outermost layer: bounds a request's time and address, and writes every refusal as an RFC 9457 problem, also those
//! of axum itself (no such path, wrong method), of a panic and of a timeout.

use crate::{
    error::{MAY_BE_CHANGED, Refused, refused},
    request_id,
};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};
use kubenova_api_types::problem::{MEDIA_TYPE, Problem, ProblemField};
use kubenova_core::refusal::{Reason, Refusal};
use std::{future::Future, time::Duration};
use tracing::Span;

/// Longest a request may take. Nothing in one waits for a cluster.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest path and query: a cursor has at most 1 KiB, and common proxies stop at 8 KiB.
pub const URI_LENGTH_MAX: usize = 8 * 1024;
/// Seconds after which a refused request may be repeated.
const RETRY_AFTER: u64 = 1;

/// Runs the request within its limits and writes a refusal as a problem.
pub async fn write_problems(request: Request, next: Next) -> Response {
    let id = request_id::of(request.extensions());
    Span::current().record("request.id", &id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answered = async {
        match check_uri(request.uri()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refused(refusal),
        }
    };
    let response = within(REQUEST_TIMEOUT, &method, answered).await;
    let response = as_problem(response, &id, &path, &method);
    if method == Method::HEAD { without_body(response) } else { response }
}

async fn within(limit: Duration, method: &Method, answered: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| {
        // It may have been given up while Postgres committed it.
        let changed = if method.is_safe() { "nothing was changed" } else { MAY_BE_CHANGED };
        refused(Refusal::new(Reason::Timeout, format!("the request took longer than {limit:?}; {changed}")))
    })
}

/// An address that no handler could use. Postgres refuses NUL in texts, and no name contains one.
fn check_uri(uri: &Uri) -> Result<(), Refusal> {
    let length = uri.path_and_query().map_or(0, |both| both.as_str().len());
    if length > URI_LENGTH_MAX {
        let detail = format!("path and query have {length} bytes, the most is {URI_LENGTH_MAX}");
        return Err(Refusal::new(Reason::UriTooLong, detail));
    }
    if uri.path().contains("%00") {
        return Err(Refusal::new(Reason::RouteNotFound, "the path contains a NUL character"));
    }
    if uri.query().is_some_and(|query| query.contains("%00")) {
        return Err(Refusal::new(Reason::QueryInvalid, "the query contains a NUL character"));
    }
    Ok(())
}

/// The answer to HEAD: the headers of GET. HTTP/2 clients treat a body as a protocol error.
fn without_body(mut response: Response) -> Response {
    let length = axum::body::HttpBody::size_hint(response.body()).exact();
    *response.body_mut() = Body::empty();
    if let Some(length) = length {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    response
}

fn as_problem(mut response: Response, id: &str, path: &str, method: &Method) -> Response {
    let status = response.status();
    let refusal = match response.extensions_mut().remove::<Refused>() {
        Some(Refused(refusal)) => refusal,
        None if status.is_client_error() || status.is_server_error() => match of_axum(&response, path, method) {
            Some(refusal) => refusal,
            None => return response,
        },
        None => return response,
    };
    let mut problem = Response::new(Body::from(body(&refusal, id, path)));
    *problem.status_mut() = StatusCode::from_u16(refusal.reason.status()).unwrap_or(status);
    let headers = problem.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    match refusal.reason {
        Reason::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubenova\""));
        }
        reason if reason.is_retryable() => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after_seconds.unwrap_or(RETRY_AFTER)));
        }
        _ => {}
    }
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    problem
}

/// What axum refuses by itself, as a refusal of ours; none when a handler wrote the answer.
fn of_axum(response: &Response, path: &str, method: &Method) -> Option<Refusal> {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value == MEDIA_TYPE || value == "application/json") {
        return None;
    }
    Some(match response.status() {
        StatusCode::NOT_FOUND if path.len() > 1 && path.ends_with('/') => Refusal::new(
            Reason::RouteNotFound,
            format!("there is no path {path:?}; paths here do not end with a slash"),
        ),
        StatusCode::NOT_FOUND => Refusal::new(Reason::RouteNotFound, format!("there is no path {path:?}")),
        // Bodies and queries are read by extractors of ours; what is left is a path that axum cannot decode.
        StatusCode::BAD_REQUEST => Refusal::new(Reason::RouteNotFound, "the path is not UTF-8 text"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::new(Reason::MethodNotAllowed, format!("{path:?} has no method {method}"))
        }
        _ => Refusal::new(Reason::Internal, "the request could not be carried out"),
    })
}

fn body(refusal: &Refusal, id: &str, path: &str) -> Vec<u8> {
    let reason = refusal.reason;
    let problem = Problem {
        kind: format!("/problems/{}", reason.slug()),
        title: reason.title().to_owned(),
        status: reason.status(),
        detail: refusal.detail.clone(),
        instance: path.to_owned(),
        reason: reason.to_string(),
        domain: "kubenova.io".to_owned(),
        remedy: reason.remedy().to_owned(),
        retryable: reason.is_retryable(),
        fields: refusal
            .field
            .iter()
            .map(|pointer| ProblemField { pointer: pointer.clone(), reason: reason.to_string() })
            .collect(),
        request_id: id.to_owned(),
    };
    serde_json::to_vec(&problem).expect("a problem is plain strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApi;
    use kubenova_core::access::Role;

    #[tokio::test]
    async fn what_axum_refuses_is_a_problem_that_says_what_to_do() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let problem = api.get("/api/v1/nothing").send(&admin).await.refused(Reason::RouteNotFound);
        assert_eq!(problem["type"], "/problems/route-not-found");
        assert_eq!(problem["instance"], "/api/v1/nothing");
        let slash = api.get("/api/v1/tenants/").send(&admin).await.refused(Reason::RouteNotFound);
        assert!(slash["detail"].as_str().unwrap().contains("do not end with a slash"), "{slash}");
        let method = api.delete("/api/v1/tenants").send(&admin).await;
        method.refused(Reason::MethodNotAllowed);
        let mut allowed: Vec<&str> = method.header(header::ALLOW).split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD", "POST"]);
        for path in ["/api/v1/tenants/%ff", "/api/v1/tenants/a%00b"] {
            api.get(path).send(&admin).await.refused(Reason::RouteNotFound);
        }
        api.get("/api/v1/commands?application=a%00b").send(&admin).await.refused(Reason::QueryInvalid);
    }

    #[tokio::test]
    async fn addresses_above_the_limit_are_414() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let path = format!("/api/v1/tenants/{}", "a".repeat(URI_LENGTH_MAX));
        api.get(&path).send(&admin).await.refused(Reason::UriTooLong);
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_503_and_may_be_tried_again() {
        let method = Method::POST;
        let late = within(Duration::from_millis(1), &method, std::future::pending()).await;
        let problem = as_problem(late, "id", "/api/v1/tenants", &Method::POST);
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(problem.headers()[header::RETRY_AFTER], RETRY_AFTER.to_string());
        let body = axum::body::to_bytes(problem.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["reason"], Reason::Timeout.as_str());
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("may or may not have been made"), "Postgres may have committed it: {detail}");
    }

    #[tokio::test]
    async fn what_the_manager_fails_at_is_500_without_its_cause() {
        // Outside the document, as enrollment is.
        let panics = |_: &_| {
            axum::Router::new().route("/enrollment/panic", axum::routing::get(async || -> () { panic!("why") }))
        };
        let api = TestApi::start_with(panics).await;
        let admin = api.caller(Role::Admin, None).await;
        api.get("/enrollment/panic").send(&admin).await.refused(Reason::Internal);
        api.database.execute("alter table commands rename to gone").await;
        let problem = api.get("/api/v1/commands").send(&admin).await.refused(Reason::Internal);
        assert_eq!(problem["detail"], "the request could not be carried out; nothing was changed");
    }

    #[tokio::test]
    async fn a_database_that_does_not_respond_is_503() {
        let api = TestApi::start().await.without_database();
        let answer = api.get("/api/v1/me").send(&TestApi::token("knt_x")).await;
        answer.refused(Reason::DependencyDown);
        assert_eq!(answer.header(header::RETRY_AFTER), "1");
    }

    #[tokio::test]
    async fn head_has_the_headers_of_get_and_never_a_body() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        for path in ["/api/v1/me", "/api/v1/tenants/none", "/nothing", "/healthz"] {
            let get = api.get(path).send(&admin).await;
            let head = api.request(Method::HEAD, path).send(&admin).await;
            assert_eq!(head.status, get.status, "{path}");
            assert_eq!(head.header(header::CONTENT_TYPE), get.header(header::CONTENT_TYPE), "{path}");
            assert!(head.bytes.is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn every_answer_names_its_request_and_forbids_guessing_and_storing() {
        let api = TestApi::start().await;
        let anonymous = TestApi::anonymous();
        for path in ["/healthz", "/nothing", "/api/v1/me"] {
            let answer = api.get(path).header("X-Request-Id", "my-request.1").send(&anonymous).await;
            assert_eq!(answer.header("x-request-id"), "my-request.1", "{path}");
            assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
            assert_eq!(answer.header(header::STRICT_TRANSPORT_SECURITY), "max-age=31536000");
        }
        for unusable in ["a b", "<script>", &"a".repeat(65)] {
            let answer = api.get("/api/v1/me").header("X-Request-Id", unusable).send(&anonymous).await;
            let id = answer.header("x-request-id").to_owned();
            assert_eq!(id.len(), 36, "a new id instead of {unusable:?}: {id:?}");
            assert_eq!(answer.body["requestId"], id);
        }
    }
}
