//! What may stand in the settings of a component. Fields and types are those of the API's bodies; here are the bounds and the rules
//! between fields, so that a cluster is never sent what it refuses.

use super::components::{Component, ComponentName};
use crate::{
    metadata,
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// Longest DNS subdomain, the form of most names in Kubernetes.
const SUBDOMAIN_LENGTH_MAX: usize = 253;
/// Longest DNS label, the form of a namespace's name.
const LABEL_LENGTH_MAX: usize = 63;
/// Longest key of a label or taint: a subdomain, a slash, a name.
const KEY_LENGTH_MAX: usize = 317;
/// Longest registry with its folder.
const REGISTRY_LENGTH_MAX: usize = 255;
/// Longest amount of CPU or memory.
const AMOUNT_LENGTH_MAX: usize = 20;

/// A value with the place where it stands in the request.
struct At<'a> {
    value: &'a Value,
    pointer: Pointer,
}

impl<'a> At<'a> {
    /// A field; null where there is none.
    fn field(&self, name: &str) -> Self {
        Self { value: &self.value[name], pointer: self.pointer.field(name) }
    }

    fn is_there(&self) -> bool {
        !self.value.is_null()
    }

    /// The text; empty where there is none.
    fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| Self { value, pointer: self.pointer.item(index) }).collect()
    }

    fn texts(&self) -> BTreeMap<String, String> {
        let fields = self.value.as_object().into_iter().flatten();
        fields.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Result<(), Refusal> {
        let name = self.pointer.last().unwrap_or_default();
        Err(Refusal::at(Reason::FieldInvalid, self.pointer.to_string(), format!("{name}: {why}")))
    }

    /// Refuses a text that does not have a form; an empty one is the default.
    fn has_form(&self, is_good: impl Fn(&str) -> bool, form: &str) -> Result<(), Refusal> {
        let text = self.text();
        if text.is_empty() || is_good(text) { Ok(()) } else { self.refuse(format!("{text:?} is not {form}")) }
    }

    fn is_subdomain(&self, what: &str) -> Result<(), Refusal> {
        self.has_form(is_subdomain, what)
    }

    fn is_within(&self, min: u64, max: u64) -> Result<(), Refusal> {
        match self.value.as_u64() {
            Some(number) if !(min..=max).contains(&number) => {
                self.refuse(format!("it is {number}, possible is {min} to {max}"))
            }
            _ => Ok(()),
        }
    }

    fn has_at_most(&self, most: usize) -> Result<(), Refusal> {
        let many = self.value.as_array().map_or_else(|| self.value.as_object().map_or(0, |map| map.len()), Vec::len);
        if many > most { self.refuse(format!("{many} entries, the most is {most}")) } else { Ok(()) }
    }
}

fn is_subdomain(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let bytes = text.as_bytes();
    text.len() <= SUBDOMAIN_LENGTH_MAX && is_end(bytes.first()) && is_end(bytes.last()) && text.bytes().all(is_inner)
}

impl Component {
    /// Checks the settings; `field` is the component's JSON pointer.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`] and the pointer of the field.
    pub fn check_settings(&self, name: ComponentName, field: &Pointer) -> Result<(), Refusal> {
        for (setting, text) in &self.settings {
            let pointer = field.field(setting);
            let value: Value = serde_json::from_str(text).map_err(|error| {
                Refusal::at(Reason::FieldInvalid, pointer.to_string(), format!("{setting} is not JSON: {error}"))
            })?;
            let at = At { value: &value, pointer };
            match setting.as_str() {
                "images" => images(&at)?,
                "resources" => resources(&at)?,
                "placement" => placement(&at)?,
                "values" => values(&at, name)?,
                "endpoint" => endpoint(&at, name, &self.public_url)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn images(at: &At<'_>) -> Result<(), Refusal> {
    at.field("registry")
        .has_form(is_registry, "a registry, with a folder or not, such as registry.example.com/mirror")?;
    let secrets = at.field("pullSecrets");
    secrets.has_at_most(8)?;
    for secret in secrets.items() {
        if secret.text().is_empty() {
            return secret.refuse("the name of a Secret is empty");
        }
        secret.is_subdomain("the name of a Secret")?;
    }
    let is_digest = |text: &str| {
        text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    at.field("digest").has_form(is_digest, "a digest: sha256: and 64 hexadecimal digits in lower case")
}

fn is_registry(text: &str) -> bool {
    let mut parts = text.split('/');
    let host = parts.next().unwrap_or_default();
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let good_folder = |part: &str| !part.is_empty() && part.bytes().all(|b| is_lower(b) || b"._-".contains(&b));
    text.len() <= REGISTRY_LENGTH_MAX
        && !name.is_empty()
        && name.bytes().all(|byte| is_lower(byte) || b".-".contains(&byte))
        && port.is_none_or(is_port)
        && parts.all(good_folder)
}

fn resources(at: &At<'_>) -> Result<(), Refusal> {
    for part in ["requests", "limits"] {
        let amounts = at.field(part);
        amounts.field("cpu").has_form(is_cpu, "an amount of CPU such as 2, 0.5 or 500m")?;
        amounts.field("memory").has_form(is_memory, "an amount of memory such as 512Mi or 1Gi")?;
    }
    Ok(())
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_cpu(text: &str) -> bool {
    let is_plain = match text.split_once('.') {
        Some((whole, part)) => are_digits(whole) && are_digits(part) && part.len() <= 3,
        None => are_digits(text.strip_suffix('m').unwrap_or(text)),
    };
    text.len() <= AMOUNT_LENGTH_MAX && is_plain
}

fn is_memory(text: &str) -> bool {
    const UNITS: [&str; 8] = ["Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T"];
    let number = UNITS.iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or(text);
    text.len() <= AMOUNT_LENGTH_MAX && are_digits(number)
}

fn placement(at: &At<'_>) -> Result<(), Refusal> {
    let selector = at.field("nodeSelector");
    selector.has_at_most(16)?;
    metadata::check_labels(&selector.texts(), &selector.pointer, Reason::FieldInvalid)?;
    let (tolerations, affinity) = (at.field("tolerations"), at.field("nodeAffinity"));
    tolerations.has_at_most(16)?;
    tolerations.items().iter().try_for_each(toleration)?;
    affinity.has_at_most(16)?;
    affinity.items().iter().try_for_each(requirement)?;
    at.field("priorityClassName").is_subdomain("the name of a PriorityClass")
}

fn toleration(at: &At<'_>) -> Result<(), Refusal> {
    let (key, value, seconds) = (at.field("key"), at.field("value"), at.field("tolerationSeconds"));
    let exists = at.field("operator").text() == "Exists";
    key.has_form(|text| text.len() <= KEY_LENGTH_MAX, "the key of a taint: it is too long")?;
    value.has_form(|text| text.len() <= LABEL_LENGTH_MAX, "the value of a taint: it is too long")?;
    if key.text().is_empty() && !exists {
        return key.refuse("it is missing; without a key the operator must be Exists, which tolerates every taint");
    }
    if exists && !value.text().is_empty() {
        return value.refuse("operator Exists compares no value; leave it out, or use Equal");
    }
    if seconds.is_there() && at.field("effect").text() != "NoExecute" {
        return seconds.refuse("only effect NoExecute has a time");
    }
    Ok(())
}

fn requirement(at: &At<'_>) -> Result<(), Refusal> {
    let (key, operator, values) = (at.field("key"), at.field("operator"), at.field("values"));
    let label = BTreeMap::from([(key.text().to_owned(), String::new())]);
    if metadata::check_labels(&label, &key.pointer, Reason::FieldInvalid).is_err() {
        return key.refuse(format!("{:?} is not the key of a label", key.text()));
    }
    values.has_at_most(32)?;
    let compares = matches!(operator.text(), "In" | "NotIn");
    match (compares, values.items().is_empty()) {
        (true, true) => values.refuse(format!("operator {} needs at least one value", operator.text())),
        (false, false) => values.refuse(format!("operator {} compares no values; leave them out", operator.text())),
        _ => values.items().iter().try_for_each(|value| {
            value.has_form(|text| text.len() <= LABEL_LENGTH_MAX, "the value of a label: it is too long")
        }),
    }
}

fn values(at: &At<'_>, name: ComponentName) -> Result<(), Refusal> {
    for (field, owner, min, max) in [
        ("webhookTimeoutSeconds", ComponentName::Capsule, 1, 30),
        ("concurrentReconciles", ComponentName::KubeVela, 1, 64),
        ("revisionLimit", ComponentName::KubeVela, 10, 100),
        ("resyncMinutes", ComponentName::KubeVela, 1, 1440),
    ] {
        let value = at.field(field);
        if value.is_there() && owner != name {
            return value.refuse(format!("{} has no such setting, only {} has", name.as_str(), owner.as_str()));
        }
        value.is_within(min, max)?;
    }
    let client = at.field("client");
    client.field("qps").is_within(1, 10_000)?;
    client.field("burst").is_within(1, 20_000)
}

fn endpoint(at: &At<'_>, name: ComponentName, public_url: &str) -> Result<(), Refusal> {
    if name != ComponentName::CapsuleProxy {
        return at.refuse(format!("{} has no endpoint, only capsule-proxy has", name.as_str()));
    }
    for route in ["ingress", "gateway"].map(|route| at.field(route)) {
        if route.is_there() && public_url.is_empty() {
            return route.refuse("it is for the host of publicURL, which is empty; set publicURL as well");
        }
    }
    service(&at.field("service"))?;
    let (ingress, gateway) = (at.field("ingress"), at.field("gateway"));
    ingress.field("className").is_subdomain("the name of an IngressClass")?;
    annotations(&ingress.field("annotations"))?;
    if gateway.is_there() {
        for (field, most) in [("name", SUBDOMAIN_LENGTH_MAX), ("namespace", LABEL_LENGTH_MAX)] {
            let text = gateway.field(field);
            if text.text().is_empty() || text.text().len() > most || !is_subdomain(text.text()) {
                return text.refuse(format!("{:?} is not the {field} of a Gateway", text.text()));
            }
        }
        gateway.field("sectionName").is_subdomain("the name of a listener")?;
    }
    at.field("certificate").field("secretName").is_subdomain("the name of a Secret")
}

fn service(at: &At<'_>) -> Result<(), Refusal> {
    let kind = if at.field("type").is_there() { at.field("type").text() } else { "ClusterIP" };
    let port = at.field("nodePort");
    if port.is_there() && kind != "NodePort" {
        return port.refuse(format!("type is {kind}; only NodePort has it"));
    }
    port.is_within(1, 65_535)?;
    let (class, ranges) = (at.field("loadBalancerClass"), at.field("loadBalancerSourceRanges"));
    for field in [&class, &ranges] {
        if field.is_there() && kind != "LoadBalancer" {
            return field.refuse(format!("type is {kind}; only LoadBalancer has it"));
        }
    }
    class.has_form(|text| text.len() <= KEY_LENGTH_MAX, "a class of load balancers: it is too long")?;
    ranges.has_at_most(64)?;
    for range in ranges.items() {
        if !is_network(range.text()) {
            return range.refuse(format!("{:?} is not a network such as 192.0.2.0/24 or 2001:db8::/32", range.text()));
        }
    }
    annotations(&at.field("annotations"))
}

fn annotations(at: &At<'_>) -> Result<(), Refusal> {
    at.has_at_most(32)?;
    metadata::check_annotations(&at.texts(), &at.pointer, Reason::FieldInvalid)
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    are_digits(length) && length.parse::<u32>().is_ok_and(|length| length <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::canonical;
    use serde_json::json;

    fn check(name: ComponentName, settings: &Value) -> Result<(), String> {
        let settings = settings.as_object().unwrap().iter();
        let component = Component {
            settings: settings.map(|(field, value)| (field.clone(), canonical(value))).collect(),
            ..Component::default()
        };
        component.check_settings(name, &Pointer::default()).map_err(|refusal| {
            assert_eq!(refusal.reason, Reason::FieldInvalid);
            refusal.field.unwrap()
        })
    }

    #[test]
    fn good_settings_are_accepted() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let common = json!({
            "images": { "registry": "registry.example.com:5000/mirror", "pullSecrets": ["pull.me"], "digest": digest },
            "resources": { "requests": { "cpu": "0.25", "memory": "64Mi" }, "limits": { "cpu": "2", "memory": "1000" } },
            "placement": {
                "nodeSelector": { "kubernetes.io/os": "linux" },
                "tolerations": [
                    { "operator": "Exists" },
                    { "key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5 },
                ],
                "nodeAffinity": [{ "key": "zone", "operator": "In", "values": ["a"] }, { "key": "gpu", "operator": "DoesNotExist" }],
                "priorityClassName": "system-cluster-critical",
            },
            "hostNetwork": true,
            "values": { "logLevel": "Debug", "client": { "qps": 1, "burst": 20_000 } },
        });
        for name in ComponentName::ALL {
            assert_eq!(check(name, &common), Ok(()));
        }
        assert_eq!(check(ComponentName::Capsule, &json!({ "values": { "webhookTimeoutSeconds": 30 } })), Ok(()));
        assert_eq!(check(ComponentName::KubeVela, &json!({ "values": { "revisionLimit": 10 } })), Ok(()));
    }

    #[test]
    fn bad_settings_are_refused_with_their_place() {
        let long = "a".repeat(318);
        for (settings, pointer) in [
            (json!({ "images": { "registry": "https://r" } }), "/images/registry"),
            (json!({ "images": { "registry": "r/UP" } }), "/images/registry"),
            (json!({ "images": { "registry": "r:123456" } }), "/images/registry"),
            (json!({ "images": { "pullSecrets": ["a", "b c"] } }), "/images/pullSecrets/1"),
            (json!({ "images": { "pullSecrets": ["", ] } }), "/images/pullSecrets/0"),
            (json!({ "images": { "pullSecrets": vec!["a"; 9] } }), "/images/pullSecrets"),
            (json!({ "images": { "digest": "sha256:00" } }), "/images/digest"),
            (json!({ "resources": { "limits": { "cpu": "1e3" } } }), "/resources/limits/cpu"),
            (json!({ "resources": { "requests": { "cpu": "0.0001" } } }), "/resources/requests/cpu"),
            (json!({ "resources": { "requests": { "memory": "1.5Gi" } } }), "/resources/requests/memory"),
            (json!({ "placement": { "nodeSelector": { "a b": "" } } }), "/placement/nodeSelector/a b"),
            (json!({ "placement": { "tolerations": [{ "value": "x" }] } }), "/placement/tolerations/0/key"),
            (json!({ "placement": { "tolerations": [{ "key": long }] } }), "/placement/tolerations/0/key"),
            (
                json!({ "placement": { "tolerations": [{ "key": "a", "operator": "Exists", "value": "x" }] } }),
                "/placement/tolerations/0/value",
            ),
            (
                json!({ "placement": { "tolerations": [{ "key": "a", "tolerationSeconds": 5 }] } }),
                "/placement/tolerations/0/tolerationSeconds",
            ),
            (
                json!({ "placement": { "nodeAffinity": [{ "key": "a", "operator": "In" }] } }),
                "/placement/nodeAffinity/0/values",
            ),
            (
                json!({ "placement": { "nodeAffinity": [{ "key": "a", "operator": "Exists", "values": ["x"] }] } }),
                "/placement/nodeAffinity/0/values",
            ),
            (
                json!({ "placement": { "nodeAffinity": [{ "key": "", "operator": "Exists" }] } }),
                "/placement/nodeAffinity/0/key",
            ),
            (json!({ "placement": { "priorityClassName": "A" } }), "/placement/priorityClassName"),
            (json!({ "values": { "client": { "qps": 0 } } }), "/values/client/qps"),
            (json!({ "values": { "client": { "burst": 20_001 } } }), "/values/client/burst"),
            (json!({ "values": { "webhookTimeoutSeconds": 5 } }), "/values/webhookTimeoutSeconds"),
            (json!({ "endpoint": {} }), "/endpoint"),
        ] {
            assert_eq!(check(ComponentName::KubeVela, &settings), Err(pointer.to_owned()), "{settings}");
        }
        for (values, pointer) in [
            (json!({ "webhookTimeoutSeconds": 31 }), "webhookTimeoutSeconds"),
            (json!({ "revisionLimit": 10 }), "revisionLimit"),
        ] {
            let refused = check(ComponentName::Capsule, &json!({ "values": values }));
            assert_eq!(refused, Err(format!("/values/{pointer}")));
        }
    }

    fn check_endpoint(public_url: &str, endpoint: &Value) -> Result<(), String> {
        let component = Component {
            public_url: public_url.to_owned(),
            settings: BTreeMap::from([("endpoint".to_owned(), canonical(endpoint))]),
            ..Component::default()
        };
        let checked = component.check_settings(ComponentName::CapsuleProxy, &Pointer::default());
        checked.map_err(|refusal| refusal.field.unwrap())
    }

    #[test]
    fn the_ways_to_capsule_proxy_are_checked() {
        let url = "https://proxy.example.com";
        for good in [
            json!({}),
            json!({ "service": { "type": "NodePort", "nodePort": 30_443, "annotations": { "example.com/a": "any text" } } }),
            json!({ "service": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"] } }),
            json!({ "ingress": { "className": "nginx" }, "certificate": { "secretName": "proxy-tls" } }),
            json!({ "gateway": { "name": "edge", "namespace": "infra", "sectionName": "tls" } }),
        ] {
            assert_eq!(check_endpoint(url, &good), Ok(()), "{good}");
        }
        for (bad, pointer) in [
            (json!({ "service": { "nodePort": 30_443 } }), "/endpoint/service/nodePort"),
            (json!({ "service": { "type": "NodePort", "nodePort": 70_000 } }), "/endpoint/service/nodePort"),
            (
                json!({ "service": { "type": "NodePort", "loadBalancerClass": "a" } }),
                "/endpoint/service/loadBalancerClass",
            ),
            (
                json!({ "service": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/33"] } }),
                "/endpoint/service/loadBalancerSourceRanges/0",
            ),
            (
                json!({ "service": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1"] } }),
                "/endpoint/service/loadBalancerSourceRanges/0",
            ),
            (json!({ "service": { "annotations": { "a b": "" } } }), "/endpoint/service/annotations/a b"),
            (json!({ "gateway": { "name": "", "namespace": "infra" } }), "/endpoint/gateway/name"),
            (json!({ "gateway": { "name": "edge", "namespace": "A" } }), "/endpoint/gateway/namespace"),
            (json!({ "certificate": { "secretName": "A" } }), "/endpoint/certificate/secretName"),
        ] {
            assert_eq!(check_endpoint(url, &bad), Err(pointer.to_owned()), "{bad}");
        }
        assert_eq!(check_endpoint("", &json!({ "ingress": {} })), Err("/endpoint/ingress".to_owned()));
    }
}
