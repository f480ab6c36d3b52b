//! `GET /dead-letters`.

use super::view;
use crate::{
    cursor::{self, PageLimit},
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::clusters::found,
    state::AppState,
};
use axum::{Json, extract::State};
use kubenova_api_types::{
    dead_letters::{self as api, DeadLetterList},
    list::List,
};
use kubenova_core::{
    cluster::ClusterRef,
    dead_letter::{DeadLetterFilter, DeadLetterId, DeadLetterKind},
};
use kubenova_store::{clusters, dead_letters};

const LIST: &str = "dead-letters";

/// Query of this list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterParams {
    /// Messages of this cluster, by id or name.
    #[param(pattern = "^[a-z0-9-]+$", max_length = 50)]
    pub cluster: Option<String>,
    /// Messages of this kind.
    #[param(inline)]
    pub kind: Option<api::DeadLetterKind>,
    /// `nextCursor` of the page before, with the same filter.
    #[param(pattern = "^[A-Za-z0-9_-]+$", max_length = 1024)]
    pub cursor: Option<String>,
    /// Objects in a page.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<PageLimit>,
}

/// List dead letters, newest first, without their bytes.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "dead letters", operation_id = "listDeadLetters", params(DeadLetterParams),
    responses((status = 200, description = "One page", body = DeadLetterList)))]
pub async fn list(
    State(state): State<AppState>,
    _ctx: RequestContext,
    Params(params): Params<DeadLetterParams>,
) -> Result<Json<DeadLetterList>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let cluster = match params.cluster.as_deref().map(ClusterRef::parse) {
        Some(named) => Some(found(clusters::find(&mut connection, &named).await?, &named)?.id.to_string()),
        None => None,
    };
    let filter = DeadLetterFilter { cluster, kind: params.kind.map(to_kind) };
    let text = cursor::fingerprint([
        ("cluster", filter.cluster.clone()),
        ("kind", filter.kind.map(|kind| kind.as_str().to_owned())),
    ]);
    let page =
        cursor::page(LIST, &text, params.cursor.as_deref(), params.limit, |key| DeadLetterId::parse(key).is_some())?;
    let mut letters = dead_letters::list(&mut connection, &filter, &page).await?;
    let more = page.cut(&mut letters);
    let next_cursor = letters.last().filter(|_| more).map(|last| cursor::after(LIST, &text, &last.id.to_string()));
    Ok(Json(List { items: letters.iter().map(view).collect(), next_cursor }))
}

const fn to_kind(kind: api::DeadLetterKind) -> DeadLetterKind {
    match kind {
        api::DeadLetterKind::Outcome => DeadLetterKind::Outcome,
        api::DeadLetterKind::Status => DeadLetterKind::Status,
        api::DeadLetterKind::Usage => DeadLetterKind::Usage,
        api::DeadLetterKind::Other => DeadLetterKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use crate::{routes::dead_letters::testing::store, testing::TestApi};
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_schema::subjects;
    use serde_json::Value;

    fn ids(page: &Value) -> Vec<&str> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn filters_select_and_pages_go_on() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let (one, other) = (api.cluster(&admin, "dc1-a").await, api.cluster(&admin, "dc1-b").await);
        let (one, other) = (one.as_str(), other.as_str());
        let first = store(&api, one, &subjects::outcome(one), b"x").await;
        let second = store(&api, one, &subjects::status(one), b"x").await;
        let third = store(&api, other, &subjects::outcome(other), b"x").await;
        let list = async |query: &str| api.get(&format!("/api/v1/dead-letters{query}")).send(&admin).await;
        assert_eq!(ids(&list("").await.ok(200)), [&third, &second, &first]);
        assert_eq!(ids(&list("?cluster=dc1-a").await.ok(200)), [&second, &first]);
        assert_eq!(ids(&list("?kind=outcome").await.ok(200)), [&third, &first]);
        let page = list("?cluster=dc1-a&limit=1").await.ok(200);
        let cursor = page["nextCursor"].as_str().unwrap();
        let next = list(&format!("?cluster=dc1-a&limit=1&cursor={cursor}")).await.ok(200);
        assert_eq!((ids(&next), &next["nextCursor"]), (vec![first.as_str()], &Value::Null));
        list(&format!("?cursor={cursor}")).await.refused(Reason::CursorInvalid);
        list("?cluster=none").await.refused(Reason::ClusterNotFound);
        list("?kind=none").await.refused(Reason::QueryInvalid);
        let owner = api.caller(Role::ReadOnly, None).await;
        api.get("/api/v1/dead-letters").send(&owner).await.refused(Reason::Forbidden);
    }
}
