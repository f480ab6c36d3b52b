//! Whoever writes to the broker with the Manager's own rights, but without its signing key, changes nothing in a
//! cluster; and a command of the past, though signed, is not carried out again.

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use futures::StreamExt as _;
use kubenova_bus::{Connection, publish};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::random;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_schema::signature::{self, PayloadType, SigningKey};
use kubenova_schema::v1::{Command, Hello, HelloAnswer, HelloWanted, Outcome};
use kubenova_schema::{message, streams, subjects};
use kubenova_trust::keyring::Keyring;
use serde_json::Value;

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
    /// Every message that a stream holds, oldest first; there are some.
    async fn messages(&self, stream: &str, filter_subject: String) -> Result<Vec<broker::Stored>> {
        let messages = broker::stored(&self.connection, stream, filter_subject).await?;
        ensure!(!messages.is_empty(), "the stream holds no messages");
        Ok(messages)
    }

    /// Every command that the stream holds for the cluster, oldest first.
    async fn record(&self) -> Result<Vec<Recorded>> {
        let mut recorded = Vec::new();
        for message in self.messages(streams::COMMANDS.name, subjects::commands_to(&self.cluster)).await? {
            if message.subject == subjects::receipt(&self.cluster) {
                continue;
            }
            let header = message.headers.get(signature::HEADER);
            recorded.push(Recorded {
                signature: header.context("a command is signed")?.to_string(),
                command: message::from_json(&message.body)?,
                subject: message.subject,
                body: message.body,
            });
        }
        ensure!(!recorded.is_empty(), "the stream holds no commands");
        Ok(recorded)
    }

    /// Message ids of a stream that another cluster could have known before: not a random UUID. A cluster that publishes
    /// such an id first would make the server drop the real message as a repetition.
    async fn derivable_ids(&self, stream: &str) -> Result<Vec<String>> {
        let mut derivable = Vec::new();
        for message in self.messages(stream, String::new()).await? {
            let id = message.headers.get(async_nats::header::NATS_MESSAGE_ID);
            let id = id.map(ToString::to_string).unwrap_or_default();
            let random = uuid::Uuid::parse_str(&id).is_ok_and(|id| matches!(id.get_version_num(), 4 | 7));
            if !random {
                derivable.push(format!("{}: {id:?}", message.subject));
            }
        }
        Ok(derivable)
    }

    /// Puts bytes where commands are, and waits until the cluster has acknowledged all that lies there.
    async fn slip_in(&self, subject: &str, body: impl Into<Bytes>, signature: Option<&str>) -> Result<()> {
        let mut headers: HeaderMap = publish::headers(&random::uuid_v4().to_string(), &[]);
        if let Some(signature) = signature {
            headers.insert(signature::HEADER, signature);
        }
        let stored = publish::publish(&self.connection.jetstream, subject, headers, body).await?;
        let stream = self.connection.jetstream.get_stream(streams::COMMANDS.name).await?;
        poll::until("the cluster to acknowledge what was slipped in", COMMAND_MAX, || async {
            let durable: PullConsumer = stream.get_consumer(&self.cluster).await.map_err(anyhow::Error::msg)?;
            let info = durable.cached_info();
            let done = info.num_ack_pending == 0 && info.ack_floor.stream_sequence >= stored.sequence;
            Ok(Step::when(done, (), format!("{info:?}")))
        })
        .await
    }

    /// Asks the cluster for hellos in the place of the Manager, which is away, and answers them, until `is_seen`. `answer` makes of an
    /// answer to the hello what is sent, and what it is signed with.
    async fn answer_hellos(
        &self,
        what: &str,
        answer: impl Fn(HelloAnswer) -> (Vec<u8>, Option<String>),
        is_seen: impl Fn() -> Result<(bool, String)>,
    ) -> Result<()> {
        let client = &self.connection.client;
        let mut hellos = client.subscribe(subjects::hello(&self.cluster)).await?;
        let answers = async {
            while let Some(request) = hellos.next().await {
                let hello: Hello = message::from_json(&request.payload)?;
                let (body, signature) = answer(HelloAnswer {
                    accepted: true,
                    epoch: 1_000,
                    session: 1_000,
                    cluster_id: hello.cluster_id,
                    boot_id: hello.boot_id,
                    nonce: hello.nonce,
                    ..HelloAnswer::default()
                });
                let mut headers = HeaderMap::new();
                if let Some(signature) = signature {
                    headers.insert(signature::HEADER, signature);
                }
                let reply = request.reply.context("a hello wants an answer")?;
                client.publish_with_headers(reply, headers, body.into()).await?;
                client.flush().await?;
            }
            anyhow::bail!("the subscription ended")
        };
        let wanted = message::to_json(&HelloWanted { cluster_id: self.cluster.clone(), ..HelloWanted::default() });
        let seen = poll::until(what, COMMAND_MAX, || async {
            client.publish(subjects::control(&self.cluster), wanted.clone().into()).await?;
            let (is_seen, shown) = is_seen()?;
            Ok(Step::when(is_seen, (), shown))
        });
        tokio::select! {
            answered = answers => answered,
            seen = seen => seen,
        }
    }
}

/// A cluster that reports nonsense: each message becomes a dead letter once, at most the newest hundred of a cluster.
async fn nonsense_becomes_bounded_dead_letters(platform: &Platform, intruder: &Intruder) -> Result<()> {
    let subject = subjects::outcome(&intruder.cluster);
    for number in 0..120 {
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&intruder.connection.jetstream, &subject, headers, format!("{{\"nonsense\":{number}}}"))
            .await?;
    }
    poll::until("the newest hundred dead letters", COMMAND_MAX, || async {
        let sql =
            "select count(*) || ' ' || count(*) filter (where convert_from(payload, 'UTF8') like '%:119}') from dead_letters";
        let seen = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(seen.trim() == "100 1", (), seen))
    })
    .await
}

/// The cluster says of each forged answer that it does not believe it.
async fn forged_answers_to_hellos_are_not_believed(site: &Site, intruder: &Intruder, keyring: &Keyring) -> Result<()> {
    let before = site.fence_epoch()?;
    for (cause, signed_as, of_another_hello) in [
        ("no Kn-Signature header", None, false),
        ("does not fit the message", Some(PayloadType::Receipt), false),
        ("for another hello", Some(PayloadType::HelloAnswer), true),
    ] {
        let forge = |answer: HelloAnswer| {
            let nonce = if of_another_hello { random::uuid_v4().to_string() } else { answer.nonce };
            let body = message::to_json(&HelloAnswer { floor: u64::from(u32::MAX), nonce, ..answer });
            let signature = signed_as.map(|payload_type| keyring.command.sign(payload_type, &body));
            (body, signature)
        };
        let says = || {
            let conditions = site.conditions()?;
            let says = conditions.iter().any(|(kind, _, reason, message)| {
                kind == "BusConnected" && reason == "AnswerUnverified" && message.contains(cause)
            });
            Ok((says, format!("{conditions:?}")))
        };
        intruder.answer_hellos(&format!("the cluster to say: {cause}"), forge, says).await?;
    }
    assert_eq!(site.fence_epoch()?, before, "a forged answer moved the cluster's fence");
    Ok(())
}

/// The answer that the Manager would sign after its epoch rose. No command follows it: the fence stands at the epoch all the same, so
/// that a command of an earlier one, on its way since, is refused.
async fn a_signed_answer_raises_the_fence(site: &Site, intruder: &Intruder, keyring: &Keyring) -> Result<()> {
    let sign = |answer: HelloAnswer| {
        let body = message::to_json(&answer);
        let signature = keyring.command.sign(PayloadType::HelloAnswer, &body);
        (body, Some(signature))
    };
    let raised = || site.fence_epoch().map(|epoch| (epoch == "1000", epoch));
    intruder.answer_hellos("the fence to stand at the epoch of the answer", sign, raised).await
}

/// A message without a signature, with the id of a command: the Manager shows what the cluster says of it and ends nothing.
async fn an_unsigned_message_is_shown(platform: &Platform, intruder: &Intruder, held: &Recorded) -> Result<()> {
    let id = random::uuid_v4().to_string();
    let headers = publish::headers(&random::uuid_v4().to_string(), &[(signature::COMMAND_ID_HEADER, &id)]);
    publish::publish(&intruder.connection.jetstream, &held.subject, headers, held.body.clone()).await?;
    poll::until("a dead letter about the command", COMMAND_MAX, || async {
        let letters = platform.rest.get("/api/v1/dead-letters?limit=100").await?.expect(200)?;
        Ok(Step::when(letters.to_string().contains(&id), (), letters.to_string()))
    })
    .await
}

/// How often the cluster says that it dropped a command without a valid signature.
fn dropped_unread(site: &Site) -> Result<u64> {
    let events = site.list(&["events.events.k8s.io", "-A", "--field-selector", "reason=CommandUnverified"])?;
    Ok(events.iter().map(|event| event.pointer("/series/count").and_then(Value::as_u64).unwrap_or(1)).sum())
}

/// The newest of the recorded commands about an application.
fn newest<'a>(recorded: &'a [Recorded], name: &str) -> Result<&'a Recorded> {
    let about = |it: &&Recorded| it.command.document.contains(&format!("\"name\":\"{name}\""));
    recorded.iter().filter(about).max_by_key(|it| it.command.revision).context("no command about the application")
}

#[tokio::test(flavor = "multi_thread")]
async fn access_forgery_and_the_past_change_nothing() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let keyring = broker::keyring(&platform)?;
    let intruder = Intruder { connection: broker::connect(&platform, &keyring).await?, cluster: site.id.clone() };

    let first = steps::web_application("shop", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &first).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    let old = newest(&intruder.record().await?, "shop")?.clone();
    let second = steps::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.put("/api/v1/tenants/acme/apps/shop", &second).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    steps::wait_all_succeeded(&platform, &site, COMMAND_MAX).await?;
    let recorded = intruder.record().await?;
    let held = newest(&recorded, "shop")?.clone();
    ensure!(held.command.revision > old.command.revision, "the second command has no higher revision");
    let before = site.versions()?;
    let unread = dropped_unread(&site)?;

    // A command that would be carried out if signatures were not verified: a later revision, more pods.
    let mut command = held.command.clone();
    command.revision += 1_000;
    command.id = random::uuid_v4().to_string();
    command.document = held.command.document.replace("\"replicas\":2", "\"replicas\":7");
    ensure!(command.document != held.command.document, "no replicas in {}", held.command.document);
    let forged = message::to_json(&command);
    let own = SigningKey::from_seed(&[9; 32]).map_err(|error| anyhow::anyhow!("{error}"))?;
    let receipt = keyring.command.sign(PayloadType::Receipt, &forged);
    let own = own.sign(PayloadType::Command, &forged);
    let attempts = [
        ("no signature", None),
        ("the signature of another command", Some(held.signature.as_str())),
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
    assert!(dropped_unread(&site)? > unread, "the cluster has no event about the commands that it dropped");
    let described = site.cluster.kubectl_ok(&["describe", "nova", "default"])?;
    let (_, events) = described.split_once("\nEvents:").context("kubectl describe shows events")?;
    assert!(events.contains("CommandUnverified"), "{events}");

    an_unsigned_message_is_shown(&platform, &intruder, &held).await?;

    // The first command again, to the byte: signed by the Manager, and of the past.
    let mut outcomes = intruder.connection.client.subscribe(subjects::outcome(&site.id)).await?;
    intruder.connection.client.flush().await?;
    intruder.slip_in(&old.subject, old.body.clone(), Some(&old.signature)).await?;
    let answer = tokio::time::timeout(COMMAND_MAX, outcomes.next()).await.context("the Operator sent no outcome")?;
    let outcome: Outcome = message::from_json(&answer.context("the subscription ended")?.payload)?;
    assert_eq!((outcome.command_id.as_str(), outcome.state.as_str()), (old.command.id.as_str(), "superseded"));
    assert_eq!(site.versions()?, before, "a lower revision changed something");
    assert_eq!(steps::ready_pods(&site, "acme", "shop")?, 2);

    for stream in [streams::COMMANDS.name, streams::STATUS.name, streams::USAGE.name] {
        assert_eq!(intruder.derivable_ids(stream).await?, Vec::<String>::new(), "{stream}");
    }

    nonsense_becomes_bounded_dead_letters(&platform, &intruder).await?;
    platform.manager.kill();
    forged_answers_to_hellos_are_not_believed(&site, &intruder, &keyring).await?;
    platform.manager.restart()?;
    site.wait_condition("BusConnected", "True", COMMAND_MAX).await?;

    // And what the Manager's own key would have allowed: so the attempts above were refused for their signatures.
    let signed = keyring.command.sign(PayloadType::Command, &forged);
    intruder.slip_in(&held.subject, forged, Some(&signed)).await?;
    poll::until("seven pods by the same command, signed", COMMAND_MAX, || async {
        let pods = steps::ready_pods(&site, "acme", "shop")?;
        Ok(Step::when(pods == 7, (), format!("{pods} pods")))
    })
    .await?;
    platform.manager.kill();
    a_signed_answer_raises_the_fence(&site, &intruder, &keyring).await
}
