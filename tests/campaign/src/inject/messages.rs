//! Messages that come again, in another order, not at all, or from who knows whom.
//!
//! All of it is done with the Manager's own rights at the broker (`broker` of the scenarios).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_bus::{Connection, publish};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::random;
use kubenova_scenarios::broker;
use kubenova_scenarios::steps::COMMAND_MAX;
use kubenova_schema::signature::{self, PayloadType};
use kubenova_schema::v1::Command;
use kubenova_schema::{message, streams, subjects};
use serde_json::json;

use crate::fleet::Fleet;

/// The newest messages of a stream that are sent again.
const REPEATED: usize = 2_000;
const TIMES: usize = 3;
const AT_ONCE: usize = 64;
/// Clusters to which commands of a later release are sent.
const RECEIVERS: usize = 4;

async fn connect(fleet: &Fleet) -> Result<Connection> {
    broker::connect(&fleet.platform, &fleet.keyring).await
}

/// Every command, outcome and status again, three times, the newest first, under message ids that the broker does not know.
pub(super) async fn repeat(fleet: &Fleet) -> Result<()> {
    let connection = connect(fleet).await?;
    for stream in [streams::COMMANDS.name, streams::STATUS.name] {
        let mut messages = broker::stored(&connection, stream, String::new()).await?;
        messages.reverse();
        messages.truncate(REPEATED);
        let again = std::iter::repeat_n(&messages, TIMES).flatten();
        let send = |stored| broker::publish_again(&connection, stored);
        stream::iter(again.map(send)).buffered(AT_ONCE).map_ok(drop).try_collect::<()>().await?;
    }
    Ok(())
}

/// Commands are stored by the broker and never delivered.
pub(super) async fn lose(fleet: &Fleet, lasts: Duration) -> Result<()> {
    let dropped = broker::drop_messages(&connect(fleet).await?, streams::COMMANDS.name, lasts).await?;
    ensure!(dropped > 0, "no command was dropped");
    Ok(())
}

/// What no side can read, on the subjects of every cluster; what claims to be an outcome becomes a dead letter.
pub(super) async fn send_unreadable(fleet: &Fleet) -> Result<()> {
    let connection = connect(fleet).await?;
    let before = dead_letters(fleet, "true")?;
    let large = vec![b'x'; 200_000];
    let bodies: [&[u8]; 5] = [b"{\"nonsense\":1}", b"{", &[0xff, 0xfe, 0x00], b"", &large];
    let clusters: Vec<String> =
        fleet.simulated.iter().map(|one| one.id().to_owned()).chain([fleet.site.id.clone()]).collect();
    for cluster in &clusters {
        for body in bodies {
            let signed = publish::headers(&random::uuid_v4().to_string(), &[(signature::HEADER, "unknown:AAAA")]);
            let command = subjects::command(cluster, "apply-application");
            publish::publish(&connection.jetstream, &command, signed, body.to_vec()).await?;
        }
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&connection.jetstream, &subjects::outcome(cluster), headers, "{\"nonsense\":1}").await?;
    }
    poll::until("a dead letter of every cluster", COMMAND_MAX, || async {
        let more = dead_letters(fleet, "true")?.saturating_sub(before);
        Ok(Step::when(more >= clusters.len(), (), format!("{more} of {}", clusters.len())))
    })
    .await
}

/// Rightly signed commands of a later release: of a kind that no cluster knows, and with fields that it does not know.
pub(super) async fn send_unknown(fleet: &Fleet) -> Result<()> {
    let connection = connect(fleet).await?;
    let mut ids = Vec::new();
    for stored in newest_commands(fleet, &connection).await? {
        let known: Command = message::from_json(&stored.body)?;
        let mut later: serde_json::Value = serde_json::from_slice(&stored.body)?;
        later["fieldOfALaterRelease"] = json!({ "is": "ignored" });
        send_signed(fleet, &connection, &stored.subject, later.to_string().into_bytes()).await?;
        let id = random::uuid_v4().to_string();
        let unknown = Command { id: id.clone(), kind: "apply-teapot".to_owned(), ..known };
        let subject = subjects::command(&unknown.cluster_id, &unknown.kind);
        send_signed(fleet, &connection, &subject, message::to_json(&unknown)).await?;
        ids.push(id);
    }
    for id in ids {
        poll::until("the answer to a command of an unknown kind", COMMAND_MAX, || async {
            let about = format!("encode(payload, 'escape') like '%{id}%unsupported%'");
            let count = dead_letters(fleet, &about)?;
            Ok(Step::when(count > 0, (), "no dead letter: the Manager never sent that command"))
        })
        .await?;
    }
    Ok(())
}

async fn newest_commands(fleet: &Fleet, connection: &Connection) -> Result<Vec<broker::Stored>> {
    let clusters = fleet.simulated.iter().map(|one| one.id().to_owned()).take(RECEIVERS - 1);
    let mut newest = Vec::new();
    for cluster in clusters.chain([fleet.site.id.clone()]) {
        let mut stored = broker::stored(connection, streams::COMMANDS.name, subjects::commands_to(&cluster)).await?;
        stored.retain(|stored| stored.subject != subjects::receipt(&cluster));
        newest.extend(stored.pop());
    }
    (!newest.is_empty()).then_some(newest).context("the stream holds no commands")
}

async fn send_signed(fleet: &Fleet, connection: &Connection, subject: &str, body: Vec<u8>) -> Result<()> {
    let signed = fleet.keyring.command.sign(PayloadType::Command, &body);
    let headers = publish::headers(&random::uuid_v4().to_string(), &[(signature::HEADER, &signed)]);
    publish::publish(&connection.jetstream, subject, headers, body).await?;
    Ok(())
}

fn dead_letters(fleet: &Fleet, about: &str) -> Result<usize> {
    let sql = format!("select count(*) from dead_letters where {about}");
    fleet.platform.postgres.query("kubenova", &sql)?.trim().parse().context("a count")
}
