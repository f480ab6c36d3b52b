//! A NovaTenant that is being deleted: whether the Manager commanded it. Whoever may delete NovaTenants, or their CRD, can bring it
//! here; only a verified command lets `removal` delete what the tenant has.

use super::{TenantController, failed};
use crate::{
    apiserver::{self, event, status, verbs},
    controllers::work::Next,
};
use kube::{Resource as _, ResourceExt as _};
use kubenova_crds::tenant::{NovaTenant, condition};
use kubenova_operator_core::{
    command,
    conditions::ConditionSet,
    tenant::{
        FINALIZER,
        deletion::{self, NOT_ORDERED, Ordered},
    },
};
use kubenova_runtime::clock;
use kubenova_schema::kinds::ObjectKey;
use std::time::Duration;

/// Time to the next look for a command about a tenant without one: a read of its record.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(15);

impl TenantController<'_> {
    /// One reconcile of a NovaTenant with a deletionTimestamp.
    pub(super) async fn deleted(&self, tenant: &NovaTenant) -> Next {
        let name = tenant.name_any();
        let left = match self.ordered(tenant).await {
            Ok(Ordered::Delete) => return self.remove(tenant).await,
            Ok(Ordered::Keep) => self.let_go(tenant).await.map(|()| Next::OnChange),
            Ok(Ordered::Unknown(why)) => self.stay(tenant, &deletion::not_ordered(&why)).await,
            Err(error) => return failed(&name, "could not read the inbox record of a tenant; trying again", &error),
        };
        left.unwrap_or_else(|error| failed(&name, "could not leave a tenant as it is; trying again", &error))
    }

    /// Takes the finalizer off a NovaTenant that is not being deleted, unless its deletion is just about to begin: without an Operator
    /// nothing would take it off.
    pub(super) async fn release(&self, tenant: &NovaTenant) -> Result<(), apiserver::Error> {
        if !tenant.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        match self.ordered(tenant).await? {
            Ordered::Delete => Ok(()),
            Ordered::Keep | Ordered::Unknown(_) => self.remove_finalizer(tenant).await,
        }
    }

    async fn ordered(&self, tenant: &NovaTenant) -> Result<Ordered, apiserver::Error> {
        // An id that cannot be part of a key has no record.
        let key = ObjectKey::parse(&ObjectKey::Tenant { tenant_id: tenant.spec.tenant_id.clone() }.to_string());
        let record = match key {
            Some(key) => verbs::get(&self.records, &command::record_name(&key)).await?,
            None => None,
        };
        Ok(deletion::ordered(
            record.map(|record| self.ctx.verifier.get().verify(&record).map(|verified| verified.kind)),
        ))
    }

    /// Removes the finalizer of a NovaTenant whose tenant is wanted: a deletion cannot be taken back, so the object goes, the
    /// dispatcher writes it again from its record, and that one takes over what is there.
    async fn let_go(&self, tenant: &NovaTenant) -> Result<(), apiserver::Error> {
        self.warn(tenant, deletion::WRITTEN_AGAIN).await;
        self.remove_finalizer(tenant).await
    }

    async fn stay(&self, tenant: &NovaTenant, message: &str) -> Result<Next, apiserver::Error> {
        let mut conditions = ConditionSet::new();
        conditions.set_false(condition::DELETING, NOT_ORDERED, message);
        conditions.set_false(condition::READY, NOT_ORDERED, message);
        let generation = tenant.metadata.generation;
        let mut is_new = false;
        status::update(&self.tenants, &tenant.name_any(), |live| {
            let status = live.status.get_or_insert_default();
            let merged = conditions.merge_into(&mut status.conditions, generation, clock::now());
            is_new = !merged.transitions.is_empty();
            merged.changed
        })
        .await?;
        if is_new {
            self.warn(tenant, message).await;
        }
        Ok(Next::After(UNKNOWN_AGAIN))
    }

    async fn warn(&self, tenant: &NovaTenant, message: &str) {
        tracing::warn!(tenant.name = tenant.name_any(), message, "a NovaTenant was deleted without a command");
        let about = tenant.object_ref(&());
        event::publish(&self.ctx.apiserver, event::Kind::Warning, NOT_ORDERED, message, about).await;
    }
}
