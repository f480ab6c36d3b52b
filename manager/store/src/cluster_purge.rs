//! Purging a cluster that will never come back: what waits for it ends, what should be on it goes, its record stays for the history
//! of its usage and its commands.

use crate::{
    cluster_trust,
    error::{StoreError, failed},
    revocations::RevocationReason,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    access::Caller,
    cluster::{ClusterId, ClusterState, StateNote},
};
use sqlx::PgConnection;

/// What goes with a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purged {
    /// Names of the tenants that were placed on it.
    pub tenants: Vec<String>,
    /// Applications that ran on it, as `<tenant>/<name>`.
    pub applications: Vec<String>,
    /// Those of them that ran nowhere else: they are gone altogether.
    pub applications_gone: Vec<String>,
    /// Open commands that ended as failed.
    pub commands: u64,
}

/// When the cluster last sent a heartbeat in its session. It opens none meanwhile when the caller holds it ([`crate::clusters::lock`]).
pub async fn last_heartbeat(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<Option<Timestamp>, StoreError> {
    let heartbeat =
        sqlx::query_scalar!("select last_heartbeat_at from sessions where cluster_id = $1", cluster.as_str())
            .fetch_optional(connection)
            .await
            .map_err(failed("read the session of a cluster"))?;
    Ok(heartbeat.map(jiff_sqlx::Timestamp::to_jiff))
}

/// Purges a cluster. Must run in a transaction that holds it ([`crate::clusters::lock`]).
pub async fn purge(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    caller: &Caller,
    request_id: &str,
    now: Timestamp,
) -> Result<Purged, StoreError> {
    let (applications, applications_gone) = remove_applications(connection, cluster).await?;
    let purged = Purged {
        applications,
        applications_gone,
        tenants: remove_placements(connection, cluster).await?,
        commands: end_commands(connection, cluster, caller, request_id, now).await?,
    };
    forget_session(connection, cluster).await?;
    let note = StateNote::new("Purged", format!("given up by {} at {now:.0}", caller.subject));
    let into = (ClusterState::Purged, RevocationReason::Purged);
    cluster_trust::revoke(connection, cluster, into, &note, &caller.subject, now).await?;
    Ok(purged)
}

/// All applications on the cluster, and those that were on no other.
async fn remove_applications(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    // The applications before their clusters, as every writer locks them.
    let rows = sqlx::query!(
        r#"select a.id, t.name || '/' || a.name as "name!" from applications a join tenants t on t.id = a.tenant_id
           where exists (select from application_clusters c where c.application_id = a.id and c.cluster_id = $1)
           order by a.id for update of a"#,
        cluster.as_str(),
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("lock the applications of a cluster"))?;
    sqlx::query!("delete from application_clusters where cluster_id = $1", cluster.as_str())
        .execute(&mut *connection)
        .await
        .map_err(failed("take applications off a cluster"))?;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let gone = sqlx::query_scalar!(
        "delete from applications a where a.id = any($1)
           and not exists (select from application_clusters c where c.application_id = a.id)
         returning a.id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("remove applications that are nowhere"))?;
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let gone_names = rows.iter().filter(|row| gone.contains(&row.id)).map(|row| row.name.clone()).collect();
    Ok((sorted(rows.into_iter().map(|row| row.name).collect()), sorted(gone_names)))
}

async fn remove_placements(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Vec<String>, StoreError> {
    let mut tenants = sqlx::query_scalar!(
        "delete from placements p using tenants t where t.id = p.tenant_id and p.cluster_id = $1 returning t.name",
        cluster.as_str(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("take tenants off a cluster"))?;
    tenants.sort();
    Ok(tenants)
}

async fn end_commands(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    caller: &Caller,
    request_id: &str,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let ended = sqlx::query!(
        "with ended as (
             update commands set state = 'failed', reason = 'ClusterGone', waiting_for = '', next_send_at = null, finished_at = $2,
                    message = 'the cluster was purged: it will never carry this out'
             where cluster_id = $1 and state in ('queued', 'sent', 'acknowledged', 'running') returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision, detail)
         select finished_at, $3, $4, 'command/failed', object_key, tenant_id, $5, id, cluster_id, revision, reason
         from ended order by revision",
        cluster.as_str(),
        now.to_sqlx(),
        caller.subject,
        caller.role.as_str(),
        request_id,
    )
    .execute(connection)
    .await
    .map_err(failed("end the commands of a cluster"))?;
    Ok(ended.rows_affected())
}

/// What was observed of the cluster is not so any more.
async fn forget_session(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query!(
        "with session as (delete from sessions where cluster_id = $1),
              refusal as (delete from hello_refusals where cluster_id = $1),
              divergence as (delete from divergences where cluster_id = $1),
              listing as (delete from listings where cluster_id = $1),
              unknown as (delete from unknown_objects where cluster_id = $1)
         delete from observed where cluster_id = $1",
        cluster.as_str(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("forget what was observed of a cluster"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        applications, cluster_queue, clusters, commands, enrollments,
        fixture::{Fixture, at, caller, claim_options, window},
        placements, windows,
    };
    use kubenova_core::{change::Change, cluster::ClusterRef, command::CommandState};

    #[tokio::test]
    async fn what_waits_ends_and_what_should_be_there_goes_while_history_and_other_clusters_stay() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        let (tenant, other) = (fixture.tenant().await, crate::fixture::cluster(9));
        let mut connection = fixture.store.acquire().await.unwrap();
        clusters::insert(&mut connection, &other).await.unwrap();
        let both = [cluster.clone(), other.id.clone()];
        placements::insert(&mut connection, tenant.id, &both, "ann", at(0)).await.unwrap();
        let (shop, cart) =
            (fixture.application(&tenant, "shop", &both).await, fixture.application(&tenant, "cart", &both[..1]).await);
        windows::insert(&mut connection, &window(&cluster, 0, 'a'), at(1)).await.unwrap();
        let sent = fixture.enqueue(&both, &Change::Tenant(tenant.clone())).await;
        cluster_queue::claim(&mut connection, &cluster, &claim_options()).await.unwrap();
        let change = Change::Application { tenant: tenant.name.clone(), application: shop.clone() };
        let queued = fixture.enqueue(&both[..1], &change).await;

        fixture
            .execute(
                "insert into divergences (cluster_id, since, epoch, highest_revision, listing_sha256)
                 select id, now(), 1, 9, '' from clusters where kubernetes_uid = 'uid-1'",
            )
            .await;

        let mut tx = fixture.begin().await;
        clusters::lock(&mut tx, &ClusterRef::Id(cluster.clone())).await.unwrap();
        assert_eq!(last_heartbeat(&mut tx, &cluster).await.unwrap(), Some(at(0)));
        let purged = purge(&mut tx, &cluster, &caller(), "r", at(9)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            purged,
            Purged {
                tenants: vec!["tenant-1".into()],
                applications: vec!["tenant-1/cart".into(), "tenant-1/shop".into()],
                applications_gone: vec!["tenant-1/cart".into()],
                commands: 2,
            }
        );
        let state = async |connection: &mut _, id| {
            let command = commands::find(connection, id).await.unwrap().unwrap();
            (command.state, command.reason)
        };
        let of = |cluster: &ClusterId| sent.iter().find(|one| one.cluster_id == *cluster).unwrap().command_id;
        for id in [of(&cluster), queued[0].command_id] {
            assert_eq!(state(&mut connection, id).await, (CommandState::Failed, "ClusterGone".to_owned()));
        }
        assert_eq!(state(&mut connection, of(&other.id)).await.0, CommandState::Queued);
        let placed = placements::of_tenants(&mut connection, &[tenant.id]).await.unwrap();
        assert_eq!(placed.iter().map(|one| &one.cluster_id).collect::<Vec<_>>(), [&other.id]);
        assert!(applications::find(&mut connection, tenant.id, cart.name.as_str()).await.unwrap().is_none());
        let left = applications::targets(&mut connection, &[shop.id]).await.unwrap();
        assert_eq!(left.iter().map(|target| &target.cluster_id).collect::<Vec<_>>(), [&other.id]);
        let record = clusters::find(&mut connection, &ClusterRef::Id(cluster.clone())).await.unwrap().unwrap();
        assert_eq!((record.state, record.kubernetes_uid), (ClusterState::Purged, None));
        assert_eq!(last_heartbeat(&mut connection, &cluster).await.unwrap(), None);
        let diverged: i64 =
            sqlx::query_scalar("select count(*) from divergences").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(diverged, 0, "`recover list` shows it no more");
        let windows: i64 =
            sqlx::query_scalar("select count(*) from usage_windows").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(windows, 1, "usage history stays");
        assert!(enrollments::enroll(&mut connection, &other.id, "uid-1", at(10)).await.is_ok(), "its UID is free");
    }
}
