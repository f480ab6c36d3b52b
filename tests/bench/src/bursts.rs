//! H2, bursts: every so often as many writes at once as a round has, each to another Application. Latency must not grow from the
//! first burst to the last. Beside them, before and after each round, bursts of the same size through [`crate::raw_chain`] in
//! eight workers.
//!
//! Every time counts from the moment at which the burst should have begun, so a burst that has to wait for the one before it
//! pays for that.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps::COMMAND_MAX;
use tokio::task::JoinSet;

use crate::applications::Seen;
use crate::environment;
use crate::prepared::{Prepared, application_name};
use crate::raw_chain::{Measured, RawChain};
use crate::request::{Product, is_visible, put};
use crate::statistics::{Sample, milliseconds, row};

/// Workers of the raw chain.
const WORKERS: usize = 8;
/// Writes of a size when no number of bursts is given: Maestro's number of bundles.
const WRITES: u64 = 600;
/// One look over REST shows all writes of a burst: the longest page of a list.
const SIZE_MAX: u64 = 500;
/// Pods beside those of the written Applications: the raw chain's, and one more of each while it is replaced.
const PODS_BESIDE: u64 = 60;
/// Pause between two looks over REST; it adds half of itself to the times until a write is visible.
const LOOK: Duration = Duration::from_millis(20);
/// The last burst may take as much longer than the first.
const GROWTH_MAX: f64 = 1.2;

/// What to measure with. Nothing is random.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Writes of a burst; a round of bursts for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [20_u64, 50, 100])]
    sizes: Vec<u64>,
    /// Seconds from the beginning of a burst to that of the next.
    #[arg(long, default_value_t = 30)]
    every: u64,
    /// Bursts of each size; as many as make 600 writes when none is given.
    #[arg(long)]
    periods: Option<u64>,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let applications = settings.sizes.iter().copied().max().unwrap_or_default();
    ensure!(settings.sizes.iter().all(|size| (1..=SIZE_MAX).contains(size)), "--sizes are from 1 to {SIZE_MAX}");
    ensure!(settings.periods != Some(0), "--periods must be above zero");
    let bench = Prepared::start(applications, Some(2 * applications + PODS_BESIDE)).await?;
    let mut raw = bench.raw_chain(WORKERS).await?;
    bench.settle().await?;
    environment::print(&bench.platform, Some(&bench.site)).await?;
    let mut number = 0;
    for &size in &settings.sizes {
        let periods = settings.periods.unwrap_or_else(|| WRITES.div_ceil(size));
        // The first burst finds cold caches and would make the growth look smaller.
        burst(&bench, &mut number, size, Instant::now()).await?;
        raw_burst(&mut raw, &bench, size).await?;
        let mut beside = raw_burst(&mut raw, &bench, size).await?;
        let round = round(&bench, &mut number, size, periods, settings.every).await?;
        beside.add(&raw_burst(&mut raw, &bench, size).await?);
        print(size, settings.every, &round, &beside);
    }
    Ok(())
}

/// A burst through the raw chain when nothing else is going on.
async fn raw_burst(raw: &mut RawChain, bench: &Prepared, size: u64) -> Result<Measured> {
    bench.settle().await?;
    raw.burst(&bench.seen, size).await
}

/// A round of bursts of one size.
async fn round(bench: &Prepared, number: &mut u64, size: u64, periods: u64, every: u64) -> Result<Vec<Product>> {
    bench.settle().await?;
    let mut round = Vec::new();
    let mut next = Instant::now();
    for _ in 0..periods {
        tokio::time::sleep_until(next.into()).await;
        round.push(burst(bench, number, size, next).await?);
        next += Duration::from_secs(every);
    }
    Ok(round)
}

/// A write of a burst.
struct Written {
    command: String,
    answered: Duration,
    seen: Duration,
}

/// One burst; every time counts from `began`.
async fn burst(bench: &Prepared, number: &mut u64, size: u64, began: Instant) -> Result<Product> {
    let rest = &bench.platform.rest;
    let mut writes = JoinSet::new();
    for index in 0..size {
        *number += 1;
        writes.spawn(write(rest.clone(), bench.seen.clone(), application_name(index), *number, began));
    }
    let path = format!("/api/v1/commands?cluster={}&limit={size}", bench.site.id);
    let mut product = Product::default();
    let mut visible: HashMap<String, Duration> = HashMap::new();
    let mut commands = HashSet::new();
    while commands.len() < usize::try_from(size)? || commands.iter().any(|id| !visible.contains_key(id)) {
        ensure!(began.elapsed() < COMMAND_MAX, "{} of {size} writes are done", commands.len());
        look(rest, &path, began, &mut visible).await?;
        while let Some(written) = writes.try_join_next() {
            let written = written??;
            product.answered.push(written.answered);
            product.seen.push(written.seen);
            commands.insert(written.command);
        }
        tokio::time::sleep(LOOK).await;
    }
    commands.iter().filter_map(|id| visible.get(id)).for_each(|took| product.visible.push(*took));
    Ok(product)
}

async fn write(rest: Rest, seen: Seen, name: String, number: u64, began: Instant) -> Result<Written> {
    let command = put(&rest, &name, number).await?;
    let answered = began.elapsed();
    let seen = seen.wait(&name, number).await?.saturating_duration_since(began);
    Ok(Written { command, answered, seen })
}

/// Notes which of the newest commands are visible now. One look for all of them: a client for each would take the processor from
/// what is measured.
async fn look(rest: &Rest, path: &str, began: Instant, visible: &mut HashMap<String, Duration>) -> Result<()> {
    let page = rest.get(path).await?.expect(200)?;
    let at = began.elapsed();
    for command in page["items"].as_array().context("a page has items")? {
        if is_visible(command)? {
            visible.entry(text(command, "/id")?).or_insert(at);
        }
    }
    Ok(())
}

fn print(size: u64, every: u64, round: &[Product], raw: &Measured) {
    println!("\n{size} writes at once, every {every} s, times in ms from the moment at which the burst was due\n");
    println!("| period | n | answered p50 | p99 | in the cluster p50 | p99 | visible p50 | p99 |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let pair = |sample: &Sample| format!("{:.0} | {:.0}", milliseconds(sample, 50), milliseconds(sample, 99));
    for (product, period) in round.iter().zip(1..) {
        let Product { answered, seen, visible, .. } = product;
        println!("| {period} | {} | {} | {} | {} |", seen.len(), pair(answered), pair(seen), pair(visible));
    }
    let mut all = Product::default();
    round.iter().for_each(|product| all.add(product));
    println!("\n| all periods | n | p50 ms | p99 ms | p50 ratio | p99 ratio |\n| --- | --- | --- | --- | --- | --- |");
    println!("{}", row(&format!("raw chain, {WORKERS} at once: in the cluster"), &raw.seen, None));
    println!("{}", row(&format!("raw chain, {WORKERS} at once: whole"), &raw.whole, None));
    all.print(raw);
    let (Some(first), Some(last)) = (round.first(), round.last()) else { return };
    for (name, first, last) in [("in the cluster", &first.seen, &last.seen), ("visible", &first.visible, &last.visible)]
    {
        let growth = |percent| milliseconds(last, percent) / milliseconds(first, percent);
        println!(
            "last period to first, {name}: p50 {:.2}, p99 {:.2} (goal: at most {GROWTH_MAX})",
            growth(50),
            growth(99)
        );
    }
}
