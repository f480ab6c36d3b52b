//! Which records a change concerns, to be reconciled. Before this: the watches. After it: [`super`].

use crate::apiserver::cache::{Cache, Change};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command, components::standing::StandingComponents, digest::RecordDigest, operation::ApplicationTarget,
    tenant::digest::TenantDigest,
};
use kubenova_schema::kinds::ObjectKey;

/// The record, and the operations that waited for it.
pub(super) fn of_record(inbox: &Cache<RecordDigest>, change: &Change<RecordDigest>) -> Vec<String> {
    let mut names = vec![change.name.clone()];
    let is_open = change.after.as_ref().is_some_and(|record| !record.has_ended && record.operates_on.is_some());
    // A cancellation takes the place of an operation, and does not say what that was about.
    let target = change.before.iter().chain(&change.after).find_map(|record| record.operates_on.as_ref());
    if let Some(target) = target.filter(|_| !is_open) {
        names.extend(open_operations(inbox, target));
    }
    names
}

/// The tenant's own record, and those of its applications when it becomes ready or is so no more.
pub(super) fn of_tenant(inbox: &Cache<RecordDigest>, change: &Change<TenantDigest>) -> Vec<String> {
    let mut names = Vec::new();
    let is_served_alike = match (&change.before, &change.after) {
        (Some(before), Some(after)) => before.serves_like(after),
        _ => false,
    };
    for tenant in change.before.iter().chain(&change.after) {
        let tenant_id = tenant.tenant_id.clone();
        if !is_served_alike {
            names.extend(inbox.names_from(&format!("application.{tenant_id}.")));
        }
        names.push(command::record_name(&ObjectKey::Tenant { tenant_id }));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// The record of the cluster's configuration, and what waits for its components.
pub(super) fn of_config(inbox: &Cache<RecordDigest>, changes: &[Change<StandingComponents>]) -> Vec<String> {
    let mut names = vec![command::record_name(&ObjectKey::ClusterConfig)];
    if changes.iter().any(|change| change.before != change.after) {
        names.extend(open_records(inbox, "application.", |_| true));
    }
    names
}

/// The application's record, and the operations on it that have not ended: they wait for what its change may show.
pub(super) fn of_application(inbox: &Cache<RecordDigest>, tenant_id: String, name: String) -> Vec<String> {
    let target = ApplicationTarget { tenant_id: tenant_id.clone(), application: name.clone() };
    let mut names = open_operations(inbox, &target);
    names.push(command::record_name(&ObjectKey::Application { tenant_id, name }));
    names
}

/// Keeps a record that the dispatcher has written, which is no change to itself. The end of an operation is one: others may wait for it.
pub(super) fn keep(inbox: &Cache<RecordDigest>, record: &NovaCommand) {
    let digest = RecordDigest::of(record);
    if digest.is_operation() && digest.has_ended {
        inbox.wrote(record, digest);
    } else {
        inbox.reader_wrote(record, digest);
    }
}

fn open_operations(inbox: &Cache<RecordDigest>, target: &ApplicationTarget) -> Vec<String> {
    open_records(inbox, "operation.", |record| record.operates_on.as_ref() == Some(target))
}

fn open_records(inbox: &Cache<RecordDigest>, prefix: &str, is_it: impl Fn(&RecordDigest) -> bool) -> Vec<String> {
    let is_open = |name: &String| inbox.get(name).is_some_and(|record| !record.has_ended && is_it(&record));
    inbox.names_from(prefix).into_iter().filter(is_open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
    use kubenova_crds::command::{CommandSpec, CommandStatus};
    use kubenova_schema::{message, v1::Command};
    use std::pin::pin;

    fn operation(id: &str, kind: &str, document: &str, version: u64) -> NovaCommand {
        let command = Command { document: document.to_owned(), ..Command::default() };
        let body = String::from_utf8(message::to_json(&command)).unwrap();
        let spec = CommandSpec { body, kind: kind.to_owned(), command_id: id.to_owned(), ..CommandSpec::default() };
        let mut record = NovaCommand::new(&format!("operation.{id}"), spec);
        record.metadata.resource_version = Some(version.to_string());
        record
    }

    fn on(application: &str) -> String {
        format!(r#"{{"tenantId":"t","application":"{application}"}}"#)
    }

    fn ended(mut record: NovaCommand, version: u64) -> NovaCommand {
        record.metadata.resource_version = Some(version.to_string());
        let (command_id, state) = (record.spec.command_id.clone(), "succeeded".to_owned());
        record.status = Some(CommandStatus { command_id, state, ..CommandStatus::default() });
        record
    }

    /// Two operations on `shop` and one on `cart`, none of which has ended.
    fn inbox() -> Cache<RecordDigest> {
        let inbox = Cache::default();
        for (id, application) in [("a", "shop"), ("b", "shop"), ("c", "cart")] {
            let record = operation(id, "suspend-workflow", &on(application), 1);
            inbox.wrote(&record, RecordDigest::of(&record));
        }
        inbox
    }

    /// What the changes since the last look concern.
    fn concerned(inbox: &Cache<RecordDigest>) -> Vec<String> {
        let changes = pin!(inbox.changes()).next().now_or_never().flatten().unwrap_or_default();
        let mut names: Vec<String> = changes.iter().flat_map(|change| of_record(inbox, change)).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_end_of_an_operation_concerns_those_that_wait_for_it() {
        let inbox = inbox();
        assert_eq!(concerned(&inbox), ["operation.a", "operation.b", "operation.c"], "each itself");
        let running = operation("a", "suspend-workflow", &on("shop"), 2);
        keep(&inbox, &running);
        assert_eq!(concerned(&inbox), [""; 0], "its progress is no change to the dispatcher");
        keep(&inbox, &ended(running, 3));
        assert_eq!(concerned(&inbox), ["operation.a", "operation.b"]);
    }

    #[test]
    fn a_cancellation_concerns_those_that_wait_for_what_is_cancelled() {
        let inbox = inbox();
        let _seen = concerned(&inbox);
        let cancel = operation("a", "cancel-operation", r#"{"commandId":"a"}"#, 2);
        inbox.wrote(&cancel, RecordDigest::of(&cancel));
        assert_eq!(concerned(&inbox), ["operation.a", "operation.b"]);
    }

    #[test]
    fn a_change_of_an_application_concerns_the_open_operations_on_it() {
        let inbox = inbox();
        let of = |application: &str| of_application(&inbox, "t".to_owned(), application.to_owned());
        assert_eq!(of("shop"), ["operation.a", "operation.b", "application.t.shop"]);
        assert_eq!(of("cart"), ["operation.c", "application.t.cart"]);
        keep(&inbox, &ended(operation("a", "suspend-workflow", &on("shop"), 1), 2));
        assert_eq!(of("shop"), ["operation.b", "application.t.shop"]);
    }
}
