//! Revocation on a broker of two servers: the credentials of a cluster are void when both have the account JWT that says so, and stay void
//! when a server comes back without it.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`), and an installed PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use async_nats::connection::State;
use kubenova_bus::{
    Connection, Credentials, Settings, connection, dial::Dialer, tls::Files, transport::TransportChoice,
};
use kubenova_core::cluster::{ClusterId, ClusterRef, ClusterState, StateNote};
use kubenova_manager::accounts::{self, Accounts, RolloutError};
use kubenova_runtime::{clock, shutdown::Shutdown, tls};
use kubenova_schema::subjects;
use kubenova_store::{
    cluster_trust, clusters,
    identities::{self, CredentialsLife},
    keys::{self, KeyRow},
    pool::{Limits, Store},
    revocations::{self, RevocationReason},
};
use kubenova_test_nats::NatsServer;
use kubenova_test_postgres::Database;
use kubenova_trust::{
    authority::Validity,
    current::CurrentKeyring,
    envelope::Envelope,
    keyring::{self, Keyring, StoredKey},
    nats::{UserCredentials, system_inbox_prefix},
    nats_config::NatsConfig,
    rotation::{self, RotatedKey},
};
use nkeys::KeyPair;
use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio::time::timeout;

const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";
const ROWS: &str = "
    insert into clusters (id, name, state, kubernetes_uid, incarnation, created_at, updated_at, created_by)
    values ('c0123456789abcdefghjkmnpqrs', 'a', 'enrolled', 'uid', 1, now(), now(), 'test')";
/// Longest for what takes a second or two, on a busy machine; less than the minute after which everything is pushed again.
const SOON: Duration = Duration::from_secs(30);
/// Pause between two looks at a state that is awaited.
const LOOK: Duration = Duration::from_millis(50);

fn validity() -> Validity {
    Validity { now: clock::now(), lifetime: Duration::from_secs(3600) }
}

/// A broker of two servers, the Manager's rollout, and a cluster that is enrolled.
struct Running {
    servers: Vec<NatsServer>,
    urls: Vec<String>,
    store: Store,
    keyring: CurrentKeyring,
    cluster: ClusterId,
    user: UserCredentials,
    stop: Shutdown,
    _database: Database,
}

async fn insert(store: &Store, keys: Vec<StoredKey>) {
    let row = |key: StoredKey| KeyRow {
        name: key.name,
        public: key.public,
        kek_id: key.sealed.key_id,
        sealed: key.sealed.bytes,
    };
    let rows: Vec<KeyRow> = keys.into_iter().map(row).collect();
    keys::insert(&mut store.acquire().await.unwrap(), &rows, clock::now()).await.unwrap();
}

impl Running {
    async fn start() -> Self {
        tls::install_provider();
        let database = Database::new().await;
        database.execute(ROWS).await;
        let store = Store::open_with(database.url(), 8, Limits::default()).unwrap();
        let envelope = Envelope::from_bytes(&[5; 32]).unwrap();
        let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
        let keyring = Keyring::open(&keys, &envelope, "kubenova.test").unwrap();
        insert(&store, keys).await;
        let routes: Vec<u16> = free_ports();
        let accounts = accounts::current(&store, &keyring).await.unwrap().accounts;
        let hosts = ["127.0.0.1".to_owned()];
        let mut servers = Vec::new();
        for number in 0..routes.len() {
            let folder = tempfile::tempdir().unwrap();
            let lifetime = Duration::from_secs(3600);
            let config =
                NatsConfig { lifetime, ..NatsConfig::on_loopback(folder.path(), &hosts, clock::now(), &accounts) };
            let path = config.write(&keyring.authority, &keyring.nkeys).unwrap();
            clustered(&path, number, &routes);
            servers.push(NatsServer::with_config(folder, &path));
        }
        let mut urls = Vec::new();
        for server in &servers {
            urls.push(server.url().await.replace("nats://", "tls://"));
        }
        let pair = KeyPair::new_user();
        let now = clock::now();
        let life = CredentialsLife {
            issued_at: now,
            expires_at: now + Duration::from_secs(3600),
            user_jwt_expires_at: now + Duration::from_secs(3600),
        };
        let cluster = ClusterId::parse(CLUSTER).unwrap();
        let mut connection = store.acquire().await.unwrap();
        identities::insert(&mut connection, &cluster, 1, &pair.public_key(), None, life).await.unwrap();
        drop(connection);
        let user_jwt = keyring.nkeys.cluster_user(CLUSTER, &pair.public_key(), validity()).unwrap();
        let user = UserCredentials { user_jwt, seed: pair.seed().unwrap() };
        let stop = Shutdown::new();
        let keyring = CurrentKeyring::fixed(keyring);
        Self { servers, urls, store, keyring, cluster, user, stop, _database: database }
    }

    fn settings(&self, server: usize, user: &UserCredentials, inbox: String) -> Settings {
        let folder = self.servers[server].folder();
        let client = self.keyring.get().authority.client("test", validity()).unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Settings {
            urls: vec![self.urls[server].clone()],
            name: "test".to_owned(),
            files: Files {
                ca: folder.join("ca.crt"),
                certificate: file("client.pem", &client.chain_pem),
                key: file("client.key", &client.key_pem),
            },
            leaf: None,
            transport: TransportChoice::Auto,
            dialer: Dialer::default(),
            discover_servers: false,
            credentials: Credentials { user_jwt: user.user_jwt.clone(), seed: user.seed.clone() },
            inbox_prefix: Some(inbox),
            api_prefix: None,
            ping_interval: Duration::from_secs(20),
        }
    }

    async fn roll_out(&self) {
        let system = self.keyring.get().nkeys.system_user(validity()).unwrap();
        let connection = kubenova_bus::connect(self.settings(0, &system, system_inbox_prefix())).await.unwrap();
        let accounts = Accounts {
            store: self.store.clone(),
            keyring: self.keyring.clone(),
            connection,
            servers_behind: prometheus_client::metrics::gauge::Gauge::default(),
        };
        tokio::spawn(accounts::run(accounts, self.stop.clone()));
    }

    async fn cluster_connection(&self, server: usize) -> Connection {
        kubenova_bus::connect(self.cluster_settings(server)).await.unwrap()
    }

    fn cluster_settings(&self, server: usize) -> Settings {
        self.settings(server, &self.user, subjects::inbox_prefix(CLUSTER))
    }

    async fn is_let_in(&self, server: usize) -> bool {
        connection::check(&self.cluster_settings(server)).await.is_ok()
    }

    async fn state(&self) -> ClusterState {
        let named = ClusterRef::Id(self.cluster.clone());
        clusters::find(&mut self.store.acquire().await.unwrap(), &named).await.unwrap().unwrap().state
    }

    async fn revoke(&self) {
        let revoke = self.store.transaction("test", async |tx| {
            let into = (ClusterState::Revoking, RevocationReason::Revoked);
            cluster_trust::revoke(tx, &self.cluster, into, &StateNote::new("Revoked", ""), "test", clock::now()).await
        });
        let revoked: Result<(), kubenova_store::error::StoreError> = revoke.await;
        revoked.unwrap();
    }

    async fn waiting_for(&self) -> String {
        let mut connection = self.store.acquire().await.unwrap();
        let shown = revocations::of_cluster(&mut connection, &self.cluster).await.unwrap();
        shown.map(|revocation| revocation.waiting_for).unwrap_or_default()
    }

    fn signal(&self, server: usize, signal: &str) {
        let status = Command::new("kill").args([signal, &self.servers[server].pid().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

/// Two ports that are free.
fn free_ports() -> Vec<u16> {
    let held: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Makes one of the servers of a cluster of the configuration; none of them has JetStream, which would want a quorum.
fn clustered(path: &Path, number: usize, routes: &[u16]) {
    let text = std::fs::read_to_string(path).unwrap();
    let (before, jetstream) = text.split_once("jetstream {").unwrap();
    let (_, after) = jetstream.split_once("}\n").unwrap();
    let others: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let cluster = format!(
        "cluster {{\n  name: hub\n  listen: \"127.0.0.1:{}\"\n  routes: [{}]\n}}\n",
        routes[number],
        others.join(", ")
    );
    let text = format!("{before}{after}{cluster}").replace("kubenova-hub", &format!("kubenova-hub-{number}"));
    std::fs::write(path, text).unwrap();
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waits = async {
        while !is_so().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(timeout(SOON, waits).await.is_ok(), "{what}");
}

#[tokio::test]
async fn credentials_are_void_once_every_server_says_so_and_a_server_without_memory_learns_it_again() {
    let mut running = Running::start().await;
    running.roll_out().await;
    // Over the second server, which the Manager is not connected to.
    let connected = running.cluster_connection(1).await;
    running.signal(1, "-STOP");
    running.revoke().await;
    until("the missing server to be named", async || running.waiting_for().await.contains("did not answer")).await;
    assert_eq!(running.state().await, ClusterState::Revoking);
    assert!(!running.is_let_in(0).await, "the server that answers refuses it already");

    running.signal(1, "-CONT");
    until("the cluster to be revoked", async || running.state().await == ClusterState::Revoked).await;
    until("the live connection to end", async || connected.client.connection_state() != State::Connected).await;
    assert!(!running.is_let_in(1).await);

    // With an empty store it begins with the accounts of its configuration, in which the cluster is not revoked.
    let server = &mut running.servers[1];
    let config = server.folder().join("nats-server.conf");
    std::fs::remove_dir_all(server.folder().join("jwt")).unwrap();
    server.start_again(&config);
    running.urls[1] = running.servers[1].url().await.replace("nats://", "tls://");
    until("the server to refuse the cluster again", async || {
        running.waiting_for().await.is_empty() && !running.is_let_in(1).await
    })
    .await;
    running.stop.request();
}

/// Of two Managers one has read rotated keys, the other not yet: it must not take back what the first has signed.
#[tokio::test]
async fn a_manager_with_former_keys_signs_nothing() {
    let database = Database::new().await;
    let store = Store::open_with(database.url(), 2, Limits::default()).unwrap();
    let envelope = Envelope::from_bytes(&[5; 32]).unwrap();
    let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
    let former = Keyring::open(&keys, &envelope, "kubenova.test").unwrap();
    let changes = rotation::rotate(RotatedKey::ClusterSigner, &keys, &envelope, clock::now()).unwrap();
    insert(&store, keys.clone()).await;
    accounts::current(&store, &former).await.unwrap();

    let rotated = [keys, changes.put.clone()].concat();
    let rotated = Keyring::open(&rotated, &envelope, "kubenova.test").unwrap();
    insert(&store, changes.put).await;
    let signed = |current: accounts::Current| -> Vec<String> {
        current.accounts.into_iter().map(|account| account.signed.jwt).collect()
    };
    let new = signed(accounts::current(&store, &rotated).await.unwrap());
    let refused = accounts::current(&store, &former).await.unwrap_err();
    assert!(matches!(refused, RolloutError::OtherKeys), "{refused}");
    assert_eq!(signed(accounts::current(&store, &rotated).await.unwrap()), new);
}
