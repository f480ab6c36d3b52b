//! What is heard from clusters, as bodies: their pulse, and what they say of objects. Everything says as of when.

use crate::{error::ApiError, state::AppState};
use jiff::Timestamp;
use kubenova_api_types::clusters::{Condition, Observed, Session};
use kubenova_core::cluster::{ClusterId, Connection};
use kubenova_store::{
    observed::{self, ObservedObject},
    pool,
    sessions::{self, Session as Pulse},
};
use serde_json::Value;

/// What is heard of some objects from some clusters.
#[derive(Debug, Clone)]
pub struct Heard {
    pulses: Vec<Pulse>,
    objects: Vec<(ClusterId, ObservedObject)>,
    listening_since: Timestamp,
    now: Timestamp,
}

impl Heard {
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
        let pulses = sessions::of_clusters(connection, clusters).await?;
        let objects = if keys.is_empty() { Vec::new() } else { observed::find(connection, clusters, keys).await? };
        Ok(Self { pulses, objects, listening_since: state.listening_since, now })
    }

    /// Whether the cluster is heard.
    #[must_use]
    pub fn connection(&self, cluster: &ClusterId) -> Connection {
        let heard_at = self.pulse(cluster).map(|pulse| pulse.heard_at);
        Connection::judge(heard_at, self.listening_since, self.now)
    }

    /// The cluster's session.
    #[must_use]
    pub fn session(&self, cluster: &ClusterId) -> Option<Session> {
        self.pulse(cluster).map(|pulse| Session {
            number: pulse.session.to_string(),
            operator_version: pulse.operator_version.clone(),
            kubernetes_version: pulse.kubernetes_version.clone(),
            nodes: u32::try_from(pulse.nodes).unwrap_or_default(),
            clock_offset_ms: pulse.clock_offset_ms.to_string(),
            opened_at: pulse.opened_at,
            heard_at: pulse.heard_at,
            refused_reason: pulse.refused_reason.clone(),
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

    fn pulse(&self, cluster: &ClusterId) -> Option<&Pulse> {
        self.pulses.iter().find(|pulse| pulse.cluster_id == *cluster)
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
