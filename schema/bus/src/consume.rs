//! Consuming: every delivery gets a verdict.
//!
//! `Done` acknowledges, and only after what the message holds is durable on our side. `Later` asks for it again after a
//! time. `Poison` ends it with a reason; the handler has parked it where people see it. `Held` means that the handler
//! keeps the acknowledger and answers later. A handler that dies says nothing, and the server delivers again.

use async_nats::jetstream::{self, AckKind, consumer::pull};
use bytes::Bytes;
use futures::StreamExt as _;
use kubenova_runtime::{backoff, shutdown::Shutdown};
use std::{future::Future, sync::Arc, time::Duration};

/// What a handler says about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What it holds is durable on our side.
    Done,
    /// Not now; deliver again after this time.
    Later(Duration),
    /// It can never be handled; the reason is for people.
    Poison(String),
    /// The handler took the acknowledger with it.
    Held,
}

/// Answers for one delivery, now or later.
#[derive(Debug, Clone)]
pub struct Acknowledger(Arc<jetstream::Message>);

impl Acknowledger {
    /// Gives the server the verdict. A lost answer only means one more delivery.
    pub async fn answer(&self, verdict: &Verdict) {
        let kind = match verdict {
            Verdict::Done => AckKind::Ack,
            Verdict::Later(after) => AckKind::Nak(Some(*after)),
            Verdict::Poison(_) => AckKind::Term,
            Verdict::Held => return,
        };
        if let Err(error) = self.0.ack_with(kind).await {
            tracing::debug!(%error, "could not answer for a delivery; it will come again");
        }
    }
}

/// One message as delivered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its subject.
    pub subject: String,
    /// Its exact body.
    pub payload: Bytes,
    /// Its headers.
    pub headers: async_nats::HeaderMap,
    /// Sequence in the stream.
    pub sequence: u64,
    /// How often it has been delivered, this time included.
    pub delivered: i64,
    /// For verdicts that come later.
    pub acknowledger: Acknowledger,
}

impl Delivery {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }
}

/// Messages asked for at once. Storing takes milliseconds, so more would only wait here instead of at the server.
const BATCH: usize = 64;

/// Pulls from a durable until a stop is asked for; when the durable or the connection goes away, tries again.
/// `missing` is called when the durable cannot be reached, so that its owner may make it again.
pub async fn run<H, F, M, G>(
    jetstream: &jetstream::Context,
    stream: &'static str,
    durable: &str,
    shutdown: &Shutdown,
    handle: H,
    missing: M,
) where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Verdict> + Send,
    M: Fn() -> G + Send + Sync,
    G: Future<Output = ()> + Send,
{
    let mut waits = backoff::forever();
    while !shutdown.is_requested() {
        match open(jetstream, stream, durable).await {
            Ok(mut messages) => {
                waits = backoff::forever();
                if drain(&mut messages, shutdown, &handle).await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(stream, durable, %error, "could not open a durable; trying again");
                missing().await;
            }
        }
        let wait = waits.next().unwrap_or(Duration::from_secs(1));
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn open(
    jetstream: &jetstream::Context,
    stream: &str,
    durable: &str,
) -> Result<pull::Stream, Box<dyn std::error::Error + Send + Sync>> {
    let consumer: jetstream::consumer::Consumer<pull::Config> =
        jetstream.get_consumer_from_stream(durable, stream).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .expires(Duration::from_secs(10))
        .heartbeat(Duration::from_secs(3))
        .messages()
        .await?;
    Ok(messages)
}

/// True when a stop was asked for, false when the stream broke.
async fn drain<H, F>(messages: &mut pull::Stream, shutdown: &Shutdown, handle: &H) -> bool
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Verdict> + Send,
{
    loop {
        let next = tokio::select! {
            () = shutdown.requested() => return true,
            next = messages.next() => next,
        };
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                tracing::debug!(%error, "a pull broke; opening the durable again");
                return false;
            }
            None => return false,
        };
        let Some(delivery) = delivery(message) else { continue };
        let acknowledger = delivery.acknowledger.clone();
        let subject = delivery.subject.clone();
        let verdict = handle(delivery).await;
        if let Verdict::Poison(reason) = &verdict {
            tracing::error!(%subject, %reason, "a message can never be handled; it is ended");
        }
        acknowledger.answer(&verdict).await;
    }
}

fn delivery(mut message: jetstream::Message) -> Option<Delivery> {
    let (sequence, delivered) = match message.info() {
        Ok(info) => (info.stream_sequence, info.delivered),
        Err(error) => {
            tracing::warn!(%error, "a message without JetStream metadata arrived and was dropped");
            return None;
        }
    };
    Some(Delivery {
        subject: message.subject.to_string(),
        // Moved out: an acknowledger that is held must not hold the payload as well.
        payload: std::mem::take(&mut message.message.payload),
        headers: message.message.headers.take().unwrap_or_default(),
        sequence,
        delivered,
        acknowledger: Acknowledger(Arc::new(message)),
    })
}
