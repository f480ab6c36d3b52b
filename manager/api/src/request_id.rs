//! The id of a request: in its answer, in a problem, in log lines and in the audit row.
//!
//! A caller's `X-Request-Id` is used when it is short and plain, so that ids can be followed across services; anything
//! else is replaced, because ids are written into logs.

use axum::{
    extract::Request,
    http::{Extensions, HeaderName, HeaderValue},
};
use kubenova_runtime::random;
use tower_http::request_id::{MakeRequestId, RequestId};

/// Where callers send an id and find the one that was used.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a caller; a UUID has 36 characters, a W3C trace id 32.
const LENGTH_MAX: usize = 64;

/// Makes the id of a request that brought none.
#[derive(Debug, Clone, Copy)]
pub struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&random::uuid_v7().to_string()).ok().map(RequestId::new)
    }
}

/// Removes an id that cannot be used; the layer after this one makes a new one.
#[must_use]
pub fn drop_unusable(mut request: Request) -> Request {
    let is_plain = |value: &HeaderValue| {
        (1..=LENGTH_MAX).contains(&value.len())
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if request.headers().get(HEADER).is_some_and(|value| !is_plain(value)) {
        request.headers_mut().remove(HEADER);
    }
    request
}

/// The id of the request with these extensions; empty outside of the router's layers.
#[must_use]
pub fn of(extensions: &Extensions) -> String {
    let id = extensions.get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    id.unwrap_or_default().to_owned()
}
