//! Inbox records: `NovaCommand` objects, one per object key. Storing one is fence, durability and the point of
//! acknowledgement in one write.

use crate::{
    apiserver::{Error, verbs},
    context::ClusterContext,
    trace,
};
use kube::{Api, ResourceExt as _};
use kubenova_bus::consume::Delivery;
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command::{self, VerifiedCommand},
    digest::RecordDigest,
};
use kubenova_runtime::clock;
use kubenova_schema::{kinds::ObjectKey, signature};

/// Which object, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    uid: String,
    resource_version: String,
}

impl Version {
    #[must_use]
    pub fn of(record: &RecordDigest) -> Self {
        Self { uid: record.uid.clone(), resource_version: record.resource_version.clone() }
    }
}

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

    /// Stores a command: created when there is no record, else replaced at exactly the version that the decision was made on.
    ///
    /// # Errors
    /// When the call fails; a conflict when the record is not, or no longer, that version.
    pub async fn store(
        &self,
        over: Option<&Version>,
        verified: &VerifiedCommand,
        delivery: &Delivery,
    ) -> Result<NovaCommand, Error> {
        let (signature, stored_at) = (delivery.header(signature::HEADER), clock::rfc3339_ms(clock::now()));
        let spec = verified.record_spec(&delivery.payload, signature, stored_at);
        let mut record = NovaCommand::new(&command::record_name(&verified.key), spec);
        trace::annotate(record.annotations_mut(), trace::to_keep(trace::of_delivery(delivery)));
        let Some(Version { uid, resource_version }) = over else { return verbs::create(&self.api, &record).await };
        record.metadata.uid = Some(uid.clone());
        record.metadata.resource_version = Some(resource_version.clone());
        verbs::replace(&self.api, &record).await
    }

    /// Deletes exactly the record of this digest; one that has changed stays.
    pub(super) async fn forget(&self, record: &RecordDigest) -> Result<(), Error> {
        let deleted = verbs::delete_exact(&self.api, &record.name, &record.uid, Some(&record.resource_version)).await;
        match deleted {
            Err(error) if error.is_conflict() => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}
