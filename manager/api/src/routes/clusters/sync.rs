//! `GET /clusters/{cluster}/sync`: whether the cluster holds what it was commanded, as of when, and what it holds beside that.

use super::found;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::sync::{
    ClusterSync, Divergence, Listing, ListingExchange, SyncState, UnclaimedUsage, UnknownObject,
};
use kubenova_core::cluster::{Cluster, ClusterRef};
use kubenova_store::{clusters, divergences, listings, unclaimed_usage};

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
    let divergence = divergences::list(&mut connection, Some(&cluster.id)).await?.pop();
    let unclaimed = unclaimed_usage::of_cluster(&mut connection, &cluster.id).await?;
    Ok(Json(ClusterSync {
        cluster_id: cluster.id.to_string(),
        state: sync_state(&held, divergence.is_some()),
        connection: views::connection(observations.connectivity(&cluster.id)),
        as_of: observations.as_of(&cluster.id),
        revision: cluster.revision.to_string(),
        open_commands: held.open_commands.to_string(),
        listing: held.reported.map(|(sha256, reported_at)| Listing {
            sha256,
            reported_at,
            in_sync_at: held.in_sync_at,
            differs_since: held.differs_since,
        }),
        exchange: held.exchange.map(|(at, findings)| ListingExchange { at, findings }),
        refused_hello: observations.refused_hello(&cluster.id),
        divergence: divergence.map(|found| diverged(&cluster, &found)),
        unclaimed_usage: unclaimed.map(|unclaimed| UnclaimedUsage {
            records: unclaimed.records,
            tenants: unclaimed.tenants,
            oldest_window_at: unclaimed.oldest,
        }),
        unknown_objects: held.unknown.into_iter().map(unknown_object).collect(),
    }))
}

fn diverged(cluster: &Cluster, found: &divergences::Divergence) -> Divergence {
    Divergence {
        since: found.since,
        revision: found.highest_revision.to_string(),
        objects: found.lacking,
        objects_missing: found.missing,
        remedy: format!("kubenova-manager recover list --cluster {}", cluster.name),
    }
}

const fn sync_state(held: &listings::SyncState, diverged: bool) -> SyncState {
    if diverged {
        SyncState::Diverged
    } else if held.reported.is_none() {
        SyncState::Unknown
    } else if held.open_commands > 0 || held.unsettled {
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
            unsettled: false,
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
        (state.differs_since, state.unsettled) = (None, true);
        assert_eq!(sync_state(&state, false), SyncState::Pending, "the next comparison decides");
        (state.open_commands, state.unsettled) = (1, false);
        assert_eq!(sync_state(&state, false), SyncState::Pending);
        state.reported = None;
        assert_eq!(sync_state(&state, false), SyncState::Unknown);
        assert_eq!(sync_state(&state, true), SyncState::Diverged);
    }

    #[tokio::test]
    async fn a_diverged_cluster_says_since_when_and_what_to_type() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let cluster_id = api.cluster(&admin, "dc1-a").await;
        let hello = divergences::DivergedHello {
            cluster_id,
            epoch: 1,
            highest_revision: 55,
            highest_command: None,
            listing_sha256: String::new(),
        };
        let mut connection = api.state.store.acquire().await.unwrap();
        divergences::record(&mut connection, &hello, Timestamp::UNIX_EPOCH).await.unwrap();
        let answer = api.get("/api/v1/clusters/dc1-a/sync").send(&admin).await;
        let body = answer.ok(200);
        assert_eq!(body["state"], "diverged");
        let found = &body["divergence"];
        assert_eq!((&found["since"], &found["revision"]), (&"1970-01-01T00:00:00Z".into(), &"55".into()));
        assert_eq!(found["remedy"], "kubenova-manager recover list --cluster dc1-a");
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
        assert!(body.get("divergence").is_none() && body.get("unclaimedUsage").is_none(), "{body}");
        api.get("/api/v1/clusters/none/sync").send(&admin).await.refused(Reason::ClusterNotFound);
    }
}
