//! The desired state that the commands of a diverged cluster carry, as rows again.

use super::adoption::{AdoptError, Adoption, Taken, refused};
use crate::{
    applications,
    error::{StoreError, failed},
    outbox, placements, tenants,
    wire::{
        self,
        decode::{self, Desired, DesiredApplication, DesiredTenant},
    },
};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    application::{Application, ApplicationId, ApplicationName, Form},
    change::Change,
    cluster::{ClusterId, Components},
    command::CommandId,
    recovery::{Action, HeldCommand},
    tenant::{Tenant, TenantId, TenantRef},
};
use kubenova_schema::kinds::ObjectKey;
use sqlx::PgConnection;

/// Writes the desired state of an adopted command; returns the generation of its resource.
pub(super) async fn apply(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    taken: &Taken,
) -> Result<i64, AdoptError> {
    let HeldCommand { kind, key, document, id, .. } = &taken.command;
    let is_operation = matches!(key, ObjectKey::Operation { .. });
    if is_operation || !matches!(taken.action, Action::AdoptApply | Action::AdoptDelete) {
        return Ok(1);
    }
    let desired = decode::decode(*kind, key, document).map_err(|error| refused(format!("{key}: {error}")))?;
    match desired {
        Desired::ClusterConfig(components) => Ok(apply_components(connection, adoption.cluster, &components).await?),
        Desired::Tenant(tenant) => apply_tenant(connection, adoption, *id, tenant).await,
        Desired::TenantDeleted(tenant) => {
            unplace(connection, adoption.cluster, tenant).await?;
            Ok(1)
        }
        Desired::Application(application) => apply_application(connection, adoption, *id, application).await,
        Desired::ApplicationDeleted { tenant_id, name } => {
            delete_application(connection, adoption, *id, tenant_id, &name).await?;
            Ok(1)
        }
    }
}

async fn apply_components(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    components: &Components,
) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "update clusters set components = $2, generation = generation + 1 where id = $1 returning generation",
        cluster.as_str(),
        wire::components_to_json(components),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("adopt the components of a cluster"))
}

/// Whether no other cluster was commanded anything newer about the same object: it is one row here, and several clusters may
/// be recovered one after the other.
async fn is_newest(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    tenant: TenantId,
    key: &str,
    command: CommandId,
) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"select not exists (select from commands where tenant_id = $1 and object_key = $2 and cluster_id <> $3 and id > $4
                                 and (acknowledged_at is not null or finished_at is null)) as "newest!""#,
        tenant.0,
        key,
        cluster.as_str(),
        command.0,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find a newer command to another cluster"))
}

async fn apply_tenant(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    command: CommandId,
    desired: DesiredTenant,
) -> Result<i64, AdoptError> {
    let Adoption { cluster, issuer, .. } = adoption;
    let DesiredTenant { id, name, quota, pod_security } = desired;
    let key = ObjectKey::Tenant { tenant_id: id.to_string() }.to_string();
    let tenant = match tenants::find(&mut *connection, &TenantRef::Id(id)).await? {
        Some(tenant) if is_newest(&mut *connection, cluster, id, &key, command).await? => {
            let changed = (&tenant.quota, tenant.pod_security) != (&quota, pod_security);
            let generation = tenant.generation + i64::from(changed);
            let tenant = Tenant { quota, pod_security, generation, updated_at: issuer.now, ..tenant };
            tenants::update(&mut *connection, &tenant).await?;
            tenant
        }
        Some(tenant) => tenant,
        None => {
            let other = tenants::find(&mut *connection, &TenantRef::Name(name.to_string())).await?;
            if let Some(other) = other {
                return Err(refused(format!(
                    "{key} in the cluster has the name \"{name}\", which tenant {} was given since: give --leave {key} (and \
                     the keys of its applications) to leave it as it is in the cluster",
                    other.id
                )));
            }
            let tenant = Tenant { quota, pod_security, ..Tenant::new(id, name, issuer.now, issuer.subject) };
            tenants::insert(&mut *connection, &tenant).await?;
            tenant
        }
    };
    placements::insert_missing(connection, id, cluster, issuer.subject, issuer.now).await?;
    Ok(tenant.generation)
}

async fn unplace(connection: &mut PgConnection, cluster: &ClusterId, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query!("delete from placements where cluster_id = $1 and tenant_id = $2", cluster.as_str(), tenant.0)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("adopt the delete of a tenant"))
}

async fn apply_application(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    command: CommandId,
    desired: DesiredApplication,
) -> Result<i64, AdoptError> {
    let Adoption { cluster, issuer, .. } = adoption;
    let DesiredApplication { tenant_id, name, labels, annotations, spec } = desired;
    let key = ObjectKey::Application { tenant_id: tenant_id.to_string(), name: name.to_string() }.to_string();
    if tenants::find(&mut *connection, &TenantRef::Id(tenant_id)).await?.is_none() {
        return Err(refused(format!(
            "{key} belongs to a tenant that is neither here nor adopted: give --leave {key} to leave it as it is in the cluster"
        )));
    }
    placements::insert_missing(&mut *connection, tenant_id, cluster, issuer.subject, issuer.now).await?;
    let clusters = std::slice::from_ref(cluster);
    let Some(before) = applications::find_for_update(&mut *connection, tenant_id, name.as_str()).await? else {
        let application = Application {
            id: ApplicationId((issuer.new_id)()),
            tenant_id,
            name,
            // Which typed form it once came from is not in the document.
            form: Form::Raw,
            labels,
            annotations,
            spec,
            generation: 1,
            created_at: issuer.now,
            updated_at: issuer.now,
            created_by: issuer.subject.to_owned(),
            deleting_since: None,
        };
        applications::insert(connection, &application, clusters).await?;
        return Ok(1);
    };
    let same = (&before.labels, &before.annotations, &before.spec) == (&labels, &annotations, &spec);
    let application = if same || !is_newest(&mut *connection, cluster, tenant_id, &key, command).await? {
        before
    } else {
        let generation = before.generation + 1;
        Application { form: Form::Raw, labels, annotations, spec, generation, updated_at: issuer.now, ..before }
    };
    applications::update(&mut *connection, &application, clusters).await?;
    applications::undelete(connection, application.id).await?;
    Ok(application.generation)
}

/// The application leaves this cluster with the outcome of the delete, and is gone with the last cluster.
async fn delete_application(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    command: CommandId,
    tenant: TenantId,
    name: &ApplicationName,
) -> Result<(), StoreError> {
    sqlx::query!(
        "with application as (
             select a.id from applications a join application_clusters c on c.application_id = a.id and c.cluster_id = $3
             where a.tenant_id = $1 and a.name = $2
         ), leaving as (
             update application_clusters c set delete_command = $4 from application a
             where c.application_id = a.id and c.cluster_id = $3
         )
         update applications set deleting_since = coalesce(deleting_since, $5)
         from application a
         where applications.id = a.id
           and not exists (select from application_clusters c where c.application_id = a.id and c.cluster_id <> $3
                              and c.delete_command is null)",
        tenant.0,
        name.as_str(),
        adoption.cluster.as_str(),
        command.0,
        adoption.issuer.now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("adopt the delete of an application"))
}

/// Sends what is wanted of an adopted object where that is not what the cluster holds: another cluster was commanded something
/// newer, or this release writes the document in another way.
pub(super) async fn bring_in_line(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    taken: &[Taken],
) -> Result<(), AdoptError> {
    let clusters = std::slice::from_ref(adoption.cluster);
    for one in taken.iter().filter(|one| one.action == Action::AdoptApply && !one.is_left) {
        let Some(tenant_id) = tenant_of(&one.command.key) else { continue };
        let Some(tenant) = tenants::find(&mut *connection, &TenantRef::Id(tenant_id)).await? else { continue };
        let change = match application_of(&one.command.key) {
            None => Change::Tenant(tenant),
            Some(name) => match applications::find(&mut *connection, tenant_id, &name).await? {
                Some(application) => Change::Application { tenant: tenant.name, application },
                None => continue,
            },
        };
        if wire::encode(&change).document != one.command.document {
            outbox::enqueue_commands(&mut *connection, adoption.issuer, clusters, &change).await?;
        }
    }
    Ok(())
}

pub(super) fn tenant_of(key: &ObjectKey) -> Option<TenantId> {
    match key {
        ObjectKey::Tenant { tenant_id } | ObjectKey::Application { tenant_id, .. } => TenantId::parse(tenant_id),
        ObjectKey::ClusterConfig | ObjectKey::Operation { .. } => None,
    }
}

pub(super) fn application_of(key: &ObjectKey) -> Option<String> {
    match key {
        ObjectKey::Application { name, .. } => Some(name.clone()),
        _ => None,
    }
}
