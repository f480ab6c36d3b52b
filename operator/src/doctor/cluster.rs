//! The cluster in which the Operator runs.

use super::{policies, unread};
use crate::{
    apiserver::{access, client::Apiserver, server, verbs},
    lease,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod},
    rbac::v1::ClusterRole,
};
use kube::{Api, ResourceExt as _};
use kubenova_crds::{
    SYSTEM_NAMESPACE,
    cluster_config::{NAME, NovaClusterConfig},
    command::NovaCommand,
    labels::FOR_COMPONENT,
};
use kubenova_operator_core::{
    components::{Component, rbac_label},
    doctor::{self, EXCESSIVE, Finding, NEEDED, PolicyNames},
};
use kubenova_runtime::{clock, probe};
use std::path::Path;

/// The Operator's ConfigMap, written by the chart.
const CONFIG_MAP: &str = "kubenova-operator";
/// The key of the names of the chart's policies in it.
const POLICY_NAMES: &str = "policies.yaml";
/// The Operator's Deployment.
const DEPLOYMENT: &str = "kubenova-operator";
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Namespaces that the chart relies on, with the least pod security that they should enforce.
const NAMESPACES: [(&str, &str); 3] =
    [(SYSTEM_NAMESPACE, "restricted"), ("capsule-system", "baseline"), ("vela-system", "baseline")];

pub(super) async fn examine(apiserver: &Apiserver, operator_user: &str, probe_socket: &Path) -> Vec<Finding> {
    let mut found = vec![match server::version(apiserver).await {
        Ok(version) => doctor::kubernetes_version(&version),
        Err(error) => return vec![unread("API server", &error)],
    }];
    found.push(deployment(apiserver).await);
    found.push(held_lease(apiserver).await);
    found.extend(parts(probe_socket).await);
    found.extend(configuration(apiserver).await);
    found.push(match records(apiserver).await {
        Ok(records) => doctor::commands(&records),
        Err(error) => unread("commands", &error),
    });
    found.extend(rights(apiserver, operator_user).await);
    found.extend(roles(apiserver).await);
    found.extend(named_policies(apiserver).await);
    for (namespace, least) in NAMESPACES {
        found.push(pod_security(apiserver, namespace, least).await);
    }
    found
}

/// Every inbox record.
pub(super) async fn records(apiserver: &Apiserver) -> Result<Vec<NovaCommand>, crate::apiserver::Error> {
    verbs::list(&Api::namespaced(apiserver.client(), SYSTEM_NAMESPACE), "").await
}

async fn deployment(apiserver: &Apiserver) -> Finding {
    let subject = "Deployment kubenova-operator";
    let api: Api<Deployment> = Api::namespaced(apiserver.client(), SYSTEM_NAMESPACE);
    let deployment = match verbs::get(&api, DEPLOYMENT).await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => return Finding::failure(subject, "is not there: install the kubenova-operator chart"),
        Err(error) => return unread(subject, &error),
    };
    let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default();
    if ready > 0 {
        return Finding::good(subject, format!("{ready} ready"));
    }
    let pods: Api<Pod> = Api::namespaced(apiserver.client(), SYSTEM_NAMESPACE);
    let pods = verbs::list(&pods, "app.kubernetes.io/name=kubenova-operator").await.unwrap_or_default();
    let waits = pods.iter().find_map(waiting_for).unwrap_or_else(|| "no pod of it is ready".to_owned());
    Finding::failure(
        subject,
        format!("{waits}; kubectl -n kubenova-system describe pods -l app.kubernetes.io/name=kubenova-operator"),
    )
}

/// Why a pod's containers do not run: `ImagePullBackOff: …`.
fn waiting_for(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let waiting = containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref())?;
    Some(format!(
        "{}: {}",
        waiting.reason.as_deref().unwrap_or("waiting"),
        waiting.message.as_deref().unwrap_or("no message")
    ))
}

async fn held_lease(apiserver: &Apiserver) -> Finding {
    let api: Api<Lease> = Api::namespaced(apiserver.client(), SYSTEM_NAMESPACE);
    match verbs::get(&api, lease::NAME).await {
        Ok(lease) => {
            let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
            let renewed: Option<Timestamp> = spec.renew_time.map(|time| time.0);
            doctor::lease(spec.holder_identity.as_deref(), renewed, clock::now())
        }
        Err(error) => unread("Lease", &error),
    }
}

/// What the parts of the Operator in this pod wait for; nothing outside such a pod.
async fn parts(probe_socket: &Path) -> Vec<Finding> {
    if !probe_socket.exists() {
        return Vec::new();
    }
    let subject = "parts of the Operator";
    vec![match probe::ask(probe_socket).await {
        Ok(answer) if answer == "ok" => Finding::good(subject, "all ready"),
        Ok(answer) => Finding::failure(subject, answer.replace('\n', "; ")),
        Err(error) => Finding::failure(subject, format!("the Operator in this pod does not answer: {error}")),
    }]
}

async fn configuration(apiserver: &Apiserver) -> Vec<Finding> {
    let api: Api<NovaClusterConfig> = Api::all(apiserver.client());
    match verbs::get(&api, NAME).await {
        Ok(config) => doctor::conditions(&config.and_then(|config| config.status).unwrap_or_default()),
        Err(error) if error.is_not_found() => {
            vec![Finding::failure(
                "custom resources",
                "are missing: install the kubenova-operator chart, which has them",
            )]
        }
        Err(error) => vec![unread("NovaClusterConfig default", &error)],
    }
}

async fn rights(apiserver: &Apiserver, operator_user: &str) -> Vec<Finding> {
    let subject = "rights of the Operator";
    let user = match access::user_name(apiserver).await {
        Ok(user) if user == operator_user => None,
        Ok(_) => Some(operator_user),
        Err(error) => return vec![unread(subject, &error)],
    };
    let mut allowed = Vec::new();
    for right in NEEDED.into_iter().chain(EXCESSIVE) {
        match access::may(apiserver, user, right).await {
            Ok(is_allowed) => allowed.push((right, is_allowed)),
            Err(error) => return vec![unread(subject, &error)],
        }
    }
    doctor::rights(&allowed)
}

async fn roles(apiserver: &Apiserver) -> Vec<Finding> {
    let api: Api<ClusterRole> = Api::all(apiserver.client());
    let mut found = Vec::new();
    for component in Component::ALL {
        found.push(match verbs::get(&api, &rbac_label::cluster_role(component)).await {
            Ok(role) => {
                let label = role.as_ref().map(|role| role.labels().get(FOR_COMPONENT).map_or("", String::as_str));
                doctor::roles(component, label)
            }
            Err(error) => unread(&format!("roles of {}", component.title()), &error),
        });
    }
    found
}

async fn named_policies(apiserver: &Apiserver) -> Vec<Finding> {
    let subject = "policies";
    let api: Api<ConfigMap> = Api::namespaced(apiserver.client(), SYSTEM_NAMESPACE);
    let text = match verbs::get(&api, CONFIG_MAP).await {
        Ok(config) => config.and_then(|config| config.data).and_then(|mut data| data.remove(POLICY_NAMES)),
        Err(error) => return vec![unread(subject, &error)],
    };
    let Some(names) = text.and_then(|text| serde_saphyr::from_str::<PolicyNames>(&text).ok()) else {
        let message = format!(
            "ConfigMap {CONFIG_MAP} of {SYSTEM_NAMESPACE} does not name them: install the chart of this release"
        );
        return vec![Finding::failure(subject, message)];
    };
    match policies::found(apiserver).await {
        Ok(found) => doctor::policies(&names, env!("CARGO_PKG_VERSION"), &found),
        Err(error) => vec![unread(subject, &error)],
    }
}

async fn pod_security(apiserver: &Apiserver, namespace: &str, least: &str) -> Finding {
    let api: Api<Namespace> = Api::all(apiserver.client());
    match verbs::get_metadata(&api, namespace).await {
        Ok(Some(metadata)) => {
            let labels = metadata.labels.unwrap_or_default();
            doctor::pod_security(namespace, least, labels.get(POD_SECURITY).map(String::as_str))
        }
        Ok(None) => Finding::failure(
            format!("namespace {namespace}"),
            "is not there; upgrade the chart with namespaces.create=true, or create it",
        ),
        Err(error) => unread(&format!("namespace {namespace}"), &error),
    }
}
