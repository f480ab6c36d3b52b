//! `GET /healthz` and `GET /readyz`.

use crate::state::AppState;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use kubenova_api_types::meta::Health;
use std::collections::BTreeMap;

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "meta", operation_id = "getHealth", security(),
    responses((status = 200, description = "It is", body = Health)))]
pub async fn alive() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), waiting_for: BTreeMap::new() })
}

/// Can the process serve? Names what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "meta", operation_id = "getReadiness", security(),
    responses((status = 200, description = "It can", body = Health), (status = 503, description = "Not yet", body = Health)))]
pub async fn ready(State(state): State<AppState>) -> Response {
    let closed = state.gates.closed().into_iter();
    let mut waiting_for: BTreeMap<String, String> = closed.map(|(name, text)| (name.to_owned(), text)).collect();
    if state.store.ping().await.is_err() {
        waiting_for.insert("database".to_owned(), "the database does not answer".to_owned());
    }
    let ok = waiting_for.is_empty();
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status: if ok { "ok" } else { "waiting" }.to_owned(), waiting_for })).into_response()
}
