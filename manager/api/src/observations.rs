//! The observed state of clusters and their objects as bodies: heartbeats, and reports of objects with their age.

use crate::{error::ApiError, state::AppState, views};
use jiff::Timestamp;
use kubenova_api_types::clusters::{self, ClusterCredentials, Condition, Observed, RefusedHello, Session};
use kubenova_core::cluster::{Cluster, ClusterId, Connectivity};
use kubenova_store::{
    connection,
    identities::CredentialsLife,
    observed::{self, ObservedObject},
    sessions::{self, Session as Heartbeat},
};
use serde_json::Value;

/// The observed state of some objects on some clusters.
#[derive(Debug, Clone)]
pub struct ClusterObservations {
    heartbeats: Vec<Heartbeat>,
    refusals: Vec<sessions::RefusedHello>,
    objects: Vec<(ClusterId, ObservedObject)>,
    listening_since: Timestamp,
    now: Timestamp,
}

impl ClusterObservations {
    /// Reads all of them with one query each for heartbeats, refused hellos and objects.
    pub async fn read(
        connection: &mut connection::Connection,
        state: &AppState,
        now: Timestamp,
        clusters: &[ClusterId],
        keys: &[String],
    ) -> Result<Self, ApiError> {
        let heartbeats = sessions::of_clusters(connection, clusters).await?;
        let refusals = sessions::refusals(connection, clusters).await?;
        let objects = if keys.is_empty() { Vec::new() } else { observed::find(connection, clusters, keys).await? };
        Ok(Self { heartbeats, refusals, objects, listening_since: state.listening_since, now })
    }

    /// Whether the cluster's heartbeats arrive.
    #[must_use]
    pub fn connectivity(&self, cluster: &ClusterId) -> Connectivity {
        Connectivity::of(self.as_of(cluster), self.listening_since, self.now)
    }

    /// A cluster with the life of its credentials, and with what it reports of itself.
    #[must_use]
    pub fn cluster(&self, cluster: &Cluster, credentials: Option<&CredentialsLife>) -> clusters::Cluster {
        let mut body = views::cluster(cluster);
        body.connection = views::connection(self.connectivity(&cluster.id));
        body.as_of = self.as_of(&cluster.id);
        body.session = self.session(&cluster.id);
        body.refused_hello = self.refused_hello(&cluster.id);
        body.credentials = credentials.map(|life| ClusterCredentials {
            incarnation: cluster.incarnation.to_string(),
            issued_at: life.issued_at,
            expires_at: life.expires_at,
            renewals: Vec::new(),
            sealing_key: None,
            revocation: None,
        });
        body
    }

    /// Up to when it is known what the cluster reports of itself: its last heartbeat.
    #[must_use]
    pub fn as_of(&self, cluster: &ClusterId) -> Option<Timestamp> {
        self.heartbeat(cluster).map(|heartbeat| heartbeat.last_heartbeat_at)
    }

    fn session(&self, cluster: &ClusterId) -> Option<Session> {
        self.heartbeat(cluster).map(|heartbeat| Session {
            number: heartbeat.session.to_string(),
            operator_version: heartbeat.operator_version.clone(),
            kubernetes_version: heartbeat.kubernetes_version.clone(),
            clock_offset_ms: heartbeat.clock_offset_ms.to_string(),
            opened_at: heartbeat.opened_at,
            last_heartbeat_at: heartbeat.last_heartbeat_at,
        })
    }

    /// The cluster's last hello that was refused.
    #[must_use]
    pub fn refused_hello(&self, cluster: &ClusterId) -> Option<RefusedHello> {
        self.refusals.iter().find(|refused| refused.cluster_id == *cluster).map(|refused| RefusedHello {
            reason: refused.reason.clone(),
            message: refused.message.clone(),
            boot_id: refused.boot_id.clone(),
            refused_at: refused.refused_at,
        })
    }

    /// What the cluster reported of the object with this key.
    #[must_use]
    pub fn object(&self, cluster: &ClusterId, key: &str) -> Option<Observed> {
        let (_, object) = self.objects.iter().find(|(its, object)| its == cluster && object.object_key == key)?;
        let conditions = conditions(&object.conditions);
        Some(Observed {
            connection: views::connection(self.connectivity(cluster)),
            // A cluster in session reports every change, and only the heartbeats of a session are recorded: the last one confirms
            // the last report.
            as_of: self.as_of(cluster).map_or(object.as_of, |heartbeat| heartbeat.max(object.as_of)),
            changed_at: object.as_of,
            ready: !object.absent
                && conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"),
            revision: object.revision.to_string(),
            absent: object.absent,
            conditions,
            details: Some(object.detail.clone())
                .filter(|detail| detail.as_object().is_none_or(|fields| !fields.is_empty())),
        })
    }

    /// Its conditions as the cluster reported them.
    #[must_use]
    pub fn conditions(&self, cluster: &ClusterId, key: &str) -> Option<&Value> {
        let found = self.objects.iter().find(|(its, object)| its == cluster && object.object_key == key);
        found.map(|(_, object)| &object.conditions)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn observed(heartbeat_at: Option<Timestamp>) -> Observed {
        let cluster = ClusterId::parse("c00000000000000000000000001").unwrap();
        let heartbeat = heartbeat_at.map(|last_heartbeat_at| Heartbeat {
            cluster_id: cluster.clone(),
            session: 1,
            operator_version: String::new(),
            kubernetes_version: String::new(),
            clock_offset_ms: 0,
            opened_at: at(0),
            last_heartbeat_at,
        });
        let object = ObservedObject {
            object_key: "tenant/1".to_owned(),
            revision: 3,
            as_of: at(400),
            absent: false,
            conditions: json!([{ "type": "Ready", "status": "True" }]),
            detail: json!({}),
        };
        let observations = ClusterObservations {
            heartbeats: heartbeat.into_iter().collect(),
            refusals: Vec::new(),
            objects: vec![(cluster.clone(), object)],
            listening_since: at(0),
            now: at(1000),
        };
        observations.object(&cluster, "tenant/1").unwrap()
    }

    #[test]
    fn a_heartbeat_confirms_the_last_report() {
        let observed = observed(Some(at(999)));
        assert_eq!((observed.as_of, observed.changed_at), (at(999), at(400)));
        assert!(observed.ready);
    }

    #[test]
    fn without_a_later_heartbeat_a_report_is_as_old_as_it_says() {
        assert_eq!(observed(None).as_of, at(400));
        assert_eq!(observed(Some(at(300))).as_of, at(400));
    }
}
