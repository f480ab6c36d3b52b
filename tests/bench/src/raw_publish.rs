//! The raw stage of sending: the same messages, published by one client to an empty stream, many on their way at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::stream;
use futures::{StreamExt as _, TryStreamExt as _};
use kubenova_bus::{Connection, publish};
use kubenova_runtime::random;
use kubenova_scenarios::broker::{self, Stored};
use kubenova_schema::{streams, subjects};

const STREAM: &str = "BENCH";
/// Publishes on their way at once: with more the broker on two cores is no faster.
const WINDOW: usize = 256;

/// Commands that were sent.
#[derive(Debug)]
pub(crate) struct RawPublish {
    connection: Connection,
    messages: Vec<Stored>,
}

/// One pass over all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) messages: usize,
    pub(crate) took: Duration,
}

impl Published {
    /// Messages a second.
    pub(crate) fn rate(self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }
}

impl RawPublish {
    /// The commands that were sent last, as many as the broker still holds.
    pub(crate) async fn of_last_commands(connection: Connection, count: usize) -> Result<Self> {
        let all = broker::stored(&connection, streams::COMMANDS.name, subjects::every::COMMAND.to_owned()).await?;
        let is_command = |message: &Stored| !message.subject.ends_with(subjects::RECEIPT);
        let mut messages: Vec<Stored> = all.into_iter().filter(is_command).collect();
        messages.drain(..messages.len().saturating_sub(count));
        Ok(Self { connection, messages })
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.body.len()).sum()
    }

    /// Publishes all of them, each under a new id, to a stream that holds nothing, and waits for every acknowledgement.
    pub(crate) async fn run(&self) -> Result<Published> {
        let jetstream = &self.connection.jetstream;
        // It is there from the last time, or not.
        drop(jetstream.delete_stream(STREAM).await);
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["bench.>".to_owned()],
            duplicate_window: streams::COMMANDS.duplicate_window,
            ..stream::Config::default()
        };
        jetstream.create_stream(config).await.context("could not make the raw stage's stream")?;
        let prepared: Vec<_> = self.messages.iter().map(prepare).collect();
        let messages = prepared.len();
        let began = Instant::now();
        futures::stream::iter(prepared)
            .map(|(subject, headers, body)| async move { publish::publish(jetstream, &subject, headers, body).await })
            .buffer_unordered(WINDOW)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        Ok(Published { messages, took: began.elapsed() })
    }
}

fn prepare(message: &Stored) -> (String, async_nats::HeaderMap, bytes::Bytes) {
    let mut headers = message.headers.clone();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, random::uuid_v4().to_string());
    (format!("bench.{}", message.subject), headers, message.body.clone())
}
