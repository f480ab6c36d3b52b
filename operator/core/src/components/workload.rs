//! What is configured of a component's Deployment, written into it after its chart was rendered: charts name these things
//! differently, and some have no value for them.

use super::{Component, object::Key};
use kubenova_crds::components::{
    Component as ComponentSpec, Images, NodeRequirement, Placement, ResourceAmounts, Resources, Spread,
};
use serde_json::{Map, Value, json};

/// Shapes one object of a component; everything but its Deployments stays as it is.
pub fn shape(component: Component, spec: &ComponentSpec, object: &mut Value) {
    let Some(key) = Key::of(object).filter(|key| key.group == "apps" && key.kind == "Deployment") else { return };
    let is_controller = key.name == component.deployment();
    let selector = object["spec"]["selector"].clone();
    if is_controller {
        object["spec"]["replicas"] = json!(spec.replicas.max(1));
    }
    object["spec"]["strategy"] = strategy(spec.host_network);
    let Some(pod) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) else { return };
    place(&spec.placement, &selector, pod);
    if spec.host_network {
        pod.insert("hostNetwork".to_owned(), json!(true));
        pod.insert("dnsPolicy".to_owned(), json!("ClusterFirstWithHostNet"));
    }
    pull(&spec.images, pod);
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (index, container) in containers.filter_map(Value::as_object_mut).enumerate() {
            let is_first = list == "containers" && index == 0;
            image(&spec.images, is_controller && is_first, container);
            if is_controller && is_first {
                resources(&spec.resources, container);
            }
        }
    }
}

/// The budget that keeps one replica through a drain; `None` with a single replica, where it would block every drain.
#[must_use]
pub fn disruption_budget(component: Component, spec: &ComponentSpec, deployment: &Value) -> Option<Value> {
    let key = Key::of(deployment)?;
    let is_controller = key.kind == "Deployment" && key.name == component.deployment();
    (is_controller && spec.replicas > 1).then(|| {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "spec": {"maxUnavailable": 1, "selector": deployment["spec"]["selector"]},
        })
    })
}

/// The former pods go on serving until the new ones are ready. In the node's network both want the same port, so there the
/// former one goes first.
fn strategy(host_network: bool) -> Value {
    let (surge, unavailable) = if host_network { (0, 1) } else { (1, 0) };
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn place(placement: &Placement, selector: &Value, pod: &mut Map<String, Value>) {
    if !placement.node_selector.is_empty() {
        pod.insert("nodeSelector".to_owned(), json!(placement.node_selector));
    }
    if !placement.tolerations.is_empty() {
        let tolerations = serde_json::to_value(&placement.tolerations).unwrap_or_default();
        pod.insert("tolerations".to_owned(), tolerations);
    }
    if !placement.priority_class_name.is_empty() {
        pod.insert("priorityClassName".to_owned(), json!(placement.priority_class_name));
    }
    // An empty name is none; server-side apply would own the empty text.
    pod.retain(|key, value| key != "priorityClassName" || value.as_str().is_some_and(|name| !name.is_empty()));
    pod.insert("affinity".to_owned(), affinity(placement, selector));
}

fn affinity(placement: &Placement, selector: &Value) -> Value {
    let mut affinity = Map::new();
    if !placement.node_affinity.is_empty() {
        let expressions: Vec<Value> = placement.node_affinity.iter().map(expression).collect();
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]});
        affinity.insert("nodeAffinity".to_owned(), json!({"requiredDuringSchedulingIgnoredDuringExecution": required}));
    }
    let term = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    match placement.spread {
        Spread::Preferred => {
            let preferred = json!([{"weight": 100, "podAffinityTerm": term}]);
            let rule = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
            affinity.insert("podAntiAffinity".to_owned(), rule);
        }
        Spread::Required => {
            let rule = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
            affinity.insert("podAntiAffinity".to_owned(), rule);
        }
        Spread::None => {}
    }
    Value::Object(affinity)
}

fn expression(requirement: &NodeRequirement) -> Value {
    let mut expression = json!({"key": requirement.key, "operator": requirement.operator});
    if !requirement.values.is_empty() {
        expression["values"] = json!(requirement.values);
    }
    expression
}

fn pull(images: &Images, pod: &mut Map<String, Value>) {
    if !images.pull_secrets.is_empty() {
        let secrets: Vec<Value> = images.pull_secrets.iter().map(|name| json!({"name": name})).collect();
        pod.insert("imagePullSecrets".to_owned(), Value::Array(secrets));
    }
}

fn image(images: &Images, is_controller: bool, container: &mut Map<String, Value>) {
    if let Some(present) = container.get("image").and_then(Value::as_str) {
        let digest = if is_controller { images.digest.as_str() } else { "" };
        let image = reference(present, &images.registry, digest);
        container.insert("image".to_owned(), Value::from(image));
    }
    if let Some(policy) = images.pull_policy {
        container.insert("imagePullPolicy".to_owned(), json!(policy));
    }
}

/// An image's reference from another registry, by digest if one is given.
fn reference(image: &str, registry: &str, digest: &str) -> String {
    let path = if registry.is_empty() { image.to_owned() } else { format!("{registry}/{}", without_registry(image)) };
    if digest.is_empty() {
        return path;
    }
    let name = path.split_once('@').map_or(path.as_str(), |(name, _)| name);
    let folder_end = name.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name[folder_end..].find(':').map_or(name.len(), |colon| folder_end + colon);
    format!("{}@{digest}", &name[..tag])
}

/// The first part of a reference is a registry when it could be a host: with a dot, a port, or `localhost`.
fn without_registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
        _ => image,
    }
}

fn resources(resources: &Resources, container: &mut Map<String, Value>) {
    let present = container.entry("resources").or_insert_with(|| json!({}));
    if !present.is_object() {
        *present = json!({});
    }
    for (list, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, amount) in amounts_of(amounts) {
            present[list][name] = json!(amount);
        }
    }
}

fn amounts_of(amounts: &ResourceAmounts) -> impl Iterator<Item = (&'static str, &str)> {
    [("cpu", amounts.cpu.as_str()), ("memory", amounts.memory.as_str())]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::components::{NodeOperator, PullPolicy, Toleration, TolerationOperator};

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "capsule-controller-manager", "namespace": "capsule-system"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "capsule"}}, "template": {"spec": {
                "priorityClassName": null,
                "containers": [{
                    "name": "manager", "image": "ghcr.io/projectcapsule/capsule:v0.14.0", "imagePullPolicy": "IfNotPresent",
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                }],
            }}}
        })
    }

    fn shaped(spec: &ComponentSpec) -> Value {
        let mut deployment = deployment();
        shape(Component::Capsule, spec, &mut deployment);
        deployment
    }

    #[test]
    fn images_come_from_the_sites_registry_by_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let images = Images {
            registry: "registry.test:5000/mirror".to_owned(),
            pull_secrets: vec!["pull".to_owned()],
            digest: digest.clone(),
            pull_policy: Some(PullPolicy::Always),
        };
        let pod = shaped(&ComponentSpec { images, ..ComponentSpec::default() })["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        assert_eq!(container["image"], format!("registry.test:5000/mirror/projectcapsule/capsule@{digest}"));
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    }

    #[test]
    fn a_reference_keeps_what_is_not_configured() {
        assert_eq!(reference("oamdev/vela-core:v1", "", ""), "oamdev/vela-core:v1");
        assert_eq!(reference("oamdev/vela-core:v1", "r.test", ""), "r.test/oamdev/vela-core:v1");
        assert_eq!(reference("localhost/a/b:1", "r.test", ""), "r.test/a/b:1");
        assert_eq!(reference("r.test:5000/a/b:1", "", "sha256:0"), "r.test:5000/a/b@sha256:0");
        assert_eq!(reference("r.test:5000/a/b", "", "sha256:0"), "r.test:5000/a/b@sha256:0");
        assert_eq!(reference("a:1@sha256:1", "", "sha256:0"), "a@sha256:0");
    }

    #[test]
    fn amounts_that_are_not_configured_stay_the_charts() {
        let amounts = |cpu: &str, memory: &str| ResourceAmounts { cpu: cpu.to_owned(), memory: memory.to_owned() };
        let resources = Resources { requests: amounts("", "64Mi"), limits: amounts("2", "") };
        let shaped = shaped(&ComponentSpec { resources, ..ComponentSpec::default() });
        let container = &shaped["spec"]["template"]["spec"]["containers"][0];
        let expected = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"memory": "64Mi"}});
        assert_eq!(container["resources"], expected);
    }

    #[test]
    fn pods_are_placed_as_configured_and_spread_over_nodes() {
        let placement = Placement {
            node_selector: [("zone".to_owned(), "a".to_owned())].into(),
            tolerations: vec![Toleration {
                key: "dedicated".to_owned(),
                operator: TolerationOperator::Exists,
                ..Toleration::default()
            }],
            node_affinity: vec![NodeRequirement {
                key: "gpu".to_owned(),
                operator: NodeOperator::DoesNotExist,
                values: Vec::new(),
            }],
            spread: Spread::Required,
            priority_class_name: "platform".to_owned(),
        };
        let pod = shaped(&ComponentSpec { placement, ..ComponentSpec::default() })["spec"]["template"]["spec"].clone();
        assert_eq!(pod["nodeSelector"], json!({"zone": "a"}));
        assert_eq!(pod["tolerations"], json!([{"key": "dedicated", "operator": "Exists"}]));
        assert_eq!(pod["priorityClassName"], "platform");
        let node =
            pod.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0");
        assert_eq!(node.unwrap(), &json!({"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}));
        let spread = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(spread["labelSelector"], json!({"matchLabels": {"app": "capsule"}}));
        let plain = shaped(&ComponentSpec::default());
        assert!(plain["spec"]["template"]["spec"].get("priorityClassName").is_none(), "an empty name is no name");
    }

    #[test]
    fn the_former_pods_serve_until_the_new_ones_do_except_on_the_port_of_a_node() {
        let rolling = |spec: &ComponentSpec| shaped(spec)["spec"]["strategy"]["rollingUpdate"].clone();
        assert_eq!(rolling(&ComponentSpec::default()), json!({"maxSurge": 1, "maxUnavailable": 0}));
        let on_the_node = ComponentSpec { host_network: true, ..ComponentSpec::default() };
        assert_eq!(rolling(&on_the_node), json!({"maxSurge": 0, "maxUnavailable": 1}));
        let pod = shaped(&on_the_node)["spec"]["template"]["spec"].clone();
        assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&json!(true), &json!("ClusterFirstWithHostNet")));
    }

    #[test]
    fn several_replicas_have_a_disruption_budget_and_one_has_none() {
        let budget = |replicas| {
            let spec = ComponentSpec { replicas, ..ComponentSpec::default() };
            disruption_budget(Component::Capsule, &spec, &deployment())
        };
        assert_eq!(budget(1), None);
        let two = budget(2).unwrap();
        assert_eq!(two["spec"], json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "capsule"}}}));
        assert_eq!(
            Key::of(&two).unwrap().to_string(),
            "policy/v1/PodDisruptionBudget/capsule-system/capsule-controller-manager"
        );
        assert_eq!(shaped(&ComponentSpec { replicas: 3, ..ComponentSpec::default() })["spec"]["replicas"], 3);
    }

    #[test]
    fn other_objects_and_other_deployments_keep_their_replicas() {
        let spec = ComponentSpec { replicas: 3, ..ComponentSpec::default() };
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
        let before = service.clone();
        shape(Component::Capsule, &spec, &mut service);
        assert_eq!(service, before);
        let mut other = deployment();
        other["metadata"]["name"] = json!("helper");
        shape(Component::Capsule, &spec, &mut other);
        assert_eq!(other["spec"]["replicas"], 1);
        assert_eq!(disruption_budget(Component::Capsule, &spec, &other), None);
    }
}
