//! A real cluster with thousands of inbox records, half of which have not ended: when its Operator, the Manager or the broker starts
//! again, it comes back, and commands to other clusters go on meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::site::{OPERATOR, Site};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_simulator::cluster::{Options, SimulatedCluster};

/// Commands of the one cluster. 6,000 were tried, too: to store them takes a debug build eight minutes on a busy machine.
const COMMANDS: usize = 1_500;
/// For as many records to be stored and to have a state, in a debug build on a busy machine.
const STORED_MAX: Duration = Duration::from_secs(900);
/// For a session to begin again.
const BACK_MAX: Duration = Duration::from_secs(180);

/// As many requests would need as many objects, so the commands are written as the store writes them: applications of a tenant that
/// is not on the cluster wait for it and stay open, tenants that cannot be read have failed.
fn enqueue_all(platform: &Platform) -> Result<()> {
    let sql = format!(
        "with counter as (
             update clusters set revision_counter = revision_counter + {COMMANDS} where name = 'alpha' returning id, revision_counter
         )
         insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, generation, created_by, queued_at)
         select gen_random_uuid(), c.id, c.revision_counter - {COMMANDS} + n,
                case n % 2 when 0 then 'apply-application' else 'apply-tenant' end,
                case n % 2 when 0 then 'application/' || t.id || '/app-' || n else 'tenant/' || gen_random_uuid() end,
                '{{}}', t.id, 1, 'test', now()
         from tenants t, counter c, generate_series(1, {COMMANDS}) n"
    );
    platform.postgres.query("kubenova", &sql).map(drop)
}

/// Waits until the cluster has looked at each: one waits for its tenant until it has failed, too.
async fn wait_stored(platform: &Platform) -> Result<()> {
    poll::until("all commands to be stored and looked at", STORED_MAX, || async {
        let sql = "select count(*) from commands where created_by = 'test' and state in ('running', 'failed')";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == COMMANDS.to_string(), (), format!("{} are", seen.trim())))
    })
    .await
}

/// The session that the cluster has now, with a heartbeat.
fn session(platform: &Platform, site: &Site) -> Result<u64> {
    let sql = format!("select coalesce(max(session), 0) from sessions where cluster_id = '{}'", site.id);
    Ok(platform.postgres.query("kubenova", &sql)?.trim().parse()?)
}

/// Commands to the others go on, and the cluster is in a later session.
async fn comes_back(
    platform: &Platform,
    site: &Site,
    others: &[SimulatedCluster],
    before: u64,
    what: &str,
) -> Result<()> {
    let begun = Instant::now();
    let back = async {
        poll::until("the cluster to be in a later session", BACK_MAX, || async {
            let now = session(platform, site)?;
            Ok(Step::when(now > before, (), format!("session {now}, before {before}")))
        })
        .await?;
        eprintln!("{what}: the cluster with {COMMANDS} records was in session after {:.1?}", begun.elapsed());
        Ok(())
    };
    let ((), ()) = futures::try_join!(simulated::others_go_on(platform, others, what), back)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_inbox_of_thousands_of_records_delays_no_other_cluster() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    let others = simulated::join(&platform, "other", 4, Options::default()).await?;
    simulated::wait_in_session(&others, COMMAND_MAX).await?;
    let names: Vec<&str> = others.iter().map(|cluster| cluster.name.as_str()).collect();
    let tenant = steps::create_tenant(&platform, "acme", &names).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;

    let begun = Instant::now();
    enqueue_all(&platform)?;
    simulated::others_go_on(&platform, &others, "commands-arrive").await?;
    wait_stored(&platform).await?;
    eprintln!("{COMMANDS} commands were stored and looked at in {:.1?}", begun.elapsed());

    let before = session(&platform, &site)?;
    ensure!(site.cluster.pods().kill9(OPERATOR) > 0, "an Operator ran");
    comes_back(&platform, &site, &others, before, "operator-restarts").await?;
    platform.manager.kill();
    platform.manager.restart()?;
    simulated::others_go_on(&platform, &others, "manager-restarts").await?;
    let before = session(&platform, &site)?;
    platform.hub.kill();
    platform.hub.restart().await?;
    comes_back(&platform, &site, &others, before, "broker-restarts").await?;

    let late = steps::create_tenant(&platform, "late", &["alpha"]).await?;
    steps::wait_commands(&platform, &late["commands"], "succeeded", COMMAND_MAX).await?;
    wait_stored(&platform).await?;
    let records = site.cluster.kubectl_ok(&["get", "novacommands", "-A", "-o", "name"])?.lines().count();
    // The tenant's own, and the configuration.
    ensure!(records == COMMANDS + 2, "{records} records of {COMMANDS} commands");
    Ok(())
}
