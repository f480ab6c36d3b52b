//! What stands in the API server already: an object that today's controllers wrote is taken again, and one that our types cannot hold
//! costs the others nothing.

use crate::{NAMESPACE, TENANT, apply, client, server, started};
use kube::{Api, ResourceExt as _};
use kubenova_crds::{labels, tenant::NovaTenant, usage_report::UsageReportStatus};
use kubenova_operator::apiserver::{
    usage::{self, Written},
    verbs,
};
use serde_json::{Value, json};

fn tenant(name: &str, pods: i64) -> Value {
    json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaTenant",
        "metadata": { "name": name, "labels": { labels::TENANT_ID: TENANT } },
        "spec": { "tenantId": TENANT, "quota": { "cpu": "8", "memory": "16Gi", "pods": pods }, "podSecurity": "baseline" } })
}

#[test]
fn what_the_operator_wrote_is_applied_again_without_a_warning() {
    let server = server();
    for _ in 0..2 {
        let said = apply(&server, &tenant("stored", 50)).unwrap();
        assert!(said.contains("serverside-applied") && !said.contains("Warning"), "{said}");
    }
    let stored = server.kubectl_ok(&["get", "novatenant", "stored", "-o", "json", "--show-managed-fields=false"], "");
    let mut stored: Value = serde_json::from_str(&stored).unwrap();
    stored["metadata"] = json!({ "name": "stored" });
    let said = apply(&server, &stored).unwrap();
    assert!(!said.contains("Warning"), "{said}");
}

/// The schemas refuse such objects; one from before them, or written while a definition was weaker, may still be there.
#[tokio::test]
async fn an_object_that_cannot_be_read_hides_no_other() {
    let server = started();
    let crd = "crd/novatenants.kubenova.io";
    let weaken = json!([
        { "op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/quota/properties/pods/format" },
        { "op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/quota/properties/pods/maximum" },
    ]);
    let _patched = server.kubectl_ok(&["patch", crd, "--type=json", "-p", &weaken.to_string()], "");
    // The weaker schema is in use a moment after it was accepted.
    let began = std::time::Instant::now();
    while let Err(said) = apply(&server, &tenant("unreadable", 5_000_000_000)) {
        assert!(began.elapsed().as_secs() < 60, "{said}");
    }
    apply(&server, &tenant("readable", 50)).unwrap();
    let tenants: Api<NovaTenant> = Api::all(client(&server).await.client());
    let listed = verbs::list_whole(&tenants, "").await.unwrap();
    assert!(!listed.is_complete, "who concludes from an absence must know");
    let names: Vec<String> = listed.objects.iter().map(NovaTenant::name_any).collect();
    assert_eq!(names, ["readable"]);
    assert!(verbs::get(&tenants, "unreadable").await.is_err());
    assert!(verbs::get(&tenants, "readable").await.unwrap().is_some());
}

/// Who dies between creating a report and writing its status leaves an empty one behind.
#[tokio::test]
async fn an_empty_usage_report_is_taken_over_and_a_written_one_is_not() {
    const WINDOW: &str = "w1600000000-100";
    let server = server();
    let client = client(&server).await.client();
    let empty = json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaUsageReport",
        "metadata": { "name": WINDOW, "namespace": NAMESPACE }, "spec": { "window": WINDOW } });
    apply(&server, &empty).unwrap();
    let measured =
        |checkpoint: &str| UsageReportStatus { checkpoint: checkpoint.to_owned(), ..UsageReportStatus::default() };
    let write = |status, version| usage::write(&client, NAMESPACE, WINDOW, status, version);
    assert!(matches!(write(measured("AA=="), None).await.unwrap(), Written::Stored(_)));
    assert!(matches!(write(measured("AA=="), None).await.unwrap(), Written::Stored(_)), "the answer was lost");
    assert_eq!(write(measured("BB=="), None).await.unwrap(), Written::Conflict, "another Operator owns the window");
    assert_eq!(write(measured("BB=="), Some("1")).await.unwrap(), Written::Conflict);
    let stored = usage::get(&client, NAMESPACE, WINDOW).await.unwrap().unwrap();
    assert_eq!(stored.status, Some(measured("AA==")));
}
