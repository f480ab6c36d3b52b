//! A broker that acknowledges no usage window: the Operator observes usage all the same, from its start.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_bus::publish;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions, WINDOW_SECONDS};
use kubenova_scenarios::site::{NAMESPACE, OPERATOR, Site};
use kubenova_scenarios::steps::{COMMAND_MAX, COMPONENTS_MAX};
use kubenova_schema::{streams, subjects};
use serde_json::{Value, json};

/// Sealed windows that the Manager does not have. To publish each of them takes the Operator 10 s now.
const STORED: i64 = 200;
/// Base64 of each window's manifest. With 40 MB to read first, the Operator is connected to the broker before its meter can
/// begin; without a connection nothing is published that could hold the meter up.
const MANIFEST_BYTES: usize = 200_000;
const DAY_SECONDS: i64 = 86_400;

/// Every message of the stream is stored and none is acknowledged.
async fn acknowledge_nothing(platform: &Platform, site: &Site) -> Result<()> {
    let connection = broker::connect(platform, &broker::keyring(platform)?).await?;
    let mut usage = connection.jetstream.get_stream(streams::USAGE.name).await?;
    let mut config = usage.info().await?.config.clone();
    config.no_ack = true;
    connection.jetstream.update_stream(config).await?;
    let subject = subjects::usage(&site.id, "w10-10");
    let answer = publish::publish(&connection.jetstream, &subject, publish::headers("none", &[]), "none").await;
    assert!(answer.is_err(), "the broker still acknowledges usage: {answer:?}");
    Ok(())
}

/// Sealed windows of the day before, each without a record.
fn store_windows(site: &Site) -> Result<()> {
    let length = i64::from(WINDOW_SECONDS);
    let yesterday = (clock::now().as_second() - DAY_SECONDS) / length * length;
    let manifest = "A".repeat(MANIFEST_BYTES);
    let items: Vec<Value> = (0..STORED)
        .map(|index| {
            let window = format!("w{}-{length}", yesterday + index * length);
            let metadata = json!({ "name": window, "namespace": NAMESPACE });
            // Two bytes that unpack to none.
            let status = json!({ "manifest": manifest, "payload": "AwA=" });
            json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaUsageReport", "metadata": metadata,
                "spec": { "window": window }, "status": status })
        })
        .collect();
    let file = site.cluster.folder().join("stored-windows.json");
    std::fs::write(&file, json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    let file = file.to_str().context("the path is text")?;
    site.cluster.kubectl_ok(&["create", "-f", file])?;
    site.cluster.kubectl_ok(&["replace", "--subresource=status", "-f", file])?;
    Ok(())
}

/// The version of the newest checkpoint.
fn checkpoint(site: &Site) -> Result<Option<u64>> {
    let reports = site.list(&["novausagereports", "-n", NAMESPACE])?;
    let open = reports.iter().filter(|item| item["status"]["checkpoint"].is_string());
    let version = |item: &Value| item["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
    Ok(open.filter_map(version).max())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_metering_observes_while_the_broker_acknowledges_nothing() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    poll::until("the first checkpoint", COMMAND_MAX, || async {
        Ok(Step::when(checkpoint(&site)?.is_some(), (), "none"))
    })
    .await?;
    acknowledge_nothing(&platform, &site).await?;
    store_windows(&site)?;
    assert!(site.cluster.pods().kill9(OPERATOR) > 0, "no Operator runs");
    let before = checkpoint(&site)?;
    // Publishing what is stored would take half an hour.
    let stored = Duration::from_secs(10).saturating_mul(u32::try_from(STORED)?);
    assert!(stored > 2 * COMMAND_MAX);
    poll::until("a checkpoint of the new Operator", COMMAND_MAX, || async {
        let now = checkpoint(&site)?;
        Ok(Step::when(now > before, (), format!("{now:?}, before {before:?}")))
    })
    .await
}
