//! `cargo dev campaign faults`: faults of a list, drawn by a seed, on real servers, while clients write; after each the oracle
//! decides whether anything was lost, doubled, stale or out of order.
//!
//! In reading order: the list and the schedule (`fault`), what they happen to (`fleet`, `writing`), one `round` with its
//! `inject`ion and its `convergence`, what is seen independently (`usage`, `hits`), the `report`.

#![expect(clippy::print_stdout, reason = "a campaign says what it does")]

mod convergence;
mod fault;
mod fleet;
mod history;
mod hits;
mod inject;
mod report;
mod round;
mod usage;
mod writing;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use kubenova_env::sandbox::{self, Options, Sandbox};
use kubenova_scenarios::quiescence;

use fault::Drawn;
use fleet::Fleet;
use report::Report;
use round::Reported;

/// Threads of the runtime: more than the machine has cores, since tools such as kubectl are waited for in them.
const THREADS: usize = 8;

/// Faults on real servers, drawn by a seed, while clients write.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo dev campaign faults")]
struct Arguments {
    /// Seed of everything random; the same seed draws the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many faults; each of the list once when none is given.
    #[arg(long)]
    rounds: Option<usize>,
    /// Simulated clusters, beside the real one.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(3..))]
    clusters: u32,
    /// Only faults whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// The commit that is named in the page.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Where the page is written.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Where the history is written; in the folder of the run when none is given.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Print the schedule, and stop.
    #[arg(long)]
    plan: bool,
}

impl Arguments {
    /// The command that does the same again.
    fn command(&self) -> String {
        let mut command = format!("cargo dev campaign faults --seed {} --clusters {}", self.seed, self.clusters);
        if let Some(rounds) = self.rounds {
            command.push_str(&format!(" --rounds {rounds}"));
        }
        if let Some(only) = &self.only {
            command.push_str(&format!(" --only '{only}'"));
        }
        command
    }
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    let schedule = fault::schedule(arguments.seed, arguments.rounds, arguments.only.as_deref());
    ensure!(!schedule.is_empty(), "no fault has {:?} in its name", arguments.only);
    if arguments.plan {
        for (index, drawn) in schedule.iter().enumerate() {
            println!(
                "{:>3}  {:<8} {}, {:.0} s",
                index + 1,
                drawn.entry.matrix,
                drawn.entry.name(),
                drawn.lasts.as_secs_f64()
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    if Sandbox::require().is_err() {
        return sandbox::enter_ourselves(&Options { with_parent: true, ..Options::default() });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("could not make a runtime")?;
    runtime.block_on(Box::pin(run(&arguments, &schedule)))
}

async fn run(arguments: &Arguments, schedule: &[Drawn]) -> Result<ExitCode> {
    let began = Instant::now();
    let folder = Sandbox::require()?.run().to_owned();
    let history = arguments.history.clone().unwrap_or_else(|| folder.join("history.jsonl"));
    let clusters = usize::try_from(arguments.clusters)?;
    let mut fleet = Box::pin(Fleet::start(clusters, arguments.seed, &history)).await?;
    println!(
        "{:>6.0} s  everything runs: one real cluster and {clusters} simulated ones",
        began.elapsed().as_secs_f64()
    );
    let mut report = Report {
        commit: arguments.commit.clone(),
        command: arguments.command(),
        clusters,
        rows: Vec::new(),
        hits: Default::default(),
        observed: 0,
        is_quiet: false,
        usage: None,
        took: began.elapsed(),
        failure: None,
    };
    if let Err(error) = Box::pin(rounds(&mut fleet, schedule, began, &mut report)).await {
        report.failure = Some(format!("{error:#}"));
    }
    report.hits = hits::count(&[fleet.platform.manager.folder(), &fleet.site.cluster.folder().join("pods")])?;
    report.observed = fleet.observer.changes();
    report.took = began.elapsed();
    let page = arguments.report.clone().unwrap_or_else(|| folder.join("campaign-faults.md"));
    std::fs::write(&page, report.text()).with_context(|| format!("could not write {}", page.display()))?;
    println!("see {}", page.display());
    if let Some(failure) = &report.failure {
        println!("ended early: {failure}");
    }
    // The folder of a run that fails is kept, with every log.
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rounds(fleet: &mut Fleet, schedule: &[Drawn], began: Instant, report: &mut Report) -> Result<()> {
    let mut reported = Reported::new();
    for (index, drawn) in schedule.iter().enumerate() {
        let row = Box::pin(round::run(fleet, drawn, began, &mut reported)).await?;
        let recovered = row.recovered.map(|it| format!("recovered after {:.1} s", it.as_secs_f64()));
        println!(
            "{:>6.0} s  {} of {}: {} ({}), lasted {:.1} s, {}, {} writes, {} commands, {} violations",
            row.at.as_secs_f64(),
            index + 1,
            schedule.len(),
            row.fault,
            row.matrix,
            row.lasted.as_secs_f64(),
            recovered.as_deref().unwrap_or("not recovered"),
            row.writes,
            row.commands,
            row.findings.len()
        );
        row.findings.iter().for_each(|finding| println!("          {finding}"));
        let has_ended = row.recovered.is_some();
        report.rows.push(row);
        // What has not ended would be counted in every later round.
        ensure!(has_ended, "not everything ended after the last fault");
    }
    quiescence::wait_quiet(&fleet.site).await?;
    report.is_quiet = true;
    report.usage = Some(usage::check(&fleet.platform, &fleet.site).await?);
    Ok(())
}
