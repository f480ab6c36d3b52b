//! `Idempotency-Key`: a repeated request is answered with the first one's answer and changes nothing.
//!
//! Two requests are the same when method, path, query parameters and the body's value are: the order of parameters and
//! of the keys of JSON objects, white space, and how a number or text is written do not matter.
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
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri},
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
    let bytes = match body::read(&parts.headers, stream, state.body_timeout).await {
        Ok(bytes) => bytes,
        Err(refusal) => return refused(refusal),
    };
    let key = match key(&parts.headers) {
        Ok(key) => key,
        Err(refusal) => return refused(refusal),
    };
    if let (Some(key), Some(authorized)) = (key, parts.extensions.get::<Authorized>()) {
        let request_sha256 = request_sha256(&parts.method, &parts.uri, &parts.headers, &bytes);
        let claim = Claim { key, request_sha256 };
        match answered(&state, &authorized.caller.identity(), &claim).await {
            Ok(Some(answer)) => return replayed(&answer),
            Ok(None) => {}
            Err(error) => return error.into_response(),
        }
        parts.extensions.insert(claim);
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

/// The hash of a request's canonical form.
fn request_sha256(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> [u8; 32] {
    let mut parameters: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|one| !one.is_empty()).collect();
    // A parameter may stand several times; then its values keep their order.
    parameters.sort_by_key(|parameter| parameter.split('=').next());
    let head = format!("{method} {}?{}\n", uri.path(), parameters.join("&"));
    token::sha256([head.as_bytes(), &canonical(headers, body)].concat())
}

/// JSON with sorted keys and one way to write each value (as RFC 8785 has it, without its rules for numbers that we
/// never compare with other implementations). A body that does not parse stands for itself: it is going to be refused.
fn canonical(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    if body.is_empty() {
        return Vec::new();
    }
    match body::parse(headers, body) {
        Ok(mut value) => {
            value.sort_all_objects();
            value.to_string().into_bytes()
        }
        Err(_) => body.to_vec(),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "Idempotency-Key is there more than once; send one";
        return Err(Refusal::new(Reason::HeaderInvalid, detail));
    }
    match value.to_str() {
        Ok(text) if (1..=KEY_LENGTH_MAX).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(Refusal::new(
            Reason::HeaderInvalid,
            format!("Idempotency-Key must be 1 to {KEY_LENGTH_MAX} visible ASCII characters"),
        )),
    }
}

async fn answered(state: &AppState, caller: &str, claim: &Claim) -> Result<Option<ResponseRecord>, ApiError> {
    let mut connection = state.store.acquire().await?;
    match idempotency::find(&mut connection, caller, &claim.key, clock::now()).await? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        routes::applications::testing::{APPS, World, form},
        testing::TestApi,
    };
    use axum::http::header;
    use kubenova_core::access::{Caller, Role};
    use kubenova_runtime::random;
    use kubenova_store::{error::StoreError, write_tx::WriteContext};
    use serde_json::json;

    fn sha256(target: &str, body: &str) -> [u8; 32] {
        let uri = target.parse().unwrap();
        request_sha256(&Method::POST, &uri, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn the_order_of_keys_and_parameters_does_not_matter() {
        let first = sha256("/a?x=1&y=2", r#"{"name":"shop","quota":{"cpu":"1","pods":2}}"#);
        assert_eq!(first, sha256("/a?y=2&x=1", r#"{ "quota": {"pods": 2.0, "cpu": "\u0031"}, "name": "shop" }"#));
        let yaml = HeaderMap::from_iter([(header::CONTENT_TYPE, "application/yaml".parse().unwrap())]);
        let uri = "/a?x=1&y=2".parse().unwrap();
        let body = b"quota: {pods: 2, cpu: '1'}\nname: shop\n";
        assert_eq!(first, request_sha256(&Method::POST, &uri, &yaml, body));
    }

    #[test]
    fn everything_else_does() {
        let first = sha256("/a?x=1&y=2", r#"{"a":[1,2],"b":"1"}"#);
        for other in [
            sha256("/b?x=1&y=2", r#"{"a":[1,2],"b":"1"}"#),
            sha256("/a?x=1&y=3", r#"{"a":[1,2],"b":"1"}"#),
            sha256("/a?x=1", r#"{"a":[1,2],"b":"1"}"#),
            sha256("/a?x=1&y=2", r#"{"a":[2,1],"b":"1"}"#),
            sha256("/a?x=1&y=2", r#"{"a":[1,2],"b":1}"#),
            sha256("/a?x=1&y=2", r#"{"a":[1,2]}"#),
            sha256("/a?x=1&y=2", ""),
            request_sha256(&Method::PUT, &"/a?x=1&y=2".parse().unwrap(), &HeaderMap::new(), br#"{"a":[1,2],"b":"1"}"#),
        ] {
            assert_ne!(first, other);
        }
        assert_ne!(sha256("/a?x=1&x=2", ""), sha256("/a?x=2&x=1", ""), "values of one parameter keep their order");
    }

    /// A request of an administrator that does nothing but take its key.
    fn holder(key: &str) -> WriteContext {
        WriteContext {
            caller: Caller { subject: TestApi::subject(Role::Admin), role: Role::Admin, tenant: None },
            request_id: "holder".to_owned(),
            traceparent: None,
            now: clock::now(),
            new_id: random::uuid_v7,
            claim: Some(Claim { key: key.to_owned(), request_sha256: [0; 32] }),
            dry_run: true,
        }
    }

    #[tokio::test]
    async fn a_refused_request_frees_its_key_before_it_is_answered() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.tenant(&admin, "taken", &[]).await;
        for number in 0..200 {
            let key = format!("key-{number}");
            let send = |name: &str| api.post("/api/v1/tenants").key(&key).json(&json!({ "name": name })).send(&admin);
            send("taken").await.refused(Reason::NameTaken);
            // Without the two queries that authenticate a request, in which a late rollback would catch up.
            let response = ResponseRecord { status: 200, headers: Vec::new(), body: String::new() };
            let taken = api.state.store.write(holder(&key), async |_| Ok::<_, StoreError>(((), response)));
            taken.await.unwrap();
            send(&format!("corrected-{number}")).await.is(201);
        }
    }

    #[tokio::test]
    async fn an_answer_is_not_repeated_to_a_caller_of_another_tenant() {
        let world = World::new().await;
        let own = world.token(Role::ProjectDev, Some(world.acme)).await;
        let unrelated = world.token(Role::ProjectDev, Some(world.other)).await;
        let create = |token| world.api.post(APPS).key("k").json(&form("west")).send(token);
        create(&own).await.is(202);
        create(&unrelated).await.refused(Reason::TenantNotFound);
        assert_eq!(create(&own).await.is(202).header("idempotency-replayed"), "true");
    }

    #[tokio::test]
    async fn of_two_keys_neither_is_taken() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let create = api.post("/api/v1/tenants").key("a").key("b").json(&json!({ "name": "acme" }));
        create.send(&admin).await.refused(Reason::HeaderInvalid);
    }

    #[tokio::test]
    async fn while_the_first_request_is_in_progress_a_second_one_is_told_to_come_again() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let send = || api.post("/api/v1/tenants").key("k").json(&json!({ "name": "acme" })).send(&admin);
        let in_progress = api.state.store.write(holder("k"), async |_| {
            let second = send().await;
            Ok::<_, StoreError>((second, ResponseRecord { status: 200, headers: Vec::new(), body: String::new() }))
        });
        let second = in_progress.await.unwrap();
        second.refused(Reason::IdempotencyKeyInUse);
        assert_eq!(second.header(header::RETRY_AFTER), "1");
        send().await.is(201);
    }

    #[test]
    fn what_does_not_parse_is_compared_byte_by_byte() {
        assert_ne!(sha256("/a", "{"), sha256("/a", "{ "));
        assert_eq!(sha256("/a", "{"), sha256("/a", "{"));
    }
}
