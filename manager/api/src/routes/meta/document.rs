//! `GET /openapi.json`.

use axum::{
    Extension,
    http::header,
    response::{IntoResponse as _, Response},
};
use std::sync::Arc;

/// The document as text; the router, which knows all routes, hands it to the handler.
#[derive(Debug, Clone)]
pub struct Document(pub Arc<str>);

/// Read the OpenAPI document of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "meta", operation_id = "getOpenApi", security(),
    responses((status = 200, description = "The OpenAPI 3.1 document", body = BTreeMap<String, serde_json::Value>)))]
pub async fn get(Extension(Document(text)): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;

    #[tokio::test]
    async fn the_document_and_the_front_page_need_no_token() {
        let api = TestApi::start().await;
        let anonymous = TestApi::anonymous();
        let document = api.get("/openapi.json").send(&anonymous).await.ok(200);
        assert_eq!(document["info"]["title"], "KubeNova Manager");
        let page = api.get("/").send(&anonymous).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
    }
}
