//! Whoever writes to the broker with the Manager's own rights, but without its signing key, changes nothing in a
//! cluster; and what was once signed does not come back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use bytes::Bytes;
use futures::StreamExt as _;
use kubenova_bus::{Connection, publish};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::random;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::story;
use kubenova_schema::signature::{self, PayloadType, SigningKey};
use kubenova_schema::v1::{Command, Outcome};
use kubenova_schema::{message, streams, subjects};
use serde_json::Value;

const COMPONENTS_MAX: Duration = Duration::from_secs(240);
const ORDER_MAX: Duration = Duration::from_secs(120);

/// A command as it went over the wire.
#[derive(Debug, Clone)]
struct Recorded {
    subject: String,
    body: Bytes,
    signature: String,
    command: Command,
}

/// The intruder: the Manager's broker identity, and every command that was ever sent to the cluster.
struct Intruder {
    connection: Connection,
    cluster: String,
}

impl Intruder {
    /// Everything the stream holds for the cluster, oldest first; the cluster's durable does not notice.
    async fn record(&self) -> Result<Vec<Recorded>> {
        let stream = self.connection.jetstream.get_stream(streams::COMMANDS.name).await?;
        let all = pull::OrderedConfig { filter_subject: subjects::commands_to(&self.cluster), ..Default::default() };
        let consumer = stream.create_consumer(all).await?;
        let held = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await?.take(usize::try_from(held)?);
        let mut recorded = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message?.message;
            if message.subject.as_str() == subjects::receipt(&self.cluster) {
                continue;
            }
            let header = message.headers.as_ref().and_then(|headers| headers.get(signature::HEADER));
            recorded.push(Recorded {
                subject: message.subject.to_string(),
                signature: header.context("a command is signed")?.to_string(),
                command: message::from_json(&message.payload)?,
                body: message.payload,
            });
        }
        ensure!(!recorded.is_empty(), "the stream holds commands");
        Ok(recorded)
    }

    /// Message ids of a stream that a stranger could have known before: not a random UUID. A cluster that publishes such
    /// an id first would make the server drop the real message as a repetition.
    async fn derivable_ids(&self, stream: &str) -> Result<Vec<String>> {
        let stream = self.connection.jetstream.get_stream(stream).await?;
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let held = usize::try_from(consumer.cached_info().num_pending)?;
        ensure!(held > 0, "the stream holds messages");
        let mut messages = consumer.messages().await?.take(held);
        let mut derivable = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message?;
            let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
            let id = id.map(ToString::to_string).unwrap_or_default();
            let random = uuid::Uuid::parse_str(&id).is_ok_and(|id| matches!(id.get_version_num(), 4 | 7));
            if !random {
                derivable.push(format!("{}: {id:?}", message.subject));
            }
        }
        Ok(derivable)
    }

    /// Puts bytes where commands are, and waits until the cluster has answered for all that lies there.
    async fn slip_in(&self, subject: &str, body: impl Into<Bytes>, signature: Option<&str>) -> Result<()> {
        let mut headers: HeaderMap = publish::headers(&random::uuid_v4().to_string(), &[]);
        if let Some(signature) = signature {
            headers.insert(signature::HEADER, signature);
        }
        let stored = publish::publish(&self.connection.jetstream, subject, headers, body).await?;
        let stream = self.connection.jetstream.get_stream(streams::COMMANDS.name).await?;
        poll::until("the cluster to take what was slipped in", ORDER_MAX, || async {
            let durable: PullConsumer = stream.get_consumer(&self.cluster).await.map_err(anyhow::Error::msg)?;
            let info = durable.cached_info();
            let done = info.num_ack_pending == 0 && info.ack_floor.stream_sequence >= stored.sequence;
            Ok(Step::when(done, (), format!("{info:?}")))
        })
        .await
    }
}

/// A cluster that reports nonsense: each message is kept for people once, the newest hundred of a cluster at most.
async fn nonsense_is_kept_and_bounded(platform: &Platform, intruder: &Intruder) -> Result<()> {
    let subject = subjects::outcome(&intruder.cluster);
    for number in 0..120 {
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&intruder.connection.jetstream, &subject, headers, format!("{{\"nonsense\":{number}}}"))
            .await?;
    }
    poll::until("the newest hundred to be kept", ORDER_MAX, || async {
        let sql =
            "select count(*) || ' ' || count(*) filter (where convert_from(payload, 'UTF8') like '%:119}') from dead_letters";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == "100 1", (), seen))
    })
    .await
}

/// How often the cluster says that it dropped an order unread.
fn dropped_unread(site: &Site) -> Result<u64> {
    let printed = site.cluster.kubectl_ok(&[
        "get",
        "events.events.k8s.io",
        "-A",
        "--field-selector",
        "reason=OrderUnverified",
        "-o",
        "json",
    ])?;
    let list: Value = serde_json::from_str(&printed).context("kubectl prints JSON")?;
    let events = list["items"].as_array().context("a list has items")?;
    Ok(events.iter().map(|event| event.pointer("/series/count").and_then(Value::as_u64).unwrap_or(1)).sum())
}

/// The newest of the recorded commands about an application.
fn newest<'a>(recorded: &'a [Recorded], name: &str) -> Result<&'a Recorded> {
    let about = |it: &&Recorded| it.command.document.contains(&format!("\"name\":\"{name}\""));
    recorded.iter().filter(about).max_by_key(|it| it.command.revision).context("no command about the application")
}

#[tokio::test(flavor = "multi_thread")]
async fn access_forgery_and_the_past_change_nothing() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;
    let keyring = broker::keyring(&platform)?;
    let intruder = Intruder { connection: broker::connect(&platform, &keyring).await?, cluster: site.id.clone() };

    let first = story::web_application("shop", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &first).await?.expect(202)?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    let old = newest(&intruder.record().await?, "shop")?.clone();
    let second = story::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.put("/api/v1/tenants/acme/apps/shop", &second).await?.expect(202)?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    story::wait_all_succeeded(&platform, &site, ORDER_MAX).await?;
    let recorded = intruder.record().await?;
    let held = newest(&recorded, "shop")?.clone();
    ensure!(held.command.revision > old.command.revision, "the second wish has a higher revision");
    let before = site.versions()?;
    let unread = dropped_unread(&site)?;

    // An order that would be carried out if only signatures were not looked at: a later revision, more pods.
    let mut wish = held.command.clone();
    wish.revision += 1_000;
    wish.id = random::uuid_v4().to_string();
    wish.document = held.command.document.replace("\"replicas\":2", "\"replicas\":7");
    ensure!(wish.document != held.command.document, "no replicas in {}", held.command.document);
    let forged = message::to_json(&wish);
    let own = SigningKey::from_seed(&[9; 32]).map_err(|error| anyhow::anyhow!("{error}"))?;
    let receipt = keyring.command.sign(PayloadType::Receipt, &forged);
    let own = own.sign(PayloadType::Command, &forged);
    let attempts = [
        ("no signature", None),
        ("the signature of another order", Some(held.signature.as_str())),
        ("an own key", Some(own.as_str())),
        ("the Manager's signature over a receipt", Some(receipt.as_str())),
    ];
    for (what, signature) in attempts {
        intruder.slip_in(&held.subject, forged.clone(), signature).await.context(what)?;
        assert_eq!(site.versions()?, before, "{what} changed something");
    }
    // Every recorded command with one byte changed, each at another place.
    for (index, recorded) in recorded.iter().enumerate() {
        let mut body = recorded.body.to_vec();
        let at = (index * 37 + 11) % body.len();
        body[at] ^= 1;
        intruder.slip_in(&recorded.subject, body, Some(&recorded.signature)).await?;
    }
    assert_eq!(site.versions()?, before, "an altered body changed something");
    assert!(dropped_unread(&site)? > unread, "the cluster tells its people of orders that it dropped");

    // The first wish again, to the byte: signed by the Manager, and of the past.
    let mut outcomes = intruder.connection.client.subscribe(subjects::outcome(&site.id)).await?;
    intruder.connection.client.flush().await?;
    intruder.slip_in(&old.subject, old.body.clone(), Some(&old.signature)).await?;
    let answer = tokio::time::timeout(ORDER_MAX, outcomes.next()).await.context("nobody answered")?;
    let outcome: Outcome = message::from_json(&answer.context("the subscription ended")?.payload)?;
    assert_eq!((outcome.command_id.as_str(), outcome.state.as_str()), (old.command.id.as_str(), "superseded"));
    assert_eq!(site.versions()?, before, "a lower revision changed something");
    assert_eq!(story::ready_pods(&site, "acme", "shop")?, 2);

    for stream in [streams::COMMANDS.name, streams::STATUS.name, streams::USAGE.name] {
        assert_eq!(intruder.derivable_ids(stream).await?, Vec::<String>::new(), "{stream}");
    }

    nonsense_is_kept_and_bounded(&platform, &intruder).await?;

    // And what the Manager's own key would have allowed: so the attempts above were refused for their signatures.
    let signed = keyring.command.sign(PayloadType::Command, &forged);
    intruder.slip_in(&held.subject, forged, Some(&signed)).await?;
    poll::until("seven pods by the same order, signed", ORDER_MAX, || async {
        let pods = story::ready_pods(&site, "acme", "shop")?;
        Ok(Step::when(pods == 7, (), format!("{pods} pods")))
    })
    .await
}
