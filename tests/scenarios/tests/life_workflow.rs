//! A workflow that is held is no failure: its command waits longer than the deadline, and whoever may write the application
//! holds the workflow, lets it go and ends it over REST. Each operation has its effect once, also when the Operator dies in between.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{failpoints, operators};
use serde_json::{Value, json};

/// The Operator's progress deadline here.
const DEADLINE: Duration = Duration::from_secs(20);
const APPS: &str = "/api/v1/tenants/acme/apps";

/// An application whose workflow is held twice before it deploys.
fn application(name: &str, replicas: u32) -> Value {
    json!({ "clusters": ["alpha"], "application": {
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": { "name": name },
        "spec": {
            "components": [{
                "name": name,
                "type": "webservice",
                "properties": { "image": "shop/web:1", "cpu": "100m", "memory": "64Mi" },
                "traits": [{ "type": "scaler", "properties": { "replicas": replicas } }],
            }],
            "workflow": { "steps": [
                { "name": "first", "type": "suspend" },
                { "name": "second", "type": "suspend" },
                { "name": "deploy", "type": "apply-component", "properties": { "component": name } },
            ] },
        },
    } })
}

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
        let world = Self { platform, site };
        world.shorten_the_deadline().await?;
        Ok(world)
    }

    /// As a site does that has changed its values.
    async fn shorten_the_deadline(&self) -> Result<()> {
        let cluster = &self.site.cluster;
        let mut map = self.site.get(&["configmap", "kubenova-operator", "-n", NAMESPACE])?;
        let settings = text(&map, "/data/operator.yaml")?;
        let kept = settings.lines().filter(|line| !line.starts_with("progressDeadlineSeconds:"));
        let settings = kept.map(|line| format!("{line}\n")).collect::<String>();
        map["data"]["operator.yaml"] = json!(format!("{settings}progressDeadlineSeconds: {}\n", DEADLINE.as_secs()));
        let file = self.platform.sandbox.folder("settings")?.join("map.json");
        std::fs::write(&file, map.to_string())?;
        cluster.kubectl_ok(&["replace", "-f", file.to_str().context("the folder's name is not text")?])?;
        operators::scale_and_wait(&self.site, 0).await?;
        operators::scale_and_wait(&self.site, 1).await
    }

    async fn apply(&self, name: &str, replicas: u32) -> Result<String> {
        let accepted = self.platform.rest.post(APPS, &application(name, replicas)).await?.expect(202)?;
        text(&accepted, "/commands/0/id")
    }

    async fn command(&self, id: &str) -> Result<Value> {
        self.platform.rest.get(&format!("/api/v1/commands/{id}")).await?.expect(200)
    }

    /// Waits until the command waits, held by this step.
    async fn held_at(&self, id: &str, name: &str, step: &str) -> Result<()> {
        poll::until(format!("{name} to be held at {step}"), COMMAND_MAX, || async {
            let command = self.command(id).await?;
            // Until it is applied there is none.
            let live = self.live(name).unwrap_or_default();
            let steps = live.pointer("/status/workflow/steps").and_then(Value::as_array).cloned().unwrap_or_default();
            let is_held = steps.iter().any(|one| one["name"] == step && one["phase"] == "suspending");
            let says = command["state"] == "running" && command["reason"] == "WorkflowSuspending";
            Ok(Step::when(is_held && says, (), format!("{command} {}", live["status"]["workflow"])))
        })
        .await
    }

    /// The command does not fail for half a deadline longer than the deadline.
    async fn outlasts_the_deadline(&self, id: &str) -> Result<()> {
        let begun = Instant::now();
        poll::until("the deadline to be over", COMMAND_MAX, || async {
            let command = self.command(id).await?;
            if command["state"] != "running" {
                bail!("it did not wait: {command}");
            }
            Ok(Step::when(begun.elapsed() > DEADLINE + DEADLINE / 2, (), command.to_string()))
        })
        .await
    }

    fn live(&self, name: &str) -> Result<Value> {
        self.site.get(&["applications.core.oam.dev", name, "-n", "acme-apps"])
    }

    /// Requests an operation on the workflow; the id of its command.
    async fn operate(&self, name: &str, word: &str) -> Result<String> {
        let path = format!("{APPS}/{name}/workflow/{word}");
        text(&self.platform.rest.post(&path, &json!({})).await?.expect(202)?, "/commands/0/id")
    }

    async fn ended(&self, id: &str, state: &str, reason: &str) -> Result<()> {
        let command = steps::wait_command(&self.platform, id, state, COMMAND_MAX).await?;
        assert_eq!(command["reason"], reason, "{command}");
        Ok(())
    }

    /// Lets the workflow go as `vela workflow resume` of the cluster's administrator does.
    fn resume_in_the_cluster(&self, name: &str) -> Result<()> {
        let mut workflow = self.live(name)?["status"]["workflow"].take();
        workflow["suspend"] = json!(false);
        for step in workflow["steps"].as_array_mut().into_iter().flatten() {
            if step["phase"] == "suspending" {
                step["phase"] = json!("running");
            }
        }
        let patch = json!({ "status": { "workflow": workflow } }).to_string();
        let object = ["applications.core.oam.dev", name, "-n", "acme-apps"];
        let arguments = ["patch", "--subresource=status", "--type=merge", "--patch", &patch];
        self.site.cluster.kubectl_ok(&[&arguments[..], &object[..]].concat()).map(drop)
    }

    /// Lets the workflow go with an Operator that dies at a hop.
    async fn resume_through_a_death(&self, name: &str, hop: &str) -> Result<()> {
        let before = failpoints::start_operator_with(&self.site, hop)?;
        let id = self.operate(name, "resume").await?;
        failpoints::operator_died_and_back(&self.site, hop, before).await?;
        self.ended(&id, "succeeded", "Resumed").await.with_context(|| hop.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn life_workflow_waits_for_whoever_holds_it_and_is_let_go_and_ended_over_rest() -> Result<()> {
    let world = World::start().await?;
    let shop = world.apply("shop", 1).await?;
    world.held_at(&shop, "shop", "first").await?;
    world.outlasts_the_deadline(&shop).await?;

    // Each operation has its effect once: the step after the one that it lets go holds the workflow again.
    world.resume_through_a_death("shop", "dispatch.started").await?;
    world.held_at(&shop, "shop", "second").await?;
    world.resume_through_a_death("shop", "dispatch.applied").await?;
    world.ended(&shop, "succeeded", "Running").await?;
    assert_eq!(steps::ready_pods(&world.site, "acme", "shop")?, 1);

    // What is not held is not let go, and what has ended is not held.
    let resume = world.operate("shop", "resume").await?;
    world.ended(&resume, "failed", "WorkflowEnded").await?;

    // Ended instead of let go: the command fails, and may be restarted.
    let cart = world.apply("cart", 1).await?;
    world.held_at(&cart, "cart", "first").await?;
    let terminate = world.operate("cart", "terminate").await?;
    world.ended(&terminate, "succeeded", "Terminated").await?;
    world.ended(&cart, "failed", "WorkflowFailed").await?;

    // More pods than the quota has: the last step works, and whoever holds it there stops the clock.
    let slow = world.apply("slow", 100).await?;
    world.held_at(&slow, "slow", "first").await?;
    let resume = world.operate("slow", "resume").await?;
    world.ended(&resume, "succeeded", "Resumed").await?;
    world.held_at(&slow, "slow", "second").await?;
    world.resume_in_the_cluster("slow")?;
    poll::until("the last step to work", COMMAND_MAX, || async {
        let live = world.live("slow")?;
        let workflow = &live["status"]["workflow"];
        let works = live["status"]["status"] == "runningWorkflow" && workflow["suspend"] == false;
        Ok(Step::when(works, (), workflow.to_string()))
    })
    .await?;
    let suspend = world.operate("slow", "suspend").await?;
    world.ended(&suspend, "succeeded", "Suspended").await?;
    world.held_at(&slow, "slow", "deploy").await?;
    world.outlasts_the_deadline(&slow).await?;
    let resume = world.operate("slow", "resume").await?;
    world.ended(&resume, "succeeded", "Resumed").await?;
    world.ended(&slow, "failed", "ProgressDeadlineExceeded").await
}
