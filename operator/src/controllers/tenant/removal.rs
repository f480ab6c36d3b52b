//! Deleting a tenant: looks at what is left, does the one next thing, says what it waits for; the NovaTenant goes last.
//! Only a deletion that the Manager commanded gets here (`order`), or an administrator of the cluster who has it leave (`crate::leave`).

use super::{TenantController, failed};
use crate::{
    apiserver::{self, client::Apiserver, dynamic, kinds, status, verbs},
    controllers::{deployer, orphans, work::Next},
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Service};
use kube::{Api, Client, ResourceExt, api::ObjectMeta, core::DynamicObject};
use kubenova_crds::tenant::{NovaTenant, condition};
use kubenova_operator_core::{
    components::object::Key,
    conditions::ConditionSet,
    tenant::{
        DesiredTenant, apps_namespace, build,
        capsule::{CapsuleStatus, TENANT_OWNER},
        deletion::{self, Remains, Step},
        owner_namespace,
        ownership::Ownership,
        tenant_owner_names,
    },
};
use kubenova_runtime::{clock, failpoint};

impl TenantController<'_> {
    /// One reconcile of a tenant that is being deleted.
    pub(super) async fn remove(&self, tenant: &NovaTenant) -> Next {
        let (apiserver, operator_user) = (&self.ctx.apiserver, &self.ctx.settings.operator_user);
        let removal = Removal { apiserver, operator_user, tenants: &self.tenants, tenant };
        match self.advance(&removal).await {
            Ok(None) => Next::OnChange,
            Ok(Some(waiting_for)) => Next::retry(waiting_for),
            Err(error) => {
                // When the condition cannot be written either, the log still has both.
                if let Err(error) = removal.write_status("ApiserverError", &apiserver::error::chain(&error)).await {
                    tracing::debug!(
                        tenant.name = tenant.name_any(),
                        error = apiserver::error::chain(&error),
                        "could not write a tenant's status"
                    );
                }
                failed(&tenant.name_any(), "could not delete a tenant's objects yet; trying again", &error)
            }
        }
    }

    /// What it waits for; none when nothing is left.
    async fn advance(&self, removal: &Removal<'_>) -> Result<Option<String>, apiserver::Error> {
        if let Some((reason, message)) = removal.step().await? {
            removal.write_status(reason, &message).await?;
            return Ok(Some(message));
        }
        self.remove_finalizer(removal.tenant).await?;
        tracing::info!(tenant.name = removal.tenant.name_any(), "a tenant is deleted");
        Ok(None)
    }
}

/// A tenant that is being deleted, and what that needs.
pub(crate) struct Removal<'a> {
    pub(crate) apiserver: &'a Apiserver,
    /// Capsule's administrator.
    pub(crate) operator_user: &'a str,
    pub(crate) tenants: &'a Api<NovaTenant>,
    pub(crate) tenant: &'a NovaTenant,
}

impl Removal<'_> {
    /// Does the next thing. What it waits for, as reason and message; none when nothing but the NovaTenant is left.
    pub(crate) async fn step(&self) -> Result<Option<(&'static str, String)>, apiserver::Error> {
        let desired = DesiredTenant::of(self.tenant);
        let client = self.apiserver.client();
        let deployer = deployer::client(self.apiserver, &desired.name)
            .map_err(|error| apiserver::Error::unreadable("client", kube::Error::Service(Box::new(error))))?;
        let remains = self.look(&client, &deployer, &desired).await?;
        let step = deletion::next(&remains);
        failpoint::passing("tenant.removal-step");
        self.act(&deployer, &desired, step, &remains).await?;
        Ok(Some(deletion::words(step, &remains)).filter(|_| step != Step::Done))
    }

    /// The NovaTenant that is being deleted is still there. Asked between reading an object and deleting or writing exactly that one:
    /// while the NovaTenant is there, no other tenant has its names, so what was read is this tenant's. Once another Operator has removed
    /// it, what has these names may be another tenant's.
    async fn is_going_on(&self) -> Result<bool, apiserver::Error> {
        let present = verbs::get(self.tenants, &self.tenant.name_any()).await?;
        Ok(present.is_some_and(|present| present.uid() == self.tenant.uid()))
    }

    async fn write_status(&self, reason: &str, message: &str) -> Result<(), apiserver::Error> {
        let mut conditions = ConditionSet::new();
        conditions.set_true(condition::DELETING, reason, message);
        conditions.set_false(condition::READY, "Deleting", message);
        let generation = self.tenant.metadata.generation;
        status::update(self.tenants, &self.tenant.name_any(), |live| {
            let status = live.status.get_or_insert_default();
            conditions.merge_into(&mut status.conditions, generation, clock::now()).changed
        })
        .await
        .map(drop)
    }

    async fn look(
        &self,
        client: &Client,
        deployer: &Client,
        desired: &DesiredTenant,
    ) -> Result<Remains, apiserver::Error> {
        let mut remains = Remains::default();
        let is_ours = |live: &ObjectMeta| Ownership::of(live, &desired.tenant_id, &desired.objects).is_own();
        let capsule_tenant = verbs::get(&kinds::capsule_tenants(client), &desired.name).await?;
        let capsule_tenant = capsule_tenant.filter(|live| is_ours(&live.metadata));
        if let Some(live) = &capsule_tenant {
            let value = kinds::to_value(live)?;
            remains.tenant = true;
            remains.terminating = live.metadata.deletion_timestamp.is_some();
            remains.cordoned = value["spec"]["cordoned"] == true;
            remains.prevent_deletion = value["spec"]["preventDeletion"] == true;
            let capsule = CapsuleStatus::of(&value);
            remains.message = if capsule.ready { String::new() } else { capsule.message };
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for name in [owner_namespace(&desired.name), apps_namespace(&desired.name)] {
            let live = verbs::get(&namespaces, &name).await?;
            if live.is_some_and(|live| is_ours(&live.metadata)) {
                remains.namespaces.push(name);
            }
        }
        for name in tenant_owner_names(&desired.name) {
            if dynamic::get(client, &owner_key(&name)).await?.is_some_and(|live| is_ours(&live.metadata)) {
                remains.owners.push(name);
            }
        }
        if remains.tenant && !remains.terminating {
            self.look_inside(client, deployer, desired, &mut remains).await?;
        }
        Ok(remains)
    }

    async fn look_inside(
        &self,
        client: &Client,
        deployer: &Client,
        desired: &DesiredTenant,
        remains: &mut Remains,
    ) -> Result<(), apiserver::Error> {
        let namespace = apps_namespace(&desired.name);
        let found = kinds::list_if_served(&applications(client, &namespace), "").await?;
        remains.applications = found.iter().map(ResourceExt::name_any).collect();
        if remains.applications.is_empty() {
            let found = orphans::find(client, deployer, &namespace, None).await?;
            if !found.is_empty() && self.is_going_on().await? {
                let left = found.delete().await?;
                remains.orphans = left.objects;
                remains.trackers = left.trackers;
            }
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
        &self,
        deployer: &Client,
        desired: &DesiredTenant,
        step: Step,
        remains: &Remains,
    ) -> Result<(), apiserver::Error> {
        let client = self.apiserver.client();
        let namespace = apps_namespace(&desired.name);
        match step {
            Step::Uncordon | Step::AllowDeletion => {
                let Some(live) = verbs::get(&kinds::capsule_tenants(&client), &desired.name).await? else {
                    return Ok(());
                };
                if !self.is_going_on().await? {
                    return Ok(());
                }
                let mut tenant = build::capsule_tenant(desired, self.operator_user);
                tenant["spec"]["preventDeletion"] = (step == Step::Uncordon).into();
                tenant["metadata"]["uid"] = live.metadata.uid.into();
                tenant["metadata"]["resourceVersion"] = live.metadata.resource_version.into();
                match dynamic::apply(&client, &tenant).await {
                    Err(error) if error.is_conflict() => {}
                    applied => drop(applied?),
                }
            }
            Step::DeleteApplications => {
                self.delete_all(&applications(deployer, &namespace), &remains.applications).await?;
            }
            Step::DeleteOutside => {
                self.delete_all(&kinds::namespaced(deployer, "", "v1", "Service", &namespace), &remains.balancers)
                    .await?;
                let claims = kinds::namespaced(deployer, "", "v1", "PersistentVolumeClaim", &namespace);
                self.delete_all(&claims, &remains.claims).await?;
            }
            Step::DeleteTenant => {
                self.delete_all(&kinds::capsule_tenants(&client), std::slice::from_ref(&desired.name)).await?;
            }
            Step::DeleteOwners => {
                for name in &remains.owners {
                    self.delete_all(&dynamic::api(&client, &owner_key(name)), std::slice::from_ref(name)).await?;
                }
            }
            Step::DeleteOrphans | Step::DeleteTrackers | Step::AwaitTenant | Step::Done => {}
        }
        Ok(())
    }

    /// Deletes what has these names, as it is when it is looked at.
    async fn delete_all(&self, api: &Api<DynamicObject>, names: &[String]) -> Result<(), apiserver::Error> {
        for name in names {
            let Some(live) = verbs::get(api, name).await? else { continue };
            if live.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if !self.is_going_on().await? {
                return Ok(());
            }
            match verbs::delete_exact(api, name, &live.uid().unwrap_or_default(), None).await {
                Err(error) if error.is_conflict() => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }
}

fn applications(client: &Client, namespace: &str) -> Api<DynamicObject> {
    kinds::namespaced(client, "core.oam.dev", "v1beta1", "Application", namespace)
}

fn owner_key(name: &str) -> Key {
    Key {
        group: "capsule.clastix.io".to_owned(),
        version: "v1beta2".to_owned(),
        kind: TENANT_OWNER.to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}
