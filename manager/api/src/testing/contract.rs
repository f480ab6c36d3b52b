//! Compares an answer, and the body that it accepts, with the OpenAPI document.

use super::TestAnswer;
use crate::router::openapi;
use axum::http::{Method, header};
use kubenova_api_types::problem::MEDIA_TYPE;
use serde_json::{Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(&openapi()).expect("the document is JSON"));

/// Headers that say something about the answer; others belong to the transport.
const HEADERS: [&str; 9] = [
    "etag",
    "location",
    "operation-location",
    "retry-after",
    "idempotency-replayed",
    "dry-run",
    "www-authenticate",
    "x-request-id",
    "allow",
];

/// Fails the test when the answer is not one that the document describes for this request, or when a body was accepted
/// that does not fit its schema.
#[track_caller]
pub(super) fn check(method: &Method, uri: &str, sent: &[u8], answer: &TestAnswer) {
    let path = uri.split('?').next().unwrap_or_default();
    let place = || format!("{method} {uri}: {answer:?}");
    if *method == Method::HEAD {
        assert!(answer.bytes.is_empty(), "an answer to HEAD has a body: {}", place());
        return;
    }
    let Some(operation) = operation(method, path) else {
        // The path or the method is not documented, so the answer has to be that refusal; enrollment is the Operator's
        // protocol and not part of the document.
        let allowed = ["ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED", "URI_TOO_LONG", "UNAUTHENTICATED", "HEADER_INVALID"];
        let known = path.starts_with("/enrollment/") || allowed.contains(&reason(answer));
        assert!(known, "{} is not in the document", place());
        return;
    };
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if answer.status.is_success()
        && !schema.is_null()
        && let Ok(body) = serde_json::from_slice(sent)
    {
        check_body(schema, &body, &format!("what was accepted: {}", place()));
    }
    let status = answer.status.as_u16().to_string();
    let Some(documented) = operation["responses"].get(&status) else {
        panic!("status {status} is not documented for {}", place());
    };
    let content_type = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let Some(content) = documented["content"].get(media_type) else {
        panic!("content type {media_type:?} is not documented for {}", place());
    };
    if media_type.ends_with("json") {
        let body = serde_json::from_slice(&answer.bytes);
        let body = body.unwrap_or_else(|error| panic!("the body is not JSON: {error}: {}", place()));
        check_body(&content["schema"], &body, &place());
    }
    if media_type == MEDIA_TYPE {
        let reasons = documented["x-reasons"].as_array().cloned().unwrap_or_default();
        assert!(reasons.contains(&json!(reason(answer))), "its reason is not documented: {}", place());
    }
    let headers = documented["headers"].as_object();
    for name in answer.headers.keys().map(|name| name.as_str()).filter(|name| HEADERS.contains(name)) {
        let is_documented = headers.is_some_and(|headers| headers.keys().any(|key| key.eq_ignore_ascii_case(name)));
        assert!(is_documented, "header {name} is not documented: {}", place());
    }
}

fn reason(answer: &TestAnswer) -> &str {
    answer.body["reason"].as_str().unwrap_or_default()
}

/// The documented operation; a path without parameters goes before one with them, as in the router.
fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let (mut parts, mut template) = (path.split('/'), template.split('/'));
        loop {
            match (parts.next(), template.next()) {
                (None, None) => return true,
                (Some(part), Some(expected)) if part == expected || (expected.starts_with('{') && !part.is_empty()) => {
                }
                _ => return false,
            }
        }
    };
    let paths = DOCUMENT["paths"].as_object()?;
    let item = paths.get(path).or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item))?;
    item.get(method.as_str().to_lowercase())
}

#[track_caller]
fn check_body(schema: &Value, body: &Value, place: &str) {
    // References point into the document; a field that a named schema does not have is an error.
    let is_open = schema.get("$ref").is_none();
    let schema = json!({ "allOf": [schema], "unevaluatedProperties": is_open, "components": DOCUMENT["components"] });
    let options = jsonschema::options().with_draft(jsonschema::Draft::Draft202012).should_validate_formats(true);
    let validator = options.build(&schema).unwrap_or_else(|error| panic!("the schema is not valid: {error}"));
    let errors: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    assert!(errors.is_empty(), "the body does not fit its schema: {errors:?}: {place}");
}
