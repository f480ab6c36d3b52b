//! Taking a tenant down. Looks at what is left, does the one next thing, says what it waits for; the finalizer goes
//! last. Only an explicit deletion of the NovaTenant ever gets here.

use super::{RETRY, UNDER_WAY};
use crate::{
    apiserver::{self, dynamic, kinds, status, verbs},
    context::ClusterContext,
    controllers::{
        dispatch::Deployers,
        orphans::{self, NAME_LABEL},
    },
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Service};
use kube::{Api, Client, ResourceExt, core::DynamicObject};
use kubenova_crds::{
    conditions::{self, ConditionStatus},
    labels,
    tenant::{NovaTenant, condition},
};
use kubenova_operator_core::tenant::{
    FINALIZER, Wanted, build, capsule,
    deletion::{self, Remains, Step},
};
use kubenova_runtime::{clock, failpoint};
use std::time::Duration;

/// One pass over a tenant that is being deleted.
pub(super) async fn reconcile(
    ctx: &ClusterContext,
    deployers: &Deployers,
    api: &Api<NovaTenant>,
    tenant: &NovaTenant,
) -> Option<Duration> {
    match step(ctx, deployers, api, tenant).await {
        Ok(Step::Done) => None,
        Ok(_) => Some(UNDER_WAY),
        Err(error) => {
            let words = apiserver::error::chain(&error);
            tracing::warn!(
                tenant.name = tenant.name_any(),
                error = words,
                "could not take a tenant down yet; trying again"
            );
            let _noted = note(api, tenant, "ApiserverError", &words).await;
            Some(RETRY)
        }
    }
}

async fn step(
    ctx: &ClusterContext,
    deployers: &Deployers,
    api: &Api<NovaTenant>,
    tenant: &NovaTenant,
) -> Result<Step, apiserver::Error> {
    let wanted =
        Wanted { name: tenant.name_any(), tenant_id: tenant.spec.tenant_id.clone(), spec: tenant.spec.clone() };
    let deployer = deployers
        .of(&wanted.name)
        .map_err(|error| apiserver::Error::unreadable("client", kube::Error::Service(Box::new(error))))?;
    let remains = look(ctx, &deployer, &wanted).await?;
    let step = deletion::next(&remains);
    failpoint::passing("tenant.removal-step");
    act(ctx, &deployer, &wanted, step, &remains).await?;
    let (reason, message) = deletion::words(step, &remains);
    if step == Step::Done {
        let mut tenant = tenant.clone();
        tenant.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        match verbs::replace(api, &tenant).await {
            Err(error) if error.is_not_found() => {}
            replaced => drop(replaced?),
        }
        tracing::info!(tenant.name = wanted.name, "a tenant is gone");
    } else {
        note(api, tenant, reason, &message).await?;
    }
    Ok(step)
}

async fn note(api: &Api<NovaTenant>, tenant: &NovaTenant, reason: &str, message: &str) -> Result<(), apiserver::Error> {
    let generation = tenant.metadata.generation;
    status::update(api, &tenant.name_any(), |live| {
        let status = live.status.get_or_insert_default();
        let now = clock::now();
        let deleting = conditions::set(
            &mut status.conditions,
            condition::DELETING,
            ConditionStatus::True,
            reason,
            message,
            generation,
            now,
        );
        let ready = conditions::set(
            &mut status.conditions,
            condition::READY,
            ConditionStatus::False,
            "Deleting",
            message,
            generation,
            now,
        );
        deleting || ready
    })
    .await
    .map(drop)
}

fn applications(client: &Client, namespace: &str) -> Api<DynamicObject> {
    kinds::namespaced(client, "core.oam.dev", "v1beta1", "Application", namespace)
}

async fn look(ctx: &ClusterContext, deployer: &Client, wanted: &Wanted) -> Result<Remains, apiserver::Error> {
    let client = ctx.apiserver.client();
    let mut remains = Remains::default();
    let is_ours = |object: &DynamicObject| object.labels().get(labels::TENANT_ID) == Some(&wanted.tenant_id);
    let capsule_tenant = verbs::get(&kinds::capsule_tenants(&client), &wanted.name).await?.filter(is_ours);
    if let Some(live) = &capsule_tenant {
        let value = kinds::to_value(live)?;
        remains.tenant = true;
        remains.terminating = live.metadata.deletion_timestamp.is_some();
        remains.cordoned = value["spec"]["cordoned"] == true;
        remains.prevent_deletion = value["spec"]["preventDeletion"] == true;
        let words = capsule(&value);
        remains.message = if words.ready { String::new() } else { words.message };
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [build::owner_namespace(&wanted.name), build::apps_namespace(&wanted.name)] {
        let live = verbs::get(&namespaces, &name).await?;
        if live.is_some_and(|live| live.labels().get(labels::TENANT_ID) == Some(&wanted.tenant_id)) {
            remains.namespaces.push(name);
        }
    }
    for name in build::tenant_owner_names(&wanted.name) {
        if dynamic::get(&client, &owner_key(&name)).await?.is_some_and(|live| is_ours(&live)) {
            remains.owners.push(name);
        }
    }
    if remains.tenant && !remains.terminating {
        look_inside(&client, deployer, wanted, &mut remains).await?;
    }
    Ok(remains)
}

fn owner_key(name: &str) -> kubenova_operator_core::components::object::Key {
    kubenova_operator_core::components::object::Key {
        group: "capsule.clastix.io".to_owned(),
        version: "v1beta2".to_owned(),
        kind: "TenantOwner".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

async fn look_inside(
    client: &Client,
    deployer: &Client,
    wanted: &Wanted,
    remains: &mut Remains,
) -> Result<(), apiserver::Error> {
    let namespace = build::apps_namespace(&wanted.name);
    let names = |objects: Vec<DynamicObject>| objects.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    remains.applications = names(kinds::list_if_served(&applications(client, &namespace), "").await?);
    let selector = format!("app.oam.dev/namespace={namespace}");
    remains.trackers = names(kinds::list_if_served(&kinds::resource_trackers(client), &selector).await?);
    if remains.applications.is_empty() && remains.trackers.is_empty() {
        remains.orphans = orphans::delete_orphans(deployer, &namespace, NAME_LABEL).await?;
    }
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let balancer =
        |service: &Service| service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    remains.balancers = verbs::list(&services, "")
        .await?
        .iter()
        .filter(|service| balancer(service))
        .map(ResourceExt::name_any)
        .collect();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    remains.claims = verbs::list(&claims, "").await?.iter().map(ResourceExt::name_any).collect();
    Ok(())
}

async fn act(
    ctx: &ClusterContext,
    deployer: &Client,
    wanted: &Wanted,
    step: Step,
    remains: &Remains,
) -> Result<(), apiserver::Error> {
    let client = ctx.apiserver.client();
    let namespace = build::apps_namespace(&wanted.name);
    match step {
        Step::Uncordon | Step::AllowDeletion => {
            let mut tenant = build::capsule_tenant(wanted, &ctx.settings.operator_user);
            tenant["spec"]["preventDeletion"] = (step == Step::Uncordon).into();
            dynamic::apply(&client, &tenant).await?;
        }
        Step::DeleteApplications => delete_all(&applications(deployer, &namespace), &remains.applications).await?,
        Step::DeleteOutside => {
            delete_all(&kinds::namespaced(deployer, "", "v1", "Service", &namespace), &remains.balancers).await?;
            delete_all(&kinds::namespaced(deployer, "", "v1", "PersistentVolumeClaim", &namespace), &remains.claims)
                .await?;
        }
        Step::DeleteTenant => delete_all(&kinds::capsule_tenants(&client), std::slice::from_ref(&wanted.name)).await?,
        Step::DeleteOwners => {
            for name in &remains.owners {
                delete_all(&dynamic::api(&client, &owner_key(name)), std::slice::from_ref(name)).await?;
            }
        }
        Step::AwaitTrackers | Step::DeleteLeftovers | Step::AwaitTenant | Step::Done => {}
    }
    Ok(())
}

async fn delete_all(api: &Api<DynamicObject>, names: &[String]) -> Result<(), apiserver::Error> {
    for name in names {
        let Some(live) = verbs::get(api, name).await? else { continue };
        if live.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match verbs::delete_exact(api, name, &live.uid().unwrap_or_default(), None).await {
            Err(error) if error.is_conflict() => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}
