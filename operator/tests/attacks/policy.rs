//! Who has the Manager with its signing key: what the sovereign policy of the cluster, which no command can write, leaves it.

use crate::{CLUSTER, HERE, UID, accepted, command, manager};
use data_encoding::BASE64;
use jiff::Timestamp;
use kubenova_crds::components::Components;
use kubenova_operator_core::{
    command,
    policy::{self, Clocks, Policy, PolicyInput},
};
use kubenova_schema::{
    deletion_confirmation, message,
    signature::{PayloadType, SigningKey},
    v1::{Command, DeletionConfirmation, DeletionStatement},
};
use kubenova_test_attacks::stopped;

fn now() -> Timestamp {
    Timestamp::from_second(10_000).unwrap()
}

/// What becomes of a command that the Manager's key has signed.
fn decided(policy: &Policy, input: &PolicyInput, command: &Command) -> String {
    let body = message::to_json(command);
    let signature = manager().sign(PayloadType::Command, &body);
    let command = command::verify(&body, Some(&signature), &accepted()).unwrap();
    let verified = match command::accept(command, HERE) {
        Ok(verified) => verified,
        Err(rejected) => return format!("{}: {}", rejected.reason, rejected.message),
    };
    match policy::check(policy, &verified, input, Clocks { cluster: now(), manager: now() }) {
        Ok(()) => "it is stored".to_owned(),
        Err(denial) => format!("{}: {}", denial.reason, denial.message),
    }
}

#[test]
fn a_command_is_one_of_the_known_kinds_about_its_own_object() {
    let decided = |command: Command| decided(&Policy::default(), &PolicyInput::default(), &command);
    let operation =
        |id: &str| Command { kind: "restart-workflow".into(), key: format!("operation/{id}"), ..command(20) };
    let own_id = command(20).id;
    stopped("A-203", &decided(Command { kind: "run-shell".into(), ..command(20) }));
    stopped("A-204", &decided(Command { key: "application/0198-aa/web".into(), ..command(20) }));
    stopped("A-205", &decided(Command { key: "tenant/../kube-system".into(), ..command(20) }));
    stopped("A-206", &decided(Command { not_after: "1970-01-01T03:00:00Z".into(), ..operation("another") }));
    stopped("A-207", &decided(operation(&own_id)));
    stopped("A-208", &decided(Command { document: r#"{"spec":1,"spec":2}"#.into(), ..command(20) }));
    assert_eq!(decided(command(20)), "it is stored");
    assert_eq!(decided(Command { not_after: "1970-01-01T03:00:00Z".into(), ..operation(&own_id) }), "it is stored");
}

#[test]
fn the_policy_of_the_site_is_above_the_manager() {
    let nothing = PolicyInput::default();
    let frozen = Policy { freeze: true, ..Policy::default() };
    stopped("A-209", &decided(&frozen, &nothing, &command(20)));
    let some = Policy { allowed_command_kinds: vec!["apply-application".into()], ..Policy::default() };
    stopped("A-210", &decided(&some, &nothing, &command(20)));
    let mut present = Components::default();
    present.capsule.component.enabled = true;
    present.capsule.component.version = "0.14.0".into();
    let components = PolicyInput { components: Some(present), ..PolicyInput::default() };
    let upgrade = Command {
        kind: "apply-cluster-config".into(),
        key: "cluster-config/default".into(),
        document: r#"{"spec":{"components":{"capsule":{"enabled":true,"version":"0.15.0"}}}}"#.into(),
        ..command(20)
    };
    let fixed = Policy { component_upgrades: false, ..Policy::default() };
    stopped("A-211", &decided(&fixed, &components, &upgrade));
    let lately = PolicyInput { deletes: vec![now(); 20], tenants: 100, ..PolicyInput::default() };
    let delete = Command { kind: "delete-application".into(), key: "application/0198-aa/web".into(), ..command(20) };
    stopped("A-212", &decided(&Policy::default(), &lately, &delete));
    for (command, input) in [(&command(20), &nothing), (&upgrade, &components), (&delete, &nothing)] {
        assert_eq!(decided(&Policy::default(), input, command), "it is stored");
    }
}

#[test]
fn a_cluster_is_not_emptied_without_the_word_of_a_person() {
    let person = SigningKey::from_seed(&[5; 32]).unwrap();
    let policy = Policy { deletion_confirmation_keys: vec![BASE64.encode(&person.public_key())], ..Policy::default() };
    let input = PolicyInput { tenant_deletes: vec![now(); 5], tenants: 8, ..PolicyInput::default() };
    let good = DeletionStatement {
        cluster_id: CLUSTER.to_owned(),
        cluster_uid: UID.to_owned(),
        tenant_ids: vec!["0198-aa".to_owned()],
        not_after: "1970-01-01T03:00:00Z".to_owned(),
        confirmed_by: "ann".to_owned(),
    };
    let sign = |key: &SigningKey, statement: &DeletionStatement| {
        let statement = deletion_confirmation::text(statement);
        let signature = key.sign(PayloadType::DeletionStatement, statement.as_bytes());
        Some(DeletionConfirmation { statement, signature })
    };
    let decided = |confirmation| {
        let delete = Command { kind: "delete-tenant".into(), confirmation, ..command(20) };
        decided(&policy, &input, &delete)
    };
    stopped("A-213", &decided(None));
    stopped("A-214", &decided(sign(&manager(), &good)));
    let mut altered =
        sign(&person, &DeletionStatement { tenant_ids: vec!["another".to_owned()], ..good.clone() }).unwrap();
    altered.statement = altered.statement.replace("another", "0198-aa");
    stopped("A-215", &decided(Some(altered)));
    for (id, statement) in [
        ("A-216", DeletionStatement { tenant_ids: vec!["another".to_owned()], ..good.clone() }),
        ("A-217", DeletionStatement { cluster_id: "c1123456789abcdefghjkmnpqrs".to_owned(), ..good.clone() }),
        ("A-218", DeletionStatement { not_after: "1970-01-01T02:00:00Z".to_owned(), ..good.clone() }),
    ] {
        stopped(id, &decided(sign(&person, &statement)));
    }
    assert_eq!(decided(sign(&person, &good)), "it is stored");
}
