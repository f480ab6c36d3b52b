//! The cluster-wide fence: the highest verified epoch and floor, in a ConfigMap of the Operator's own.
//!
//! A higher epoch is written there before a session of it is opened and before the first command of it is stored; the floor
//! before anything is forgotten.

use crate::{
    apiserver::{Error, cache::Cache, client::Apiserver, verbs},
    settings::Settings,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ObjectMeta};
use kubenova_operator_core::{
    command::VerifiedCommand,
    digest::RecordDigest,
    inbox::{self, Decision, Fence, Held},
};
use kubenova_runtime::failpoint;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OnceCell;

/// The ConfigMap; the chart's Role names it.
pub const NAME: &str = "kubenova-state";
const EPOCH: &str = "epoch";
const FLOOR: &str = "floor";

/// Where the fence is read from, once, by whoever needs it first. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FenceSource {
    api: Api<ConfigMap>,
    inbox: Cache<RecordDigest>,
    loaded: Arc<OnceCell<Arc<FenceKeeper>>>,
}

impl FenceSource {
    #[must_use]
    pub fn new(apiserver: &Apiserver, settings: &Settings, inbox: Cache<RecordDigest>) -> Self {
        let api = Api::namespaced(apiserver.client(), &settings.state_namespace);
        Self { api, inbox, loaded: Arc::default() }
    }

    /// The fence: as stored, raised by what the records say.
    pub async fn keeper(&self) -> Result<Arc<FenceKeeper>, Error> {
        let load = || async {
            let known = Mutex::new(read(&self.api, &self.inbox).await?);
            Ok(Arc::new(FenceKeeper { api: self.api.clone(), known }))
        };
        self.loaded.get_or_try_init(load).await.map(Arc::clone)
    }
}

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
    /// The fence now.
    #[must_use]
    pub fn now(&self) -> Fence {
        self.known().now
    }

    /// Reads it once more: another Operator may have raised it since. A hello that named an earlier epoch could open a session with a
    /// Manager whose database was restored to a point before that epoch.
    pub async fn refresh(&self) -> Result<Fence, Error> {
        let stored = stored(&self.api).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.stored = known.stored.raised(stored.epoch, stored.floor);
        known.now = known.now.raised(stored.epoch, stored.floor);
        Ok(known.now)
    }

    /// What to do with a command, given the record of its object.
    #[must_use]
    pub fn decide(&self, held: Option<&Held>, verified: &VerifiedCommand) -> Decision {
        inbox::decide(held, &verified.held(), self.now())
    }

    /// Makes a higher epoch durable: from then on the whole cluster refuses lower ones.
    pub async fn raise_epoch(&self, epoch: u64) -> Result<(), Error> {
        let known = self.known();
        if epoch <= known.stored.epoch {
            return Ok(());
        }
        self.write(known.now.raised(epoch, 0)).await?;
        failpoint::passing("inbound.epoch-written");
        Ok(())
    }

    /// Takes over the floor of a stored command.
    pub fn raise_floor(&self, verified: &VerifiedCommand) {
        let command = &verified.command;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.now = known.now.raised_by(command.epoch, command.revision, command.floor);
    }

    /// Makes everything known durable.
    pub async fn persist(&self) -> Result<(), Error> {
        let known = self.known();
        if known.stored == known.now { Ok(()) } else { self.write(known.now).await }
    }

    async fn write(&self, fence: Fence) -> Result<(), Error> {
        let written = write(&self.api, fence).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.stored = known.stored.raised(written.epoch, written.floor);
        known.now = known.now.raised(written.epoch, written.floor);
        Ok(())
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn stored(api: &Api<ConfigMap>) -> Result<Fence, Error> {
    Ok(verbs::get(api, NAME).await?.map_or_else(Fence::default, |map| parse(map.data.as_ref())))
}

async fn read(api: &Api<ConfigMap>, inbox: &Cache<RecordDigest>) -> Result<Known, Error> {
    let stored = stored(api).await?;
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
