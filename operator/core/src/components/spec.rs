//! A component as NovaClusterConfig configures it: the part that all have, and rules that a schema cannot say.

use super::{component::Component, public_url as url};
use kubenova_crds::components::{
    Component as ComponentSpec, Components, Endpoint, NodeOperator, Placement, ServiceType, TolerationOperator,
};

/// The part of a component's configuration that every component has.
#[must_use]
pub const fn common(components: &Components, component: Component) -> &ComponentSpec {
    match component {
        Component::Capsule => &components.capsule.component,
        Component::KubeVela => &components.kubevela.component,
        Component::CapsuleProxy => &components.capsule_proxy.component,
    }
}

/// The version to install.
#[must_use]
pub fn version(components: &Components, component: Component) -> &str {
    match common(components, component).version.trim_start_matches('v') {
        "" => component.default_version(),
        version => version,
    }
}

/// What is wrong with a component's configuration, as a sentence that names the field; `None` when nothing is.
#[must_use]
pub fn problem(components: &Components, component: Component) -> Option<String> {
    let at = |problem: String| format!("spec.components.{}.{problem}", component.spec_key());
    let own = match component {
        Component::CapsuleProxy => {
            endpoint_problem(&components.capsule_proxy.public_url, &components.capsule_proxy.endpoint)
        }
        Component::Capsule | Component::KubeVela => None,
    };
    placement_problem(&common(components, component).placement).or(own).map(at)
}

fn placement_problem(placement: &Placement) -> Option<String> {
    for (index, toleration) in placement.tolerations.iter().enumerate() {
        let at = format!("placement.tolerations[{index}]");
        match toleration.operator {
            TolerationOperator::Exists if !toleration.value.is_empty() => {
                return Some(format!("{at} has a value and operator Exists; leave the value out or use Equal"));
            }
            TolerationOperator::Equal if toleration.key.is_empty() => {
                return Some(format!("{at} has no key; name one, or use operator Exists to tolerate every taint"));
            }
            _ => {}
        }
    }
    for (index, requirement) in placement.node_affinity.iter().enumerate() {
        let needs_values = matches!(requirement.operator, NodeOperator::In | NodeOperator::NotIn);
        if needs_values == requirement.values.is_empty() {
            let rule = if needs_values { "needs values" } else { "takes no values" };
            return Some(format!("placement.nodeAffinity[{index}]: operator {:?} {rule}", requirement.operator));
        }
    }
    None
}

fn endpoint_problem(public_url: &str, endpoint: &Endpoint) -> Option<String> {
    if !public_url.is_empty() && url::host(public_url).is_none() {
        return Some(format!("publicURL {public_url:?} is not of the form https://<host>[:<port>]"));
    }
    let is_published_by_host = endpoint.ingress.is_some() || endpoint.gateway.is_some();
    if is_published_by_host && public_url.is_empty() {
        return Some(
            "endpoint has an ingress or a gateway, which need the host of publicURL; set publicURL".to_owned(),
        );
    }
    let service = &endpoint.service;
    if service.node_port.is_some() && service.type_ != ServiceType::NodePort {
        return Some("endpoint.service.nodePort is for type NodePort; set that type or leave it out".to_owned());
    }
    let is_for_load_balancer =
        !service.load_balancer_class.is_empty() || !service.load_balancer_source_ranges.is_empty();
    if is_for_load_balancer && service.type_ != ServiceType::LoadBalancer {
        return Some(
            "endpoint.service.loadBalancerClass and loadBalancerSourceRanges are for type LoadBalancer; set that type or \
             leave them out"
                .to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::components::{EndpointIngress, EndpointService, NodeRequirement, Toleration};

    fn proxy(public_url: &str, endpoint: Endpoint) -> Option<String> {
        let mut components = Components::default();
        components.capsule_proxy.public_url = public_url.to_owned();
        components.capsule_proxy.endpoint = endpoint;
        problem(&components, Component::CapsuleProxy)
    }

    fn placed(placement: Placement) -> Option<String> {
        let mut components = Components::default();
        components.kubevela.component.placement = placement;
        assert_eq!(
            problem(&components, Component::Capsule),
            None,
            "another component's configuration is no fault of it"
        );
        problem(&components, Component::KubeVela)
    }

    #[test]
    fn an_empty_version_is_the_one_of_this_operator() {
        let mut components = Components::default();
        assert_eq!(version(&components, Component::Capsule), Component::Capsule.default_version());
        components.capsule.component.version = "v1.2.3".to_owned();
        assert_eq!(version(&components, Component::Capsule), "1.2.3");
    }

    #[test]
    fn an_endpoint_that_contradicts_itself_is_named() {
        let service = |service: EndpointService| Endpoint { service, ..Endpoint::default() };
        assert_eq!(proxy("", Endpoint::default()), None);
        assert!(proxy("http://t", Endpoint::default()).unwrap().contains("capsuleProxy.publicURL"));
        let ingress = Endpoint { ingress: Some(EndpointIngress::default()), ..Endpoint::default() };
        assert_eq!(proxy("https://t.example", ingress.clone()), None);
        assert!(proxy("", ingress).unwrap().contains("set publicURL"));
        let port = EndpointService { node_port: Some(30_443), ..EndpointService::default() };
        assert!(proxy("", service(port.clone())).unwrap().contains("nodePort"));
        assert_eq!(proxy("", service(EndpointService { type_: ServiceType::NodePort, ..port })), None);
        let class = EndpointService { load_balancer_class: "metal".to_owned(), ..EndpointService::default() };
        assert!(proxy("", service(class.clone())).unwrap().contains("loadBalancerClass"));
        assert_eq!(proxy("", service(EndpointService { type_: ServiceType::LoadBalancer, ..class })), None);
    }

    #[test]
    fn a_placement_that_the_scheduler_would_refuse_is_named() {
        let toleration = |toleration| Placement { tolerations: vec![toleration], ..Placement::default() };
        assert!(placed(toleration(Toleration::default())).unwrap().contains("kubevela.placement.tolerations[0]"));
        let exists = Toleration { operator: TolerationOperator::Exists, ..Toleration::default() };
        assert_eq!(placed(toleration(exists.clone())), None, "tolerates every taint");
        assert!(placed(toleration(Toleration { value: "x".to_owned(), ..exists })).is_some());
        let requirement = |operator, values: &[&str]| Placement {
            node_affinity: vec![NodeRequirement {
                key: "zone".to_owned(),
                operator,
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
            ..Placement::default()
        };
        assert_eq!(placed(requirement(NodeOperator::In, &["a"])), None);
        assert!(placed(requirement(NodeOperator::In, &[])).unwrap().contains("needs values"));
        assert!(placed(requirement(NodeOperator::Exists, &["a"])).unwrap().contains("takes no values"));
    }
}
