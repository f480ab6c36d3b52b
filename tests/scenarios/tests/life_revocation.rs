//! A cluster is shut out, leaves, and comes back: revoked credentials are refused everywhere, what runs there and what is wanted there
//! stay, and a new token brings the same cluster back without touching its pod. A copy of a cluster is noticed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_schema::v1::Hello;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const JOIN_MAX: Duration = Duration::from_secs(120);
/// For the broker's servers to have a revocation a second or two, and for the Operator to ask the Manager why 20 s at most; the rest
/// is for a busy machine.
const REVOKED_MAX: Duration = Duration::from_secs(60);
/// From the request until the last connection is ended and no server lets the cluster in: the design's promise.
const SHUT_OUT_MAX: SignedDuration = SignedDuration::from_secs(5);
/// KubeVela, which applications go through.
const KUBEVELA: &str = "app.kubernetes.io/name=vela-core";

async fn cluster(platform: &Platform, site: &Site) -> Result<Value> {
    platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)
}

async fn wait_cluster(platform: &Platform, site: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    poll::until(format!("cluster {} {what}", site.name), JOIN_MAX, || async {
        let body = cluster(platform, site).await?;
        let seen = format!("{} {} {}", body["state"], body["refusedHello"], body["credentials"]);
        Ok(Step::when(is_so(&body), body, seen))
    })
    .await
}

/// Gives the cluster another token, as `helm upgrade` does, and waits until it has joined with it.
async fn enroll_again(platform: &Platform, site: &Site, incarnation: &str) -> Result<()> {
    let path = format!("/api/v1/clusters/{}/enrollments", site.id);
    let token = text(&platform.rest.post(&path, &json!({})).await?.expect(201)?, "/token")?;
    site.set_value(&format!("enrollment.token={token}"))?;
    let enrolled = |body: &Value| body["credentials"]["incarnation"] == incarnation && body["state"] == "enrolled";
    wait_cluster(platform, site, &format!("to be enrolled as incarnation {incarnation}"), enrolled).await?;
    for condition in ["TokenAccepted", "IdentityIssued", "BusConnected"] {
        site.wait_condition(condition, "True", JOIN_MAX).await?;
    }
    Ok(())
}

/// UID of the tenant's object: another one would mean that it was deleted and made again.
fn tenant_uid(site: &Site) -> Result<String> {
    text(&site.get(&["novatenant", "acme"])?, "/metadata/uid")
}

/// States of a command that the cluster has, and that has not ended.
const IN_PROGRESS: [&str; 2] = ["acknowledged", "running"];

async fn state_of(platform: &Platform, command: &str) -> Result<String> {
    text(&platform.rest.get(&format!("/api/v1/commands/{command}")).await?.expect(200)?, "/state")
}

async fn wait_in_progress(platform: &Platform, command: &str) -> Result<()> {
    poll::until("the command to be carried out", COMMAND_MAX, || async {
        let state = state_of(platform, command).await?;
        Ok(Step::when(IN_PROGRESS.contains(&state.as_str()), (), state))
    })
    .await
}

/// Waits until the cluster has sealed a window that began when no server let it in any more.
async fn wait_late_seal(site: &Site, revocation: &Value) -> Result<()> {
    let since: Timestamp = text(revocation, "/effectiveAt")?.parse()?;
    poll::until("a window sealed without credentials", COMMAND_MAX, || async {
        let reports = site.list(&["novausagereports", "-n", NAMESPACE])?;
        // The report of a window that is still open is there, too: sealed after the next enrollment, it counts as that one's.
        let sealed = reports.iter().filter(|report| report["status"]["manifest"].is_string());
        let names = sealed.filter_map(|report| report.pointer("/metadata/name")?.as_str());
        // w<start>-<seconds>
        let starts = names.filter_map(|name| name.strip_prefix('w')?.split('-').next()?.parse::<i64>().ok());
        let last = starts.max().unwrap_or_default();
        Ok(Step::when(last > since.as_second(), (), format!("the last one began at {last}")))
    })
    .await
}

/// Usage windows in the ledger that began when no server let the cluster in any more, and were sealed with what it had until then.
fn late_windows(platform: &Platform, revocation: &Value) -> Result<u32> {
    let since = text(revocation, "/effectiveAt")?;
    let sql = format!("select count(*) from usage_windows where window_start >= '{since}' and incarnation = '1'");
    platform.postgres.query("kubenova", &sql)?.trim().parse().context("a count is a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn life_revocation_a_cluster_is_shut_out_leaves_and_comes_back() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMPONENTS_MAX).await?;
    let apps = "/api/v1/tenants/acme/apps";
    let shop = platform.rest.post(apps, &steps::web_application("shop", 1, &["alpha"])).await?.expect(202)?;
    steps::wait_commands(&platform, &shop["commands"], "succeeded", COMMAND_MAX).await?;
    let (uid, pids) = (tenant_uid(&site)?, site.operator()?.pids());
    // One command is being carried out: the cluster has it, and KubeVela does nothing.
    let kubevela = site.cluster.pods().labelled(KUBEVELA);
    ensure!(kubevela.iter().map(|pod| pod.signal(Signal::SIGSTOP)).sum::<usize>() > 0, "KubeVela does not run");
    let slow = platform.rest.post(apps, &steps::web_application("slow", 1, &["alpha"])).await?.expect(202)?;
    let slow_id = text(&slow, "/commands/0/id")?;
    wait_in_progress(&platform, &slow_id).await?;

    let begun = Instant::now();
    let body = json!({ "cluster": "alpha", "message": "a laptop was lost" });
    let revoke = format!("/api/v1/clusters/{}/revoke", site.id);
    platform.rest.post(&revoke, &body).await?.expect(202)?;
    let revoked = wait_cluster(&platform, &site, "to be revoked", |body| body["state"] == "revoked").await?;
    let refused = site.wait_condition("BusConnected", "False", REVOKED_MAX).await?;
    // Behind a leaf node the Operator sees that the hub is gone from it, and learns why from the Manager. A heartbeat may come after the
    // Manager has stored the revocation and before the broker's servers have it.
    let expected = ["CredentialsRevoked", "CredentialsRefused", "LeafWithoutHub", "ClusterNotTrusted"];
    ensure!(expected.contains(&refused.as_str()), "the broker said {refused}");
    let renewal = site.wait_condition("IdentityIssued", "False", REVOKED_MAX).await?;
    assert_eq!(renewal, "CredentialsRevoked");
    let revocation = &revoked["credentials"]["revocation"];
    let at = |field: &str| -> Result<Timestamp> { Ok(text(revocation, field)?.parse()?) };
    let took = at("/effectiveAt")?.duration_since(at("/requestedAt")?);
    eprintln!(
        "every server of the broker had the revocation after {took:.0?}, the cluster said so after {:?}",
        begun.elapsed()
    );
    ensure!(took <= SHUT_OUT_MAX, "it took {took:#}");
    ensure!(text(&revoked, "/stateMessage")?.ends_with(": a laptop was lost"), "{revoked}");
    // Wanted meanwhile: it waits.
    let other = platform.rest.post(apps, &steps::web_application("other", 1, &["alpha"])).await?.expect(202)?;
    let other_id = text(&other, "/commands/0/id")?;
    assert_eq!(tenant_uid(&site)?, uid, "what runs there stays");
    // What the cluster was asked for before, it goes on with; nothing of that arrives.
    for pod in &kubevela {
        pod.signal(Signal::SIGCONT);
    }
    poll::until("the application that was asked for before", COMMAND_MAX, || async {
        let ready = steps::ready_pods(&site, "acme", "slow")?;
        Ok(Step::when(ready == 1, (), format!("{ready} pods are ready")))
    })
    .await?;
    ensure!(IN_PROGRESS.contains(&state_of(&platform, &slow_id).await?.as_str()), "its outcome arrived");
    assert_eq!(state_of(&platform, &other_id).await?, "queued");
    let commands = site.list(&["novacommands", "-n", NAMESPACE])?;
    let keys: Vec<&str> = commands.iter().filter_map(|command| command.pointer("/spec/key")?.as_str()).collect();
    ensure!(keys.iter().any(|key| key.ends_with("/slow")), "{keys:?}");
    ensure!(!keys.iter().any(|key| key.ends_with("/other")), "a command reached it: {keys:?}");
    wait_late_seal(&site, revocation).await?;
    let late = late_windows(&platform, revocation)?;
    assert_eq!(late, 0, "usage of the time since then arrived");

    enroll_again(&platform, &site, "2").await?;
    for id in [&slow_id, &other_id] {
        steps::wait_command(&platform, id, "succeeded", COMMAND_MAX).await?;
    }
    // What was sealed meanwhile was so with a key that the cluster had enrolled: it counts once a cluster that is let in brings it.
    poll::until("usage of the time without credentials", COMMAND_MAX, || async {
        let late = late_windows(&platform, revocation)?;
        Ok(Step::when(late > 0, (), "none".to_owned()))
    })
    .await?;
    steps::wait_billed(&platform).await?;

    let detach = format!("/api/v1/clusters/{}/detach", site.id);
    platform.rest.post(&detach, &json!({ "cluster": "alpha" })).await?.expect(202)?;
    site.wait_condition("BusConnected", "False", REVOKED_MAX).await?;
    let enrollments = format!("/api/v1/clusters/{}/enrollments", site.id);
    let refused = platform.rest.post(&enrollments, &json!({})).await?;
    assert_eq!(refused.body["reason"], "CLUSTER_NOT_USABLE", "{}", refused.body);
    let path = "/api/v1/tenants/acme/apps/shop";
    platform.rest.get(path).await?.expect(200)?;
    platform.rest.post(&format!("/api/v1/clusters/{}/undelete", site.id), &json!({})).await?.expect(200)?;
    enroll_again(&platform, &site, "3").await?;
    let restarted = platform.rest.post(&format!("{path}/restart"), &json!({})).await?.expect(202)?;
    steps::wait_commands(&platform, &restarted["commands"], "succeeded", COMMAND_MAX).await?;
    assert_eq!(tenant_uid(&site)?, uid, "never deleted");
    assert_eq!(site.operator()?.pids(), pids, "the process never ended");
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}

#[tokio::test(flavor = "multi_thread")]
async fn life_revocation_a_copy_of_a_cluster_is_quarantined_until_a_person_decides() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMPONENTS_MAX).await?;
    let broker = broker::connect(&platform, &broker::keyring(&platform)?).await?;
    let cluster_uid =
        site.cluster.kubectl_ok(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
    let sql = "select lease_term from sessions";
    let lease_term = platform.postgres.query("kubenova", sql)?.trim().parse()?;

    // As an Operator on a restored copy of the cluster's etcd says it: the same credentials, a lease that goes on from there.
    let copy = Hello { boot_id: "copy".to_owned(), cluster_uid, lease_term, ..Hello::default() };
    let first = broker::hello_as(&broker, &site, &copy).await?;
    assert_eq!((first.accepted, first.reason.as_str()), (false, "LeaseTermNotRaised"), "{first:?}");
    // Once is nothing: an Operator that was paused says so, too.
    assert_eq!(cluster(&platform, &site).await?["state"], "enrolled");
    let quarantined = poll::until("the copy to be noticed", Duration::from_secs(150), || async {
        let answer = broker::hello_as(&broker, &site, &copy).await?;
        let body = cluster(&platform, &site).await?;
        Ok(Step::when(body["state"] == "quarantined", body, format!("{}: {}", answer.reason, answer.message)))
    })
    .await?;
    assert_eq!(quarantined["stateReason"], "CredentialsCopied", "{quarantined}");
    // The session is still open, and nothing is sent in it.
    let apps = "/api/v1/tenants/acme/apps";
    let shop = platform.rest.post(apps, &steps::web_application("shop", 1, &["alpha"])).await?.expect(202)?;
    site.wait_condition("BusConnected", "False", JOIN_MAX).await?;
    let command = text(&shop, "/commands/0/id")?;
    let waiting = platform.rest.get(&format!("/api/v1/commands/{command}")).await?.expect(200)?;
    assert_eq!(waiting["state"], "queued", "{waiting}");

    platform.rest.post(&format!("/api/v1/clusters/{}/release", site.id), &json!({})).await?.expect(200)?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    steps::wait_command(&platform, &command, "succeeded", COMMAND_MAX).await.context("after the release")?;
    assert_eq!(cluster(&platform, &site).await?["state"], "enrolled");
    Ok(())
}
