//! The table of contents: every route, and the layers around them.

use crate::{
    authenticate::authenticate,
    error::{finish, panicked},
    idempotency::replay_repeated,
    openapi::Head,
    routes::{applications, clusters, commands, meta, tenants, usage},
    state::AppState,
};
use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes that need a token. Each stands in [`crate::authenticate::TABLE`], too.
fn guarded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(meta::me::get))
        .routes(routes!(clusters::create::create_at_root))
        .routes(routes!(clusters::create::create, clusters::list::list))
        .routes(routes!(clusters::get::get))
        .routes(routes!(clusters::enroll::enroll))
        .routes(routes!(tenants::create::create, tenants::list::list))
        .routes(routes!(tenants::get::get))
        .routes(routes!(tenants::place::place, tenants::placements::list))
        .routes(routes!(applications::create::create_at_root))
        .routes(routes!(applications::create::create_of_user))
        .routes(routes!(applications::create::create, applications::list::list))
        .routes(routes!(applications::get::get, applications::replace::replace, applications::remove::remove))
        .routes(routes!(applications::status::status))
        .routes(routes!(applications::status::status_at_root))
        .routes(routes!(commands::list::list))
        .routes(routes!(commands::get::get))
        .routes(routes!(usage::list::list))
}

/// Routes for everybody.
fn open() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(meta::front::get))
        .routes(routes!(meta::health::alive))
        .routes(routes!(meta::health::ready))
        .routes(routes!(meta::document::get))
}

/// The document of all routes, before what they have in common is added.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    OpenApiRouter::<AppState>::with_openapi(Head::openapi()).merge(open()).merge(guarded()).split_for_parts().1
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
    Router::new()
        .merge(guarded)
        .merge(open().split_for_parts().0)
        .with_state(state)
        .merge(others)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(finish))
}
