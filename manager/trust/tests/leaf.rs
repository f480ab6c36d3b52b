//! A leaf node of one cluster, from `deploy/nats/leaf.example.conf`, on a real hub with the configuration of `kubenova-manager nats config`:
//! the cluster does its own things through it, and nothing of another's. And the transport `leaf` of an Operator on it: what each failure
//! is called, and that it lives through renewals of the credentials.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod broker;
#[path = "broker/handshake.rs"]
mod handshake;
#[path = "leaf/hub_connection.rs"]
mod hub_connection;

use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, consumer::pull, stream},
};
use broker::{A, B, validity};
use futures::{FutureExt as _, StreamExt as _};
use kubenova_bus::{
    Connection, Credentials, Settings,
    cause::ConnectCause,
    connection,
    consume::{self, Delivery, Verdict},
    dial::Dialer,
    leaf::Leaf,
    tls::Files,
    transport::TransportChoice,
};
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use kubenova_trust::{
    authority::{Identity, Validity},
    keyring::Keyring,
    nats::UserCredentials,
};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::time::timeout;

/// Longest that loopback may take for one answer; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

struct Hub {
    server: NatsServer,
    keyring: Keyring,
    leaf_address: SocketAddr,
    websocket: SocketAddr,
}

fn free_on(host: &str) -> SocketAddr {
    std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

/// Keys of a cluster, and what the Manager issued for them.
struct Cluster {
    id: &'static str,
    pair: KeyPair,
    user: UserCredentials,
    identity: Identity,
}

impl Cluster {
    fn enroll(keyring: &Keyring, id: &'static str, validity: Validity) -> Self {
        Self::renew(keyring, id, KeyPair::new_user(), validity)
    }

    fn renew(keyring: &Keyring, id: &'static str, pair: KeyPair, validity: Validity) -> Self {
        let user = broker::cluster_user(keyring, id, &pair, validity);
        Self { id, pair, user, identity: keyring.authority.client(id, validity).unwrap() }
    }
}

/// A leaf node from the example, with a certificate of an authority of its own, as an Operator has one.
struct LeafNode {
    server: NatsServer,
}

impl LeafNode {
    fn start(hub: &Hub, cluster: &Cluster) -> Self {
        Self::start_on("127.0.0.1", hub, cluster, &hub.leaf_url(), |text| text)
    }

    /// At this address, with the hub at this URL and a changed configuration.
    fn start_on(host: &str, hub: &Hub, cluster: &Cluster, hub_url: &str, change: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::certify(folder.path(), host);
        Self::write(folder.path(), &hub.keyring, cluster);
        let nkey = cluster.pair.public_key();
        let text = include_str!("../../../deploy/nats/leaf.example.conf")
            .replace("CLUSTER_ID", cluster.id)
            .replace("CLUSTER_NKEY", &nkey)
            .replace("host: \"0.0.0.0\"", &format!("host: \"{host}\""))
            .replace("port: 4222", "port: -1")
            .replace("tls://HUB:7422", hub_url);
        let text = change(text).replace("/etc/kubenova/leaf", folder.path().to_str().unwrap());
        // What the hub tells it is there.
        let log = folder.path().join("leaf.log");
        let path = folder.path().join("nats-server.conf");
        std::fs::write(&path, format!("{text}\nlog_file: {log:?}\n")).unwrap();
        Self { server: NatsServer::with_config(folder, &path) }
    }

    /// Its own certificate, which is none of the Manager's.
    fn certify(folder: &Path, host: &str) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(folder.join("leaf-ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer);
        std::fs::write(folder.join("server.crt"), certificate.unwrap().pem()).unwrap();
        std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    }

    /// What a renewal changes.
    fn write(folder: &Path, keyring: &Keyring, cluster: &Cluster) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("cluster.creds", &cluster.user.to_file());
        write("tls.crt", &cluster.identity.chain_pem);
        write("tls.key", &cluster.identity.key_pem);
        write("ca.crt", keyring.authority.bundle_pem());
    }

    fn renew(&self, keyring: &Keyring, cluster: &Cluster) {
        Self::write(self.server.folder(), keyring, cluster);
        self.server.reload();
    }

    async fn url(&self) -> String {
        self.server.url().await.replace("nats://", "tls://")
    }

    /// A client with a certificate of the Manager's authority, and this user's nkey.
    async fn connect(&self, cluster: &Cluster) -> Result<Client, async_nats::ConnectError> {
        self.with_certificate(signing(&cluster.user), cluster).connect(self.url().await).await
    }

    fn with_certificate(&self, options: ConnectOptions, cluster: &Cluster) -> ConnectOptions {
        let folder = self.server.folder();
        let (chain, key) = (folder.join(format!("{}.pem", cluster.id)), folder.join(format!("{}.key", cluster.id)));
        std::fs::write(&chain, &cluster.identity.chain_pem).unwrap();
        std::fs::write(&key, &cluster.identity.key_pem).unwrap();
        options
            .require_tls(true)
            .add_root_certificates(folder.join("leaf-ca.crt"))
            .add_client_certificate(chain, key)
            .custom_inbox_prefix(subjects::inbox_prefix(cluster.id))
    }
}

impl Hub {
    fn start() -> Self {
        Self::start_on("127.0.0.1")
    }

    /// With the listeners for leaf nodes and for WebSockets at this address.
    fn start_on(host: &str) -> Self {
        let (leaf_address, websocket) = (free_on(host), free_on(host));
        let (server, keyring) = broker::start(Some(&websocket.to_string()), Some(&leaf_address.to_string()));
        Self { server, keyring, leaf_address, websocket }
    }

    fn leaf_url(&self) -> String {
        format!("tls://{}", self.leaf_address)
    }

    /// Starts it again after [`NatsServer::kill`], with its store. Only the port for leaf nodes is the same.
    fn start_again(&mut self) {
        let config = self.server.folder().join("nats-server.conf");
        self.server.start_again(&config);
    }

    async fn url(&self) -> String {
        self.server.url().await.replace("nats://", "tls://")
    }

    fn files(&self, name: &str, identity: &Identity) -> Files {
        let folder = self.server.folder();
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, &identity.chain_pem).unwrap();
        std::fs::write(&key, &identity.key_pem).unwrap();
        Files { ca: folder.join("ca.crt"), certificate, key }
    }

    /// With certificate and credentials, and with the nkey, as a leaf node wants it.
    async fn connect(&self, name: &str, user: &UserCredentials) -> Client {
        let files = self.files(name, &self.keyring.authority.client(name, validity()).unwrap());
        let options = signing(user)
            .require_tls(true)
            .add_root_certificates(files.ca)
            .add_client_certificate(files.certificate, files.key)
            .custom_inbox_prefix(subjects::inbox_prefix(name));
        options.connect(self.url().await).await.unwrap()
    }

    async fn manager(&self) -> Client {
        self.connect("manager", &self.keyring.nkeys.manager_user(validity()).unwrap()).await
    }

    fn cluster(&self, id: &'static str) -> Cluster {
        Cluster::enroll(&self.keyring, id, validity())
    }

    /// How an Operator connects: by the leaf node at this URL, with the authority that is in this folder.
    fn settings(&self, cluster: &Cluster, leaf_url: &str, leaf_folder: &Path) -> Settings {
        let credentials = Credentials { user_jwt: cluster.user.user_jwt.clone(), seed: cluster.user.seed.clone() };
        Settings {
            urls: Vec::new(),
            leaf: Some(Leaf {
                url: leaf_url.to_owned(),
                ca: leaf_folder.join("leaf-ca.crt"),
                asks: subjects::durable_info(cluster.id),
            }),
            transport: TransportChoice::Leaf,
            dialer: Dialer::default(),
            discover_servers: false,
            name: "test".to_owned(),
            files: self.files(cluster.id, &cluster.identity),
            credentials,
            inbox_prefix: Some(subjects::inbox_prefix(cluster.id)),
            api_prefix: Some(subjects::API_PREFIX.to_owned()),
            ping_interval: Duration::from_secs(1),
        }
    }

    async fn by(&self, cluster: &Cluster, leaf: &LeafNode) -> Settings {
        self.settings(cluster, &leaf.url().await, leaf.server.folder())
    }
}

fn signing(user: &UserCredentials) -> ConnectOptions {
    let user = UserCredentials { user_jwt: user.user_jwt.clone(), seed: user.seed.clone() };
    ConnectOptions::with_auth_callback(move |nonce| {
        let pair = KeyPair::from_seed(&user.seed).unwrap();
        let mut auth = async_nats::Auth::new();
        auth.jwt = Some(user.user_jwt.clone());
        auth.nkey = Some(pair.public_key());
        auth.signature = Some(pair.sign(&nonce).unwrap());
        async move { Ok(auth) }
    })
    .request_timeout(Some(ANSWER_MAX))
}

/// Asks until the leaf is connected to the hub: before, there is no responder.
async fn ask(client: &Client, subject: &str) -> String {
    let asked = async {
        loop {
            match client.request(subject.to_owned(), "{}".into()).await {
                Ok(answer) => return String::from_utf8_lossy(&answer.payload).into_owned(),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    };
    timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_| panic!("{subject} was not answered"))
}

/// The Manager's streams, a durable of each cluster with one command, and an answer to each hello.
async fn furnish(manager: &Client) -> jetstream::Context {
    let jetstream = jetstream::new(manager.clone());
    for wanted in [streams::COMMANDS, streams::STATUS, streams::USAGE] {
        let config = stream::Config {
            name: wanted.name.to_owned(),
            subjects: wanted.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            ..stream::Config::default()
        };
        jetstream.create_stream(config).await.unwrap();
    }
    for cluster in [A, B] {
        let config = pull::Config {
            durable_name: Some(cluster.to_owned()),
            filter_subject: subjects::commands_to(cluster),
            ..pull::Config::default()
        };
        jetstream.create_consumer_on_stream(config, streams::COMMANDS.name).await.unwrap();
        let command = jetstream.publish(subjects::command(cluster, "apply-tenant"), cluster.to_owned().into());
        command.await.unwrap().await.unwrap();
    }
    let mut hellos = manager.subscribe(subjects::every::HELLO).await.unwrap();
    let answering = manager.clone();
    tokio::spawn(async move {
        while let Some(hello) = hellos.next().await {
            answering.publish(hello.reply.unwrap(), hello.subject.as_str().to_owned().into()).await.unwrap();
        }
    });
    manager.flush().await.unwrap();
    jetstream
}

async fn messages(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn a_cluster_does_its_own_things_through_its_leaf_and_nothing_of_another_s() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    let jetstream = furnish(&manager).await;
    let cluster = hub.cluster(A);
    let leaf = LeafNode::start(&hub, &cluster);
    let client = leaf.connect(&cluster).await.unwrap();

    // Hello, a command with its acknowledgement, outcome, status, usage, what the Manager asks of it.
    assert_eq!(ask(&client, &subjects::hello(A)).await, subjects::hello(A));
    let own = jetstream::context::ContextBuilder::new().api_prefix(subjects::API_PREFIX).build(client.clone());
    let commands = own.get_consumer_from_stream::<pull::Config, _, _>(A, streams::COMMANDS.name).await.unwrap();
    let mut batch = commands.fetch().max_messages(1).messages().await.unwrap();
    let command = timeout(ANSWER_MAX, batch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(command.payload, A);
    command.double_ack().await.unwrap();
    for subject in [subjects::outcome(A), subjects::status(A), subjects::usage(A, "w0-60")] {
        assert!(ask(&client, &subject).await.contains("\"seq\":"), "{subject}");
    }

    let mut own_requests = client.subscribe(subjects::control(A)).await.unwrap();
    let mut other_requests = client.subscribe(subjects::control(B)).await.unwrap();
    let mut other_inbox = client.subscribe(format!("{}.>", subjects::inbox_prefix(B))).await.unwrap();
    // An answer to a later request proves that leaf and hub have the subscriptions.
    ask(&client, &subjects::hello(A)).await;
    manager.publish(subjects::control(B), "b".into()).await.unwrap();
    manager.publish(format!("{}.x", subjects::inbox_prefix(B)), "b".into()).await.unwrap();
    manager.publish(subjects::control(A), "a".into()).await.unwrap();
    assert_eq!(timeout(ANSWER_MAX, own_requests.next()).await.unwrap().unwrap().payload, "a");
    // It came after what was sent to the other. (What the cluster itself publishes below goes round in its leaf node.)
    let received = async {
        tokio::select! { it = other_requests.next() => it, it = other_inbox.next() => it }
    };
    assert!(received.now_or_never().is_none(), "something of another cluster came");

    let (status, usage) =
        (messages(&jetstream, streams::STATUS.name).await, messages(&jetstream, streams::USAGE.name).await);
    for subject in [
        subjects::outcome(B),
        subjects::status(B),
        subjects::usage(B, "w0-60"),
        subjects::hello(B),
        subjects::heartbeat(B),
        subjects::command(B, "apply-tenant"),
        subjects::command(A, "apply-tenant"),
        subjects::control(B),
        format!("{}.x", subjects::inbox_prefix(B)),
    ] {
        client.publish(subject, "forged".into()).await.unwrap();
    }
    // An answer to a later request proves that the hub is through with those before it.
    assert!(ask(&client, &subjects::usage(A, "w60-60")).await.contains("\"seq\":"));
    assert_eq!(messages(&jetstream, streams::STATUS.name).await, status);
    assert_eq!(messages(&jetstream, streams::USAGE.name).await, usage + 1);
    assert_eq!(messages(&jetstream, streams::COMMANDS.name).await, 2);
}

/// What comes of a request through a leaf.
async fn asked(client: &Client, subject: &str) -> String {
    let answer = client.request(subject.to_owned(), "".into()).await;
    answer.map_or_else(|error| error.to_string(), |answer| String::from_utf8_lossy(&answer.payload).into_owned())
}

/// The leaf restricts no client: it is the hub that lets nothing of another cluster through the connection of the leaf.
#[tokio::test]
async fn nothing_of_another_cluster_is_reached_through_a_leaf() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let cluster = hub.cluster(A);
    let leaf = LeafNode::start(&hub, &cluster);
    let client = leaf.connect(&cluster).await.unwrap();
    let b = hub.connect(B, &hub.cluster(B).user).await;
    let named = |template: &str, name: &str| template.replace("{{name()}}", name);
    let [next, info, ..] = accounts::CLUSTER_PUBLISH;
    for (id, own, other) in [
        ("A-091", subjects::outcome(A), subjects::outcome(B)),
        ("A-092", subjects::status(A), subjects::status(B)),
        ("A-093", subjects::usage(A, "w0-60"), subjects::usage(B, "w0-60")),
        ("A-094", subjects::hello(A), subjects::hello(B)),
        ("A-095", named(info, A), named(info, B)),
    ] {
        ask(&client, &own).await;
        stopped(id, &asked(&client, &other).await);
        assert_ne!(asked(&b, &other).await, "no responders", "{other}: B may");
    }
    let mut to_b = b.subscribe(subjects::control(B)).await.unwrap();
    asked(&b, &subjects::outcome(B)).await;
    stopped("A-096", &asked(&client, &subjects::control(B)).await);
    manager.publish(subjects::control(B), "of the manager".into()).await.unwrap();
    assert_eq!(timeout(ANSWER_MAX, to_b.next()).await.unwrap().unwrap().payload, "of the manager");

    stopped("A-097", &asked(&client, &subjects::command(B, "apply-tenant")).await);
    assert!(asked(&manager, &subjects::command(B, "apply-tenant")).await.contains("\"seq\":"), "the Manager may");
    let stream_info = format!("$JS.API.STREAM.INFO.{}", streams::COMMANDS.name);
    stopped("A-098", &asked(&client, &stream_info).await);
    assert!(asked(&manager, &stream_info).await.contains("\"state\":"), "the Manager may");
    stopped("A-099", &asked(&client, &named(next, B)).await);
    let inbox = b.new_inbox();
    let mut delivered = b.subscribe(inbox.clone()).await.unwrap();
    b.publish_with_reply(named(next, B), inbox, r#"{"batch":1}"#.into()).await.unwrap();
    let command = timeout(ANSWER_MAX, delivered.next()).await.unwrap().unwrap();
    assert_eq!(command.payload, B);
    let acknowledgement = command.reply.unwrap();
    stopped("A-100", &asked(&client, &acknowledgement).await);
    assert!(asked(&b, &named(info, B)).await.contains("\"num_ack_pending\":1"), "nobody acknowledged it");
    asked(&b, &acknowledgement).await;
    assert!(asked(&b, &named(info, B)).await.contains("\"num_ack_pending\":0"), "B may");
}

/// Waits until the log of a leaf says why the hub does not let it in.
async fn logged(leaf: &LeafNode, what: &[&str]) -> String {
    let path = leaf.server.folder().join("leaf.log");
    let looks = async {
        loop {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| what.iter().any(|what| line.to_lowercase().contains(what))) {
                return line.to_owned();
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let found = timeout(ANSWER_MAX, looks).await;
    found.unwrap_or_else(|_| panic!("{}", std::fs::read_to_string(&path).unwrap_or_default()))
}

#[tokio::test]
async fn the_hub_takes_no_leaf_but_with_both_factors_of_a_cluster() {
    let hub = Hub::start();
    let _manager = hub.manager().await;
    let refusals = ["authorization violation"];
    let (cluster, other) = (hub.cluster(A), hub.cluster(B));
    let stolen = UserCredentials { user_jwt: other.user.user_jwt, seed: cluster.user.seed.clone() };
    let stolen = Cluster { user: stolen, ..hub.cluster(A) };
    stopped("A-101", &logged(&LeafNode::start(&hub, &stolen), &refusals).await);
    let subscriber = hub.cluster(A);
    let user_jwt = hub.keyring.nkeys.billing_user("books", &subscriber.pair.public_key(), validity()).unwrap();
    let subscriber = Cluster { user: UserCredentials { user_jwt, ..subscriber.user }, ..subscriber };
    stopped("A-102", &logged(&LeafNode::start(&hub, &subscriber), &refusals).await);
    let ca = hub.keyring.authority.bundle_pem();
    stopped("A-103", &handshake::refusal(&hub.leaf_address.to_string(), ca, None).await);
    let good = LeafNode::start(&hub, &cluster);
    logged(&good, &["leafnode connection created"]).await;
}

/// The leaf node lets in the cluster's nkey, no other and none without one, and no client without a certificate; the hub takes the same
/// login directly.
#[tokio::test]
async fn a_leaf_node_lets_its_cluster_in_and_no_other() {
    let hub = Hub::start();
    let _manager = hub.manager().await;
    let (cluster, other) = (hub.cluster(A), hub.cluster(B));
    let leaf = LeafNode::start(&hub, &cluster);
    assert!(leaf.connect(&cluster).await.is_ok());
    stopped("A-104", &format!("{:?}", leaf.connect(&other).await.err()));
    let anonymous = leaf.with_certificate(ConnectOptions::new(), &cluster);
    stopped("A-105", &format!("{:?}", anonymous.connect(leaf.url().await).await.err()));
    let without_certificate = signing(&cluster.user)
        .require_tls(true)
        .add_root_certificates(leaf.server.folder().join("leaf-ca.crt"))
        .connect(leaf.url().await);
    assert!(without_certificate.await.is_err(), "without a certificate");
    hub.connect(A, &cluster.user).await.flush().await.unwrap();
}

/// Leaf nodes of two clusters beside each other: neither takes the other's place.
#[tokio::test]
async fn two_leaf_nodes_do_not_replace_each_other() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let (a, b) = (hub.cluster(A), hub.cluster(B));
    let leafs = (LeafNode::start(&hub, &a), LeafNode::start(&hub, &b));
    let clients = (leafs.0.connect(&a).await.unwrap(), leafs.1.connect(&b).await.unwrap());
    for _ in 0..3 {
        assert_eq!(ask(&clients.0, &subjects::hello(A)).await, subjects::hello(A));
        assert_eq!(ask(&clients.1, &subjects::hello(B)).await, subjects::hello(B));
    }
}

async fn connected(settings: Settings) -> Connection {
    timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap()
}

async fn cause(settings: &Settings) -> (ConnectCause, String) {
    let failed = timeout(ANSWER_MAX, connection::check(settings)).await.unwrap().unwrap_err();
    (failed.cause(), telemetry::chain(&failed))
}

/// Waits until the connection counts as up, or as down.
async fn wait_connected(connection: &Connection, expected: bool) {
    let reached = async {
        while connection.is_connected() != expected {
            tokio::time::sleep(LOOK).await;
        }
    };
    let reached = timeout(ANSWER_MAX, reached).await;
    reached.unwrap_or_else(|_| panic!("connected is not {expected}: {:?}", connection.last_error.borrow()));
}

#[tokio::test]
async fn an_operator_says_hello_takes_commands_and_reports_by_the_transport_leaf() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    let jetstream = furnish(&manager).await;
    let cluster = hub.cluster(A);
    let leaf = LeafNode::start(&hub, &cluster);
    let connection = connected(hub.by(&cluster, &leaf).await).await;
    assert_eq!(connection.via().to_string(), "leaf");
    assert!(connection.is_connected() && connection.is_first_choice());
    assert_eq!(ask(&connection.client, &subjects::hello(A)).await, subjects::hello(A));

    let (sender, mut received) = tokio::sync::mpsc::channel(1);
    let shutdown = Shutdown::new();
    let (stop, commands) = (shutdown.clone(), connection.jetstream.clone());
    tokio::spawn(async move {
        let handle = |delivery: Delivery| {
            let sender = sender.clone();
            async move {
                sender.send(delivery.payload).await.unwrap();
                Verdict::Done
            }
        };
        consume::run(&commands, streams::COMMANDS.name, A, &stop, handle, || async {}).await;
    });
    assert_eq!(timeout(ANSWER_MAX, received.recv()).await.unwrap().unwrap(), A);
    let acknowledged = async {
        let durable = jetstream.get_stream(streams::COMMANDS.name).await.unwrap();
        while durable.consumer_info(A).await.unwrap().num_ack_pending > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(ANSWER_MAX, acknowledged).await.expect("the acknowledgement reaches the hub");

    let published = connection.jetstream.publish(subjects::outcome(A), "{}".into()).await.unwrap();
    assert_eq!(timeout(ANSWER_MAX, published).await.unwrap().unwrap().stream, streams::STATUS.name);
    shutdown.request();
}

#[tokio::test]
async fn each_failure_of_a_leaf_node_has_its_own_cause_and_auto_goes_past_it() {
    let mut hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let (cluster, other) = (hub.cluster(A), hub.cluster(B));
    let leaf = LeafNode::start(&hub, &cluster);
    let good = hub.by(&cluster, &leaf).await;
    assert!(connection::check(&good).await.is_ok());

    let refused = hub.by(&other, &leaf).await;
    let closed = hub.settings(&cluster, &format!("tls://{}", free_on("127.0.0.1")), leaf.server.folder());
    let unknown = hub.settings(&cluster, "tls://leaf.kubenova.invalid:4222", leaf.server.folder());
    let elsewhere = tempfile::tempdir().unwrap();
    LeafNode::certify(elsewhere.path(), "127.0.0.1");
    let untrusted = hub.settings(&cluster, &leaf.url().await, elsewhere.path());
    for (settings, expected) in [
        (&refused, ConnectCause::LeafRefused),
        (&closed, ConnectCause::LeafUnreachable),
        (&unknown, ConnectCause::LeafUnreachable),
        (&untrusted, ConnectCause::LeafCertificate),
    ] {
        let (cause, message) = cause(settings).await;
        assert_eq!(cause, expected, "{message}");
        assert!(!cause.is_refusal(), "new credentials would change nothing");
    }
    let past =
        |settings: Settings, url: String| Settings { urls: vec![url], transport: TransportChoice::Auto, ..settings };
    let url = hub.url().await;
    let connection = connected(past(closed, url.clone())).await;
    assert_eq!(connection.via().to_string(), "nats");
    assert!(!connection.is_first_choice());
    assert_eq!(connected(past(good.clone(), url)).await.via().to_string(), "leaf");
    let again = timeout(ANSWER_MAX, connection::connect_by_first_choice(good.clone())).await.unwrap().unwrap();
    assert_eq!(again.via().to_string(), "leaf");

    // The leaf node is up all the time, and only its connection to the hub is gone.
    let connects = *again.connects.borrow();
    hub.server.kill();
    let (cause, message) = cause(&good).await;
    assert_eq!(cause, ConnectCause::LeafWithoutHub, "{message}");
    wait_connected(&again, false).await;
    assert!(again.last_error.borrow().as_deref().is_some_and(|error| error.contains("not the hub")));
    hub.start_again();
    wait_connected(&again, true).await;
    assert!(*again.connects.borrow() > connects, "to whoever uses it, it is a reconnect");
    assert_eq!(again.last_error.borrow().clone(), None);
    let _manager = hub.manager().await;
}

/// Life of the first credentials: enough for two servers to start on a busy machine.
const SHORT: Duration = Duration::from_secs(15);

/// The hub ends each connection with the credentials that it was made with. The leaf node reads the credentials at each connect, and
/// certificates at a reload.
#[tokio::test]
async fn a_leaf_node_whose_files_are_renewed_goes_on_past_the_end_of_the_first_credentials() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let short = Validity { now: clock::now(), lifetime: SHORT };
    let (a, b) = (Cluster::enroll(&hub.keyring, A, short), Cluster::enroll(&hub.keyring, B, short));
    let leafs = (LeafNode::start(&hub, &a), LeafNode::start(&hub, &b));
    let connections = (connected(hub.by(&a, &leafs.0).await).await, connected(hub.by(&b, &leafs.1).await).await);
    // Of the two only one is given new files.
    let renewed = Cluster::renew(&hub.keyring, A, a.pair, validity());
    leafs.0.renew(&hub.keyring, &renewed);

    let ended = short.now + jiff::SignedDuration::try_from(SHORT).unwrap();
    wait_connected(&connections.1, false).await;
    // A JWT names whole seconds.
    let almost = ended - jiff::SignedDuration::from_secs(1);
    assert!(clock::now() >= almost, "the other one lasts as long as its credentials");
    wait_connected(&connections.0, true).await;
    assert_eq!(ask(&connections.0.client, &subjects::hello(A)).await, subjects::hello(A));
    // A new connection of the Operator, too.
    assert!(connection::check(&hub.by(&renewed, &leafs.0).await).await.is_ok());
    let lost = cause(&hub.by(&Cluster::renew(&hub.keyring, B, b.pair, validity()), &leafs.1).await).await;
    assert_eq!(lost.0, ConnectCause::LeafWithoutHub, "{}", lost.1);
}

/// Else thousands of leaf nodes would be sent each other's subscriptions.
#[test]
fn the_hub_keeps_the_interest_of_leaf_nodes_apart() {
    let hub = Hub::start();
    let text = std::fs::read_to_string(Path::new(hub.server.folder()).join("nats-server.conf")).unwrap();
    assert!(text.contains("isolate_leafnode_interest: true"));
}
