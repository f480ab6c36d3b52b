//! Stores that go back to an earlier state, or are damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_env::stored;
use kubenova_scenarios::seed::SplitMix64;

use super::last;
use crate::fault::below;
use crate::fleet::Fleet;

/// Every third simulated cluster is restored.
const RESTORED_OF: usize = 3;
/// For a cluster to say hello to a restored database, and to send what it holds when that is more.
const COMPARED_MAX: Duration = Duration::from_secs(300);
/// Bytes that are flipped in each file of the broker's messages.
const FLIPS: usize = 8;

/// The database is set back while clients write: commands are on their way when it is backed up, and when it is restored. What it
/// lost and a cluster holds is adopted, while further writes are accepted.
pub(super) async fn restore_postgres(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.writing.window.begin();
    fleet.platform.postgres.back_up().await?;
    fleet.platform.wait_ready().await?;
    last(lasts).await;
    fleet.platform.postgres.restore().await?;
    fleet.writing.window.end();
    fleet.platform.wait_ready().await?;
    let mut adopted = 0;
    for cluster in fleet.names() {
        if has_diverged(fleet, cluster).await? {
            fleet.platform.manager.run(&["recover", "adopt", "--cluster", cluster, "--yes"])?;
            adopted += 1;
        }
    }
    ensure!(
        adopted > 0,
        "no cluster held anything that the database lost: clients wrote nothing between backup and restore"
    );
    Ok(())
}

/// Waits until the restored database has compared a cluster with itself: whether the cluster holds more.
async fn has_diverged(fleet: &Fleet, cluster: &str) -> Result<bool> {
    let confirmed = format!(
        "select count(*) from confirmed_sessions s join clusters c on c.id = s.cluster_id where c.name = '{cluster}'"
    );
    poll::until(format!("cluster {cluster} to be compared with the restored database"), COMPARED_MAX, || async {
        let Ok(answer) = fleet.platform.rest.get(&format!("/api/v1/clusters/{cluster}/sync")).await else {
            return Ok(Step::Waiting("the Manager does not answer".to_owned()));
        };
        let found = &answer.body["divergence"];
        let is_whole = found["objects"].as_i64() > Some(0) && found["objectsMissing"] == 0;
        if answer.body["state"] == "diverged" && is_whole {
            return Ok(Step::Done(true));
        }
        let is_confirmed = fleet.platform.postgres.query("kubenova", &confirmed)?.trim() != "0";
        let seen = format!("{} {}", answer.status, answer.body);
        Ok(Step::when(is_confirmed && found.is_null(), false, seen))
    })
    .await
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
