//! Outcomes of clusters from a real broker into a real database: many in one transaction, in their order, and none held up by another.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`), and an installed PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use async_nats::jetstream;
use futures::FutureExt as _;
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState},
};
use kubenova_manager::{
    ingest::{durable::Ingest, outcomes},
    metrics::{Metrics, PREFIX},
    relay::Backlog,
};
use kubenova_runtime::{clock, metrics::Registry, random, shutdown::Shutdown};
use kubenova_schema::{message, streams, subjects, v1::Outcome};
use kubenova_store::{
    cluster_reports,
    error::StoreError,
    outcomes::Reported,
    pool::{Limits, Store},
};
use kubenova_test_nats::NatsServer;
use kubenova_test_postgres::Database;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

/// Longest that anything may take here; only a failing test waits so long. Less than the broker waits for an acknowledgement.
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// Longest that a test holds a row: longer than it waits for anything.
const HELD_MAX: Duration = Duration::from_secs(40);
/// Pause between two looks at a state that is awaited.
const LOOK: Duration = Duration::from_millis(20);
/// Commands of each cluster.
const COMMANDS: usize = 300;
/// Two clusters whose commands were sent.
const CLUSTERS: [&str; 2] = ["c0123456789abcdefghjkmnpqrs", "c1123456789abcdefghjkmnpqrs"];
const ROWS: &str = "
    insert into clusters (id, name, state, revision_counter, created_at, updated_at, created_by)
    select 'c' || n || '123456789abcdefghjkmnpqrs', 'cluster-' || n, 'enrolled', 300, now(), now(), 'test'
    from generate_series(0, 1) n;
    insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at, sent_at)
    select (lpad(n::text, 8, '0') || '-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 'c' || n || '123456789abcdefghjkmnpqrs',
           i + 1, 'apply-tenant', 'tenant/' || i, '{}', 1, 'sent', 'test', now(), now()
    from generate_series(0, 1) n, generate_series(0, 299) i;
    create function refuse() returns trigger language plpgsql as $$
    begin raise exception 'refused by the test' using errcode = '22000'; end $$;
    create trigger refuse before update on commands for each row when (new.reason = 'Unstorable') execute function refuse();";

/// Ingest of outcomes between a broker and a database of its own.
struct Running {
    ingest: Ingest,
    database: Database,
    jetstream: jetstream::Context,
    _broker: NatsServer,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(HELD_MAX).await
    }

    /// The same with another limit for the wait for a row.
    async fn start_with(lock: Duration) -> Self {
        let broker = NatsServer::with_jetstream();
        let jetstream = jetstream::new(async_nats::connect(broker.url().await).await.unwrap());
        kubenova_bus::streams::ensure(&jetstream, &streams::STATUS).await.unwrap();
        let database = Database::new().await;
        database.execute(ROWS).await;
        let limits = Limits { lock, idle_in_transaction: HELD_MAX, ..Limits::default() };
        let store = Store::open_with(database.url(), 8, limits).unwrap();
        let metrics = Metrics::register(&mut Registry::new(PREFIX)).ingest;
        let ingest = Ingest { store, jetstream: jetstream.clone(), metrics };
        Self { ingest, database, jetstream, _broker: broker }
    }

    /// Ingests in the background until a stop is requested.
    fn ingest(&self) -> (Shutdown, tokio::task::JoinHandle<()>) {
        let stop = Shutdown::new();
        let backlog = Arc::new(Backlog::new(Arc::default()));
        (stop.clone(), tokio::spawn(outcomes::run(self.ingest.clone(), Duration::from_secs(600), backlog, stop)))
    }

    async fn publish(&self, cluster: usize, body: Vec<u8>) {
        self.jetstream.publish(subjects::outcome(CLUSTERS[cluster]), body.into()).await.unwrap().await.unwrap();
    }

    async fn report(&self, cluster: usize, command: usize, state: &str, reason: &str) {
        let outcome = Outcome {
            command_id: command_id(cluster, command),
            cluster_id: CLUSTERS[cluster].to_owned(),
            epoch: 1,
            state: state.to_owned(),
            reason: reason.to_owned(),
            ..Outcome::default()
        };
        self.publish(cluster, message::to_json(&outcome)).await;
    }

    /// Holds the row of the first cluster's first command until the sender is used; resolves once it is free.
    async fn hold_first(&self) -> (oneshot::Sender<()>, impl Future<Output = ()> + use<>) {
        let (release, released) = oneshot::channel();
        let (store, held) = (self.ingest.store.clone(), Arc::new(Notify::new()));
        let holds = Arc::clone(&held);
        let hold = tokio::spawn(async move {
            let rolled_back = store.transaction("hold a row", async move |tx| {
                let first = [reported_first()];
                cluster_reports::record_outcomes(tx, &first, clock::now(), random::uuid_v7).await?;
                holds.notify_one();
                released.await.unwrap();
                Err::<(), _>(StoreError::IdempotencyKeyInUse)
            });
            rolled_back.await.unwrap_err();
        });
        held.notified().await;
        (release, hold.map(Result::unwrap))
    }

    /// Waits until so many messages are here and wait to be stored, and none at the broker.
    async fn wait_here(&self, messages: usize) {
        self.until("everything is delivered", async || self.pending().await == (messages, 0)).await;
    }

    /// Messages that were delivered and not answered, and that were not delivered.
    async fn pending(&self) -> (usize, u64) {
        let stream = self.jetstream.get_stream(streams::STATUS.name).await.unwrap();
        let Ok(info) = stream.consumer_info("manager-outcomes").await else { return (0, u64::MAX) };
        (info.num_ack_pending, info.num_pending)
    }

    async fn delivered_again(&self) {
        let again = async || {
            let stream = self.jetstream.get_stream(streams::STATUS.name).await.unwrap();
            stream.consumer_info("manager-outcomes").await.is_ok_and(|info| info.num_redelivered > 0)
        };
        self.until("what could not be stored is delivered again", again).await;
    }

    async fn answered(&self) {
        self.until("everything is answered", async || self.pending().await == (0, 0)).await;
    }

    async fn number(&self, sql: &'static str) -> usize {
        self.database.texts(sql).await[0].parse().unwrap()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let looks = async {
            while !is_so().await {
                tokio::time::sleep(LOOK).await;
            }
        };
        assert!(
            timeout(ANSWER_MAX, looks).await.is_ok(),
            "{what}: not within {ANSWER_MAX:?}; {:?}",
            self.pending().await
        );
    }
}

fn command_id(cluster: usize, command: usize) -> String {
    format!("{cluster:08}-0000-7000-8000-{command:012}")
}

fn reported_first() -> Reported {
    Reported {
        cluster_id: ClusterId::parse(CLUSTERS[0]).unwrap(),
        command_id: CommandId::parse(&command_id(0, 0)).unwrap(),
        epoch: 1,
        state: Some(CommandState::Acknowledged),
        reason: String::new(),
        message: String::new(),
        hops: Vec::new(),
        send_again_at: None,
    }
}

#[tokio::test]
async fn a_flood_is_stored_in_few_transactions_and_the_other_clusters_do_not_wait_for_it() {
    let running = Running::start().await;
    for command in 0..COMMANDS {
        running.report(0, command, "acknowledged", "").await;
    }
    for reason in ["One", "Two", "Three"] {
        running.report(0, 1, "running", reason).await;
    }
    running.report(1, 0, "acknowledged", "").await;
    let (release, held) = running.hold_first().await;
    let (stop, ingest) = running.ingest();
    // Without that of the other cluster, which was answered.
    running.wait_here(COMMANDS + 3).await;
    let other = "select count(*)::text from commands where cluster_id like 'c1%' and state = 'acknowledged'";
    assert_eq!(running.number(other).await, 1);
    release.send(()).unwrap();
    held.await;
    running.answered().await;
    let flood = "select count(*)::text from commands where cluster_id like 'c0%' and acknowledged_at is not null";
    assert_eq!(running.number(flood).await, COMMANDS);
    let transactions = "select count(distinct xmin::text)::text from commands where cluster_id like 'c0%'";
    let transactions = running.number(transactions).await;
    // The first group has what had come when the row was taken; the others are full.
    assert!(transactions <= COMMANDS.div_ceil(64) + 2, "{transactions} transactions");
    let last = running.database.texts("select reason from commands where state = 'running'").await;
    assert_eq!(last, ["Three"], "the reports of a cluster are stored in their order");
    stop.request();
    ingest.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_stored_becomes_a_dead_letter_and_holds_up_nothing_beside_it() {
    let running = Running::start().await;
    let (release, held) = running.hold_first().await;
    let (stop, ingest) = running.ingest();
    for command in 0..4 {
        running.report(0, command, "acknowledged", "").await;
    }
    running.publish(0, b"no outcome".to_vec()).await;
    running.report(0, 4, "acknowledged", "Unstorable").await;
    running.report(0, 999, "acknowledged", "").await;
    for command in 5..9 {
        running.report(0, command, "acknowledged", "").await;
    }
    // So that they are stored together.
    running.wait_here(11).await;
    release.send(()).unwrap();
    held.await;
    running.answered().await;
    let stored =
        running.database.texts("select revision::text from commands where state = 'acknowledged' order by revision");
    assert_eq!(stored.await, ["1", "2", "3", "4", "6", "7", "8", "9"]);
    let letters = running.database.texts("select reason from dead_letters order by reason").await;
    assert_eq!(letters.len(), 3, "{letters:?}");
    for part in ["refused by the test", "sent no command", "expected"] {
        assert!(letters.iter().any(|reason| reason.contains(part)), "{part}: {letters:?}");
    }
    stop.request();
    ingest.await.unwrap();
}

#[tokio::test]
async fn what_waits_when_a_stop_is_requested_goes_back_to_the_broker_at_once() {
    let running = Running::start().await;
    let (release, held) = running.hold_first().await;
    let (stop, ingest) = running.ingest();
    for command in 0..COMMANDS {
        running.report(0, command, "acknowledged", "").await;
    }
    running.wait_here(COMMANDS).await;
    stop.request();
    release.send(()).unwrap();
    held.await;
    ingest.await.unwrap();
    let stored = "select count(*)::text from commands where state = 'acknowledged'";
    assert!(running.number(stored).await < COMMANDS, "a stop does not wait for everything");
    let (stop, ingest) = running.ingest();
    running.answered().await;
    assert_eq!(running.number(stored).await, COMMANDS);
    stop.request();
    ingest.await.unwrap();
}

#[tokio::test]
async fn what_waits_too_long_for_a_row_comes_again_until_it_is_stored() {
    let running = Running::start_with(Duration::from_millis(100)).await;
    let (release, held) = running.hold_first().await;
    let (stop, ingest) = running.ingest();
    for command in 0..20 {
        running.report(0, command, "acknowledged", "").await;
    }
    running.delivered_again().await;
    release.send(()).unwrap();
    held.await;
    running.answered().await;
    let stored = "select count(*)::text from commands where state = 'acknowledged'";
    assert_eq!(running.number(stored).await, 20);
    assert_eq!(running.number("select count(*)::text from dead_letters").await, 0);
    stop.request();
    ingest.await.unwrap();
}
