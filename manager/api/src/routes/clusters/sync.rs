//! `GET /clusters/{cluster}/sync`: whether the cluster holds what it was commanded, as of when, and what it holds beside that.

use super::found;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{
    clusters::RefusedHello,
    sync::{ClusterSync, Listing, ListingExchange, SyncState, UnknownObject},
};
use kubenova_core::{cluster::ClusterRef, session::HelloRefusal};
use kubenova_store::{clusters, listings};

/// Read whether a cluster holds what it was commanded.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/sync", tag = "clusters", operation_id = "getClusterSync",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, description = "What the cluster holds beside what it was commanded", body = ClusterSync)))]
pub async fn sync(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<ClusterSync>, ApiError> {
    let named = ClusterRef::parse(&named);
    let mut connection = state.store.acquire().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?;
    let observations =
        ClusterObservations::read(&mut connection, &state, ctx.now, std::slice::from_ref(&cluster.id), &[]).await?;
    let held = listings::state(&mut connection, &cluster.id).await?;
    let session = observations.session(&cluster.id);
    let refused_hello = observations.refused_hello(&cluster.id);
    let diverged = refused_hello.as_ref().is_some_and(|refused| {
        is_diverged(refused) && session.as_ref().is_none_or(|session| session.opened_at <= refused.refused_at)
    });
    Ok(Json(ClusterSync {
        cluster_id: cluster.id.to_string(),
        state: sync_state(&held, diverged),
        connection: views::connection(observations.connectivity(&cluster.id)),
        as_of: session.map(|session| session.last_heartbeat_at),
        revision: cluster.revision.to_string(),
        open_commands: held.open_commands.to_string(),
        listing: held.reported.map(|(sha256, reported_at)| Listing {
            sha256,
            reported_at,
            in_sync_at: held.in_sync_at,
            differs_since: held.differs_since,
        }),
        exchange: held.exchange.map(|(at, findings)| ListingExchange { at, findings }),
        refused_hello,
        unknown_objects: held.unknown.into_iter().map(unknown_object).collect(),
    }))
}

fn is_diverged(refused: &RefusedHello) -> bool {
    refused.reason == HelloRefusal::Diverged.reason()
}

const fn sync_state(held: &listings::SyncState, diverged: bool) -> SyncState {
    if diverged {
        SyncState::Diverged
    } else if held.reported.is_none() {
        SyncState::Unknown
    } else if held.open_commands > 0 {
        SyncState::Pending
    } else if held.differs_since.is_some() {
        SyncState::Differs
    } else if held.unknown.is_empty() {
        SyncState::InSync
    } else {
        SyncState::UnknownObjects
    }
}

fn unknown_object(object: listings::UnknownObject) -> UnknownObject {
    UnknownObject {
        object_key: object.object_key,
        finding: object.finding,
        revision: object.revision.to_string(),
        first_seen_at: object.first_seen_at,
        last_seen_at: object.last_seen_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApi;
    use jiff::Timestamp;
    use kubenova_core::{access::Role, refusal::Reason};

    fn held() -> listings::SyncState {
        listings::SyncState {
            reported: Some((String::new(), Timestamp::UNIX_EPOCH)),
            in_sync_at: None,
            differs_since: None,
            exchange: None,
            open_commands: 0,
            unknown: Vec::new(),
        }
    }

    #[test]
    fn the_state_names_what_is_worst() {
        let unknown = listings::UnknownObject {
            object_key: "tenant/a".to_owned(),
            finding: "Unknown".to_owned(),
            revision: 1,
            first_seen_at: Timestamp::UNIX_EPOCH,
            last_seen_at: Timestamp::UNIX_EPOCH,
        };
        let mut state = held();
        assert_eq!(sync_state(&state, false), SyncState::InSync);
        state.unknown = vec![unknown];
        assert_eq!(sync_state(&state, false), SyncState::UnknownObjects);
        state.differs_since = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(sync_state(&state, false), SyncState::Differs);
        state.open_commands = 1;
        assert_eq!(sync_state(&state, false), SyncState::Pending);
        state.reported = None;
        assert_eq!(sync_state(&state, false), SyncState::Unknown);
        assert_eq!(sync_state(&state, true), SyncState::Diverged);
    }

    #[tokio::test]
    async fn a_cluster_that_never_connected_is_unknown() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let id = api.cluster(&admin, "dc1-a").await;
        let answer = api.get("/api/v1/clusters/dc1-a/sync").send(&admin).await;
        let body = answer.ok(200);
        assert_eq!((&body["clusterId"], &body["state"]), (&id.to_string().into(), &"unknown".into()));
        assert_eq!((&body["openCommands"], &body["revision"]), (&"1".into(), &"1".into()));
        api.get("/api/v1/clusters/none/sync").send(&admin).await.refused(Reason::ClusterNotFound);
    }
}
