//! What requests to Operators have in common: how many are sent, and how. They carry no command, so whoever could forge one would cause a
//! hello or a renewal and nothing else.

use async_nats::HeaderMap;
use kubenova_bus::Connection;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::{message, message::Named, signature::SCHEMA_HEADER, subjects};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// At most so many requests within a second.
#[derive(Debug)]
pub(super) struct Pace {
    a_second_max: usize,
    /// When the last ones were sent.
    sent: VecDeque<Instant>,
}

impl Pace {
    pub(super) const fn new(a_second_max: usize) -> Self {
        Self { a_second_max, sent: VecDeque::new() }
    }

    /// Whether one more may be sent now; it counts then.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        while self.sent.front().is_some_and(|at| now.duration_since(*at) >= SECOND) {
            self.sent.pop_front();
        }
        let has_room = self.sent.len() < self.a_second_max;
        if has_room {
            self.sent.push_back(now);
        }
        has_room
    }
}

/// Sends a request, with the name of its schema. One that is lost is repeated after a later heartbeat.
pub(super) async fn send<M: Named>(connection: &Connection, cluster: &ClusterId, schema: &'static str, request: &M) {
    let mut headers = HeaderMap::new();
    headers.insert(SCHEMA_HEADER, schema);
    let (subject, body) = (subjects::control(cluster.as_str()), message::to_json(request));
    if let Err(error) = connection.client.publish_with_headers(subject, headers, body.into()).await {
        tracing::debug!(cluster.id = %cluster, schema, %error, "could not send a request to a cluster; sending it again after a later heartbeat");
    }
}
