//! Two Managers on one database: the second is killed, paused for a minute, cut from the broker and cut from the database, one
//! after the other, while clients write through the first. No heartbeat is missed, every command goes through, none is carried
//! out twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kubenova_env::link::Slow;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::second_manager::SecondManager;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_scenarios::writers::{self, Accepted, Writer};
use kubenova_scenarios::{oracle, simulated};
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use serde_json::{Value, json};
use tokio::sync::watch;

const CLUSTERS: usize = 12;
const WRITERS: usize = 3;
/// The design's bound: a cluster is stale after it. Heartbeats of these clusters come every 2 s.
const STALE_AFTER: Duration = Duration::from_secs(45);
/// A heartbeat that is recorded late by so much was missed: five of these clusters' intervals.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);
/// A second Manager without a sign of life holds a command that it has claimed until it is due again, 30 s, or an outcome until the
/// broker delivers it again, 30 s as well, or rows in a transaction until Postgres ends it, 10 s.
const HELD_MAX: Duration = Duration::from_secs(60);

/// How a fault shows while it lasts.
#[derive(Debug, Default)]
struct Seen {
    heartbeat_age: Duration,
    slowest: Duration,
    commands: usize,
}

/// Commands that the second Manager took and could not send: how often each.
fn taken_in_vain(second: &SecondManager) -> Result<BTreeMap<String, usize>> {
    let mut taken = BTreeMap::new();
    for line in second.process.log()?.lines().filter(|line| line.contains("could not send a command")) {
        let line: Value = serde_json::from_str(line).context("a line of the log is JSON")?;
        *taken.entry(text(&line, "/span/command.id")?).or_default() += 1;
    }
    Ok(taken)
}

/// While a fault lasts: the age of the oldest heartbeat, and how long a command takes to each cluster in turn. Its writes are
/// accepted, too.
async fn watch_fault(
    platform: &Platform,
    clusters: &[SimulatedCluster],
    accepted: &mut Vec<Accepted>,
    fault: &str,
    lasts: Duration,
) -> Result<Seen> {
    let (begun, mut seen) = (Instant::now(), Seen::default());
    for number in 0.. {
        if begun.elapsed() > lasts {
            break;
        }
        let sql = "select coalesce(max(extract(epoch from clock_timestamp() - last_heartbeat_at)), 0) from sessions";
        let age: f64 = platform.postgres.query("kubenova", sql)?.trim().parse().context("an age in seconds")?;
        seen.heartbeat_age = seen.heartbeat_age.max(Duration::from_secs_f64(age.max(0.0)));
        let cluster = &clusters[number % clusters.len()].name;
        let application = format!("{fault}-{number}");
        let body = json!({ "name": application, "image": writers::image(0), "clusters": [cluster] });
        let asked = Instant::now();
        let answer = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        let command = text(&answer, "/commands/0/id")?;
        steps::wait_command(platform, &command, "succeeded", HELD_MAX).await?;
        accepted.push(Accepted {
            cluster: cluster.clone(),
            application,
            number: Some(0),
            command: Some(command),
            may_be_lost: false,
        });
        seen.slowest = seen.slowest.max(asked.elapsed());
        seen.commands += 1;
    }
    eprintln!("{fault}: {seen:?}");
    ensure!(seen.heartbeat_age < HEARTBEAT_AGE_MAX, "{fault}: a heartbeat was {:?} old", seen.heartbeat_age);
    Ok(seen)
}

/// Both lines of the second Manager.
const SLOW: [(&str, Slow); 2] =
    [("a-second-late", Slow::Late(Duration::from_secs(1))), ("a-kilobyte-a-second", Slow::Narrow(1_000))];

#[tokio::test(flavor = "multi_thread")]
async fn fault_managers_one_of_two_may_die_pause_or_be_cut_off() -> Result<()> {
    Box::pin(one_of_two_may_die_pause_or_be_cut_off()).await
}

async fn one_of_two_may_die_pause_or_be_cut_off() -> Result<()> {
    let options = PlatformOptions::default();
    let platform = Platform::start(&options).await?;
    let mut second = SecondManager::start(&platform, &options).await?;
    let clusters = simulated::join(&platform, "sim", CLUSTERS, Options::default()).await?;
    simulated::wait_in_session(&clusters, COMMAND_MAX).await?;
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let tenant = steps::create_tenant(&platform, "acme", &names).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    let (stop, stopped) = watch::channel(false);
    let writers: Vec<_> = (0..WRITERS)
        .map(|index| {
            let clusters = names.iter().skip(index).step_by(WRITERS).map(|name| (*name).to_owned()).collect();
            tokio::spawn(Writer::new(&platform.rest, "acme", clusters, 5, index as u64 + 1).run(stopped.clone()))
        })
        .collect();

    let mut accepted: Vec<Accepted> = Vec::new();
    watch_fault(&platform, &clusters, &mut accepted, "none", Duration::from_secs(5)).await?;
    second.process.kill();
    watch_fault(&platform, &clusters, &mut accepted, "killed", Duration::from_secs(10)).await?;
    second.restart().await?;
    second.pause()?;
    watch_fault(&platform, &clusters, &mut accepted, "paused", Duration::from_secs(60)).await?;
    second.resume()?;
    watch_fault(&platform, &clusters, &mut accepted, "resumed", Duration::from_secs(5)).await?;
    second.to_hub.silence();
    watch_fault(&platform, &clusters, &mut accepted, "cut-from-broker", Duration::from_secs(30)).await?;
    second.to_hub.restore();
    let again = taken_in_vain(&second)?.into_iter().find(|(_, times)| *times > 1);
    ensure!(
        again.is_none(),
        "without the broker it takes a command that the other could send again and again: {again:?}"
    );
    second.to_postgres.silence();
    watch_fault(&platform, &clusters, &mut accepted, "cut-from-database", Duration::from_secs(30)).await?;
    second.to_postgres.restore();
    for (fault, slow) in SLOW {
        second.to_hub.slow_down(slow);
        second.to_postgres.slow_down(slow);
        watch_fault(&platform, &clusters, &mut accepted, fault, Duration::from_secs(20)).await?;
    }
    second.to_hub.restore();
    second.to_postgres.restore();
    watch_fault(&platform, &clusters, &mut accepted, "healed", Duration::from_secs(5)).await?;

    stop.send_replace(true);
    for writer in writers {
        accepted.extend(writer.await??);
    }
    eprintln!("{} writes were accepted", accepted.len());
    steps::wait_no_open_commands(&platform, STALE_AFTER * 2).await?;
    oracle::expect_none(&oracle::commands(&platform.rest, &accepted).await?)?;
    let tenant_id = text(&tenant, "/id")?;
    for cluster in &clusters {
        oracle::check_simulated(cluster, &tenant_id, &accepted)?;
    }
    ensure!(second.process.process().is_some_and(|process| process.check().is_ok()), "the second Manager ended");
    clocks_may_differ(&platform, &mut second).await
}

/// Both Managers record every heartbeat. When their clocks differ by more than a cluster may be silent, no session ends.
async fn clocks_may_differ(platform: &Platform, second: &mut SecondManager) -> Result<()> {
    second.restart_ahead(Duration::from_secs(600)).await?;
    let sessions = || platform.postgres.query("kubenova", "select cluster_id, session from sessions order by 1");
    let before = sessions()?;
    let begun = platform.postgres.query("kubenova", "select clock_timestamp()")?;
    let sql = format!(
        "select min(last_heartbeat_at) > '{}'::timestamptz + interval '10 seconds' from sessions",
        begun.trim()
    );
    poll::until("each cluster to have sent several heartbeats", STALE_AFTER, || async {
        let several = platform.postgres.query("kubenova", &sql)?;
        Ok(Step::when(several.trim() == "t", (), several))
    })
    .await?;
    ensure!(sessions()? == before, "clusters were asked for another session:\n{before}{}", sessions()?);
    ensure!(second.process.log()?.contains("the clocks of the Manager and of Postgres differ"), "it says so");
    Ok(())
}
