//! Stores that go back to an earlier state, or are damaged.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_env::stored;
use kubenova_scenarios::seed::SplitMix64;
use kubenova_scenarios::steps::COMMAND_MAX;

use super::{Injected, last};
use crate::convergence::converge;
use crate::fault::below;
use crate::fleet::Fleet;

/// Every third simulated cluster is restored.
const RESTORED_OF: usize = 3;
/// Bytes that are flipped in each file of the broker's messages.
const FLIPS: usize = 8;

/// The database is set back while every command has ended; what it lost is adopted from the clusters.
pub(super) async fn restore_postgres(fleet: &mut Fleet, lasts: Duration) -> Result<Injected> {
    fleet.stop_writing().await?;
    converge(fleet).await?;
    fleet.platform.postgres.back_up().await?;
    fleet.platform.wait_ready().await?;
    let first = fleet.writing.accepted.len();
    fleet.writing.start();
    last(lasts).await;
    fleet.stop_writing().await?;
    converge(fleet).await?;
    let lost = first..fleet.writing.accepted.len();
    fleet.platform.postgres.restore().await?;
    fleet.platform.wait_ready().await?;
    let changed = fleet.writing.accepted[lost.clone()].iter().filter(|write| write.command.is_some());
    let changed: BTreeSet<String> = changed.map(|write| write.cluster.clone()).collect();
    for cluster in &changed {
        adopt(fleet, cluster).await?;
    }
    fleet.writing.start();
    Ok(Injected { lost: Some(lost) })
}

/// What a person types for a cluster that holds more than the database.
async fn adopt(fleet: &Fleet, cluster: &str) -> Result<()> {
    poll::until(format!("cluster {cluster} to say what it holds that the database lost"), COMMAND_MAX, || async {
        let answer = fleet.platform.rest.get(&format!("/api/v1/clusters/{cluster}/sync")).await?;
        let found = &answer.body["divergence"];
        let is_whole = found["objects"].as_i64() > Some(0) && found["objectsMissing"] == 0;
        let seen = format!("{} {}", answer.status, answer.body);
        Ok(Step::when(answer.body["state"] == "diverged" && is_whole, (), seen))
    })
    .await?;
    fleet.platform.manager.run(&["recover", "adopt", "--cluster", cluster, "--yes"]).map(drop)
}

/// The broker's store is replaced by a copy that is older than what was written meanwhile.
pub(super) async fn set_back_broker(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    let (store, copy) = (store(fleet), fleet.platform.nats_folder.join("jetstream-copy"));
    fleet.platform.hub.kill();
    stored::copy(&store, &copy)?;
    fleet.platform.hub.restart().await?;
    last(lasts).await;
    fleet.platform.hub.kill();
    stored::copy(&copy, &store)?;
    fleet.platform.hub.restart().await
}

fn store(fleet: &Fleet) -> PathBuf {
    fleet.platform.nats_folder.join("jetstream")
}

/// Bytes of the broker's messages are flipped, and the end of every second file is cut off.
pub(super) async fn damage_broker(fleet: &mut Fleet, random: &mut SplitMix64) -> Result<()> {
    fleet.platform.hub.kill();
    let blocks = files(&store(fleet), "blk")?;
    ensure!(!blocks.is_empty(), "the broker's store has no messages");
    for (index, block) in blocks.iter().enumerate() {
        damage(block, index.is_multiple_of(2), random)
            .with_context(|| format!("could not damage {}", block.display()))?;
    }
    fleet.platform.hub.restart().await
}

fn damage(block: &Path, is_cut: bool, random: &mut SplitMix64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(block)?;
    let length = usize::try_from(file.metadata()?.len())?;
    for _ in 0..FLIPS.min(length) {
        let at = below(random, length) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 0x10], at)?;
    }
    if is_cut {
        file.set_len(length as u64 * 3 / 4)?;
    }
    Ok(())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The real cluster's etcd is set back: what was carried out meanwhile is gone, what was deleted is there again.
pub(super) async fn restore_cluster(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.site.cluster.back_up().await?;
    last(lasts).await;
    fleet.observer.suspend();
    fleet.site.cluster.restore().await?;
    fleet.observer.resume();
    fleet.site.restart_other_controllers()
}

/// The same for simulated clusters.
pub(super) async fn restore_simulated(fleet: &mut Fleet, lasts: Duration) {
    let restored = fleet.simulated.iter().step_by(RESTORED_OF);
    let backups: Vec<_> = restored.map(|cluster| cluster.inbox().back_up()).collect();
    last(lasts).await;
    for (cluster, backup) in fleet.simulated.iter_mut().step_by(RESTORED_OF).zip(backups) {
        cluster.restore(backup);
    }
}
