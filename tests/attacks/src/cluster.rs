//! Attempts at a cluster's API server, with the rights of whoever has a token there: the files of `tests/attacks/cluster`.
//!
//! Each is one request. Roles stop it, or one policy of the Operator's chart, without which it succeeds: the scenarios `access_operator`
//! and `access_tenant` try it both ways. [`allowed`] is what the rightful parties do beside it.

use serde::Deserialize;
use serde_json::Value;

/// What stands in the cluster beside the chart: YAML.
pub const FIXTURE: &str = include_str!("../cluster/fixture.yaml");
/// Values of the Operator's chart: YAML.
pub const VALUES: &str = include_str!("../cluster/values.yaml");
/// What is before the name of a policy of the chart.
const POLICY: &str = "kubenova-";

/// Attempts of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The file of the scenario, from the root of the repository.
    pub scenario: &'static str,
    /// The test in it.
    pub test: &'static str,
    text: &'static str,
}

/// By the Operator and the components.
pub const OPERATOR: Source = Source {
    scenario: "tests/scenarios/tests/access_operator.rs",
    test: "access_operator_is_held_by_roles_and_policies",
    text: include_str!("../cluster/operator.yaml"),
};

/// By tenants, and by what their Applications make.
pub const TENANT: Source = Source {
    scenario: "tests/scenarios/tests/access_tenant.rs",
    test: "access_tenant_ends_at_its_namespaces_and_at_what_the_site_opened",
    text: include_str!("../cluster/tenant.yaml"),
};

/// Attempts of one attacker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Heading of its table.
    pub title: String,
    /// Who attacks.
    #[serde(rename = "as")]
    pub attacker: String,
    /// What is tried.
    pub tried: Vec<Attempt>,
}

/// One attempt.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its number in the matrix.
    pub id: String,
    /// Another attacker than the group's.
    #[serde(rename = "as")]
    pub attacker: Option<String>,
    /// In words.
    pub tries: String,
    /// What stops it: RBAC, a policy's name, or what else stands in the namespace.
    pub by: String,
    /// Part of what that says.
    pub says: String,
    /// The verb and the path.
    #[serde(rename = "do")]
    pub request: String,
    /// The object, or what of it changes.
    pub body: Option<Value>,
    /// For whom the attacker says to speak.
    #[serde(rename = "for")]
    pub impersonated: Option<Impersonated>,
}

/// A user that the caller says to speak for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Impersonated {
    /// Its name.
    pub user: String,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// What a rightful party does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Who it is.
    #[serde(rename = "as")]
    pub party: String,
    /// What it does.
    pub does: Vec<Deed>,
}

/// One request of a rightful party.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deed {
    /// In words.
    pub tries: String,
    /// The verb and the path.
    #[serde(rename = "do")]
    pub request: String,
    /// The object, or what of it changes.
    pub body: Option<Value>,
    /// For whom the party speaks.
    #[serde(rename = "for")]
    pub impersonated: Option<Impersonated>,
}

impl Source {
    /// Its attempts.
    ///
    /// # Panics
    /// When the file is not what [`Group`] says.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        serde_saphyr::from_str(self.text).expect("the attempts are groups of attempts")
    }
}

impl Attempt {
    /// The policy that stops it, if one does.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.by.starts_with(POLICY).then_some(self.by.as_str())
    }
}

/// What the rightful parties do.
///
/// # Panics
/// When the file is not what [`Party`] says.
#[must_use]
pub fn allowed() -> Vec<Party> {
    serde_saphyr::from_str(include_str!("../cluster/allowed.yaml")).expect("the deeds are parties with deeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_is_read() {
        for (source, least) in [(OPERATOR, 60), (TENANT, 60)] {
            let attempts: Vec<Attempt> = source.groups().into_iter().flat_map(|group| group.tried).collect();
            assert!(attempts.len() >= least, "{}: {}", source.scenario, attempts.len());
            for attempt in attempts {
                assert!(attempt.request.contains(" /api"), "{}: {}", attempt.id, attempt.request);
            }
        }
        assert!(!allowed().is_empty());
    }
}
