//! The use of enrollment tokens, by the hash of their secret: what `POST /enrollment/v1` reads and writes.
//!
//! How tokens are listed and revoked is in `enrollment_tokens.rs`, the attempts to use them in `enrollment_attempts.rs`. Rows are locked in
//! one order everywhere: the token, then its cluster.

use crate::error::{RowRef, StoreError, failed, one_row};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::{Approval, ClusterId, ClusterState};
use sqlx::PgConnection;
use uuid::Uuid;

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnrollment {
    /// Its id (UUIDv7).
    pub id: Uuid,
    /// The cluster it enrolls.
    pub cluster_id: ClusterId,
    /// SHA-256 of the secret's text as it stands in the token and in `Authorization: Bearer` (base64url).
    pub secret_sha256: [u8; 32],
    /// Now.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Adds a token.
pub async fn insert(connection: &mut PgConnection, enrollment: &NewEnrollment) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into enrollments (id, cluster_id, secret_sha256, created_at, created_by, expires_at) values ($1, $2, $3, $4, $5, $6)",
        enrollment.id,
        enrollment.cluster_id.as_str(),
        enrollment.secret_sha256.as_slice(),
        enrollment.created_at.to_sqlx(),
        enrollment.created_by,
        enrollment.expires_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("add an enrollment token"))?;
    Ok(())
}

/// A token, its row locked until the transaction ends: two uses at once happen one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentToken {
    /// Its id.
    pub id: Uuid,
    /// The cluster it enrolls.
    pub cluster_id: ClusterId,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The installation that used it.
    pub used: Option<TokenUse>,
    /// True when the incarnation that it made opened a session since. One of an earlier incarnation may be open all the while.
    pub connected: bool,
}

/// The use of a token; it has one at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUse {
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// Fingerprint of the public keys.
    pub keys: String,
    /// The response, as JSON.
    pub answer: String,
}

/// Whether there is a token with this secret. Locks nothing.
pub async fn exists(connection: &mut PgConnection, secret_sha256: &[u8; 32]) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"select exists (select from enrollments where secret_sha256 = $1) as "exists!""#,
        secret_sha256.as_slice(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look for an enrollment token"))
}

/// The token with this secret, for an enrollment.
pub async fn lock_token(
    connection: &mut PgConnection,
    secret_sha256: &[u8; 32],
) -> Result<Option<EnrollmentToken>, StoreError> {
    let row = sqlx::query!(
        r#"select e.id, e.cluster_id, e.created_at, e.expires_at, e.revoked_at, e.used_by_uid, e.used_keys, e.answer,
                  exists (select from sessions s where s.cluster_id = e.cluster_id and s.opened_at > e.used_at
                                                   and s.incarnation = e.answer::jsonb ->> 'incarnation')
                      as "connected!"
           from enrollments e where e.secret_sha256 = $1 for update of e"#,
        secret_sha256.as_slice(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find an enrollment token"))?;
    row.map(|row| {
        let cluster_id = RowRef { table: "enrollments", id: &row.id }.cluster_id("cluster_id", &row.cluster_id)?;
        let used = match (row.used_by_uid, row.used_keys, row.answer) {
            (Some(cluster_uid), Some(keys), Some(answer)) => Some(TokenUse { cluster_uid, keys, answer }),
            _ => None,
        };
        Ok(EnrollmentToken {
            id: row.id,
            cluster_id,
            created_at: row.created_at.to_jiff(),
            expires_at: row.expires_at.to_jiff(),
            revoked_at: row.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            used,
            connected: row.connected,
        })
    })
    .transpose()
}

/// The cluster of an enrollment, its row locked until the transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Whether the Manager trusts it.
    pub state: ClusterState,
    /// UID it enrolled with before.
    pub kubernetes_uid: Option<String>,
    /// Name of another cluster that enrolled with the UID of this attempt.
    pub uid_of: Option<String>,
    /// Whether its enrollments wait for an administrator.
    pub approval: Approval,
    /// Since when it is quarantined.
    pub quarantined_at: Option<Timestamp>,
}

/// The cluster that a token enrolls, and who else has the UID it shows.
/// Fails when the cluster does not exist.
pub async fn lock_candidate(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    uid: &str,
) -> Result<Candidate, StoreError> {
    let row = sqlx::query!(
        "select name, state, kubernetes_uid, approval, quarantined_at from clusters where id = $1 for update",
        cluster.as_str()
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("find the cluster of an enrollment"))?;
    let other =
        sqlx::query_scalar!("select name from clusters where kubernetes_uid = $1 and id <> $2", uid, cluster.as_str())
            .fetch_optional(connection)
            .await
            .map_err(failed("find the cluster with a UID"))?;
    let at = RowRef { table: "clusters", id: cluster };
    Ok(Candidate {
        name: row.name,
        state: at.parse("state", &row.state, ClusterState::parse)?,
        kubernetes_uid: row.kubernetes_uid,
        uid_of: other,
        approval: at.parse("approval", &row.approval, Approval::parse)?,
        quarantined_at: row.quarantined_at.map(jiff_sqlx::Timestamp::to_jiff),
    })
}

/// The counters of a cluster after its enrollment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolled {
    /// Grows with each enrollment.
    pub incarnation: i64,
    /// Current epoch.
    pub epoch: i64,
}

/// Enrolls a cluster: a new incarnation, and from the second one on a new epoch.
pub async fn enroll(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    uid: &str,
    now: Timestamp,
) -> Result<Enrolled, StoreError> {
    let row = sqlx::query!(
        "update clusters
            set incarnation = incarnation + 1, epoch = epoch + case when incarnation = 0 then 0 else 1 end,
                kubernetes_uid = $2, state = 'enrolled', state_reason = '', state_message = '', quarantined_at = null, enrolled_at = coalesce(enrolled_at, $3), updated_at = $3
          where id = $1 returning incarnation, epoch",
        cluster.as_str(),
        uid,
        now.to_sqlx(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("enroll a cluster"))?;
    Ok(Enrolled { incarnation: row.incarnation, epoch: row.epoch })
}

/// Records the use of a token.
pub async fn mark_used(
    connection: &mut PgConnection,
    id: Uuid,
    used: &TokenUse,
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update enrollments set used_at = $2, used_by_uid = $3, used_keys = $4, answer = $5 where id = $1",
        id,
        now.to_sqlx(),
        used.cluster_uid,
        used.keys,
        used.answer,
    )
    .execute(connection)
    .await
    .map_err(failed("mark an enrollment token as used"))?;
    one_row(done.rows_affected(), "enrollments", &id)
}

/// Counts that a token was shown by another installation than the one it belongs to. The row of the token is locked.
pub async fn raise_second_use(
    connection: &mut PgConnection,
    id: Uuid,
    peer: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update enrollments set second_uses = second_uses + 1, second_use_at = $2, second_use_peer = $3 where id = $1",
        id,
        now.to_sqlx(),
        peer,
    )
    .execute(connection)
    .await
    .map_err(failed("count a second use of an enrollment token"))?;
    one_row(done.rows_affected(), "enrollments", &id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, new_id},
        sessions,
    };

    async fn token(fixture: &Fixture, cluster: &ClusterId) -> Uuid {
        let enrollment = NewEnrollment {
            id: new_id(),
            cluster_id: cluster.clone(),
            secret_sha256: [7; 32],
            created_at: at(0),
            created_by: "ann".into(),
            expires_at: at(3600),
        };
        insert(&mut fixture.store.acquire().await.unwrap(), &enrollment).await.unwrap();
        enrollment.id
    }

    fn token_use() -> TokenUse {
        TokenUse { cluster_uid: "uid-1".into(), keys: "sha256:x".into(), answer: r#"{"incarnation":"2"}"#.into() }
    }

    #[tokio::test]
    async fn a_token_is_found_by_its_secret_and_remembers_its_use() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let id = token(&fixture, &cluster).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(lock_token(&mut connection, &[8; 32]).await.unwrap(), None);
        assert!(!exists(&mut connection, &[8; 32]).await.unwrap() && exists(&mut connection, &[7; 32]).await.unwrap());
        assert_eq!(lock_token(&mut connection, &[7; 32]).await.unwrap().unwrap().used, None);
        mark_used(&mut connection, id, &token_use(), at(5)).await.unwrap();
        let used = lock_token(&mut connection, &[7; 32]).await.unwrap().unwrap();
        assert_eq!((used.used, used.connected), (Some(token_use()), false));
        // A session of the incarnation before goes on, or begins again, until the Operator has the answer.
        let before = crate::fixture::hello(&cluster);
        sessions::open(&mut connection, &before, at(6)).await.unwrap();
        assert!(!lock_token(&mut connection, &[7; 32]).await.unwrap().unwrap().connected);
        let hello = sessions::HelloRequest { incarnation: "2".into(), ..before };
        sessions::open(&mut connection, &hello, at(7)).await.unwrap();
        assert!(lock_token(&mut connection, &[7; 32]).await.unwrap().unwrap().connected);
        let missing = mark_used(&mut connection, new_id(), &token_use(), at(5)).await;
        assert!(matches!(missing, Err(StoreError::Missing { table: "enrollments", .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn two_uses_of_a_token_wait_for_each_other() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let id = token(&fixture, &cluster).await;
        let mut first = fixture.begin().await;
        lock_token(&mut first, &[7; 32]).await.unwrap();
        let second = tokio::spawn({
            let mut tx = fixture.begin().await;
            async move { lock_token(&mut tx, &[7; 32]).await.unwrap().unwrap().used }
        });
        mark_used(&mut first, id, &token_use(), at(5)).await.unwrap();
        first.commit().await.unwrap();
        assert_eq!(second.await.unwrap(), Some(token_use()), "the second sees what the first committed");
    }

    #[tokio::test]
    async fn the_second_enrollment_begins_a_new_epoch_and_a_uid_belongs_to_one_cluster() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (incarnation, epoch) in [(1, 1), (2, 2)] {
            let enrolled = enroll(&mut connection, &clusters[0], "uid-1", at(1)).await.unwrap();
            assert_eq!(enrolled, Enrolled { incarnation, epoch });
        }
        let other = lock_candidate(&mut connection, &clusters[1], "uid-1").await.unwrap();
        assert_eq!((other.state, other.uid_of), (ClusterState::PendingBootstrap, Some("cluster-1".to_owned())));
        enroll(&mut connection, &clusters[1], "uid-1", at(2)).await.unwrap_err();
        let own = lock_candidate(&mut connection, &clusters[0], "uid-1").await.unwrap();
        assert_eq!((own.state, own.uid_of), (ClusterState::Enrolled, None));
    }
}
