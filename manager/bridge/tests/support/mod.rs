//! A broker as `kubenova-manager nats config` sets it up, bridges to it, and clusters.

use async_nats::jetstream;
use kubenova_bridge::{Running, settings::Settings};
use kubenova_bus::{Connection, Credentials, connection, dial::Dialer, tls::Files, transport::TransportChoice};
use kubenova_runtime::{clock, shutdown::Shutdown, tls};
use kubenova_schema::subjects;
use kubenova_test_nats::NatsServer;
use kubenova_trust::{
    authority::Validity,
    envelope::Envelope,
    keyring::{self, Keyring, StoredKey},
    nats::Revocations,
    nats_config::NatsConfig,
};
use nkeys::KeyPair;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A cluster.
pub(crate) const A: &str = "c0123456789abcdefghjkmnpqrs";
/// A name that only the proxy resolves.
pub(crate) const BRIDGE: &str = "bridge.kubenova.invalid";
/// Longest that loopback may take for one answer; only a failing test waits so long.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The broker, and the Manager's keys.
pub(crate) struct Hub {
    pub(crate) server: NatsServer,
    pub(crate) config: PathBuf,
    pub(crate) keyring: Keyring,
    stored: Vec<StoredKey>,
    pub(crate) nats: SocketAddr,
    pub(crate) websocket: SocketAddr,
}

pub(crate) fn validity() -> Validity {
    Validity { now: clock::now(), lifetime: Duration::from_secs(600) }
}

/// What the keys are sealed with.
fn envelope() -> Envelope {
    Envelope::from_bytes(&[5; 32]).unwrap()
}

pub(crate) fn free() -> SocketAddr {
    free_on("127.0.0.1")
}

fn free_on(host: &str) -> SocketAddr {
    std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

/// A bridge of this process.
pub(crate) struct Bridge {
    pub(crate) shutdown: Shutdown,
    pub(crate) running: Running,
}

impl Bridge {
    pub(crate) fn url(&self) -> String {
        format!("grpcs://{}", self.running.address)
    }

    /// The value of a metric, by its name with labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let mut stream = tokio::net::TcpStream::connect(self.running.metrics.unwrap()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let prefix = format!("kubenova_bridge_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn wait(&self, name: &str, value: u64) {
        let reached = async {
            while self.metric(name).await != value {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(ANSWER_MAX, reached).await.is_ok(), "{name} is {}", self.metric(name).await);
    }
}

impl Hub {
    pub(crate) fn start() -> Self {
        Self::start_on("127.0.0.1")
    }

    /// At this address of the loopback interface.
    pub(crate) fn start_on(host: &str) -> Self {
        tls::install_provider();
        let stored = keyring::make_missing(&BTreeSet::new(), &envelope(), clock::now()).unwrap();
        let keyring = Keyring::open(&stored, &envelope(), "kubenova.local").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (nats, websocket) = (free_on(host), free_on(host));
        let accounts = keyring.nkeys.account_jwts(&Revocations::default(), &BTreeMap::new(), clock::now()).unwrap();
        let hosts = ["127.0.0.1", "::1", BRIDGE].map(str::to_owned);
        let own = NatsConfig::on_loopback(folder.path(), &hosts, clock::now(), &accounts);
        let (listen, websocket_listen) = (nats.to_string(), websocket.to_string());
        let config = NatsConfig { listen: &listen, websocket: Some(&websocket_listen), ..own };
        let config = config.write(&keyring.authority, &keyring.nkeys).unwrap();
        Self { server: NatsServer::with_config(folder, &config), config, keyring, stored, nats, websocket }
    }

    /// The same keys for another trust domain.
    pub(crate) fn keyring_of(&self, trust_domain: &str) -> Keyring {
        Keyring::open(&self.stored, &envelope(), trust_domain).unwrap()
    }

    /// A bridge to this broker, with more settings.
    pub(crate) async fn bridge(&self, more: &str) -> Bridge {
        self.bridge_to(&format!("tls://{}", self.nats), more).await
    }

    pub(crate) async fn bridge_to(&self, broker: &str, more: &str) -> Bridge {
        self.bridge_at("127.0.0.1:0", broker, more).await
    }

    /// A bridge that listens there.
    pub(crate) async fn bridge_at(&self, listen: &str, broker: &str, more: &str) -> Bridge {
        self.server.url().await;
        let text = format!(
            "listen: \"{listen}\"\ntls: {{ caFile: ca.crt, certificateFile: tls/bridge.pem, keyFile: tls/bridge.key }}\n\
             nats: {{ urls: [\"{broker}\"] }}\nmetrics: {{ listen: \"127.0.0.1:0\" }}\n{more}\n"
        );
        let settings = Settings::parse(&text, self.server.folder()).unwrap();
        let shutdown = Shutdown::new();
        let running = kubenova_bridge::start(settings, shutdown.clone()).await.unwrap();
        Bridge { shutdown, running }
    }

    /// Certificate files of a cluster.
    pub(crate) fn cluster_files(&self, cluster: &str) -> Files {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let chain = self.keyring.authority.cluster(&csr, cluster, "1", validity()).unwrap();
        self.files(cluster, &chain, &key.serialize_pem())
    }

    /// Certificate files of a part of the Manager.
    pub(crate) fn own_files(&self, name: &str) -> Files {
        let identity = self.keyring.authority.client(name, validity()).unwrap();
        self.files(name, &identity.chain_pem, &identity.key_pem)
    }

    pub(crate) fn files(&self, name: &str, chain: &str, key: &str) -> Files {
        let at = |end: &str| self.server.folder().join(format!("{name}.{end}"));
        std::fs::write(at("pem"), chain).unwrap();
        std::fs::write(at("key"), key).unwrap();
        Files { ca: self.server.folder().join("ca.crt"), certificate: at("pem"), key: at("key") }
    }

    /// A cluster's JWT and seed.
    pub(crate) fn credentials(&self, cluster: &str) -> Credentials {
        let pair = KeyPair::new_user();
        let user_jwt = self.keyring.nkeys.cluster_user(cluster, &pair.public_key(), validity()).unwrap();
        Credentials { user_jwt, seed: pair.seed().unwrap() }
    }

    /// How a cluster connects by these URLs.
    pub(crate) fn settings(&self, urls: &[&str], dialer: Dialer) -> kubenova_bus::Settings {
        kubenova_bus::Settings {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            leaf: None,
            transport: TransportChoice::Auto,
            dialer,
            discover_servers: false,
            name: A.to_owned(),
            files: self.cluster_files(A),
            credentials: self.credentials(A),
            inbox_prefix: Some(subjects::inbox_prefix(A)),
            api_prefix: Some(subjects::API_PREFIX.to_owned()),
            ping_interval: Duration::from_secs(1),
        }
    }

    pub(crate) async fn cluster(&self, urls: &[&str]) -> Connection {
        let connecting = connection::connect(self.settings(urls, Dialer::default()));
        tokio::time::timeout(ANSWER_MAX, connecting).await.unwrap().unwrap()
    }

    /// The Manager, directly.
    pub(crate) async fn manager(&self) -> Connection {
        let user = self.keyring.nkeys.manager_user(validity()).unwrap();
        self.server.url().await;
        let settings = kubenova_bus::Settings {
            name: "manager".to_owned(),
            files: self.own_files("manager"),
            credentials: Credentials { user_jwt: user.user_jwt, seed: user.seed },
            inbox_prefix: None,
            api_prefix: None,
            ..self.settings(&[&format!("tls://{}", self.nats)], Dialer::default())
        };
        tokio::time::timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap()
    }
}

/// The durable of a cluster on the stream of commands, with one command in it.
pub(crate) async fn with_command(manager: &Connection) {
    use kubenova_schema::streams::COMMANDS;
    let config = jetstream::stream::Config {
        name: COMMANDS.name.to_owned(),
        subjects: COMMANDS.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        ..Default::default()
    };
    manager.jetstream.create_stream(config).await.unwrap();
    let config = jetstream::consumer::pull::Config {
        durable_name: Some(A.to_owned()),
        filter_subject: subjects::commands_to(A),
        ..Default::default()
    };
    manager.jetstream.create_consumer_on_stream(config, COMMANDS.name).await.unwrap();
    let published = manager.jetstream.publish(subjects::command(A, "apply-tenant"), "a command".into());
    published.await.unwrap().await.unwrap();
}

/// The broker answers: that there is no responder to a hello.
pub(crate) async fn reaches_broker(cluster: &Connection) {
    use async_nats::RequestErrorKind::NoResponders;
    let asked = cluster.client.request(subjects::hello(A), "{}".into());
    let answer = tokio::time::timeout(ANSWER_MAX, asked).await.expect("the broker answers");
    assert!(matches!(&answer, Err(error) if error.kind() == NoResponders), "{answer:?}");
}
