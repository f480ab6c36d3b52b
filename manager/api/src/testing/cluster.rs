//! The cluster's side of a command, written to the database as relay and ingest do.

use super::TestApi;
use crate::state::default_components;
use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    cluster::{Cluster, ClusterId, ClusterName, ClusterState},
    command::{CommandId, CommandState},
};
use kubenova_runtime::{clock, random};
use kubenova_store::{
    cluster_queue::{self, ClaimOptions},
    clusters,
    connection::Connection,
    enrollments,
    observed::{self, ObservedObject, Version},
    outcomes::{self, Recorded, Reported},
    sessions::{self, HelloRequest},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// Whether a cluster is in session decides nothing here.
const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl TestApi {
    /// A cluster in a state that no request brings about.
    pub(crate) async fn cluster_in_state(&self, name: &str, state: ClusterState) -> ClusterId {
        let now = clock::now();
        let cluster = Cluster {
            id: ClusterId::from_uuid(random::uuid_v7()),
            name: ClusterName::parse(name).unwrap(),
            datacenter: String::new(),
            labels: BTreeMap::new(),
            components: default_components(),
            generation: 1,
            epoch: 1,
            revision: 0,
            kubernetes_uid: None,
            incarnation: 0,
            state,
            state_note: None,
            approval: kubenova_core::cluster::Approval::Automatic,
            enrolled_at: None,
            created_at: now,
            updated_at: now,
            created_by: "test".to_owned(),
        };
        clusters::insert(&mut self.state.store.acquire().await.unwrap(), &cluster).await.unwrap();
        cluster.id
    }

    /// A hello of the cluster at this time, which counts as a heartbeat.
    pub(crate) async fn hello(&self, cluster: &ClusterId, at: Timestamp) {
        sessions::open(&mut self.state.store.acquire().await.unwrap(), &hello(cluster), at).await.unwrap();
    }

    /// What the cluster reports about an object.
    pub(crate) async fn observe(&self, cluster: &ClusterId, key: &str, at: Timestamp) {
        let object = ObservedObject {
            object_key: key.to_owned(),
            revision: 1,
            absent: false,
            conditions: json!([{ "type": "Ready", "status": "True" }]),
            detail: json!({}),
            as_of: at,
        };
        let version = Version { epoch: 1, session: 1, counter: 1 };
        let mut connection = self.state.store.acquire().await.unwrap();
        assert_eq!(observed::merge(&mut connection, cluster, version, &[object]).await.unwrap(), 1);
    }

    /// Sends what is due to a cluster, as the relay does.
    pub(crate) async fn relay(&self, cluster: &ClusterId) {
        let now = clock::now();
        let again = in_seconds(600);
        let due =
            ClaimOptions { now, send_again_at: again, report_again_at: again, window: 32, heartbeat_within: EVER };
        let claim = self.state.store.transaction("test", async |tx| {
            enrollments::enroll(tx, cluster, cluster.as_str(), now).await?;
            if sessions::of_clusters(tx, std::slice::from_ref(cluster)).await?.is_empty() {
                // The test has not connected it: a session for this claim alone.
                sessions::open(tx, &hello(cluster), Timestamp::UNIX_EPOCH).await?;
            }
            cluster_queue::claim(tx, cluster, &due).await
        });
        claim.await.unwrap().expect("an enrolled cluster");
        self.database.execute("delete from sessions where opened_at = 'epoch'").await;
    }

    /// What the cluster reports about a command.
    pub(crate) async fn report(&self, cluster: &ClusterId, command: CommandId, state: CommandState, reason: &str) {
        let reported = Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            epoch: 1,
            state: Some(state),
            reason: reason.to_owned(),
            message: format!("the cluster says {reason}"),
            hops: Vec::new(),
            send_again_at: None,
        };
        self.record(&reported).await;
    }

    /// The cluster puts a command off.
    pub(crate) async fn defer(&self, cluster: &ClusterId, command: CommandId, reason: &str) {
        let reported = Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            epoch: 1,
            state: None,
            reason: reason.to_owned(),
            message: format!("the cluster says {reason}"),
            hops: Vec::new(),
            send_again_at: Some(in_seconds(1800)),
        };
        self.record(&reported).await;
    }

    /// Stores what a cluster reports.
    pub(crate) async fn record(&self, reported: &Reported) {
        let record = async |tx: &mut Connection| outcomes::record(tx, reported, clock::now(), random::uuid_v7).await;
        assert_eq!(self.state.store.transaction("test", record).await.unwrap(), Recorded::Moved);
    }
}

fn hello(cluster: &ClusterId) -> HelloRequest {
    HelloRequest {
        cluster_id: cluster.clone(),
        incarnation: "1".to_owned(),
        boot_id: "boot-1".to_owned(),
        lease_term: 1,
        operator_version: "0.1.0".to_owned(),
        kubernetes_version: "v1.34.0".to_owned(),
        key_set_id: String::new(),
        highest_revision: 0,
        clock_offset_ms: 0,
    }
}

fn in_seconds(seconds: i64) -> Timestamp {
    clock::now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}
