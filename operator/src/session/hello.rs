//! The question that opens a session. It tells what the cluster holds, so that the Manager notices when its own
//! database was restored to the past before it sends anything.

use super::state::Session;
use crate::{
    apiserver::{client::Apiserver, verbs},
    join::identity::Identity,
};
use jiff::Timestamp;
use kube::Api;
use kubenova_bus::Connection;
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::listing;
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::{
    message, subjects,
    v1::{Hello, HelloAnswer},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Time for the Manager's answer; it makes missing streams before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// One word for the condition.
    pub reason: String,
    /// A sentence with the remedy.
    pub message: String,
}

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

/// Sends hellos.
#[derive(Debug, Clone)]
pub struct HelloClient {
    pub apiserver: Apiserver,
    /// Namespace of the inbox.
    pub namespace: String,
    pub identity: Arc<Identity>,
    pub instance: Arc<Instance>,
}

impl HelloClient {
    /// One question.
    ///
    /// # Errors
    /// When nobody answers, or the Manager does not accept.
    pub async fn ask(&self, connection: &Connection) -> Result<Session, Refused> {
        let refused = |reason: &str, message: String| Refused { reason: reason.to_owned(), message };
        let hello =
            self.hello().await.map_err(|error| refused("InboxUnreadable", crate::apiserver::error::chain(&error)))?;
        let subject = subjects::hello(self.identity.cluster_id());
        let asked_at = clock::now_ms();
        let request = connection.client.request(subject, message::to_json(&hello).into());
        let reply = tokio::time::timeout(ANSWER_LIMIT, request).await;
        let reply = reply.map_err(|_| {
            refused(
                "ManagerSilent",
                "connected to the broker, but the Manager did not answer within 10 s; is it running?".to_owned(),
            )
        })?;
        let reply = reply.map_err(|error| {
            let message = format!(
                "connected to the broker, but the Manager cannot be asked: {}; is it running?",
                telemetry::chain(&error)
            );
            refused("ManagerSilent", message)
        })?;
        let middle = i64::midpoint(asked_at, clock::now_ms());
        let answer: HelloAnswer = message::from_json(&reply.payload).map_err(|error| {
            refused("AnswerUnreadable", format!("the Manager's answer cannot be read: {}", telemetry::chain(&error)))
        })?;
        if !answer.accepted {
            let reason = if answer.reason.is_empty() { "NotAccepted".to_owned() } else { answer.reason };
            return Err(Refused { reason, message: answer.message });
        }
        let told = answer.manager_time.parse::<Timestamp>().ok();
        Ok(Session {
            epoch: answer.epoch,
            number: answer.session,
            clock_offset_ms: told.map_or(0, |told| middle - told.as_millisecond()),
            durable: if answer.durable.is_empty() { self.identity.cluster_id().to_owned() } else { answer.durable },
        })
    }

    async fn hello(&self) -> Result<Hello, crate::apiserver::Error> {
        let api: Api<NovaCommand> = Api::namespaced(self.apiserver.client(), &self.namespace);
        let records = verbs::list(&api, "").await?;
        let (revision, command_id) = listing::highest(&records).unwrap_or_default();
        let epoch = records.iter().map(|record| record.spec.epoch).max().and_then(|epoch| u64::try_from(epoch).ok());
        Ok(Hello {
            cluster_id: self.identity.cluster_id().to_owned(),
            cluster_uid: self.identity.cluster_uid().to_owned(),
            incarnation: self.identity.answer.incarnation.clone(),
            epoch: epoch.unwrap_or_default().max(self.identity.answer.epoch),
            highest_revision: revision,
            highest_command_id: command_id,
            boot_id: self.instance.boot_id.clone(),
            lease_term: self.instance.lease_term,
            listing_sha256: listing::sha256(&records),
            status_sha256: String::new(),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            kubernetes_version: self.instance.kubernetes_version.clone(),
            at: clock::rfc3339_ms(clock::now()),
            versions: BTreeMap::new(),
        })
    }
}
