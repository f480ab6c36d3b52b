//! The main job: two sovereign clusters, a tenant on both, applications, status back, usage in the ledger and on the bus.
//! Everything is requested over REST and read independently: kubectl, the `nats` CLI, SQL.

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::document;
use kubenova_scenarios::platform::{self, MANAGER_PORT, Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

/// Names the trace of one request.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn life_whole_turn_of_the_ring() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let (alpha, alpha_token) = Site::prepare(&platform, "alpha", 1).await?;
    let (beta, beta_token) = Site::prepare(&platform, "beta", 2).await?;
    let captures = [alpha.cluster.capture_syns()?, beta.cluster.capture_syns()?];
    alpha.install_operator(&alpha_token)?;
    beta.install_operator(&beta_token)?;

    // Only the Operator installs the components.
    for site in [&alpha, &beta] {
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        steps::wait_all_succeeded(&platform, site, COMMAND_MAX).await?;
    }

    let tenant = steps::create_tenant(&platform, "acme", &["alpha", "beta"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    // With several placements an application names its clusters.
    let mut unplaced = steps::web_application("nowhere", 1, &[]);
    unplaced.as_object_mut().context("an object")?.remove("clusters");
    let refused = platform.rest.post("/api/v1/tenants/acme/apps", &unplaced).await?.expect(422)?;
    assert_eq!(refused["reason"], "PLACEMENT_REQUIRED", "{refused}");

    let shop = steps::web_application("shop", 3, &["alpha", "beta"]);
    let body = shop.to_string().into_bytes();
    let traced = [("traceparent", TRACEPARENT)];
    let accepted = platform.rest.post_raw("/users/acme/apps", "application/json", body, &traced).await?.expect(202)?;
    // A live tap of what the Manager says; billing events come every window, so it ends even if it was late for this.
    let nats = platform.nats()?;
    let tap = std::thread::spawn(move || nats.run(&["sub", "kn.v1.>", "--count", "5"]));
    let only_alpha = steps::web_application("cron", 2, &["alpha"]);
    let accepted_alpha = platform.rest.post("/api/v1/tenants/acme/apps", &only_alpha).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    steps::wait_commands(&platform, &accepted_alpha["commands"], "succeeded", COMMAND_MAX).await?;

    // Independent reading: kubectl in each cluster.
    assert_eq!(steps::ready_pods(&alpha, "acme", "shop")?, 3);
    assert_eq!(steps::ready_pods(&beta, "acme", "shop")?, 3);
    assert_eq!(steps::ready_pods(&alpha, "acme", "cron")?, 2);
    assert_eq!(steps::ready_pods(&beta, "acme", "cron")?, 0);
    let absent = beta.cluster.kubectl(&["get", "applications.core.oam.dev", "cron", "-n", "acme-apps"])?;
    assert!(!absent.status.success(), "what is placed on alpha only is not on beta");

    the_request_can_be_followed(&platform, [&alpha, &beta])?;
    the_audit_log_tells_it(&platform, &accepted["commands"], [&alpha, &beta]).await?;
    status_comes_back(&platform).await?;
    usage_is_in_the_ledger_and_on_the_bus(&platform, &text(&tenant, "/id")?, [&alpha, &beta]).await?;
    the_wire_is_readable(&platform, &alpha)?;
    the_page_about_the_broker_holds(&platform)?;
    isolation_holds(&alpha)?;
    let tapped = tap.join().map_err(|_| anyhow::anyhow!("the tap panicked"))??;
    let messages = tapped.matches("Received on \"kn.v1.").count();
    assert_eq!(messages, 5, "{tapped}");
    assert_eq!(tapped.matches("Kn-Schema: ").count(), messages, "each message says what it is: {tapped}");

    // Every connection that crossed an uplink was opened by the cluster, towards the hub or the Manager.
    for (site, capture) in [&alpha, &beta].into_iter().zip(&captures) {
        let seen = capture.seen();
        for port in [MANAGER_PORT, platform::broker_port(site.cluster.network().index())] {
            assert!(seen.iter().any(|syn| syn.destination.port() == port), "no connection to port {port}: {seen:?}");
        }
        for syn in &seen {
            let from_cluster =
                syn.source.ip().to_string().starts_with(&format!("10.77.{}.", site.cluster.network().index()));
            assert!(from_cluster, "a connection was opened towards cluster {}: {syn:?}", site.name);
            assert_eq!(syn.destination.ip().to_string(), "10.77.0.1", "{syn:?}");
        }
        assert!(!site.operator()?.pids().is_empty(), "an Operator runs whose sockets can be read");
        let sockets = site.operator()?.listening_sockets();
        // A WebSocket and gRPC go through a port of the Operator's own on the loopback interface.
        let is_relayed = ["websocket", "grpc"].contains(&platform::transport().as_str());
        let expected = |ip: std::net::IpAddr| is_relayed && ip.is_loopback();
        assert!(sockets.iter().all(|socket| expected(socket.address.ip())), "the Operator listens on {sockets:?}");
        let touched = site
            .cluster
            .audit()?
            .into_iter()
            .filter(|event| event.source_ips.iter().any(|ip| ip == "10.77.0.1"))
            .count();
        assert_eq!(touched, 0, "requests from the Manager's address in the audit log of {}", site.name);
    }
    Ok(())
}

/// The trace of a request is in the Manager's log and in the Operators': where they stored its command, and where they
/// carried it out.
fn the_request_can_be_followed(platform: &Platform, sites: [&Site; 2]) -> Result<()> {
    let trace_id = TRACEPARENT.split('-').nth(1).context("a traceparent names its trace")?;
    let traced = |log: &str, message: &str| log.lines().any(|line| line.contains(message) && line.contains(trace_id));
    assert!(traced(&platform.manager.log()?, "\"command sent\""), "the Manager's log lacks {trace_id}");
    for site in sites {
        let log = site.operator()?.log("operator")?;
        for message in ["stored a command", "a command reached its final state"] {
            assert!(traced(&log, message), "{message:?} lacks {trace_id} in the Operator's log on {}", site.name);
        }
    }
    Ok(())
}

/// The request, its commands and what the clusters made of them are in the hash chain, which is whole.
async fn the_audit_log_tells_it(platform: &Platform, commands: &serde_json::Value, sites: [&Site; 2]) -> Result<()> {
    for command in commands.as_array().context("commands")? {
        let (id, cluster) = (text(command, "/id")?, text(command, "/clusterId")?);
        let sql = format!(
            "select a.action, a.role, a.cluster_id, a.revision = k.revision,
                    a.document_sha256 in ('', encode(sha256(convert_to(k.document, 'UTF8')), 'hex')),
                    (select r.action from audit r where a.request_id <> '' and r.request_id = a.request_id and r.command_id is null)
             from audit a join commands k on k.id = a.command_id where a.command_id = '{id}' order by a.position"
        );
        let expected = format!(
            "command/enqueued|admin|{cluster}|t|t|writeApplications/create\ncommand/succeeded|cluster|{cluster}|t|t|"
        );
        poll::until("the command in the audit log", COMMAND_MAX, || async {
            let records = platform.postgres.query("kubenova", &sql)?;
            Ok(Step::when(records.trim() == expected, (), records))
        })
        .await?;
        let site = sites.into_iter().find(|site| site.id == cluster).context("the command is for one of them")?;
        let shop = ["get", "applications.core.oam.dev", "shop", "-n", "acme-apps", "-o", "jsonpath={.metadata.uid}"];
        let uid = site.cluster.kubectl_ok(&shop)?;
        let sql = format!("select detail from audit where command_id = '{id}' and action = 'command/succeeded'");
        let detail = platform.postgres.query("kubenova", &sql)?;
        assert!(detail.contains(&format!("object {uid}/")), "the audit log names the application {uid}: {detail}");
    }
    let verified = platform.manager.run(&["audit", "verify"])?;
    assert!(verified.contains("records are as they were written\nhead "), "{verified}");
    Ok(())
}

async fn status_comes_back(platform: &Platform) -> Result<()> {
    poll::until("status of shop on both clusters over REST", COMMAND_MAX, || async {
        let body = platform.rest.get("/api/v1/tenants/acme/apps/shop/status").await?.expect(200)?;
        let clusters = body["clusters"].as_array().cloned().unwrap_or_default();
        let all = clusters.len() == 2
            && clusters.iter().all(|it| it["ready"] == true && it.pointer("/observed/asOf").is_some());
        Ok(Step::when(all, (), body.to_string()))
    })
    .await
}

/// The sum a subscriber adds up by id equals the ledger's, read by SQL and over REST.
async fn usage_is_in_the_ledger_and_on_the_bus(platform: &Platform, tenant_id: &str, sites: [&Site; 2]) -> Result<()> {
    for site in sites {
        let path = format!("/api/v1/usage?tenant={tenant_id}&cluster={}", site.id);
        poll::until(format!("usage with pods of {} over REST", site.name), COMMAND_MAX, || async {
            let body = platform.rest.get(&path).await?.expect(200)?;
            let pods = body.pointer("/totals/podCountMs").and_then(serde_json::Value::as_str).unwrap_or("0").to_owned();
            Ok(Step::when(pods.parse::<i128>().unwrap_or_default() > 0, (), body.to_string()))
        })
        .await?;
    }
    let rows = platform.postgres.query("kubenova", "select count(*) from ledger where pod_count_ms > 0")?;
    assert!(rows.trim().parse::<u64>().unwrap_or_default() >= 2, "ledger rows with pods: {rows}");
    let nats = platform.nats()?;
    poll::until("one billing event a ledger row", COMMAND_MAX, || async {
        let subjects = nats.run(&["stream", "subjects", "KN_BILL", "--json"])?;
        let count: u64 = serde_json::from_str::<std::collections::BTreeMap<String, u64>>(&subjects)
            .unwrap_or_default()
            .values()
            .sum();
        let ledger = platform.postgres.query("kubenova", "select count(*) from ledger")?;
        Ok(Step::when(
            count > 0 && ledger.trim() == count.to_string(),
            (),
            format!("ledger {}, events {count}", ledger.trim()),
        ))
    })
    .await
}

/// What an administrator sees with the read-only context.
fn the_wire_is_readable(platform: &Platform, site: &Site) -> Result<()> {
    let nats = platform.nats()?;
    let streams = nats.run(&["stream", "ls", "--names"])?;
    for name in ["KN_CMD", "KN_STS", "KN_USE", "KN_BILL"] {
        assert!(streams.contains(name), "{streams}");
    }
    let info = nats.run(&["stream", "info", "KN_CMD"])?;
    assert!(info.contains("KN_CMD"), "{info}");
    let command =
        nats.run(&["stream", "get", "KN_CMD", "--last-for", &format!("kn.v1.cmd.s0.{}.apply-application", site.id)])?;
    assert!(command.contains("Kn-Signature") && command.contains("core.oam.dev"), "{command}");
    nats.refused(&["stream", "purge", "KN_CMD", "--force"])?;
    nats.refused(&["stream", "rm", "KN_CMD", "--force"])?;
    Ok(())
}

/// Every command of the page prints what the page says.
fn the_page_about_the_broker_holds(platform: &Platform) -> Result<()> {
    let page = include_str!("../../../docs/operations/nats.md");
    let nats = platform.nats()?.program;
    let programs = [&*nats, platform.manager.binary()].map(|it| it.parent().unwrap_or(it));
    let variables = [("HUB", &*platform.nats_folder)];
    let ran = document::check(page, platform.sandbox.run(), &programs, &variables)?;
    assert!(ran >= 15, "{ran} commands");
    Ok(())
}

/// What must not come into a tenant's namespace, not even from the site's administrator by mistake.
fn isolation_holds(site: &Site) -> Result<()> {
    let pod = |spec: &str| {
        let pod = format!("--overrides={{\"spec\":{spec}}}");
        site.cluster.kubectl(&["run", "x", "-n", "acme-apps", "--image=x", "--dry-run=server", &pod])
    };
    let nothing = r#"{"containers":[{"name":"x","image":"x","resources":{"requests":{"cpu":"0","memory":"0"}}}]}"#;
    let node_port = ["create", "service", "nodeport", "x", "--tcp=80", "-n", "acme-apps", "--dry-run=server"];
    for (attempt, refusal) in [
        (pod(r#"{"priorityClassName":"system-node-critical"}"#)?, "this priority class is not open to tenants"),
        (pod(r#"{"serviceAccountName":"readonly"}"#)?, "may not run as a KubeNova ServiceAccount"),
        (pod(nothing)?, "minimum cpu usage per Container is 1m"),
        (site.cluster.kubectl(&node_port)?, "NodePort Services are not allowed"),
    ] {
        let said = String::from_utf8_lossy(&attempt.stderr).into_owned();
        assert!(!attempt.status.success() && said.contains(refusal), "expected {refusal:?}, got {said:?}");
    }
    Ok(())
}
