//! The sovereign policy, read again for every command: a file from the cluster's ConfigMap, which the Operator cannot write.
//!
//! A file that exists and cannot be read refuses every command: the cluster's administrator may have meant to forbid it.

use crate::{
    apiserver::{Error, verbs},
    context::ClusterContext,
};
use kube::Api;
use kubenova_crds::cluster_config::{NAME, NovaClusterConfig};
use kubenova_operator_core::{
    command::VerifiedCommand,
    policy::{self, Clocks, Denial, Policy, PolicyInput},
};
use kubenova_runtime::clock;
use kubenova_schema::kinds::CommandKind;
use std::{io::ErrorKind, path::Path};

/// An unreadable policy is an operator's mistake that takes minutes to fix.
const UNREADABLE_RETRY_SECONDS: u32 = 60;

/// Checks a command that is not a replay.
///
/// # Errors
/// When what it is checked against cannot be read.
pub async fn check(cluster: &ClusterContext, verified: &VerifiedCommand) -> Result<Result<(), Denial>, Error> {
    let policy = match read(&cluster.settings.policy_file).await {
        Ok(policy) => policy,
        Err(denial) => return Ok(Err(denial)),
    };
    let input = input(cluster, verified, &policy).await?;
    let now = Clocks { cluster: clock::now(), manager: cluster.manager_clock.now_or_local() };
    Ok(policy::check(&policy, verified, &input, now))
}

async fn read(file: &Path) -> Result<Policy, Denial> {
    let unreadable = |error: String| Denial {
        reason: "PolicyUnreadable",
        message: format!(
            "the sovereign policy of this cluster, {}, is unusable: {error}; correct the ConfigMap kubenova-sovereign-policy",
            file.display()
        ),
        retry_after_seconds: Some(UNREADABLE_RETRY_SECONDS),
    };
    let text = match tokio::fs::read_to_string(file).await {
        Ok(text) => text,
        // Outside a pod there is no such file, and nothing is forbidden.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Policy::default()),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    serde_saphyr::from_str(&text).map_err(|error| unreadable(error.to_string()))
}

/// Reads only what this command is checked against.
async fn input(cluster: &ClusterContext, verified: &VerifiedCommand, policy: &Policy) -> Result<PolicyInput, Error> {
    let mut input = PolicyInput::default();
    if verified.kind.is_delete() {
        for record in cluster.inbox.all().iter().filter(|record| record.is_delete()) {
            let Some(at) = record.stored_at else { continue };
            input.deletes.push(at);
            if record.kind == Some(CommandKind::DeleteTenant) {
                input.tenant_deletes.push(at);
            }
        }
    }
    if verified.kind == CommandKind::DeleteTenant {
        cluster.tenants.complete().await;
        input.tenants = cluster.tenants.count();
    }
    if verified.kind == CommandKind::ApplyClusterConfig && !policy.component_upgrades {
        let configs: Api<NovaClusterConfig> = Api::all(cluster.apiserver.client());
        input.components = verbs::get(&configs, NAME).await?.and_then(|config| config.spec.components);
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_file_forbids_nothing_and_an_unusable_one_everything() {
        let folder = std::env::temp_dir().join(format!("kubenova-policy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("policy.yaml");
        assert_eq!(read(&file).await.unwrap(), Policy::default());
        std::fs::write(&file, "freez: true\n").unwrap();
        let denial = read(&file).await.unwrap_err();
        assert_eq!((denial.reason, denial.retry_after_seconds), ("PolicyUnreadable", Some(60)));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
