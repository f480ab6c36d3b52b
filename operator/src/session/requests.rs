//! Requests of the Manager: for a hello, or for a renewal of the credentials. They carry no command: whoever could forge one causes a
//! hello, at most one every few seconds, or a renewal, at most one every few minutes, and nothing else.

use async_nats::{HeaderValue, Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use kubenova_bus::Connection;
use kubenova_runtime::telemetry;
use kubenova_schema::{
    message,
    signature::SCHEMA_HEADER,
    subjects::{self, RENEWAL_WANTED},
    v1::{HelloWanted, RenewalWanted},
};
use std::sync::Arc;
use tokio::sync::Notify;

/// The subscription; it survives every reconnect.
pub(super) struct Requests {
    subscriber: Option<Subscriber>,
    /// Notified of a request for a renewal.
    renewal: Arc<Notify>,
}

impl Requests {
    /// Without a subscription the cluster says hello after every connect all the same, and renews when it is time.
    pub(super) async fn subscribe(connection: &Connection, cluster: &str, renewal: Arc<Notify>) -> Self {
        let subscriber = match connection.client.subscribe(subjects::control(cluster)).await {
            Ok(subscriber) => Some(subscriber),
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::warn!(error, "could not subscribe to the Manager's requests for a hello");
                None
            }
        };
        Self { subscriber, renewal }
    }

    /// Drops the requests that have arrived.
    pub(super) fn forget(&mut self) {
        if let Some(subscriber) = &mut self.subscriber {
            while subscriber.next().now_or_never().flatten().is_some() {}
        }
    }

    /// The reason of the next request for a hello. One for a renewal is passed on.
    pub(super) async fn next(&mut self) -> String {
        if let Some(subscriber) = &mut self.subscriber {
            while let Some(request) = subscriber.next().await {
                if !is_for_renewal(&request) {
                    let wanted = message::from_json::<HelloWanted>(&request.payload);
                    return wanted.map(|wanted| wanted.reason).unwrap_or_default();
                }
                let wanted = message::from_json::<RenewalWanted>(&request.payload);
                let reason = wanted.map(|wanted| wanted.reason).unwrap_or_default();
                tracing::info!(reason, "the Manager asks for a renewal of the credentials");
                self.renewal.notify_one();
            }
        }
        // Only a client that is closed ends a subscription.
        std::future::pending().await
    }
}

fn is_for_renewal(request: &Message) -> bool {
    let schema = request.headers.as_ref().and_then(|headers| headers.get(SCHEMA_HEADER));
    schema.map(HeaderValue::as_str) == Some(RENEWAL_WANTED)
}
