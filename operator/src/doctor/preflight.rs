//! Before the chart is installed: what would keep this cluster from joining. The token is read, and its secret shown to no one.

use super::unread;
use crate::{
    apiserver::{client::Apiserver, server, verbs},
    controllers::cluster_config::foreign_installs,
    join::{conditions::set_clock, enroll},
};
use kube::Api;
use kubenova_bus::dial::{
    Dialer,
    proxy::{ProxyFiles, ProxySettings},
};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::{
    components::Component,
    conditions::ConditionSet,
    doctor::{self, Finding},
};
use kubenova_schema::token::EnrollmentToken;
use std::path::PathBuf;

/// Where the Job has its files.
#[derive(Debug, Clone)]
pub struct PreflightFiles {
    /// The enrollment token; absent once the cluster has enrolled.
    pub token: PathBuf,
    /// Folder with `ca.crt`, `username` and `password` of the proxy, each where it is needed.
    pub proxy: PathBuf,
}

pub(super) async fn examine(apiserver: &Apiserver, files: &PreflightFiles) -> Vec<Finding> {
    let mut found = vec![match server::version(apiserver).await {
        Ok(version) => doctor::kubernetes_version(&version),
        Err(error) => unread("API server", &error),
    }];
    found.extend(other_installs(apiserver).await);
    found.extend(manager(files).await);
    found
}

/// Components that KubeNova did not install: it takes none over unless it is allowed to.
async fn other_installs(apiserver: &Apiserver) -> Vec<Finding> {
    let mut found = Vec::new();
    for component in Component::ALL {
        let subject = component.title();
        let selector = foreign_installs(component);
        let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::all(apiserver.client());
        found.push(match verbs::list_metadata(&deployments, &selector).await {
            Ok(others) => match others.first() {
                None => Finding::good(subject, "none that KubeNova did not install"),
                Some(other) => Finding::warning(
                    subject,
                    format!(
                        "Deployment {}/{} is not KubeNova's: it is left alone, and {} stays False, until spec.components.{}.adopt is true \
                         in the cluster's configuration at the Manager, or it is deleted",
                        other.namespace.as_deref().unwrap_or_default(),
                        other.name.as_deref().unwrap_or_default(),
                        component.condition(),
                        component.spec_key()
                    ),
                ),
            },
            Err(error) => unread(subject, &error),
        });
    }
    found
}

/// Whether the Manager that the token names is reached.
async fn manager(files: &PreflightFiles) -> Vec<Finding> {
    let Ok(text) = tokio::fs::read_to_string(&files.token).await else {
        let message = "there is none: right where this cluster has enrolled, else create the Secret that enrollment.existingSecret names";
        return vec![Finding::warning("enrollment token", message)];
    };
    let token = match EnrollmentToken::decode(text.trim()) {
        Ok(token) => token,
        Err(error) => return vec![Finding::failure("enrollment token", error.to_string())],
    };
    let mut found = vec![Finding::good(
        "enrollment token",
        format!("of cluster {}; whether it is still valid is seen when it is used", token.cluster_id),
    )];
    let dialer = match dialer(files) {
        Ok(dialer) => dialer,
        Err(finding) => {
            found.push(finding);
            return found;
        }
    };
    let mut conditions = ConditionSet::new();
    let mut furthest = None;
    for endpoint in &token.endpoints {
        let mut of_endpoint = ConditionSet::new();
        match enroll::look(endpoint, &token, &dialer, &mut of_endpoint).await {
            Ok(clock_offset_ms) => {
                set_clock(&mut of_endpoint, clock_offset_ms);
                furthest = None;
                conditions = of_endpoint;
                break;
            }
            Err(error) => crate::join::conditions::keep_furthest(&mut furthest, error, of_endpoint),
        }
    }
    if let Some((error, of_endpoint)) = furthest {
        conditions = of_endpoint;
        conditions.set_false(error.condition, error.reason, error.message);
    }
    found.extend(conditions.iter().map(|update| {
        let message = format!("{} ({})", update.message, update.reason);
        match update.status {
            kubenova_crds::conditions::ConditionStatus::True => Finding::good(update.condition, message),
            // A clock that is wrong delays the join, and does not end it.
            _ if update.condition == condition::CLOCK_IN_SYNC => Finding::warning(update.condition, message),
            _ => Finding::failure(update.condition, message),
        }
    }));
    found
}

fn dialer(files: &PreflightFiles) -> Result<Dialer, Finding> {
    let ca_file = Some(files.proxy.join("ca.crt")).filter(|file| file.exists());
    let credentials = Some(files.proxy.clone()).filter(|folder| folder.join("username").exists());
    ProxySettings::from_env(ProxyFiles { ca_file, credentials })
        .map(Dialer::new)
        .map_err(|error| Finding::failure("proxy", kubenova_runtime::telemetry::chain(&error)))
}
