//! Attacks on an Operator by who has the broker, an address of the Manager, or a place in its cluster, each with its case of the matrix
//! (`tests/attacks`): what the Operator decides with, and where it matters the broker or a server between.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod answers;
mod commands;
mod endpoint;
mod false_manager;
mod policy;
mod records;

use kubenova_operator_core::command::Recipient;
use kubenova_schema::{
    signature::{AcceptedKeys, SigningKey},
    v1::Command,
};
use std::time::Duration;

/// Longest that loopback may take for one answer; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The cluster that is attacked.
const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";
const UID: &str = "0198c1d2-0000-7000-8000-000000000000";
const HERE: Recipient<'static> = Recipient { cluster_id: CLUSTER, cluster_uid: UID };

/// The Manager's command key.
fn manager() -> SigningKey {
    SigningKey::from_seed(&[3; 32]).unwrap()
}

/// A key that an attacker made.
fn own() -> SigningKey {
    SigningKey::from_seed(&[4; 32]).unwrap()
}

/// What the cluster accepts.
fn accepted() -> AcceptedKeys {
    AcceptedKeys::new([(manager().id().to_owned(), manager().public_key())])
}

/// A command of this revision about a tenant, as the Manager makes them.
fn command(revision: u64) -> Command {
    Command {
        id: format!("00000000-0000-7000-8000-{revision:012}"),
        cluster_id: CLUSTER.to_owned(),
        cluster_uid: UID.to_owned(),
        epoch: 5,
        revision,
        floor: 10,
        kind: "apply-tenant".to_owned(),
        key: "tenant/0198-aa".to_owned(),
        document: format!("{{\"spec\":{{\"pods\":{revision}}}}}"),
        ..Command::default()
    }
}
