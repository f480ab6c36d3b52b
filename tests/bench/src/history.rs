//! H9, history: what a year of ended commands costs those who write and those who read. The time from a write until its command
//! is applied, by a simulated cluster, and the time of every list, with more and more ended commands in the same database; then
//! with more clusters, then with more tenants. A cost that does not grow has a slope of 0 in the logarithms.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_simulator::cluster::{Options, SimulatedCluster};

use crate::applications::application;
use crate::prepared::application_name;
use crate::reads::{self, Read};
use crate::request::{put, visible};
use crate::statistics::{Sample, log_log_slope, milliseconds};
use crate::{environment, filling, plans};

/// Greatest slope that counts as none.
const SLOPE_MAX: f64 = 0.1;
/// Clusters and tenants of the other two measurements.
const CLUSTERS: [u64; 2] = [100, 1_000];
const TENANTS: [u64; 2] = [100, 200];

/// What to measure with. Nothing is random.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Ended commands in the database at last; before, none, a hundredth and a tenth.
    #[arg(long, default_value_t = 1_000_000)]
    commands: u64,
    /// Requests of each measurement, one after another.
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// How often each list is read in each measurement.
    #[arg(long, default_value_t = 50)]
    reads: u64,
}

/// What is measured with one number of rows.
struct Level {
    rows: u64,
    answered: Sample,
    applied: Sample,
    reads: Vec<Read>,
}

/// The servers.
struct Bench {
    // In the order in which they must end.
    cluster: SimulatedCluster,
    platform: Platform,
    tenant_id: String,
    number: u64,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    ensure!(settings.commands >= 100 && settings.requests > 0 && settings.reads > 0, "there is nothing to measure");
    let mut bench = Bench::start(settings.commands).await?;
    environment::print(&bench.platform, None).await?;
    let mut levels = Vec::new();
    let mut filled = 0;
    for commands in [0, settings.commands / 100, settings.commands / 10, settings.commands] {
        if commands > filled {
            let began = Instant::now();
            filling::commands(&bench.platform, bench.cluster.id(), &bench.tenant_id, filled + 1, commands)?;
            println!("{} ended commands were added within {:.0} s", commands - filled, began.elapsed().as_secs_f64());
            filled = commands;
        }
        levels.push(bench.level(settings, "commands").await?);
    }
    let slow = print("commands", &levels);
    let mut by_clusters = vec![bench.level(settings, "clusters").await?];
    for clusters in CLUSTERS {
        filling::clusters(&bench.platform, clusters)?;
        by_clusters.push(bench.level(settings, "clusters").await?);
    }
    print("clusters", &by_clusters);
    let mut by_tenants = vec![bench.level(settings, "tenants").await?];
    for tenants in TENANTS {
        filling::tenants(&bench.platform, tenants)?;
        by_tenants.push(bench.level(settings, "tenants").await?);
    }
    print("tenants", &by_tenants);
    if let Some((name, path)) = slow {
        println!("\nthe slowest statement of {name}\n\n```text");
        println!("{}\n```", plans::slowest(&mut bench.platform, &path).await?);
    }
    Ok(())
}

impl Bench {
    async fn start(history: u64) -> Result<Self> {
        let platform = Platform::start(&PlatformOptions::default()).await?;
        let mut clusters = simulated::join(&platform, "sim", 1, Options::default()).await?;
        simulated::wait_in_session(&clusters, COMMAND_MAX).await?;
        let cluster = clusters.pop().context("one cluster has joined")?;
        filling::reserve(&platform, cluster.id(), history)?;
        let tenant = steps::create_tenant(&platform, "acme", &["sim-1"]).await?;
        steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
        for index in 0..filling::APPLICATIONS {
            let body = application(&application_name(index), 0);
            platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        }
        steps::wait_no_open_commands(&platform, COMMAND_MAX).await?;
        filling::surroundings(&platform)?;
        let tenant_id = text(&tenant, "/id")?;
        Ok(Self { cluster, platform, tenant_id, number: 0 })
    }

    /// Everything once, with as many rows in `table` as there are now.
    async fn level(&mut self, settings: &Settings, table: &str) -> Result<Level> {
        self.linked().await?;
        let rows = filling::count(&self.platform, table)?;
        let (mut answered, mut applied) = (Sample::default(), Sample::default());
        let mut last = String::new();
        for _ in 0..settings.requests {
            self.number += 1;
            let (rest, began) = (&self.platform.rest, Instant::now());
            last = put(rest, &application_name(self.number % filling::APPLICATIONS), self.number).await?;
            answered.push(began.elapsed());
            applied.push(visible(rest, &last, began).await?.0);
        }
        let mut reads = reads::all(&self.platform, &last).await?;
        reads::measure(&self.platform, &mut reads, settings.reads).await?;
        Ok(Level { rows, answered, applied, reads })
    }

    /// Waits until the Manager has nothing to do.
    async fn linked(&self) -> Result<()> {
        poll::until("the audit chain to be complete", COMMAND_MAX, || async {
            let pending = filling::count(&self.platform, "audit_pending")?;
            Ok(Step::when(pending == 0, (), format!("{pending} records wait")))
        })
        .await
    }
}

/// One row of the table, and the slope of its medians.
struct Line {
    name: String,
    path: String,
    cells: Vec<String>,
    slope: Option<f64>,
}

/// Prints a table with a column for each level; the read with the greatest slope that is above the goal.
fn print(of: &str, levels: &[Level]) -> Option<(String, String)> {
    let counts: Vec<String> = levels.iter().map(|level| level.rows.to_string()).collect();
    println!("\n| p50 (p99) ms with so many {of} | {} | slope |", counts.join(" | "));
    println!("| --- | {} --- |", "--- | ".repeat(levels.len()));
    let samples =
        |sample: fn(&Level) -> &Sample| levels.iter().map(|level| (level.rows, sample(level))).collect::<Vec<_>>();
    let mut lines = vec![
        line("a write is answered", "", &samples(|level| &level.answered)),
        line("its command is applied", "", &samples(|level| &level.applied)),
    ];
    let last = levels.last()?;
    for read in &last.reads {
        // An answer with fewer objects is another amount of work.
        let same: Vec<(u64, &Sample)> = levels
            .iter()
            .filter_map(|level| level.reads.iter().find(|it| it.name == read.name).map(|it| (level.rows, it)))
            .filter(|(_, it)| it.items == read.items)
            .map(|(rows, it)| (rows, &it.took))
            .collect();
        let items = read.items.map_or_else(String::new, |items| format!(" ({items})"));
        lines.push(line(&format!("GET {}{items}", read.name), &read.path, &same));
    }
    for line in &lines {
        let missing = " | ".repeat(levels.len() - line.cells.len());
        let slope = line.slope.map_or_else(String::new, |slope| format!("{slope:.2}"));
        println!("| {} | {missing}{} | {slope} |", line.name, line.cells.join(" | "));
    }
    println!("\ngoal: every slope at most {SLOPE_MAX}; behind each list the number of objects in its page");
    let slow =
        lines.into_iter().filter(|line| !line.path.is_empty() && line.slope.is_some_and(|slope| slope > SLOPE_MAX));
    slow.max_by(|a, b| a.slope.unwrap_or(0.0).total_cmp(&b.slope.unwrap_or(0.0))).map(|line| (line.name, line.path))
}

fn line(name: &str, path: &str, samples: &[(u64, &Sample)]) -> Line {
    let cell = |sample: &Sample| format!("{:.1} ({:.1})", milliseconds(sample, 50), milliseconds(sample, 99));
    let points: Vec<(f64, f64)> =
        samples.iter().map(|(rows, sample)| (*rows as f64, milliseconds(sample, 50))).collect();
    Line {
        name: name.to_owned(),
        path: path.to_owned(),
        cells: samples.iter().map(|(_, sample)| cell(sample)).collect(),
        slope: log_log_slope(&points),
    }
}
