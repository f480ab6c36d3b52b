//! `GET /healthz` and `GET /readyz`.

use crate::state::AppState;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use kubenova_api_types::meta::{Health, HealthStatus};
use std::collections::BTreeMap;

/// Check that the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "meta", operation_id = "getHealth", security(),
    responses((status = 200, description = "The process is alive", body = Health)))]
pub async fn alive() -> Json<Health> {
    Json(Health { status: HealthStatus::Ok, waiting_for: BTreeMap::new() })
}

/// Check that the process can serve. The answer names what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "meta", operation_id = "getReadiness", security(),
    responses((status = 200, description = "The process can serve", body = Health), (status = 503, description = "The process cannot serve yet; `waitingFor` names why", body = Health)))]
pub async fn ready(State(state): State<AppState>) -> Response {
    let closed = state.gates.closed().into_iter();
    let mut waiting_for: BTreeMap<String, String> = closed.map(|(name, text)| (name.to_owned(), text)).collect();
    if state.store.ping().await.is_err() {
        waiting_for.insert("database".to_owned(), "the database does not respond".to_owned());
    }
    let (code, status) = if waiting_for.is_empty() {
        (StatusCode::OK, HealthStatus::Ok)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Waiting)
    };
    (code, Json(Health { status, waiting_for })).into_response()
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;

    #[tokio::test]
    async fn readiness_names_what_the_process_waits_for() {
        let api = TestApi::start().await;
        let anonymous = TestApi::anonymous();
        assert_eq!(api.get("/healthz").send(&anonymous).await.ok(200)["status"], "ok");
        assert_eq!(api.get("/readyz").send(&anonymous).await.ok(200)["status"], "ok");
        api.state.gates.set("broker", Some("not connected yet".to_owned()));
        let waiting = api.get("/readyz").send(&anonymous).await.ok(503);
        assert_eq!(
            (&waiting["status"], &waiting["waitingFor"]["broker"]),
            (&"waiting".into(), &"not connected yet".into())
        );
        assert_eq!(api.get("/healthz").send(&anonymous).await.ok(200)["status"], "ok");
    }
}
