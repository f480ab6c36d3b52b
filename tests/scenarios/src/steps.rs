//! Steps that several scenarios share: request something over REST, wait until it is so, and say what was seen when not.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kubenova_env::poll::{self, Step};
use serde_json::{Value, json};

use crate::platform::Platform;
use crate::site::{Site, text};

/// For the Operator to install Capsule and KubeVela: about 40 s on two idle cores; a machine that compiles beside it
/// takes several times that.
pub const COMPONENTS_MAX: Duration = Duration::from_secs(300);
/// For a command to end, or a usage window to be in the ledger: seconds, and again several times that.
pub const COMMAND_MAX: Duration = Duration::from_secs(180);

/// Requests a tenant on clusters; returns the answer.
pub async fn create_tenant(platform: &Platform, name: &str, clusters: &[&str]) -> Result<Value> {
    platform.rest.post("/api/v1/tenants", &json!({ "name": name, "clusters": clusters })).await?.expect(202)
}

/// Has the tenants deleted whose names are like this, on every cluster. No route deletes tenants yet, so the commands are written as
/// the store writes them.
pub fn delete_tenants(platform: &Platform, names: &str) -> Result<()> {
    let sql = format!(
        "with wanted as (select id, name from tenants where name like '{names}'),
         counter as (
             update clusters set revision_counter = revision_counter + (select count(*) from wanted) returning id, revision_counter
         )
         insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, generation, created_by, queued_at)
         select gen_random_uuid(), c.id, c.revision_counter - row_number() over (partition by c.id order by t.id) + 1, 'delete-tenant',
                'tenant/' || t.id, json_build_object('metadata', json_build_object('name', t.name)), t.id, 2, 'test', now()
         from wanted t, counter c"
    );
    platform.postgres.query("kubenova", &sql).map(drop)
}

/// A web application with one CPU tenth and 64 MiB a replica.
pub fn web_application(name: &str, replicas: u32, clusters: &[&str]) -> Value {
    json!({ "name": name, "image": "shop/web:1", "replicas": replicas, "port": 80, "cpu": "100m", "memory": "64Mi", "clusters": clusters })
}

/// Waits until every command of a list has this state; a command that ended otherwise fails at once.
pub async fn wait_commands(platform: &Platform, commands: &Value, state: &str, within: Duration) -> Result<()> {
    for command in commands.as_array().context("a list of commands")? {
        wait_command(platform, &text(command, "/id")?, state, within).await?;
    }
    Ok(())
}

/// Waits until a command has this state.
pub async fn wait_command(platform: &Platform, id: &str, state: &str, within: Duration) -> Result<Value> {
    let terminal = ["succeeded", "failed", "refused", "cancelled", "superseded", "expired"];
    poll::until(format!("command {id} to be {state}"), within, || async {
        let answer = match platform.rest.get(&format!("/api/v1/commands/{id}")).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
        };
        let now = answer.body["state"].as_str().unwrap_or_default().to_owned();
        if now != state && terminal.contains(&now.as_str()) {
            bail!("command ended as {now}: {}", answer.body);
        }
        let seen = answer.body.to_string();
        Ok(Step::when(now == state, answer.body, seen))
    })
    .await
}

/// Waits until all commands to a cluster have succeeded.
pub async fn wait_all_succeeded(platform: &Platform, site: &Site, within: Duration) -> Result<()> {
    let path = format!("/api/v1/commands?cluster={}", site.id);
    poll::until(format!("all commands of {} to succeed", site.name), within, || async {
        let body = match platform.rest.get(&path).await {
            Ok(answer) => answer.body,
            Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
        };
        let items = body["items"].as_array().cloned().unwrap_or_default();
        let done = !items.is_empty() && items.iter().all(|item| item["state"] == "succeeded");
        let seen: Vec<String> = items
            .iter()
            .map(|item| format!("{} {} {} {}", item["kind"], item["state"], item["reason"], item["message"]))
            .collect();
        Ok(Step::when(done, (), seen.join("; ")))
    })
    .await
}

/// Fails while a command is not finished.
pub fn expect_no_open_commands(platform: &Platform) -> Result<()> {
    let open = platform.postgres.query("kubenova", "select count(*) from commands where finished_at is null")?;
    ensure!(open.trim() == "0", "{} commands are still open", open.trim());
    Ok(())
}

/// Commands that have not ended, by cluster and state; empty when every one has.
pub fn open_commands(platform: &Platform) -> Result<String> {
    let sql = "select coalesce(string_agg(line, '; '), '') from (
                   select concat_ws(' ', c.name, k.state, k.waiting_for, count(*)) as line
                   from commands k join clusters c on c.id = k.cluster_id
                   where k.finished_at is null group by c.name, k.state, k.waiting_for limit 5) as open";
    Ok(platform.postgres.query("kubenova", sql)?.trim().to_owned())
}

/// Waits until every command to every cluster has ended.
pub async fn wait_no_open_commands(platform: &Platform, within: Duration) -> Result<()> {
    poll::until("every command to end", within, || async {
        let open = open_commands(platform)?;
        Ok(Step::when(open.is_empty(), (), open))
    })
    .await
}

/// Waits until every ledger row went out as a billing event, then fails if a row has not exactly one event id.
pub async fn wait_billed(platform: &Platform) -> Result<()> {
    poll::until("every ledger row to be published as a billing event", COMMAND_MAX, || async {
        let sql = "select count(*) from billing_outbox where published_at is null";
        let waiting = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(waiting.trim() == "0", (), format!("{} are not published yet", waiting.trim())))
    })
    .await?;
    let sql = "select (select count(*) from ledger) - (select count(distinct event_id) from billing_outbox)";
    let difference = platform.postgres.query("kubenova", sql)?;
    ensure!(difference.trim() == "0", "{} ledger rows without exactly one event id", difference.trim());
    Ok(())
}

/// Ready pods of an application in a cluster, read by kubectl.
pub fn ready_pods(site: &Site, tenant: &str, application: &str) -> Result<usize> {
    let selector = format!("app.oam.dev/name={application}");
    let namespace = format!("{tenant}-apps");
    let pods = site.list(&["pods", "-n", &namespace, "-l", &selector])?;
    let ready = |pod: &&Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
    };
    Ok(pods.iter().filter(ready).count())
}
