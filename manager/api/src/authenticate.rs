//! Finds the caller of a request and checks its role, before a handler runs and before any object is looked up.
//!
//! A route that is missing in [`TABLE`] is refused to every caller: forgetting a line here opens nothing.

use crate::{
    error::{ApiError, refused},
    request_context::Authorized,
    state::AppState,
    token,
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use axum_extra::headers::{Authorization, HeaderMapExt as _, authorization::Bearer};
use kubenova_core::{
    access::{Action, Caller},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::clock;
use kubenova_store::access;
use tracing::{Span, field};

/// Every route that needs a token, and the action that the caller's role must allow.
pub const TABLE: &[(&str, &str, Action)] = &[
    ("POST", "/clusters", Action::WriteClusters),
    ("POST", "/users/{tenant}/apps", Action::WriteApplications),
    ("GET", "/users/{tenant}/apps/{application}/status", Action::ReadApplications),
    ("POST", "/users/{tenant}/apps/{application}/restart", Action::WriteApplications),
    ("GET", "/api/v1/me", Action::ReadSelf),
    ("POST", "/api/v1/clusters", Action::WriteClusters),
    ("GET", "/api/v1/clusters", Action::ReadClusters),
    ("GET", "/api/v1/clusters/{cluster}", Action::ReadClusters),
    ("PATCH", "/api/v1/clusters/{cluster}", Action::WriteClusters),
    ("GET", "/api/v1/clusters/{cluster}/components", Action::ReadClusters),
    ("GET", "/api/v1/clusters/{cluster}/components/{component}", Action::ReadClusters),
    ("PUT", "/api/v1/clusters/{cluster}/components/{component}", Action::WriteClusters),
    ("GET", "/api/v1/clusters/{cluster}/sync", Action::ReadClusters),
    ("POST", "/api/v1/clusters/{cluster}/sync", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/enrollments", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/release", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/revoke", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/detach", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/undelete", Action::WriteClusters),
    ("GET", "/api/v1/clusters/{cluster}/enrollments", Action::ReadClusters),
    ("GET", "/api/v1/clusters/{cluster}/enrollments/{enrollment}", Action::ReadClusters),
    ("DELETE", "/api/v1/clusters/{cluster}/enrollments/{enrollment}", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/enrollments/{enrollment}/approve", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/enrollments/{enrollment}/reject", Action::WriteClusters),
    ("POST", "/api/v1/clusters/{cluster}/purge", Action::WriteIrrevocable),
    ("POST", "/api/v1/clusters/{cluster}/deletion-confirmations", Action::WriteIrrevocable),
    ("POST", "/api/v1/rollouts", Action::WriteClusters),
    ("GET", "/api/v1/rollouts", Action::ReadClusters),
    ("GET", "/api/v1/rollouts/{rollout}", Action::ReadClusters),
    ("POST", "/api/v1/rollouts/{rollout}/pause", Action::WriteClusters),
    ("POST", "/api/v1/rollouts/{rollout}/resume", Action::WriteClusters),
    ("POST", "/api/v1/rollouts/{rollout}/cancel", Action::WriteClusters),
    ("POST", "/api/v1/rollouts/{rollout}/rollback", Action::WriteClusters),
    ("POST", "/api/v1/tenants", Action::WriteTenants),
    ("GET", "/api/v1/tenants", Action::ReadTenants),
    ("GET", "/api/v1/tenants/{tenant}", Action::ReadTenants),
    ("GET", "/api/v1/tenants/{tenant}/placements", Action::ReadTenants),
    ("POST", "/api/v1/tenants/{tenant}/placements", Action::WriteTenants),
    ("POST", "/api/v1/users/{tenant}/apps", Action::WriteApplications),
    ("POST", "/api/v1/tenants/{tenant}/apps", Action::WriteApplications),
    ("GET", "/api/v1/tenants/{tenant}/apps", Action::ReadApplications),
    ("GET", "/api/v1/tenants/{tenant}/apps/{application}", Action::ReadApplications),
    ("PUT", "/api/v1/tenants/{tenant}/apps/{application}", Action::WriteApplications),
    ("DELETE", "/api/v1/tenants/{tenant}/apps/{application}", Action::WriteApplications),
    ("GET", "/api/v1/tenants/{tenant}/apps/{application}/status", Action::ReadApplications),
    ("POST", "/api/v1/tenants/{tenant}/apps/{application}/restart", Action::WriteApplications),
    ("POST", "/api/v1/tenants/{tenant}/apps/{application}/workflow/suspend", Action::WriteApplications),
    ("POST", "/api/v1/tenants/{tenant}/apps/{application}/workflow/resume", Action::WriteApplications),
    ("POST", "/api/v1/tenants/{tenant}/apps/{application}/workflow/terminate", Action::WriteApplications),
    ("GET", "/api/v1/commands", Action::ReadCommands),
    ("GET", "/api/v1/commands/{command}", Action::ReadCommands),
    ("POST", "/api/v1/commands/{command}/cancel", Action::WriteCommands),
    ("POST", "/api/v1/commands/{command}/retry", Action::WriteCommands),
    ("GET", "/api/v1/dead-letters", Action::ReadDeadLetters),
    ("GET", "/api/v1/dead-letters/{deadLetter}", Action::ReadDeadLetters),
    ("DELETE", "/api/v1/dead-letters/{deadLetter}", Action::WriteDeadLetters),
    ("GET", "/api/v1/usage", Action::ReadUsage),
];

/// The action of a route.
#[must_use]
pub fn action(method: &Method, path: &str) -> Option<Action> {
    // HEAD is answered by the handler of GET.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    TABLE
        .iter()
        .find(|(its_method, its_path, _)| *its_method == method.as_str() && *its_path == path)
        .map(|line| line.2)
}

/// The layer of all routes that need a token.
pub async fn authenticate(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let caller = match caller(&state, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    record(&caller);
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(action) = action(request.method(), path) else {
        // A method that the path does not have: axum answers 405, no handler runs.
        if TABLE.iter().any(|(_, its_path, _)| *its_path == path) {
            return next.run(request).await;
        }
        tracing::error!(path, "a route is missing in the access table; every request to it is refused");
        return refused(Refusal::new(
            Reason::Forbidden,
            "no role may use this path, because the Manager's access table does not name it; please report this",
        ));
    };
    match caller.may(action) {
        Ok(scope) => {
            request.extensions_mut().insert(Authorized { caller, action, scope });
            next.run(request).await
        }
        Err(refusal) => refused(refusal),
    }
}

/// Into the span of the request: who calls, by role and not by name.
fn record(caller: &Caller) {
    let span = Span::current();
    span.record("caller.role", caller.role.as_str());
    if let Some(tenant) = caller.tenant {
        span.record("tenant.id", field::display(tenant));
    }
}

async fn caller(state: &AppState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let token = bearer(headers)?;
    if !token.starts_with(token::PREFIX) {
        return Err(unauthenticated("the token is not one of this Manager; its tokens begin with knt_").into());
    }
    let mut connection = state.store.acquire().await?;
    let caller = access::caller(&mut connection, &token::sha256(&token), clock::now()).await?;
    caller.ok_or_else(|| unauthenticated("the token is unknown, expired or revoked").into())
}

fn unauthenticated(detail: &str) -> Refusal {
    Refusal::new(Reason::Unauthenticated, detail)
}

/// The bearer token of a request. Of two tokens a proxy in between might have checked the other one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<String, Refusal> {
    match headers.get_all(header::AUTHORIZATION).iter().count() {
        0 => return Err(unauthenticated("the request has no Authorization header")),
        1 => {}
        _ => {
            return Err(Refusal::new(
                Reason::HeaderInvalid,
                "the request has more than one Authorization header; send one",
            ));
        }
    }
    let bearer = headers.typed_get::<Authorization<Bearer>>();
    let bearer = bearer.ok_or_else(|| unauthenticated("the Authorization header is not a bearer token"))?;
    Ok(bearer.token().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{router::openapi, testing::TestApi};
    use kubenova_core::access::Role;
    use std::collections::BTreeSet;

    #[test]
    fn the_access_table_and_the_document_name_the_same_routes() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let open = operation["security"].as_array().is_some_and(Vec::is_empty);
                if !open {
                    documented.insert((method.to_uppercase(), path.clone()));
                }
            }
        }
        let table: BTreeSet<_> =
            TABLE.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(table.len(), TABLE.len(), "a route stands twice in the table");
        assert_eq!(documented, table);
    }

    #[test]
    fn reading_verbs_read_and_writing_verbs_write() {
        for (method, path, action) in TABLE {
            let writes = format!("{action:?}").starts_with("Write");
            assert_eq!(*method != "GET", writes, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_request_without_a_valid_token_is_refused_with_a_challenge() {
        let api = TestApi::start().await;
        let unauthenticated = [TestApi::anonymous(), TestApi::token("knt_unknown"), TestApi::token("other")];
        for token in unauthenticated {
            let answer = api.get("/api/v1/me").send(&token).await;
            answer.refused(Reason::Unauthenticated);
            assert_eq!(answer.header(header::WWW_AUTHENTICATE), "Bearer realm=\"kubenova\"");
        }
        let basic = api.get("/api/v1/me").header(header::AUTHORIZATION, "Basic YTpi");
        basic.send(&TestApi::anonymous()).await.refused(Reason::Unauthenticated);
    }

    #[tokio::test]
    async fn two_authorization_headers_are_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let twice = api.get("/api/v1/me").header(header::AUTHORIZATION, "Bearer knt_other");
        twice.send(&admin).await.refused(Reason::HeaderInvalid);
    }

    /// A path of the table with names that exist, or not.
    fn filled(path: &str, tenant: &str) -> String {
        let path = path.replace("{tenant}", tenant).replace("{cluster}", "dc1-a").replace("{application}", "shop");
        let id = "0198c1d2-0000-7000-8000-000000000000";
        let path = path.replace("{component}", "capsule").replace("{rollout}", id);
        path.replace("{command}", id).replace("{deadLetter}", id).replace("{enrollment}", id)
    }

    #[tokio::test]
    async fn every_route_is_open_to_exactly_the_roles_that_core_allows() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let tenant = api.tenant(&admin, "acme", &["dc1-a"]).await;
        for role in Role::ALL {
            let possible: &[_] = match role {
                Role::Admin | Role::Ops => &[None],
                Role::TenantOwner | Role::ProjectDev => &[Some(tenant)],
                Role::ReadOnly | Role::Billing => &[None, Some(tenant)],
            };
            for limited_to in possible.iter().copied() {
                let token = api.caller(role, limited_to).await;
                let caller = Caller { subject: String::new(), role, tenant: limited_to };
                for (method, path, action) in TABLE {
                    let request = api.request(method.parse().unwrap(), &filled(path, "acme"));
                    // A body that no operation accepts, so that nothing is created on the way.
                    let answer = request.json(&serde_json::json!({ "unknown": 1 })).send(&token).await;
                    let forbidden = answer.status == axum::http::StatusCode::FORBIDDEN;
                    assert_eq!(forbidden, caller.may(*action).is_err(), "{role:?} {limited_to:?} {method} {path}");
                }
            }
        }
    }

    #[tokio::test]
    async fn another_tenants_objects_do_not_exist() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let mine = api.tenant(&admin, "mine", &["dc1-a"]).await;
        let other = api.tenant(&admin, "other", &["dc1-a"]).await;
        let owner = api.caller(Role::TenantOwner, Some(mine)).await;
        for (method, path, _) in TABLE.iter().filter(|(_, path, _)| path.contains("{tenant}")) {
            for named in ["other".to_owned(), other.to_string()] {
                let request = api.request(method.parse().unwrap(), &filled(path, &named));
                let body = if path.ends_with("/restart") || path.contains("/workflow/") {
                    serde_json::json!({})
                } else {
                    serde_json::json!({ "name": "shop", "image": "nginx:1" })
                };
                let answer = request.json(&body).send(&owner).await;
                // Placing tenants is not for owners at all; that is decided before the tenant is looked up.
                let expected = if path.ends_with("/placements") && *method == "POST" {
                    Reason::Forbidden
                } else {
                    Reason::TenantNotFound
                };
                answer.refused(expected);
            }
        }
        for path in ["/api/v1/commands?tenant=other", "/api/v1/usage?tenant=other"] {
            api.get(path).send(&owner).await.refused(Reason::TenantNotFound);
        }
    }
}
