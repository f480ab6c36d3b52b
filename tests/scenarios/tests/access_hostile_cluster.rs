//! A cluster whose keys were stolen, or whose owner cheats: it reports for others, twice, and nonsense. It harms no other
//! cluster, nothing is billed twice, and what cannot be counted becomes a dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use data_encoding::BASE64;
use kubenova_bus::{Connection, publish};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::{clock, random};
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps;
use kubenova_schema::meters::Meter;
use kubenova_schema::signature::{PayloadType, nkey_encoding, sha256_hex};
use kubenova_schema::subjects;
use kubenova_schema::v1::{UsageChunk, UsageManifest, UsageRecord, UsageRecords};
use kubenova_schema::window::Window;
use nkeys::KeyPair;
use prost::Message as _;

const SOON: Duration = Duration::from_secs(60);

/// The stolen cluster: what it takes to seal usage in its name.
struct Thief {
    connection: Connection,
    cluster: String,
    key: KeyPair,
}

impl Thief {
    /// A key that was enrolled for the cluster, and the broker. (`access_list` tests what the broker itself refuses.)
    async fn of(platform: &Platform, cluster: &str) -> Result<Self> {
        let key = KeyPair::new_user();
        let nkey = key.public_key();
        let columns = "cluster_id, incarnation, nkey_public, enrolled_at, issued_at, expires_at, user_jwt_expires_at";
        let values = format!("'{cluster}', 1000, '{nkey}', now(), now(), now(), now()");
        let sql = format!("insert into identities ({columns}) values ({values})");
        platform.postgres.query("kubenova", &sql)?;
        let connection = broker::connect(platform, &broker::keyring(platform)?).await?;
        Ok(Self { connection, cluster: cluster.to_owned(), key })
    }

    /// Seals and sends a window.
    async fn report(&self, window: &str, records: Vec<UsageRecord>) -> Result<()> {
        let mut totals: BTreeMap<String, i128> = BTreeMap::new();
        for (meter, value) in records.iter().flat_map(|record| &record.meters) {
            let total = totals.entry(meter.clone()).or_default();
            *total = total.saturating_add(value.parse()?);
        }
        let totals = Meter::ALL.map(|meter| {
            let name = meter.as_str().to_owned();
            (name.clone(), totals.get(&name).copied().unwrap_or_default().to_string())
        });
        let count = u32::try_from(records.len())?;
        let part = UsageRecords { records }.encode_to_vec();
        let manifest = UsageManifest {
            cluster_id: self.cluster.clone(),
            window: window.to_owned(),
            record_count: count,
            totals: totals.into_iter().collect(),
            records_sha256: sha256_hex(&part),
            ..UsageManifest::default()
        };
        let manifest = manifest.encode_to_vec();
        let signature = BASE64.encode(&self.key.sign(&nkey_encoding(PayloadType::Usage, &manifest))?);
        let manifest_signature = format!("{}:{signature}", self.key.public_key());
        let chunk = UsageChunk { manifest, manifest_signature, index: 0, count: 1, part };
        self.send(&subjects::usage(&self.cluster, window), chunk.encode_to_vec()).await
    }

    async fn send(&self, subject: &str, body: Vec<u8>) -> Result<()> {
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&self.connection.jetstream, subject, headers, body).await?;
        Ok(())
    }
}

fn record(tenant: &str, name: &str, pods: i128) -> UsageRecord {
    let value = |meter: Meter| if meter == Meter::Pods { pods } else { 0 };
    let meters = Meter::ALL.map(|meter| (meter.as_str().to_owned(), value(meter).to_string()));
    UsageRecord { tenant_id: tenant.to_owned(), tenant_name: name.to_owned(), meters: meters.into_iter().collect() }
}

/// Waits until so many messages of the cluster are kept with a reason that holds this.
async fn kept(platform: &Platform, reason: &str, messages: u64) -> Result<()> {
    let sql = format!("select count(*) from dead_letters where reason like '%{reason}%'");
    poll::until(format!("{messages} messages kept because of {reason:?}"), SOON, || async {
        let count = platform.postgres.query("kubenova", &sql)?;
        let all = platform.postgres.query("kubenova", "select reason from dead_letters")?;
        Ok(Step::when(count.trim() == messages.to_string(), (), all))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn access_hostile_cluster_harms_no_other() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    platform.create_cluster("alpha").await?;
    let beta = text(&platform.create_cluster("beta").await?, "/id")?;
    let acme = text(&steps::create_tenant(&platform, "acme", &["alpha"]).await?, "/id")?;
    let globex = text(&steps::create_tenant(&platform, "globex", &["beta"]).await?, "/id")?;
    let thief = Thief::of(&platform, &beta).await?;
    let past = Window::containing(clock::now().as_millisecond() - 100_000, 20);
    let past_twenty = past.to_string();
    let ten = |number: i64| format!("w{}-10", past.start + number * 10);
    let ledger = |columns: &str| platform.postgres.query("kubenova", &format!("select {columns} from ledger"));

    // Tenants that were never on it, one of them unknown: their rows are kept unclaimed, its own tenant's is counted.
    let unknown = random::uuid_v4().to_string();
    let records = vec![record(&acme, "acme", 7), record(&globex, "globex", 5), record(&unknown, "unknown", 9)];
    thief.report(&ten(0), records).await?;
    poll::until("usage of tenants that were never on it to be kept unclaimed", SOON, || async {
        let columns = "string_agg(pod_count_ms || ' ' || tenant_was_known, ', ' order by pod_count_ms)";
        let rows = platform.postgres.query("kubenova", &format!("select {columns} from unclaimed_usage"))?;
        Ok(Step::when(rows.trim() == "7 true, 9 false", (), rows))
    })
    .await?;
    assert_eq!(ledger("string_agg(tenant_name || ' ' || pod_count_ms, ',')")?.trim(), "globex 5");

    // The same time again, in windows of another length: kept as conflicts, billed once.
    for window in [past.to_string(), format!("w{}-2", past.start), format!("w{}-86400", past.start / 86_400 * 86_400)] {
        thief.report(&window, vec![record(&globex, "globex", 1_000)]).await?;
    }
    poll::until("the overlapping windows as conflicts", SOON, || async {
        let count = platform.postgres.query("kubenova", "select count(*) from usage_conflicts")?;
        // The day is not over, so that one can never be counted.
        Ok(Step::when(count.trim() == "2", (), count))
    })
    .await?;
    kept(&platform, "not over yet", 1).await?;

    // What can never be counted: each message ends as a dead letter, none is redelivered for ever.
    thief.report(&ten(-1), vec![record(&globex, "globex", i128::MAX)]).await?;
    thief.report(&ten(-2), vec![record(&globex, "glo\0bex", 1)]).await?;
    thief.report("w9223372036854775000-1", Vec::new()).await?;
    thief.report("w0-1795500000", Vec::new()).await?;
    kept(&platform, "no possible quantity", 1).await?;
    kept(&platform, "is not a tenant", 1).await?;
    kept(&platform, "does not name a cluster and a window", 2).await?;
    let outcome = r#"{"commandId":"01939c5e-0000-7000-8000-000000000000","clusterId":"CLUSTER","state":"running","message":"a\u0000b"}"#;
    thief.send(&subjects::outcome(&beta), outcome.replace("CLUSTER", &beta).into_bytes()).await?;
    let status = r#"{"clusterId":"CLUSTER","objects":[{"key":"tenant/x","detail":"{\"a\":\"\\u0000\"}"}]}"#;
    thief.send(&subjects::status(&beta), status.replace("CLUSTER", &beta).into_bytes()).await?;
    // Reports count up to the open session; one that the running server has not confirmed is sent nothing.
    let session = format!(
        "insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
         values ('{beta}', 1, '1', 'boot', 1, now(), now(), 'epoch')"
    );
    platform.postgres.query("kubenova", &session)?;
    let twice =
        r#"{"clusterId":"CLUSTER","objects":[{"key":"cluster-config/default"},{"key":"cluster-config/default"}]}"#;
    thief.send(&subjects::status(&beta), twice.replace("CLUSTER", &beta).into_bytes()).await?;
    kept(&platform, "the Manager sent no command", 1).await?;
    let flood = (0..110).map(|number| thief.report(&past_twenty, vec![record(&globex, "globex", number)]));
    futures::future::try_join_all(flood).await?;
    poll::until("the newest hundred conflicts", SOON, || async {
        let sql = "select count(*) || ' ' || (select count(*) from ledger) from usage_conflicts";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == "100 1", (), seen))
    })
    .await?;
    kept(&platform, "Postgres cannot store", 2).await?;

    // And everything goes on. A record of no tenant is set aside alone: its window counts for the others.
    thief.report(&ten(1), vec![record("x", "x", 1), record(&globex, "globex", 6)]).await?;
    poll::until("the next good window", SOON, || async {
        let seen = ledger("string_agg(tenant_name || ' ' || pod_count_ms, ',' order by window_start)")?;
        Ok(Step::when(seen.trim() == "globex 5,globex 6", (), seen))
    })
    .await?;
    kept(&platform, "is not a UUID", 1).await?;
    let usage = platform.rest.get("/api/v1/usage").await?.expect(200)?;
    ensure!(usage["totals"]["podCountMs"] == "11", "{usage}");
    Ok(())
}
