//! Inbox records: `NovaCommand` objects, one per object key. Storing one is fence, durability and the point of
//! acknowledgement in one write.

use super::fence::FenceKeeper;
use crate::{
    apiserver::{Error, verbs},
    context::Context,
};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, ResourceExt as _};
use kubenova_bus::consume::Delivery;
use kubenova_crds::command::{CommandSpec, NovaCommand};
use kubenova_operator_core::{
    command::{self, VerifiedCommand},
    outcome,
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    signature,
};
use std::time::Duration;

/// Time between two looks for records that may be forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(300);
/// A delete is remembered at least this long: the site's deletes-per-hour are counted from the records.
const DELETE_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// The inbox.
#[derive(Debug, Clone)]
pub struct Records {
    api: Api<NovaCommand>,
}

impl Records {
    /// This cluster's.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self { api: Api::namespaced(ctx.apiserver.client(), &ctx.settings.state_namespace) }
    }

    /// The record about an object.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<NovaCommand>, Error> {
        verbs::get(&self.api, &command::record_name(key)).await
    }

    /// All records.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn list(&self) -> Result<Vec<NovaCommand>, Error> {
        verbs::list(&self.api, "").await
    }

    /// Stores an order: created when there is no record, else replaced at exactly the state that was judged.
    ///
    /// # Errors
    /// When the call fails; a conflict when the record changed since it was judged.
    pub async fn store(
        &self,
        held: Option<NovaCommand>,
        order: &VerifiedCommand,
        delivery: &Delivery,
    ) -> Result<NovaCommand, Error> {
        let command = &order.command;
        let spec = CommandSpec {
            body: String::from_utf8_lossy(&delivery.payload).into_owned(),
            signature: delivery.header(signature::HEADER).unwrap_or_default().to_owned(),
            command_id: command.id.clone(),
            epoch: i64::try_from(command.epoch).unwrap_or(i64::MAX),
            revision: i64::try_from(command.revision).unwrap_or(i64::MAX),
            kind: command.kind.clone(),
            key: command.key.clone(),
            command_sha256: order.sha256.clone(),
            stored_at: clock::rfc3339_ms(clock::now()),
        };
        match held {
            Some(mut record) => {
                record.spec = spec;
                verbs::replace(&self.api, &record).await
            }
            None => verbs::create(&self.api, &NovaCommand::new(&command::record_name(&order.key), spec)).await,
        }
    }
}

/// Forgets deletes that Postgres has settled, now and then, until the process stops. The highest revision is never
/// forgotten, and the fence is written before anything is.
pub async fn prune(ctx: &Context, records: &Records, fence: &FenceKeeper) {
    loop {
        tokio::select! {
            () = ctx.shutdown.requested() => return,
            () = tokio::time::sleep(TIDY_INTERVAL) => {}
        }
        if let Err(error) = prune_once(ctx, records, fence).await {
            tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not prune the inbox; trying again later");
        }
    }
}

async fn prune_once(ctx: &Context, records: &Records, fence: &FenceKeeper) -> Result<(), Error> {
    let all = records.list().await?;
    let highest = all.iter().map(|record| record.spec.revision).max().unwrap_or_default();
    let floor = i64::try_from(fence.now().floor).unwrap_or(i64::MAX);
    let now = clock::now();
    let settled: Vec<&NovaCommand> =
        all.iter().filter(|record| may_be_forgotten(record, highest, floor, now)).collect();
    if settled.is_empty() {
        return Ok(());
    }
    fence.persist(ctx).await?;
    failpoint::passing("inbound.fence-written");
    for record in settled {
        let (Some(uid), Some(version)) = (record.uid(), record.resource_version()) else { continue };
        verbs::delete_exact(&records.api, &record.name_any(), &uid, Some(&version)).await?;
    }
    Ok(())
}

fn may_be_forgotten(record: &NovaCommand, highest: i64, floor: i64, now: Timestamp) -> bool {
    let spec = &record.spec;
    let is_delete = CommandKind::parse(&spec.kind).is_some_and(CommandKind::is_delete);
    let settled = record
        .status
        .as_ref()
        .is_some_and(|status| status.command_id == spec.command_id && outcome::is_terminal(&status.state));
    let old = spec.stored_at.parse::<Timestamp>().is_ok_and(|at| now.duration_since(at) > DELETE_KEPT);
    is_delete && settled && old && spec.revision <= floor && spec.revision < highest
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::CommandStatus;

    fn record(kind: &str, state: &str, revision: i64) -> NovaCommand {
        let spec = CommandSpec {
            kind: kind.into(),
            command_id: "a".into(),
            revision,
            stored_at: "2026-01-01T00:00:00.000Z".into(),
            ..CommandSpec::default()
        };
        let mut record = NovaCommand::new("x", spec);
        record.status = Some(CommandStatus { command_id: "a".into(), state: state.into(), ..CommandStatus::default() });
        record
    }

    #[test]
    fn only_settled_deletes_below_the_floor_are_forgotten_and_never_the_highest() {
        let late = "2026-01-01T02:00:00Z".parse().unwrap();
        let early = "2026-01-01T00:10:00Z".parse().unwrap();
        assert!(may_be_forgotten(&record("delete-tenant", "succeeded", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("apply-tenant", "succeeded", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "running", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 7), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 9), 9, 9, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 5), 9, 6, early));
    }
}
