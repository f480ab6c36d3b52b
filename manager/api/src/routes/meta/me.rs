//! `GET /me`.

use crate::request_context::RequestContext;
use axum::Json;
use kubenova_api_types::meta::Me;

/// Read who one is to this Manager.
#[utoipa::path(get, path = "/api/v1/me", tag = "meta", operation_id = "getMe",
    responses((status = 200, description = "The caller", body = Me)))]
pub async fn get(ctx: RequestContext) -> Json<Me> {
    Json(Me {
        subject: ctx.caller.subject,
        role: ctx.caller.role.as_str().to_owned(),
        tenant_id: ctx.caller.tenant.map(|tenant| tenant.to_string()),
    })
}
