//! The reference sums: what a subscriber on KN_BILL adds up by id equals the ledger, and both equal an integral over the
//! steps that the Operator recorded, to the unit.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{integral, operators};
use serde_json::Value;

/// Meters by their names in messages and their columns in the ledger.
const METERS: [(&str, &str); 5] = [
    ("cpuRequestMillicoreMs", "cpu_request_millicore_ms"),
    ("memoryRequestByteMs", "memory_request_byte_ms"),
    ("podCountMs", "pod_count_ms"),
    ("namespaceCountMs", "namespace_count_ms"),
    ("applicationCountMs", "application_count_ms"),
];

type Sums = BTreeMap<&'static str, i128>;

/// Every event on KN_BILL, read by the `nats` CLI: by id, so that a repeat counts once.
fn billed(platform: &Platform) -> Result<BTreeMap<String, Value>> {
    let nats = platform.nats()?;
    let info: Value = serde_json::from_str(&nats.run(&["stream", "info", "KN_BILL", "--json"])?)?;
    let last = info.pointer("/state/last_seq").and_then(Value::as_u64).context("a last sequence")?;
    let mut events = BTreeMap::new();
    for sequence in 1..=last {
        let message: Value =
            serde_json::from_str(&nats.run(&["stream", "get", "KN_BILL", &sequence.to_string(), "--json"])?)?;
        let body = BASE64.decode(text(&message, "/data")?.as_bytes())?;
        let event: Value = serde_json::from_slice(&body).context("a CloudEvent is JSON")?;
        events.insert(text(&event, "/id")?, event);
    }
    Ok(events)
}

fn sum_of_events(events: &BTreeMap<String, Value>) -> Result<Sums> {
    let mut sums = Sums::new();
    for event in events.values() {
        for (meter, _) in METERS {
            *sums.entry(meter).or_default() += text(event, &format!("/data/{meter}"))?.parse::<i128>()?;
        }
    }
    Ok(sums)
}

fn sum_of_ledger(platform: &Platform) -> Result<Sums> {
    METERS
        .into_iter()
        .map(|(meter, column)| {
            let sum = platform.postgres.query("kubenova", &format!("select coalesce(sum({column}), 0) from ledger"))?;
            Ok((meter, sum.trim().parse()?))
        })
        .collect()
}

/// Integral of the recorded steps over the windows that are in the ledger.
fn sum_of_steps(platform: &Platform, steps: &str) -> Result<Sums> {
    let rows = platform.postgres.query(
        "kubenova",
        "select distinct (extract(epoch from window_start) * 1000)::bigint || ' ' || seconds from ledger",
    )?;
    let windows: Vec<(i64, i64)> = rows
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(start, seconds)| Ok((start.parse::<i64>()?, start.parse::<i64>()? + seconds.parse::<i64>()? * 1000)))
        .collect::<Result<_>>()?;
    let mut sums = Sums::new();
    for line in steps.lines() {
        let step: Value = serde_json::from_str(line).context("a step is JSON")?;
        ensure!(step["cause"] != "restored", "the Operator restarted, which this scenario must not do");
        let meter = text(&step, "/meter")?;
        let (meter, _) = METERS.into_iter().find(|(name, _)| *name == meter).context("a known meter")?;
        let (delta, at) = (text(&step, "/delta")?.parse::<i128>()?, step["at_ms"].as_i64().context("a time")?);
        let held: i128 = windows.iter().map(|(start, end)| i128::from((end - at.max(*start)).max(0))).sum();
        *sums.entry(meter).or_default() += delta * held;
    }
    Ok(sums)
}

#[tokio::test(flavor = "multi_thread")]
async fn life_usage_sums_are_equal_to_the_unit() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let shop = steps::web_application("shop", 3, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;

    // Pods that come and go within windows.
    for _ in 0..2 {
        site.cluster.kubectl_ok(&[
            "delete",
            "pods",
            "-n",
            "acme-apps",
            "-l",
            "app.oam.dev/name=shop",
            "--wait=false",
        ])?;
        poll::until("three new pods", COMMAND_MAX, || async {
            let pods = steps::ready_pods(&site, "acme", "shop")?;
            Ok(Step::when(pods == 3, (), format!("{pods} pods")))
        })
        .await?;
    }
    // A whole window after the last step, so that the newest row holds none.
    let rested = platform.postgres.query("kubenova", "select now()")?;
    let later = format!("select count(*) from ledger where pod_count_ms > 0 and window_start > '{}'", rested.trim());
    poll::until("a window without steps in the ledger", COMMAND_MAX, || async {
        let rows = platform.postgres.query("kubenova", &later)?;
        Ok(Step::when(rows.trim().parse::<u64>()? >= 1, (), rows))
    })
    .await?;

    // Every row against the API server's own audit log.
    poll::until("a row of the rested windows over REST", COMMAND_MAX, || async {
        let newest = integral::compare_newest(&platform, &text(&tenant, "/id")?, &site).await?;
        Ok(Step::when(newest.removals == 0 && newest.ledger > 0, (), newest.to_string()))
    })
    .await?;
    let compared = integral::compare_all(&platform, &text(&tenant, "/id")?, &site).await?;
    for comparison in &compared {
        assert!(comparison.holds(), "{comparison}");
    }
    let exact = compared.iter().filter(|it| it.removals == 0 && it.ledger > 0).count();
    let bounded = compared.iter().filter(|it| it.removals > 0).count();
    assert!(exact > 0 && bounded > 0, "a window of each sort: {compared:?}");
    assert!(
        compared.iter().all(|it| it.bound_ms < 5_000 * i128::try_from(it.removals.max(1)).unwrap_or(1)),
        "{compared:?}"
    );

    // The Operator stops, so that ledger and stream come to rest; then all three are read.
    let debug = site.operator()?.debug();
    operators::scale(&site, 0)?;
    poll::until("the Operator to be gone", COMMAND_MAX, || async {
        let left = site.cluster.kubectl_ok(&["get", "pods", "-n", "kubenova-system", "-o", "name"])?;
        Ok(Step::when(left.trim().is_empty(), (), left))
    })
    .await?;
    steps::wait_billed(&platform).await?;
    let events = billed(&platform)?;
    let rows = platform.postgres.query("kubenova", "select count(*) from ledger")?;
    assert_eq!(events.len().to_string(), rows.trim(), "one event a ledger row");
    let ledger = sum_of_ledger(&platform)?;
    assert!(ledger["podCountMs"] > 0 && ledger["cpuRequestMillicoreMs"] > 0, "{ledger:?}");
    assert_eq!(sum_of_events(&events)?, ledger, "left: what a subscriber adds up by id; right: the ledger");
    let steps = std::fs::read_to_string(debug.join("steps")).context("the Operator recorded no steps")?;
    assert_eq!(sum_of_steps(&platform, &steps)?, ledger, "left: integral over the steps; right: the ledger");
    Ok(())
}
