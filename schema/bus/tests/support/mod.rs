//! A broker with every listener that clusters reach it by, and what they need to connect.

use futures::StreamExt as _;
use kubenova_bus::{
    BusError, Connection, Credentials, Settings,
    cause::ConnectCause,
    connection,
    dial::{
        Dialer,
        proxy::{ProxyFiles, ProxySettings},
    },
    tls::Files,
    transport::TransportChoice,
};
use kubenova_runtime::tls::install_provider;
use kubenova_test_nats::{NatsServer, connect_proxy::ConnectProxy};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// A name that only the proxy resolves.
pub(crate) const HUB: &str = "hub.kubenova.invalid";
/// Longest that loopback may take for one answer; only a failing test waits so long.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// About the largest message.
pub(crate) const LARGE: usize = 900 * 1024;

/// A certificate authority of the test, in a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join(format!("{name}.ca")), certificate.pem()).unwrap();
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate for these names, and its key.
    pub(crate) fn issue(&self, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A broker with mutual TLS and a WebSocket listener that names other servers, and what clients need.
pub(crate) struct Broker {
    pub(crate) server: NatsServer,
    pub(crate) config: PathBuf,
    pub(crate) nats: SocketAddr,
    pub(crate) websocket: SocketAddr,
    cluster: SocketAddr,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more lines of configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        Self::start_on("127.0.0.1", more).await
    }

    /// At this address of the loopback interface.
    pub(crate) async fn start_on(host: &str, more: &str) -> Self {
        install_provider();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let authority = Authority::new(folder.path(), "hub");
        authority.issue("server", &[HUB, "127.0.0.1", "::1"]);
        authority.issue("client", &["client"]);
        Authority::new(folder.path(), "other").issue("other", &["client"]);
        let (nats, websocket, cluster) = (free_on(host), free_on(host), free_on(host));
        let tls = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            at("server.pem"),
            at("server.key"),
            at("hub.ca")
        );
        let text = format!(
            "host: \"{host}\"\nport: {}\nhttp: \"127.0.0.1:-1\"\nclient_advertise: \"10.9.9.9:4222\"\n\
             cluster {{ name: test, host: \"{host}\", port: {} }}\n{tls}\n\
             websocket {{ host: \"{host}\", port: {}, {tls} }}\n{more}\n",
            nats.port(),
            cluster.port(),
            websocket.port()
        );
        let config = at("nats-server.conf");
        std::fs::write(&config, text).unwrap();
        let server = NatsServer::with_config(folder, &config);
        server.monitor_url().await;
        Self { server, config, nats, websocket, cluster }
    }

    /// Another server of the same cluster, which this one then names to its clients.
    pub(crate) fn another(&self) -> NatsServer {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("nats-server.conf");
        let text = format!(
            "host: 127.0.0.1\nport: -1\ncluster {{ name: test, host: 127.0.0.1, port: -1, routes: [\"nats://{}\"] }}\n",
            self.cluster
        );
        std::fs::write(&config, text).unwrap();
        NatsServer::with_config(folder, &config)
    }

    pub(crate) fn tls(&self) -> String {
        format!("tls://{}", self.nats)
    }

    pub(crate) fn wss(&self) -> String {
        format!("wss://{}/nats", self.websocket)
    }

    /// URLs by the name that only the proxy resolves.
    pub(crate) fn named(&self) -> (String, String) {
        (format!("tls://{HUB}:{}", self.nats.port()), format!("wss://{HUB}:{}", self.websocket.port()))
    }

    pub(crate) async fn proxy(&self) -> ConnectProxy {
        let names = [(HUB, self.nats), (HUB, self.websocket)].map(|(name, at)| (format!("{name}:{}", at.port()), at));
        let names: Vec<(&str, SocketAddr)> = names.iter().map(|(name, at)| (name.as_str(), *at)).collect();
        let host = self.nats.ip();
        ConnectProxy::start(&SocketAddr::new(host, 0).to_string(), &names).await
    }

    pub(crate) fn settings(&self, urls: &[&str], transport: TransportChoice, dialer: Dialer) -> Settings {
        let at = |name: &str| self.server.folder().join(name);
        let pair = nkeys::KeyPair::new_user();
        Settings {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            leaf: None,
            transport,
            dialer,
            discover_servers: false,
            name: "test".to_owned(),
            files: Files { ca: at("hub.ca"), certificate: at("client.pem"), key: at("client.key") },
            credentials: Credentials { user_jwt: "none".to_owned(), seed: pair.seed().unwrap() },
            inbox_prefix: None,
            api_prefix: None,
            ping_interval: Duration::from_secs(1),
        }
    }
}

/// A port of the loopback interface that is free.
pub(crate) fn free() -> SocketAddr {
    free_on("127.0.0.1")
}

fn free_on(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

pub(crate) fn by_proxy(url: &str) -> Dialer {
    with_files(url, ProxyFiles::default())
}

pub(crate) fn with_files(url: &str, files: ProxyFiles) -> Dialer {
    let variable = |name: &str| (name == "HTTPS_PROXY").then(|| url.to_owned());
    Dialer::new(ProxySettings::read(variable, files).unwrap())
}

pub(crate) fn http(proxy: &ConnectProxy) -> String {
    format!("http://{}", proxy.address())
}

/// Sends messages of every size to itself and gets them back in order.
pub(crate) async fn works(connection: &Connection) {
    let client = &connection.client;
    let subject = client.new_inbox();
    let mut received = client.subscribe(subject.clone()).await.unwrap();
    let sizes = [0, 1, 125, 126, 4_000, 70_000, LARGE];
    for size in sizes {
        client.publish(subject.clone(), vec![b'x'; size].into()).await.unwrap();
    }
    let all = async {
        for size in sizes {
            assert_eq!(received.next().await.unwrap().payload.len(), size);
        }
    };
    assert!(timeout(ANSWER_MAX, all).await.is_ok(), "not every message came back");
}

pub(crate) async fn cause(settings: &Settings) -> (ConnectCause, String) {
    let failed: BusError = timeout(ANSWER_MAX, connection::check(settings)).await.unwrap().unwrap_err();
    (failed.cause(), kubenova_runtime::telemetry::chain(&failed))
}
