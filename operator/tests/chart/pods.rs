//! Pods: what they may do, where they run, which images they use.

use crate::rendered::{chart, objects, one, pods, render, render_with};
use serde_json::{Value, json};

/// Values that have the chart make every pod that it can.
const EVERY_POD: [&str; 1] = ["leaf.enabled=true"];

#[test]
fn every_container_is_restricted_and_only_the_leaf_node_names_a_user_which_openshift_does_not_get() {
    for openshift in [false, true] {
        let arguments: &[&str] = if openshift { &["--api-versions", "security.openshift.io/v1"] } else { &[] };
        let all = render_with(&chart(), "", &EVERY_POD, arguments).unwrap();
        let pods = pods(&all);
        assert_eq!(
            pods.len(),
            4,
            "Operator, leaf node, preflight, test: {:?}",
            pods.iter().map(|it| &it.0).collect::<Vec<_>>()
        );
        for (name, pod) in &pods {
            let context = &pod["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{name}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            assert_eq!(context["fsGroup"], Value::Null, "{name}");
            let user = if name == "kubenova-leaf" && !openshift { json!(65532) } else { Value::Null };
            assert_eq!(context["runAsUser"], user, "{name}");
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
                assert_eq!(context["runAsUser"], Value::Null, "{name}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                assert!(volume.get("hostPath").is_none(), "{name}");
                let mode = &volume["secret"]["defaultMode"];
                assert!(mode.is_null() || *mode == 0o444, "a file must be readable for any user: {name} {volume}");
            }
        }
    }
}

#[test]
fn one_value_moves_every_image_to_a_mirror_and_an_image_s_own_registry_wins() {
    let values = [EVERY_POD[0], "global.imageRegistry=mirror.example:5000/", "global.imagePullSecrets={mirror}"];
    let all = objects("", &values);
    for (name, pod) in pods(&all) {
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "mirror"}]), "{name}");
        for container in pod["containers"].as_array().unwrap() {
            let image = container["image"].as_str().unwrap();
            assert!(image.starts_with("mirror.example:5000/") && !image.contains("//"), "{name}: {image}");
        }
    }
    let own = objects("templates/deployment.yaml", &["global.imageRegistry=mirror", "image.registry=own"]);
    let image = &pods(&own)[0].1["containers"][0]["image"];
    assert!(image.as_str().unwrap().starts_with("own/kubenova/operator:"), "{image}");
    let digest = format!("image.digest=sha256:{}", "0".repeat(64));
    let pinned = objects("templates/deployment.yaml", &[&digest, "image.tag=x"]);
    assert!(pods(&pinned)[0].1["containers"][0]["image"].as_str().unwrap().contains("operator@sha256:000"));
}

#[test]
fn what_a_pod_may_have_reaches_it() {
    let values = [
        "replicas=2",
        "priorityClassName=high",
        "dnsPolicy=None",
        "dnsConfig.nameservers={192.0.2.1}",
        "hostAliases[0].ip=192.0.2.2",
        "hostAliases[0].hostnames={manager.example}",
        "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=topology.kubernetes.io/zone",
        "nodeSelector.pool=system",
        "tolerations[0].operator=Exists",
        "serviceAccount.annotations.a=b",
        "commonLabels.team=edge",
        "podLabels.x=y",
        "podSecurityContext.fsGroup=7",
        "securityContext.runAsUser=8",
    ];
    let all = objects("", &values);
    let deployment = one(&all, "Deployment", "kubenova-operator");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let pod = &deployment["spec"]["template"]["spec"];
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"]["matchLabels"], deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway");
    assert_eq!(
        (&pod["securityContext"]["fsGroup"], &pod["containers"][0]["securityContext"]["runAsUser"]),
        (&json!(7), &json!(8))
    );
    for (name, pod) in pods(&all) {
        assert_eq!(pod["dnsPolicy"], "None", "{name}");
        assert_eq!(pod["dnsConfig"]["nameservers"], json!(["192.0.2.1"]), "{name}");
        assert_eq!(pod["hostAliases"][0]["hostnames"], json!(["manager.example"]), "{name}");
        assert_eq!(pod["priorityClassName"], "high", "{name}");
        assert_eq!(pod["nodeSelector"]["pool"], "system", "{name}");
    }
    assert_eq!(one(&all, "PodDisruptionBudget", "kubenova-operator")["spec"]["maxUnavailable"], 1);
    assert_eq!(one(&all, "ServiceAccount", "kubenova-operator")["metadata"]["annotations"]["a"], "b");
    for object in all.iter().filter(|it| it["kind"] != "CustomResourceDefinition") {
        assert_eq!(object["metadata"]["labels"]["team"], "edge", "{} {}", object["kind"], object["metadata"]["name"]);
    }
    assert!(objects("", &[]).iter().all(|it| it["kind"] != "PodDisruptionBudget"), "one replica must be evictable");
    let refused = render("", &["commonLabels.app\\.kubernetes\\.io/name=x"]).unwrap_err();
    assert!(refused.contains("'app.kubernetes.io/name'"), "{refused}");
}

#[test]
fn outbound_connections_are_denied_but_those_that_are_listed() {
    let policy = |values: &[&str]| {
        let all = objects("templates/networkpolicy.yaml", values);
        one(&all, "NetworkPolicy", "kubenova-operator")["spec"].clone()
    };
    let usual = policy(&[]);
    assert_eq!((&usual["policyTypes"], &usual["ingress"]), (&json!(["Ingress"]), &Value::Null), "nothing comes in");
    assert!(policy(&["metrics.enabled=true"])["ingress"][0]["ports"][0]["port"] == "metrics");
    let closed = policy(&[
        "networkPolicy.egress.enabled=true",
        "networkPolicy.egress.managerPorts={9443}",
        "networkPolicy.egress.managerCidrs={192.0.2.0/24}",
        "leaf.enabled=true",
    ]);
    assert_eq!(closed["policyTypes"], json!(["Ingress", "Egress"]));
    let rules = closed["egress"].as_array().unwrap();
    assert_eq!(rules.len(), 4, "DNS, API server, Manager, leaf node: {rules:?}");
    let to_manager =
        json!({"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"protocol": "TCP", "port": 9443}]});
    assert_eq!(rules[2], to_manager);
    assert!(render("", &["networkPolicy.egress.managerPorts={}"]).is_err(), "an empty list would allow every port");
}

#[test]
fn the_namespace_of_the_operator_enforces_restricted_pod_security_where_the_chart_creates_it() {
    assert!(objects("", &[]).iter().all(|it| it["metadata"]["name"] != "kubenova-system"), "helm makes it");
    let all = objects("", &["namespaces.createOwn=true"]);
    let namespace = one(&all, "Namespace", "kubenova-system");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}
