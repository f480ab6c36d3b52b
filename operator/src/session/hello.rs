//! The request that opens a session. It states what the cluster holds, so that the Manager notices before it sends
//! anything when its own database was restored to the past.

use super::state::Session;
use crate::{
    apiserver::{self, cache::Cache},
    inbound::{
        fence::{FenceKeeper, FenceSource},
        highest::Highest,
    },
    join::{conditions::JoinError, current::CurrentIdentity},
    manager_clock::ManagerClock,
};
use jiff::Timestamp;
use kubenova_bus::Connection;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::{
    digest::RecordDigest,
    hello_answer::{self, Unbelieved},
    listing,
};
use kubenova_runtime::{
    clock::{self, Reading},
    random, telemetry,
};
use kubenova_schema::{
    message,
    signature::HEADER,
    subjects,
    v1::{Hello, HelloAnswer},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Time for the Manager's answer; it creates missing streams before it answers.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Time for the first look at every inbox record: 50 of 900 KB each take about a second.
const INBOX_LIMIT: Duration = Duration::from_secs(60);

/// What tells this process from every other Operator of this cluster.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Changes with every start.
    pub boot_id: String,
    /// Rises with every start.
    pub lease_term: u64,
    /// Version of the API server, as at start.
    pub kubernetes_version: String,
}

/// What the Manager answered.
#[derive(Debug)]
pub enum Answered {
    /// A session.
    Open(Session),
    /// None, for this reason; it wants to know what the cluster holds that its database lost.
    Diverged(JoinError),
}

/// Sends hellos.
#[derive(Debug, Clone)]
pub struct HelloClient {
    pub inbox: Cache<RecordDigest>,
    pub identity: CurrentIdentity,
    pub instance: Arc<Instance>,
    /// Raised by what the inbox holds, so that the first heartbeat says the same as the hello.
    pub highest: Highest,
    pub fence: FenceSource,
    /// Measured by each answer.
    pub manager_clock: ManagerClock,
}

impl HelloClient {
    /// Sends one hello and reads the answer. The cluster's fence stands at the answer's epoch before there is a session.
    ///
    /// # Errors
    /// When no answer that can be believed comes in time, or the Manager does not accept the hello.
    pub async fn send(&self, connection: &Connection) -> Result<Answered, JoinError> {
        let unreadable = |cause: &str| {
            error_of(
                "InboxUnreadable",
                format!("could not read the inbox yet: {cause}; check the API server and the Operator's roles"),
            )
        };
        let fence = match tokio::time::timeout(INBOX_LIMIT, self.fence.keeper()).await {
            Ok(fence) => fence.map_err(|error| unreadable(&apiserver::error::chain(&error)))?,
            Err(_) => return Err(unreadable("the API server did not answer in time")),
        };
        fence.refresh().await.map_err(|error| unreadable(&apiserver::error::chain(&error)))?;
        let hello = self.hello(&fence);
        let sent = Reading::now();
        let answer = self.request(connection, &hello).await?;
        let came = Reading::now();
        if !answer.accepted {
            let reason = if answer.reason.is_empty() { "NotAccepted" } else { &answer.reason };
            let error = error_of(reason, answer.message.clone());
            return if answer.listing_wanted { Ok(Answered::Diverged(error)) } else { Err(error) };
        }
        fence.raise_epoch(answer.epoch).await.map_err(|error| {
            let cause = apiserver::error::chain(&error);
            error_of(
                "FenceUnwritable",
                format!("could not write the cluster's fence: {cause}; check the API server and the Operator's roles"),
            )
        })?;
        let offset_ms = clock_offset_ms(sent, &answer, came);
        self.manager_clock.measured(offset_ms, came);
        Ok(Answered::Open(Session {
            epoch: answer.epoch,
            number: answer.session,
            floor: answer.floor,
            clock_offset_ms: offset_ms,
            listing_wanted: answer.listing_wanted,
            durable: if answer.durable.is_empty() { self.identity.cluster_id().to_owned() } else { answer.durable },
        }))
    }

    async fn request(&self, connection: &Connection, hello: &Hello) -> Result<HelloAnswer, JoinError> {
        let subject = subjects::hello(self.identity.cluster_id());
        let request = connection.client.request(subject, message::to_json(hello).into());
        let reply = match tokio::time::timeout(ANSWER_LIMIT, request).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(not_responding(&telemetry::chain(&error))),
            Err(_) => return Err(not_responding(&format!("it did not answer within {} s", ANSWER_LIMIT.as_secs()))),
        };
        let signature = reply.headers.as_ref().and_then(|headers| headers.get(HEADER));
        let signature = signature.map(async_nats::HeaderValue::as_str);
        hello_answer::verify(&reply.payload, signature, &self.identity.get().command_keys(), hello).map_err(|error| {
            let (reason, remedy) = remedy(&error);
            error_of(
                reason,
                format!("believed nothing of an answer to the hello: {}; {remedy}", telemetry::chain(&error)),
            )
        })
    }

    fn hello(&self, fence: &FenceKeeper) -> Hello {
        let records = self.inbox.all();
        let records = || records.iter().map(|record| &**record);
        self.highest.raise(records());
        let (revision, command_id) = listing::highest(records()).unwrap_or_default();
        let (identity, instance) = (self.identity.get(), &self.instance);
        Hello {
            cluster_id: identity.cluster_id().to_owned(),
            cluster_uid: identity.cluster_uid().to_owned(),
            incarnation: identity.answer.incarnation.clone(),
            // At least that of every record.
            epoch: fence.now().epoch.max(identity.answer.epoch),
            highest_revision: revision,
            highest_command_id: command_id,
            boot_id: instance.boot_id.clone(),
            lease_term: instance.lease_term,
            listing_sha256: listing::sha256(records()),
            status_sha256: String::new(),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            kubernetes_version: instance.kubernetes_version.clone(),
            at: clock::rfc3339_ms(clock::now()),
            versions: BTreeMap::new(),
            nonce: random::uuid_v4().to_string(),
            key_set_id: identity.answer.key_set_id.clone(),
        }
    }
}

/// Reason of the condition, and what to do about an answer that is not believed.
const fn remedy(error: &Unbelieved) -> (&'static str, &'static str) {
    match error {
        Unbelieved::Signature(_) | Unbelieved::OtherHello => (
            "AnswerUnverified",
            "if this goes on, find out who else can write to the broker; a command key that the Manager has changed comes with the \
             next renewal of the credentials",
        ),
        Unbelieved::Body(_) => ("AnswerUnreadable", "upgrade the older of Manager and Operator"),
    }
}

/// This cluster's clock minus the Manager's, as NTP measures it (RFC 5905, section 8): the time that the Manager took for the
/// answer cancels out, and what is left wrong is at most half the time on the way. It is that of the wall clock as it is when the answer
/// comes, also when it was set meanwhile. 0 when the answer names no times.
fn clock_offset_ms(sent: Reading, answer: &HelloAnswer, came: Reading) -> i64 {
    let on_the_way_ms = i64::try_from(came.elapsed_since(&sent).as_millis()).unwrap_or(i64::MAX);
    let (sent_ms, came_ms) = (came.wall_ms.saturating_sub(on_the_way_ms), came.wall_ms);
    let ms = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    let (Some(received_ms), Some(answered_ms)) = (ms(&answer.received_time), ms(&answer.manager_time)) else {
        return 0;
    };
    i64::midpoint(sent_ms.saturating_sub(received_ms), came_ms.saturating_sub(answered_ms))
}

fn not_responding(cause: &str) -> JoinError {
    let message = format!(
        "connected to the broker, but the Manager does not answer: {cause}; check that it runs and is connected to this broker"
    );
    error_of("ManagerNotResponding", message)
}

fn error_of(reason: &str, message: impl Into<String>) -> JoinError {
    JoinError::new(condition::BUS_CONNECTED, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_the_manager_takes_is_no_offset() {
        let answer = HelloAnswer {
            received_time: "1970-01-01T00:00:10.000Z".to_owned(),
            manager_time: "1970-01-01T00:00:18.000Z".to_owned(),
            ..HelloAnswer::default()
        };
        let sent = |wall_ms| Reading { wall_ms, ..Reading::now() };
        let came =
            |sent: Reading, wall_ms| Reading { wall_ms, monotonic: sent.monotonic + Duration::from_millis(8_040) };
        let offset = |sent: Reading, came_ms| clock_offset_ms(sent, &answer, came(sent, came_ms));
        // Ahead by 3 s, 20 ms each way, and 8 s until the answer.
        assert_eq!(offset(sent(12_980), 21_020), 3_000);
        assert_eq!(offset(sent(9_980), 18_020), 0);
        // Set ahead by an hour while the answer was on its way.
        assert_eq!(offset(sent(9_980), 3_618_020), 3_600_000);
        assert_eq!(clock_offset_ms(sent(5), &HelloAnswer::default(), came(sent(5), 9)), 0);
    }
}
