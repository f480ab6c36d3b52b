//! Leaving: what `kubenova-operator leave` changes in a cluster, in which order, and what stays. No client.
//!
//! Without options KubeNova only lets go: what could freeze tenants without an Operator no longer does, and everything goes on running.
//! Tenants are removed only on request, and components only when nothing needs them any more. What has a label of ours is found by it, so
//! a run that was interrupted is taken up again by the next one.

use crate::components::{
    object::Key,
    render::{COMPONENT_LABEL, is_webhook_configuration},
};
use kubenova_crds::{GROUP, SYSTEM_NAMESPACE, labels};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Label of everything in the Operator's chart, and its value.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "kubenova");
/// Label of the webhook configurations that Capsule writes by itself.
pub const CREATED_BY_CAPSULE: &str = "projectcapsule.dev/created-by";
/// API groups of the components' kinds.
pub const COMPONENT_GROUPS: [&str; 3] = ["capsule.clastix.io", "core.oam.dev", "cue.oam.dev"];
/// Annotation by which helm leaves an object of the chart where it is.
const KEPT: (&str, &str) = ("helm.sh/resource-policy", "keep");
/// Names in one line.
const NAMED_MAX: usize = 8;

/// Kinds of the components that hold what users of this cluster wrote. The others are written by the components themselves.
const WRITTEN_BY_USERS: [&str; 18] = [
    "Tenant",
    "TenantOwner",
    "TenantResource",
    "GlobalTenantResource",
    "ResourcePool",
    "ResourcePoolClaim",
    "CustomQuota",
    "GlobalCustomQuota",
    "GlobalResourceQuota",
    "ProxySetting",
    "GlobalProxySettings",
    "Application",
    "Workflow",
    "Policy",
    "ComponentDefinition",
    "TraitDefinition",
    "PolicyDefinition",
    "WorkflowStepDefinition",
];

/// What may be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Remove every tenant with what it runs.
    pub remove_tenants: bool,
    /// Remove Capsule, Capsule Proxy and KubeVela, and the roles and policies that the chart has kept.
    pub remove_components: bool,
}

/// A tenant of KubeNova in this cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTenant {
    pub name: String,
    /// Names of its Applications.
    pub applications: Vec<String>,
    /// Names of its claims.
    pub claims: Vec<String>,
    /// Its NovaTenant has a finalizer, which no Operator would take off.
    pub is_finalized: bool,
    /// Its NovaTenant is being deleted.
    pub is_being_deleted: bool,
}

/// An object with a label of ours, or of a component's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    pub key: Key,
    pub labels: BTreeMap<String, String>,
    /// It has the annotation by which helm keeps it.
    pub is_kept: bool,
}

impl FoundObject {
    /// As it is in the cluster.
    #[must_use]
    pub fn new(key: Key, labels: BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Self {
        let (annotation, value) = KEPT;
        let is_kept = annotations.get(annotation).is_some_and(|found| found == value);
        Self { key, labels, is_kept }
    }

    /// What it is to KubeNova.
    #[must_use]
    pub fn belongs(&self) -> Belongs {
        let of_chart = self.labels.get(PART_OF.0).is_some_and(|value| value == PART_OF.1);
        if self.labels.contains_key(labels::TENANT_ID) {
            Belongs::ToTenant
        } else if self.labels.contains_key(COMPONENT_LABEL) || self.labels.contains_key(CREATED_BY_CAPSULE) {
            Belongs::ToComponent
        } else if of_chart && self.is_own_kind() {
            Belongs::ToKubeNova
        } else if of_chart {
            if self.is_kept { Belongs::ToChart } else { Belongs::ToRelease }
        } else if COMPONENT_GROUPS.contains(&self.key.group.as_str())
            && WRITTEN_BY_USERS.contains(&self.key.kind.as_str())
        {
            Belongs::ToOthers
        } else {
            Belongs::ToComponent
        }
    }

    fn is_own_kind(&self) -> bool {
        self.key.kind == "CustomResourceDefinition" && self.key.name.ends_with(&format!(".{GROUP}"))
    }
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    ToTenant,
    ToComponent,
    /// The definition of one of our own kinds: with it would go what was commanded here.
    ToKubeNova,
    /// Of the Operator's chart, kept by helm.
    ToChart,
    /// Of the Operator's chart, removed by helm.
    ToRelease,
    /// Another user of this cluster wrote it.
    ToOthers,
}

/// What was found in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The id by which the Manager knows it; empty when it never joined.
    pub cluster_id: String,
    /// Pods of the Operator that have not ended.
    pub operator_pods: Vec<String>,
    pub tenants: Vec<FoundTenant>,
    pub objects: Vec<FoundObject>,
    /// Webhook configurations, and settings from which Capsule writes them, that refuse requests while no webhook answers.
    pub failing: Vec<Key>,
    /// Windows of usage that the Manager has not confirmed.
    pub unconfirmed_windows: usize,
}

impl Found {
    fn of(&self, belongs: Belongs) -> impl Iterator<Item = &FoundObject> {
        self.objects.iter().filter(move |object| object.belongs() == belongs)
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "the Operator still runs ({}) and would undo this; stop it first: kubectl -n {SYSTEM_NAMESPACE} scale deployment \
         kubenova-operator --replicas=0, or: helm uninstall <release> -n {SYSTEM_NAMESPACE}",
        few(.0)
    )]
    OperatorRuns(Vec<String>),
    #[error(
        "the components isolate and run the tenants {}, which are to stay; remove the tenants, too (--remove-tenants), or leave the \
         components where they are",
        few(.0)
    )]
    TenantsStay(Vec<String>),
    #[error(
        "the components hold what KubeNova did not make, and it would be deleted with them: {}; move or delete it, or leave the components \
         where they are",
        few(.0)
    )]
    UsedByOthers(Vec<String>),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What these configurations check is let through while their webhooks do not answer.
    IgnoreFailures(Vec<Key>),
    /// Finalizers are taken off these NovaTenants.
    ReleaseTenants(Vec<String>),
    /// What these tenants have is deleted in the order of a commanded deletion, then their NovaTenants.
    RemoveTenants(Vec<String>),
    /// What [`stages`] returns is deleted, one stage after the other.
    RemoveComponents,
}

/// What is done, in order, and what stays. Shown to who decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    changes: Vec<String>,
    stays: Vec<String>,
    notes: Vec<String>,
}

/// Whether anything may be changed now.
///
/// # Errors
/// When an Operator runs.
pub fn may_begin(found: &Found) -> Result<(), Refused> {
    if found.operator_pods.is_empty() { Ok(()) } else { Err(Refused::OperatorRuns(found.operator_pods.clone())) }
}

/// Decides what is done.
///
/// # Errors
/// When it would take what must stay.
pub fn plan(found: &Found, options: Options) -> Result<Plan, Refused> {
    if options.remove_components {
        let stay: Vec<String> = found.tenants.iter().map(|tenant| tenant.name.clone()).collect();
        if !options.remove_tenants && !stay.is_empty() {
            return Err(Refused::TenantsStay(stay));
        }
        let others: Vec<String> = found.of(Belongs::ToOthers).map(|object| name_of(&object.key)).collect();
        if !others.is_empty() {
            return Err(Refused::UsedByOthers(others));
        }
    }
    let mut plan = Plan { steps: Vec::new(), changes: Vec::new(), stays: Vec::new(), notes: Vec::new() };
    plan.webhooks(found);
    plan.tenants(found, options.remove_tenants);
    plan.components(found, options.remove_components);
    plan.rest(found);
    Ok(plan)
}

impl Plan {
    fn webhooks(&mut self, found: &Found) {
        if found.failing.is_empty() {
            return;
        }
        self.changes.push(format!(
            "failure policies become Ignore, so that tenants go on when no webhook answers: {}",
            few(&found.failing.iter().map(name_of).collect::<Vec<_>>())
        ));
        self.steps.push(Step::IgnoreFailures(found.failing.clone()));
    }

    fn tenants(&mut self, found: &Found, remove: bool) {
        for FoundTenant { name, applications, claims, is_finalized, is_being_deleted } in &found.tenants {
            let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
            let has = format!(
                "{}, {}, the namespaces {name}-owner and {name}-apps",
                count(applications.len(), "application"),
                count(claims.len(), "volume claim"),
            );
            if remove {
                self.changes.push(format!("tenant {name} is deleted: {has}"));
                continue;
            }
            self.stays.push(format!("tenant {name} goes on running: {has}"));
            if *is_being_deleted {
                let what = "its deletion was commanded and ends here: what is left of it stays";
                self.changes.push(format!("tenant {name}: {what}"));
            } else if *is_finalized {
                self.changes.push(format!("tenant {name}: its finalizer is taken off"));
            }
        }
        let names = |is_wanted: fn(&FoundTenant) -> bool| {
            let tenants = found.tenants.iter().filter(|tenant| is_wanted(tenant));
            tenants.map(|tenant| tenant.name.clone()).collect::<Vec<_>>()
        };
        let (finalized, all) = (names(|tenant| tenant.is_finalized), names(|_| true));
        if remove && !all.is_empty() {
            self.steps.push(Step::RemoveTenants(all));
        } else if !remove && !finalized.is_empty() {
            self.steps.push(Step::ReleaseTenants(finalized));
        }
        if remove && found.unconfirmed_windows > 0 {
            self.notes.push(format!(
                "{} windows of usage are not confirmed by the Manager: to have them billed, start the Operator, wait until `kubectl get \
                 novausagereports -n {SYSTEM_NAMESPACE}` shows each as received, and stop it again",
                found.unconfirmed_windows
            ));
        }
    }

    fn components(&mut self, found: &Found, remove: bool) {
        let all: Vec<&FoundObject> = found.of(Belongs::ToComponent).chain(found.of(Belongs::ToChart)).collect();
        if all.is_empty() {
            return;
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for object in &all {
            *kinds.entry(object.key.kind.as_str()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let what = format!("components, and the roles and policies of the chart: {}", kinds.join(", "));
        if remove {
            self.changes.push(format!("{what}: deleted, the definitions with every object of their kinds"));
            self.steps.push(Step::RemoveComponents);
        } else {
            self.stays.push(format!("{what}; they isolate tenants, also without the Operator"));
        }
    }

    fn rest(&mut self, found: &Found) {
        let of_release = found.of(Belongs::ToRelease).count();
        if of_release > 0 {
            self.stays.push(format!(
                "{of_release} objects of the Operator's release; helm uninstall <release> -n {SYSTEM_NAMESPACE} removes them"
            ));
        }
        self.stays.push(format!(
            "namespace {SYSTEM_NAMESPACE} with this cluster's identity, commands and usage, and the definitions of {GROUP}: a cluster that \
             joins again goes on with them. To forget them: kubectl delete namespace {SYSTEM_NAMESPACE}; kubectl delete crd -l {}={}",
            PART_OF.0, PART_OF.1
        ));
        if let Err(refused) = may_begin(found) {
            self.notes.push(refused.to_string());
        }
        if !found.cluster_id.is_empty() {
            self.notes.push(format!(
                "the Manager still counts on this cluster: have it detached there (POST /api/v1/clusters/{}/detach with {{\"cluster\": \
                 \"<its name there>\"}}), or purged when it never comes back",
                found.cluster_id
            ));
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = ["nothing".to_owned()];
        let changes = if self.changes.is_empty() { &nothing[..] } else { &self.changes };
        for (title, lines) in [("What changes:", changes), ("What stays:", &self.stays), ("Note:", &self.notes)] {
            if lines.is_empty() {
                continue;
            }
            writeln!(f, "{title}")?;
            for line in lines {
                writeln!(f, "  - {line}")?;
            }
        }
        Ok(())
    }
}

/// Part of the removal of components. Each is gone before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// They would write again what is deleted after them.
    Workloads,
    /// Nothing answers them now.
    Webhooks,
    /// Settings, Services, Secrets, definitions of applications.
    Objects,
    /// With all objects of their kinds.
    Definitions,
    Namespaces,
    /// Bindings before what they bind, so that no policy refuses the removal of another.
    Policies,
    Roles,
}

impl Stage {
    fn of(key: &Key) -> Self {
        match key.kind.as_str() {
            "Deployment" => Self::Workloads,
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => Self::Webhooks,
            "CustomResourceDefinition" => Self::Definitions,
            "Namespace" => Self::Namespaces,
            "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => Self::Policies,
            "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => Self::Roles,
            _ => Self::Objects,
        }
    }
}

/// What is deleted to remove the components, in order. Objects that a component writes about its own kinds go with the definitions of
/// these.
#[must_use]
pub fn stages(objects: &[FoundObject]) -> BTreeMap<Stage, Vec<Key>> {
    let mut stages: BTreeMap<Stage, Vec<Key>> = BTreeMap::new();
    for object in objects {
        let is_labelled = object.labels.contains_key(COMPONENT_LABEL) || object.labels.contains_key(CREATED_BY_CAPSULE);
        let goes = match object.belongs() {
            Belongs::ToComponent => is_labelled,
            Belongs::ToChart => true,
            Belongs::ToTenant | Belongs::ToKubeNova | Belongs::ToRelease | Belongs::ToOthers => false,
        };
        if goes && object.key.namespace != SYSTEM_NAMESPACE {
            stages.entry(Stage::of(&object.key)).or_default().push(object.key.clone());
        }
    }
    for keys in stages.values_mut() {
        // `ValidatingAdmissionPolicyBinding` before `ValidatingAdmissionPolicy`.
        keys.sort_by(|a, b| b.kind.cmp(&a.kind).then_with(|| a.cmp(b)));
    }
    stages
}

/// Settings from which Capsule writes its webhook configurations.
#[must_use]
pub fn holds_webhooks(object: &Value) -> bool {
    is_webhook_configuration(object) || object["kind"] == "CapsuleConfiguration"
}

/// Has every webhook of a configuration, or of Capsule's settings, let through what it cannot check. True when one did not before.
pub fn ignore_failures(object: &mut Value) -> bool {
    let mut changed = false;
    match object {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "failurePolicy" && value == "Fail" {
                    *value = "Ignore".into();
                    changed = true;
                } else if name != "managedFields" {
                    changed |= ignore_failures(value);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                changed |= ignore_failures(item);
            }
        }
        _ => {}
    }
    changed
}

fn name_of(key: &Key) -> String {
    let namespace = if key.namespace.is_empty() { String::new() } else { format!("{}/", key.namespace) };
    format!("{} {namespace}{}", key.kind, key.name)
}

/// The first names, and how many more there are.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(line: &str, label: (&str, &str), is_kept: bool) -> FoundObject {
        FoundObject {
            key: line.parse().unwrap(),
            labels: BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]),
            is_kept,
        }
    }

    const OF_CAPSULE: (&str, &str) = (COMPONENT_LABEL, "capsule");
    const OF_TENANT: (&str, &str) = (labels::TENANT_ID, "id");
    const DEFINITION: &str = "apiextensions.k8s.io/v1/CustomResourceDefinition//";

    fn found() -> Found {
        let definition = |name: &str, label, is_kept| object(&format!("{DEFINITION}{name}"), label, is_kept);
        Found {
            cluster_id: "c1".to_owned(),
            tenants: vec![
                FoundTenant {
                    name: "acme".to_owned(),
                    applications: vec!["shop".to_owned()],
                    ..FoundTenant::default()
                },
                FoundTenant { name: "globex".to_owned(), is_finalized: true, ..FoundTenant::default() },
            ],
            objects: vec![
                object("rbac.authorization.k8s.io/v1/ClusterRole//kubenova:deployer", PART_OF, true),
                object("rbac.authorization.k8s.io/v1/ClusterRole//kubenova:operator", PART_OF, false),
                object("admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy//kubenova-pods", PART_OF, true),
                object(
                    "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding//kubenova-pods",
                    PART_OF,
                    true,
                ),
                definition("novatenants.kubenova.io", PART_OF, true),
                definition("tenants.capsule.clastix.io", OF_CAPSULE, false),
                object("/v1/Namespace//capsule-system", PART_OF, true),
                object("/v1/Namespace//acme-apps", OF_TENANT, false),
                object("apps/v1/Deployment/capsule-system/capsule-controller-manager", OF_CAPSULE, false),
                object("capsule.clastix.io/v1beta2/CapsuleConfiguration//default", OF_CAPSULE, false),
                object("capsule.clastix.io/v1beta2/Tenant//acme", OF_TENANT, false),
                object("capsule.clastix.io/v1beta2/RuleStatus/acme-apps/r", ("x", "y"), false),
                object(
                    "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration//capsule",
                    (CREATED_BY_CAPSULE, "controller"),
                    false,
                ),
            ],
            failing: vec!["admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration//capsule".parse().unwrap()],
            ..Found::default()
        }
    }

    const ALL: Options = Options { remove_tenants: true, remove_components: true };

    #[test]
    fn without_options_everything_goes_on_running() {
        let plan = plan(&found(), Options::default()).unwrap();
        let failing = found().failing;
        assert_eq!(plan.steps, [Step::IgnoreFailures(failing), Step::ReleaseTenants(vec!["globex".to_owned()])]);
        let shown = plan.to_string();
        for expected in [
            "tenant acme goes on running: 1 application, 0 volume claims, the namespaces acme-owner and acme-apps",
            "tenant globex: its finalizer is taken off",
            "1 objects of the Operator's release",
            "/api/v1/clusters/c1/detach",
        ] {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
        assert!(!shown.contains("is deleted"), "{shown}");
    }

    #[test]
    fn a_second_run_has_nothing_to_do() {
        let mut found = found();
        found.failing.clear();
        found.tenants[1].is_finalized = false;
        let plan = plan(&found, Options::default()).unwrap();
        assert!(plan.steps.is_empty() && plan.to_string().contains("What changes:\n  - nothing"), "{plan}");
    }

    #[test]
    fn tenants_are_removed_before_what_they_need() {
        let mut found = Found { unconfirmed_windows: 3, ..found() };
        let all = plan(&found, ALL).unwrap();
        let tenants = vec!["acme".to_owned(), "globex".to_owned()];
        let expected =
            [Step::IgnoreFailures(found.failing.clone()), Step::RemoveTenants(tenants), Step::RemoveComponents];
        assert_eq!(all.steps, expected);
        assert!(all.to_string().contains("3 windows of usage are not confirmed"), "{all}");
        found.tenants.clear();
        let rest = plan(&found, Options { remove_tenants: false, ..ALL }).unwrap();
        assert_eq!(rest.steps.last(), Some(&Step::RemoveComponents), "an interrupted run goes on");
    }

    #[test]
    fn nothing_is_done_that_would_be_undone_or_take_what_must_stay() {
        let running = Found { operator_pods: vec!["kubenova-operator-x".to_owned()], ..found() };
        let refused = may_begin(&running).unwrap_err().to_string();
        assert!(refused.contains("--replicas=0"), "{refused}");
        assert!(plan(&running, ALL).unwrap().to_string().contains(&refused), "the list can be looked at before");
        assert_eq!(may_begin(&found()), Ok(()));
        let components = Options { remove_tenants: false, ..ALL };
        assert!(matches!(plan(&found(), components), Err(Refused::TenantsStay(names)) if names == ["acme", "globex"]));
        let mut found = found();
        found.objects.push(object("capsule.clastix.io/v1beta2/Tenant//oil", ("team", "oil"), false));
        let refused = plan(&found, ALL).unwrap_err();
        assert_eq!(refused, Refused::UsedByOthers(vec!["Tenant oil".to_owned()]));
        assert!(plan(&found, Options { remove_components: false, ..ALL }).is_ok(), "its own tenants may go");
    }

    #[test]
    fn components_go_from_the_workloads_to_the_roles_and_nothing_else_goes() {
        let stages = stages(&found().objects);
        let lines: Vec<String> = stages.values().flatten().map(|key| format!("{}/{}", key.kind, key.name)).collect();
        assert_eq!(
            lines,
            [
                "Deployment/capsule-controller-manager",
                "ValidatingWebhookConfiguration/capsule",
                "CapsuleConfiguration/default",
                "CustomResourceDefinition/tenants.capsule.clastix.io",
                "Namespace/capsule-system",
                "ValidatingAdmissionPolicyBinding/kubenova-pods",
                "ValidatingAdmissionPolicy/kubenova-pods",
                "ClusterRole/kubenova:deployer",
            ]
        );
    }

    #[test]
    fn webhooks_let_through_what_they_cannot_check() {
        let mut settings = json!({"kind": "CapsuleConfiguration", "metadata": {"managedFields": [{"failurePolicy": "Fail"}]}, "spec":
            {"admission": {"validating": {"webhooks": [{"failurePolicy": "Fail"}, {"failurePolicy": "Ignore"}]}}}});
        assert!(holds_webhooks(&settings) && ignore_failures(&mut settings));
        assert!(!ignore_failures(&mut settings), "it is so already");
        assert_eq!(settings["spec"]["admission"]["validating"]["webhooks"][0]["failurePolicy"], "Ignore");
        assert_eq!(settings["metadata"]["managedFields"][0]["failurePolicy"], "Fail");
        assert!(!holds_webhooks(&json!({"kind": "ConfigMap"})));
    }
}
