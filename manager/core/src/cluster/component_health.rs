//! What a cluster reports of a component, out of its report about its configuration.

use super::components::{Component, ComponentName};
use serde_json::Value;

/// Whether the component is healthy, as the cluster reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing is reported about what is wanted now.
    Unknown,
    /// It is installed as wanted, and works; or it is off, as wanted.
    Healthy,
    /// It is not.
    Unhealthy {
        /// One CamelCase word.
        reason: String,
        /// What is wrong and what to do.
        message: String,
    },
}

/// What a cluster reports of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentReport {
    /// Version that should be installed, by the cluster's word.
    pub desired_version: String,
    /// Version that was last installed completely; empty when there is none.
    pub version: String,
    /// `Healthy`, `Progressing`, `Degraded`, `Paused` or `Disabled`; empty when it is not reported.
    pub health: String,
    /// Since when it has not been as wanted, RFC 3339; empty while it is.
    pub unsettled_since: String,
    /// The last error and what to do about it.
    pub last_error: String,
}

/// Reads the report about a component from the details of a configuration.
#[must_use]
pub fn report(name: ComponentName, detail: &Value) -> Option<ComponentReport> {
    let one = detail["components"].as_array()?.iter().find(|one| one["name"] == name.as_str())?;
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Some(ComponentReport {
        desired_version: text("desiredVersion"),
        version: text("version"),
        health: text("health"),
        unsettled_since: text("unsettledSince"),
        last_error: text("lastError"),
    })
}

/// Whether the component is installed as wanted. A condition about an older configuration says nothing of this one, and neither does one
/// beside another version than the one that is wanted: a cluster may write it while its configuration changes.
#[must_use]
pub fn health(name: ComponentName, wanted: &Component, conditions: &Value, detail: &Value) -> Health {
    let of_component = |condition: &&Value| condition["type"] == name.condition();
    let Some(condition) = conditions.as_array().into_iter().flatten().find(of_component) else {
        return Health::Unknown;
    };
    let generation = number(&detail["generation"]);
    if generation.is_none() || number(&condition["observedGeneration"]) != generation {
        return Health::Unknown;
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let installed = report(name, detail).unwrap_or_default().version;
    let is_wanted = !wanted.enabled || wanted.version.is_empty() || installed == wanted.version;
    match condition["status"].as_str() {
        Some("True") if is_wanted => Health::Healthy,
        Some("False") => Health::Unhealthy { reason: text("reason"), message: text("message") },
        _ => Health::Unknown,
    }
}

/// A number that stands as a number or, as 64-bit numbers in JSON of protobuf do, as a text.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn health_of(status: &str, observed: &Value, generation: &Value) -> Health {
        let conditions = json!([
            { "type": "KubeVelaReady", "status": "False", "observedGeneration": 4 },
            { "type": "CapsuleReady", "status": status, "reason": "Pull", "message": "m", "observedGeneration": observed },
        ]);
        health(ComponentName::Capsule, &Component::default(), &conditions, &json!({ "generation": generation }))
    }

    #[test]
    fn a_component_is_healthy_in_the_version_that_is_wanted() {
        let conditions = json!([{ "type": "CapsuleReady", "status": "True", "observedGeneration": 4 }]);
        let detail = json!({ "generation": 4, "components": [{ "name": "capsule", "version": "0.14.0" }] });
        for (enabled, version, expected) in [
            (true, "0.14.0", Health::Healthy),
            (true, "", Health::Healthy),
            (true, "0.15.0", Health::Unknown),
            (false, "0.15.0", Health::Healthy),
        ] {
            let wanted = Component { enabled, version: version.to_owned(), ..Component::default() };
            assert_eq!(health(ComponentName::Capsule, &wanted, &conditions, &detail), expected, "{enabled} {version}");
        }
    }

    #[test]
    fn a_condition_counts_for_the_configuration_that_it_is_about() {
        assert_eq!(health_of("True", &json!(4), &json!(4)), Health::Healthy);
        assert_eq!(health_of("True", &json!("4"), &json!(4)), Health::Healthy);
        let unhealthy = Health::Unhealthy { reason: "Pull".to_owned(), message: "m".to_owned() };
        assert_eq!(health_of("False", &json!(4), &json!(4)), unhealthy);
        for (status, observed, generation) in [
            ("True", json!(3), json!(4)),
            ("Unknown", json!(4), json!(4)),
            ("True", Value::Null, json!(4)),
            ("True", Value::Null, Value::Null),
        ] {
            assert_eq!(health_of(status, &observed, &generation), Health::Unknown, "{status}");
        }
        assert_eq!(health(ComponentName::Capsule, &Component::default(), &Value::Null, &Value::Null), Health::Unknown);
    }

    #[test]
    fn a_report_names_the_component() {
        let detail = json!({ "components": [
            { "name": "kubevela", "version": "1" },
            { "name": "capsule-proxy", "version": "2", "desiredVersion": "3", "health": "Degraded", "lastError": "e" },
        ] });
        let proxy = report(ComponentName::CapsuleProxy, &detail).unwrap();
        assert_eq!((proxy.version.as_str(), proxy.desired_version.as_str()), ("2", "3"));
        assert_eq!((proxy.health.as_str(), proxy.last_error.as_str()), ("Degraded", "e"));
        assert_eq!(report(ComponentName::Capsule, &detail), None);
    }
}
