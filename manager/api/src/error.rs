//! The one place where a refusal becomes HTTP. Handlers return [`ApiError`]; the outermost layer writes the problem, so
//! that also what axum itself refuses (404, 405, a panic, a timeout) is one.

use crate::request_context::RequestId;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use kubenova_api_types::problem::{MEDIA_TYPE, Problem, ProblemField};
use kubenova_core::refusal::{Reason, Refusal};
use kubenova_store::error::StoreError;
use std::{error::Error, time::Duration};

/// Longest a request may take. Waiting for a cluster never happens inside one.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a handler gave up.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The caller's doing.
    #[error("refused")]
    Refused(#[from] Refusal),
    /// The store's doing; some of it is the caller's after all.
    #[error("could not use the store")]
    Store(#[from] StoreError),
}

/// Rides on a response until the outermost layer writes it as a problem.
#[derive(Debug, Clone)]
struct Refused(Refusal);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let refusal = match self {
            Self::Refused(refusal) => refusal,
            Self::Store(cause) => match cause.refusal() {
                Some(refusal) => refusal,
                None => of_store(&cause),
            },
        };
        refused(refusal)
    }
}

fn of_store(cause: &StoreError) -> Refusal {
    let chain = chain(cause);
    if cause.is_transient() {
        tracing::warn!(error = chain, "the database did not answer; the request was refused");
        return Refusal::new(Reason::DependencyDown, "the database does not answer");
    }
    tracing::error!(error = chain, "a request failed because of the database");
    Refusal::new(Reason::Internal, "the request could not be carried out; nothing was changed")
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A response that the outermost layer turns into a problem.
#[must_use]
pub fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    response.extensions_mut().insert(Refused(refusal));
    response
}

/// Answer of a handler that panicked.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the shape that CatchPanicLayer wants")]
pub fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
    refused(Refusal::new(Reason::Internal, "the request could not be carried out"))
}

/// The outermost layer: names the request, limits its time, writes problems, sets headers that every answer has.
pub async fn finish(mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let answered = async {
        match without_nul(request.uri()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refused(refusal),
        }
    };
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, answered).await {
        Ok(response) => response,
        Err(_) => refused(Refusal::new(
            Reason::Timeout,
            format!("the request took longer than {} s", REQUEST_TIMEOUT.as_secs()),
        )),
    };
    tracing::debug!(request.id = id, %method, path, status = response.status().as_u16(), "request answered");
    let mut response = as_problem(response, &id, &path, &method);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    response
}

/// A NUL stands in no name that anybody means, and Postgres takes none.
fn without_nul(uri: &axum::http::Uri) -> Result<(), Refusal> {
    if uri.path().contains("%00") {
        return Err(Refusal::new(Reason::RouteNotFound, "the path holds a NUL character"));
    }
    if uri.query().is_some_and(|query| query.contains("%00")) {
        return Err(Refusal::new(Reason::QueryInvalid, "the query holds a NUL character"));
    }
    Ok(())
}

/// The caller's id when it is short and plain, else a new one.
fn request_id(request: &Request) -> String {
    let plain = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain);
    given.map_or_else(|| kubenova_runtime::random::uuid_v7().to_string(), str::to_owned)
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
    let mut problem = Response::new(Body::from(write(&refusal, id, path)));
    *problem.status_mut() = StatusCode::from_u16(refusal.reason.status()).unwrap_or(status);
    let headers = problem.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    match refusal.reason {
        Reason::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubenova\""));
        }
        Reason::DependencyDown | Reason::Timeout | Reason::IdempotencyKeyInUse | Reason::RateLimited => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    problem
}

/// What axum refuses by itself (plain text), in our words; none when a handler wrote the answer.
fn of_axum(response: &Response, path: &str, method: &Method) -> Option<Refusal> {
    if response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == MEDIA_TYPE || value == "application/json")
    {
        return None;
    }
    Some(match response.status() {
        StatusCode::NOT_FOUND => Refusal::new(Reason::RouteNotFound, format!("there is nothing at {path:?}")),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::new(Reason::MethodNotAllowed, format!("{method} is not possible at {path:?}"))
        }
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(Reason::BodyTooLarge, "the body is above the limit"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Refusal::new(Reason::MediaTypeUnsupported, "the body's kind is not read here")
        }
        status if status.is_client_error() => Refusal::new(Reason::BodyMalformed, "the request could not be read"),
        _ => Refusal::new(Reason::Internal, "the request could not be carried out"),
    })
}

fn write(refusal: &Refusal, id: &str, path: &str) -> Vec<u8> {
    let reason = refusal.reason;
    let problem = Problem {
        kind: format!("https://kubenova.io/problems/{}", reason.slug()),
        title: reason.title().to_owned(),
        status: reason.status(),
        detail: refusal.detail.clone(),
        instance: path.to_owned(),
        reason: reason.to_string(),
        domain: "kubenova.io".to_owned(),
        remedy: reason.remedy().to_owned(),
        retryable: matches!(
            reason,
            Reason::Internal
                | Reason::DependencyDown
                | Reason::Timeout
                | Reason::RateLimited
                | Reason::IdempotencyKeyInUse
        ),
        fields: refusal
            .field
            .iter()
            .map(|pointer| ProblemField { pointer: pointer.clone(), reason: reason.to_string() })
            .collect(),
        request_id: id.to_owned(),
    };
    serde_json::to_vec(&problem).expect("a problem is plain strings")
}
