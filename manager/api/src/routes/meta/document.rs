//! `GET /openapi.json`.

use crate::openapi;
use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<String> = LazyLock::new(openapi::openapi);

/// The OpenAPI document of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "meta", operation_id = "getOpenApi", security(),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn get() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
