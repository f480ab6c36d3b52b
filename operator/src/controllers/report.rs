//! Reports our own kinds: their status into the status cache, and the last two conditions of the cluster's configuration
//! (`UsageReporting` and `Ready`), which sum up the others.

use super::work::{self, Next};
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
    conditions::ConditionStatus,
    tenant::NovaTenant,
};
use kubenova_operator_core::{conditions::ConditionSet, observed};
use kubenova_runtime::clock;
use std::{fmt, time::Duration};
use tokio::sync::watch::Receiver;

/// Time between reports when no watch asks for one.
const INTERVAL: Duration = Duration::from_secs(120);

/// An object that is reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reported {
    ClusterConfig,
    /// The id is part of the key: when another tenant takes the name, the first one is reported as gone.
    Tenant {
        id: String,
        name: String,
    },
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterConfig => f.write_str("cluster-config"),
            Self::Tenant { id, name } => write!(f, "tenant {name} ({id})"),
        }
    }
}

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext, usage: Receiver<UsageHealth>) {
    let client = ctx.apiserver.client();
    let configs =
        watch::changes(Api::<NovaClusterConfig>::all(client.clone()), "").map(|_| vec![Reported::ClusterConfig]);
    let tenants = watch::changes(Api::<NovaTenant>::all(client), "")
        .map(|tenant| vec![Reported::Tenant { id: tenant.spec.tenant_id.clone(), name: tenant.name_any() }]);
    let mut changes = usage.clone();
    let changes = stream::unfold(&mut changes, |usage| async move {
        usage.changed().await.ok()?;
        Some((vec![Reported::ClusterConfig], usage))
    });
    let triggers = stream::select(stream::select(configs, tenants), changes);
    work::run("report", triggers, &ctx.metrics, &ctx.shutdown, |object| reconcile(&ctx, &usage, object)).await;
}

async fn reconcile(ctx: &ClusterContext, usage: &Receiver<UsageHealth>, object: Reported) -> Next {
    let reported = match &object {
        Reported::ClusterConfig => report_cluster_config(ctx, usage).await,
        Reported::Tenant { id, name } => report_tenant(ctx, id, name).await,
    };
    match reported {
        Ok(next) => next,
        Err(error) => {
            let cause = apiserver::error::chain(&error);
            tracing::debug!(?object, error = cause, "could not report an object's status; trying again");
            Next::failed(cause, &error)
        }
    }
}

async fn report_tenant(ctx: &ClusterContext, id: &str, name: &str) -> Result<Next, apiserver::Error> {
    let api: Api<NovaTenant> = Api::all(ctx.apiserver.client());
    let Some(tenant) = verbs::get(&api, name).await?.filter(|tenant| tenant.spec.tenant_id == id) else {
        ctx.status.remove(&observed::tenant_key(id));
        return Ok(Next::OnChange);
    };
    ctx.status.put(observed::tenant(&tenant));
    Ok(Next::After(INTERVAL))
}

async fn report_cluster_config(ctx: &ClusterContext, usage: &Receiver<UsageHealth>) -> Result<Next, apiserver::Error> {
    let api: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    let usage = usage.borrow().clone();
    let written = status::update(&api, NAME, |config| {
        let (generation, now) = (config.metadata.generation, clock::now());
        let status = config.status.get_or_insert_default();
        let mut changed = usage_condition(&usage).merge_into(&mut status.conditions, generation, now).changed;
        changed |= ready_condition(&status.conditions).merge_into(&mut status.conditions, generation, now).changed;
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
    Ok(Next::After(INTERVAL))
}

fn usage_condition(usage: &UsageHealth) -> ConditionSet {
    let status = match (usage.reporting, usage.reason) {
        (true, _) => ConditionStatus::True,
        (false, "Starting") => ConditionStatus::Unknown,
        (false, _) => ConditionStatus::False,
    };
    let mut set = ConditionSet::new();
    match &usage.conflict {
        Some(conflict) if status == ConditionStatus::True => {
            set.set_false(condition::USAGE_REPORTING, "ReceiptConflict", conflict);
        }
        _ => set.set(condition::USAGE_REPORTING, status, usage.reason, &usage.message),
    }
    set
}

/// `Ready`: what the first condition that is not True says, in the order of the join.
fn ready_condition(conditions: &[Condition]) -> ConditionSet {
    let mut set = ConditionSet::new();
    for step in condition::JOIN_ORDER {
        let Some(found) = conditions.iter().find(|condition| condition.type_ == step) else {
            set.set_unknown(condition::READY, "NotReached", format!("waiting for condition {step}"));
            return set;
        };
        if found.status != "True" {
            let status = if found.status == "False" { ConditionStatus::False } else { ConditionStatus::Unknown };
            set.set(condition::READY, status, &found.reason, format!("{step}: {}", found.message));
            return set;
        }
    }
    let message = "the cluster has joined, its components are available, and usage is reported";
    set.set_true(condition::READY, "Ready", message);
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering;
    use kubenova_operator_core::conditions::ConditionUpdate;

    fn ready(conditions: &[Condition]) -> ConditionUpdate {
        ready_condition(conditions).get(condition::READY).unwrap().clone()
    }

    #[test]
    fn a_window_in_conflict_is_shown_as_long_as_nothing_worse_is() {
        let reason = |usage: &UsageHealth| {
            usage_condition(usage).get(condition::USAGE_REPORTING).map(|shown| (shown.status, shown.reason.clone()))
        };
        let (_sender, health) = metering::health();
        let starting = health.borrow().clone();
        let measuring = UsageHealth { reporting: true, reason: "Measuring", ..starting.clone() };
        let conflict = UsageHealth { conflict: Some("other bytes".to_owned()), ..measuring.clone() };
        let away = UsageHealth { reporting: false, reason: "APIServerUnreachable", ..conflict.clone() };
        for (usage, status, word) in [
            (&starting, ConditionStatus::Unknown, "Starting"),
            (&measuring, ConditionStatus::True, "Measuring"),
            (&conflict, ConditionStatus::False, "ReceiptConflict"),
            (&away, ConditionStatus::False, "APIServerUnreachable"),
        ] {
            assert_eq!(reason(usage), Some((status, word.to_owned())));
        }
    }

    #[test]
    fn the_first_condition_that_does_not_hold_is_the_reason() {
        let mut conditions = Vec::new();
        let mut set = ConditionSet::new();
        for step in condition::JOIN_ORDER {
            set.set_true(step, "Ok", "");
        }
        let _all = set.merge_into(&mut conditions, None, clock::now());
        assert_eq!(ready(&conditions).status, ConditionStatus::True);
        let mut set = ConditionSet::new();
        set.set_false(condition::KUBEVELA_READY, "Broken", "no pods");
        set.set_unknown(condition::CAPSULE_READY, "Installing", "");
        let _two = set.merge_into(&mut conditions, None, clock::now());
        assert_eq!(ready(&conditions).reason, "Installing");
        assert_eq!(ready(&[]).status, ConditionStatus::Unknown);
    }
}
