//! The relay between a real database and a real broker: no cluster waits for another, and neither what is written nor what outcomes
//! make room for waits for the poll.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`), and an installed PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use async_nats::jetstream;
use kubenova_core::{
    change::Change,
    cluster::{ClusterId, Components},
    command::{CommandId, CommandState},
};
use kubenova_manager::{
    metrics::{Metrics, PREFIX},
    outbox_listener,
    relay::{self, Backlog, Doubt, Relay, RelaySettings, Signals},
};
use kubenova_runtime::{clock, metrics::Registry, random, shutdown::Shutdown};
use kubenova_schema::{streams, subjects};
use kubenova_store::{
    cluster_reports,
    outbox::{self, Issuer},
    outcomes::Reported,
    pool::{Limits, Store},
};
use kubenova_test_nats::NatsServer;
use kubenova_test_postgres::Database;
use kubenova_trust::{
    current::CurrentKeyring,
    envelope::Envelope,
    keyring::{self, Keyring},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Three clusters in session: the first has one command, the second as many as its window holds and eight more, the third none.
const ROWS: &str = "
    insert into clusters (id, name, state, kubernetes_uid, revision_counter, created_at, updated_at, created_by)
    select 'c' || n || '123456789abcdefghjkmnpqrs', 'cluster-' || n, 'enrolled', 'uid-' || n, 40, now(), now(), 'test'
    from generate_series(0, 2) n;
    insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
    select id, 1, '1', 'boot', 1, now(), now(), pg_postmaster_start_time() from clusters;
    insert into commands (id, cluster_id, revision, kind, object_key, document, generation, created_by, queued_at)
    select (lpad(n::text, 8, '0') || '-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 'c' || n || '123456789abcdefghjkmnpqrs',
           i, 'apply-tenant', 'tenant/' || i, '{}', 1, 'test', now()
    from generate_series(0, 1) n, generate_series(1, 40) i where n = 1 or i = 1";
const SILENT: &str = "c0123456789abcdefghjkmnpqrs";
const OTHER: &str = "c1123456789abcdefghjkmnpqrs";
const IDLE: &str = "c2123456789abcdefghjkmnpqrs";
const WINDOW: u64 = streams::COMMAND_WINDOW as u64;
/// Less than a publish waits for its acknowledgement.
const SOON: Duration = Duration::from_secs(5);
/// Pause between two looks at a state that is awaited.
const LOOK: Duration = Duration::from_millis(20);

struct Running {
    store: Store,
    stream: jetstream::stream::Stream,
    backlog: Arc<Backlog>,
    signals: Arc<Signals>,
    stop: Shutdown,
    /// Receives what is published to the silent cluster and acknowledges nothing, as a broker does that is in trouble with its
    /// subject alone.
    _silence: async_nats::Subscriber,
    database: Database,
    _broker: NatsServer,
}

fn keyring() -> CurrentKeyring {
    let envelope = Envelope::from_bytes(&[7; 32]).unwrap();
    let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
    CurrentKeyring::fixed(Keyring::open(&keys, &envelope, "kubenova.test").unwrap())
}

impl Running {
    /// A relay that never polls again: everything after its first round comes from a signal.
    async fn start() -> Self {
        let broker = NatsServer::with_jetstream();
        let client = async_nats::connect(broker.url().await).await.unwrap();
        let silence = client.subscribe(subjects::commands_to(SILENT)).await.unwrap();
        client.flush().await.unwrap();
        let jetstream = jetstream::new(client);
        let config = jetstream::stream::Config {
            name: streams::COMMANDS.name.to_owned(),
            subjects: [OTHER, IDLE].map(subjects::commands_to).to_vec(),
            ..jetstream::stream::Config::default()
        };
        let stream = jetstream.create_stream(config).await.unwrap();
        let database = Database::new().await;
        database.execute(ROWS).await;
        let store = Store::open_with(database.url(), 8, Limits::default()).unwrap();
        let signals = Arc::new(Signals::default());
        let backlog = Arc::new(Backlog::new(Arc::clone(&signals)));
        let hour = Duration::from_secs(3600);
        let relay = Relay {
            store: store.clone(),
            jetstream,
            doubt: Doubt::default(),
            keyring: keyring(),
            signals: Arc::clone(&signals),
            backlog: Arc::clone(&backlog),
            settings: RelaySettings { poll: hour, send_again_after: hour, report_again_after: hour, stale_after: hour },
            metrics: Metrics::register(&mut Registry::new(PREFIX)).relay,
        };
        let stop = Shutdown::new();
        tokio::spawn(relay::run(relay, stop.clone()));
        Self { store, stream, backlog, signals, stop, _silence: silence, database, _broker: broker }
    }

    /// Waits until so many commands to the other cluster are stored.
    async fn stored(&mut self, count: u64) {
        let looks = async {
            while self.stream.info().await.unwrap().state.messages < count {
                tokio::time::sleep(LOOK).await;
            }
        };
        let stored = timeout(SOON, looks).await;
        assert!(stored.is_ok(), "{} of {count} are stored", self.stream.cached_info().state.messages);
        assert_eq!(self.stream.cached_info().state.messages, count);
    }

    /// Writes a command for the idle cluster, as a request does.
    async fn write(&self) {
        let issuer = Issuer::without_request("test", "manager", clock::now(), random::uuid_v7);
        let change = Change::ClusterConfig { components: Components::default(), generation: 1 };
        let write = self.store.transaction("test", async |tx| {
            outbox::enqueue_commands(tx, issuer, &[ClusterId::parse(IDLE).unwrap()], &change).await
        });
        let written: Result<_, kubenova_store::error::StoreError> = write.await;
        written.unwrap();
    }

    async fn acknowledged(&self, number: u128) {
        let reported = Reported {
            cluster_id: ClusterId::parse(OTHER).unwrap(),
            command_id: CommandId::parse(&format!("00000001-0000-7000-8000-{number:012}")).unwrap(),
            epoch: 1,
            state: Some(CommandState::Acknowledged),
            reason: String::new(),
            message: String::new(),
            hops: Vec::new(),
            send_again_at: None,
        };
        let record = self.store.transaction("test", async |tx| {
            cluster_reports::record_outcomes(tx, &[reported], clock::now(), random::uuid_v7).await
        });
        let recorded: Result<_, kubenova_store::error::StoreError> = record.await;
        recorded.unwrap();
        self.backlog.outcome_stored(&ClusterId::parse(OTHER).unwrap());
    }
}

#[tokio::test]
async fn a_cluster_whose_commands_are_not_acknowledged_holds_no_other_up_and_outcomes_make_room_at_once() {
    let mut running = Running::start().await;
    running.stored(WINDOW).await;
    running.acknowledged(1).await;
    running.stored(WINDOW + 1).await;
    running.acknowledged(2).await;
    running.stored(WINDOW + 2).await;
    running.stop.request();
}

#[tokio::test]
async fn what_is_written_is_sent_at_once_and_to_a_cluster_out_of_session_when_its_next_one_begins() {
    let mut running = Running::start().await;
    running.stored(WINDOW).await;
    tokio::spawn(outbox_listener::run(running.store.clone(), Arc::clone(&running.signals), running.stop.clone()));
    running.write().await;
    running.stored(WINDOW + 1).await;
    // The listener is there by now, and what it heard first is done with.
    running.write().await;
    running.stored(WINDOW + 2).await;
    let silent = "update sessions set last_heartbeat_at = now() - interval '2 hours' where cluster_id like 'c2%'";
    running.database.execute(silent).await;
    running.write().await;
    // Signaled after it, and sent alone.
    running.acknowledged(1).await;
    running.stored(WINDOW + 3).await;
    running.database.execute("update sessions set last_heartbeat_at = now()").await;
    running.signals.cluster(&ClusterId::parse(IDLE).unwrap());
    running.stored(WINDOW + 4).await;
    running.stop.request();
}
