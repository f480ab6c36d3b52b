//! `GET /clusters/{cluster}/enrollments`.

use crate::{
    cursor,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::clusters::{found, list::ListParams},
    state::AppState,
    views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{enrollments::EnrollmentList, list::List};
use kubenova_core::{cluster::ClusterRef, enrollment_token::parse_id};
use kubenova_store::{clusters, enrollment_tokens};

const LIST: &str = "enrollments";

/// List the enrollment tokens of a cluster, newest first, each with the last attempts to use it.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/enrollments", tag = "clusters", operation_id = "listEnrollments",
    params(("cluster" = String, Path, description = "Id or name"), ListParams),
    responses((status = 200, description = "One page", body = EnrollmentList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ListParams>,
) -> Result<Json<EnrollmentList>, ApiError> {
    let named = ClusterRef::parse(&named);
    let mut connection = state.store.acquire().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?.id;
    let filter = cluster.as_str();
    let page = cursor::page(LIST, filter, params.cursor.as_deref(), params.limit, |key| parse_id(key).is_some())?;
    let mut tokens = enrollment_tokens::list(&mut connection, &cluster, &page).await?;
    let more = page.cut(&mut tokens);
    let next_cursor = tokens.last().filter(|_| more).map(|last| cursor::after(LIST, filter, &last.id.to_string()));
    Ok(Json(List { items: tokens.iter().map(|token| views::enrollment(token, ctx.now)).collect(), next_cursor }))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn pages_hold_every_token_of_the_cluster_once_newest_first() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        for name in ["dc1-a", "dc1-b"] {
            api.cluster(&ops, name).await;
        }
        let list = "/api/v1/clusters/dc1-a/enrollments";
        let mut made = Vec::new();
        for _ in 0..2 {
            made.push(api.post(list).send(&ops).await.ok(201)["id"].as_str().unwrap().to_owned());
        }
        let (mut ids, mut path) = (Vec::new(), format!("{list}?limit=2"));
        let mut cursors = Vec::new();
        loop {
            let page = api.get(&path).send(&ops).await.ok(200);
            ids.extend(page["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            cursors.push(cursor.to_owned());
            path = format!("{list}?limit=2&cursor={cursor}");
        }
        assert_eq!(ids.len(), 3, "with that of the creation");
        assert_eq!(ids[..2], [made[1].clone(), made[0].clone()]);
        let of_another = format!("/api/v1/clusters/dc1-b/enrollments?cursor={}", cursors[0]);
        api.get(&of_another).send(&ops).await.refused(Reason::CursorInvalid);
        api.get("/api/v1/clusters/none/enrollments").send(&ops).await.refused(Reason::ClusterNotFound);
        let billing = api.caller(Role::Billing, None).await;
        api.get(list).send(&billing).await.refused(Reason::Forbidden);
    }
}
