//! `GET /`: the page that a browser shows at the address of the Manager.

use axum::{
    http::{HeaderName, header},
    response::{IntoResponse as _, Response},
};

const PAGE: &str = include_str!("front.html");

/// Read a page with links and first steps.
#[utoipa::path(get, path = "/", tag = "meta", operation_id = "getFrontPage", security(),
    responses((status = 200, description = "An HTML page", body = String, content_type = "text/html")))]
pub async fn get() -> Response {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ];
    (headers, PAGE).into_response()
}
