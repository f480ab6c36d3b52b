//! The cluster-wide fence: the highest verified epoch and floor, in a ConfigMap of the Operator's own.
//!
//! A higher epoch is written there before the first order of it is stored; the floor before anything is forgotten.

use super::record::Records;
use crate::{
    apiserver::{Error, verbs},
    context::Context,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ObjectMeta};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command::VerifiedCommand,
    inbox::{self, Decision, Fence, Held},
};
use kubenova_runtime::{backoff, failpoint};
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
pub struct FenceKeeper(Mutex<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    now: Fence,
    stored: Fence,
}

impl FenceKeeper {
    /// Reads it, together with what the records say. `None` when a stop was asked for first.
    pub async fn load(ctx: &Context, records: &Records) -> Option<Self> {
        for wait in backoff::forever() {
            match read(ctx, records).await {
                Ok((stored, now)) => return Some(Self(Mutex::new(Known { now, stored }))),
                Err(error) => {
                    tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not read the fence; trying again");
                }
            }
            tokio::select! {
                () = ctx.shutdown.requested() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
        None
    }

    /// The fence now.
    #[must_use]
    pub fn now(&self) -> Fence {
        self.known().now
    }

    /// Decides about an order.
    #[must_use]
    pub fn decide(&self, held: Option<&NovaCommand>, order: &VerifiedCommand) -> Decision {
        let held = held.map(|record| Held {
            epoch: u64::try_from(record.spec.epoch).unwrap_or_default(),
            revision: u64::try_from(record.spec.revision).unwrap_or_default(),
            command_id: record.spec.command_id.clone(),
            command_sha256: record.spec.command_sha256.clone(),
        });
        let incoming = Held {
            epoch: order.command.epoch,
            revision: order.command.revision,
            command_id: order.command.id.clone(),
            command_sha256: order.sha256.clone(),
        };
        inbox::decide(held.as_ref(), &incoming, self.now())
    }

    /// Makes a higher epoch durable before an order of it is stored: from then on the whole cluster refuses lower ones.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn raise_epoch(&self, ctx: &Context, order: &VerifiedCommand) -> Result<(), Error> {
        let known = self.known();
        if order.command.epoch <= known.stored.epoch {
            return Ok(());
        }
        self.write(ctx, known.now.raised(order.command.epoch, 0)).await?;
        failpoint::passing("inbound.epoch-written");
        Ok(())
    }

    /// Notes the floor of a stored order.
    pub fn raise_floor(&self, order: &VerifiedCommand) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A floor at or above the order itself would be a mistake of the writer; the order was wanted.
        let floor = order.command.floor.min(order.command.revision.saturating_sub(1));
        known.now = known.now.raised(order.command.epoch, floor);
    }

    /// Makes everything known durable.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn persist(&self, ctx: &Context) -> Result<(), Error> {
        let known = self.known();
        if known.stored == known.now { Ok(()) } else { self.write(ctx, known.now).await }
    }

    async fn write(&self, ctx: &Context, fence: Fence) -> Result<(), Error> {
        let written = write(ctx, fence).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.stored = written;
        known.now = known.now.raised(written.epoch, written.floor);
        Ok(())
    }

    fn known(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn api(ctx: &Context) -> Api<ConfigMap> {
    Api::namespaced(ctx.apiserver.client(), &ctx.settings.state_namespace)
}

async fn read(ctx: &Context, records: &Records) -> Result<(Fence, Fence), Error> {
    let stored = verbs::get(&api(ctx), NAME).await?.map_or_else(Fence::default, |map| parse(map.data.as_ref()));
    let mut now = stored;
    for record in records.list().await? {
        now = now.raised(u64::try_from(record.spec.epoch).unwrap_or_default(), 0);
    }
    Ok((stored, now))
}

fn parse(data: Option<&BTreeMap<String, String>>) -> Fence {
    let number = |name| data.and_then(|data| data.get(name)).and_then(|text| text.parse().ok()).unwrap_or_default();
    Fence { epoch: number(EPOCH), floor: number(FLOOR) }
}

/// Writes by compare-and-swap; what others raised in between stays.
async fn write(ctx: &Context, fence: Fence) -> Result<Fence, Error> {
    loop {
        let present = verbs::get(&api(ctx), NAME).await?;
        let before = present.as_ref().map_or_else(Fence::default, |map| parse(map.data.as_ref()));
        let raised = before.raised(fence.epoch, fence.floor);
        let entries = [(EPOCH.to_owned(), raised.epoch.to_string()), (FLOOR.to_owned(), raised.floor.to_string())];
        let written = match present {
            Some(mut map) => {
                map.data.get_or_insert_default().extend(entries);
                verbs::replace(&api(ctx), &map).await.map(Some)
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, data: Some(entries.into()), ..ConfigMap::default() };
                verbs::create_if_absent(&api(ctx), &map).await
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
