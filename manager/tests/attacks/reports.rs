//! Outcomes, status and usage. Each message is on the subject of cluster A, where the broker lets only A publish; what A may not say there
//! becomes a dead letter with its reason, a conflict, or is kept unclaimed.

use crate::{A, ANSWER_MAX, B, LOOK};
use async_nats::jetstream;
use data_encoding::BASE64;
use kubenova_core::cluster::ClusterId;
use kubenova_manager::{
    ingest::{
        durable::Ingest,
        outcomes, status,
        usage::{self, Wakes},
    },
    metrics::{Metrics, PREFIX},
    receipts::ReceiptQueue,
    relay::Backlog,
};
use kubenova_runtime::{clock, metrics::Registry, shutdown::Shutdown};
use kubenova_schema::{
    message,
    meters::Meter,
    signature::{PayloadType, nkey_encoding, sha256_hex},
    subjects,
    v1::{ObjectStatus, Outcome, StatusReport, UsageChunk, UsageManifest, UsageRecord, UsageRecords},
    window::Window,
};
use kubenova_store::{
    identities::{self, CredentialsLife},
    pool::{Limits, Store},
};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use kubenova_test_postgres::Database;
use nkeys::{KeyPair, KeyPairType};
use prost::Message as _;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::timeout};

/// Both clusters in session, a tenant on each, and a command to each.
const ROWS: &str = "
    insert into clusters (id, name, state, revision_counter, created_at, updated_at, created_by)
    select 'c' || n || '123456789abcdefghjkmnpqrs', 'cluster-' || n, 'enrolled', 300, now(), now(), 'test' from generate_series(0, 1) n;
    insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at, sent_at)
    select (lpad(n::text, 8, '0') || '-0000-7000-8000-000000000001')::uuid, 'c' || n || '123456789abcdefghjkmnpqrs',
           1, 'apply-tenant', 'tenant/1', '{}', 1, 'sent', 'test', now(), now() from generate_series(0, 1) n;
    insert into tenants (id, name, quota_cpu, quota_memory, quota_pods, created_at, updated_at, created_by)
    select (lpad(n::text, 8, '0') || '-0000-7000-8000-00000000000a')::uuid, 'tenant-' || n, '1', '1Gi', 10, now(), now(), 'test'
    from generate_series(0, 1) n;
    insert into placements (tenant_id, cluster_id, created_at, created_by)
    select (lpad(n::text, 8, '0') || '-0000-7000-8000-00000000000a')::uuid, 'c' || n || '123456789abcdefghjkmnpqrs', now(), 'test'
    from generate_series(0, 1) n;
    insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
    select id, 1, '1', 'boot', 1, now(), now(), now() from clusters";
const TENANT: &str = "00000000-0000-7000-8000-00000000000a";
const TENANT_OF_B: &str = "00000001-0000-7000-8000-00000000000a";

/// Ingest of everything between a broker and a database of its own.
struct Running {
    database: Database,
    jetstream: jetstream::Context,
    stop: Shutdown,
    _broker: NatsServer,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Running {
    async fn start() -> Self {
        let broker = NatsServer::with_jetstream();
        let jetstream = jetstream::new(async_nats::connect(broker.url().await).await.unwrap());
        kubenova_bus::streams::ensure_all(&jetstream).await.unwrap();
        let database = Database::new().await;
        database.execute(ROWS).await;
        let store = Store::open_with(database.url(), 8, Limits::default()).unwrap();
        for (cluster, key) in [(A, key_of_a()), (B, key_of_b())] {
            let (cluster, now) = (ClusterId::parse(cluster).unwrap(), clock::now());
            let life = CredentialsLife { issued_at: now, expires_at: now, user_jwt_expires_at: now };
            identities::insert(&mut store.acquire().await.unwrap(), &cluster, 1, &key.public_key(), None, life)
                .await
                .unwrap();
        }
        let metrics = Metrics::register(&mut Registry::new(PREFIX)).ingest;
        let ingest = Ingest { store, jetstream: jetstream.clone(), metrics };
        let (stop, backlog) = (Shutdown::new(), Arc::new(Backlog::new(Arc::default())));
        let wakes = Wakes { receipts: ReceiptQueue::default(), billing: Arc::new(Notify::new()) };
        tokio::spawn(outcomes::run(ingest.clone(), Duration::from_secs(600), backlog, stop.clone()));
        tokio::spawn(status::run(ingest.clone(), stop.clone()));
        tokio::spawn(usage::run(ingest, wakes, stop.clone()));
        Self { database, jetstream, stop, _broker: broker }
    }

    async fn publish(&self, subject: String, body: Vec<u8>) {
        self.jetstream.publish(subject, body.into()).await.unwrap().await.unwrap();
    }

    /// Waits until a query says this.
    async fn until(&self, sql: &'static str, expected: &str) {
        let looks = async {
            while self.database.texts(sql).await.concat() != expected {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout(ANSWER_MAX, looks).await.is_err() {
            let letters = self.database.texts("select reason from dead_letters order by id").await;
            panic!("{sql}: {:?}, not {expected:?}; {letters:?}", self.database.texts(sql).await);
        }
    }

    /// The reason of the dead letter that a message becomes.
    async fn refusal(&self, subject: String, body: Vec<u8>) -> String {
        let letters = async || self.database.texts("select reason from dead_letters order by id").await;
        let before = letters().await.len();
        self.publish(subject.clone(), body).await;
        let looks = async {
            loop {
                let all = letters().await;
                if all.len() > before {
                    return all.last().cloned().unwrap();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(ANSWER_MAX, looks).await.unwrap_or_else(|_| panic!("{subject} became no dead letter"))
    }
}

fn key_of_a() -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [4; 32]).unwrap()
}

fn key_of_b() -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [5; 32]).unwrap()
}

fn outcome() -> Outcome {
    Outcome {
        command_id: "00000000-0000-7000-8000-000000000001".to_owned(),
        cluster_id: A.to_owned(),
        epoch: 1,
        state: "running".to_owned(),
        ..Outcome::default()
    }
}

#[tokio::test]
async fn a_cluster_tells_nothing_about_what_is_not_its_own() {
    let running = Running::start().await;
    let refused = async |outcome: Outcome| running.refusal(subjects::outcome(A), message::to_json(&outcome)).await;
    stopped("A-238", &refused(Outcome { cluster_id: B.to_owned(), ..outcome() }).await);
    let of_b = "00000001-0000-7000-8000-000000000001".to_owned();
    stopped("A-239", &refused(Outcome { command_id: of_b, ..outcome() }).await);
    stopped("A-240", &refused(Outcome { state: "queued".to_owned(), ..outcome() }).await);
    let text = String::from_utf8(message::to_json(&outcome())).unwrap();
    let twice = text.replacen('{', &format!("{{\"clusterId\":\"{B}\","), 1);
    stopped("A-241", &running.refusal(subjects::outcome(A), twice.into_bytes()).await);
    running.publish(subjects::outcome(A), message::to_json(&outcome())).await;
    running.until("select coalesce(string_agg(cluster_id, ','), '') from commands where state = 'running'", A).await;

    let object = ObjectStatus { key: "tenant/1".to_owned(), ..ObjectStatus::default() };
    let report = StatusReport { cluster_id: A.to_owned(), objects: vec![object.clone()], ..StatusReport::default() };
    let refused = async |report: StatusReport| running.refusal(subjects::status(A), message::to_json(&report)).await;
    stopped("A-242", &refused(StatusReport { cluster_id: B.to_owned(), ..report.clone() }).await);
    let unstorable = ObjectStatus { detail: r#"{"a":"\u0000"}"#.to_owned(), ..object.clone() };
    stopped("A-243", &refused(StatusReport { objects: vec![unstorable], ..report.clone() }).await);
    let endless = StatusReport { counter: u64::MAX, ..report.clone() };
    stopped("A-244", &refused(endless).await);
    running.publish(subjects::status(A), message::to_json(&report)).await;
    running
        .until(
            "select coalesce(string_agg(distinct cluster_id, ','), '') from observed where object_key = 'tenant/1'",
            A,
        )
        .await;
}

fn record(tenant: &str, pods: i128) -> UsageRecord {
    let value = |meter: Meter| if meter == Meter::Pods { pods } else { 0 };
    let meters = Meter::ALL.map(|meter| (meter.as_str().to_owned(), value(meter).to_string()));
    UsageRecord {
        tenant_id: tenant.to_owned(),
        tenant_name: "tenant-0".to_owned(),
        meters: meters.into_iter().collect(),
    }
}

/// A sealed window, and what an attacker makes of it.
struct Sealing {
    key: KeyPair,
    signed_as: PayloadType,
    window: Window,
    manifest: UsageManifest,
    records: UsageRecords,
}

impl Sealing {
    /// Ten seconds of the past, each window another ten, by cluster A with its own key.
    fn of(number: i64, records: Vec<UsageRecord>) -> Self {
        let start = clock::now().as_second() / 100_000 * 100_000 - 100_000 + number * 10;
        let window = Window { start, seconds: 10 };
        let mut totals: BTreeMap<String, i128> =
            Meter::ALL.map(|meter| (meter.as_str().to_owned(), 0)).into_iter().collect();
        for (meter, value) in records.iter().flat_map(|record| &record.meters) {
            *totals.get_mut(meter).unwrap() += value.parse::<i128>().unwrap().max(0);
        }
        let records = UsageRecords { records };
        let manifest = UsageManifest {
            cluster_id: A.to_owned(),
            window: window.to_string(),
            record_count: u32::try_from(records.records.len()).unwrap(),
            totals: totals.into_iter().map(|(meter, total)| (meter, total.to_string())).collect(),
            records_sha256: sha256_hex(&records.encode_to_vec()),
            ..UsageManifest::default()
        };
        Self { key: key_of_a(), signed_as: PayloadType::Usage, window, manifest, records }
    }

    fn good(number: i64) -> Self {
        Self::of(number, vec![record(TENANT, 5)])
    }

    fn subject(&self) -> String {
        subjects::usage(A, &self.window.to_string())
    }

    fn chunk(&self) -> UsageChunk {
        let manifest = self.manifest.encode_to_vec();
        let signature = BASE64.encode(&self.key.sign(&nkey_encoding(self.signed_as, &manifest)).unwrap());
        UsageChunk {
            manifest,
            manifest_signature: format!("{}:{signature}", self.key.public_key()),
            index: 0,
            count: 1,
            part: self.records.encode_to_vec(),
        }
    }
}

#[tokio::test]
async fn usage_counts_as_the_key_of_its_cluster_sealed_it() {
    let running = Running::start().await;
    let refused =
        async |sealing: &Sealing, chunk: UsageChunk| running.refusal(sealing.subject(), chunk.encode_to_vec()).await;
    let good = Sealing::good(1);
    let bytes = good.chunk().encode_to_vec();
    stopped("A-245", &running.refusal(good.subject(), bytes[..bytes.len() / 2].to_vec()).await);
    stopped("A-246", &refused(&good, UsageChunk { manifest_signature: String::new(), ..good.chunk() }).await);
    let by_b = Sealing { key: key_of_b(), ..Sealing::good(1) };
    stopped("A-247", &refused(&by_b, by_b.chunk()).await);
    let relabeled = by_b.chunk().manifest_signature.replace(&key_of_b().public_key(), &key_of_a().public_key());
    stopped("A-248", &refused(&good, UsageChunk { manifest_signature: relabeled, ..good.chunk() }).await);
    let raised = UsageManifest { coverage_ms: 9_999, ..good.manifest.clone() };
    stopped("A-249", &refused(&good, UsageChunk { manifest: raised.encode_to_vec(), ..good.chunk() }).await);
    let as_renewal = Sealing { signed_as: PayloadType::Renewal, ..Sealing::good(1) };
    stopped("A-250", &refused(&as_renewal, as_renewal.chunk()).await);
    let more = UsageRecords { records: vec![record(TENANT, 500)] };
    stopped("A-251", &refused(&good, UsageChunk { part: more.encode_to_vec(), ..good.chunk() }).await);
    stopped("A-252", &running.refusal(Sealing::good(2).subject(), good.chunk().encode_to_vec()).await);
    let mut of_b = Sealing::good(3);
    of_b.manifest.cluster_id = B.to_owned();
    stopped("A-253", &refused(&of_b, of_b.chunk()).await);
    stopped("A-254", &refused(&good, UsageChunk { index: 7, count: 1, ..good.chunk() }).await);
    running.publish(good.subject(), bytes).await;
    running
        .until("select coalesce(string_agg(tenant_name || ' ' || pod_count_ms, ','), '') from ledger", "tenant-0 5")
        .await;
}

#[tokio::test]
async fn what_a_cluster_seals_is_possible_and_counts_once() {
    let running = Running::start().await;
    let refused = async |sealing: Sealing| running.refusal(sealing.subject(), sealing.chunk().encode_to_vec()).await;
    let changed = |number: i64, change: fn(&mut UsageManifest)| {
        let mut sealing = Sealing::good(number);
        change(&mut sealing.manifest);
        sealing
    };
    stopped("A-255", &refused(changed(1, |manifest| manifest.revision = 1)).await);
    stopped("A-256", &refused(changed(2, |manifest| manifest.record_count = 2)).await);
    stopped(
        "A-257",
        &refused(changed(3, |manifest| drop(manifest.totals.insert("podCountMs".to_owned(), "50".to_owned())))).await,
    );
    stopped("A-258", &refused(changed(4, |manifest| manifest.coverage_ms = 20_000)).await);
    stopped("A-259", &refused(Sealing::good(1_000_000)).await);
    stopped("A-260", &refused(Sealing::of(5, vec![record(TENANT, -1)])).await);
    stopped("A-261", &refused(Sealing::of(6, vec![record("everybody", 1)])).await);
    let others = Sealing::of(7, vec![record(TENANT_OF_B, 7), record(TENANT, 5)]);
    running.publish(others.subject(), others.chunk().encode_to_vec()).await;
    running.until("select coalesce(string_agg(pod_count_ms::text, ','), '') from ledger", "5").await;
    let unclaimed = running.database.texts("select pod_count_ms::text from unclaimed_usage").await;
    stopped("A-262", &format!("{} of tenants that are not on the cluster is kept unclaimed", unclaimed.concat()));

    // The same again; what comes after it is handled after it.
    running.publish(others.subject(), others.chunk().encode_to_vec()).await;
    let next = Sealing::good(8);
    running.publish(next.subject(), next.chunk().encode_to_vec()).await;
    running.until("select count(*)::text from ledger", "2").await;
    let rows = running.database.texts("select count(*)::text from ledger").await.concat();
    stopped("A-263", &format!("{rows} rows are in the ledger"));
    let other = Sealing::of(7, vec![record(TENANT, 5_000)]);
    running.publish(other.subject(), other.chunk().encode_to_vec()).await;
    running.until("select count(*)::text from usage_conflicts", "1").await;
    let conflicts = async || running.database.texts("select count(*)::text from usage_conflicts").await.concat();
    stopped("A-264", &format!("{} conflicts are kept", conflicts().await));
    let mut wider = Sealing::good(7);
    wider.window = Window { start: wider.window.start / 20 * 20, seconds: 20 };
    wider.manifest.window = wider.window.to_string();
    running.publish(wider.subject(), wider.chunk().encode_to_vec()).await;
    running.until("select count(*)::text from usage_conflicts", "2").await;
    stopped("A-265", &format!("{} conflicts are kept", conflicts().await));
    assert_eq!(running.database.texts("select sum(pod_count_ms)::text from ledger").await.concat(), "10", "each once");
}
