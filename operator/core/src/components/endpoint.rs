//! How Capsule Proxy is reached from outside the cluster: its Service, and an Ingress or a route of a Gateway that pass TLS
//! through to it.

use super::{component::Component, object::Key, settings::Settings};
use crate::conditions::ConditionSet;
use kubenova_crds::{
    cluster_config::condition,
    components::{Components, EndpointGateway, EndpointIngress, EndpointService, ServiceType},
};
use serde_json::{Value, json};

/// Name of its Service, its Ingress and its route.
const NAME: &str = "capsule-proxy";

/// Sets the type of its Service.
pub(super) fn expose(service: &EndpointService, object: &mut Value) {
    let is_its_service =
        Key::of(object).is_some_and(|key| key.group.is_empty() && key.kind == "Service" && key.name == NAME);
    if !is_its_service {
        return;
    }
    object["spec"]["type"] = json!(service.type_);
    if let Some(port) = service.node_port.filter(|_| service.type_ == ServiceType::NodePort) {
        object["spec"]["ports"][0]["nodePort"] = json!(port);
    }
    if service.type_ == ServiceType::LoadBalancer {
        if !service.load_balancer_class.is_empty() {
            object["spec"]["loadBalancerClass"] = json!(service.load_balancer_class);
        }
        if !service.load_balancer_source_ranges.is_empty() {
            object["spec"]["loadBalancerSourceRanges"] = json!(service.load_balancer_source_ranges);
        }
    }
    if !service.annotations.is_empty() {
        object["metadata"]["annotations"] = json!(service.annotations);
    }
}

/// The Ingress and the route that are configured, to the port of the rendered Service.
pub(super) fn routes(settings: &Settings, objects: &[Value]) -> Vec<Value> {
    let endpoint = &settings.components.capsule_proxy.endpoint;
    let Some(host) = settings.public_host() else { return Vec::new() };
    let service = objects.iter().find(|object| object["kind"] == "Service" && object["metadata"]["name"] == NAME);
    let Some(port) = service.map(|service| &service["spec"]["ports"][0]["port"]) else { return Vec::new() };
    let ingress = endpoint.ingress.as_ref().map(|configured| ingress(configured, &host, port));
    let route = endpoint.gateway.as_ref().map(|configured| route(configured, &host, port));
    ingress.into_iter().chain(route).collect()
}

fn ingress(configured: &EndpointIngress, host: &str, port: &Value) -> Value {
    let backend = json!({"service": {"name": NAME, "port": {"number": port}}});
    let mut ingress = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": NAME, "namespace": Component::CapsuleProxy.namespace()},
        "spec": {
            "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            "tls": [{"hosts": [host]}],
        },
    });
    if !configured.class_name.is_empty() {
        ingress["spec"]["ingressClassName"] = json!(configured.class_name);
    }
    if !configured.annotations.is_empty() {
        ingress["metadata"]["annotations"] = json!(configured.annotations);
    }
    ingress
}

fn route(configured: &EndpointGateway, host: &str, port: &Value) -> Value {
    let mut parent = json!({"name": configured.name, "namespace": configured.namespace});
    if !configured.section_name.is_empty() {
        parent["sectionName"] = json!(configured.section_name);
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2",
        "kind": "TLSRoute",
        "metadata": {"name": NAME, "namespace": Component::CapsuleProxy.namespace()},
        "spec": {
            "parentRefs": [parent],
            "hostnames": [host],
            "rules": [{"backendRefs": [{"name": NAME, "port": port}]}],
        },
    })
}

/// `TenantEndpointKnown`: whether tenants' kubeconfigs have an address.
#[must_use]
pub fn condition(components: &Components) -> ConditionSet {
    let proxy = &components.capsule_proxy;
    let mut set = ConditionSet::new();
    if !proxy.component.enabled {
        let message = "Capsule Proxy is off, so no kubeconfig can be issued; switch it on with \
                       spec.components.capsuleProxy.enabled and give it a publicURL";
        set.set_false(condition::TENANT_ENDPOINT_KNOWN, "ProxyDisabled", message);
    } else if proxy.public_url.is_empty() {
        let message = "no kubeconfig can be issued before tenants have an address of Capsule Proxy; publish it \
                       (spec.components.capsuleProxy.endpoint) and set spec.components.capsuleProxy.publicURL";
        set.set_false(condition::TENANT_ENDPOINT_KNOWN, "NoPublicURL", message);
    } else {
        let message = format!("tenants reach the API under {}", proxy.public_url);
        set.set_true(condition::TENANT_ENDPOINT_KNOWN, "Known", message);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::tests::settings;
    use std::collections::BTreeMap;

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": {
            "type": "ClusterIP", "ports": [{"port": 9001}]
        }})
    }

    #[test]
    fn the_service_has_the_type_that_is_configured() {
        let mut object = service();
        expose(&EndpointService::default(), &mut object);
        assert_eq!(object, service());
        let balancer = EndpointService {
            type_: ServiceType::LoadBalancer,
            load_balancer_class: "metal".to_owned(),
            load_balancer_source_ranges: vec!["10.0.0.0/8".to_owned()],
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            node_port: None,
        };
        expose(&balancer, &mut object);
        assert_eq!(object["spec"]["type"], "LoadBalancer");
        assert_eq!(object["spec"]["loadBalancerClass"], "metal");
        assert_eq!(object["spec"]["loadBalancerSourceRanges"], json!(["10.0.0.0/8"]));
        assert_eq!(object["metadata"]["annotations"], json!({"a": "b"}));
        let mut object = service();
        let port =
            EndpointService { type_: ServiceType::NodePort, node_port: Some(30_443), ..EndpointService::default() };
        expose(&port, &mut object);
        assert_eq!(object["spec"]["ports"][0]["nodePort"], 30_443);
        let mut metrics = service();
        metrics["metadata"]["name"] = json!("capsule-proxy-metrics");
        expose(&port, &mut metrics);
        assert_eq!(metrics["spec"]["type"], "ClusterIP", "only what tenants reach");
    }

    #[test]
    fn an_ingress_and_a_route_carry_the_public_host_to_the_service() {
        let mut settings = settings();
        assert!(routes(&settings, &[service()]).is_empty());
        settings.components.capsule_proxy.endpoint.ingress =
            Some(EndpointIngress { class_name: "nginx".to_owned(), ..EndpointIngress::default() });
        settings.components.capsule_proxy.endpoint.gateway = Some(EndpointGateway {
            name: "edge".to_owned(),
            namespace: "infra".to_owned(),
            section_name: String::new(),
        });
        let routes = routes(&settings, &[service()]);
        let (ingress, route) = (&routes[0], &routes[1]);
        assert_eq!(ingress["spec"]["rules"][0]["host"], "tenants.example.test");
        assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
        let backend = ingress.pointer("/spec/rules/0/http/paths/0/backend/service/port/number");
        assert_eq!(backend, Some(&json!(9001)));
        assert_eq!(route["spec"]["parentRefs"], json!([{"name": "edge", "namespace": "infra"}]));
        assert_eq!(route["spec"]["rules"][0]["backendRefs"], json!([{"name": NAME, "port": 9001}]));
        assert_eq!(route["metadata"]["namespace"], Component::CapsuleProxy.namespace());
    }

    #[test]
    fn tenants_have_an_address_when_the_proxy_is_on_and_published() {
        let mut components = Components::default();
        let reason = |components: &Components| {
            let set = condition(components);
            set.get(condition::TENANT_ENDPOINT_KNOWN).map(|update| update.reason.clone()).unwrap()
        };
        assert_eq!(reason(&components), "ProxyDisabled");
        components.capsule_proxy.component.enabled = true;
        assert_eq!(reason(&components), "NoPublicURL");
        components.capsule_proxy.public_url = "https://t.example".to_owned();
        assert_eq!(reason(&components), "Known");
    }
}
