//! The table of contents: every route, and the layers around them.

use crate::{
    authenticate::authenticate,
    error::panicked,
    idempotency::replay_repeated,
    openapi::{self, Head},
    problem::write_problems,
    request_id::{self, NewRequestId},
    routes::{applications, clusters, commands, components, dead_letters, enrollments, meta, rollouts, tenants, usage},
    state::AppState,
};
use axum::{
    Extension, Router,
    http::{HeaderValue, header},
    middleware::{from_fn, from_fn_with_state, map_request},
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes that need a token. Each stands in [`crate::authenticate::TABLE`], too.
fn guarded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(meta::me::get))
        .routes(routes!(clusters::create::create_at_root))
        .routes(routes!(clusters::create::create, clusters::list::list))
        .routes(routes!(clusters::get::get, clusters::change::change))
        .routes(routes!(clusters::sync::sync, clusters::compare::compare))
        .routes(routes!(components::list::list))
        .routes(routes!(components::get::get, components::replace::replace))
        .routes(routes!(enrollments::create::create, enrollments::list::list))
        .routes(routes!(enrollments::get::get, enrollments::revoke::revoke))
        .routes(routes!(enrollments::approve::approve))
        .routes(routes!(enrollments::reject::reject))
        .routes(routes!(clusters::release::release))
        .routes(routes!(clusters::revoke::revoke))
        .routes(routes!(clusters::detach::detach))
        .routes(routes!(clusters::undelete::undelete))
        .routes(routes!(clusters::purge::purge))
        .routes(routes!(clusters::confirm_deletions::confirm_deletions))
        .routes(routes!(rollouts::create::create, rollouts::list::list))
        .routes(routes!(rollouts::get::get))
        .routes(routes!(rollouts::pause::pause))
        .routes(routes!(rollouts::resume::resume))
        .routes(routes!(rollouts::cancel::cancel))
        .routes(routes!(rollouts::rollback::rollback))
        .routes(routes!(tenants::create::create, tenants::list::list))
        .routes(routes!(tenants::get::get))
        .routes(routes!(tenants::place::place, tenants::placements::list))
        .routes(routes!(applications::create::create_at_root))
        .routes(routes!(applications::create::create_of_user))
        .routes(routes!(applications::create::create, applications::list::list))
        .routes(routes!(applications::get::get, applications::replace::replace, applications::remove::remove))
        .routes(routes!(applications::status::status))
        .routes(routes!(applications::status::status_at_root))
        .routes(routes!(applications::restart::restart))
        .routes(routes!(applications::restart::restart_at_root))
        .routes(routes!(applications::suspend::suspend))
        .routes(routes!(applications::resume::resume))
        .routes(routes!(applications::terminate::terminate))
        .routes(routes!(commands::list::list))
        .routes(routes!(commands::get::get))
        .routes(routes!(commands::cancel::cancel))
        .routes(routes!(commands::retry::retry))
        .routes(routes!(dead_letters::list::list))
        .routes(routes!(dead_letters::get::get, dead_letters::discard::discard))
        .routes(routes!(usage::list::list))
}

/// Routes that need no token.
fn open() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(meta::front::get))
        .routes(routes!(meta::health::alive))
        .routes(routes!(meta::health::ready))
        .routes(routes!(meta::document::get))
        .routes(routes!(meta::problem::get))
}

/// The OpenAPI document of all routes as text; needs no database.
#[must_use]
pub fn openapi() -> String {
    let routes = OpenApiRouter::<AppState>::with_openapi(Head::openapi()).merge(open()).merge(guarded());
    let document = openapi::complete(routes.split_for_parts().1);
    document.to_pretty_json().expect("the document is plain data")
}

/// The whole API.
pub fn router(state: AppState) -> Router {
    router_with(state, Router::new())
}

/// The whole API, with routes that bring their own authentication (enrollment).
pub fn router_with(state: AppState, others: Router) -> Router {
    let guarded = guarded()
        .split_for_parts()
        .0
        .route_layer(from_fn_with_state(state.clone(), replay_repeated))
        .route_layer(from_fn_with_state(state.clone(), authenticate));
    let document = meta::document::Document(openapi().into());
    // Outermost first.
    let layers = ServiceBuilder::new()
        .layer(map_request(async |request| request_id::drop_unusable(request)))
        .layer(SetRequestIdLayer::new(request_id::HEADER, NewRequestId))
        .layer(PropagateRequestIdLayer::new(request_id::HEADER))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(SetResponseHeaderLayer::overriding(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        ))
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(from_fn(write_problems))
        .layer(CatchPanicLayer::custom(panicked));
    Router::new()
        .merge(guarded)
        .merge(open().split_for_parts().0.layer(Extension(document)))
        .with_state(state)
        .merge(others)
        .layer(layers)
}
