//! Joins one after another: each begins when the one before has ended at the Manager.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::steps::COMMAND_MAX;
use kubenova_simulator::cluster::Options;

use super::Ticket;
use super::stages::{self, Stages};
use crate::database::Database;

/// Between two looks at the database: seldom enough that it has nothing to do for them.
const LOOK: Duration = Duration::from_millis(10);
const SUCCEEDED: &str = "select count(*) from commands where state = 'succeeded'";

/// Joins all of them.
pub(super) async fn measure(platform: &Platform, tickets: Vec<Ticket>, options: Options) -> Result<Stages> {
    let folder = platform.sandbox.memory("serial-joins")?;
    let mut database = Database::of_product(platform).await?;
    let succeeded = database.number(SUCCEEDED).await?;
    let mut joins = Vec::with_capacity(tickets.len());
    for (number, ticket) in (1..).zip(tickets) {
        joins.push(stages::join(ticket, &folder, options, stages::now()).await?);
        wait_succeeded(&mut database, succeeded + number).await?;
    }
    Stages::of(platform, &joins).await
}

async fn wait_succeeded(database: &mut Database, count: i64) -> Result<()> {
    let began = Instant::now();
    while database.number(SUCCEEDED).await? < count {
        ensure!(began.elapsed() < COMMAND_MAX, "a first command has not succeeded");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
