//! Forgets records of deletes and operations that Postgres has settled. The record with the highest revision is never forgotten, and
//! the fence is written before anything is.

use super::{fence::FenceKeeper, record::Records};
use crate::apiserver::{Error, cache::Cache};
use jiff::{SignedDuration, Timestamp};
use kubenova_operator_core::digest::RecordDigest;
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use std::{sync::Arc, time::Duration};

/// Old records cost only storage, so there is no hurry.
const INTERVAL: Duration = Duration::from_secs(300);
/// A delete is remembered at least this long, as usage reports are: a Manager whose database was restored from a backup of up to
/// a week ago learns of it from the record. (The sovereign policy's limit on deletes per hour is counted from them, too.)
const DELETE_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Prunes until the process stops.
pub(super) async fn run(inbox: Cache<RecordDigest>, records: Records, fence: Arc<FenceKeeper>, shutdown: Shutdown) {
    Periodic::new("prune the inbox", INTERVAL).run(&shutdown, || prune(&inbox, &records, &fence)).await;
}

async fn prune(inbox: &Cache<RecordDigest>, records: &Records, fence: &FenceKeeper) -> Result<Next, Error> {
    let all = inbox.all();
    let highest = all.iter().map(|record| record.revision).max().unwrap_or_default();
    let floor = fence.now().floor;
    let now = clock::now();
    let settled: Vec<_> = all.iter().filter(|record| may_be_forgotten(record, highest, floor, now)).collect();
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

fn may_be_forgotten(record: &RecordDigest, highest: u64, floor: u64, now: Timestamp) -> bool {
    let is_old = || record.stored_at.is_some_and(|at| now.duration_since(at) > DELETE_KEPT);
    let is_done_with = record.is_operation() || record.is_delete() && is_old();
    is_done_with && record.has_ended && record.revision <= floor && record.revision < highest
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::{CommandSpec, CommandStatus, NovaCommand};

    fn record(kind: &str, state: &str, revision: i64) -> RecordDigest {
        let spec = CommandSpec {
            kind: kind.into(),
            command_id: "a".into(),
            revision,
            stored_at: "2026-01-01T00:00:00.000Z".into(),
            ..CommandSpec::default()
        };
        let mut record = NovaCommand::new("x", spec);
        record.status = Some(CommandStatus { command_id: "a".into(), state: state.into(), ..CommandStatus::default() });
        RecordDigest::of(&record)
    }

    #[test]
    fn only_settled_deletes_and_operations_below_the_floor_are_forgotten_and_never_the_highest() {
        let late = "2026-01-09T02:00:00Z".parse().unwrap();
        let early = "2026-01-01T00:10:00Z".parse().unwrap();
        assert!(may_be_forgotten(&record("delete-tenant", "succeeded", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("apply-tenant", "succeeded", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "running", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 7), 9, 6, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 9), 9, 9, late));
        assert!(!may_be_forgotten(&record("delete-tenant", "succeeded", 5), 9, 6, early));
        assert!(may_be_forgotten(&record("restart-workflow", "expired", 5), 9, 6, early));
        assert!(!may_be_forgotten(&record("restart-workflow", "running", 5), 9, 6, late));
        assert!(!may_be_forgotten(&record("cancel-operation", "succeeded", 7), 9, 6, late));
    }
}
