//! Texts that a user reads use the field's words.

use std::collections::{BTreeMap, BTreeSet};

/// Files that still hold replaced words. An entry without such a word fails the test: remove it.
const OPEN: &[&str] = &[
    "crds/src/cluster_config.rs",
    "crds/src/conditions.rs",
    "crds/src/lib.rs",
    "crds/src/tenant.rs",
    "deploy/helm/operator/Chart.yaml",
    "deploy/helm/operator/README.md",
    "deploy/helm/operator/templates/_helpers.tpl",
    "deploy/helm/operator/templates/crds/novaclusterconfigs.yaml",
    "deploy/helm/operator/templates/crds/novatenants.yaml",
    "deploy/helm/operator/templates/policies/applications.yaml",
    "deploy/helm/operator/templates/policies/identities.yaml",
    "deploy/helm/operator/templates/rbac/capsule-proxy.yaml",
    "deploy/helm/operator/templates/rbac/capsule.yaml",
    "deploy/helm/operator/templates/rbac/kubevela.yaml",
    "deploy/helm/operator/templates/rbac/tenant.yaml",
    "docs/openapi.json",
    "manager/api/src/openapi/mod.rs",
    "manager/api/src/routes/meta/front.rs",
    "manager/api/src/token.rs",
    "manager/core/src/cluster.rs",
    "manager/core/src/command.rs",
    "manager/core/src/tenant.rs",
    "manager/src/commands/mod.rs",
    "manager/src/commands/token.rs",
    "manager/src/ingest/durable.rs",
    "manager/src/ingest/usage.rs",
    "manager/src/ingest/usage/assembly.rs",
    "manager/src/ingest/usage/check.rs",
    "manager/src/lib.rs",
    "manager/src/own_identity.rs",
    "manager/src/receipts/mod.rs",
    "manager/src/relay/mod.rs",
    "manager/src/session/heartbeat.rs",
    "manager/src/session/mod.rs",
    "manager/src/settings.rs",
    "manager/src/wiring.rs",
    "manager/store/src/applications.rs",
    "manager/store/src/cluster_queue.rs",
    "manager/store/src/clusters.rs",
    "manager/store/src/commands.rs",
    "manager/store/src/dead_letters.rs",
    "manager/store/src/enrollments.rs",
    "manager/store/src/idempotency.rs",
    "manager/store/src/pool.rs",
    "manager/store/src/receipts.rs",
    "manager/store/src/sessions.rs",
    "manager/store/src/tenants.rs",
    "manager/store/src/wire/mod.rs",
    "manager/trust/src/claims.rs",
    "manager/trust/src/nats.rs",
    "manager/trust/src/nats_config.rs",
    "operator/src/apiserver/client.rs",
    "operator/src/apiserver/error.rs",
    "operator/src/apiserver/mod.rs",
    "operator/src/apiserver/usage.rs",
    "operator/src/apiserver/watch.rs",
    "operator/src/apiserver/watches.rs",
    "operator/src/join/conditions.rs",
    "operator/src/join/enroll.rs",
    "operator/src/join/identity.rs",
    "operator/src/join/mod.rs",
    "operator/src/join/pinned.rs",
    "operator/src/join/reach.rs",
    "operator/src/main.rs",
    "operator/src/metering/follow.rs",
    "operator/src/metering/meter.rs",
    "operator/src/session/hello.rs",
    "operator/src/session/mod.rs",
    "operator/src/settings.rs",
    "operator/src/wiring.rs",
    "schema/bus/src/connection.rs",
    "schema/bus/src/consume.rs",
    "schema/bus/src/streams.rs",
    "schema/runtime/src/metrics.rs",
    "schema/src/signature.rs",
    "schema/src/subjects.rs",
    "schema/src/trace.rs",
];

#[test]
fn no_replaced_word_comes_back() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for place in kubenova_source::words::visible(&kubenova_source::repository_root()).unwrap() {
        let file = place.split(':').next().unwrap_or_default().to_owned();
        found.entry(file).or_default().push(place);
    }
    let gone: BTreeSet<&str> = OPEN.iter().copied().filter(|it| !found.contains_key(*it)).collect();
    found.retain(|file, _| !OPEN.contains(&file.as_str()));
    let places: Vec<String> = found.into_values().flatten().collect();
    assert!(places.is_empty(), "{} places:\n{}", places.len(), places.join("\n"));
    assert!(gone.is_empty(), "these files are clean, remove them from OPEN: {gone:#?}");
}
