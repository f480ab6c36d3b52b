//! Forgets records of deletes that Postgres has settled. The record with the highest revision is never forgotten, and
//! the fence is written before anything is.

use super::{fence::FenceKeeper, record::Records};
use crate::apiserver::Error;
use jiff::{SignedDuration, Timestamp};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::outcome;
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_schema::kinds::CommandKind;
use std::{sync::Arc, time::Duration};

/// Old records cost only storage, so there is no hurry.
const INTERVAL: Duration = Duration::from_secs(300);
/// A delete is remembered at least this long: the sovereign policy's limit on deletes per hour is counted from the records.
const DELETE_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Prunes until the process stops.
pub(super) async fn run(records: Records, fence: Arc<FenceKeeper>, shutdown: Shutdown) {
    Periodic::new("prune the inbox", INTERVAL).run(&shutdown, || prune(&records, &fence)).await;
}

async fn prune(records: &Records, fence: &FenceKeeper) -> Result<Next, Error> {
    let all = records.list().await?;
    let highest = all.iter().map(|record| record.spec.revision).max().unwrap_or_default();
    let floor = i64::try_from(fence.now().floor).unwrap_or(i64::MAX);
    let now = clock::now();
    let settled: Vec<&NovaCommand> =
        all.iter().filter(|record| may_be_forgotten(record, highest, floor, now)).collect();
    if settled.is_empty() {
        return Ok(Next::Wait);
    }
    fence.persist().await?;
    failpoint::passing("inbound.fence-written");
    for record in settled {
        records.forget(record).await?;
    }
    Ok(Next::Wait)
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
    use kubenova_crds::command::{CommandSpec, CommandStatus};

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
