//! Applications settle whatever form the cluster stores them in: one patch, then `succeeded`, and no patch when they are
//! reconciled again. What components define is applied once as well. The API server's own audit log is the witness.

use std::collections::BTreeMap;

use anyhow::Result;
use kubenova_env::audit::AuditEvent;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

/// Reconciles of every application after it settled. A command is reconciled by one task at a time, so the beginning of
/// one is the end of the one before.
const ROUNDS: usize = 4;
const OPERATOR_USER: &str = "system:serviceaccount:kubenova-system:kubenova-operator";

/// A KubeVela Application of one web component.
fn application(name: &str) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": { "name": name },
        "spec": { "components": [{
            "name": name,
            "type": "webservice",
            "properties": { "image": "shop/web:1", "cpu": "100m", "memory": "64Mi" },
        }] },
    })
}

/// Inputs that the API server or KubeVela's webhook stores in another form than they are given.
fn inputs() -> Vec<(&'static str, Value)> {
    let with = |name: &'static str, pointer: &str, key: &str, value: Value| {
        let mut application = application(name);
        if let Some(parent) = application.pointer_mut(pointer) {
            parent[key] = value;
        }
        (name, application)
    };
    let component = "/spec/components/0";
    let properties = "/spec/components/0/properties";
    let step = |extra: Value| {
        let mut step = json!({ "name": "deploy", "type": "apply-component" });
        if let (Some(step), Some(extra)) = (step.as_object_mut(), extra.as_object()) {
            step.extend(extra.clone());
        }
        step
    };
    let workflow = |name: &'static str, extra: Value| {
        let mut step = step(extra);
        step["properties"] = json!({ "component": name });
        with(name, "/spec", "workflow", json!({ "steps": [step] }))
    };
    vec![
        with("float", component, "traits", json!([{ "type": "scaler", "properties": { "replicas": 1.0 } }])),
        with("exponent", properties, "unused", json!(1e3)),
        with("big", properties, "unused", json!(12_345_678_901_234_567_890_u64)),
        with("revision", component, "externalRevision", json!("")),
        workflow("condition", json!({ "if": "", "timeout": "" })),
        workflow("alias", json!({ "meta": { "alias": "" } })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn life_settle_in_one_patch_whatever_form_is_stored() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let definitions = definition_patches(&site)?;
    assert!(definitions.keys().any(|name| name.starts_with("traitdefinitions/")), "{definitions:?}");
    let repeated: Vec<_> = definitions.into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(repeated.is_empty(), "a join applies each definition once: {repeated:?}");
    let lists = record_lists(&site)?;
    assert!(lists > 0, "the Operator lists the inbox once, before its watch");
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    // A label that Capsule's webhook rewrites never gets that far.
    let mut labeled = application("label");
    labeled["metadata"]["labels"] = json!({ "capsule.clastix.io/managed-by": "someone" });
    let body = json!({ "application": labeled, "clusters": ["alpha"] });
    platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(422)?;

    let mut accepted = Vec::new();
    for (_, application) in inputs() {
        let body = json!({ "application": application, "clusters": ["alpha"] });
        accepted.push(platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?);
    }
    for answer in &accepted {
        steps::wait_commands(&platform, &answer["commands"], "succeeded", COMMAND_MAX).await?;
    }
    let once: BTreeMap<String, usize> = inputs().into_iter().map(|(name, _)| (name.to_owned(), 1)).collect();
    assert_eq!(application_patches(&site)?, once, "one patch each until they succeeded");
    let tenant_patches = tenant_object_patches(&site)?;

    // A change of the NovaTenant makes the Operator reconcile the tenant, and one of an inbox record what its command is about.
    for round in 0..ROUNDS {
        let before = record_reads(&site)?;
        let annotation = format!("example.com/round={round}");
        site.cluster.kubectl_ok(&["annotate", "novatenant", "acme", &annotation, "--overwrite"])?;
        let records = ["annotate", "novacommands", "--all", "-n", "kubenova-system", &annotation, "--overwrite"];
        site.cluster.kubectl_ok(&records)?;
        poll::until(format!("every application to be reconciled in round {round}"), COMMAND_MAX, || async {
            let now = record_reads(&site)?;
            let all = once.keys().all(|name| now.get(name) > before.get(name));
            Ok(Step::when(all, (), format!("reads of records: {now:?}, before {before:?}")))
        })
        .await?;
    }
    assert_eq!(application_patches(&site)?, once, "no patch when they are reconciled again");
    assert_eq!(tenant_object_patches(&site)?, tenant_patches, "no patch of the tenant's objects either");
    assert_eq!(record_lists(&site)?, lists, "no list of the inbox, whose records may have 900 KB each");
    Ok(())
}

fn about_application(event: &AuditEvent) -> Option<String> {
    let object = event.object_ref.as_ref()?;
    let is_application = object.resource == "applications" && object.api_group == "core.oam.dev";
    (is_application && object.subresource.is_empty() && object.namespace == "acme-apps").then(|| object.name.clone())
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn is_patch_by_operator(event: &&AuditEvent) -> bool {
    event.verb == "patch" && event.user.username == OPERATOR_USER && event.code() < 300
}

/// Patches by the Operator, which acts as the tenant's deployer, by application.
fn application_patches(site: &Site) -> Result<BTreeMap<String, usize>> {
    let events = site.cluster.audit()?;
    let patches = events.iter().filter(is_patch_by_operator);
    Ok(count(patches.filter_map(about_application)))
}

/// Reads of the inbox records by the Operator, by application: a reconcile of a command begins with one.
fn record_reads(site: &Site) -> Result<BTreeMap<String, usize>> {
    let events = site.cluster.audit()?;
    let reads = events.iter().filter(|event| event.verb == "get" && event.user.username == OPERATOR_USER);
    Ok(count(reads.filter_map(|event| {
        let object = event.object_ref.as_ref().filter(|object| object.resource == "novacommands")?;
        let (_, name) = object.name.strip_prefix("application.")?.split_once('.')?;
        Some(name.to_owned())
    })))
}

/// Lists of inbox records by the Operator.
fn record_lists(site: &Site) -> Result<usize> {
    let events = site.cluster.audit()?;
    let lists = events.iter().filter(|event| event.verb == "list" && event.user.username == OPERATOR_USER);
    let resource = |event: &AuditEvent| event.object_ref.as_ref().map(|object| object.resource.clone());
    Ok(lists.filter(|event| resource(event).as_deref() == Some("novacommands")).count())
}

/// Patches by the Operator of CRDs and of KubeVela's definitions, by resource and name.
fn definition_patches(site: &Site) -> Result<BTreeMap<String, usize>> {
    let events = site.cluster.audit()?;
    let patches = events.iter().filter(is_patch_by_operator);
    Ok(count(patches.filter_map(|event| {
        let object = event.object_ref.as_ref().filter(|object| object.resource.ends_with("definitions"))?;
        Some(format!("{}/{}", object.resource, object.name))
    })))
}

/// Patches by the Operator of objects that a tenant is made of, by resource and name.
fn tenant_object_patches(site: &Site) -> Result<BTreeMap<String, usize>> {
    let kinds = [
        "tenants",
        "tenantowners",
        "namespaces",
        "serviceaccounts",
        "resourcequotas",
        "limitranges",
        "networkpolicies",
    ];
    let events = site.cluster.audit()?;
    let patches = events.iter().filter(is_patch_by_operator);
    Ok(count(patches.filter_map(|event| {
        let object = event.object_ref.as_ref()?;
        let is_tenants = kinds.contains(&object.resource.as_str())
            && (object.namespace.starts_with("acme-") || object.name.starts_with("acme"));
        is_tenants.then(|| format!("{}/{}/{}", object.resource, object.namespace, object.name))
    })))
}
