//! Who calls, and may they do this at all? Decided before a handler runs and before anything is looked up.
//!
//! A route that is not in [`TABLE`] is refused for everybody: forgetting a line here opens nothing.

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
use kubenova_core::{
    access::{Action, Caller},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::clock;
use kubenova_store::access;

/// Every route that needs a token, with what it does.
pub const TABLE: &[(&str, &str, Action)] = &[
    ("POST", "/clusters", Action::WriteClusters),
    ("POST", "/users/{tenant}/apps", Action::WriteApplications),
    ("GET", "/users/{tenant}/apps/{application}/status", Action::ReadApplications),
    ("GET", "/api/v1/me", Action::ReadSelf),
    ("POST", "/api/v1/clusters", Action::WriteClusters),
    ("GET", "/api/v1/clusters", Action::ReadClusters),
    ("GET", "/api/v1/clusters/{cluster}", Action::ReadClusters),
    ("POST", "/api/v1/clusters/{cluster}/enrollments", Action::WriteClusters),
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
    ("GET", "/api/v1/commands", Action::ReadCommands),
    ("GET", "/api/v1/commands/{command}", Action::ReadCommands),
    ("GET", "/api/v1/usage", Action::ReadUsage),
];

/// What a route does, by the table.
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
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(action) = action(request.method(), path) else {
        // A verb that the path does not know reaches its own answer (405); it has no handler.
        if TABLE.iter().any(|(_, its_path, _)| *its_path == path) {
            return next.run(request).await;
        }
        tracing::error!(path, "a route is missing in the access table; it is refused for everybody");
        return refused(Refusal::new(Reason::Forbidden, "this path is in no access table"));
    };
    match caller.may(action) {
        Ok(scope) => {
            request.extensions_mut().insert(Authorized { caller, action, scope });
            next.run(request).await
        }
        Err(refusal) => refused(refusal),
    }
}

async fn caller(state: &AppState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let refuse = |why: &str| Err(Refusal::new(Reason::Unauthenticated, why).into());
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return refuse("the request has no Authorization header");
    };
    let bearer = given
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, text)) = bearer else { return refuse("the Authorization header is no bearer token") };
    let text = text.trim();
    if !text.starts_with(token::PREFIX) {
        return refuse("the token is not one of this Manager");
    }
    let mut connection = state.store.read().await?;
    match access::caller(&mut connection, &token::sha256(text), clock::now()).await? {
        Some(caller) => Ok(caller),
        None => refuse("the token is unknown, expired or revoked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;
    use std::collections::BTreeSet;

    #[test]
    fn the_access_table_and_the_document_name_the_same_routes() {
        let document: serde_json::Value = serde_json::from_str(&openapi::openapi()).unwrap();
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
}
