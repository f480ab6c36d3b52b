//! A container's variables, and `$(NAME)` in its words.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use kube::{Client, ResourceExt};

use super::volumes::{config_map, field, secret};

/// The variables of one container: those every container has, `envFrom`, then `env` in order.
pub(crate) async fn of(
    client: &Client,
    pod: &Pod,
    container: &Container,
    api_server: (&str, u16),
    address: &str,
) -> Result<BTreeMap<String, String>> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut found = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOSTNAME".to_owned(), pod.name_any()),
        ("HOME".to_owned(), "/tmp".to_owned()),
        // The API server's own address: no kube-proxy makes the Service's reachable.
        ("KUBERNETES_SERVICE_HOST".to_owned(), api_server.0.to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), api_server.1.to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), api_server.1.to_string()),
    ]);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        let mut values = BTreeMap::new();
        if let Some(map) = &source.config_map_ref {
            values.extend(config_map(client, &namespace, &map.name, map.optional).await?);
        }
        if let Some(reference) = &source.secret_ref {
            values.extend(secret(client, &namespace, &reference.name, reference.optional).await?);
        }
        found.extend(values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), text(value))));
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &found)),
            (None, Some(source)) => from_source(client, pod, container, source, address)
                .await
                .with_context(|| format!("could not find the value of variable {:?}", variable.name))?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            found.insert(variable.name.clone(), value);
        }
    }
    Ok(found)
}

async fn from_source(
    client: &Client,
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    address: &str,
) -> Result<Option<String>> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return field(pod, &reference.field_path, address).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(container, &reference.resource).map(Some);
    }
    if let Some(key) = &source.secret_key_ref {
        let mut values = secret(client, &namespace, &key.name, key.optional).await?;
        return pick(values.remove(&key.key), "secret", &key.name, &key.key, key.optional);
    }
    if let Some(key) = &source.config_map_key_ref {
        let mut values = config_map(client, &namespace, &key.name, key.optional).await?;
        return pick(values.remove(&key.key), "config map", &key.name, &key.key, key.optional);
    }
    bail!("a source this runner does not know")
}

fn pick(value: Option<Vec<u8>>, kind: &str, name: &str, key: &str, optional: Option<bool>) -> Result<Option<String>> {
    if value.is_none() && optional != Some(true) {
        bail!("{kind} {name:?} has no key {key:?}");
    }
    Ok(value.map(text))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `limits.memory` and its like, in whole units (cores rounded up, bytes).
fn resource(container: &Container, resource: &str) -> Result<String> {
    let (kind, name) = resource.split_once('.').with_context(|| format!("{resource:?} is not kind.name"))?;
    let resources = container.resources.as_ref();
    let quantities = match kind {
        "limits" => resources.and_then(|all| all.limits.as_ref()),
        "requests" => resources.and_then(|all| all.requests.as_ref()),
        _ => bail!("{kind:?} is neither limits nor requests"),
    };
    let Some(quantity) = quantities.and_then(|all| all.get(name)) else {
        return Ok("0".to_owned());
    };
    Ok(whole(&quantity.0).with_context(|| format!("{:?} is not a quantity", quantity.0))?.to_string())
}

fn whole(quantity: &str) -> Result<u64> {
    let split = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let number: f64 = number.parse()?;
    let factor = match unit {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("unknown unit {unit:?}"),
    };
    Ok((number * factor).ceil() as u64)
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay, `$$(` is a literal `$(`.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_expanded_as_kubernetes_does() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x=$(A),$(B),$$(A),$A,$", &variables), "x=1,$(B),$(A),$A,$");
        assert_eq!(expand("$(A", &variables), "$(A");
    }

    #[test]
    fn quantities_become_whole_units() {
        assert_eq!(whole("500m").unwrap(), 1);
        assert_eq!(whole("2").unwrap(), 2);
        assert_eq!(whole("64Mi").unwrap(), 64 << 20);
        assert!(whole("x").is_err());
    }
}
