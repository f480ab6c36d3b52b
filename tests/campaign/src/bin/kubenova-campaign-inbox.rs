//! `cargo dev campaign inbox`: one cluster with thousands of commands among others that have few, simulated and then real; each
//! time the Operator, the Manager and the broker start again, in the sequence that a seed draws.
//!
//! The cases are those of the scenarios `fault_storm` and `fault_inbox` (`kubenova_scenarios::many_commands`).

#![expect(clippy::print_stdout, reason = "a campaign says what it does")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use kubenova_env::sandbox::{self, Options, Sandbox};
use kubenova_scenarios::many_commands::{self, Case, REPORT_AGAIN_AFTER_MS, Restart, Row, inbox, simulated_inbox};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::seed::SplitMix64;
use kubenova_scenarios::simulated::{self, Others};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::COMPONENTS_MAX;
use kubenova_simulator::cluster::Options as SimulatorOptions;

/// Threads of the runtime: more than the machine has cores, since tools such as kubectl are waited for in them.
const THREADS: usize = 8;
/// For all commands to have a state: 6,000 took a debug build nine minutes on a busy machine.
const STATES_MAX: Duration = Duration::from_secs(2_400);
const RESTARTS: [Restart; 4] = [Restart::Operator, Restart::Manager, Restart::Broker, Restart::BrokerStore];

/// One cluster with thousands of commands among others that have few.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo dev campaign inbox")]
struct Arguments {
    /// Draws the order in which things start again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Commands of the one cluster.
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(2..))]
    commands: u32,
    /// The commit that is named in the page.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Where the page is written; in the folder of the run when none is given.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if Sandbox::require().is_err() {
        return sandbox::enter_ourselves(&Options { with_parent: true, ..Options::default() });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("could not make a runtime")?;
    runtime.block_on(Box::pin(run(&arguments)))
}

/// The seed's order of what starts again.
fn restarts(random: &mut SplitMix64) -> Vec<Restart> {
    let mut order = RESTARTS.to_vec();
    for last in (1..order.len()).rev() {
        let other = usize::try_from(random.next() % (last as u64 + 1)).unwrap_or_default();
        order.swap(last, other);
    }
    order
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let mut random = SplitMix64::new(arguments.seed);
    let mut case = Case {
        commands: usize::try_from(arguments.commands)?,
        states_max: STATES_MAX,
        restarts: restarts(&mut random),
    };
    let options = PlatformOptions { report_again_after_ms: Some(REPORT_AGAIN_AFTER_MS), ..PlatformOptions::default() };
    let mut platform = Platform::start(&options).await?;
    let mut one = simulated::join(&platform, "one", 1, SimulatorOptions::default()).await?.remove(0);
    let others = many_commands::join_others(&platform).await?;
    many_commands::create_tenant(&platform, others.iter().chain([&one])).await?;
    println!("{:>6.0} s  the simulated cluster has joined", began.elapsed().as_secs_f64());
    let of_simulated = Box::pin(simulated_inbox::run(&mut platform, &mut one, &others, &case)).await?;
    // What it still reports would be measured with the other one.
    drop(one);

    case.restarts = restarts(&mut random);
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    println!("{:>6.0} s  the real cluster has joined", began.elapsed().as_secs_f64());
    let of_real = Box::pin(inbox::run(&mut platform, &site, &others, &case)).await?;

    let text =
        page(arguments, began.elapsed(), &[("Simulated", of_simulated.as_slice()), ("Real", of_real.as_slice())]);
    let path = arguments.report.clone().unwrap_or_else(|| platform.manager.folder().join("campaign-inbox.md"));
    std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    println!("nothing was lost or done twice; see {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn page(arguments: &Arguments, took: Duration, cases: &[(&str, &[Row])]) -> String {
    let Arguments { seed, commands, commit, .. } = arguments;
    let mut text = format!(
        "# One cluster with thousands of commands\n\n\
         Written by `cargo dev campaign inbox --seed {seed} --commands {commands}` at commit {commit}, in {:.0} minutes.\n\n\
         PostgreSQL, NATS, one Manager (debug builds), one cluster with {commands} commands, half of which do not end, and four \
         simulated clusters. Meanwhile commands go to the four, one after the other. Each must succeed within 20 s, in the end \
         every command of the one cluster has been carried out, none twice. A command that is running is sent again after a day \
         only, so that no outcome that was lost is made up for.\n",
        took.as_secs_f64() / 60.0,
    );
    for (name, rows) in cases {
        let _infallible = write!(
            text,
            "\n## {name}\n\n| What | Took, s | Commands to the others | Slowest of them, s |\n| --- | --- | --- | --- |\n"
        );
        for Row { what, took, others } in *rows {
            let (count, slowest) = others.map_or(("-".to_owned(), "-".to_owned()), |Others { commands, slowest }| {
                (commands.to_string(), format!("{:.1}", slowest.as_secs_f64()))
            });
            let _infallible = writeln!(text, "| {what} | {:.1} | {count} | {slowest} |", took.as_secs_f64());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_order() {
        let of = |seed| restarts(&mut SplitMix64::new(seed));
        assert_eq!(of(1), of(1));
        assert!((1..10).any(|seed| of(seed) != of(1)));
        assert!(RESTARTS.iter().all(|each| of(7).contains(each)));
    }

    #[test]
    fn a_page_names_commit_seed_and_what_was_measured() {
        let arguments = Arguments { seed: 7, commands: 6_000, commit: "67fdd5a".into(), report: None };
        let others = Some(Others { commands: 12, slowest: Duration::from_millis(1_540) });
        let row = |what: &str, others| Row { what: what.into(), took: Duration::from_secs(9), others };
        let rows = [row("broker-restarts", others), row("a further tenant", None)];
        let text = page(&arguments, Duration::from_secs(1_200), &[("Real", rows.as_slice())]);
        for part in [
            "`cargo dev campaign inbox --seed 7 --commands 6000` at commit 67fdd5a, in 20 minutes.",
            "## Real\n",
            "| broker-restarts | 9.0 | 12 | 1.5 |\n| a further tenant | 9.0 | - | - |\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
