//! Clients of a broker of [`super::broker`], and what the server tells them about their connections.

use super::broker::{self, A, B, validity};
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap,
    jetstream::{self, consumer::pull},
};
use futures::StreamExt as _;
use kubenova_schema::{streams, subjects};
use kubenova_test_nats::NatsServer;
use kubenova_trust::{authority::Identity, keyring::Keyring, nats::UserCredentials};
use nkeys::KeyPair;
use std::{path::PathBuf, time::Duration};
use tokio::sync::mpsc;

/// Longest that loopback may take for one answer; only a failing test waits so long.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A broker that ends with the test.
pub(crate) struct Broker {
    pub(crate) server: NatsServer,
    pub(crate) url: String,
    pub(crate) keyring: Keyring,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let (server, keyring) = broker::start(Some("127.0.0.1:0"), None);
        Self::of(server, keyring).await
    }

    pub(crate) async fn of(server: NatsServer, keyring: Keyring) -> Self {
        let url = server.url().await.replace("nats://", "tls://");
        Self { server, url, keyring }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Connects with these two factors; what the server says asynchronously arrives in the receiver.
    pub(crate) async fn connect(
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

    pub(crate) async fn cluster(&self, id: &str) -> Session {
        let identity = self.keyring.authority.client(id, validity()).unwrap();
        self.connect(id, Some(&identity), &self.cluster_user(id)).await.unwrap()
    }

    pub(crate) fn cluster_user(&self, id: &str) -> UserCredentials {
        broker::cluster_user(&self.keyring, id, &KeyPair::new_user(), validity())
    }

    pub(crate) async fn manager(&self) -> Session {
        let identity = self.keyring.authority.client("manager", validity()).unwrap();
        let user = self.keyring.nkeys.manager_user(validity()).unwrap();
        self.connect("manager", Some(&identity), &user).await.unwrap()
    }

    pub(crate) async fn ops(&self) -> Session {
        let identity = self.keyring.authority.client("ops", validity()).unwrap();
        self.connect("ops", Some(&identity), &self.keyring.nkeys.ops_user(validity()).unwrap()).await.unwrap()
    }

    /// A billing subscriber.
    pub(crate) async fn subscriber(&self, name: &str) -> Session {
        let pair = KeyPair::new_user();
        let user_jwt = self.keyring.nkeys.billing_user(name, &pair.public_key(), validity()).unwrap();
        let user = UserCredentials { user_jwt, seed: pair.seed().unwrap() };
        let identity = self.keyring.authority.client(name, validity()).unwrap();
        self.connect(name, Some(&identity), &user).await.unwrap()
    }
}

/// A client and what the server tells it about its connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) said: mpsc::UnboundedReceiver<Event>,
}

impl Session {
    /// Waits until the server says that it refused something about this subject, and returns what it said.
    pub(crate) async fn refused(&mut self, subject: &str) -> String {
        let heard = tokio::time::timeout(ANSWER_MAX, async {
            while let Some(event) = self.said.recv().await {
                let text = event.to_string();
                if text.to_lowercase().contains("permissions violation") && text.contains(subject) {
                    return text;
                }
            }
            "the connection ended".to_owned()
        });
        heard.await.unwrap_or_else(|_| panic!("the server let \"{subject}\" pass"))
    }

    /// Waits until the server says this.
    pub(crate) async fn said_about(&mut self, what: &str) -> String {
        while let Some(event) = self.said.recv().await {
            let text = event.to_string();
            if text.to_lowercase().contains(what) {
                return text;
            }
        }
        "the connection ended".to_owned()
    }

    pub(crate) async fn may_not_publish(&mut self, subject: &str) -> String {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        self.client.flush().await.unwrap();
        self.refused(subject).await
    }

    pub(crate) async fn may_not_subscribe(&mut self, subject: &str) -> String {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        self.refused(subject).await
    }

    pub(crate) async fn ask(&self, subject: &str, body: &str) -> String {
        let answer = self.client.request(subject.to_owned(), body.to_owned().into()).await;
        String::from_utf8_lossy(&answer.unwrap_or_else(|error| panic!("{subject}: {error}")).payload).into_owned()
    }

    /// What is answered to a message with this header.
    pub(crate) async fn ask_with(&self, subject: &str, headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let answer = self.client.request_with_headers(subject.to_owned(), map, "{}".into()).await;
        String::from_utf8_lossy(&answer.unwrap_or_else(|error| panic!("{subject}: {error}")).payload).into_owned()
    }

    /// One message of a durable. A delivery keeps the stream's subject, so a plain request would not recognize it.
    pub(crate) async fn pull(&self, subject: &str) -> async_nats::Message {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.unwrap();
        let wish = r#"{"batch":1,"expires":5000000000}"#;
        self.client.publish_with_reply(subject.to_owned(), inbox, wish.into()).await.unwrap();
        let message = tokio::time::timeout(ANSWER_MAX, replies.next()).await;
        message.unwrap_or_else(|_| panic!("{subject} brought nothing")).unwrap()
    }
}

/// The Manager's streams and both clusters' durables; one command for B.
pub(crate) async fn furnish(manager: &Session) -> jetstream::Context {
    let jetstream = jetstream::new(manager.client.clone());
    kubenova_bus::streams::ensure_all(&jetstream).await.unwrap();
    for cluster in [A, B] {
        kubenova_bus::durable::ensure_cluster(&jetstream, cluster, cluster).await.unwrap();
    }
    jetstream.publish(subjects::command(B, "apply-tenant"), "for b".into()).await.unwrap().await.unwrap();
    jetstream
}

/// A durable of each of these subscribers, and one event.
pub(crate) async fn furnish_bill(jetstream: &jetstream::Context, subscribers: &[&str]) {
    for name in subscribers {
        let config = pull::Config { durable_name: Some((*name).to_owned()), ..pull::Config::default() };
        jetstream.create_consumer_on_stream(config, streams::BILL.name).await.unwrap();
    }
    jetstream.publish(subjects::bill("tenant", A, "usage"), "event".into()).await.unwrap().await.unwrap();
}

pub(crate) async fn messages(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// A template with another name in it.
pub(crate) fn named(template: &str, name: &str) -> String {
    template.replace("{{name()}}", name).replace('>', "x")
}
