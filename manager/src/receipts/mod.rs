//! Receipts: which windows are in the ledger, told to the cluster that sealed them so that it stops sending.
//!
//! One signed list per cluster with a counter of its own, newest wins: no revision, no inbox record. Made from Postgres
//! after each ingest commit and after each hello; many wishes for one cluster become one list.

use async_nats::jetstream;
use kubenova_bus::{BusError, publish};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message,
    signature::{HEADER, PayloadType, SigningKey},
    subjects,
    v1::ReceiptList,
};
use kubenova_store::{error::StoreError, pool::Store, receipts};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Wishes that may wait: more than the clusters of one Manager.
pub const WISHES_MAX: usize = 16_384;
/// Wishes within this time become one list.
const GATHER: Duration = Duration::from_millis(200);
/// Pause after a list could not be sent.
const RETRY: Duration = Duration::from_secs(5);

/// What receipts need.
#[derive(Debug)]
pub struct Receipts {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// The key that signs commands.
    pub key: Arc<SigningKey>,
    /// Clusters that wait for a list: after a commit, and after a hello.
    pub wishes: mpsc::Receiver<ClusterId>,
}

/// A list that was not sent.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Postgres.
    #[error("could not make a receipt list")]
    Store(#[from] StoreError),
    /// The broker.
    #[error("could not send a receipt list")]
    Bus(#[from] BusError),
}

/// Sends lists until a stop is asked for.
pub async fn run(mut parts: Receipts, shutdown: Shutdown) {
    let mut wanted: BTreeSet<ClusterId> = BTreeSet::new();
    loop {
        if wanted.is_empty() {
            tokio::select! {
                () = shutdown.requested() => return,
                wish = parts.wishes.recv() => match wish {
                    Some(cluster) => wanted.insert(cluster),
                    None => return,
                },
            };
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(cluster) = parts.wishes.try_recv() {
            wanted.insert(cluster);
        }
        let Some(cluster) = wanted.pop_first() else { continue };
        if let Err(error) = send(&parts, &cluster).await {
            tracing::warn!(cluster.id = %cluster, error = %telemetry::chain(&error), "could not send receipts; trying again");
            wanted.insert(cluster);
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// Makes and sends one cluster's list.
async fn send(parts: &Receipts, cluster: &ClusterId) -> Result<(), ReceiptError> {
    let now = clock::now();
    let mut transaction = parts.store.begin("make a receipt list").await?;
    let receipts = receipts::next(&mut transaction, cluster, now).await?;
    transaction.commit().await?;
    let (windows, manifest_sha256) =
        receipts.windows.into_iter().map(|(window, sha256)| (window.to_string(), sha256)).unzip();
    let list = ReceiptList {
        cluster_id: cluster.to_string(),
        cluster_uid: receipts.cluster_uid,
        counter: receipts.counter,
        windows,
        manifest_sha256,
        issued: clock::rfc3339_ms(now),
    };
    let body = message::to_json(&list);
    let signature = parts.key.sign(PayloadType::Receipt, &body);
    let headers = publish::headers(&random::uuid_v4().to_string(), &[(HEADER, &signature)]);
    publish::publish(&parts.jetstream, &subjects::receipt(cluster.as_str()), headers, body).await?;
    Ok(())
}
