//! H1, command latency: t0 the first byte of a PUT, t1 its answer, t2 the Application seen by an independent watch, t3 the
//! applied command seen over REST. Against [`crate::raw_chain`], measured before and after in the same run.
//!
//! What changes is an annotation, so that neither KubeVela nor a scheduler has work that is not ours to measure.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::Value;

use crate::applications::{Seen, application};
use crate::raw_chain::{Measured, RawChain};
use crate::statistics::{Poisson, Sample, row};
use crate::{beside, calls};

/// Pause between two looks over REST; it adds half of itself to t3.
const LOOK: Duration = Duration::from_millis(4);

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

/// One request through the product.
struct Timing {
    answered: Duration,
    seen: Duration,
    visible: Duration,
}

async fn request(rest: &Rest, seen: &Seen, name: &str, number: u64) -> Result<Timing> {
    let path = format!("/api/v1/tenants/acme/apps/{name}");
    let began = Instant::now();
    let accepted = rest.put(&path, &application(name, number)).await?.expect(202)?;
    let answered = began.elapsed();
    let command = format!("/api/v1/commands/{}", text(&accepted, "/commands/0/id")?);
    let visible = loop {
        let body = rest.get(&command).await?.expect(200)?;
        let hops = body["hops"].as_array().context("a command has hops")?;
        if hops.iter().any(|hop| hop["name"] == "applied" || hop["name"] == "ready") || body["state"] == "superseded" {
            break began.elapsed();
        }
        ensure!(began.elapsed() < COMMAND_MAX, "request {number} of {name} was not applied: {body}");
        tokio::time::sleep(LOOK).await;
    };
    let seen = seen.wait(name, number).await?.saturating_duration_since(began);
    Ok(Timing { answered, seen, visible })
}

#[derive(Default)]
struct Product {
    answered: Sample,
    seen: Sample,
    visible: Sample,
}

impl Product {
    fn note(&mut self, timing: &Timing) {
        self.answered.push(timing.answered);
        self.seen.push(timing.seen);
        self.visible.push(timing.visible);
    }

    fn print(&self, raw: &Measured) {
        println!("{}", row("t1-t0 answered", &self.answered, None));
        println!("{}", row("t2-t0 in the cluster", &self.seen, Some(&raw.seen)));
        println!("{}", row("t3-t0 visible over REST", &self.visible, Some(&raw.whole)));
    }
}

fn name(index: u64) -> String {
    format!("bench-{index}")
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    if settings.rate <= 0.0 || settings.applications == 0 {
        bail!("--rate and --applications must be above zero");
    }
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let seen = Seen::watch(site.cluster.kube_client());
    for index in 0..settings.applications {
        let body = application(&name(index), 0);
        platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    }
    steps::wait_all_succeeded(&platform, &site, COMPONENTS_MAX).await?;
    let keyring = broker::keyring(&platform)?;
    let connection = broker::connect(&platform, &keyring).await?;
    let mut raw = RawChain::open(&platform.postgres, connection, &site).await?;
    raw.prepare().await?;
    settle(&site).await?;

    let mut bare = raw.run(&seen, settings.serial, false).await?;
    let mut equal = raw.run(&seen, settings.serial, true).await?;
    let mut number = 0;
    let from = clock::now();
    let serial = serially(settings, &platform.rest, &seen, &mut number).await?;
    let calls = calls::rows(&site, from, clock::now(), settings.serial)?;
    let (poisson, took) = at_rate(settings, &platform.rest, &seen, &mut number).await?;
    bare.add(&raw.run(&seen, settings.serial, false).await?);
    equal.add(&raw.run(&seen, settings.serial, true).await?);

    println!("\n| stage | n | p50 ms | p99 ms | p50 ratio | p99 ratio |\n| --- | --- | --- | --- | --- | --- |");
    println!("{}", row("raw chain, bare: in the cluster", &bare.seen, None));
    println!("{}", row("raw chain, bare: whole", &bare.whole, None));
    println!("{}", row("raw chain, equal writes: in the cluster", &equal.seen, None));
    println!("{}", row("raw chain, equal writes: whole", &equal.whole, None));
    println!("\none request after another, ratios to the raw chain with equal writes (goal: p50 1.5, p99 2.5)");
    serial.print(&equal);
    println!(
        "\nPoisson, {} requests a second wanted, {:.1} done, seed {}",
        settings.rate,
        f64::from(u32::try_from(poisson.seen.len())?) / took.as_secs_f64(),
        settings.seed
    );
    poisson.print(&equal);
    println!("\nwhat the Operator asked the API server in the serial measurement\n");
    calls.iter().for_each(|row| println!("{row}"));
    let tenant_id = text(&tenant, "/id")?;
    let mut there = 0;
    for count in &settings.beside {
        beside::fill(&platform, &site, raw.applications(), &tenant_id, there, *count).await?;
        there = *count;
        settle(&site).await?;
        let raw = raw.run(&seen, settings.serial, true).await?;
        let from = clock::now();
        let serial = serially(settings, &platform.rest, &seen, &mut number).await?;
        let calls = calls::rows(&site, from, clock::now(), settings.serial)?;
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
        product.note(&request(rest, seen, &name(*number % settings.applications), *number).await?);
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
        let (name, number) = (name(*number % settings.applications), *number);
        tasks.spawn(async move { request(&rest, &seen, &name, number).await });
        next += pauses.pause();
    }
    let mut product = Product::default();
    while let Some(timing) = tasks.join_next().await {
        product.note(&timing??);
    }
    Ok((product, began.elapsed()))
}

/// Waits until KubeVela has nothing to do.
async fn settle(site: &Site) -> Result<()> {
    poll::until("every Application to run", COMPONENTS_MAX, || async {
        let printed = site.cluster.kubectl_ok(&["get", "applications.core.oam.dev", "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&printed)?;
        let waiting: Vec<&Value> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|it| it.pointer("/status/status").and_then(Value::as_str) != Some("running"))
            .collect();
        Ok(Step::when(waiting.is_empty(), (), format!("{} wait", waiting.len())))
    })
    .await
}
