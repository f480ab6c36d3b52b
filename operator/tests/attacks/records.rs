//! Who may write NovaCommands in the cluster, but has not the Manager's signing key: a record is verified once more before it is carried
//! out.

use crate::{CLUSTER, UID, accepted, command, manager, own};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command::{self, Recipient, record_name},
    record::RecordVerifier,
};
use kubenova_schema::{
    message,
    signature::{PayloadType, SigningKey},
    v1::Command,
};
use kubenova_test_attacks::stopped;

/// The record of a command, as an Operator stores it that takes it for its own.
fn record(signed_by: &SigningKey, command: &Command) -> NovaCommand {
    let body = message::to_json(command);
    let signature = signed_by.sign(PayloadType::Command, &body);
    let there = Recipient { cluster_id: &command.cluster_id, cluster_uid: &command.cluster_uid };
    let verified = command::accept(command.clone(), there).unwrap();
    let spec = verified.record_spec(&body, Some(&signature), "2026-01-01T00:00:00.000Z".to_owned());
    NovaCommand::new(&record_name(&verified.key), spec)
}

fn verdict(record: &NovaCommand) -> String {
    let here = RecordVerifier { keys: accepted(), cluster_id: CLUSTER.to_owned(), cluster_uid: UID.to_owned() };
    match here.verify(record) {
        Ok(_) => "it is carried out".to_owned(),
        Err(unverified) => unverified.progress().message,
    }
}

#[test]
fn a_record_commands_only_what_the_manager_signed_for_this_cluster() {
    let good = record(&manager(), &command(20));
    let changed = |change: fn(&mut NovaCommand)| {
        let mut record = good.clone();
        change(&mut record);
        verdict(&record)
    };
    stopped("A-219", &verdict(&record(&own(), &command(20))));
    let other = "c1123456789abcdefghjkmnpqrs".to_owned();
    stopped("A-220", &verdict(&record(&manager(), &Command { cluster_id: other, ..command(20) })));
    stopped("A-221", &changed(|record| record.spec.body = record.spec.body.replace("20}", "90}")));
    stopped("A-222", &changed(|record| record.spec.revision = 99));
    stopped("A-223", &changed(|record| record.metadata.name = Some("tenant.0198-bb".to_owned())));
    stopped("A-224", &changed(|record| record.spec.kind = "delete-tenant".to_owned()));
    assert_eq!(verdict(&good), "it is carried out");
}
