//! What a cluster would report: a session, the observed state of its objects, the outcome of a command, and usage. With
//! them every optional part of an answer is there at least once.

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use kubenova_api::state::AppState;
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState},
    tenant::TenantId,
};
use kubenova_runtime::{clock, random};
use kubenova_schema::window::Window;
use kubenova_store::{
    cluster_queue::{self, ClaimOptions},
    connection::Connection,
    enrollments,
    ledger::{self, NewRow, WindowRows},
    observed::{self, ObservedObject, Version},
    outcomes::{self, Reported},
    sessions::{self, HelloRequest},
    windows::{self, NewWindow},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Commands that are claimed at once; there are fewer.
const CLAIMED_MAX: i64 = 32;
/// Length of the usage window.
const WINDOW_SECONDS: u32 = 3600;

/// Records everything, in one transaction.
pub(crate) async fn record(state: &AppState, cluster: &ClusterId, tenant: TenantId, application: &Value) -> Result<()> {
    let now = clock::now();
    let record = state.store.transaction("record reports", async |tx| {
        enrollments::enroll(tx, cluster, "00000000-0000-4000-8000-000000000001", now).await?;
        let session = sessions::open(tx, &hello(cluster), now).await?;
        let send_again_at = now + SignedDuration::from_mins(10);
        let heartbeat_within = Duration::from_secs(600);
        let due =
            ClaimOptions { now, send_again_at, report_again_at: send_again_at, window: CLAIMED_MAX, heartbeat_within };
        cluster_queue::claim(tx, cluster, &due).await?;
        let version = Version { epoch: 1, session, counter: 1 };
        observed::merge(tx, cluster, version, &objects(tenant, now)).await?;
        outcomes::record(tx, &outcome(cluster, application)?, now, random::uuid_v7).await?;
        usage(tx, cluster, tenant, now).await?;
        anyhow::Ok(())
    });
    record.await
}

fn hello(cluster: &ClusterId) -> HelloRequest {
    HelloRequest {
        cluster_id: cluster.clone(),
        incarnation: "1".to_owned(),
        boot_id: "boot-1".to_owned(),
        lease_term: 1,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes_version: "v1.34.0".to_owned(),
        key_set_id: String::new(),
        highest_revision: 0,
        clock_offset_ms: 12,
    }
}

fn objects(tenant: TenantId, now: Timestamp) -> Vec<ObservedObject> {
    let conditions = json!([{
        "type": "Ready", "status": "True", "reason": "Reconciled", "message": "the object is ready",
        "lastTransitionTime": now.to_string(), "observedGeneration": 1,
    }]);
    let keys = ["cluster-config/default".to_owned(), format!("tenant/{tenant}"), format!("application/{tenant}/shop")];
    let object = |object_key| ObservedObject {
        object_key,
        revision: 1,
        absent: false,
        conditions: conditions.clone(),
        detail: json!({ "namespaces": ["acme-apps"] }),
        as_of: now,
    };
    keys.into_iter().map(object).collect()
}

/// The cluster carried the application's first command out.
fn outcome(cluster: &ClusterId, application: &Value) -> Result<Reported> {
    let commands = application["commands"].as_array().into_iter().flatten();
    let mut of_cluster = commands.filter(|command| command["clusterId"] == cluster.as_str());
    let command = of_cluster.next().and_then(|command| command["id"].as_str()).and_then(CommandId::parse);
    Ok(Reported {
        cluster_id: cluster.clone(),
        command_id: command.context("the application has a command for the cluster")?,
        epoch: 1,
        state: Some(CommandState::Succeeded),
        reason: "Ready".to_owned(),
        message: "the application is ready".to_owned(),
        hops: Vec::new(),
        send_again_at: None,
    })
}

async fn usage(connection: &mut Connection, cluster: &ClusterId, tenant: TenantId, now: Timestamp) -> Result<()> {
    let length = i64::from(WINDOW_SECONDS);
    let start = (now.as_second() / length - 1) * length;
    let window = Window { start, seconds: WINDOW_SECONDS };
    let gaps = json!([{ "reason": "restart", "start": windows::start(window).to_string(), "end": now.to_string() }]);
    let sealed = NewWindow {
        cluster: cluster.clone(),
        window,
        revision: 0,
        manifest_sha256: "0".repeat(64),
        previous_manifest_sha256: String::new(),
        manifest: b"{}".to_vec(),
        manifest_signature: "none".to_owned(),
        record_count: 1,
        coverage_ms: length * 1000 - 1500,
        gaps: gaps.clone(),
        clock_offset_ms: 0,
        incarnation: "1".to_owned(),
        sealed_at: now.to_string(),
    };
    windows::insert(connection, &sealed, now).await?;
    let rows = WindowRows {
        cluster,
        window,
        revision: 0,
        quality: &["gap".to_owned()],
        coverage_ms: sealed.coverage_ms,
        gaps: &gaps,
        incarnation: &sealed.incarnation,
        received_at: now,
    };
    let row = NewRow {
        tenant,
        tenant_name: "acme".to_owned(),
        quantities: [3_600_000_000, 483_183_820_800_000, 7_200_000, 3_600_000, 7_200_000],
        payload_sha256: "1".repeat(64),
    };
    ledger::insert(connection, &rows, &[row]).await?;
    Ok(())
}
