//! A leaf node of one cluster, from `deploy/nats/leaf.example.conf`, on a real hub with the configuration of `kubenova-manager nats config`:
//! the cluster does its own things through it, and nothing of another's.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod broker;
#[path = "broker/handshake.rs"]
mod handshake;

use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, consumer::pull, stream},
};
use broker::{A, B, validity};
use futures::{FutureExt as _, StreamExt as _};
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use kubenova_trust::{keyring::Keyring, nats::UserCredentials};
use nkeys::KeyPair;
use std::{net::SocketAddr, path::Path, time::Duration};

/// Longest that loopback may take for one answer; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(20);

struct Hub {
    server: NatsServer,
    keyring: Keyring,
    leaf_address: SocketAddr,
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Hub {
    fn start() -> Self {
        let leaf_address = free();
        let (server, keyring) = broker::start(None, Some(&leaf_address.to_string()));
        Self { server, keyring, leaf_address }
    }

    /// With certificate and credentials, and with the nkey, as a leaf wants it.
    async fn connect(&self, name: &str, user: &UserCredentials) -> Client {
        let identity = self.keyring.authority.client(name, validity()).unwrap();
        let folder = self.server.folder();
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, &identity.chain_pem).unwrap();
        std::fs::write(&key, &identity.key_pem).unwrap();
        let options = signing(user)
            .require_tls(true)
            .add_root_certificates(folder.join("ca.crt"))
            .add_client_certificate(chain, key)
            .custom_inbox_prefix(subjects::inbox_prefix(name));
        options.connect(self.server.url().await.replace("nats://", "tls://")).await.unwrap()
    }

    async fn manager(&self) -> Client {
        self.connect("manager", &self.keyring.nkeys.manager_user(validity()).unwrap()).await
    }

    fn cluster_user(&self, id: &str) -> UserCredentials {
        broker::cluster_user(&self.keyring, id)
    }

    /// The leaf of this cluster, as the example says. What it is told by the hub is in `leaf.log`.
    fn leaf(&self, cluster: &str, user: &UserCredentials) -> NatsServer {
        let folder = tempfile::tempdir().unwrap();
        let identity = self.keyring.authority.client(cluster, validity()).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("cluster.creds", &user.to_file());
        write("tls.crt", &identity.chain_pem);
        write("tls.key", &identity.key_pem);
        write("ca.crt", self.keyring.authority.bundle_pem());
        let nkey = KeyPair::from_seed(&user.seed).unwrap().public_key();
        let text = include_str!("../../../deploy/nats/leaf.example.conf")
            .replace("CLUSTER_ID", cluster)
            .replace("CLUSTER_NKEY", &nkey)
            .replace("port: 4222", "port: -1")
            .replace("HUB:7422", &self.leaf_address.to_string())
            .replace("/etc/kubenova/leaf", folder.path().to_str().unwrap());
        let log = folder.path().join("leaf.log");
        write("nats-server.conf", &format!("{text}\nlog_file: {log:?}\n"));
        let path = folder.path().join("nats-server.conf");
        NatsServer::with_config(folder, &path)
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

async fn behind(leaf: &NatsServer, cluster: &str, user: &UserCredentials) -> Client {
    let options = signing(user).custom_inbox_prefix(subjects::inbox_prefix(cluster));
    options.connect(leaf.url().await).await.unwrap()
}

/// Asks until the leaf is connected to the hub: before, there is no responder.
async fn ask(client: &Client, subject: &str) -> String {
    let asked = async {
        loop {
            match client.request(subject.to_owned(), "{}".into()).await {
                Ok(answer) => return String::from_utf8_lossy(&answer.payload).into_owned(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_| panic!("{subject} was not answered"))
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
    let user = hub.cluster_user(A);
    let leaf = hub.leaf(A, &user);
    let client = behind(&leaf, A, &user).await;

    // Hello, a command with its acknowledgement, outcome, status, usage, what the Manager asks of it.
    assert_eq!(ask(&client, &subjects::hello(A)).await, subjects::hello(A));
    let own = jetstream::context::ContextBuilder::new().api_prefix(subjects::API_PREFIX).build(client.clone());
    let commands = own.get_consumer_from_stream::<pull::Config, _, _>(A, streams::COMMANDS.name).await.unwrap();
    let mut batch = commands.fetch().max_messages(1).messages().await.unwrap();
    let command = tokio::time::timeout(ANSWER_MAX, batch.next()).await.unwrap().unwrap().unwrap();
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
    assert_eq!(tokio::time::timeout(ANSWER_MAX, own_requests.next()).await.unwrap().unwrap().payload, "a");
    // It came after what was sent to the other. (What the cluster itself publishes below goes round in its leaf.)
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

/// The leaf restricts nobody: it is the hub that lets nothing of another cluster through the connection of the leaf.
#[tokio::test]
async fn nothing_of_another_cluster_is_reached_through_a_leaf() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let user = hub.cluster_user(A);
    let leaf = hub.leaf(A, &user);
    let client = behind(&leaf, A, &user).await;
    let b = hub.connect(B, &hub.cluster_user(B)).await;
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
    assert_eq!(tokio::time::timeout(ANSWER_MAX, to_b.next()).await.unwrap().unwrap().payload, "of the manager");

    stopped("A-097", &asked(&client, &subjects::command(B, "apply-tenant")).await);
    assert!(asked(&manager, &subjects::command(B, "apply-tenant")).await.contains("\"seq\":"), "the Manager may");
    let stream_info = format!("$JS.API.STREAM.INFO.{}", streams::COMMANDS.name);
    stopped("A-098", &asked(&client, &stream_info).await);
    assert!(asked(&manager, &stream_info).await.contains("\"state\":"), "the Manager may");
    stopped("A-099", &asked(&client, &named(next, B)).await);
    let inbox = b.new_inbox();
    let mut delivered = b.subscribe(inbox.clone()).await.unwrap();
    b.publish_with_reply(named(next, B), inbox, r#"{"batch":1}"#.into()).await.unwrap();
    let command = tokio::time::timeout(ANSWER_MAX, delivered.next()).await.unwrap().unwrap();
    assert_eq!(command.payload, B);
    let acknowledgement = command.reply.unwrap();
    stopped("A-100", &asked(&client, &acknowledgement).await);
    assert!(asked(&b, &named(info, B)).await.contains("\"num_ack_pending\":1"), "nobody acknowledged it");
    asked(&b, &acknowledgement).await;
    assert!(asked(&b, &named(info, B)).await.contains("\"num_ack_pending\":0"), "B may");
}

/// Waits until the log of a leaf says why the hub does not let it in.
async fn logged(leaf: &NatsServer, what: &[&str]) -> String {
    let path = leaf.folder().join("leaf.log");
    let looks = async {
        loop {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| what.iter().any(|what| line.to_lowercase().contains(what))) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(ANSWER_MAX, looks).await;
    found.unwrap_or_else(|_| panic!("{}", std::fs::read_to_string(&path).unwrap_or_default()))
}

#[tokio::test]
async fn the_hub_takes_no_leaf_but_with_both_factors_of_a_cluster() {
    let hub = Hub::start();
    let _manager = hub.manager().await;
    let refusals = ["authorization violation"];
    let (user, other) = (hub.cluster_user(A), hub.cluster_user(B));
    let stolen = UserCredentials { user_jwt: other.user_jwt, seed: user.seed.clone() };
    stopped("A-101", &logged(&hub.leaf(A, &stolen), &refusals).await);
    let pair = KeyPair::new_user();
    let user_jwt = hub.keyring.nkeys.billing_user("books", &pair.public_key(), validity()).unwrap();
    let subscriber = UserCredentials { user_jwt, seed: pair.seed().unwrap() };
    stopped("A-102", &logged(&hub.leaf(A, &subscriber), &refusals).await);
    let ca = hub.keyring.authority.bundle_pem();
    stopped("A-103", &handshake::refusal(&hub.leaf_address.to_string(), ca, None).await);
    let good = hub.leaf(A, &user);
    logged(&good, &["leafnode connection created"]).await;
}

/// The leaf lets in the cluster's nkey, no other and none without one; the hub takes the same login directly.
#[tokio::test]
async fn a_leaf_lets_its_cluster_in_and_no_other() {
    let hub = Hub::start();
    let _manager = hub.manager().await;
    let (user, other) = (hub.cluster_user(A), hub.cluster_user(B));
    let leaf = hub.leaf(A, &user);
    let url = leaf.url().await;
    assert!(signing(&user).connect(&url).await.is_ok());
    stopped("A-104", &format!("{:?}", signing(&other).connect(&url).await.err()));
    stopped("A-105", &format!("{:?}", ConnectOptions::new().connect(&url).await.err()));
    hub.connect(A, &user).await.flush().await.unwrap();
}

/// Leafs of two clusters beside each other: neither takes the other's place.
#[tokio::test]
async fn two_leafs_do_not_replace_each_other() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let (a, b) = (hub.cluster_user(A), hub.cluster_user(B));
    let leafs = (hub.leaf(A, &a), hub.leaf(B, &b));
    let clients = (behind(&leafs.0, A, &a).await, behind(&leafs.1, B, &b).await);
    for _ in 0..3 {
        assert_eq!(ask(&clients.0, &subjects::hello(A)).await, subjects::hello(A));
        assert_eq!(ask(&clients.1, &subjects::hello(B)).await, subjects::hello(B));
    }
}

/// Else thousands of leafs would be sent each other's subscriptions.
#[test]
fn the_hub_keeps_the_interest_of_leafs_apart() {
    let hub = Hub::start();
    let text = std::fs::read_to_string(Path::new(hub.server.folder()).join("nats-server.conf")).unwrap();
    assert!(text.contains("isolate_leafnode_interest: true"));
}
