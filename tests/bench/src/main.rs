//! `cargo dev bench <name>`: one measurement a file, each with its raw stage in the same run on the same servers.
//!
//! Ratios, not times, are what is compared with the goals of the design (§10); times are printed beside them.

#![expect(clippy::print_stdout, reason = "a benchmark's product is what it prints")]

mod applications;
mod beside;
mod bridge_sessions;
mod bursts;
mod calls;
mod command_latency;
mod command_throughput;
mod database;
mod environment;
mod filling;
mod fleet;
mod groups;
mod health;
mod history;
mod joins;
mod null_consumer;
mod operator_connection;
mod plans;
mod prepared;
mod processes;
mod raw_chain;
mod raw_drain;
mod raw_joins;
mod raw_leaf;
mod raw_publish;
mod raw_transactions;
mod reads;
mod request;
mod statistics;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use kubenova_env::sandbox::{self, Options, Sandbox};
use kubenova_scenarios::platform;

/// Benchmarks of the product on real servers.
#[derive(Debug, Parser)]
#[command(name = "cargo dev bench")]
struct Arguments {
    #[command(subcommand)]
    what: Benchmark,
    /// How clusters reach the broker, and the Operator's side of the raw chain: nats, websocket, leaf or grpc. Without it as
    /// KUBENOVA_TRANSPORT says, and nats when that is not set.
    #[arg(long, global = true)]
    transport: Option<String>,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Benchmark {
    /// H1: from the first byte of a REST request to the object in the cluster and back, against the raw chain.
    CommandLatency(command_latency::Settings),
    /// H3: commands accepted and sent a second, against raw transactions and raw publishes.
    CommandThroughput(command_throughput::Settings),
    /// H5, H7: thousands of simulated clusters: what they cost, the broker's restart, the loss of its store.
    Fleet(fleet::Settings),
    /// H2: bursts of writes at once, the last against the first, and against the raw chain in eight workers.
    Bursts(bursts::Settings),
    /// H9: command latency and every list with up to a million ended commands, and with more clusters and tenants.
    History(history::Settings),
    /// H8: from an enrollment token to the first applied command, one cluster and a thousand at once; revocations.
    Joins(joins::Settings),
    /// A thousand sessions in one bridge: memory, processor time, and how they pass to another replica.
    BridgeSessions(bridge_sessions::Settings),
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if Sandbox::require().is_err() {
        let variables = arguments.transport.map(|transport| (platform::TRANSPORT.to_owned(), transport));
        let options = Options { with_parent: true, variables: variables.into_iter().collect(), ..Options::default() };
        return sandbox::enter_ourselves(&options);
    }
    let runtime = tokio::runtime::Runtime::new().context("could not make a runtime")?;
    match arguments.what {
        Benchmark::CommandLatency(settings) => runtime.block_on(Box::pin(command_latency::run(&settings)))?,
        Benchmark::CommandThroughput(settings) => runtime.block_on(Box::pin(command_throughput::run(&settings)))?,
        Benchmark::Fleet(settings) => runtime.block_on(Box::pin(fleet::run(&settings)))?,
        Benchmark::Bursts(settings) => runtime.block_on(Box::pin(bursts::run(&settings)))?,
        Benchmark::History(settings) => runtime.block_on(Box::pin(history::run(&settings)))?,
        Benchmark::Joins(settings) => runtime.block_on(Box::pin(joins::run(&settings)))?,
        Benchmark::BridgeSessions(settings) => runtime.block_on(Box::pin(bridge_sessions::run(&settings)))?,
    }
    Ok(ExitCode::SUCCESS)
}
