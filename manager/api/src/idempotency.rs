//! `Idempotency-Key`: a repeated request is answered with the first one's answer and changes nothing.
//!
//! The answer is committed with the change itself ([`kubenova_store::write_tx`]), so a crash between the two is impossible.
//! Refusals are not kept: they changed nothing, and asking again may succeed.

use crate::{
    body,
    error::{ApiError, refused},
    request_context::Authorized,
    state::AppState,
    token,
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use kubenova_core::refusal::{Reason, Refusal};
use kubenova_runtime::clock;
use kubenova_store::idempotency::{self, Claim, ResponseRecord};

/// Longest key; a UUID has 36.
const KEY_LENGTH_MAX: usize = 255;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The layer below [`crate::authenticate`]: reads the body within its limit, and answers repetitions.
pub async fn replay_repeated(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let (mut parts, stream) = request.into_parts();
    let bytes = match body::read(&parts.headers, stream).await {
        Ok(bytes) => bytes,
        Err(refusal) => return refused(refusal),
    };
    let key = match key(&parts.headers) {
        Ok(key) => key,
        Err(refusal) => return refused(refusal),
    };
    if let (Some(key), Some(authorized)) = (key, parts.extensions.get::<Authorized>()) {
        let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let head = format!("{} {target}\n", parts.method);
        let claim = Claim { key, request_sha256: token::sha256([head.as_bytes(), &bytes].concat()) };
        match answered(&state, &authorized.caller.subject, &claim).await {
            Ok(Some(answer)) => return replayed(&answer),
            Ok(None) => {}
            Err(error) => return error.into_response(),
        }
        parts.extensions.insert(claim);
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=KEY_LENGTH_MAX).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(Refusal::new(
            Reason::HeaderInvalid,
            format!("Idempotency-Key has 1 to {KEY_LENGTH_MAX} visible characters"),
        )),
    }
}

async fn answered(state: &AppState, subject: &str, claim: &Claim) -> Result<Option<ResponseRecord>, ApiError> {
    let mut connection = state.store.read().await?;
    match idempotency::find(&mut connection, subject, &claim.key, clock::now()).await? {
        Some(kept) if kept.request_sha256 == claim.request_sha256 => Ok(Some(kept.answer)),
        Some(_) => Err(Refusal::new(
            Reason::IdempotencyKeyReused,
            "this Idempotency-Key was used for another request within 24 hours",
        )
        .into()),
        None => Ok(None),
    }
}

fn replayed(answer: &ResponseRecord) -> Response {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
