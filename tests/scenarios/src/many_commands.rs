//! One cluster with thousands of commands, half of which do not end, among others that have few: whatever starts again, commands to
//! the others go on meanwhile. As scenarios with as many as CI has time for, and as a campaign.

pub mod inbox;
pub mod simulated_inbox;

use std::time::Duration;

use anyhow::Result;
use kubenova_simulator::cluster::{Options, SimulatedCluster};

use crate::platform::Platform;
use crate::simulated::{self, Others};
use crate::steps::{self, COMMAND_MAX};

/// The other clusters.
const OTHERS: usize = 4;
/// A day, in which an outcome that the broker drops before it is ingested is not made up for by sending its command again.
pub const REPORT_AGAIN_AFTER_MS: u32 = 86_400_000;

/// What starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The Operator of the one cluster.
    Operator,
    /// The Manager.
    Manager,
    /// The broker.
    Broker,
    /// The broker, without its store.
    BrokerStore,
}

impl Restart {
    /// Names it, also in the names of applications.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator-restarts",
            Self::Manager => "manager-restarts",
            Self::Broker => "broker-restarts",
            Self::BrokerStore => "broker-lost",
        }
    }

    /// Starts it again, which `operator` does when it is the Operator.
    async fn carry_out(self, platform: &mut Platform, operator: impl FnOnce() -> Result<()>) -> Result<()> {
        match self {
            Self::Operator => operator(),
            Self::Manager => {
                platform.manager.kill();
                platform.manager.restart()
            }
            Self::Broker => {
                platform.hub.kill();
                platform.hub.restart().await
            }
            Self::BrokerStore => platform.lose_broker_store().await,
        }
    }
}

/// How large, and in which order.
#[derive(Debug, Clone)]
pub struct Case {
    /// Commands of the one cluster.
    pub commands: usize,
    /// For as many to have a state, in a debug build on a busy machine.
    pub states_max: Duration,
    /// What starts again, one after the other.
    pub restarts: Vec<Restart>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Row {
    /// What happened.
    pub what: String,
    /// Until it was over.
    pub took: Duration,
    /// Commands to the other clusters meanwhile.
    pub others: Option<Others>,
}

impl Row {
    fn new(what: impl Into<String>, took: Duration, others: Option<Others>) -> Self {
        let row = Self { what: what.into(), took, others };
        eprintln!("{row:?}");
        row
    }
}

/// Four simulated clusters in session.
///
/// # Errors
/// When they do not come into session.
pub async fn join_others(platform: &Platform) -> Result<Vec<SimulatedCluster>> {
    let others = simulated::join(platform, "other", OTHERS, Options::default()).await?;
    simulated::wait_in_session(&others, COMMAND_MAX).await?;
    Ok(others)
}

/// The tenant of all applications, on these clusters.
///
/// # Errors
/// When it is not made.
pub async fn create_tenant<'a>(
    platform: &Platform,
    clusters: impl Iterator<Item = &'a SimulatedCluster>,
) -> Result<()> {
    let names: Vec<&str> = clusters.map(|cluster| cluster.name.as_str()).collect();
    let tenant = steps::create_tenant(platform, "acme", &names).await?;
    steps::wait_commands(platform, &tenant["commands"], "succeeded", COMMAND_MAX).await
}
