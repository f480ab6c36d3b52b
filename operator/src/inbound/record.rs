//! Inbox records: `NovaCommand` objects, one per object key. Storing one is fence, durability and the point of
//! acknowledgement in one write.

use crate::{
    apiserver::{Error, verbs},
    context::ClusterContext,
    trace,
};
use kube::{Api, ResourceExt as _};
use kubenova_bus::consume::Delivery;
use kubenova_crds::command::{CommandSpec, NovaCommand};
use kubenova_operator_core::command::{self, VerifiedCommand};
use kubenova_runtime::clock;
use kubenova_schema::{kinds::ObjectKey, signature};

/// The inbox.
#[derive(Debug, Clone)]
pub struct Records {
    api: Api<NovaCommand>,
}

impl Records {
    #[must_use]
    pub fn new(cluster: &ClusterContext) -> Self {
        Self { api: Api::namespaced(cluster.apiserver.client(), &cluster.settings.state_namespace) }
    }

    /// The record about an object.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<NovaCommand>, Error> {
        verbs::get(&self.api, &command::record_name(key)).await
    }

    pub async fn list(&self) -> Result<Vec<NovaCommand>, Error> {
        verbs::list(&self.api, "").await
    }

    /// Stores a command: created when there is no record, else replaced at exactly the state that the decision was made on.
    ///
    /// # Errors
    /// When the call fails; a conflict when the record changed since the decision.
    pub async fn store(
        &self,
        held: Option<NovaCommand>,
        verified: &VerifiedCommand,
        delivery: &Delivery,
    ) -> Result<NovaCommand, Error> {
        let command = &verified.command;
        let spec = CommandSpec {
            body: String::from_utf8_lossy(&delivery.payload).into_owned(),
            signature: delivery.header(signature::HEADER).unwrap_or_default().to_owned(),
            command_id: command.id.clone(),
            epoch: i64::try_from(command.epoch).unwrap_or(i64::MAX),
            revision: i64::try_from(command.revision).unwrap_or(i64::MAX),
            kind: command.kind.clone(),
            key: command.key.clone(),
            command_sha256: verified.sha256.clone(),
            stored_at: clock::rfc3339_ms(clock::now()),
        };
        let is_new = held.is_none();
        let mut record = match held {
            Some(record) => NovaCommand { spec, ..record },
            None => NovaCommand::new(&command::record_name(&verified.key), spec),
        };
        trace::annotate(record.annotations_mut(), trace::to_keep(trace::of_delivery(delivery)));
        if is_new { verbs::create(&self.api, &record).await } else { verbs::replace(&self.api, &record).await }
    }

    /// Deletes exactly the record that was read.
    pub(super) async fn forget(&self, record: &NovaCommand) -> Result<(), Error> {
        // An object that came from the API server has both.
        let (Some(uid), Some(version)) = (record.uid(), record.resource_version()) else { return Ok(()) };
        verbs::delete_exact(&self.api, &record.name_any(), &uid, Some(&version)).await.map(drop)
    }
}
