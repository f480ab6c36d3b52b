//! Bodies: at most 1 MiB of UTF-8, one JSON value without duplicate keys, or one YAML document where a path reads it.

use crate::{
    error::ApiError,
    shape,
    yaml::{self, scalar},
};
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

/// Longest body: four times the longest application, which JSON may write with escapes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest a body may take to arrive: 50 KiB/s for the longest one.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(Reason::BodyTooLarge, format!("the body is larger than {bytes_max} bytes"))
}

/// Reads a body within its limits; one that announces itself as too large is not read at all.
pub(crate) async fn read(headers: &HeaderMap, stream: Body, timeout: Duration) -> Result<Bytes, Refusal> {
    read_at_most(BODY_BYTES_MAX, headers, stream, timeout).await
}

/// The same for at most so many bytes.
pub(crate) async fn read_at_most(
    bytes_max: usize,
    headers: &HeaderMap,
    stream: Body,
    timeout: Duration,
) -> Result<Bytes, Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(timeout, axum::body::to_bytes(stream, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(cause)) if is_length_limit(&cause) => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Refusal::new(
            Reason::BodyMalformed,
            "the body ended early; send as many bytes as Content-Length announces",
        )),
        Err(_) => Err(Refusal::new(Reason::RequestTimeout, format!("the body did not arrive within {timeout:?}"))),
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
    let unsupported = |detail: String| Err(Refusal::new(Reason::MediaTypeUnsupported, detail));
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        return unsupported(format!("Content-Encoding is {coding:?}; send the body uncompressed"));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Language::Json) };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let charset = parts.filter_map(|parameter| parameter.strip_prefix("charset=")).next();
    if let Some(charset) = charset.map(|name| name.trim_matches('"')).filter(|name| !matches!(*name, "utf-8" | "utf8"))
    {
        return unsupported(format!("the charset is {charset:?}; send UTF-8"));
    }
    match essence {
        "application/json" | "text/json" => Ok(Language::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Language::Yaml),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(Language::Json),
        _ => unsupported(format!("Content-Type is {essence:?}")),
    }
}

fn refuse_yaml(headers: &HeaderMap) -> Result<(), Refusal> {
    if language(headers)? == Language::Yaml {
        return Err(Refusal::new(Reason::MediaTypeUnsupported, "this path reads JSON only"));
    }
    Ok(())
}

/// A JSON body of one shape.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, stream) = request.into_parts();
        refuse_yaml(&parts.headers)?;
        let bytes = read(&parts.headers, stream, BODY_TIMEOUT).await?;
        Ok(Self(shape::read(&json(&bytes)?)?))
    }
}

/// A JSON body of one shape with at most so many bytes; one that announces itself as longer is not read at all.
pub(crate) async fn read_json<T: DeserializeOwned>(
    bytes_max: usize,
    headers: &HeaderMap,
    stream: Body,
) -> Result<T, Refusal> {
    refuse_yaml(headers)?;
    let bytes = read_at_most(bytes_max, headers, stream, BODY_TIMEOUT).await?;
    shape::read(&json(&bytes)?)
}

/// A JSON body of one shape that may be left out: none is the shape's default.
#[derive(Debug, Clone)]
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, stream) = request.into_parts();
        let bytes = read(&parts.headers, stream, BODY_TIMEOUT).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        refuse_yaml(&parts.headers)?;
        Ok(Self(shape::read(&json(&bytes)?)?))
    }
}

/// A JSON or YAML document of any shape.
#[derive(Debug, Clone)]
pub struct DocumentBody(pub Value);

impl<S: Send + Sync> FromRequest<S> for DocumentBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, stream) = request.into_parts();
        // The kind of body is checked before it is read.
        language(&parts.headers)?;
        let bytes = read(&parts.headers, stream, BODY_TIMEOUT).await?;
        Ok(Self(parse(&parts.headers, &bytes)?))
    }
}

/// The value of a body, in the language its headers name.
pub(crate) fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Refusal> {
    match language(headers)? {
        Language::Json => json(bytes),
        Language::Yaml => yaml(bytes),
    }
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::BodyMalformed, detail)
}

/// UTF-8 without the byte order mark that some editors put before it.
fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(bytes)
        .map_err(|cause| malformed(format!("the body is not UTF-8 from byte {} on", cause.valid_up_to())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn json(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = text(bytes)?;
    if text.trim().is_empty() {
        return Err(malformed("the body is empty; send a JSON object"));
    }
    let not_json = |cause: serde_json::Error| malformed(format!("the body is not JSON: {cause}"));
    kubenova_schema::message::refuse_duplicate_keys(text.as_bytes()).map_err(not_json)?;
    let mut value = serde_json::from_str(text).map_err(not_json)?;
    write_whole_numbers_whole(&mut value);
    without_nul(value)
}

fn yaml(bytes: &[u8]) -> Result<Value, Refusal> {
    // With aliases resolved it holds no more than a body without aliases can.
    match yaml::read(text(bytes)?, BODY_BYTES_MAX) {
        Ok(Value::Null) => Err(malformed("the body is empty; send one YAML document")),
        Ok(value) => without_nul(value),
        Err(cause) => Err(malformed(format!("the body is not YAML that can be read: {cause}"))),
    }
}

/// `400.0` and `4e2` are written as 400, as Kubernetes' own tools write them: readers of integers take no fraction.
fn write_whole_numbers_whole(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().and_then(scalar::from_float) {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers_whole),
        Value::Object(fields) => fields.values_mut().for_each(write_whole_numbers_whole),
        _ => {}
    }
}

/// No name or text needs a NUL, and Postgres takes none.
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
        return Err(malformed("a text of the body holds a NUL character (\\u0000); remove it"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApi;
    use kubenova_core::access::Role;
    use serde_json::json;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_in_time_is_408() {
        let api = TestApi::start().await.with_body_timeout(Duration::from_millis(1));
        let admin = api.caller(Role::Admin, None).await;
        let slow = api.post("/api/v1/tenants").endless_body().send(&admin).await;
        slow.refused(Reason::RequestTimeout);
        assert_eq!(slow.header(header::RETRY_AFTER), "1");
    }

    #[test]
    fn duplicate_keys_and_nul_are_refused_in_both_languages() {
        for refused in [
            json(br#"{"a":1,"a":2}"#),
            yaml(b"a: 1\na: 2\n"),
            yaml(b"a: [1"),
            json(br#"{"a":["\u0000"]}"#),
            json(br#"{"\u0000":1}"#),
            yaml(br#"a: "\0""#),
            json(b""),
            yaml(b"# nothing"),
            json(b"\xff"),
            yaml(b"a: \xff"),
            json(format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).as_bytes()),
        ] {
            assert_eq!(refused.unwrap_err().reason, Reason::BodyMalformed);
        }
        assert_eq!(yaml(b"a: {b: 1}").unwrap()["a"]["b"], 1);
    }

    #[test]
    fn whole_numbers_have_no_fraction_in_both_languages() {
        let expected = json!({ "mode": 256, "list": [400, -1], "part": 0.5 }).to_string();
        let read = json(br#"{"mode":256.0,"list":[4e2,-1.0],"part":0.5}"#).unwrap();
        assert_eq!(read.to_string(), expected);
        let read = yaml(b"mode: 0400\nlist: [4e2, -1.0]\npart: 0.5\n").unwrap();
        assert_eq!(read.to_string(), expected);
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(json(b"\xef\xbb\xbf{\"a\":1}").unwrap(), json!({ "a": 1 }));
        assert_eq!(yaml(b"\xef\xbb\xbfa: 1").unwrap(), json!({ "a": 1 }));
    }

    #[test]
    fn media_types() {
        let of = |text: &str| language(&headers(header::CONTENT_TYPE, text)).ok();
        for json in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON;charset=\"UTF-8\"",
            "application/merge-patch+json",
        ] {
            assert_eq!(of(json), Some(Language::Json), "{json}");
        }
        assert_eq!(of("application/yaml"), Some(Language::Yaml));
        for other in ["application/x-www-form-urlencoded", "application/json; charset=utf-16", "text/plain", ""] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(language(&HeaderMap::new()).ok(), Some(Language::Json));
        assert!(language(&headers(header::CONTENT_ENCODING, "gzip")).unwrap_err().detail.contains("uncompressed"));
    }
}
