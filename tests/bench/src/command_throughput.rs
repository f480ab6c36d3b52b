//! H3, command throughput: how many commands a second are accepted over REST, against transactions of two rows on the same server;
//! and how many the relay sends a second, outbox row to acknowledgement, against the slower of its two raw halves: rows claimed and
//! retired in Postgres, and the same messages published by one client.
//!
//! The clusters are simulated and, while that is measured, absent: what is accepted waits in Postgres, and is then sent at once
//! to clusters that count as in session and take nothing. A last round is made with all of them at work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::{broker, simulated, steps};
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use tokio::time::MissedTickBehavior;

use crate::database::Database;
use crate::environment;
use crate::groups::{self, Group, Posted, Write};
use crate::health::Health;
use crate::processes::{Servers, Spent};
use crate::raw_drain::{Drained, RawDrain};
use crate::raw_publish::{Published, RawPublish};
use crate::raw_transactions::{Committed, RawTransactions};
use crate::statistics::milliseconds;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Administrators that write: the Manager carries out the changes of one caller four at a time, and eight in all.
const CALLERS: usize = 2;
/// For all clusters to be in session, and for all commands of a round to end.
const ENDED_MAX: Duration = Duration::from_secs(900);
/// Longest time for the relay to send everything.
const SENT_MAX: Duration = Duration::from_secs(600);
/// Between two looks at how many were sent: each counts all rows.
const LOOK: Duration = Duration::from_millis(250);
/// How often a cluster without an Operator is made to count as in session: well within the 45 seconds that a heartbeat lasts.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// What raw stages may differ by between before and after: more, and the machine was not the same.
const DRIFT_MAX: f64 = 0.2;

/// Preparation: without it one would wait until heartbeats are old, and measure hellos instead of the relay.
const SILENT: &str = "update sessions set last_heartbeat_at = now() - interval '1 hour'";
const IN_SESSION: &str = "update sessions set last_heartbeat_at = now()";
/// Postgres plans by what it knows of its tables. Of those of a hub that has run for a minute it knows how large they are; here they
/// have grown within seconds.
const AS_AFTER_A_MINUTE: &str = "analyze";
const UNSENT: &str = "select count(*) from commands where stream_seq is null";
const DOCUMENT: &str = "select document from commands where application_name is not null order by id desc limit 1";

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Commands of each round.
    #[arg(long, default_value_t = 20_000)]
    commands: usize,
    /// Simulated clusters that they are for.
    #[arg(long, default_value_t = 1_000)]
    clusters: usize,
    /// Requests, and raw transactions, at once.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    ensure!(settings.clusters > 0 && settings.commands > 0 && settings.at_once > 0, "every number must be above zero");
    let mut platform = environment::as_in_production(settings.clusters).await?;
    println!("| seed | none: nothing is drawn |");
    println!("| clusters, requests at once | {}, {} |", settings.clusters, settings.at_once);
    let health = Health::begin(&platform)?;
    let callers = callers(&platform)?;
    let client = broker::settings(&platform, &broker::keyring(&platform)?)?;
    let mut clusters =
        simulated::join(&platform, "sim", settings.clusters, Options { heartbeat: HEARTBEAT, ping: environment::PING })
            .await?;
    simulated::wait_in_session(&clusters, ENDED_MAX).await?;
    let groups = groups::place(&platform, &clusters).await?;

    // One write of the kind that is measured, for what raw transactions are to hold.
    groups::post(&callers, &groups::single(&groups, 1, "first"), 1).await?;
    let mut database = Database::of_product(&platform).await?;
    let document = database.text(DOCUMENT).await?;
    println!("| a document | {} bytes |", document.len());
    let drain = RawDrain::open(&platform.postgres, document.clone()).await?;
    let raw = RawTransactions::open(&platform.postgres, document).await?;
    let round = Round { settings, callers: &callers, groups: &groups, raw: &raw, drain: &drain };

    let single = groups::single(&groups, settings.commands, "single");
    let many = groups::many(&groups, settings.commands, "many");
    for (title, writes) in [("one command a request", &single), ("up to a hundred commands a request", &many)] {
        let accepted = round.accept(&mut platform, &mut database, &mut clusters, writes).await?;
        accepted.print(title);
        let sent =
            round.send(&mut platform, &mut database, writes, kubenova_bus::connect(client.clone()).await?).await?;
        sent.print();
        clusters.iter_mut().for_each(SimulatedCluster::start);
        simulated::wait_in_session(&clusters, ENDED_MAX).await?;
        steps::wait_no_open_commands(&platform, ENDED_MAX).await?;
    }
    let writes = groups::single(&groups, settings.commands, "whole");
    database.execute(AS_AFTER_A_MINUTE).await?;
    round.whole(&mut platform, &writes).await?;
    health.print(&platform).await
}

/// Administrators, each with a token of its own.
fn callers(platform: &Platform) -> Result<Vec<Rest>> {
    let mut callers = vec![platform.rest.clone()];
    for number in 1..CALLERS {
        let (subject, file) =
            (format!("bench-{number}"), platform.manager.folder().join(format!("bench-{number}.token")));
        let out = file.to_str().context("the token file's name is not text")?;
        platform.manager.run(&["token", "create", "--subject", &subject, "--role", "admin", "--out", out])?;
        callers.push(platform.rest.with_token(&std::fs::read_to_string(&file)?));
    }
    Ok(callers)
}

/// What the rounds share.
struct Round<'a> {
    settings: &'a Settings,
    callers: &'a [Rest],
    groups: &'a [Group],
    raw: &'a RawTransactions,
    drain: &'a RawDrain,
}

impl Round<'_> {
    /// Ends the clusters' Operators, and writes what then waits in Postgres.
    async fn accept(
        &self,
        platform: &mut Platform,
        database: &mut Database,
        clusters: &mut [SimulatedCluster],
        writes: &[Write],
    ) -> Result<Accepted> {
        clusters.iter_mut().for_each(SimulatedCluster::kill);
        let (count, at_once) = (self.settings.commands, self.settings.at_once);
        let before = self.raw.run(count, at_once).await?;
        // Only now: heartbeats that were on their way when the Operators ended are recorded.
        database.execute(SILENT).await?;
        database.execute(AS_AFTER_A_MINUTE).await?;
        let servers = Servers::of(platform)?;
        let spent = servers.spent()?;
        let posted = groups::post(self.callers, writes, at_once).await?;
        let spent = servers.spent()?.since(&spent);
        let after = self.raw.run(count, at_once).await?;
        Ok(Accepted { requests: writes.len(), posted, spent, before, after })
    }

    /// Lets the relay send what waits, and publishes the same messages by itself.
    async fn send(
        &self,
        platform: &mut Platform,
        database: &mut Database,
        writes: &[Write],
        client: kubenova_bus::Connection,
    ) -> Result<Sent> {
        let commands: usize = writes.iter().map(Write::commands).sum();
        database.execute(AS_AFTER_A_MINUTE).await?;
        let servers = Servers::of(platform)?;
        let spent = servers.spent()?;
        let waiting = database.number(UNSENT).await?;
        ensure!(waiting == i64::try_from(commands)?, "{waiting} of {commands} commands wait to be sent");
        let began = Instant::now();
        let mut confirm = tokio::time::interval(CONFIRM_EVERY);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK);
        let mut left = waiting;
        while left > 0 {
            tokio::select! {
                _ = confirm.tick() => drop(database.execute(IN_SESSION).await?),
                _ = looks.tick() => left = database.number(UNSENT).await?,
            }
            ensure!(began.elapsed() < SENT_MAX, "{left} commands were not sent");
        }
        let took = began.elapsed();
        let spent = servers.spent()?.since(&spent);
        database.execute(SILENT).await?;
        let raw = RawPublish::of_last_commands(client, commands).await?;
        let (bytes, published) = (raw.bytes(), [raw.run().await?, raw.run().await?]);
        let drain = || self.drain.run(commands, self.settings.clusters, self.settings.at_once);
        let drained = [drain().await?, drain().await?];
        Ok(Sent { commands, took, spent, bytes, published, drained })
    }

    /// Everything at once: requests, relay, clusters, outcomes.
    async fn whole(&self, platform: &mut Platform, writes: &[Write]) -> Result<()> {
        let servers = Servers::of(platform)?;
        let spent = servers.spent()?;
        let began = Instant::now();
        let posted = groups::post(self.callers, writes, self.settings.at_once).await?;
        steps::wait_no_open_commands(platform, ENDED_MAX).await?;
        let took = began.elapsed();
        let commands = posted.accepted.len();
        println!(
            "\nall at once: one command a request, {} clusters at work\n\n| | |\n| --- | --- |",
            self.groups.iter().map(Group::size).sum::<usize>()
        );
        println!("| accepted | {:.0} a second |", posted.rate());
        println!("| accepted, sent, carried out, reported | {:.0} a second |", commands as f64 / took.as_secs_f64());
        print_spent(&servers.spent()?.since(&spent), commands);
        Ok(())
    }
}

/// Writes beside raw transactions.
struct Accepted {
    requests: usize,
    posted: Posted,
    spent: Spent,
    before: Committed,
    after: Committed,
}

impl Accepted {
    fn print(&self, title: &str) {
        let raw = f64::midpoint(self.before.rate(), self.after.rate());
        println!("\n{title}: {} requests, {} commands\n", self.requests, self.posted.accepted.len());
        println!("| accepted | a second | p50 ms | p99 ms |\n| --- | --- | --- | --- |");
        for (name, run) in [("raw transactions, before", &self.before), ("raw transactions, after", &self.after)] {
            println!(
                "| {name} | {:.0} | {:.2} | {:.2} |",
                run.rate(),
                milliseconds(&run.each, 50),
                milliseconds(&run.each, 99)
            );
        }
        let answered = &self.posted.answered;
        println!(
            "| commands | {:.0} | {:.2} | {:.2} |",
            self.posted.rate(),
            milliseconds(answered, 50),
            milliseconds(answered, 99)
        );
        println!(
            "\n| | |\n| --- | --- |\n| commands / raw transactions (goal 0.5) | {:.2} |",
            self.posted.rate() / raw
        );
        if drifts(self.before.rate(), self.after.rate()) {
            println!("| the raw stage changed by more than a fifth meanwhile | void |");
        }
        print_spent(&self.spent, self.posted.accepted.len());
    }
}

fn drifts(before: f64, after: f64) -> bool {
    (after - before).abs() > DRIFT_MAX * before
}

/// What a command cost.
fn print_spent(spent: &Spent, commands: usize) {
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / commands as f64;
    println!(
        "| processor milliseconds a command | Manager {:.2}, PostgreSQL {:.2}, broker {:.2}, load and clusters {:.2} |",
        each(spent.manager),
        each(spent.postgres),
        each(spent.broker),
        each(spent.ourselves)
    );
}

/// What was sent, beside raw publishes.
struct Sent {
    commands: usize,
    took: Duration,
    spent: Spent,
    bytes: usize,
    published: [Published; 2],
    drained: [Drained; 2],
}

impl Sent {
    fn print(&self) {
        let rate = self.commands as f64 / self.took.as_secs_f64();
        let published = self.published.map(Published::rate);
        let drained = self.drained.map(Drained::rate);
        println!("\n| sent | |\n| --- | --- |");
        println!(
            "| outbox rows acknowledged by the broker | {} in {:.1} s: {rate:.0} a second |",
            self.commands,
            self.took.as_secs_f64()
        );
        println!(
            "| raw publish with message ids, {} messages, {} bytes | {:.0} and {:.0} a second |",
            self.published[0].messages, self.bytes, published[0], published[1]
        );
        println!("| raw drain: rows claimed and retired | {:.0} and {:.0} a second |", drained[0], drained[1]);
        let mean = |[first, second]: [f64; 2]| f64::midpoint(first, second);
        println!(
            "| relay / the slower of raw publish and raw drain (goal 0.5) | {:.2} |",
            rate / mean(published).min(mean(drained))
        );
        print_spent(&self.spent, self.commands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_stage_that_changed_by_more_than_a_fifth_voids_the_run() {
        assert!(!drifts(100.0, 119.0) && !drifts(100.0, 81.0));
        assert!(drifts(100.0, 121.0) && drifts(100.0, 79.0));
    }
}
