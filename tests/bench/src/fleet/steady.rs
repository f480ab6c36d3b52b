//! The steady state: heartbeats and nothing else, beside a consumer that does nothing with them.

use std::time::{Duration, Instant};

use anyhow::Result;
use kubenova_bus::Settings;
use kubenova_scenarios::platform::Platform;

use crate::database::Database;
use crate::null_consumer::NullConsumer;
use crate::processes::{Servers, Spent, mib};

/// Long enough that a hundredth of a second, the unit of processor time, is a thousandth of it.
const IDLE: Duration = Duration::from_secs(10);

/// Processor time of the servers over a while.
pub(crate) struct Cost {
    spent: Spent,
    transactions: i64,
    lasted: Duration,
}

impl Cost {
    fn cores(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.lasted.as_secs_f64()
    }
}

/// What the servers cost while no cluster is there.
pub(crate) async fn idle(platform: &mut Platform) -> Result<Cost> {
    over(platform, IDLE).await
}

async fn over(platform: &mut Platform, lasts: Duration) -> Result<Cost> {
    let servers = Servers::of(platform)?;
    let mut database = Database::beside(platform).await?;
    let (before, transactions) = (servers.spent()?, database.transactions().await?);
    let began = Instant::now();
    tokio::time::sleep(lasts).await;
    let lasted = began.elapsed();
    let spent = servers.spent()?.since(&before);
    Ok(Cost { spent, transactions: database.transactions().await? - transactions, lasted })
}

/// What was measured.
pub(crate) struct Steady {
    cost: Cost,
    null: Duration,
    heartbeats: u64,
    manager_kib: u64,
    manager_peak_kib: u64,
    broker_kib: u64,
}

/// Looks for so long.
pub(crate) async fn measure(platform: &mut Platform, null: Settings, lasts: Duration) -> Result<Steady> {
    let consumer = NullConsumer::start(null).await?;
    let servers = Servers::of(platform)?;
    servers.reset_manager_peak()?;
    let (spent, received) = (consumer.spent()?, consumer.received());
    let cost = over(platform, lasts).await?;
    let (null, heartbeats) = (consumer.spent()?.saturating_sub(spent), consumer.received() - received);
    consumer.stop()?;
    Ok(Steady {
        cost,
        null,
        heartbeats,
        manager_kib: servers.manager_kib()?,
        manager_peak_kib: servers.manager_peak_kib()?,
        broker_kib: servers.broker_kib()?,
    })
}

impl Steady {
    pub(crate) fn print(&self, idle: &Cost) {
        let Cost { spent, lasted, .. } = &self.cost;
        let row = |name: &str, time: Duration, memory: String| {
            println!("| {name} | {:.3} | {memory} |", self.cost.cores(time));
        };
        println!("\n| steady state, {:.0} s | cores | memory MiB |\n| --- | --- | --- |", lasted.as_secs_f64());
        let memory = format!("{:.0} (peak {:.0})", mib(self.manager_kib), mib(self.manager_peak_kib));
        row("Manager (goal 0.3, 256 MiB)", spent.manager, memory);
        row("null consumer", self.null, String::new());
        row("broker", spent.broker, format!("{:.0}", mib(self.broker_kib)));
        row("PostgreSQL", spent.postgres, String::new());
        row("clusters and null consumer", spent.ourselves, String::new());
        println!("| Manager without clusters | {:.3} | |", idle.cores(idle.spent.manager));
        println!("| PostgreSQL without clusters | {:.3} | |", idle.cores(idle.spent.postgres));
        let ratio = spent.manager.as_secs_f64() / self.null.as_secs_f64();
        println!("| Manager / null consumer (goal 3) | {ratio:.2} | |");
        let a_second = |count: f64, over: &Duration| count / over.as_secs_f64();
        println!("\n| a second | |\n| --- | --- |");
        println!("| heartbeats | {:.1} |", a_second(self.heartbeats as f64, lasted));
        println!("| transactions of PostgreSQL | {:.1} |", a_second(self.cost.transactions as f64, lasted));
        println!("| without clusters | {:.1} |", a_second(idle.transactions as f64, &idle.lasted));
    }
}
