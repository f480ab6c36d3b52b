//! What the broker lets whom do, asked of a real nats-server with the configuration that `kubenova-manager nats config`
//! writes: every attack of the reference (NATS §2.2), each role's limits, and both factors of a connection.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod broker;

use async_nats::{
    Client, ConnectOptions, Event, HeaderMap,
    jetstream::{self, consumer::pull, stream},
};
use broker::{A, B, validity};
use futures::StreamExt as _;
use kubenova_runtime::clock;
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use kubenova_test_nats::NatsServer;
use kubenova_trust::{
    authority::{Identity, Validity},
    envelope::Envelope,
    keyring::{self, Keyring},
    nats::UserCredentials,
};
use nkeys::KeyPair;
use std::{collections::BTreeSet, path::PathBuf, time::Duration};
use tokio::sync::mpsc;

/// Longest that loopback may take for one answer; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A broker that ends with the test.
struct Broker {
    server: NatsServer,
    url: String,
    keyring: Keyring,
}

impl Broker {
    async fn start() -> Self {
        let (server, keyring) = broker::start(Some("127.0.0.1:0"), None);
        let url = server.url().await.replace("nats://", "tls://");
        Self { server, url, keyring }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Connects with these two factors; what the server says asynchronously arrives in the receiver.
    async fn connect(
        &self,
        name: &str,
        certificate: Option<&Identity>,
        user: &UserCredentials,
    ) -> Result<Session, async_nats::ConnectError> {
        let (events, said) = mpsc::unbounded_channel();
        let seed = user.seed.clone();
        let sign = move |nonce: Vec<u8>| {
            let signature =
                KeyPair::from_seed(&seed).and_then(|pair| pair.sign(&nonce)).map_err(async_nats::AuthError::new);
            async move { signature }
        };
        let mut options = ConnectOptions::with_jwt(user.user_jwt.clone(), sign)
            .require_tls(true)
            .add_root_certificates(self.server.folder().join("ca.crt"))
            .custom_inbox_prefix(subjects::inbox_prefix(name))
            .request_timeout(Some(ANSWER_MAX))
            .event_callback(move |event| {
                let _test_is_over = events.send(event);
                async {}
            });
        if let Some(identity) = certificate {
            let chain = self.file(&format!("{name}.pem"), &identity.chain_pem);
            let key = self.file(&format!("{name}.key"), &identity.key_pem);
            options = options.add_client_certificate(chain, key);
        }
        let client = options.connect(&self.url).await?;
        Ok(Session { client, said })
    }

    async fn cluster(&self, id: &str) -> Session {
        let identity = self.keyring.authority.client(id, validity()).unwrap();
        self.connect(id, Some(&identity), &self.cluster_user(id)).await.unwrap()
    }

    fn cluster_user(&self, id: &str) -> UserCredentials {
        broker::cluster_user(&self.keyring, id, &KeyPair::new_user(), validity())
    }

    async fn manager(&self) -> Session {
        let identity = self.keyring.authority.client("manager", validity()).unwrap();
        let user = self.keyring.nkeys.manager_user(validity()).unwrap();
        self.connect("manager", Some(&identity), &user).await.unwrap()
    }

    async fn ops(&self) -> Session {
        let identity = self.keyring.authority.client("ops", validity()).unwrap();
        self.connect("ops", Some(&identity), &self.keyring.nkeys.ops_user(validity()).unwrap()).await.unwrap()
    }
}

/// A client and what the server tells it about its connection.
struct Session {
    client: Client,
    said: mpsc::UnboundedReceiver<Event>,
}

impl Session {
    /// Waits until the server says that it refused something about this subject.
    async fn refused(&mut self, subject: &str) {
        let heard = tokio::time::timeout(ANSWER_MAX, async {
            while let Some(event) = self.said.recv().await {
                let text = event.to_string();
                if text.to_lowercase().contains("permissions violation") && text.contains(subject) {
                    return;
                }
            }
        });
        assert!(heard.await.is_ok(), "the server let \"{subject}\" pass");
    }

    async fn may_not_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        self.client.flush().await.unwrap();
        self.refused(subject).await;
    }

    async fn may_not_subscribe(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        self.refused(subject).await;
    }

    async fn ask(&self, subject: &str, body: &str) -> String {
        let answer = self.client.request(subject.to_owned(), body.to_owned().into()).await;
        String::from_utf8_lossy(&answer.unwrap_or_else(|error| panic!("{subject}: {error}")).payload).into_owned()
    }
}

impl Session {
    /// One message of a durable. A delivery keeps the stream's subject, so a plain request would not recognize it.
    async fn pull(&self, subject: &str) -> String {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.unwrap();
        let wish = r#"{"batch":1,"expires":5000000000}"#;
        self.client.publish_with_reply(subject.to_owned(), inbox, wish.into()).await.unwrap();
        let message = tokio::time::timeout(ANSWER_MAX, replies.next()).await;
        let message = message.unwrap_or_else(|_| panic!("{subject} brought nothing")).unwrap();
        String::from_utf8_lossy(&message.payload).into_owned()
    }
}

/// The Manager's streams and both clusters' durables; one command for B.
async fn furnish(manager: &Session) -> jetstream::Context {
    let jetstream = jetstream::new(manager.client.clone());
    for wanted in [streams::COMMANDS, streams::STATUS, streams::USAGE, streams::BILL] {
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
    }
    jetstream.publish(subjects::command(B, "apply-tenant"), "for b".into()).await.unwrap().await.unwrap();
    jetstream
}

async fn messages(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// A template with another name in it.
fn named(template: &str, name: &str) -> String {
    template.replace("{{name()}}", name).replace('>', "x")
}

#[tokio::test]
async fn both_factors_are_needed() {
    let broker = Broker::start().await;
    let user = broker.cluster_user(A);
    let identity = broker.keyring.authority.client(A, validity()).unwrap();
    assert!(broker.connect(A, None, &user).await.is_err(), "without a client certificate");

    let stranger =
        keyring::make_missing(&BTreeSet::new(), &Envelope::from_bytes(&[6; 32]).unwrap(), clock::now()).unwrap();
    let stranger = Keyring::open(&stranger, &Envelope::from_bytes(&[6; 32]).unwrap(), "kubenova.test").unwrap();
    let foreign = stranger.authority.client(A, validity()).unwrap();
    assert!(broker.connect(A, Some(&foreign), &user).await.is_err(), "with another authority's certificate");

    let pair = KeyPair::from_seed(&user.seed).unwrap();
    let forged = stranger.nkeys.cluster_user(A, &pair.public_key(), validity()).unwrap();
    let forged = UserCredentials { user_jwt: forged, seed: user.seed.clone() };
    assert!(broker.connect(A, Some(&identity), &forged).await.is_err(), "with another operator's JWT");

    let stolen = UserCredentials { user_jwt: user.user_jwt.clone(), seed: KeyPair::new_user().seed().unwrap() };
    assert!(broker.connect(A, Some(&identity), &stolen).await.is_err(), "with a JWT but not its nkey");

    let over = Validity { now: clock::now() - Duration::from_secs(3600), lifetime: Duration::from_secs(60) };
    let expired = broker.keyring.nkeys.cluster_user(A, &pair.public_key(), over).unwrap();
    let expired = UserCredentials { user_jwt: expired, seed: user.seed.clone() };
    assert!(broker.connect(A, Some(&identity), &expired).await.is_err(), "with an expired JWT");

    assert!(broker.connect(A, Some(&identity), &user).await.is_ok(), "with both");
}

#[tokio::test]
async fn a_cluster_does_its_own_things_and_nothing_else() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let mut a = broker.cluster(A).await;

    // Its own: reports are stored, its durable can be asked about and pulled from.
    for subject in [subjects::outcome(A), subjects::status(A), subjects::usage(A, "w0-60")] {
        assert!(a.ask(&subject, "{}").await.contains("\"seq\":"), "{subject}");
    }
    let [next, info, ..] = accounts::CLUSTER_PUBLISH;
    assert!(a.ask(&named(info, A), "").await.contains(A));
    jetstream.publish(subjects::command(A, "apply-tenant"), "for a".into()).await.unwrap().await.unwrap();
    assert_eq!(a.pull(&named(next, A)).await, "for a");

    // What the Manager asks of it, and of no other.
    let mut requests = a.client.subscribe(subjects::control(A)).await.unwrap();
    // An answer to a later request proves that the server has the subscription.
    assert!(a.ask(&subjects::outcome(A), "{}").await.contains("\"seq\":"));
    for cluster in [B, A] {
        manager.client.publish(subjects::control(cluster), cluster.into()).await.unwrap();
    }
    let heard = tokio::time::timeout(ANSWER_MAX, requests.next()).await.unwrap().unwrap();
    assert_eq!(heard.payload, A);

    // Another's: everything the template allows, with another name in it.
    for template in accounts::CLUSTER_PUBLISH {
        let subject = named(template, B).replace('*', "1");
        a.may_not_publish(&subject).await;
    }
    for subject in [
        subjects::command(A, "apply-tenant"),
        subjects::command(B, "apply-tenant"),
        subjects::bill("tenant", A, "usage"),
        subjects::control(A),
        subjects::control(B),
        subjects::status(A).replace("status", "other"),
        subjects::hello(A).replace("hello", "other"),
        format!("{}.x", subjects::inbox_prefix(B)),
    ] {
        a.may_not_publish(&subject).await;
    }
    // The JetStream API itself, above all what lists other clusters.
    for subject in accounts::OPS_API.iter().map(|subject| subject.replace('*', streams::COMMANDS.name)) {
        a.may_not_publish(&subject).await;
    }
    for subject in [
        subjects::ALL.to_owned(),
        ">".to_owned(),
        subjects::commands_to(A),
        subjects::control(B),
        format!("{}.>", subjects::inbox_prefix(B)),
        subjects::every::HEARTBEAT.to_owned(),
    ] {
        a.may_not_subscribe(&subject).await;
    }
}

#[tokio::test]
async fn a_reply_subject_carries_nothing_into_a_stream() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let a = broker.cluster(A).await;
    let before = messages(&jetstream, streams::COMMANDS.name).await;
    let [next, ..] = accounts::CLUSTER_PUBLISH;
    jetstream.publish(subjects::command(A, "apply-tenant"), "old".into()).await.unwrap().await.unwrap();

    let aim = subjects::command(B, "apply-tenant");
    for subject in [subjects::usage(A, "w0-60"), subjects::status(A)] {
        a.client.publish_with_reply(subject, aim.clone(), "{}".into()).await.unwrap();
    }
    let pull = r#"{"batch":1,"no_wait":true}"#;
    a.client.publish_with_reply(named(next, A), aim, pull.into()).await.unwrap();
    // An answer to a later request proves that the server is through with those before it.
    a.ask(&subjects::outcome(A), "{}").await;
    assert_eq!(
        messages(&jetstream, streams::COMMANDS.name).await,
        before + 1,
        "only what the Manager published is there"
    );
}

#[tokio::test]
async fn a_rollup_header_erases_nothing() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let (a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    b.ask(&subjects::status(B), "{}").await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let answer = a.client.request_with_headers(subjects::status(A), headers, "{}".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("rollup not permitted"));
    assert_eq!(messages(&jetstream, streams::STATUS.name).await, 1, "what B reported is still there");
}

/// Deduplication is per stream, not per subject (reference: NATS, attack 3). The broker does not prevent it, so ids must
/// be random: the scenario `access_forgery` reads them off the wire.
#[tokio::test]
async fn a_known_message_id_can_be_spent_by_another_cluster() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let (a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, "use-b-w0-60");
    a.client.request_with_headers(subjects::usage(A, "w0-60"), headers.clone(), "a".into()).await.unwrap();
    let answer = b.client.request_with_headers(subjects::usage(B, "w0-60"), headers, "b".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"duplicate\": true"), "{:?}", answer.payload);
    assert_eq!(messages(&jetstream, streams::USAGE.name).await, 1, "what B reported is lost");
}

#[tokio::test]
async fn people_look_and_change_nothing() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let mut ops = broker.ops().await;
    let looking = jetstream::new(ops.client.clone());
    let stream = looking.get_stream(streams::COMMANDS.name).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
    assert_eq!(stream.get_raw_message(1).await.unwrap().payload, "for b");

    let mut tap = ops.client.subscribe(subjects::ALL).await.unwrap();
    // An answer to a later request proves that the server has the subscription.
    looking.get_stream(streams::COMMANDS.name).await.unwrap();
    jetstream.publish(subjects::command(A, "apply-tenant"), "live".into()).await.unwrap().await.unwrap();
    let seen = tokio::time::timeout(ANSWER_MAX, tap.next()).await.unwrap().unwrap();
    assert_eq!(seen.payload, "live");

    ops.may_not_publish(&subjects::command(A, "apply-tenant")).await;
    ops.may_not_publish(&subjects::status(A)).await;
    for own in accounts::CLUSTER_PUBLISH {
        ops.may_not_publish(&named(own, A).replace('*', "1")).await;
    }
    ops.may_not_subscribe(&format!("{}.>", subjects::inbox_prefix(A))).await;
    assert!(looking.delete_stream(streams::COMMANDS.name).await.is_err(), "deleting a stream is not answered");
    assert_eq!(messages(&jetstream, streams::COMMANDS.name).await, 2);
}

#[tokio::test]
async fn a_billing_subscriber_reads_its_own_durable_only() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    for name in ["books", "other"] {
        let config = pull::Config { durable_name: Some(name.to_owned()), ..pull::Config::default() };
        jetstream.create_consumer_on_stream(config, streams::BILL.name).await.unwrap();
    }
    jetstream.publish(subjects::bill("tenant", A, "usage"), "event".into()).await.unwrap().await.unwrap();
    let pair = KeyPair::new_user();
    let user_jwt = broker.keyring.nkeys.billing_user("books", &pair.public_key(), validity()).unwrap();
    let user = UserCredentials { user_jwt, seed: pair.seed().unwrap() };
    let identity = broker.keyring.authority.client("books", validity()).unwrap();
    let mut books = broker.connect("books", Some(&identity), &user).await.unwrap();
    let [next, ..] = accounts::BILLING_PUBLISH;
    assert_eq!(books.pull(&named(next, "books")).await, "event");
    for template in accounts::BILLING_PUBLISH {
        books.may_not_publish(&named(template, "other").replace('*', "1")).await;
    }
    books.may_not_publish(&subjects::bill("tenant", A, "usage")).await;
    books.may_not_subscribe(subjects::ALL).await;
}
