//! An Operator that is suspended in the middle of a write, while another takes the Lease over and carries out what comes later: when it
//! goes on, it writes nothing over that and deletes nothing of it.

use anyhow::{Context as _, Result, ensure};
use kubenova_env::audit::AuditEvent;
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{failpoints, operators};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

/// Where it is suspended: the record and the object are read, and the write is decided.
const WRITING: &str = "dispatch.writing";
/// Where it finds that another has taken over. It takes its time to end there, so that it is the write that is refused.
const ENDING: [&str; 2] = ["lease.lost", "metering.lost"];
const CONFLICT: u16 = 409;
const SHOP: &str = "/api/v1/tenants/acme/apps/shop";

struct World {
    platform: Platform,
    site: Site,
}

impl World {
    async fn start() -> Result<Self> {
        let platform = Platform::start(&PlatformOptions::default()).await?;
        let site = Site::join(&platform, "alpha", 1).await?;
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
        steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
        Ok(Self { platform, site })
    }

    /// Asks for the application with so many replicas, and waits until it is so.
    async fn has(&self, method: Method, replicas: u32) -> Result<Value> {
        let asked = self.ask(method, replicas).await?;
        steps::wait_commands(&self.platform, &asked["commands"], "succeeded", COMMAND_MAX).await?;
        let application = self.application()?;
        ensure!(replicas_of(&application) == Some(replicas.into()), "{application}");
        Ok(application)
    }

    async fn ask(&self, method: Method, replicas: u32) -> Result<Value> {
        let body = steps::web_application("shop", replicas, &["alpha"]);
        let path = if method == Method::POST { "/api/v1/tenants/acme/apps" } else { SHOP };
        self.platform.rest.write_through(method, path, &body, COMMAND_MAX).await
    }

    fn application(&self) -> Result<Value> {
        self.site.get(&["applications.core.oam.dev", "shop", "-n", "acme-apps"])
    }

    /// Writes and deletes of the application that were refused, because it was another version than the one that was looked at.
    fn conflicts(&self, verb: &str) -> Result<usize> {
        let is_one = |event: &&AuditEvent| {
            let of =
                event.object_ref.as_ref().map(|of| (of.resource.as_str(), of.name.as_str(), of.subresource.as_str()));
            event.verb == verb && of == Some(("applications", "shop", "")) && event.code() == CONFLICT
        };
        Ok(self.site.cluster.audit()?.iter().filter(is_one).count())
    }

    /// The suspended Operator goes on: its call is a conflict, it looks again, ends, and nothing has changed by it.
    async fn goes_on(&self, leader: &PodHandle, verb: &str) -> Result<()> {
        let (before, conflicts) = (self.application()?, self.conflicts(verb)?);
        let pids = leader.pids();
        leader.signal(Signal::SIGCONT);
        poll::until(format!("its {verb} to be a conflict"), COMMAND_MAX, || async {
            let now = self.conflicts(verb)?;
            Ok(Step::when(now > conflicts, (), format!("{now} conflicts")))
        })
        .await?;
        operators::ended(leader, &pids).await?;
        let (before, after) = (written(&before)?, written(&self.application()?)?);
        // The generation also rises when the other one has written it back.
        ensure!(after == before, "the Operator that was suspended wrote: {after:?}, it was {before:?}");
        steps::expect_no_open_commands(&self.platform)
    }
}

/// Which object, what of it was asked for, and how often it was written.
fn written(application: &Value) -> Result<(String, Option<u64>, Option<u64>)> {
    let generation = application["metadata"]["generation"].as_u64();
    Ok((text(application, "/metadata/uid")?, replicas_of(application), generation))
}

fn replicas_of(application: &Value) -> Option<u64> {
    let traits = application["spec"]["components"][0]["traits"].as_array()?;
    let scaler = traits.iter().find(|one| one["type"] == "scaler")?;
    scaler["properties"]["replicas"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_operators_a_suspended_one_overwrites_nothing() -> Result<()> {
    let world = World::start().await?;
    world.has(Method::POST, 1).await?;

    // Suspended before it writes an update.
    let (leader, asked) =
        failpoints::operator_suspended_at(&world.site, WRITING, &ENDING, async || world.ask(Method::PUT, 2).await)
            .await?;
    operators::scale_and_wait(&world.site, 2).await?;
    operators::taken_over_from(&world.site, &leader).await?;
    steps::wait_commands(&world.platform, &asked["commands"], "succeeded", COMMAND_MAX).await?;
    world.has(Method::PUT, 3).await?;
    world.goes_on(&leader, "patch").await?;
    operators::scale_and_wait(&world.site, 1).await?;

    // Suspended before it deletes.
    let delete = async || world.platform.rest.write_through(Method::DELETE, SHOP, &json!({}), COMMAND_MAX).await;
    let (leader, asked) = failpoints::operator_suspended_at(&world.site, WRITING, &ENDING, delete).await?;
    operators::scale_and_wait(&world.site, 2).await?;
    operators::taken_over_from(&world.site, &leader).await?;
    steps::wait_commands(&world.platform, &asked["commands"], "succeeded", COMMAND_MAX).await?;
    let new = world.has(Method::POST, 1).await.context("what was deleted is written again")?;
    world.goes_on(&leader, "delete").await?;
    ensure!(text(&world.application()?, "/metadata/uid")? == text(&new, "/metadata/uid")?);
    Ok(())
}
