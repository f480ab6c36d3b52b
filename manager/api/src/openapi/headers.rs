//! Headers of answers.

use super::operations::Facts;
use kubenova_core::refusal::Reason;
use utoipa::openapi::{Header, HeaderBuilder, ObjectBuilder, Response, Type, path::HttpMethod};

/// What kind of answer the headers are of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction<'a> {
    /// An object or a list was read, or nothing was changed.
    Read,
    /// Something was changed.
    Changed {
        /// Or would be: a dry run has the same status.
        dry_run: bool,
    },
    /// Something was accepted that clusters carry out.
    Accepted {
        /// The object is (to be) found at a path.
        located: bool,
    },
    /// The request was refused.
    Refused(&'a [Reason]),
}

impl Direction<'_> {
    /// The kind of a successful answer with this status.
    pub(super) fn of(status: &str, method: &HttpMethod) -> Self {
        match status {
            "200" if !matches!(method, HttpMethod::Get) => Self::Changed { dry_run: true },
            "201" => Self::Changed { dry_run: false },
            "202" => Self::Accepted { located: !matches!(method, HttpMethod::Delete) },
            _ => Self::Read,
        }
    }
}

const REQUEST_ID: (&str, &str) = (
    "X-Request-Id",
    "The caller's X-Request-Id if it was short and plain, else a new one; it is in the Manager's log.",
);
const ETAG: (&str, &str) = ("ETag", "The object's version, for If-Match.");
const LOCATION: (&str, &str) = ("Location", "Path of the object.");
const OPERATION_LOCATION: (&str, &str) =
    ("Operation-Location", "Path of a command that carries out the change, once for each cluster concerned.");
const REPLAYED: (&str, &str) =
    ("Idempotency-Replayed", "`true` when this is the answer of an earlier request with the same Idempotency-Key.");
const DRY_RUN: (&str, &str) =
    ("Dry-Run", "`true` when this is the answer of a dry run: nothing was changed, the body says what would be.");
const RETRY_AFTER: (&str, &str) = ("Retry-After", "Seconds after which it makes sense to ask again.");
const AUTHENTICATE: (&str, &str) = ("WWW-Authenticate", "The scheme to authenticate with.");

/// The headers that such an answer may carry.
pub(super) fn documented(direction: Direction<'_>, facts: &Facts) -> Vec<(&'static str, &'static str)> {
    let mut headers = vec![REQUEST_ID];
    match direction {
        Direction::Read => headers.extend(facts.etag.then_some(ETAG)),
        Direction::Changed { dry_run } => {
            headers.extend([LOCATION, OPERATION_LOCATION, RETRY_AFTER, REPLAYED]);
            headers.extend(dry_run.then_some(DRY_RUN));
            headers.extend(facts.etag.then_some(ETAG));
        }
        Direction::Accepted { located } => {
            headers.extend(located.then_some(LOCATION));
            headers.extend([OPERATION_LOCATION, RETRY_AFTER, REPLAYED]);
            headers.extend(facts.etag.then_some(ETAG));
        }
        Direction::Refused(reasons) => {
            headers.extend(reasons.contains(&Reason::Unauthenticated).then_some(AUTHENTICATE));
            headers.extend(reasons.iter().any(|reason| reason.is_retryable()).then_some(RETRY_AFTER));
        }
    }
    headers
}

/// Documents headers of a response.
pub(super) fn add(response: &mut Response, headers: Vec<(&'static str, &'static str)>) {
    for (name, description) in headers {
        response.headers.insert(name.to_owned(), header(name, description).into());
    }
}

fn header(name: &str, description: &str) -> Header {
    let schema = match name {
        "Retry-After" => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)),
        "Idempotency-Replayed" | "Dry-Run" => {
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"]))
        }
        _ => ObjectBuilder::new().schema_type(Type::String),
    };
    HeaderBuilder::new().schema(Some(schema.build())).description(Some(description)).build()
}
