//! Managers, PostgreSQL and broker, killed and paused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kubenova_env::process::Process;

use super::last;
use crate::fleet::Fleet;

/// A broker that is killed again and again runs so long in between.
const FLAP: Duration = Duration::from_secs(2);

/// Pauses a process for a while.
pub(super) async fn pause(process: &Process, lasts: Duration) -> Result<()> {
    process.pause()?;
    last(lasts).await;
    process.resume()
}

pub(super) async fn pause_manager(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    pause(fleet.platform.manager.process().context("the Manager runs")?, lasts).await
}

pub(super) async fn kill_second(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.second.process.kill();
    last(lasts).await;
    fleet.second.restart().await
}

pub(super) async fn pause_second(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.second.pause()?;
    last(lasts).await;
    fleet.second.resume()
}

pub(super) async fn kill_postgres(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.platform.postgres.kill();
    last(lasts).await;
    fleet.platform.postgres.restart().await?;
    fleet.platform.wait_ready().await
}

pub(super) async fn restart_postgres(fleet: &mut Fleet) -> Result<()> {
    fleet.platform.postgres.stop().await?;
    fleet.platform.postgres.restart().await?;
    fleet.platform.wait_ready().await
}

pub(super) async fn kill_broker(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    fleet.platform.hub.kill();
    last(lasts).await;
    fleet.platform.hub.restart().await
}

pub(super) async fn flap_broker(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < lasts {
        fleet.platform.hub.kill();
        fleet.platform.hub.restart().await?;
        last(FLAP).await;
    }
    Ok(())
}

/// Every cluster comes back at once, to a Manager that has just started as well.
pub(super) async fn storm(fleet: &mut Fleet) -> Result<()> {
    fleet.platform.manager.kill();
    fleet.platform.hub.kill();
    fleet.platform.hub.restart().await?;
    fleet.platform.restart_manager().await
}
