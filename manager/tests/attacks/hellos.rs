//! Hellos, listings and inbox records: who says them is the cluster of the subject, and what it says decides whether it gets a session.

use crate::{A, ANSWER_MAX, B};
use jiff::SignedDuration;
use kubenova_bus::{Connection, Credentials, Settings, dial::Dialer, tls::Files, transport::TransportChoice};
use kubenova_manager::{
    metrics::{Metrics, PREFIX},
    receipts::ReceiptQueue,
    session::{self, Sessions},
};
use kubenova_runtime::{clock, metrics::Registry, shutdown::Shutdown, tls};
use kubenova_schema::{
    message::{self, Named},
    subjects,
    v1::{Hello, HelloAnswer, ListingAnswer, ListingPart, RecordsPart},
};
use kubenova_store::pool::{Limits, Store};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use kubenova_test_postgres::Database;
use kubenova_trust::{
    authority::Validity,
    current::CurrentKeyring,
    envelope::Envelope,
    keyring::{self, Keyring},
    nats::{Revocations, UserCredentials},
    nats_config::NatsConfig,
};
use nkeys::KeyPair;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const ROWS: &str = "
    insert into clusters (id, name, state, kubernetes_uid, incarnation, epoch, created_at, updated_at, created_by)
    values ('c0123456789abcdefghjkmnpqrs', 'a', 'enrolled', 'uid', 2, 2, now(), now(), 'test')";

fn validity() -> Validity {
    Validity { now: clock::now(), lifetime: Duration::from_secs(600) }
}

/// A broker with the product's accounts, a database, and the Manager's side of sessions between them.
struct Running {
    broker: NatsServer,
    current: CurrentKeyring,
    keyring: Arc<Keyring>,
    database: Database,
    stop: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Running {
    async fn start() -> Self {
        tls::install_provider();
        let envelope = Envelope::from_bytes(&[5; 32]).unwrap();
        let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
        let current = CurrentKeyring::fixed(Keyring::open(&keys, &envelope, "kubenova.test").unwrap());
        let keyring = current.get();
        let accounts = keyring.nkeys.account_jwts(&Revocations::default(), &BTreeMap::new(), clock::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let config = NatsConfig::on_loopback(folder.path(), &hosts, clock::now(), &accounts);
        let path = config.write(&keyring.authority, &keyring.nkeys).unwrap();
        let broker = NatsServer::with_config(folder, &path);
        let database = Database::new().await;
        database.execute(ROWS).await;
        let running = Self { broker, current, keyring, database, stop: Shutdown::new() };
        let user = running.keyring.nkeys.manager_user(validity()).unwrap();
        let sessions = Sessions {
            store: Store::open_with(running.database.url(), 8, Limits::default()).unwrap(),
            connection: running.connect("manager", &user, None).await,
            keyring: running.current.clone(),
            silent_after: SignedDuration::from_hours(1),
            receipts: ReceiptQueue::default(),
            signals: Arc::default(),
            metrics: Metrics::register(&mut Registry::new(PREFIX)).sessions,
        };
        tokio::spawn(session::listing::run(sessions.clone(), running.stop.clone()));
        tokio::spawn(session::records::run(sessions.clone(), running.stop.clone()));
        tokio::spawn(session::run(sessions, running.stop.clone()));
        running
    }

    async fn connect(&self, name: &str, user: &UserCredentials, inbox_prefix: Option<String>) -> Connection {
        let folder = self.broker.folder();
        let client = self.keyring.authority.client(name, validity()).unwrap();
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        std::fs::write(at("pem"), &client.chain_pem).unwrap();
        std::fs::write(at("key"), &client.key_pem).unwrap();
        let settings = Settings {
            urls: vec![self.broker.url().await.replace("nats://", "tls://")],
            leaf: None,
            name: name.to_owned(),
            files: Files { ca: folder.join("ca.crt"), certificate: at("pem"), key: at("key") },
            transport: TransportChoice::Auto,
            dialer: Dialer::default(),
            discover_servers: false,
            credentials: Credentials { user_jwt: user.user_jwt.clone(), seed: user.seed.clone() },
            inbox_prefix,
            api_prefix: None,
            ping_interval: Duration::from_secs(20),
        };
        tokio::time::timeout(ANSWER_MAX, kubenova_bus::connect(settings)).await.unwrap().unwrap()
    }

    /// A cluster with credentials of its own.
    async fn cluster(&self, id: &str) -> Connection {
        let pair = KeyPair::new_user();
        let user_jwt = self.keyring.nkeys.cluster_user(id, &pair.public_key(), validity()).unwrap();
        let user = UserCredentials { user_jwt, seed: pair.seed().unwrap() };
        self.connect(id, &user, Some(subjects::inbox_prefix(id))).await
    }
}

/// What the Manager answers. It may not listen yet.
async fn ask<Q: Named, R: Named>(cluster: &Connection, subject: String, question: &Q) -> R {
    let asked = async {
        loop {
            let asked = cluster.client.request(subject.clone(), message::to_json(question).into());
            if let Ok(answer) = asked.await {
                return message::from_json(&answer.payload).unwrap();
            }
            tokio::time::sleep(crate::LOOK).await;
        }
    };
    tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_| panic!("{subject} is not answered"))
}

/// What cluster A is told that says hello.
async fn hello(cluster: &Connection, hello: &Hello) -> String {
    let answer: HelloAnswer = ask(cluster, subjects::hello(A), hello).await;
    if answer.accepted { "it is in session".to_owned() } else { format!("{}: {}", answer.reason, answer.message) }
}

fn good() -> Hello {
    Hello {
        cluster_id: A.to_owned(),
        cluster_uid: "uid".to_owned(),
        incarnation: "2".to_owned(),
        epoch: 2,
        boot_id: "first".to_owned(),
        lease_term: 7,
        nonce: "nonce".to_owned(),
        at: clock::rfc3339_ms(clock::now()),
        ..Hello::default()
    }
}

#[tokio::test]
async fn who_is_not_the_cluster_of_the_record_gets_no_session() {
    let running = Running::start().await;
    let cluster = running.cluster(A).await;
    let said = async |wrong: Hello| hello(&cluster, &wrong).await;
    stopped("A-266", &said(Hello { cluster_id: B.to_owned(), ..good() }).await);
    stopped("A-267", &said(Hello { cluster_uid: "another".to_owned(), ..good() }).await);
    stopped("A-268", &said(Hello { incarnation: "1".to_owned(), ..good() }).await);
    stopped("A-269", &said(Hello { epoch: 3, ..good() }).await);
    stopped("A-270", &said(Hello { highest_revision: 900, ..good() }).await);
    for (id, state) in
        [("A-271", "update clusters set state = 'revoked'"), ("A-272", "update clusters set state = 'quarantined'")]
    {
        running.database.execute(state).await;
        stopped(id, &said(good()).await);
    }
    running.database.execute("update clusters set state = 'enrolled'").await;
    assert_eq!(said(good()).await, "it is in session");

    // Minted with a stolen key of the role, for a cluster that there is not.
    let nobody = running.cluster(B).await;
    let answer: HelloAnswer = ask(&nobody, subjects::hello(B), &Hello { cluster_id: B.to_owned(), ..good() }).await;
    stopped("A-273", &format!("{}: {}", answer.reason, answer.message));
}

#[tokio::test]
async fn a_copy_of_a_cluster_does_not_take_its_session() {
    let running = Running::start().await;
    let cluster = running.cluster(A).await;
    let copy = Hello { boot_id: "copy".to_owned(), ..good() };
    assert_eq!(hello(&cluster, &good()).await, "it is in session");
    stopped("A-274", &hello(&cluster, &copy).await);
    let both_go_on = "update sessions set last_heartbeat_at = now(), contender_since = now() - interval '2 hours'";
    running.database.execute(both_go_on).await;
    stopped("A-275", &hello(&cluster, &copy).await);
    let state = running.database.texts("select state from clusters").await.concat();
    assert_eq!(state, "quarantined");
    running.database.execute("update clusters set state = 'enrolled'").await;
    let restarted = Hello { boot_id: "second".to_owned(), lease_term: 8, ..good() };
    assert_eq!(hello(&cluster, &restarted).await, "it is in session", "one that was started again");
}

#[tokio::test]
async fn what_a_cluster_holds_it_says_for_itself() {
    let running = Running::start().await;
    let cluster = running.cluster(A).await;
    let said = |answer: ListingAnswer| format!("{}: {}", answer.reason, answer.message);
    let listing = |id: &str| ListingPart { cluster_id: id.to_owned(), ..ListingPart::default() };
    stopped("A-276", &said(ask(&cluster, subjects::listing(A), &listing(B)).await));
    let records = |id: &str| RecordsPart { cluster_id: id.to_owned(), ..RecordsPart::default() };
    stopped("A-277", &said(ask(&cluster, subjects::records(A), &records(B)).await));
    let answer: ListingAnswer = ask(&cluster, subjects::records(A), &records(A)).await;
    assert!(answer.accepted, "{}", said(answer));
}
