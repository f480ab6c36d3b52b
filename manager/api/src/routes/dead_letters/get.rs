//! `GET /dead-letters/{deadLetter}`.

use super::{find, view};
use crate::{error::ApiError, request_context::RequestContext, state::AppState};
use axum::{
    Json,
    extract::{Path, State},
};
use data_encoding::BASE64;
use kubenova_api_types::dead_letters::DeadLetter;
use kubenova_store::dead_letters;

/// Read a dead letter with the begin of its bytes.
#[utoipa::path(get, path = "/api/v1/dead-letters/{deadLetter}", tag = "dead letters", operation_id = "getDeadLetter",
    params(("deadLetter" = String, Path, description = "Id")),
    responses((status = 200, description = "The dead letter", body = DeadLetter)))]
pub async fn get(
    State(state): State<AppState>,
    _ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<DeadLetter>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let letter = find(&mut connection, &named).await?;
    let bytes = dead_letters::payload(&mut connection, letter.id).await?.unwrap_or_default();
    let mut shown = view(&letter);
    shown.text = text(&bytes);
    shown.payload = Some(BASE64.encode(&bytes));
    Ok(Json(shown))
}

/// The bytes as text, when they are text up to a character that was cut.
fn text(bytes: &[u8]) -> Option<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(cut) if cut.error_len().is_none() => {
            Some(String::from_utf8_lossy(&bytes[..cut.valid_up_to()]).into_owned())
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{routes::dead_letters::testing::store, testing::TestApi};
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::json;

    #[tokio::test]
    async fn its_bytes_are_shown_and_as_text_when_they_are_text() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let text = store(&api, "c1", "s", b"{\"state\":9}").await;
        let binary = store(&api, "", "s", &[0xff, 0]).await;
        let read = async |id: &str| api.get(&format!("/api/v1/dead-letters/{id}")).send(&admin).await.ok(200);
        let shown = read(&text).await;
        assert_eq!((&shown["text"], &shown["payload"]), (&json!("{\"state\":9}"), &json!("eyJzdGF0ZSI6OX0=")));
        assert_eq!((&shown["reason"], &shown["payloadBytes"]), (&json!("it is no outcome"), &json!("11")));
        let shown = read(&binary).await;
        assert_eq!((shown.get("text"), shown.get("clusterId"), &shown["payload"]), (None, None, &json!("/wA=")));
        api.get("/api/v1/dead-letters/none").send(&admin).await.refused(Reason::DeadLetterNotFound);
    }

    #[test]
    fn a_character_that_was_cut_is_left_out() {
        assert_eq!(text("aü".as_bytes()).as_deref(), Some("aü"));
        assert_eq!(text(&"aü".as_bytes()[..2]).as_deref(), Some("a"));
        assert_eq!(text(&[b'a', 0xff, b'b']), None);
    }
}
