//! Deaths in the middle: the story completes, each effect once.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::seed::SplitMix64;
use kubenova_scenarios::site::{OPERATOR, Site};
use kubenova_scenarios::story;
use reqwest::Method;
use serde_json::json;

const COMPONENTS_MAX: Duration = Duration::from_secs(240);
const ORDER_MAX: Duration = Duration::from_secs(120);

/// One cluster that has joined and has its components.
async fn joined() -> Result<(Platform, Site)> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    story::wait_all_succeeded(&platform, &site, ORDER_MAX).await?;
    Ok((platform, site))
}

/// Pods of the application and nothing twice: one Application, one Deployment, the wanted pods, nothing left open.
async fn each_once(platform: &Platform, site: &Site, tenant: &str, application: &str, pods: usize) -> Result<()> {
    // Pods that are too many end a moment after the Application runs.
    poll::until(format!("{pods} pods of {application}"), ORDER_MAX, || async {
        let now = story::ready_pods(site, tenant, application)?;
        Ok(Step::when(now == pods, (), format!("{now} pods")))
    })
    .await?;
    let namespace = format!("{tenant}-apps");
    let of = |kind: &str| site.cluster.kubectl_ok(&["get", kind, "-n", &namespace, "-o", "name"]);
    for kind in ["applications.core.oam.dev", "deployments"] {
        let found = of(kind)?.lines().filter(|line| line.ends_with(&format!("/{application}"))).count();
        assert_eq!(found, 1, "{kind} named {application}");
    }
    let open = platform.postgres.query("kubenova", "select count(*) from commands where finished_at is null")?;
    assert_eq!(open.trim(), "0", "commands still open");
    Ok(())
}

/// Who dies, and how long after the order was given.
#[derive(Debug, Clone, Copy)]
struct Death {
    manager: bool,
    operator: bool,
    after: Duration,
}

/// The ten moments of a seed: the first two while the cluster joins, which takes longer than an order.
fn deaths(seed: u64) -> [Death; 10] {
    let mut numbers = SplitMix64::new(seed);
    std::array::from_fn(|moment| {
        let span = if moment < 2 { 8_000 } else { 1_500 };
        let victim = numbers.next() % 3;
        Death { manager: victim != 0, operator: victim != 1, after: Duration::from_millis(numbers.next() % span) }
    })
}

/// Kills whom the moment names, and starts the Manager again.
async fn die(platform: &mut Platform, site: &Site, death: Death) -> Result<()> {
    eprintln!("{death:?}");
    // The fault's moment, not a wait for anything.
    tokio::time::sleep(death.after).await;
    if death.operator {
        poll::until("an Operator to kill", ORDER_MAX, || async {
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
    story::wait_all_succeeded(&platform, &site, ORDER_MAX).await?;

    let tenant =
        |name: &str| (Method::POST, "/api/v1/tenants".to_owned(), json!({ "name": name, "clusters": ["alpha"] }));
    let create = |tenant: &str, app: &str, pods: u32| {
        (Method::POST, format!("/api/v1/tenants/{tenant}/apps"), story::web_application(app, pods, &["alpha"]))
    };
    let replace = |tenant: &str, app: &str, pods: u32| {
        (Method::PUT, format!("/api/v1/tenants/{tenant}/apps/{app}"), story::web_application(app, pods, &["alpha"]))
    };
    let orders = [
        tenant("acme"),
        create("acme", "shop", 1),
        replace("acme", "shop", 3),
        create("acme", "cart", 1),
        tenant("globex"),
        create("globex", "site", 1),
        replace("globex", "site", 2),
        replace("acme", "shop", 2),
    ];
    for ((method, path, body), death) in orders.into_iter().zip(deaths) {
        let rest = platform.rest.clone();
        let order = tokio::spawn(async move { rest.write_through(method, &path, &body, ORDER_MAX).await });
        die(&mut platform, &site, death).await?;
        let accepted = order.await??;
        story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    }

    for (tenant, application, pods) in [("acme", "shop", 2), ("acme", "cart", 1), ("globex", "site", 2)] {
        each_once(&platform, &site, tenant, application, pods).await?;
    }
    // One revision an order: nothing was ordered twice.
    let twice =
        platform.postgres.query("kubenova", "select count(*) from commands where kind <> 'apply-cluster-config'")?;
    assert_eq!(twice.trim(), "8", "one command an order");
    ledger_and_events_agree(&platform).await
}

/// Every sealed window once in the ledger, and once as an event.
async fn ledger_and_events_agree(platform: &Platform) -> Result<()> {
    poll::until("a window of both tenants in the ledger and on its way out", ORDER_MAX, || async {
        let sql = "select (select count(distinct tenant_id) from ledger where pod_count_ms > 0) || ' ' || \
                   (select count(*) from billing_outbox where published_at is null)";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == "2 0", (), seen))
    })
    .await?;
    let sql = "select (select count(*) from ledger) - (select count(distinct event_id) from billing_outbox)";
    assert_eq!(platform.postgres.query("kubenova", sql)?.trim(), "0", "ledger rows without exactly one event id");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_kill_broker_and_lose_its_store() -> Result<()> {
    let (mut platform, site) = joined().await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    platform.lose_broker_store().await?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;

    platform.hub.kill();
    let body = story::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    platform.lose_broker_store().await?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    each_once(&platform, &site, "acme", "shop", 2).await
}
