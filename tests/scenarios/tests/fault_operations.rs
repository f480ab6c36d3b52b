//! Operations: carried out once through deaths and redelivery, not begun after their deadline, and cancelled exactly behind a
//! partition.

use anyhow::{Context as _, Result, ensure};
use kubenova_bus::publish;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::random;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{OPERATOR, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{broker, failpoints, operators};
use kubenova_schema::signature::{self, PayloadType};
use kubenova_schema::v1::Command;
use kubenova_schema::{message, subjects};
use serde_json::{Value, json};

/// Where the Operator dies: the record is stored, the operation has begun, it has had its effect, its result is stored.
const HOPS: [&str; 4] = ["inbound.stored", "dispatch.started", "dispatch.applied", "dispatch.noted"];

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
        let body = steps::web_application("shop", 1, &["alpha"]);
        let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
        Ok(Self { platform, site })
    }

    /// Requests a restart; the id of its command.
    async fn restart(&self, deadline_seconds: u32) -> Result<String> {
        let body = json!({ "deadlineSeconds": deadline_seconds });
        let accepted = self.platform.rest.post("/api/v1/tenants/acme/apps/shop/restart", &body).await?.expect(202)?;
        text(&accepted, "/commands/0/id")
    }

    async fn ended(&self, id: &str, state: &str) -> Result<Value> {
        steps::wait_command(&self.platform, id, state, COMMAND_MAX).await
    }

    /// How often the Operator has taken the workflow out of the application's status.
    fn restarts(&self) -> Result<usize> {
        let events = self.site.cluster.audit()?;
        let restarts = events.iter().filter(|event| {
            let of =
                event.object_ref.as_ref().map(|of| (of.resource.as_str(), of.name.as_str(), of.subresource.as_str()));
            let by_operator = event.user.username.ends_with(":kubenova-operator");
            of == Some(("applications", "shop", "status"))
                && event.verb == "update"
                && event.code() == 200
                && by_operator
        });
        Ok(restarts.count())
    }

    /// When the present run of the workflow began.
    fn run(&self) -> Result<String> {
        let path = "jsonpath={.status.workflow.startTime}";
        self.site.cluster.kubectl_ok(&["get", "applications.core.oam.dev", "shop", "-n", "acme-apps", "-o", path])
    }

    async fn operator_is_gone(&self) -> Result<()> {
        operators::scale(&self.site, 0)?;
        poll::until("the Operator to be gone", COMMAND_MAX, || async {
            let left = self.site.cluster.pods().labelled(OPERATOR).len();
            Ok(Step::when(left == 0, (), format!("{left} pods")))
        })
        .await
    }

    /// Restarts with an Operator that dies at a hop.
    async fn restart_through_a_death(&self, hop: &str) -> Result<String> {
        let before = failpoints::start_operator_with(&self.site, hop)?;
        let id = self.restart(600).await?;
        failpoints::operator_died_and_back(&self.site, hop, before).await?;
        self.ended(&id, "succeeded").await.with_context(|| hop.to_owned())?;
        Ok(id)
    }

    /// Delivers the operation once more, signed by the Manager as it was.
    async fn deliver_again(&self, id: &str) -> Result<()> {
        let keyring = broker::keyring(&self.platform)?;
        let connection = broker::connect(&self.platform, &keyring).await?;
        let shown = self.platform.rest.get(&format!("/api/v1/commands/{id}")).await?.expect(200)?;
        let uid =
            self.site.cluster.kubectl_ok(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
        let sql = format!("select document from commands where id = '{id}'");
        let body = message::to_json(&Command {
            id: id.to_owned(),
            cluster_id: self.site.id.clone(),
            cluster_uid: uid,
            epoch: self.platform.postgres.query("kubenova", "select max(epoch) from clusters")?.trim().parse()?,
            revision: text(&shown, "/revision")?.parse()?,
            kind: text(&shown, "/kind")?,
            key: text(&shown, "/target/key")?,
            document: self.platform.postgres.query("kubenova", &sql)?.trim().to_owned(),
            not_after: text(&shown, "/notAfter")?,
            ..Command::default()
        });
        let signed = keyring.command.sign(PayloadType::Command, &body);
        let mut headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        headers.insert(signature::HEADER, signed.as_str());
        let subject = subjects::command(&self.site.id, "restart-workflow");
        publish::publish(&connection.jetstream, &subject, headers, body).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_operations_once_in_time_and_cancelled_exactly() -> Result<()> {
    let world = World::start().await?;
    let mut expected = 0;
    let mut last = String::new();
    for hop in HOPS {
        let run = world.run()?;
        last = world.restart_through_a_death(hop).await?;
        expected += 1;
        assert_eq!(world.restarts()?, expected, "after a death at {hop}");
        ensure!(world.run()? != run, "KubeVela did not begin the workflow again after {hop}");
    }

    // A redelivery is answered and changes nothing. What is requested after it is carried out after it was handled.
    world.deliver_again(&last).await?;
    let next = world.restart(600).await?;
    world.ended(&next, "succeeded").await?;
    expected += 1;
    assert_eq!(world.restarts()?, expected, "a redelivery was carried out");

    // Sent, and not begun in time: it is overdue as long as the cluster reports nothing, and expires there.
    world.operator_is_gone().await?;
    let late = world.restart(10).await?;
    poll::until("the operation to be overdue", COMMAND_MAX, || async {
        let shown = world.platform.rest.get(&format!("/api/v1/commands/{late}")).await?.expect(200)?;
        Ok(Step::when(shown["overdue"] == true && shown["state"] == "sent", (), shown.to_string()))
    })
    .await?;
    operators::scale(&world.site, 1)?;
    world.ended(&late, "expired").await?;

    // Behind a partition: sent, then cancelled, and only then does the cluster come back.
    world.operator_is_gone().await?;
    let cancelled = world.restart(3_600).await?;
    world.ended(&cancelled, "sent").await?;
    let asked =
        world.platform.rest.post(&format!("/api/v1/commands/{cancelled}/cancel"), &json!({})).await?.expect(202)?;
    assert_eq!((&asked["state"], &asked["reason"]), (&json!("sent"), &json!("CancelRequested")));
    operators::scale(&world.site, 1)?;
    world.ended(&cancelled, "cancelled").await?;

    // Never sent: it expires at the Manager.
    world.operator_is_gone().await?;
    poll::until("the cluster to be offline", COMMAND_MAX, || async {
        let shown = world.platform.rest.get("/api/v1/clusters/alpha").await?.expect(200)?;
        Ok(Step::when(shown["connection"] != "connected", (), shown["connection"].to_string()))
    })
    .await?;
    let queued = world.restart(10).await?;
    let expired = world.ended(&queued, "expired").await?;
    assert_eq!(expired["attempts"], 0, "{expired}");
    operators::scale(&world.site, 1)?;

    // A last one, which the cluster carries out after all of those: nothing happened later.
    let next = world.restart(600).await?;
    world.ended(&next, "succeeded").await?;
    expected += 1;
    assert_eq!(world.restarts()?, expected, "something expired or cancelled was carried out");
    steps::expect_no_open_commands(&world.platform)
}
