//! H1, command latency: t0 the first byte of a PUT, t1 its answer, t2 the Application seen by an independent watch, t3 the
//! applied command seen over REST. Against [`crate::raw_chain`], measured before and after in the same run.
//!
//! What changes is an annotation, so that neither KubeVela nor a scheduler has work that is not ours to measure.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use kubenova_runtime::clock;
use kubenova_scenarios::rest::Rest;

use crate::applications::Seen;
use crate::prepared::{Prepared, application_name};
use crate::request::{Product, request};
use crate::statistics::{Poisson, row};
use crate::{beside, calls, environment};

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Requests a second, on average (Poisson).
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// How long requests are made at that rate.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Applications that the requests take turns with; with the raw chain's they must fit into a tenant's quota of pods.
    #[arg(long, default_value_t = 20)]
    applications: u64,
    /// Requests of each serial measurement.
    #[arg(long, default_value_t = 100)]
    serial: u64,
    /// Settled applications on the cluster beside those; one measurement for each number, which must rise.
    #[arg(long, value_delimiter = ',')]
    beside: Vec<u64>,
    /// Seed of the Poisson process.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    if settings.rate <= 0.0 || settings.applications == 0 {
        bail!("--rate and --applications must be above zero");
    }
    let bench = Prepared::start(settings.applications, None).await?;
    let (site, seen, rest) = (&bench.site, &bench.seen, &bench.platform.rest);
    environment::print(&bench.platform, Some(site)).await?;
    let mut raw = bench.raw_chain(1).await?;
    bench.settle().await?;

    let mut bare = raw.run(seen, settings.serial, false).await?;
    let mut equal = raw.run(seen, settings.serial, true).await?;
    let mut number = 0;
    let from = clock::now();
    let serial = serially(settings, rest, seen, &mut number).await?;
    let calls = calls::rows(site, from, clock::now(), settings.serial)?;
    let (poisson, took) = at_rate(settings, rest, seen, &mut number).await?;
    bare.add(&raw.run(seen, settings.serial, false).await?);
    equal.add(&raw.run(seen, settings.serial, true).await?);

    println!("\n| stage | n | p50 ms | p99 ms | p50 ratio | p99 ratio |\n| --- | --- | --- | --- | --- | --- |");
    println!("{}", row("raw chain, bare: in the cluster", &bare.seen, None));
    println!("{}", row("raw chain, bare: whole", &bare.whole, None));
    println!("{}", row("raw chain, equal writes: in the cluster", &equal.seen, None));
    println!("{}", row("raw chain, equal writes: whole", &equal.whole, None));
    println!("\none request after another, ratios to the raw chain with equal writes (goal: p50 1.5, p99 2.5)");
    serial.print(&equal);
    serial.print_hops();
    println!(
        "\nPoisson, {} requests a second wanted, {:.1} done, seed {}",
        settings.rate,
        f64::from(u32::try_from(poisson.seen.len())?) / took.as_secs_f64(),
        settings.seed
    );
    poisson.print(&equal);
    poisson.print_hops();
    println!("\nwhat the Operator asked the API server in the serial measurement\n");
    calls.iter().for_each(|row| println!("{row}"));
    let mut there = 0;
    for count in &settings.beside {
        beside::fill(&bench.platform, site, raw.applications(), &bench.tenant_id, there, *count).await?;
        there = *count;
        bench.settle().await?;
        let raw = raw.run(seen, settings.serial, true).await?;
        let from = clock::now();
        let serial = serially(settings, rest, seen, &mut number).await?;
        let calls = calls::rows(site, from, clock::now(), settings.serial)?;
        println!("\nwith {count} settled applications beside");
        println!("{}", row("raw chain, equal writes: in the cluster", &raw.seen, None));
        serial.print(&raw);
        calls.iter().for_each(|row| println!("{row}"));
    }
    Ok(())
}

/// Requests one after another, round the applications.
async fn serially(settings: &Settings, rest: &Rest, seen: &Seen, number: &mut u64) -> Result<Product> {
    let mut product = Product::default();
    for _ in 0..settings.serial {
        *number += 1;
        product.note(&request(rest, seen, &application_name(*number % settings.applications), *number).await?);
    }
    Ok(product)
}

/// Requests at a rate, each in a task of its own, round the applications.
async fn at_rate(settings: &Settings, rest: &Rest, seen: &Seen, number: &mut u64) -> Result<(Product, Duration)> {
    let mut pauses = Poisson::new(settings.seed, settings.rate);
    let began = Instant::now();
    let end = began + Duration::from_secs(u64::from(settings.seconds));
    let mut next = began;
    let mut tasks = tokio::task::JoinSet::new();
    while next < end {
        tokio::time::sleep_until(next.into()).await;
        let (rest, seen) = (rest.clone(), seen.clone());
        *number += 1;
        let (name, number) = (application_name(*number % settings.applications), *number);
        tasks.spawn(async move { request(&rest, &seen, &name, number).await });
        next += pauses.pause();
    }
    let mut product = Product::default();
    while let Some(timing) = tasks.join_next().await {
        product.note(&timing??);
    }
    Ok((product, began.elapsed()))
}
