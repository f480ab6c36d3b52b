//! The sovereign policy, read again for every order: a file from the site's ConfigMap, which the Operator cannot write.
//!
//! A file that is there and cannot be read refuses everything: a site that meant to forbid must not be overheard.

use super::record::Records;
use crate::{
    apiserver::{Error, verbs},
    context::Context,
};
use kube::Api;
use kubenova_crds::{
    cluster_config::{NAME, NovaClusterConfig},
    tenant::NovaTenant,
};
use kubenova_operator_core::{
    command::VerifiedCommand,
    policy::{self, Objection, Policy, Situation},
};
use kubenova_runtime::clock;
use kubenova_schema::kinds::CommandKind;
use std::{io::ErrorKind, path::Path};

/// Judges an order that is not a replay.
///
/// # Errors
/// When what it is judged against cannot be read.
pub async fn judge(ctx: &Context, records: &Records, order: &VerifiedCommand) -> Result<Result<(), Objection>, Error> {
    let policy = match read(&ctx.settings.policy_file).await {
        Ok(policy) => policy,
        Err(objection) => return Ok(Err(objection)),
    };
    let situation = situation(ctx, records, order, &policy).await?;
    Ok(policy::judge(&policy, order, &situation, clock::now()))
}

async fn read(file: &Path) -> Result<Policy, Objection> {
    let unreadable = |message: String| Objection { reason: "PolicyUnreadable", message, retry_after_seconds: Some(60) };
    let text = match tokio::fs::read_to_string(file).await {
        Ok(text) => text,
        // Outside a pod there is none, and nobody forbade anything.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Policy::default()),
        Err(error) => return Err(unreadable(format!("the site's policy file cannot be read: {error}"))),
    };
    serde_saphyr::from_str(&text)
        .map_err(|error| unreadable(format!("the site's policy cannot be understood: {error}")))
}

/// Reads only what this order is judged against.
async fn situation(
    ctx: &Context,
    records: &Records,
    order: &VerifiedCommand,
    policy: &Policy,
) -> Result<Situation, Error> {
    let mut situation = Situation::default();
    if order.kind.is_delete() {
        for record in records.list().await? {
            let Some(kind) = CommandKind::parse(&record.spec.kind).filter(|kind| kind.is_delete()) else { continue };
            let Ok(at) = record.spec.stored_at.parse() else { continue };
            situation.deletes.push(at);
            if kind == CommandKind::DeleteTenant {
                situation.tenant_deletes.push(at);
            }
        }
    }
    if order.kind == CommandKind::DeleteTenant {
        let tenants: Api<NovaTenant> = Api::all(ctx.apiserver.client());
        situation.tenants = verbs::list(&tenants, "").await?.len();
    }
    if order.kind == CommandKind::ApplyClusterConfig && !policy.component_upgrades {
        let configs: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
        situation.components = verbs::get(&configs, NAME).await?.and_then(|config| config.spec.components);
    }
    Ok(situation)
}
