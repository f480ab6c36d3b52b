//! Says how our own kinds are: their status onto the status_cache, and the last two conditions of the cluster's configuration
//! (`UsageReporting` and `Ready`), which sum up the others.

use super::work;
use crate::{
    apiserver::{self, status, verbs, watch},
    context::ClusterContext,
    metering::UsageHealth,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, ResourceExt as _};
use kubenova_crds::{
    cluster_config::{NAME, NovaClusterConfig, condition},
    conditions::{self, ConditionStatus},
    tenant::NovaTenant,
};
use kubenova_operator_core::observed;
use kubenova_runtime::clock;
use std::time::Duration;
use tokio::sync::watch::Receiver;

/// Time between looks when nothing calls for one.
const INTERVAL: Duration = Duration::from_secs(120);

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext, usage: Receiver<UsageHealth>) {
    let client = ctx.apiserver.client();
    let configs = watch::changes(Api::<NovaClusterConfig>::all(client.clone()), "").map(|_| vec!["config".to_owned()]);
    let tenants = watch::changes(Api::<NovaTenant>::all(client), "")
        .map(|tenant| vec![format!("tenant/{}/{}", tenant.spec.tenant_id, tenant.name_any())]);
    let mut changes = usage.clone();
    let changes = stream::unfold(&mut changes, |usage| async move {
        usage.changed().await.ok()?;
        Some((vec!["config".to_owned()], usage))
    });
    let calls = stream::select(stream::select(configs, tenants), changes);
    work::run(calls, &ctx.shutdown, |name| reconcile(&ctx, &usage, name)).await;
}

async fn reconcile(ctx: &ClusterContext, usage: &Receiver<UsageHealth>, name: String) -> Option<Duration> {
    let seen = match name.strip_prefix("tenant/").and_then(|rest| rest.split_once('/')) {
        Some((id, name)) => tenant(ctx, id, name).await,
        None => config(ctx, usage).await,
    };
    match seen {
        Ok(()) => Some(INTERVAL),
        Err(error) => {
            tracing::debug!(name, error = %apiserver::error::chain(&error), "could not report on an object; trying again");
            Some(Duration::from_secs(2))
        }
    }
}

async fn tenant(ctx: &ClusterContext, id: &str, name: &str) -> Result<(), apiserver::Error> {
    let api: Api<NovaTenant> = Api::all(ctx.apiserver.client());
    match verbs::get(&api, name).await?.filter(|tenant| tenant.spec.tenant_id == id) {
        Some(tenant) => ctx.status.put(observed::tenant(&tenant)),
        None => ctx.status.remove(&observed::tenant_key(id)),
    }
    Ok(())
}

async fn config(ctx: &ClusterContext, usage: &Receiver<UsageHealth>) -> Result<(), apiserver::Error> {
    let api: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    let usage = usage.borrow().clone();
    let written = status::update(&api, NAME, |config| {
        let generation = config.metadata.generation;
        let status = config.status.get_or_insert_default();
        let mut changed = set_usage(&mut status.conditions, &usage, generation);
        let (truth, reason, message) = sum_up(&status.conditions);
        changed |= conditions::set(
            &mut status.conditions,
            condition::READY,
            truth,
            &reason,
            &message,
            generation,
            clock::now(),
        );
        if status.observed_generation != generation {
            status.observed_generation = generation;
            changed = true;
        }
        changed
    })
    .await?;
    if let Some(status) = written.as_ref().and_then(observed::cluster_config) {
        ctx.status.put(status);
    }
    Ok(())
}

fn set_usage(conditions: &mut Vec<Condition>, usage: &UsageHealth, generation: Option<i64>) -> bool {
    let truth = match (usage.reporting, usage.reason) {
        (true, _) => ConditionStatus::True,
        (false, "Starting") => ConditionStatus::Unknown,
        (false, _) => ConditionStatus::False,
    };
    conditions::set(
        conditions,
        condition::USAGE_REPORTING,
        truth,
        usage.reason,
        &usage.message,
        generation,
        clock::now(),
    )
}

/// Ready, and if not, the first condition in order that says why.
fn sum_up(conditions: &[Condition]) -> (ConditionStatus, String, String) {
    for step in condition::JOIN_ORDER {
        let Some(found) = conditions.iter().find(|condition| condition.type_ == step) else {
            return (ConditionStatus::Unknown, "NotReached".to_owned(), format!("{step} is not known yet"));
        };
        if found.status != "True" {
            let truth = if found.status == "False" { ConditionStatus::False } else { ConditionStatus::Unknown };
            return (truth, found.reason.clone(), format!("{step}: {}", found.message));
        }
    }
    (
        ConditionStatus::True,
        "Ready".to_owned(),
        "the cluster has joined, its components run, and usage is measured".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_condition_that_does_not_hold_is_the_reason() {
        let mut conditions = Vec::new();
        for step in condition::JOIN_ORDER {
            conditions::set(&mut conditions, step, ConditionStatus::True, "Ok", "", None, clock::now());
        }
        assert_eq!(sum_up(&conditions).0, ConditionStatus::True);
        conditions::set(
            &mut conditions,
            condition::KUBEVELA_READY,
            ConditionStatus::False,
            "Broken",
            "no pods",
            None,
            clock::now(),
        );
        conditions::set(
            &mut conditions,
            condition::CAPSULE_READY,
            ConditionStatus::Unknown,
            "Installing",
            "",
            None,
            clock::now(),
        );
        assert_eq!(sum_up(&conditions).1, "Installing");
        assert_eq!(sum_up(&[]).0, ConditionStatus::Unknown);
    }
}
