//! Kills at random moments, a broker and a database that are killed with something on its way, and a cluster that is cut off:
//! everything that was requested completes, each effect once.

use std::time::Duration;

use anyhow::{Result, ensure};
use kubenova_env::network::Cut;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;
use kubenova_scenarios::platform::{Platform, PlatformOptions, WINDOW_SECONDS};
use kubenova_scenarios::seed::SplitMix64;
use kubenova_scenarios::site::{OPERATOR, Site};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use reqwest::Method;
use serde_json::{Value, json};

/// One cluster that has joined and has its components.
async fn joined() -> Result<(Platform, Site)> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    steps::wait_all_succeeded(&platform, &site, COMMAND_MAX).await?;
    Ok((platform, site))
}

/// Pods of the application and nothing twice: one Application, one Deployment, the wanted pods, nothing left open.
async fn each_once(platform: &Platform, site: &Site, tenant: &str, application: &str, pods: usize) -> Result<()> {
    // Pods that are too many end a moment after the Application runs.
    poll::until(format!("{pods} pods of {application}"), COMMAND_MAX, || async {
        let now = steps::ready_pods(site, tenant, application)?;
        Ok(Step::when(now == pods, (), format!("{now} pods")))
    })
    .await?;
    let namespace = format!("{tenant}-apps");
    let of = |kind: &str| site.cluster.kubectl_ok(&["get", kind, "-n", &namespace, "-o", "name"]);
    for kind in ["applications.core.oam.dev", "deployments"] {
        let found = of(kind)?.lines().filter(|line| line.ends_with(&format!("/{application}"))).count();
        assert_eq!(found, 1, "{kind} named {application}");
    }
    steps::expect_no_open_commands(platform)
}

/// Which process is killed, and how long after the request.
#[derive(Debug, Clone, Copy)]
struct Death {
    manager: bool,
    operator: bool,
    after: Duration,
}

/// The ten moments of a seed: the first two while the cluster joins, which takes longer than a command.
fn deaths(seed: u64) -> [Death; 10] {
    let mut numbers = SplitMix64::new(seed);
    std::array::from_fn(|moment| {
        let span = if moment < 2 { 8_000 } else { 1_500 };
        let victim = numbers.next() % 3;
        Death { manager: victim != 0, operator: victim != 1, after: Duration::from_millis(numbers.next() % span) }
    })
}

/// Kills the processes that the moment names, and starts the Manager again.
async fn die(platform: &mut Platform, site: &Site, death: Death) -> Result<()> {
    eprintln!("{death:?}");
    // The fault's moment, not a wait for anything.
    tokio::time::sleep(death.after).await;
    if death.operator {
        poll::until("an Operator to kill", COMMAND_MAX, || async {
            Ok(Step::when(site.cluster.pods().kill9(OPERATOR) > 0, (), "no Operator runs"))
        })
        .await?;
    }
    if death.manager { platform.restart_manager().await } else { Ok(()) }
}

/// `KUBENOVA_SEED` chooses other moments.
#[tokio::test(flavor = "multi_thread")]
async fn fault_kill_at_ten_seeded_moments_of_a_life() -> Result<()> {
    let seed = std::env::var("KUBENOVA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2);
    eprintln!("KUBENOVA_SEED={seed}");
    let mut deaths = deaths(seed).into_iter();
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let (site, token) = Site::prepare(&platform, "alpha", 1).await?;
    site.install_operator(&token)?;
    for death in deaths.by_ref().take(2) {
        die(&mut platform, &site, death).await?;
    }
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    steps::wait_all_succeeded(&platform, &site, COMMAND_MAX).await?;

    let tenant =
        |name: &str| (Method::POST, "/api/v1/tenants".to_owned(), json!({ "name": name, "clusters": ["alpha"] }));
    let create = |tenant: &str, app: &str, pods: u32| {
        (Method::POST, format!("/api/v1/tenants/{tenant}/apps"), steps::web_application(app, pods, &["alpha"]))
    };
    let replace = |tenant: &str, app: &str, pods: u32| {
        (Method::PUT, format!("/api/v1/tenants/{tenant}/apps/{app}"), steps::web_application(app, pods, &["alpha"]))
    };
    let requests = [
        tenant("acme"),
        create("acme", "shop", 1),
        replace("acme", "shop", 3),
        create("acme", "cart", 1),
        tenant("globex"),
        create("globex", "site", 1),
        replace("globex", "site", 2),
        replace("acme", "shop", 2),
    ];
    for ((method, path, body), death) in requests.into_iter().zip(deaths) {
        let rest = platform.rest.clone();
        let request = tokio::spawn(async move { rest.write_through(method, &path, &body, COMMAND_MAX).await });
        die(&mut platform, &site, death).await?;
        let accepted = request.await??;
        steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    }

    for (tenant, application, pods) in [("acme", "shop", 2), ("acme", "cart", 1), ("globex", "site", 2)] {
        each_once(&platform, &site, tenant, application, pods).await?;
    }
    // One command a request: none was made twice.
    let commands =
        platform.postgres.query("kubenova", "select count(*) from commands where kind <> 'apply-cluster-config'")?;
    assert_eq!(commands.trim(), "8", "one command a request");
    ledger_and_events_agree(&platform).await
}

/// Every sealed window once in the ledger, and once as an event.
async fn ledger_and_events_agree(platform: &Platform) -> Result<()> {
    poll::until("a window of both tenants in the ledger", COMMAND_MAX, || async {
        let sql = "select count(distinct tenant_id) from ledger where pod_count_ms > 0";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == "2", (), format!("{} tenants have usage", seen.trim())))
    })
    .await?;
    steps::wait_billed(platform).await
}

/// Times that a broker is killed as soon as it answers again.
const FLAPS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn fault_kill_broker_and_lose_its_store() -> Result<()> {
    let (mut platform, site) = joined().await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    platform.lose_broker_store().await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    platform.hub.kill();
    let body = steps::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    platform.lose_broker_store().await?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    each_once(&platform, &site, "acme", "shop", 2).await?;

    // It flaps.
    let accepted = scale(&platform, 3).await?;
    for _ in 0..FLAPS {
        platform.hub.kill();
        platform.hub.restart().await?;
    }
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    each_once(&platform, &site, "acme", "shop", 3).await?;
    Box::pin(database_is_killed(&mut platform, &site)).await?;
    Box::pin(cluster_is_cut_off(&platform, &site)).await
}

async fn scale(platform: &Platform, replicas: u32) -> Result<Value> {
    let body = steps::web_application("shop", replicas, &["alpha"]);
    platform.rest.write_through(Method::PUT, "/api/v1/tenants/acme/apps/shop", &body, COMMAND_MAX).await
}

/// PostgreSQL is killed with a command on its way, and a request waits until it is back.
async fn database_is_killed(platform: &mut Platform, site: &Site) -> Result<()> {
    let under_way = scale(platform, 1).await?;
    platform.postgres.kill();
    let rest = platform.rest.clone();
    let waiting = tokio::spawn(async move {
        let body = steps::web_application("cart", 1, &["alpha"]);
        rest.write_through(Method::POST, "/api/v1/tenants/acme/apps", &body, COMMAND_MAX).await
    });
    platform.postgres.restart().await?;
    let accepted = waiting.await??;
    for commands in [&under_way["commands"], &accepted["commands"]] {
        steps::wait_commands(platform, commands, "succeeded", COMMAND_MAX).await?;
    }
    each_once(platform, site, "acme", "shop", 1).await?;
    each_once(platform, site, "acme", "cart", 1).await
}

/// A cluster is cut off until it counts as offline. What was requested meanwhile is carried out when it is back, once and only the
/// last of it, and what its tenants used meanwhile is in the ledger.
async fn cluster_is_cut_off(platform: &Platform, site: &Site) -> Result<()> {
    let is_offline = |is: bool| async move {
        poll::until(format!("the cluster to be offline: {is}"), COMMAND_MAX, || async {
            let shown = platform.rest.get("/api/v1/clusters/alpha").await?.expect(200)?;
            let connection = shown["connection"].to_string();
            Ok(Step::when((connection != "\"connected\"") == is, (), connection))
        })
        .await
    };
    let cut_at = clock::now().as_second();
    site.cluster.cut(Cut::Silent)?;
    is_offline(true).await?;
    let replaced = scale(platform, 2).await?;
    let last = scale(platform, 3).await?;
    assert_eq!(steps::ready_pods(site, "acme", "shop")?, 1, "nothing reaches the cluster");
    let healed_at = clock::now().as_second();
    site.cluster.heal()?;
    is_offline(false).await?;
    steps::wait_commands(platform, &last["commands"], "succeeded", COMMAND_MAX).await?;
    steps::wait_commands(platform, &replaced["commands"], "superseded", COMMAND_MAX).await?;
    each_once(platform, site, "acme", "shop", 3).await?;
    let whole = (healed_at - cut_at) / i64::from(WINDOW_SECONDS) - 1;
    ensure!(whole > 1, "the cluster was cut off for {} s only", healed_at - cut_at);
    poll::until("the usage of the time without a connection", COMMAND_MAX, || async {
        let sql = format!(
            "select count(*) from usage_windows where extract(epoch from window_start) >= {cut_at}
             and extract(epoch from window_start) + seconds <= {healed_at}"
        );
        let received: i64 = platform.postgres.query("kubenova", &sql)?.trim().parse()?;
        Ok(Step::when(received >= whole, (), format!("{received} windows of {whole}")))
    })
    .await?;
    steps::wait_billed(platform).await
}
