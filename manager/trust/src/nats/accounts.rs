//! What each account exports, imports and lets its roles do.
//!
//! Guarantees: no two exports overlap and every import lies within one; a role's template is the whole of what its users
//! may do. Before it: `kubenova_schema::subjects::accounts`. After it: [`super::Nkeys`] signs it.

use crate::claims::{AccountClaims, AccountLimits, Export, Import, NoPermissions, Permission, Template};
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use std::collections::BTreeMap;

/// Subscriptions a cluster needs: one inbox; the rest is room for the bridge.
const CLUSTER_SUBSCRIPTIONS: i64 = 50;
/// Subscriptions of a CLI user or a billing subscriber.
const READER_SUBSCRIPTIONS: i64 = 200;

pub(super) fn account(jetstream: bool) -> AccountClaims {
    AccountClaims {
        imports: Vec::new(),
        exports: Vec::new(),
        limits: AccountLimits::new(jetstream),
        signing_keys: Vec::new(),
        revocations: BTreeMap::new(),
        default_permissions: NoPermissions::default(),
        kind: "account",
        version: 2,
    }
}

/// What CORE exports. A subject that another one covers is left out: the broker refuses overlapping exports,
/// and an import of part of an export is allowed.
pub(super) fn core_exports() -> Vec<Export> {
    let mut services: Vec<(&str, bool)> = Vec::new();
    services.extend(accounts::EDGE_SERVICES);
    services.extend(accounts::EDGE_API.map(|(subject, _, streamed)| (subject, streamed)));
    services.extend(accounts::BILL_API);
    services.extend(accounts::OPS_API.map(|subject| (subject, false)));
    let covered = |index: usize, subject: &str| {
        services.iter().enumerate().any(|(at, (other, _))| at != index && *other != subject && covers(other, subject))
    };
    let mut exports: Vec<Export> = services
        .iter()
        .enumerate()
        .filter(|(index, (subject, _))| !covered(*index, subject))
        .map(|(_, (subject, streamed))| Export {
            name: (*subject).to_owned(),
            subject: (*subject).to_owned(),
            kind: "service",
            response_type: Some(if *streamed { "Stream" } else { "Singleton" }),
        })
        .collect();
    exports.push(Export {
        name: subjects::ALL.to_owned(),
        subject: subjects::ALL.to_owned(),
        kind: "stream",
        response_type: None,
    });
    exports
}

/// True when every subject that `narrow` stands for is one that `wide` stands for.
fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(other)) if other != ">" => {}
            (exact, Some(other)) if exact == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

pub(super) fn service_import(subject: &str, core: &str) -> Import {
    Import {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        account: core.to_owned(),
        local_subject: None,
        kind: "service",
    }
}

fn stream_import(subject: &str, core: &str) -> Import {
    Import { kind: "stream", ..service_import(subject, core) }
}

pub(super) fn edge_imports(core: &str) -> Vec<Import> {
    let plain = accounts::EDGE_SERVICES.iter().map(|(subject, _)| service_import(subject, core));
    let renamed = accounts::EDGE_API.iter().map(|(subject, local, _)| Import {
        local_subject: Some((*local).to_owned()),
        ..service_import(subject, core)
    });
    let streams = accounts::EDGE_STREAMS.iter().map(|subject| stream_import(subject, core));
    plain.chain(renamed).chain(streams).collect()
}

pub(super) fn ops_imports(core: &str) -> Vec<Import> {
    let mut imports: Vec<Import> = accounts::OPS_API.iter().map(|subject| service_import(subject, core)).collect();
    imports.push(stream_import(subjects::ALL, core));
    imports
}

fn template(publish: &[&str], subscribe: &[&str], subscriptions: i64, connections: &[&'static str]) -> Template {
    let allow = |subjects: &[&str]| Permission {
        allow: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        deny: Vec::new(),
    };
    Template {
        publish: allow(publish),
        subscribe: allow(subscribe),
        subs: subscriptions,
        data: -1,
        payload: -1,
        allowed_connection_types: connections.to_vec(),
    }
}

pub(super) fn cluster_template() -> Template {
    let template = template(
        &accounts::CLUSTER_PUBLISH,
        &accounts::CLUSTER_SUBSCRIBE,
        CLUSTER_SUBSCRIPTIONS,
        &["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS"],
    );
    Template { payload: i64::try_from(streams::CLUSTER_MESSAGE_BYTES_MAX).unwrap_or(i64::MAX), ..template }
}

pub(super) fn billing_template() -> Template {
    template(&accounts::BILLING_PUBLISH, &[accounts::OWN_INBOX], READER_SUBSCRIPTIONS, &["STANDARD", "WEBSOCKET"])
}

pub(super) fn reader_template() -> Template {
    template(
        &accounts::OPS_API,
        &[accounts::OWN_INBOX, subjects::ALL],
        READER_SUBSCRIPTIONS,
        &["STANDARD", "WEBSOCKET"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_follows_the_brokers_wildcards() {
        for (wide, narrow, expected) in [
            ("a.*.*", "a.b.*", true),
            ("a.b.*", "a.*.*", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.>", false),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(covers(wide, narrow), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn no_two_exports_overlap_and_every_import_is_covered() {
        let exports = core_exports();
        for one in &exports {
            for other in &exports {
                let same = one.subject == other.subject && one.kind == other.kind;
                assert!(same || one.kind != other.kind || !covers(&one.subject, &other.subject), "{one:?} {other:?}");
            }
        }
        for import in edge_imports("A").iter().chain(&ops_imports("A")) {
            assert!(exports.iter().any(|e| e.kind == import.kind && covers(&e.subject, &import.subject)), "{import:?}");
        }
    }
}
