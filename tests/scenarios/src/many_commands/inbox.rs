//! A real cluster: thousands of inbox records in its API server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_simulator::cluster::SimulatedCluster;

use super::{Case, Restart, Row};
use crate::platform::Platform;
use crate::simulated::{self, Others};
use crate::site::{OPERATOR, Site};
use crate::steps::{self, COMMAND_MAX};

/// For a session to begin again.
const BACK_MAX: Duration = Duration::from_secs(180);

/// As many requests would need as many objects, so the commands are written as the store writes them: applications of a tenant that
/// is not on the cluster wait for it and stay open, tenants that cannot be read have failed.
fn enqueue_all(platform: &Platform, site: &Site, count: usize) -> Result<()> {
    let sql = format!(
        "with counter as (
             update clusters set revision_counter = revision_counter + {count} where id = '{}' returning id, revision_counter
         )
         insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, generation, created_by, queued_at)
         select gen_random_uuid(), c.id, c.revision_counter - {count} + n,
                case n % 2 when 0 then 'apply-application' else 'apply-tenant' end,
                case n % 2 when 0 then 'application/' || t.id || '/app-' || n else 'tenant/' || gen_random_uuid() end,
                '{{}}', t.id, 1, 'test', now()
         from tenants t, counter c, generate_series(1, {count}) n where t.name = 'acme'",
        site.id
    );
    platform.postgres.query("kubenova", &sql).map(drop)
}

/// Waits until the cluster has looked at each: one waits for its tenant until it has failed, too.
async fn wait_stored(platform: &Platform, case: &Case) -> Result<()> {
    poll::until("all commands to be stored and looked at", case.states_max, || async {
        let sql = "select count(*) from commands where created_by = 'test' and state in ('running', 'failed')";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == case.commands.to_string(), (), format!("{} are", seen.trim())))
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
) -> Result<(Duration, Others)> {
    let begun = Instant::now();
    let back = async {
        poll::until("the cluster to be in a later session", BACK_MAX, || async {
            let now = session(platform, site)?;
            Ok(Step::when(now > before, (), format!("session {now}, before {before}")))
        })
        .await?;
        Ok(begun.elapsed())
    };
    let (others, took) = futures::try_join!(simulated::others_go_on(platform, others, what), back)?;
    Ok((took, others))
}

async fn restart(platform: &mut Platform, site: &Site, others: &[SimulatedCluster], what: Restart) -> Result<Row> {
    let (name, begun, before) = (what.name(), Instant::now(), session(platform, site)?);
    let operator = || {
        ensure!(site.cluster.pods().kill9(OPERATOR) > 0, "no Operator ran");
        Ok(())
    };
    what.carry_out(platform, operator).await?;
    if what == Restart::Manager {
        // The session goes on.
        let others = simulated::others_go_on(platform, others, name).await?;
        return Ok(Row::new(name, begun.elapsed(), Some(others)));
    }
    let (took, others) = comes_back(platform, site, others, before, name).await?;
    Ok(Row::new(format!("{name}, until the cluster was in session again"), took, Some(others)))
}

/// The case on a cluster that is Ready, while tenant `acme` is on the others alone.
///
/// # Errors
/// When a command to another cluster takes too long, the cluster does not come back, or a record is missing in the end.
pub async fn run(platform: &mut Platform, site: &Site, others: &[SimulatedCluster], case: &Case) -> Result<Vec<Row>> {
    let begun = Instant::now();
    enqueue_all(platform, site, case.commands)?;
    let meanwhile = simulated::others_go_on(platform, others, "commands-arrive").await?;
    wait_stored(platform, case).await?;
    let what = format!("{} commands, stored and looked at by a real cluster", case.commands);
    let mut rows = vec![Row::new(what, begun.elapsed(), Some(meanwhile))];
    for what in &case.restarts {
        rows.push(restart(platform, site, others, *what).await?);
    }
    let begun = Instant::now();
    let late = steps::create_tenant(platform, "late", &[&site.name]).await?;
    steps::wait_commands(platform, &late["commands"], "succeeded", COMMAND_MAX).await?;
    rows.push(Row::new("a further tenant of that cluster", begun.elapsed(), None));
    wait_stored(platform, case).await?;
    let records = site.cluster.kubectl_ok(&["get", "novacommands", "-A", "-o", "name"])?.lines().count();
    // The tenant's own, and the configuration.
    ensure!(records == case.commands + 2, "{records} records of {} commands", case.commands);
    Ok(rows)
}
