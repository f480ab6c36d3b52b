//! Consuming: every delivery gets a verdict.
//!
//! `Done` acknowledges, and only after what the message holds is durable on our side. `Later` has it delivered again after
//! a time. `Terminate` ends it with a reason; the handler has stored it as a dead letter. `Held` means that the handler
//! keeps the acknowledger and answers later. A handler that ends early answers nothing, and the broker delivers again.

use async_nats::jetstream::{self, AckKind, consumer::pull};
use bytes::Bytes;
use futures::StreamExt as _;
use kubenova_runtime::{retry::Retry, shutdown::Shutdown};
use std::{future::Future, sync::Arc, time::Duration};

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What it holds is durable on our side.
    Done,
    /// Not now; deliver again after this time.
    Later(Duration),
    /// It can never be handled, with the reason.
    Terminate(String),
    /// The handler took the acknowledger with it.
    Held,
}

/// Answers for one delivery, now or later.
#[derive(Debug, Clone)]
pub struct Acknowledger(Arc<jetstream::Message>);

impl Acknowledger {
    /// Gives the broker the verdict. A lost answer only means one more delivery.
    pub async fn answer(&self, verdict: &Verdict) {
        let kind = match verdict {
            Verdict::Done => AckKind::Ack,
            Verdict::Later(after) => AckKind::Nak(Some(*after)),
            Verdict::Terminate(_) => AckKind::Term,
            Verdict::Held => return,
        };
        if let Err(error) = self.0.ack_with(kind).await {
            tracing::debug!(%error, "could not answer a delivery; it will be delivered again");
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
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// Messages behind it that this durable has not delivered yet.
    pub pending: u64,
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

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Messages pulled at once. Storing one takes milliseconds, so more would only wait here instead of at the broker.
pub const BATCH: usize = 64;
/// Bytes pulled at once: at least four messages of the broker's largest size, 1 MiB. The client asks again when half has come,
/// so twice this may wait here.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a pull stands, and how often the broker says that it does while nothing comes. Ten thousand idle clusters receive 333
/// of these a second. They are not what notices a dead broker: that is the connection's ping.
pub const PULL_LASTS: Duration = Duration::from_secs(120);
pub const PULL_HEARTBEAT: Duration = Duration::from_secs(30);

/// Pulls from a durable until a stop is requested; when the durable or the connection is lost, opens it again.
/// `missing` is called when the durable cannot be opened, so that its owner may create it again.
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
    let pull = || async {
        let opened = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            opened = open(jetstream, stream, durable) => opened,
        };
        match opened {
            Ok(mut messages) => drain(&mut messages, shutdown, &handle).await,
            Err(error) => {
                missing().await;
                Err(error)
            }
        }
    };
    // A message that is being handled when a stop is requested is answered first: else it would come again only after
    // the time that the broker waits for an acknowledgement.
    Retry::new("consume messages").finish_attempt().keep_running(shutdown, pull).await;
}

async fn open(jetstream: &jetstream::Context, stream: &str, durable: &str) -> Result<pull::Stream, BoxError> {
    let consumer: jetstream::consumer::Consumer<pull::Config> =
        jetstream.get_consumer_from_stream(durable, stream).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .max_bytes_per_batch(BATCH_BYTES)
        .expires(PULL_LASTS)
        .heartbeat(PULL_HEARTBEAT)
        .messages()
        .await?;
    Ok(messages)
}

/// Handles messages until a stop is requested or the pull breaks.
async fn drain<H, F>(messages: &mut pull::Stream, shutdown: &Shutdown, handle: &H) -> Result<(), BoxError>
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Verdict> + Send,
{
    loop {
        let next = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            next = messages.next() => next,
        };
        let Some(message) = next.transpose()? else { return Ok(()) };
        let Some(delivery) = delivery(message) else { continue };
        let acknowledger = delivery.acknowledger.clone();
        let subject = delivery.subject.clone();
        let verdict = handle(delivery).await;
        if let Verdict::Terminate(reason) = &verdict {
            tracing::error!(%subject, %reason, "terminated a message that can never be handled");
        }
        acknowledger.answer(&verdict).await;
    }
}

fn delivery(mut message: jetstream::Message) -> Option<Delivery> {
    let info = match message.info() {
        Ok(info) => info,
        Err(error) => {
            tracing::warn!(%error, "dropped a message without JetStream metadata");
            return None;
        }
    };
    let (sequence, delivered, pending) = (info.stream_sequence, info.delivered, info.pending);
    let stored_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Some(Delivery {
        subject: message.subject.to_string(),
        // Moved out: an acknowledger that is held must not hold the payload as well.
        payload: std::mem::take(&mut message.message.payload),
        headers: message.message.headers.take().unwrap_or_default(),
        sequence,
        delivered,
        stored_ms,
        pending,
        acknowledger: Acknowledger(Arc::new(message)),
    })
}
