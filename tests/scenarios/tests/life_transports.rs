//! A cluster whose only way out is an HTTP proxy lives as any other: it joins, carries out commands, reports, is billed and renews its
//! credentials through the proxy, which alone knows the names of Manager and hub; and when the proxy no longer allows the hub's port,
//! it goes on in a WebSocket, and when that is not allowed either, by way of the gRPC bridge. And one whose uplink leads out by IPv6 only
//! lives over the leaf node that its chart runs, also past the end of the credentials that the leaf node started with.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::network::Uplink;
use kubenova_env::poll::{self, Step};
use kubenova_env::sandbox::{HUB_ADDRESS, HUB_ADDRESS_IPV6};
use kubenova_env::syn_capture::SynCapture;
use kubenova_runtime::clock;
use kubenova_scenarios::platform::{
    BRIDGE_PORT, HIDDEN_HUB_HOST, HIDDEN_MANAGER_HOST, HUB_LEAF_PORT, HUB_PORT, HUB_WEBSOCKET_PORT, MANAGER_PORT,
    Platform, PlatformOptions,
};
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_test_nats::connect_proxy::{Behavior, ConnectProxy};
use serde_json::{Value, json};

const JOIN_MAX: Duration = Duration::from_secs(90);
/// Each cause has its own named condition within this time, as in `fault_join`.
const NAMED_WITHIN: Duration = Duration::from_secs(30);
const PROXY_PORT: u16 = 3128;
/// `operator:pa:ss`, in base64.
const LOGIN: &str = "Basic b3BlcmF0b3I6cGE6c3M=";
/// Life of the credentials: a renewal comes after 60 to 75 seconds, and a join on a busy machine well before the end.
const CREDENTIALS_SECONDS: u32 = 180;
/// For the Operator to notice that a transport stays down and to take the next one, which it does after 20 seconds. Less than until the
/// renewal, with which it would try every transport anyway.
const OTHER_TRANSPORT_MAX: Duration = Duration::from_secs(45);

async fn start_proxy() -> Result<ConnectProxy> {
    let manager = format!("{HIDDEN_MANAGER_HOST}:{MANAGER_PORT}");
    let broker = |port| format!("{HIDDEN_HUB_HOST}:{port}");
    let (nats, websocket, bridge) = (broker(HUB_PORT), broker(HUB_WEBSOCKET_PORT), broker(BRIDGE_PORT));
    let names = [
        (manager.as_str(), hub(MANAGER_PORT)?),
        (nats.as_str(), hub(HUB_PORT)?),
        (websocket.as_str(), hub(HUB_WEBSOCKET_PORT)?),
        (bridge.as_str(), hub(BRIDGE_PORT)?),
    ];
    let proxy = ConnectProxy::start(&format!("{HUB_ADDRESS}:{PROXY_PORT}"), &names).await;
    proxy.behave(Behavior::Login(LOGIN.to_owned()));
    Ok(proxy)
}

fn hub(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(HUB_ADDRESS.parse()?, port))
}

async fn issued_at(platform: &Platform, site: &Site) -> Result<String> {
    credentials(platform, site, "issuedAt").await
}

/// What the Manager shows of the cluster's credentials.
async fn credentials(platform: &Platform, site: &Site, field: &str) -> Result<String> {
    let cluster = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?;
    text(&cluster, &format!("/credentials/{field}"))
}

/// Writes the Secret that the chart names.
fn set_login(site: &Site, password: &str) -> Result<()> {
    let kubectl = |args: &[&str]| site.cluster.kubectl_ok(args);
    kubectl(&["delete", "secret", "proxy-credentials", "-n", NAMESPACE, "--ignore-not-found"])?;
    let password = format!("--from-literal=password={password}");
    let create = ["create", "secret", "generic", "proxy-credentials", "-n", NAMESPACE];
    kubectl(&[&create[..], &["--from-literal=username=operator", &password]].concat()).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn life_transports_through_the_only_proxy_in_a_websocket_and_by_grpc() -> Result<()> {
    let options = PlatformOptions {
        is_hidden: true,
        credentials_seconds: Some(CREDENTIALS_SECONDS),
        ..PlatformOptions::default()
    };
    let platform = Platform::start(&options).await?;
    let _bridge = platform.start_bridge().await?;
    let proxy = start_proxy().await?;
    let created = platform.create_cluster("alpha").await?;
    let token = text(&created, "/enrollment/token")?;
    let cluster = Cluster::start(ClusterOptions::new("alpha", 1)).await?;
    let site = Site::without_leaf_node(cluster, &created)?;
    let capture = site.cluster.capture_syns()?;

    // Without the proxy the name is unknown, and the condition says so; the wrong password has a reason of its own.
    site.install_operator(&token)?;
    assert_eq!(site.wait_condition("DNSResolved", "False", NAMED_WITHIN).await?, "NameNotFound");
    set_login(&site, "wrong")?;
    let values = [
        format!("proxy.httpsProxy=http://{HUB_ADDRESS}:{PROXY_PORT}"),
        "proxy.existingSecret=proxy-credentials".to_owned(),
    ];
    site.install_operator_with(&token, &values.each_ref().map(String::as_str))?;
    assert_eq!(site.wait_condition("EndpointReachable", "False", JOIN_MAX).await?, "ProxyAuthenticationRequired");
    set_login(&site, "pa:ss")?;
    // The kubelet writes a changed Secret after a while; a new pod has it at once.
    site.cluster.pods().kill9("app.kubernetes.io/name=kubenova-operator");

    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let via = |transport: &str| format!("{transport} through the proxy http://{HUB_ADDRESS}:{PROXY_PORT}");
    wait_via(&site, &via("nats"), JOIN_MAX).await?;
    // The proxy's rules change: its connections die without a word, and the hub's port is no longer allowed.
    proxy.block(&format!("{HIDDEN_HUB_HOST}:{HUB_PORT}"));
    proxy.forget_connections();
    wait_via(&site, &via("websocket"), OTHER_TRANSPORT_MAX).await?;
    let first = issued_at(&platform, &site).await?;

    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", Duration::from_secs(240)).await?;
    run_application(&platform, "shop", 2).await?;
    assert_eq!(steps::ready_pods(&site, "acme", "shop")?, 2);
    shown_over_rest(&platform, &site, &via("websocket")).await?;
    steps::wait_billed(&platform).await?;
    receipted(&site).await?;

    // Once more without a word, which the pings notice; and the WebSocket's port is no longer allowed either.
    proxy.block(&format!("{HIDDEN_HUB_HOST}:{HUB_WEBSOCKET_PORT}"));
    proxy.forget_connections();
    wait_via(&site, &via("grpc"), JOIN_MAX).await?;
    poll::until("the credentials to be renewed", Duration::from_secs(120), || async {
        let now = issued_at(&platform, &site).await?;
        Ok(Step::when(now != first, (), format!("still those of {now}")))
    })
    .await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    run_application(&platform, "blog", 1).await?;
    shown_over_rest(&platform, &site, &via("grpc")).await?;

    let seen = capture.seen();
    ensure!(!seen.is_empty(), "nothing crossed the uplink");
    for syn in &seen {
        ensure!(syn.destination == hub(PROXY_PORT)?, "past the proxy: {syn:?}");
    }
    let log = site.operator()?.log("operator")?;
    for secret in ["pa:ss", LOGIN.trim_start_matches("Basic ")] {
        ensure!(!log.contains(secret), "the proxy's password is in the Operator's log");
    }
    let sockets = site.operator()?.listening_sockets();
    ensure!(sockets.iter().all(|socket| socket.address.ip().is_loopback()), "the Operator listens on {sockets:?}");
    Ok(())
}

/// For the Operator to come back to its leaf node, which it looks for every minute.
const BACK_MAX: Duration = Duration::from_secs(120);
/// Life of the credentials there, which the test outlasts: a renewal comes after 30 to 38 seconds.
const SHORT_CREDENTIALS_SECONDS: u32 = 90;
/// The label of the leaf node's pod.
const LEAF: &str = "app.kubernetes.io/name=kubenova-leaf";

#[tokio::test(flavor = "multi_thread")]
async fn life_transports_over_the_chart_s_leaf_node_with_an_uplink_of_ipv6() -> Result<()> {
    let options = PlatformOptions {
        is_ipv6: true,
        takes_leaf_nodes: true,
        credentials_seconds: Some(SHORT_CREDENTIALS_SECONDS),
        ..PlatformOptions::default()
    };
    let mut platform = Platform::start(&options).await?;
    let created = platform.create_cluster("alpha").await?;
    let token = text(&created, "/enrollment/token")?;
    let cluster = Cluster::start(ClusterOptions { uplink: Uplink::Ipv6, ..ClusterOptions::new("alpha", 1) }).await?;
    let site = Site::without_leaf_node(cluster, &created)?;
    let whole = site.cluster.capture_syns()?;

    // The cluster enrolls, and the image of the leaf node cannot be had.
    let values = ["transport=leaf", "leaf.enabled=true", "leaf.image.repository=none"];
    site.install_operator_with(&token, &values)?;
    assert_eq!(site.wait_condition("BusConnected", "False", JOIN_MAX).await?, "LeafUnreachable");
    // Where another way may be used it is, until the leaf node leads to the hub.
    site.set_value("transport=auto")?;
    wait_via(&site, "by nats", JOIN_MAX).await?;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    site.cluster.kubectl_ok(&["label", "namespace", NAMESPACE, enforce])?;
    site.set_value("leaf.image.repository=nats")?;
    wait_via(&site, "by leaf", BACK_MAX).await?;

    let before = site.operator()?.uid();
    site.set_value("transport=leaf")?;
    poll::until("an Operator that may go by no other way", JOIN_MAX, || async {
        let is_other = site.operator().is_ok_and(|pod| pod.uid() != before);
        Ok(Step::when(is_other, (), "the pod of before runs".to_owned()))
    })
    .await?;
    let (by_leaf_node, leaf) = (site.cluster.capture_syns()?, leaf_pids(&site)?);
    live_over_leaf_node(&mut platform, &site).await?;
    assert_eq!(leaf_pids(&site)?, leaf, "the leaf node read renewed files without a restart");
    is_told_that_it_was_revoked(&platform, &site).await?;

    let at = |port| Ok::<_, anyhow::Error>(SocketAddr::new(HUB_ADDRESS_IPV6.parse()?, port));
    let (manager, hub, hub_of_leaf_nodes) = (at(MANAGER_PORT)?, at(HUB_PORT)?, at(HUB_LEAF_PORT)?);
    only_to(&by_leaf_node, &[manager, hub_of_leaf_nodes])?;
    only_to(&whole, &[manager, hub_of_leaf_nodes, hub])
}

/// Each of these was connected to across the uplink, and nothing else.
fn only_to(capture: &SynCapture, all: &[SocketAddr]) -> Result<()> {
    let seen: BTreeSet<SocketAddr> = capture.seen().iter().map(|syn| syn.destination).collect();
    ensure!(seen.iter().eq(all.iter().collect::<BTreeSet<_>>()), "connected to {seen:?}, expected {all:?}");
    Ok(())
}

fn leaf_pids(site: &Site) -> Result<Vec<u32>> {
    Ok(site.cluster.pods().labelled(LEAF).first().context("no leaf node runs")?.pids())
}

async fn live_over_leaf_node(platform: &mut Platform, site: &Site) -> Result<()> {
    wait_via(site, "by leaf", JOIN_MAX).await?;
    let first_end: Timestamp = credentials(platform, site, "expiresAt").await?.parse()?;
    let tenant = steps::create_tenant(platform, "acme", &["alpha"]).await?;
    steps::wait_commands(platform, &tenant["commands"], "succeeded", Duration::from_secs(240)).await?;
    run_application(platform, "shop", 2).await?;
    assert_eq!(steps::ready_pods(site, "acme", "shop")?, 2);
    shown_over_rest(platform, site, "leaf").await?;
    steps::wait_billed(platform).await?;
    receipted(site).await?;

    // The leaf node loses its hub and goes on running.
    platform.hub.kill();
    assert_eq!(site.wait_condition("BusConnected", "False", NAMED_WITHIN).await?, "LeafWithoutHub");
    platform.hub.restart().await?;
    wait_via(site, "by leaf", JOIN_MAX).await?;

    poll::until("the end of the first credentials", Duration::from_secs(120), || async {
        let left = first_end.duration_since(clock::now());
        Ok(Step::when(left.is_negative(), (), format!("in {} s", left.as_secs())))
    })
    .await?;
    run_application(platform, "blog", 1).await?;
    let now: Timestamp = credentials(platform, site, "expiresAt").await?.parse()?;
    ensure!(now > first_end, "the credentials were not renewed");
    wait_via(site, "by leaf", JOIN_MAX).await
}

/// A leaf node does not say why the hub refuses it, so the Operator asks the Manager.
async fn is_told_that_it_was_revoked(platform: &Platform, site: &Site) -> Result<()> {
    let body = json!({ "cluster": site.name, "message": "a laptop was lost" });
    platform.rest.post(&format!("/api/v1/clusters/{}/revoke", site.id), &body).await?.expect(202)?;
    assert_eq!(site.wait_condition("IdentityIssued", "False", JOIN_MAX).await?, "CredentialsRevoked");
    Ok(())
}

async fn run_application(platform: &Platform, name: &str, replicas: u32) -> Result<()> {
    let application = steps::web_application(name, replicas, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &application).await?.expect(202)?;
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await
}

/// Waits until a session is open that came by this transport.
async fn wait_via(site: &Site, via: &str, within: Duration) -> Result<()> {
    poll::until(format!("a session {via}"), within, || async {
        let connected = site.conditions()?.into_iter().find(|(kind, ..)| kind == "BusConnected");
        let (_, status, reason, message) = connected.context("there is a condition BusConnected")?;
        let is_open = status == "True" && message.contains(via);
        Ok(Step::when(is_open, (), format!("{status} {reason}: {message}")))
    })
    .await
}

/// What a person sees at the Manager and in the cluster.
async fn shown_over_rest(platform: &Platform, site: &Site, via: &str) -> Result<()> {
    poll::until("the transport over REST", COMMAND_MAX, || async {
        let cluster = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?;
        Ok(Step::when(cluster.to_string().contains(via), (), cluster.to_string()))
    })
    .await?;
    let row = site.cluster.kubectl_ok(&["get", "novaclusterconfig", "default"])?;
    ensure!(row.contains("TRANSPORT") && row.contains(via), "{row}");
    Ok(())
}

/// Receipts arrived: a window's report says when the Manager had it.
async fn receipted(site: &Site) -> Result<()> {
    poll::until("a receipt of a usage window", COMMAND_MAX, || async {
        let reports = site.list(&["novausagereports", "-n", NAMESPACE])?;
        let received = |report: &Value| {
            report.pointer("/status/receivedAt").and_then(Value::as_str).is_some_and(|at| !at.is_empty())
        };
        Ok(Step::when(reports.iter().any(received), (), format!("{} reports without one", reports.len())))
    })
    .await
}
