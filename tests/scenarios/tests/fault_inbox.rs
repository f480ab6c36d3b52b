//! A real cluster with thousands of inbox records, half of which have not ended: when its Operator, the Manager or the broker starts
//! again, it comes back, and commands to other clusters go on meanwhile.

use std::time::Duration;

use anyhow::Result;
use kubenova_scenarios::many_commands::{self, Case, REPORT_AGAIN_AFTER_MS, Restart, inbox};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::COMPONENTS_MAX;

/// `cargo dev campaign inbox` has 6,000: to store them takes a debug build eight minutes on a busy machine.
const COMMANDS: usize = 1_500;
const STORED_MAX: Duration = Duration::from_secs(900);

#[tokio::test(flavor = "multi_thread")]
async fn fault_inbox_of_thousands_of_records_delays_no_other_cluster() -> Result<()> {
    let options = PlatformOptions { report_again_after_ms: Some(REPORT_AGAIN_AFTER_MS), ..PlatformOptions::default() };
    let mut platform = Platform::start(&options).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    let others = many_commands::join_others(&platform).await?;
    many_commands::create_tenant(&platform, others.iter()).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let restarts = vec![Restart::Operator, Restart::Manager, Restart::Broker];
    let case = Case { commands: COMMANDS, states_max: STORED_MAX, restarts };
    Box::pin(inbox::run(&mut platform, &site, &others, &case)).await.map(drop)
}
