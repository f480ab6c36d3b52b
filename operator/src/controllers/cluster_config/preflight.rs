//! What must hold before a component is installed: fitting roles, and no other install in the way.

use super::{
    desired::DesiredComponent,
    outcome::{Outcome, refused},
};
use crate::apiserver::verbs;
use k8s_openapi::api::{apps::v1::Deployment, rbac::v1::ClusterRole};
use kube::{Api, Client, ResourceExt as _};
use kubenova_crds::labels::FOR_COMPONENT;
use kubenova_operator_core::components::{
    Component,
    rbac_label::{self, RolesFit},
    render::COMPONENT_LABEL,
};

/// Leaves out workloads of tenants, which KubeVela and Capsule label: a tenant may name its workload as it likes and must
/// not stop an upgrade by it.
const NOT_OF_A_TENANT: &str = "!app.oam.dev/name,!capsule.clastix.io/managed-by,!projectcapsule.dev/tenant";

/// Refuses when the roles in the cluster were written for another version.
pub(super) async fn check_roles(client: &Client, desired: &DesiredComponent<'_>) -> Result<(), Outcome> {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role =
        verbs::get(&roles, &rbac_label::cluster_role(desired.component)).await.map_err(|error| refused(&error))?;
    let label = role.as_ref().map(|role| role.labels().get(FOR_COMPONENT).map_or("", String::as_str));
    match rbac_label::check(desired.component, desired.version(), label, desired.common().adopt) {
        RolesFit::Fits => Ok(()),
        RolesFit::UpgradeNeeded { found } => {
            let message = RolesFit::message(desired.component, desired.version(), found.as_deref());
            Err(Outcome::failed(RolesFit::REASON, message))
        }
    }
}

/// Selects the component's Deployments that KubeNova did not install.
#[must_use]
pub fn foreign_installs(component: Component) -> String {
    format!("app.kubernetes.io/name={},!{COMPONENT_LABEL},{NOT_OF_A_TENANT}", component.app_name())
}

/// Refuses when an install that is not ours is in the way, unless it may be adopted.
pub(super) async fn check_other_installs(client: &Client, desired: &DesiredComponent<'_>) -> Result<(), Outcome> {
    let component = desired.component;
    let deployments: Api<Deployment> = Api::all(client.clone());
    let foreign = verbs::list(&deployments, &foreign_installs(component)).await.map_err(|error| refused(&error))?;
    let title = component.title();
    for deployment in &foreign {
        let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        if namespace != component.namespace() || name != component.deployment() {
            let message = format!(
                "another {title} runs as Deployment {namespace}/{name}, and two would overwrite each other's objects; \
                 delete it or move it to {}/{}",
                component.namespace(),
                component.deployment(),
            );
            return Err(Outcome::failed("InstalledElsewhere", message));
        }
        if !desired.common().adopt {
            let message = format!(
                "a {title} that KubeNova did not install runs in {namespace}; adopt it with \
                 spec.components.{}.adopt: true, or delete it",
                component.spec_key(),
            );
            return Err(Outcome::failed("AlreadyInstalled", message));
        }
        let found = version_of(deployment).unwrap_or_default();
        if found != desired.version() {
            let message = format!(
                "the {title} to adopt has version {found:?}, not {}; set its version in spec.components first, then upgrade",
                desired.version(),
            );
            return Err(Outcome::failed("VersionConflict", message));
        }
    }
    Ok(())
}

/// The version in the tag of a Deployment's first image, without its `v`.
fn version_of(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.template.spec.as_ref()?;
    let image = pod.containers.first()?.image.as_deref()?;
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let (_, tag) = name.rsplit_once('/').map_or(name, |(_, last)| last).rsplit_once(':')?;
    Some(tag.trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_version_is_read_from_an_image() {
        assert_eq!(version_of(&deployment("registry.test:5000/a/b:v0.14.0")), Some("0.14.0".to_owned()));
        assert_eq!(version_of(&deployment("a/b:1.2@sha256:00")), Some("1.2".to_owned()));
        assert_eq!(version_of(&deployment("registry.test:5000/a/b")), None);
    }
}
