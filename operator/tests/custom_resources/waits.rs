//! `kubectl wait --for=condition=…` on every kind, and the columns of `kubectl get`, with what the Operator's own code writes.

use crate::{NAMESPACE, TENANT, apply, client, server};
use kube::Api;
use kubenova_crds::{
    command::{CommandSpec, NovaCommand},
    tenant::NovaTenant,
};
use kubenova_operator::{
    apiserver::{status, usage},
    join::conditions::StatusReporter,
};
use kubenova_operator_core::{
    conditions::ConditionSet,
    outcome::{self, CommandProgress},
    tenant::{
        applications::Applications,
        capsule::CapsuleStatus,
        report::{STEPS, TenantReport},
    },
};
use kubenova_runtime::clock;
use kubenova_test_apiserver::ApiServer;
use serde_json::json;

/// Waits as a script does; what holds already is said at once.
#[track_caller]
fn waits(server: &ApiServer, object: &str, condition: &str) {
    let condition = format!("--for=condition={condition}");
    let said = server.kubectl_ok(&["wait", object, "-n", NAMESPACE, &condition, "--timeout=10s"], "");
    assert!(said.contains("condition met"), "{said}");
}

/// The row of an object under the columns' names.
fn columns(server: &ApiServer, kind: &str, name: &str) -> Vec<(String, String)> {
    let table = server.kubectl_ok(&["get", kind, name, "-n", NAMESPACE], "");
    let mut lines = table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
    let (names, cells) = (lines.next().unwrap(), lines.next().unwrap());
    names.map(str::to_owned).zip(cells.map(str::to_owned)).collect()
}

#[track_caller]
fn shows(server: &ApiServer, kind: &str, name: &str, expected: &[(&str, &str)]) {
    let columns = columns(server, kind, name);
    for (column, cell) in expected {
        let found = columns.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.as_str());
        assert_eq!(found, Some(*cell), "{column} of {columns:?}");
    }
}

#[tokio::test]
async fn for_a_tenant() {
    let server = server();
    apply(
        &server,
        &json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaTenant", "metadata": { "name": "waits" },
        "spec": { "tenantId": TENANT } }),
    )
    .unwrap();
    let report = TenantReport {
        reached: STEPS.map(|step| (step, "in place")).to_vec(),
        capsule: CapsuleStatus {
            ready: true,
            state: "Active".to_owned(),
            namespaces: ["waits-owner", "waits-apps"].map(|name| (name.to_owned(), format!("uid-of-{name}"))).to_vec(),
            ..CapsuleStatus::default()
        },
        ..TenantReport::default()
    };
    let tenants: Api<NovaTenant> = Api::all(client(&server).await.client());
    let written = status::update(&tenants, "waits", |tenant| {
        let status = tenant.status.get_or_insert_default();
        let _merged = report.write_into(status, Some(1), clock::now());
        "75% cpu".clone_into(&mut status.quota_used);
        Applications::default().write_into(status, "waits", Some(1), clock::now())
    });
    written.await.unwrap().unwrap();
    for condition in STEPS.into_iter().chain(["Ready"]) {
        waits(&server, "novatenant/waits", condition);
    }
    let expected = [
        ("READY", "True"),
        ("REASON", "Ready"),
        ("TENANT-STATE", "Active"),
        ("NAMESPACES", "2/2"),
        ("APPS", "0/0"),
        ("QUOTA", "75% cpu"),
    ];
    shows(&server, "novat", "waits", &expected);
}

#[tokio::test]
async fn for_a_command() {
    let server = server();
    let spec = CommandSpec {
        command_id: "c1".to_owned(),
        key: "tenant/t".to_owned(),
        kind: "apply-tenant".to_owned(),
        revision: 3,
        stored_at: "2026-01-01T00:00:00.000Z".to_owned(),
        ..CommandSpec::default()
    };
    let record = serde_json::to_value(NovaCommand::new("waits", spec.clone())).unwrap();
    let mut record = json!({ "apiVersion": record["apiVersion"], "kind": record["kind"], "spec": record["spec"] });
    record["metadata"] = json!({ "name": "waits", "namespace": NAMESPACE });
    apply(&server, &record).unwrap();
    let records: Api<NovaCommand> = Api::namespaced(client(&server).await.client(), NAMESPACE);
    for progress in [
        CommandProgress::running("Applied", "waiting for the tenant to become ready"),
        CommandProgress::succeeded("Ready", "the tenant is ready"),
    ] {
        let written = status::update(&records, "waits", |record| {
            let next = outcome::advance(&spec, record.status.as_ref(), &progress, "2026-01-01T00:00:01.000Z");
            record.status = Some(next.unwrap());
            true
        });
        written.await.unwrap().unwrap();
    }
    waits(&server, "novacommand/waits", "Complete");
    waits(&server, "novacommand/waits", "Succeeded");
    shows(
        &server,
        "novac",
        "waits",
        &[("STATE", "succeeded"), ("REASON", "Ready"), ("MESSAGE", "the tenant is ready")],
    );
}

#[tokio::test]
async fn for_a_usage_report() {
    const WINDOW: &str = "w1700000000-100";
    let server = server();
    let client = client(&server).await.client();
    let condition = |kind: &str, status: &str| {
        let at = "2026-01-01T00:00:00Z";
        json!({ "type": kind, "status": status, "reason": "Sealed", "message": "", "lastTransitionTime": at })
    };
    let status = |fields| serde_json::from_value(fields).unwrap();
    let open = status(json!({ "checkpoint": "AA==", "conditions": [condition("Sealed", "False")] }));
    let written = usage::write(&client, NAMESPACE, WINDOW, open, None).await.unwrap();
    let usage::Written::Stored(version) = written else { panic!("{written:?}") };
    let sealed = status(json!({ "manifest": "AA==", "records": 2,
        "conditions": [condition("Sealed", "True"), condition("Received", "False")] }));
    let again = usage::write(&client, NAMESPACE, WINDOW, sealed, Some(&version)).await.unwrap();
    assert!(matches!(again, usage::Written::Stored(_)), "{again:?}");
    waits(&server, &format!("novausagereport/{WINDOW}"), "Sealed");
    shows(&server, "novau", WINDOW, &[("SEALED", "True"), ("RECEIVED", "False"), ("RECORDS", "2")]);
}

#[tokio::test]
async fn for_the_cluster_s_configuration() {
    let server = crate::started();
    let reporter = StatusReporter::new(&client(&server).await);
    reporter.open().await.unwrap();
    shows(&server, "nova", "default", &[("READY", "Unknown"), ("REASON", "NotReached"), ("CONNECTED", "Unknown")]);
    let mut found = ConditionSet::new();
    for step in kubenova_crds::cluster_config::condition::JOIN_ORDER {
        found.set_true(step, "Done", "it holds");
    }
    reporter.report(&found).await.unwrap();
    waits(&server, "novaclusterconfig/default", "BusConnected");
    waits(&server, "novaclusterconfig/default", "Ready");
    shows(&server, "nova", "default", &[("READY", "True"), ("CONNECTED", "True")]);
}
