//! Requests of the Manager for a hello. They carry no command: whoever could forge one causes a hello, at most one every few
//! seconds, and nothing else.

use async_nats::Subscriber;
use futures::{FutureExt as _, StreamExt as _};
use kubenova_bus::Connection;
use kubenova_runtime::telemetry;
use kubenova_schema::{message, subjects, v1::HelloWanted};

/// The subscription; it survives every reconnect.
pub(super) struct Requests(Option<Subscriber>);

impl Requests {
    /// Without a subscription the cluster says hello after every connect all the same.
    pub(super) async fn subscribe(connection: &Connection, cluster: &str) -> Self {
        match connection.client.subscribe(subjects::control(cluster)).await {
            Ok(subscriber) => Self(Some(subscriber)),
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::warn!(error, "could not subscribe to the Manager's requests for a hello");
                Self(None)
            }
        }
    }

    /// Drops the requests that have arrived.
    pub(super) fn forget(&mut self) {
        if let Some(subscriber) = &mut self.0 {
            while subscriber.next().now_or_never().flatten().is_some() {}
        }
    }

    /// The reason of the next request.
    pub(super) async fn next(&mut self) -> String {
        if let Some(subscriber) = &mut self.0
            && let Some(request) = subscriber.next().await
        {
            return message::from_json::<HelloWanted>(&request.payload).map(|wanted| wanted.reason).unwrap_or_default();
        }
        // Only a client that is closed ends a subscription.
        std::future::pending().await
    }
}
