//! Whether a cluster is trusted: quarantine and the way out of it, revocation, detachment and its reversal.

use crate::{
    error::{StoreError, failed, one_row},
    revocations::{self, RevocationReason},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::{ClusterId, ClusterState, StateNote};
use sqlx::PgConnection;

/// Stops sending to a cluster until a person decides, and records that in the audit log. A cluster in another state stays as it is.
/// True when it was quarantined just now.
pub async fn quarantine(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    note: &StateNote,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "with quarantined as (
             update clusters set state = 'quarantined', state_reason = $3, state_message = $4, updated_at = $2, quarantined_at = $2
             where id = $1 and state in ('pendingBootstrap', 'enrolled') returning id
         )
         insert into audit_pending (at, subject, role, action, target, cluster_id, detail)
         select $2, 'kubenova-manager', 'manager', 'cluster/quarantined', 'cluster/' || id, id, $3 from quarantined",
        cluster.as_str(),
        now.to_sqlx(),
        note.reason,
        note.message,
    )
    .execute(connection)
    .await
    .map_err(failed("quarantine a cluster"))?;
    Ok(done.rows_affected() > 0)
}

/// Trusts a quarantined cluster again, as far as its credentials are not revoked. What two Operators said before is forgotten: if both go on, it is quarantined again.
pub async fn release(connection: &mut PgConnection, cluster: &ClusterId, now: Timestamp) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "with forgotten as (
             update sessions set contender_boot_id = null, contender_since = null where cluster_id = $1
         )
         update clusters c
            set state = case when exists (select from identities i where i.cluster_id = c.id and i.incarnation = c.incarnation
                                             and i.revoked_at is null) then 'enrolled' else 'pendingBootstrap' end,
                state_reason = '', state_message = '', updated_at = $2, quarantined_at = null
         where id = $1 and state = 'quarantined'",
        cluster.as_str(),
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("release a cluster from quarantine"))?;
    one_row(done.rows_affected(), "clusters", cluster)
}

/// Voids every credential of a cluster and every token that could make new ones: it is in this state from now on. The Kubernetes cluster
/// of a purged one may enroll as another.
pub async fn revoke(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    (state, reason): (ClusterState, RevocationReason),
    note: &StateNote,
    by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "with tokens as (
             update enrollments set revoked_at = $2, revoked_by = $6 where cluster_id = $1 and revoked_at is null
         )
         update clusters set state = $3, state_reason = $4, state_message = $5, updated_at = $2,
                             kubernetes_uid = case when $3::text <> 'purged' then kubernetes_uid end
         where id = $1",
        cluster.as_str(),
        now.to_sqlx(),
        state.as_str(),
        note.reason,
        note.message,
        by,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("revoke the credentials of a cluster"))?;
    one_row(done.rows_affected(), "clusters", cluster)?;
    revocations::insert_of_cluster(connection, cluster, None, reason, now).await.map(drop)
}

/// Makes a detached cluster one that can enroll again. What was wanted there is still wanted.
pub async fn undelete(connection: &mut PgConnection, cluster: &ClusterId, now: Timestamp) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update clusters set state = 'pendingBootstrap', state_reason = '', state_message = '', updated_at = $2
         where id = $1 and state = 'detached'",
        cluster.as_str(),
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("undelete a cluster"))?;
    one_row(done.rows_affected(), "clusters", cluster)
}

/// Clusters whose last revocation is in force are revoked; returns them.
pub async fn settle_revoked(connection: &mut PgConnection, now: Timestamp) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        "with settled as (
             update clusters c set state = 'revoked', updated_at = $1
             where state = 'revoking'
               and not exists (select from revocations r
                                where r.cluster_id = c.id and r.effective_at is null and r.reason <> 'Replaced')
             returning id
         ), audited as (
             insert into audit_pending (at, subject, role, action, target, cluster_id)
             select $1, 'kubenova-manager', 'manager', 'cluster/revoked', 'cluster/' || id, id from settled
         )
         select id from settled",
        now.to_sqlx(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("settle revocations"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account_jwts, clusters, enrollments,
        fixture::{Fixture, at},
        identities::{self, CredentialsLife},
    };
    use kubenova_core::cluster::ClusterRef;

    async fn state(connection: &mut PgConnection, cluster: &ClusterId) -> (ClusterState, Option<StateNote>) {
        let found = clusters::find(connection, &ClusterRef::Id(cluster.clone())).await.unwrap().unwrap();
        (found.state, found.state_note)
    }

    #[tokio::test]
    async fn a_quarantine_says_why_until_a_person_ends_it() {
        let fixture = Fixture::new().await;
        let clusters = fixture.enrolled_clusters(1).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let note = StateNote::new("CredentialsCopied", "two of them");
        assert!(quarantine(&mut connection, &clusters[0], &note, at(1)).await.unwrap());
        assert!(!quarantine(&mut connection, &clusters[0], &StateNote::new("Other", ""), at(2)).await.unwrap());
        assert_eq!(state(&mut connection, &clusters[0]).await, (ClusterState::Quarantined, Some(note)));
        let audited: i64 =
            sqlx::query_scalar("select count(*) from audit_pending where action = 'cluster/quarantined'")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        assert_eq!(audited, 1);
        let life = CredentialsLife { issued_at: at(0), expires_at: at(900), user_jwt_expires_at: at(900) };
        identities::insert(&mut connection, &clusters[0], 1, "UONE", None, life).await.unwrap();
        release(&mut connection, &clusters[0], at(3)).await.unwrap();
        assert_eq!(state(&mut connection, &clusters[0]).await, (ClusterState::Enrolled, None));
        let twice = release(&mut connection, &clusters[0], at(4)).await;
        assert!(matches!(twice, Err(StoreError::Missing { .. })), "{twice:?}");
    }

    #[tokio::test]
    async fn what_was_revoked_is_not_trusted_again_by_way_of_a_quarantine() {
        let fixture = Fixture::new().await;
        let cluster = fixture.enrolled_clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let life = CredentialsLife { issued_at: at(0), expires_at: at(900), user_jwt_expires_at: at(900) };
        identities::insert(&mut connection, &cluster, 1, "UONE", None, life).await.unwrap();
        let into = (ClusterState::Detached, RevocationReason::Detached);
        revoke(&mut connection, &cluster, into, &StateNote::new("Detached", ""), "ann", at(1)).await.unwrap();
        undelete(&mut connection, &cluster, at(2)).await.unwrap();
        assert!(quarantine(&mut connection, &cluster, &StateNote::new("Other", ""), at(3)).await.unwrap());
        assert!(identities::lock(&mut connection, &cluster, 1).await.unwrap().unwrap().record.is_revoked);
        release(&mut connection, &cluster, at(4)).await.unwrap();
        assert_eq!(state(&mut connection, &cluster).await, (ClusterState::PendingBootstrap, None));
    }

    #[tokio::test]
    async fn a_cluster_is_revoked_when_every_server_has_it_and_enrolls_again() {
        let fixture = Fixture::new().await;
        let clusters = fixture.enrolled_clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let life = CredentialsLife { issued_at: at(0), expires_at: at(900), user_jwt_expires_at: at(900) };
        identities::insert(&mut connection, &clusters[0], 1, "UONE", None, life).await.unwrap();
        let note = StateNote::new("Revoked", "stolen");
        for cluster in &clusters {
            let into = (ClusterState::Revoking, RevocationReason::Revoked);
            revoke(&mut connection, cluster, into, &note, "ann", at(1)).await.unwrap();
        }
        let settled = settle_revoked(&mut connection, at(2)).await.unwrap();
        assert_eq!(settled, [clusters[1].to_string()], "the other one had no credentials");
        assert_eq!(state(&mut connection, &clusters[0]).await.0, ClusterState::Revoking);
        let in_force = revocations::in_force(&mut connection).await.unwrap();
        revocations::mark_effective(&mut connection, "EDGE", &in_force["EDGE"], at(3)).await.unwrap();
        assert_eq!(settle_revoked(&mut connection, at(3)).await.unwrap(), [clusters[0].to_string()]);
        assert_eq!(state(&mut connection, &clusters[0]).await, (ClusterState::Revoked, Some(note)));
        enrollments::enroll(&mut connection, &clusters[0], "uid-1", at(4)).await.unwrap();
        assert_eq!(state(&mut connection, &clusters[0]).await, (ClusterState::Enrolled, None));
        assert_eq!(account_jwts::all(&mut connection).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_detached_cluster_comes_back_as_one_that_waits_for_its_token() {
        let fixture = Fixture::new().await;
        let cluster = fixture.enrolled_clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let into = (ClusterState::Detached, RevocationReason::Detached);
        revoke(&mut connection, &cluster, into, &StateNote::new("Detached", "by ann"), "ann", at(1)).await.unwrap();
        undelete(&mut connection, &cluster, at(2)).await.unwrap();
        assert_eq!(state(&mut connection, &cluster).await, (ClusterState::PendingBootstrap, None));
        let uid: Option<String> =
            sqlx::query_scalar("select kubernetes_uid from clusters").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(uid.as_deref(), Some("uid-1"), "only the same Kubernetes cluster takes its place");
        assert!(undelete(&mut connection, &cluster, at(3)).await.is_err());
    }
}
