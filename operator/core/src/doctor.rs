//! What `kubenova-operator doctor` finds: one line about each thing that can be wrong in a cluster, with the remedy. Reading the cluster is
//! done elsewhere; here is decided what it means.

use crate::components::{Component, rbac_label, rbac_label::RolesFit};
use jiff::{SignedDuration, Timestamp};
use kubenova_crds::{
    cluster_config::{ClusterConfigStatus, condition},
    command::NovaCommand,
};
use std::{collections::BTreeMap, fmt};

/// The oldest release of Kubernetes with ValidatingAdmissionPolicy v1.
const KUBERNETES_MINOR: u32 = 30;
/// How often the holder of the Lease renews it at the least, many times over.
const LEASE_SILENT_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How an administrator applies the chart that fits.
const UPGRADE: &str =
    "helm upgrade kubenova-operator <chart of this release> --namespace kubenova-system --reset-then-reuse-values";
/// Why there is no condition.
const NOT_REPORTED: &str = "not reported yet; see whether the Operator's pod runs and its log: kubectl -n kubenova-system logs \
                            deployment/kubenova-operator";
/// Enforced by labels of namespaces, from weak to strong.
const POD_SECURITY: [&str; 3] = ["privileged", "baseline", "restricted"];

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong.
    Good,
    /// It works, and an administrator should know.
    Warning,
    /// Something does not work.
    Failure,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What was looked at.
    pub subject: String,
    /// What was found, and what to do about it.
    pub message: String,
}

impl Finding {
    #[must_use]
    pub fn good(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Good, subject: subject.into(), message: message.into() }
    }

    #[must_use]
    pub fn warning(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, subject: subject.into(), message: message.into() }
    }

    #[must_use]
    pub fn failure(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Failure, subject: subject.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.severity {
            Severity::Good => "ok  ",
            Severity::Warning => "WARN",
            Severity::Failure => "FAIL",
        };
        write!(f, "{mark}  {}: {}", self.subject, self.message)
    }
}

/// The most serious of the findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Good)
}

/// Whether the API server is new enough: `v1.36.3`, with whatever a vendor appends.
#[must_use]
pub fn kubernetes_version(version: &str) -> Finding {
    const SUBJECT: &str = "Kubernetes version";
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<u32>().ok()
    });
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= (1, KUBERNETES_MINOR) => Finding::good(SUBJECT, version),
        (Some(_), Some(_)) => Finding::failure(
            SUBJECT,
            format!(
                "{version} has no ValidatingAdmissionPolicy, which isolates tenants; upgrade to 1.{KUBERNETES_MINOR} or newer"
            ),
        ),
        _ => Finding::warning(SUBJECT, format!("the API server says {version:?}, which is no version")),
    }
}

/// The conditions of the cluster's configuration, in the order of a join.
#[must_use]
pub fn conditions(status: &ClusterConfigStatus) -> Vec<Finding> {
    if status.conditions.is_empty() {
        return vec![Finding::failure("join", NOT_REPORTED)];
    }
    let explained = |name: &str| {
        let Some(found) = status.conditions.iter().find(|condition| condition.type_ == name) else {
            return Finding::failure(name, NOT_REPORTED);
        };
        let message = format!("{} ({})", found.message, found.reason);
        match found.status.as_str() {
            "True" => Finding::good(name, message),
            "False" => Finding::failure(name, message),
            // The condition it waits for is the one to look at.
            _ => Finding::warning(name, message),
        }
    };
    condition::JOIN_ORDER.iter().map(|name| explained(name)).collect()
}

/// Whether a session with the Manager is open.
#[must_use]
pub fn session(status: &ClusterConfigStatus) -> Finding {
    let mut found = conditions(status);
    if found.len() == 1 {
        return found.remove(0);
    }
    // Whatever stopped the join comes before it.
    let stopped = found.iter().position(|finding| finding.severity == Severity::Failure);
    let connected = condition::JOIN_ORDER.iter().position(|name| *name == condition::BUS_CONNECTED).unwrap_or_default();
    let shown = stopped.filter(|index| *index < connected).unwrap_or(connected);
    let mut finding = found.swap_remove(shown);
    if finding.severity == Severity::Warning {
        finding.severity = Severity::Failure;
    }
    finding
}

/// Whether a command of the Manager was carried out; one that failed beside it is its own matter.
#[must_use]
pub fn commands(records: &[NovaCommand]) -> Finding {
    const SUBJECT: &str = "commands";
    let with_status = records.iter().filter_map(|record| record.status.as_ref().map(|status| (record, status)));
    let (succeeded, others): (Vec<_>, Vec<_>) = with_status.partition(|(_, status)| status.state == "succeeded");
    let counted = format!("{} of {} succeeded", succeeded.len(), records.len());
    let failed = others.iter().find(|(_, status)| status.state == "failed").map(|(record, status)| {
        format!("{counted}; {} failed ({}): {}", record.spec.key, status.reason, status.message)
    });
    match failed {
        Some(message) if succeeded.is_empty() => Finding::failure(SUBJECT, message),
        Some(message) => Finding::warning(SUBJECT, message),
        None if succeeded.is_empty() => Finding::failure(
            SUBJECT,
            format!(
                "{counted}; see kubectl -n kubenova-system get novacommands, and the cluster's commands at the Manager"
            ),
        ),
        None => Finding::good(SUBJECT, counted),
    }
}

/// Whether one Operator holds the Lease and renews it.
#[must_use]
pub fn lease(holder: Option<&str>, renewed: Option<Timestamp>, now: Timestamp) -> Finding {
    const SUBJECT: &str = "Lease";
    let restart = "see kubectl -n kubenova-system get pods and the Operator's log";
    match (holder.filter(|holder| !holder.is_empty()), renewed) {
        (Some(holder), Some(renewed)) if now.duration_since(renewed) <= LEASE_SILENT_MAX => {
            Finding::good(SUBJECT, format!("held by pod {holder}"))
        }
        (Some(holder), _) => {
            Finding::failure(SUBJECT, format!("pod {holder} holds it and does not renew it; {restart}"))
        }
        (None, _) => Finding::failure(SUBJECT, format!("no Operator works in this cluster; {restart}")),
    }
}

/// The names of the chart's policies, as the chart writes them into the Operator's ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyNames {
    /// Those of this chart.
    pub current: Vec<String>,
    /// Those that earlier charts had.
    pub dropped: Vec<String>,
}

/// A policy as it is in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundPolicy {
    /// Its label `kubenova.io/for`.
    pub written_for: String,
    /// What its binding does: `Deny`, `Audit`, `Warn`; none without a binding.
    pub actions: Vec<String>,
}

/// Whether each policy is there, enforced, and of this release.
#[must_use]
pub fn policies(names: &PolicyNames, release: &str, found: &BTreeMap<String, FoundPolicy>) -> Vec<Finding> {
    let expected = format!("kubenova-{release}");
    // A policy that bounds a component is written for that component's version.
    let components = Component::ALL.map(|component| rbac_label::label_value(component, component.default_version()));
    let fits = |written_for: &String| *written_for == expected || components.contains(written_for);
    let mut findings: Vec<Finding> = names
        .current
        .iter()
        .map(|name| {
            let subject = format!("policy {name}");
            match found.get(name) {
                None => Finding::failure(
                    subject,
                    format!("is missing; tenants are less isolated than they should be: {UPGRADE}"),
                ),
                Some(policy) if !policy.actions.iter().any(|action| action == "Deny") => Finding::failure(
                    subject,
                    format!("has no binding of its name that denies; apply it again: {UPGRADE}"),
                ),
                Some(policy) if !fits(&policy.written_for) => Finding::warning(
                    subject,
                    format!("is that of {}, and the Operator is of {expected}: {UPGRADE}", shown(&policy.written_for)),
                ),
                Some(_) => Finding::good(subject, "denies"),
            }
        })
        .collect();
    findings.extend(found.keys().filter(|name| !names.current.contains(name)).map(|name| {
        let remedy = format!("kubectl delete validatingadmissionpolicy,validatingadmissionpolicybinding {name}");
        Finding::warning(
            format!("policy {name}"),
            format!("is of another release's chart, and this one has it no more: {remedy}"),
        )
    }));
    findings
}

fn shown(label: &str) -> &str {
    if label.is_empty() { "an unknown chart" } else { label }
}

/// Whether a component's roles fit the version that this release installs.
#[must_use]
pub fn roles(component: Component, label: Option<&str>) -> Finding {
    let subject = format!("roles of {}", component.title());
    let version = component.default_version();
    match rbac_label::check(component, version, label, true) {
        RolesFit::Fits if label.is_none() => Finding::good(subject, "not of this chart"),
        RolesFit::Fits => Finding::good(subject, format!("fit {version}")),
        RolesFit::UpgradeNeeded { found } => {
            Finding::warning(subject, RolesFit::message(component, version, found.as_deref()))
        }
    }
}

/// Something that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    /// With its subresource, `novatenants/status`.
    pub resource: &'static str,
    /// None: in the whole cluster.
    pub namespace: Option<&'static str>,
    /// None: whatever its name.
    pub name: Option<&'static str>,
}

impl Right {
    const fn on(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        write!(f, "{} {}{group}", self.verb, self.resource)?;
        self.name.map_or(Ok(()), |name| write!(f, " {name}"))?;
        self.namespace.map_or(Ok(()), |namespace| write!(f, " in {namespace}"))
    }
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, namespace: None, name: None }
}

const fn right_in(namespace: &'static str, verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, namespace: Some(namespace), name: None }
}

const SYSTEM: &str = kubenova_crds::SYSTEM_NAMESPACE;

/// Without each of these a part of the Operator stands still.
pub const NEEDED: [Right; 14] = [
    right("patch", "kubenova.io", "novaclusterconfigs/status"),
    right("patch", "kubenova.io", "novatenants"),
    right_in(SYSTEM, "create", "kubenova.io", "novacommands"),
    right_in(SYSTEM, "update", "kubenova.io", "novausagereports"),
    right_in(SYSTEM, "update", "coordination.k8s.io", "leases").on("kubenova-operator"),
    right_in(SYSTEM, "update", "", "secrets").on("kubenova-identity"),
    right("create", "", "namespaces"),
    right("patch", "capsule.clastix.io", "tenants"),
    right("list", "core.oam.dev", "applications"),
    right("list", "", "pods"),
    right("list", "", "resourcequotas"),
    right("create", "apiextensions.k8s.io", "customresourcedefinitions").on("tenants.capsule.clastix.io"),
    right_in("capsule-system", "patch", "apps", "deployments"),
    right_in("vela-system", "patch", "apps", "deployments"),
];

/// None of these belongs to the Operator: another binding gives it more than its chart does.
pub const EXCESSIVE: [Right; 6] = [
    right("list", "", "secrets"),
    right("delete", "", "namespaces"),
    right("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    right("impersonate", "", "users"),
    right("patch", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
    right_in("kube-system", "create", "apps", "deployments"),
];

/// What the answers to the questions about [`NEEDED`] and [`EXCESSIVE`] mean.
#[must_use]
pub fn rights(allowed: &[(Right, bool)]) -> Vec<Finding> {
    const SUBJECT: &str = "rights of the Operator";
    let missing = allowed.iter().filter(|(right, is_allowed)| !is_allowed && NEEDED.contains(right));
    let mut findings: Vec<Finding> =
        missing.map(|(right, _)| Finding::failure(SUBJECT, format!("it may not {right}: {UPGRADE}"))).collect();
    let excessive = allowed.iter().filter(|(right, is_allowed)| *is_allowed && EXCESSIVE.contains(right));
    findings.extend(excessive.map(|(right, _)| {
        let message =
            format!("it may {right}, which this chart does not give it; find the binding that does, and take it back");
        Finding::warning(SUBJECT, message)
    }));
    if findings.is_empty() {
        findings.push(Finding::good(SUBJECT, "as the chart gives them"));
    }
    findings
}

/// Whether a namespace enforces the pod security that it should.
#[must_use]
pub fn pod_security(namespace: &str, least: &str, enforced: Option<&str>) -> Finding {
    let rank = |level: &str| POD_SECURITY.iter().position(|known| *known == level);
    let subject = format!("namespace {namespace}");
    match enforced.map(|level| (level, rank(level))) {
        Some((level, found)) if found >= rank(least) => {
            Finding::good(subject, format!("enforces {level} pod security"))
        }
        other => {
            let state = other.map_or_else(
                || "enforces no pod security".to_owned(),
                |(level, _)| format!("enforces {level} pod security only"),
            );
            Finding::warning(
                subject,
                format!(
                    "{state}: kubectl label namespace {namespace} pod-security.kubernetes.io/enforce={least} --overwrite"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(conditions: &[(&str, &str)]) -> ClusterConfigStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(name, status)| {
                json!({"type": name, "status": status, "reason": "R", "message": "m",
                       "lastTransitionTime": "2030-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({ "conditions": conditions })).unwrap()
    }

    #[test]
    fn a_cluster_that_is_too_old_is_a_failure_and_vendors_versions_are_read() {
        for (version, severity) in [
            ("v1.36.3", Severity::Good),
            ("v1.30.0-eks-1234", Severity::Good),
            ("v1.31+", Severity::Good),
            ("v2.0.0", Severity::Good),
            ("v1.29.9-gke.1", Severity::Failure),
            ("", Severity::Warning),
        ] {
            assert_eq!(kubernetes_version(version).severity, severity, "{version}");
        }
    }

    #[test]
    fn a_session_is_missing_because_of_what_stopped_the_join() {
        let all = [condition::DNS_RESOLVED, condition::ENDPOINT_REACHABLE, condition::TLS_VERIFIED]
            .into_iter()
            .chain([condition::CLOCK_IN_SYNC, condition::TOKEN_ACCEPTED, condition::IDENTITY_ISSUED]);
        let joined: Vec<_> = all.map(|name| (name, "True")).collect();
        let with = |last: (&'static str, &'static str)| session(&status(&[&joined[..], &[last]].concat()));
        assert_eq!(with((condition::BUS_CONNECTED, "True")).severity, Severity::Good);
        let unknown = with((condition::BUS_CONNECTED, "Unknown"));
        assert_eq!((unknown.severity, unknown.subject.as_str()), (Severity::Failure, condition::BUS_CONNECTED));
        let stopped = session(&status(&[(condition::DNS_RESOLVED, "False"), (condition::BUS_CONNECTED, "Unknown")]));
        assert_eq!(stopped.subject, condition::DNS_RESOLVED);
        assert_eq!(session(&status(&[])).severity, Severity::Failure);
        assert_eq!(conditions(&status(&[])).len(), 1, "nothing is reported, which is one finding");
        assert_eq!(conditions(&status(&joined)).len(), condition::JOIN_ORDER.len());
    }

    #[test]
    fn a_command_that_succeeded_shows_that_the_way_works() {
        let record = |state: &str| -> NovaCommand {
            serde_json::from_value(json!({
                "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaCommand", "metadata": {"name": "a"},
                "spec": {"body": "", "signature": "", "commandId": "", "epoch": 1, "revision": 1, "kind": "",
                         "key": "tenant/t", "commandSha256": "", "storedAt": ""},
                "status": {"state": state, "reason": "R", "message": "m"}
            }))
            .unwrap()
        };
        assert_eq!(commands(&[]).severity, Severity::Failure);
        assert_eq!(commands(&[record("running")]).severity, Severity::Failure);
        assert_eq!(commands(&[record("running"), record("succeeded")]).severity, Severity::Good);
        let failed = commands(&[record("succeeded"), record("failed")]);
        assert_eq!(failed.severity, Severity::Warning);
        assert!(failed.message.contains("tenant/t failed (R): m"), "{failed}");
        assert_eq!(commands(&[record("failed")]).severity, Severity::Failure);
    }

    #[test]
    fn a_lease_that_is_not_renewed_is_a_failure() {
        let now: Timestamp = "2030-01-01T00:02:00Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(lease(Some("p"), at("2030-01-01T00:01:50Z"), now).severity, Severity::Good);
        assert_eq!(lease(Some("p"), at("2030-01-01T00:00:00Z"), now).severity, Severity::Failure);
        assert_eq!(lease(Some(""), at("2030-01-01T00:01:50Z"), now).severity, Severity::Failure);
        assert_eq!(lease(None, None, now).severity, Severity::Failure);
    }

    #[test]
    fn each_policy_must_be_there_deny_and_be_of_this_release() {
        let names = PolicyNames { current: ["a", "b", "c", "d"].map(str::to_owned).into(), dropped: Vec::new() };
        let policy = |written_for: &str, action: &str| FoundPolicy {
            written_for: written_for.to_owned(),
            actions: vec![action.to_owned()],
        };
        let found = BTreeMap::from([
            ("a".to_owned(), policy("kubenova-1", "Deny")),
            ("b".to_owned(), policy("kubenova-1", "Audit")),
            ("c".to_owned(), policy("kubenova-0", "Deny")),
            ("e".to_owned(), policy("kubenova-0", "Deny")),
        ]);
        let severities: Vec<_> =
            policies(&names, "1", &found).into_iter().map(|it| (it.subject, it.severity)).collect();
        let expected = [
            ("policy a", Severity::Good),
            ("policy b", Severity::Failure),
            ("policy c", Severity::Warning),
            ("policy d", Severity::Failure),
            ("policy e", Severity::Warning),
        ];
        assert_eq!(severities, expected.map(|(name, severity)| (name.to_owned(), severity)));
    }

    #[test]
    fn missing_rights_fail_and_excessive_ones_are_a_warning() {
        let as_given: Vec<_> =
            NEEDED.iter().map(|it| (*it, true)).chain(EXCESSIVE.iter().map(|it| (*it, false))).collect();
        assert_eq!(worst(&rights(&as_given)), Severity::Good);
        let found = rights(&[(NEEDED[2], false), (EXCESSIVE[0], true)]);
        assert_eq!(found.iter().map(|it| it.severity).collect::<Vec<_>>(), [Severity::Failure, Severity::Warning]);
        assert!(found[0].message.contains("create novacommands.kubenova.io in kubenova-system"), "{}", found[0]);
    }

    #[test]
    fn pod_security_may_be_stronger_and_not_weaker() {
        assert_eq!(pod_security("a", "baseline", Some("restricted")).severity, Severity::Good);
        for enforced in [None, Some("privileged"), Some("typo")] {
            let finding = pod_security("a", "baseline", enforced);
            assert_eq!(finding.severity, Severity::Warning);
            assert!(finding.message.contains("kubectl label namespace a"), "{finding}");
        }
    }

    #[test]
    fn roles_of_another_version_are_a_warning_with_the_line_that_helps() {
        assert_eq!(roles(Component::Capsule, None).severity, Severity::Good);
        let label = rbac_label::label_value(Component::Capsule, Component::Capsule.default_version());
        assert_eq!(roles(Component::Capsule, Some(&label)).severity, Severity::Good);
        let old = roles(Component::Capsule, Some("capsule-0.1.0"));
        assert!(old.severity == Severity::Warning && old.message.contains("helm upgrade"), "{old}");
    }
}
