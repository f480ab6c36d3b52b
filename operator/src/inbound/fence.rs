//! The cluster-wide fence: the highest verified epoch and floor, in a ConfigMap of the Operator's own.
//!
//! A higher epoch is written there before the first command of it is stored; the floor before anything is forgotten.

use crate::{
    apiserver::{Error, cache::Cache, verbs},
    context::ClusterContext,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ObjectMeta};
use kubenova_operator_core::{
    command::VerifiedCommand,
    digest::RecordDigest,
    inbox::{self, Decision, Fence, Held},
};
use kubenova_runtime::{failpoint, retry::Retry};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The ConfigMap; the chart's Role names it.
pub const NAME: &str = "kubenova-state";
const EPOCH: &str = "epoch";
const FLOOR: &str = "floor";

/// The fence as known now, and as stored.
#[derive(Debug)]
pub struct FenceKeeper {
    api: Api<ConfigMap>,
    known: Mutex<Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    now: Fence,
    stored: Fence,
}

impl FenceKeeper {
    /// Reads the stored fence and raises it by what the records say. `None` when a stop was requested first.
    pub async fn load(cluster: &ClusterContext) -> Option<Self> {
        let api = Api::namespaced(cluster.apiserver.client(), &cluster.settings.state_namespace);
        let known = Retry::new("read the fence").until_ok(&cluster.shutdown, || read(&api, &cluster.inbox)).await?;
        Some(Self { api, known: Mutex::new(known) })
    }

    /// The fence now.
    #[must_use]
    pub fn now(&self) -> Fence {
        self.known().now
    }

    /// What to do with a command, given the record of its object.
    #[must_use]
    pub fn decide(&self, held: Option<&Held>, verified: &VerifiedCommand) -> Decision {
        let incoming = Held {
            epoch: verified.command.epoch,
            revision: verified.command.revision,
            command_id: verified.command.id.clone(),
            command_sha256: verified.sha256.clone(),
        };
        inbox::decide(held, &incoming, self.now())
    }

    /// Makes a higher epoch durable before a command of it is stored: from then on the whole cluster refuses lower ones.
    pub async fn raise_epoch(&self, verified: &VerifiedCommand) -> Result<(), Error> {
        let known = self.known();
        if verified.command.epoch <= known.stored.epoch {
            return Ok(());
        }
        self.write(known.now.raised(verified.command.epoch, 0)).await?;
        failpoint::passing("inbound.epoch-written");
        Ok(())
    }

    /// Takes over the floor of a stored command.
    pub fn raise_floor(&self, verified: &VerifiedCommand) {
        let command = &verified.command;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A floor at or above the command itself would be a mistake of the writer: it would settle its own command.
        let floor = command.floor.min(command.revision.saturating_sub(1));
        known.now = known.now.raised(command.epoch, floor);
    }

    /// Makes everything known durable.
    pub async fn persist(&self) -> Result<(), Error> {
        let known = self.known();
        if known.stored == known.now { Ok(()) } else { self.write(known.now).await }
    }

    async fn write(&self, fence: Fence) -> Result<(), Error> {
        let written = write(&self.api, fence).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.stored = written;
        known.now = known.now.raised(written.epoch, written.floor);
        Ok(())
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(api: &Api<ConfigMap>, inbox: &Cache<RecordDigest>) -> Result<Known, Error> {
    let stored = verbs::get(api, NAME).await?.map_or_else(Fence::default, |map| parse(map.data.as_ref()));
    inbox.complete().await;
    let now = inbox.all().iter().fold(stored, |fence, record| fence.raised(record.epoch, 0));
    Ok(Known { now, stored })
}

fn parse(data: Option<&BTreeMap<String, String>>) -> Fence {
    let number = |name| data.and_then(|data| data.get(name)).and_then(|text| text.parse().ok()).unwrap_or_default();
    Fence { epoch: number(EPOCH), floor: number(FLOOR) }
}

/// Writes by compare-and-swap and never lowers what is stored.
async fn write(api: &Api<ConfigMap>, fence: Fence) -> Result<Fence, Error> {
    loop {
        let present = verbs::get(api, NAME).await?;
        let before = present.as_ref().map_or_else(Fence::default, |map| parse(map.data.as_ref()));
        let raised = before.raised(fence.epoch, fence.floor);
        let entries = [(EPOCH.to_owned(), raised.epoch.to_string()), (FLOOR.to_owned(), raised.floor.to_string())];
        let written = match present {
            Some(mut map) => {
                map.data.get_or_insert_default().extend(entries);
                verbs::replace(api, &map).await.map(Some)
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, data: Some(entries.into()), ..ConfigMap::default() };
                verbs::create_if_absent(api, &map).await
            }
        };
        match written {
            Ok(Some(_)) => return Ok(raised),
            Ok(None) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}
