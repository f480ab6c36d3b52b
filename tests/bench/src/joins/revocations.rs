//! From the request to revoke a cluster until the broker has ended its connection, and until the cluster is `revoked`: until every
//! server of the broker has the revocation.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::Platform;
use kubenova_simulator::cluster::SimulatedCluster;
use serde_json::json;

use crate::statistics::{Sample, row};

/// Time between two looks at a connection, which is a read of memory.
const LOOK: Duration = Duration::from_millis(2);
const REVOKED_MAX: Duration = Duration::from_secs(60);

/// How long revocations took.
#[derive(Debug, Default)]
struct Revoked {
    disconnected: Sample,
    in_force: Sample,
}

/// Both measurements.
pub(super) struct Revocations {
    one_by_one: Revoked,
    at_once: Revoked,
}

/// Revokes some clusters one after another, and others at once. Each of them is in session, and has a second connection with the
/// same credentials, which is looked at.
pub(super) async fn measure(
    platform: &Platform,
    one_by_one: &[SimulatedCluster],
    at_once: &[SimulatedCluster],
) -> Result<Revocations> {
    let mut serial = Revoked::default();
    for cluster in one_by_one {
        serial.note(revoke(platform, cluster).await?);
    }
    let mut together = Revoked::default();
    for took in try_join_all(at_once.iter().map(|cluster| revoke(platform, cluster))).await? {
        together.note(took);
    }
    Ok(Revocations { one_by_one: serial, at_once: together })
}

async fn revoke(platform: &Platform, cluster: &SimulatedCluster) -> Result<(Duration, Duration)> {
    let connection = kubenova_bus::connect(cluster.bus_settings()).await;
    let connection = connection.context("could not connect with the credentials of a cluster")?;
    let path = format!("/api/v1/clusters/{}", cluster.id());
    let began = Instant::now();
    platform.rest.post(&format!("{path}/revoke"), &json!({ "cluster": cluster.name })).await?.expect(202)?;
    let disconnected = async {
        while connection.is_connected() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(began.elapsed())
    };
    let in_force = poll::until(format!("{} to be revoked", cluster.name), REVOKED_MAX, || async {
        let body = platform.rest.get(&path).await?.expect(200)?;
        Ok(Step::when(body["state"] == "revoked", began.elapsed(), body["state"].to_string()))
    });
    tokio::try_join!(disconnected, in_force)
}

impl Revoked {
    fn note(&mut self, (disconnected, in_force): (Duration, Duration)) {
        self.disconnected.push(disconnected);
        self.in_force.push(in_force);
    }
}

impl Revocations {
    pub(super) fn print(&self) {
        println!(
            "\n| revoked (goal: disconnected within 5 s) | n | p50 ms | p99 ms | | |\n| --- | --- | --- | --- | --- | --- |"
        );
        println!("{}", row("one after another: disconnected", &self.one_by_one.disconnected, None));
        println!("{}", row("one after another: at every server", &self.one_by_one.in_force, None));
        println!("{}", row("at once: disconnected", &self.at_once.disconnected, None));
        println!("{}", row("at once: at every server", &self.at_once.in_force, None));
    }
}
