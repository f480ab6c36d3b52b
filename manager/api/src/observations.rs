//! What is heard from clusters, as bodies: their heartbeat, and what they say of objects. Everything says as of when.

use crate::{error::ApiError, state::AppState};
use jiff::Timestamp;
use kubenova_api_types::clusters::{Condition, Observed, Session};
use kubenova_core::cluster::{ClusterId, Connectivity};
use kubenova_store::{
    observed::{self, ObservedObject},
    pool,
    sessions::{self, Session as Heartbeat},
};
use serde_json::Value;

/// What is heard of some objects from some clusters.
#[derive(Debug, Clone)]
pub struct ClusterObservations {
    heartbeats: Vec<Heartbeat>,
    objects: Vec<(ClusterId, ObservedObject)>,
    listening_since: Timestamp,
    now: Timestamp,
}

impl ClusterObservations {
    /// Asks the store, once for all of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn read(
        connection: &mut pool::Connection,
        state: &AppState,
        now: Timestamp,
        clusters: &[ClusterId],
        keys: &[String],
    ) -> Result<Self, ApiError> {
        let heartbeats = sessions::of_clusters(connection, clusters).await?;
        let objects = if keys.is_empty() { Vec::new() } else { observed::find(connection, clusters, keys).await? };
        Ok(Self { heartbeats, objects, listening_since: state.listening_since, now })
    }

    /// Whether the cluster is heard.
    #[must_use]
    pub fn connection(&self, cluster: &ClusterId) -> Connectivity {
        let heard_at = self.heartbeat(cluster).map(|heartbeat| heartbeat.heard_at);
        Connectivity::judge(heard_at, self.listening_since, self.now)
    }

    /// The cluster's session.
    #[must_use]
    pub fn session(&self, cluster: &ClusterId) -> Option<Session> {
        self.heartbeat(cluster).map(|heartbeat| Session {
            number: heartbeat.session.to_string(),
            operator_version: heartbeat.operator_version.clone(),
            kubernetes_version: heartbeat.kubernetes_version.clone(),
            nodes: u32::try_from(heartbeat.nodes).unwrap_or_default(),
            clock_offset_ms: heartbeat.clock_offset_ms.to_string(),
            opened_at: heartbeat.opened_at,
            heard_at: heartbeat.heard_at,
            refused_reason: heartbeat.refused_reason.clone(),
        })
    }

    /// What the cluster says of the object with this key.
    #[must_use]
    pub fn object(&self, cluster: &ClusterId, key: &str) -> Option<Observed> {
        let (_, object) = self.objects.iter().find(|(its, object)| its == cluster && object.object_key == key)?;
        let conditions = conditions(&object.conditions);
        Some(Observed {
            connection: self.connection(cluster).as_str().to_owned(),
            as_of: object.as_of,
            ready: !object.absent
                && conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"),
            revision: object.revision.to_string(),
            absent: object.absent,
            conditions,
            details: Some(object.detail.clone())
                .filter(|detail| detail.as_object().is_none_or(|fields| !fields.is_empty())),
        })
    }

    fn heartbeat(&self, cluster: &ClusterId) -> Option<&Heartbeat> {
        self.heartbeats.iter().find(|heartbeat| heartbeat.cluster_id == *cluster)
    }
}

fn conditions(value: &Value) -> Vec<Condition> {
    let text = |condition: &Value, name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    let one = |condition: &Value| Condition {
        kind: text(condition, "type"),
        status: text(condition, "status"),
        reason: text(condition, "reason"),
        message: text(condition, "message"),
        since: text(condition, "lastTransitionTime"),
    };
    value.as_array().into_iter().flatten().map(one).collect()
}
