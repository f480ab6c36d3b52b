//! `GET /me`.

use crate::{request_context::RequestContext, views};
use axum::Json;
use kubenova_api_types::meta::Me;

/// Read the caller's identity and role.
#[utoipa::path(get, path = "/api/v1/me", tag = "meta", operation_id = "getMe",
    responses((status = 200, description = "The caller", body = Me)))]
pub async fn get(ctx: RequestContext) -> Json<Me> {
    Json(Me {
        subject: ctx.caller.subject,
        role: views::role(ctx.caller.role),
        tenant_id: ctx.caller.tenant.map(|tenant| tenant.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::access::Role;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn callers_read_their_role_and_the_tenant_they_are_limited_to() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let acme = api.tenant(&admin, "acme", &[]).await;
        for (role, tenant) in [(Role::Admin, None), (Role::TenantOwner, Some(acme)), (Role::Billing, Some(acme))] {
            let caller = api.caller(role, tenant).await;
            let me = api.get("/api/v1/me").send(&caller).await.ok(200);
            assert_eq!(me["role"], role.as_str());
            assert_eq!(me["tenantId"], tenant.map_or(Value::Null, |tenant| json!(tenant.to_string())));
        }
    }
}
