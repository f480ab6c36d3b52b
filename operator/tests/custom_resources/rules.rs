//! Each rule of the API server: an object it refuses, with the sentence that a person reads, and beside it one it takes.

use crate::{NAMESPACE, TENANT, apply, patch_status, server};
use kubenova_test_apiserver::ApiServer;
use serde_json::{Value, json};

fn tenant(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaTenant", "metadata": { "name": name }, "spec": spec })
}

fn quota(cpu: &str, memory: &str, pods: i64) -> Value {
    json!({ "tenantId": TENANT, "quota": { "cpu": cpu, "memory": memory, "pods": pods } })
}

fn config(name: &str) -> Value {
    json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaClusterConfig", "metadata": { "name": name }, "spec": {} })
}

fn command(name: &str, key: &str, epoch: i64, revision: i64) -> Value {
    json!({
        "apiVersion": "kubenova.io/v1alpha1",
        "kind": "NovaCommand",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "body": "{}", "signature": "a:b", "commandId": "c1", "epoch": epoch, "revision": revision,
            "kind": "apply-tenant", "key": key, "commandSha256": "00", "storedAt": "2026-01-01T00:00:00.000Z" },
    })
}

fn report(name: &str, window: &str) -> Value {
    json!({
        "apiVersion": "kubenova.io/v1alpha1",
        "kind": "NovaUsageReport",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "window": window },
    })
}

#[track_caller]
fn takes(server: &ApiServer, object: &Value) {
    let said = apply(server, object).unwrap();
    assert!(!said.contains("Warning"), "{said}");
}

#[track_caller]
fn refuses(server: &ApiServer, object: &Value, says: &str) {
    let said = apply(server, object).unwrap_err();
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_tenant_is_refused_with_what_to_do() {
    let server = server();
    takes(&server, &tenant(&format!("r{}", "a".repeat(56)), &quota("8", "16Gi", 50)));
    let say_name =
        "the namespaces <name>-owner and <name>-apps are named after it; create the tenant through the Manager";
    refuses(&server, &tenant(&format!("r{}", "a".repeat(57)), &quota("8", "16Gi", 50)), say_name);
    refuses(&server, &tenant("r.dotted", &quota("8", "16Gi", 50)), say_name);
    refuses(&server, &tenant("1r", &quota("8", "16Gi", 50)), say_name);

    let say_id = "tenantId is the id that the Manager gave the tenant";
    refuses(&server, &tenant("rules", &json!({ "tenantId": "acme" })), say_id);
    refuses(&server, &tenant("rules", &json!({ "tenantId": TENANT.to_uppercase() })), say_id);

    for (cpu, memory) in [("0", "0"), ("500m", "1.5Gi"), ("1e3", "128974848")] {
        takes(&server, &tenant("rules", &quota(cpu, memory, 0)));
    }
    refuses(
        &server,
        &tenant("rules", &quota("8 cores", "16Gi", 50)),
        "cpu is a Kubernetes quantity of zero or more, such as 500m or 8",
    );
    refuses(&server, &tenant("rules", &quota("-1", "16Gi", 50)), "cpu is a Kubernetes quantity of zero or more");
    refuses(
        &server,
        &tenant("rules", &quota("8", "16GB", 50)),
        "memory is a Kubernetes quantity of zero or more, such as 512Mi or 16Gi",
    );
    refuses(&server, &tenant("rules", &quota("8", "16Gi", -1)), "should be greater than or equal to 0");
    refuses(&server, &tenant("rules", &quota("8", "16Gi", 5_000_000_000)), "spec.quota.pods");
}

#[test]
fn the_id_of_a_tenant_never_changes() {
    let server = server();
    takes(&server, &tenant("unchanged", &quota("8", "16Gi", 50)));
    takes(&server, &tenant("unchanged", &quota("4", "16Gi", 50)));
    let another = json!({ "tenantId": "0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3e" });
    refuses(
        &server,
        &tenant("unchanged", &another),
        "tenantId never changes, since namespaces and usage belong to this id",
    );
}

#[test]
fn there_is_one_configuration_of_a_cluster() {
    let server = server();
    takes(&server, &config("default"));
    refuses(&server, &config("other"), "there is one, named default; change that one through the Manager");
}

#[test]
fn what_a_component_is_given_is_refused_with_what_to_do() {
    let server = server();
    let with = |component: &str, values: Value| {
        let mut config = config("default");
        config["spec"] = json!({ "components": { component: values } });
        config
    };
    let proxy = |url: &str, endpoint: Value| with("capsuleProxy", json!({ "publicURL": url, "endpoint": endpoint }));
    let url = "https://tenants.example.com:8443";
    for taken in [
        with(
            "capsule",
            json!({ "version": "0.14.0", "images": { "registry": "registry.example.com:5000/mirror",
            "digest": format!("sha256:{}", "0a".repeat(32)) } }),
        ),
        proxy(url, json!({ "ingress": { "className": "nginx" } })),
        proxy("", json!({ "service": { "type": "NodePort", "nodePort": 30_443 } })),
        proxy(url, json!({ "service": { "type": "LoadBalancer", "loadBalancerClass": "a.example/b" } })),
    ] {
        takes(&server, &taken);
    }
    for (refused, says) in [
        (
            with("capsule", json!({ "version": "0.14 or newer" })),
            "a version has letters, digits, dots, dashes and plus signs",
        ),
        (
            with("kubevela", json!({ "images": { "registry": "https://registry.example.com" } })),
            "without https://, such as",
        ),
        (with("kubevela", json!({ "images": { "digest": "0a0a" } })), "a digest is sha256: and 64 hexadecimal digits"),
        (with("capsule", json!({ "replicas": 5_000_000_000_i64 })), "spec.components.capsule.replicas"),
        (
            with("capsuleProxy", json!({ "publicURL": "http://tenants.example.com" })),
            "publicURL is https://<host>[:<port>] without a path",
        ),
        (
            with("capsuleProxy", json!({ "publicURL": "https://tenants.example.com/path" })),
            "publicURL is https://<host>[:<port>] without a path",
        ),
        (
            proxy("", json!({ "ingress": { "className": "nginx" } })),
            "an Ingress or a Gateway is for the host of publicURL",
        ),
        (proxy(url, json!({ "service": { "nodePort": 30_443 } })), "nodePort is for a Service of type NodePort"),
        (
            proxy(url, json!({ "service": { "type": "NodePort", "loadBalancerClass": "a.example/b" } })),
            "for a Service of type LoadBalancer",
        ),
    ] {
        refuses(&server, &refused, says);
    }
}

#[test]
fn a_record_is_about_one_object_and_never_goes_back() {
    let server = server();
    takes(&server, &command("rules", "tenant/a", 2, 7));
    takes(&server, &command("rules", "tenant/a", 2, 7));
    takes(&server, &command("rules", "tenant/a", 3, 8));
    let say_older = "epoch and revision never go down: a newer command about this object is stored";
    refuses(&server, &command("rules", "tenant/a", 2, 9), say_older);
    refuses(&server, &command("rules", "tenant/a", 4, 7), say_older);
    refuses(&server, &command("rules", "tenant/b", 4, 9), "a record is about one object");
}

#[test]
fn the_first_outcome_of_a_command_stays() {
    let server = server();
    takes(&server, &command("ended", "tenant/a", 1, 1));
    let status = |id: &str, state: &str| json!({ "commandId": id, "state": state, "message": state });
    patch_status(&server, "novacommand/ended", &status("c1", "running")).unwrap();
    patch_status(&server, "novacommand/ended", &status("c1", "failed")).unwrap();
    patch_status(&server, "novacommand/ended", &json!({ "message": "more words" })).unwrap();
    for status in [status("c1", "succeeded"), status("c1", "running"), Value::Null] {
        let said = patch_status(&server, "novacommand/ended", &status).unwrap_err();
        assert!(said.contains("a command that has ended does not change its outcome"), "{said}");
    }
    patch_status(&server, "novacommand/ended", &status("c2", "running")).unwrap();
}

#[test]
fn a_sealed_report_never_changes() {
    let server = server();
    takes(&server, &report("w1800000000-3600", "w1800000000-3600"));
    refuses(&server, &report("w1800000000-60", "w1800000000-3600"), "the name of a usage report is its window");
    refuses(&server, &report("yesterday", "yesterday"), "a window is w<start as a Unix time>-<length in seconds>");

    let name = "novausagereport/w1800000000-3600";
    patch_status(&server, name, &json!({ "checkpoint": "AA==" })).unwrap();
    patch_status(&server, name, &json!({ "checkpoint": "BB==" })).unwrap();
    let sealed =
        json!({ "checkpoint": null, "manifest": "AA==", "manifestSignature": "a:b", "payload": "CC==", "records": 3 });
    patch_status(&server, name, &sealed).unwrap();
    patch_status(&server, name, &json!({ "receivedAt": "2026-01-01T00:00:00.000Z" })).unwrap();
    for change in [
        json!({ "manifest": "BB==" }),
        json!({ "manifest": null }),
        json!({ "manifestSignature": "a:c" }),
        json!({ "payload": "AA==" }),
        json!({ "payload": null }),
        json!({ "records": 4 }),
        Value::Null,
    ] {
        let said = patch_status(&server, name, &change).expect_err(&change.to_string());
        assert!(said.contains("a sealed usage report never changes, since bills are made from it"), "{said}");
    }
}
