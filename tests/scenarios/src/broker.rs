//! The broker as the Manager itself sees it: full rights in CORE, for those who stole its identity and for benchmarks
//! that run beside it.
//!
//! Guarantees: the keys are opened from the database with the key-encryption key, as the Manager does; nothing is
//! prepared by hand. Must not: be used to do what the product is asked to do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, consumer::pull};
use async_nats::{HeaderMap, datetime};
use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE;
use futures::{StreamExt as _, TryStreamExt as _};
use kubenova_bus::dial::Dialer;
use kubenova_bus::tls::Files;
use kubenova_bus::transport::TransportChoice;
use kubenova_bus::{Connection, Credentials, Settings, publish};
use kubenova_runtime::{clock, random, tls};
use kubenova_schema::v1::{Hello, HelloAnswer};
use kubenova_schema::{message, subjects};
use kubenova_trust::authority::Validity;
use kubenova_trust::envelope::{Envelope, Sealed};
use kubenova_trust::keyring::{Keyring, StoredKey};
use serde_json::Value;

use crate::platform::{HUB_HOST, HUB_PORT, Platform};
use crate::site::{Site, text};

const LIFETIME: Duration = Duration::from_secs(3600);

/// Every key of the installation, opened.
pub fn keyring(platform: &Platform) -> Result<Keyring> {
    let rows = platform.postgres.query(
        "kubenova",
        "select json_agg(json_build_object('name', name, 'public', public, 'kek', kek_id, 'sealed', encode(sealed, 'hex'))) from keys",
    )?;
    let rows: Value = serde_json::from_str(rows.trim()).context("the keys are JSON")?;
    let keys = rows.as_array().context("there are no keys")?.iter().map(|row| {
        let bytes = HEXLOWER_PERMISSIVE.decode(text(row, "/sealed")?.as_bytes()).context("sealed keys are hex")?;
        let sealed = Sealed { key_id: text(row, "/kek")?, bytes };
        Ok(StoredKey { name: text(row, "/name")?, public: text(row, "/public")?, sealed })
    });
    let envelope = Envelope::from_file(&platform.manager.folder().join("kek"))?;
    Ok(Keyring::open(&keys.collect::<Result<Vec<_>>>()?, &envelope, "kubenova.test")?)
}

/// A connection with the Manager's own rights.
pub async fn connect(platform: &Platform, keyring: &Keyring) -> Result<Connection> {
    let settings = settings(platform, keyring)?;
    kubenova_bus::connect(settings).await.context("could not connect to the hub as the Manager does")
}

/// What such a connection is made with.
pub fn settings(platform: &Platform, keyring: &Keyring) -> Result<Settings> {
    tls::install_provider();
    let validity = Validity { now: clock::now(), lifetime: LIFETIME };
    let folder = platform.sandbox.folder("broker-client")?;
    let identity = keyring.authority.client("manager", validity)?;
    let user = keyring.nkeys.manager_user(validity)?;
    let file = |name: &str, text: &str| -> Result<_> {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    };
    Ok(Settings {
        urls: vec![format!("tls://{HUB_HOST}:{HUB_PORT}")],
        name: "kubenova-scenarios".to_owned(),
        leaf: None,
        transport: TransportChoice::Nats,
        dialer: Dialer::default(),
        discover_servers: false,
        files: Files {
            ca: platform.ca_file.clone(),
            certificate: file("client.pem", &identity.chain_pem)?,
            key: file("client.key", &identity.key_pem)?,
        },
        credentials: Credentials { user_jwt: user.user_jwt, seed: user.seed },
        inbox_prefix: None,
        api_prefix: None,
        ping_interval: Duration::from_secs(20),
    })
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where it was published.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Every message that a stream holds, oldest first, read by a consumer of its own.
pub async fn stored(connection: &Connection, stream: &str, filter_subject: String) -> Result<Vec<Stored>> {
    let stream = connection.jetstream.get_stream(stream).await?;
    let all = pull::OrderedConfig { filter_subject, ..Default::default() };
    let consumer = stream.create_consumer(all).await?;
    let count = usize::try_from(consumer.cached_info().num_pending)?;
    let read = |message: jetstream::Message| Stored {
        subject: message.subject.to_string(),
        headers: message.headers.clone().unwrap_or_default(),
        body: message.payload.clone(),
    };
    Ok(consumer.messages().await?.take(count).map_ok(read).try_collect().await?)
}

/// Publishes a message again under an id that the broker does not know.
pub async fn publish_again(connection: &Connection, stored: &Stored) -> Result<()> {
    let mut headers = stored.headers.clone();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, random::uuid_v4().to_string());
    publish::publish(&connection.jetstream, &stored.subject, headers, stored.body.clone()).await?;
    Ok(())
}

/// Drops what is published to a stream for a while: its durables are paused, and it is emptied before they go on. Returns how many
/// messages that were.
pub async fn drop_messages(connection: &Connection, stream: &str, lasts: Duration) -> Result<u64> {
    let stream = connection.jetstream.get_stream(stream).await?;
    let durables: Vec<String> = stream.consumer_names().try_collect().await?;
    let until =
        datetime::add_std_duration(datetime::now(), lasts.saturating_mul(2)).map_err(anyhow::Error::from_boxed)?;
    for durable in &durables {
        stream.pause_consumer(durable, until).await?;
    }
    // What was delivered before is kept for an hour.
    stream.purge().await?;
    tokio::time::sleep(lasts).await;
    let dropped = stream.purge().await?.purged;
    for durable in &durables {
        stream.resume_consumer(durable).await?;
    }
    Ok(dropped)
}

/// Says hello in the name of a cluster of the first incarnation, as a process would that holds its credentials.
pub async fn hello_as(broker: &Connection, site: &Site, hello: &Hello) -> Result<HelloAnswer> {
    let mut hello = Hello { cluster_id: site.id.clone(), at: clock::rfc3339_ms(clock::now()), ..hello.clone() };
    if hello.boot_id.is_empty() {
        hello.boot_id = random::uuid_v4().to_string();
    }
    if hello.incarnation.is_empty() {
        "1".clone_into(&mut hello.incarnation);
    }
    let reply = broker.client.request(subjects::hello(&site.id), message::to_json(&hello).into()).await?;
    message::from_json(&reply.payload).context("the answer to a hello")
}
