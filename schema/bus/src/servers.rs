//! The broker's servers, asked one by one over its system account: who is there, and which account JWT each has.
//!
//! A request reaches every server and each answers for itself, so an answer is a collection that is complete when all expected servers
//! are in it, or when the time is over.

use async_nats::{Client, Message};
use bytes::Bytes;
use futures::StreamExt as _;
use kubenova_schema::subjects::servers;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long servers have to answer. On loopback they take milliseconds, across an ocean less than a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What a server says of an account that it has not loaded (`accountInfo` in nats-server's monitor.go).
const NOT_LOADED: &str = "does not exist";

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPing {
    /// Its id: a new one with every start.
    pub id: String,
    /// Its name in the configuration.
    pub name: String,
    /// Servers that it knows of, itself included.
    pub known: usize,
}

/// What a server says of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountInEffect {
    /// This is its JWT.
    Jwt(String),
    /// No client of the account was here since the server started: it reads its store when the first one comes.
    NotLoaded,
}

/// Why the servers could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection does not take a subscription.
    #[error("could not subscribe to the answers of the broker's servers")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The connection does not take a message.
    #[error("could not ask the broker's servers")]
    Publish(#[from] async_nats::PublishError),
}

#[derive(Debug, Deserialize)]
struct Answer {
    server: ServerInfo,
    #[serde(default)]
    statsz: Option<Stats>,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<ServerError>,
}

#[derive(Debug, Deserialize)]
struct ServerInfo {
    id: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Stats {
    #[serde(default)]
    active_servers: usize,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(default)]
    account_detail: Option<Account>,
}

#[derive(Debug, Deserialize)]
struct Account {
    #[serde(default)]
    jwt: String,
}

#[derive(Debug, Deserialize)]
struct ServerError {
    #[serde(default)]
    description: String,
}

/// Asks who is there.
///
/// # Errors
/// When the connection takes no message.
pub async fn ping(client: &Client) -> Result<Vec<ServerPing>, AskError> {
    let answers = ask(client, servers::PING, Bytes::new(), |answers| {
        let known =
            answers.values().filter_map(|answer| answer.statsz.as_ref()).map(|stats| stats.active_servers).max();
        known.is_some_and(|known| answers.len() >= known)
    })
    .await?;
    let pings = answers.into_values().map(|answer| ServerPing {
        id: answer.server.id,
        name: answer.server.name,
        known: answer.statsz.map_or(1, |stats| stats.active_servers),
    });
    Ok(pings.collect())
}

/// Sends every server an account JWT and waits for no answer.
///
/// # Errors
/// When the connection takes no message.
pub async fn send_account(client: &Client, jwt: &str) -> Result<(), AskError> {
    // Without a reply subject the servers answer nothing.
    Ok(client.publish(servers::PUSH_ACCOUNT, Bytes::copy_from_slice(jwt.as_bytes())).await?)
}

/// Gives every server an account JWT. That a server has stored it does not say that it uses it ([`accounts_in_effect`]). What each
/// server answered, by its id.
///
/// # Errors
/// When the connection takes no message.
pub async fn push_account(
    client: &Client,
    jwt: &str,
    expected: &BTreeSet<String>,
) -> Result<BTreeMap<String, Result<(), String>>, AskError> {
    let body = Bytes::copy_from_slice(jwt.as_bytes());
    let answers = ask(client, servers::PUSH_ACCOUNT, body, |answers| has_all(answers, expected)).await?;
    let stored = answers.into_iter().map(|(id, answer)| (id, answer.error.map_or(Ok(()), |it| Err(it.description))));
    Ok(stored.collect())
}

/// The JWT of an account that every server uses, by the server's id.
///
/// # Errors
/// When the connection takes no message.
pub async fn accounts_in_effect(
    client: &Client,
    account: &str,
    expected: &BTreeSet<String>,
) -> Result<BTreeMap<String, AccountInEffect>, AskError> {
    let body = serde_json::json!({ "account": account }).to_string();
    let answers = ask(client, servers::PING_ACCOUNT, body.into(), |answers| has_all(answers, expected)).await?;
    let in_effect = answers.into_iter().filter_map(|(id, answer)| {
        let detail = answer.data.and_then(|data| data.account_detail);
        let is_unknown = answer.error.is_some_and(|error| error.description.contains(NOT_LOADED));
        // Any other error is no answer.
        let not_loaded = is_unknown.then_some(AccountInEffect::NotLoaded);
        Some((id, detail.map(|account| AccountInEffect::Jwt(account.jwt)).or(not_loaded)?))
    });
    Ok(in_effect.collect())
}

/// The id of the server that sent this message about itself.
#[must_use]
pub fn sender(message: &Message) -> Option<String> {
    serde_json::from_slice::<Answer>(&message.payload).ok().map(|answer| answer.server.id)
}

fn has_all(answers: &BTreeMap<String, Answer>, expected: &BTreeSet<String>) -> bool {
    expected.iter().all(|id| answers.contains_key(id))
}

/// Sends one request and collects the answers until they are complete or the time is over.
async fn ask(
    client: &Client,
    subject: &'static str,
    body: Bytes,
    is_complete: impl Fn(&BTreeMap<String, Answer>) -> bool,
) -> Result<BTreeMap<String, Answer>, AskError> {
    let inbox = client.new_inbox();
    let mut subscription = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subject, inbox, body).await?;
    let mut answers = BTreeMap::new();
    let collect = async {
        while let Some(message) = subscription.next().await {
            match serde_json::from_slice::<Answer>(&message.payload) {
                Ok(answer) => {
                    answers.insert(answer.server.id.clone(), answer);
                }
                // A server with another version than ours; it is missing among the answers.
                Err(error) => tracing::debug!(%error, subject, "could not read the answer of a server of the broker"),
            }
            if is_complete(&answers) {
                return;
            }
        }
    };
    let _too_few = tokio::time::timeout(ANSWER_WITHIN, collect).await;
    Ok(answers)
}
