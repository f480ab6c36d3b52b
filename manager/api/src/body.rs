//! Bodies: at most 1 MiB, JSON without duplicate keys, or YAML where a path reads it.

use crate::error::ApiError;
use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use kubenova_core::refusal::{Reason, Refusal};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Longest body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

fn too_large() -> Refusal {
    Refusal::new(Reason::BodyTooLarge, format!("the body is larger than {BODY_BYTES_MAX} bytes"))
}

/// Reads a body within its limits; one that announces itself as too large is not read at all.
pub(crate) async fn read(headers: &HeaderMap, stream: Body) -> Result<Bytes, Refusal> {
    let enqueued = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if enqueued.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(stream, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(cause)) if is_length_limit(&cause) => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(Reason::BodyMalformed, "the body broke off")),
        Err(_) => Err(Refusal::new(Reason::Timeout, "the body took too long to arrive")),
    }
}

fn is_length_limit(cause: &axum::Error) -> bool {
    std::iter::successors(Some(cause as &dyn std::error::Error), |error| error.source())
        .any(|error| error.to_string().contains("length limit"))
}

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Json,
    Yaml,
}

fn language(headers: &HeaderMap) -> Result<Language, Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Language::Json) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "text/json" => Ok(Language::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Language::Yaml),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(Language::Json),
        _ => Err(Refusal::new(Reason::MediaTypeUnsupported, format!("Content-Type is {essence:?}"))),
    }
}

/// A JSON body of one shape.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, stream) = request.into_parts();
        if language(&parts.headers)? == Language::Yaml {
            return Err(Refusal::new(Reason::MediaTypeUnsupported, "this path reads JSON only").into());
        }
        let bytes = read(&parts.headers, stream).await?;
        Ok(Self(shape(json(&bytes)?)?))
    }
}

/// A JSON or YAML document of any shape.
#[derive(Debug, Clone)]
pub struct DocumentBody(pub Value);

impl<S: Send + Sync> FromRequest<S> for DocumentBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, stream) = request.into_parts();
        let language = language(&parts.headers)?;
        let bytes = read(&parts.headers, stream).await?;
        Ok(Self(match language {
            Language::Json => json(&bytes)?,
            Language::Yaml => yaml(&bytes)?,
        }))
    }
}

fn json(bytes: &[u8]) -> Result<Value, Refusal> {
    let malformed =
        |cause: serde_json::Error| Refusal::new(Reason::BodyMalformed, format!("the body is not JSON: {cause}"));
    kubenova_schema::message::refuse_duplicate_keys(bytes).map_err(malformed)?;
    without_nul(serde_json::from_slice(bytes).map_err(malformed)?)
}

/// A NUL stands in no name or text that anybody means, and Postgres takes none.
fn without_nul(value: Value) -> Result<Value, Refusal> {
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_nul),
            Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
            _ => false,
        }
    }
    if has_nul(&value) {
        return Err(Refusal::new(Reason::BodyMalformed, "a text of the body holds a NUL character"));
    }
    Ok(value)
}

/// What a hand-written document may need; the reader's own limits let one request work for seconds.
const YAML_ALIASES_MAX: usize = 200;
/// Scalars, lists and maps of a YAML document, aliases resolved.
const YAML_NODES_MAX: usize = 50_000;

/// Aliases, depth and size are bounded; duplicate keys are refused.
fn yaml(bytes: &[u8]) -> Result<Value, Refusal> {
    let budget = serde_saphyr::budget! {
        max_aliases: YAML_ALIASES_MAX,
        max_anchors: YAML_ALIASES_MAX,
        max_nodes: YAML_NODES_MAX,
    };
    let options = serde_saphyr::options! { budget: budget };
    let read = serde_saphyr::from_slice_with_options(bytes, options).map_err(|cause| {
        let text = cause.to_string();
        let first_line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Refusal::new(Reason::BodyMalformed, format!("the body is not YAML: {first_line}"))
    });
    without_nul(read?)
}

/// Reads a value as one shape; what does not fit is named.
///
/// # Errors
/// With [`Reason::FieldInvalid`].
pub fn shape<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    if !value.is_object() {
        return Err(Refusal::new(Reason::BodyMalformed, "the body is not an object"));
    }
    serde_json::from_value(value).map_err(|cause| Refusal::new(Reason::FieldInvalid, cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_refused_in_both_languages() {
        assert_eq!(json(br#"{"a":1,"a":2}"#).unwrap_err().reason, Reason::BodyMalformed);
        assert_eq!(yaml(b"a: 1\na: 2\n").unwrap_err().reason, Reason::BodyMalformed);
        assert_eq!(yaml(b"a: [1").unwrap_err().reason, Reason::BodyMalformed);
        assert_eq!(yaml(b"a: {b: 1}").unwrap()["a"]["b"], 1);
        for nul in [json(br#"{"a":["\u0000"]}"#), json(br#"{"\u0000":1}"#), yaml(br#"a: "\0""#)] {
            assert_eq!(nul.unwrap_err().reason, Reason::BodyMalformed);
        }
    }

    #[test]
    fn yaml_bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let alias = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(',')));
        }
        assert!(yaml(bomb.as_bytes()).is_err());
        let deep = format!("a: {}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(yaml(deep.as_bytes()).is_err());
        assert!(json(format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).as_bytes()).is_err());
    }

    #[test]
    fn media_types() {
        let of = |text: &str| language(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())])).ok();
        assert_eq!(of("application/json; charset=utf-8"), Some(Language::Json));
        assert_eq!(of("application/yaml"), Some(Language::Yaml));
        assert_eq!(of("application/x-www-form-urlencoded"), None);
    }
}
