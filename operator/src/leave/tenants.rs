//! Tenants: their finalizers are taken off, or everything of them is removed as after a command of the Manager.

use super::{LeaveError, progress::Progress};
use crate::{
    apiserver::{self, client::Apiserver, kinds, verbs},
    controllers::tenant::removal::Removal,
    settings::Settings,
};
use kube::{Api, ResourceExt as _};
use kubenova_crds::{
    labels,
    tenant::{NovaTenant, TenantSpec},
};
use kubenova_operator_core::tenant::FINALIZER;
use std::io::Write;

/// Takes the finalizer off NovaTenants.
pub(super) async fn release<W: Write>(
    apiserver: &Apiserver,
    names: &[String],
    progress: &mut Progress<'_, W>,
) -> Result<(), LeaveError> {
    let tenants: Api<NovaTenant> = Api::all(apiserver.client());
    for name in names {
        while let Some(tenant) = verbs::get(&tenants, name).await? {
            if try_release(&tenants, &tenant).await?.is_some() {
                break;
            }
            progress.wait_for(format!("tenant {name}: another client changes its NovaTenant")).await?;
        }
        progress.say(format!("tenant {name}: without a finalizer"))?;
    }
    Ok(())
}

/// The NovaTenant without its finalizer; none when another client changed it in between. One that was being deleted is gone then.
async fn try_release(tenants: &Api<NovaTenant>, tenant: &NovaTenant) -> Result<Option<NovaTenant>, apiserver::Error> {
    let mut released = tenant.clone();
    released.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
    if released.finalizers().len() == tenant.finalizers().len() {
        return Ok(Some(released));
    }
    match verbs::replace(tenants, &released).await {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.is_not_found() => Ok(Some(released)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what tenants have, a step of each in turn, so that they do not wait for each other.
pub(super) async fn remove<W: Write>(
    apiserver: &Apiserver,
    names: &[String],
    progress: &mut Progress<'_, W>,
) -> Result<(), LeaveError> {
    let mut left = names.to_vec();
    while !left.is_empty() {
        let mut waiting = Vec::new();
        let mut still = Vec::new();
        for name in left {
            match remove_step(apiserver, &name).await? {
                None => progress.say(format!("tenant {name}: gone"))?,
                Some(message) => {
                    progress.say(format!("tenant {name}: {message}"))?;
                    waiting.push(format!("tenant {name}: {message}"));
                    still.push(name);
                }
            }
        }
        if !still.is_empty() {
            progress.wait_for(waiting.join("; ")).await?;
        }
        left = still;
    }
    Ok(())
}

/// What the tenant waits for; none when nothing of it is left.
async fn remove_step(apiserver: &Apiserver, name: &str) -> Result<Option<String>, apiserver::Error> {
    let tenants: Api<NovaTenant> = Api::all(apiserver.client());
    let Some(tenant) = nova_tenant(apiserver, &tenants, name).await? else { return Ok(None) };
    let operator_user = Settings::default().operator_user;
    let removal = Removal { apiserver, operator_user: &operator_user, tenants: &tenants, tenant: &tenant };
    if let Some((_, message)) = removal.step().await? {
        return Ok(Some(message));
    }
    let uid = tenant.uid().unwrap_or_default();
    if try_release(&tenants, &tenant).await?.is_none() {
        return Ok(Some("another client changes its NovaTenant".to_owned()));
    }
    match verbs::delete_exact(&tenants, name, &uid, None).await {
        Ok(verbs::Deleted::Gone) => Ok(None),
        Ok(verbs::Deleted::Terminating) => Ok(Some("waiting for its NovaTenant to be deleted".to_owned())),
        Err(error) if error.is_conflict() => Ok(Some("another client changes its NovaTenant".to_owned())),
        Err(error) => Err(error),
    }
}

/// The NovaTenant. Where it is gone and its Capsule Tenant is left, it is written again: what is deleted is this tenant's only while it is
/// there.
async fn nova_tenant(
    apiserver: &Apiserver,
    tenants: &Api<NovaTenant>,
    name: &str,
) -> Result<Option<NovaTenant>, apiserver::Error> {
    if let Some(tenant) = verbs::get(tenants, name).await? {
        return Ok(Some(tenant));
    }
    let left = kinds::get_if_served(&kinds::capsule_tenants(&apiserver.client()), name).await?;
    let tenant_id = left.and_then(|left| left.labels().get(labels::TENANT_ID).cloned());
    let Some(tenant_id) = tenant_id else { return Ok(None) };
    let mut tenant = NovaTenant::new(name, TenantSpec { tenant_id: tenant_id.clone(), ..TenantSpec::default() });
    tenant.labels_mut().insert(labels::TENANT_ID.to_owned(), tenant_id);
    verbs::create_if_absent(tenants, &tenant).await
}
