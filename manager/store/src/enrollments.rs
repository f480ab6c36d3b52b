//! Enrollment tokens, by the hash of their secret, and every use of one that was seen.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::{ClusterId, ClusterState};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

/// The transaction in which an enrollment is judged, from [`crate::pool::Store::transaction`].
pub type Judgement = Transaction<'static, Postgres>;

/// A fresh token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnrollment {
    /// Its id (UUIDv7).
    pub id: Uuid,
    /// Which cluster it enrolls.
    pub cluster_id: ClusterId,
    /// SHA-256 of the secret's text as it stands in the token and in `Authorization: Bearer` (base64url).
    pub secret_sha256: [u8; 32],
    /// Now.
    pub created_at: Timestamp,
    /// Who asked for it.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// Keeps a fresh token.
///
/// # Errors
/// When Postgres does not answer.
pub async fn create(connection: &mut PgConnection, enrollment: &NewEnrollment) -> Result<(), StoreError> {
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
    .map_err(failed("keep an enrollment token"))?;
    Ok(())
}

/// A token with who tried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentState {
    /// Its id.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When it was used.
    pub used_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// Who tried it, newest first.
    pub attempts: Vec<Attempt>,
}

/// One use of a token that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// A sentence.
    pub message: String,
}

/// Tokens and attempts shown of one cluster: the newest ones say what people want to know.
const SHOWN_MAX: i64 = 50;

/// The cluster's tokens with who tried them, newest first.
///
/// # Errors
/// When Postgres does not answer.
pub async fn of_cluster(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<Vec<EnrollmentState>, StoreError> {
    let tokens = sqlx::query!(
        "select id, created_at, expires_at, used_at, revoked_at from enrollments where cluster_id = $1 order by id desc limit $2",
        cluster.as_str(),
        SHOWN_MAX,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("list enrollment tokens"))?;
    let attempts = sqlx::query!(
        "select enrollment_id, at, outcome, message from enrollment_attempts
         where cluster_id = $1 and enrollment_id is not null order by id desc limit $2",
        cluster.as_str(),
        SHOWN_MAX,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("list enrollment attempts"))?;
    let of = |id: Uuid| {
        attempts
            .iter()
            .filter(|attempt| attempt.enrollment_id == Some(id))
            .map(|attempt| Attempt {
                at: attempt.at.to_jiff(),
                outcome: attempt.outcome.clone(),
                message: attempt.message.clone(),
            })
            .collect()
    };
    Ok(tokens
        .into_iter()
        .map(|token| EnrollmentState {
            id: token.id,
            created_at: token.created_at.to_jiff(),
            expires_at: token.expires_at.to_jiff(),
            used_at: token.used_at.map(jiff_sqlx::Timestamp::to_jiff),
            revoked_at: token.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            attempts: of(token.id),
        })
        .collect())
}

/// A token that was shown, its row locked until the transaction ends: of two uses at once one comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: Uuid,
    /// Which cluster it enrolls.
    pub cluster_id: ClusterId,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// Who used it.
    pub used: Option<Use>,
    /// True when the installation that used it said hello since.
    pub connected: bool,
}

/// The one use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// Fingerprint of the public keys.
    pub keys: String,
    /// What was answered, as JSON.
    pub answer: String,
}

/// The token with this secret; none when it is nobody's.
///
/// # Errors
/// When Postgres does not answer.
pub async fn shown(connection: &mut PgConnection, secret_sha256: &[u8; 32]) -> Result<Option<Shown>, StoreError> {
    let row = sqlx::query!(
        r#"select e.id, e.cluster_id, e.expires_at, e.revoked_at, e.used_by_uid, e.used_keys, e.answer,
                  exists (select from sessions s where s.cluster_id = e.cluster_id and s.opened_at > e.used_at
                            and s.refused_reason = '') as "connected!"
           from enrollments e where e.secret_sha256 = $1 for update of e"#,
        secret_sha256.as_slice(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for an enrollment token"))?;
    row.map(|row| {
        let cluster_id =
            ClusterId::parse(&row.cluster_id).ok_or_else(|| inconsistent("enrollments", "cluster_id", &row.id))?;
        let used = match (row.used_by_uid, row.used_keys, row.answer) {
            (Some(cluster_uid), Some(keys), Some(answer)) => Some(Use { cluster_uid, keys, answer }),
            _ => None,
        };
        Ok(Shown {
            id: row.id,
            cluster_id,
            expires_at: row.expires_at.to_jiff(),
            revoked_at: row.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            used,
            connected: row.connected,
        })
    })
    .transpose()
}

/// What an enrollment is judged by, the cluster's row locked until the transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it is trusted.
    pub state: ClusterState,
    /// UID it enrolled with before.
    pub kubernetes_uid: Option<String>,
    /// Another cluster that holds the UID that is shown now.
    pub uid_of: Option<ClusterId>,
}

/// The cluster a token enrolls.
///
/// # Errors
/// When Postgres does not answer, or the cluster does not exist.
pub async fn candidate(connection: &mut PgConnection, cluster: &ClusterId, uid: &str) -> Result<Candidate, StoreError> {
    let row = sqlx::query!("select state, kubernetes_uid from clusters where id = $1 for update", cluster.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("find the cluster of an enrollment"))?;
    let other =
        sqlx::query_scalar!("select id from clusters where kubernetes_uid = $1 and id <> $2", uid, cluster.as_str())
            .fetch_optional(connection)
            .await
            .map_err(failed("look for a cluster's UID"))?;
    Ok(Candidate {
        state: ClusterState::parse(&row.state).ok_or_else(|| inconsistent("clusters", "state", cluster))?,
        kubernetes_uid: row.kubernetes_uid,
        uid_of: other.as_deref().and_then(ClusterId::parse),
    })
}

/// What an enrolled cluster is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolled {
    /// Grows with each enrollment.
    pub incarnation: i64,
    /// Current epoch.
    pub epoch: i64,
}

/// Enrolls a cluster: a new incarnation, and from the second one on a new epoch.
///
/// # Errors
/// When Postgres does not answer.
pub async fn enroll(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    uid: &str,
    now: Timestamp,
) -> Result<Enrolled, StoreError> {
    let row = sqlx::query!(
        "update clusters
            set incarnation = incarnation + 1, epoch = epoch + case when incarnation = 0 then 0 else 1 end,
                kubernetes_uid = $2, state = 'enrolled', enrolled_at = coalesce(enrolled_at, $3), updated_at = $3
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

/// Notes the one use of a token.
///
/// # Errors
/// When Postgres does not answer.
pub async fn mark_used(connection: &mut PgConnection, id: Uuid, used: &Use, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query!(
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
    Ok(())
}

/// Nothing is sent to this cluster until a person makes a new token for it.
///
/// # Errors
/// When Postgres does not answer.
pub async fn quarantine(connection: &mut PgConnection, cluster: &ClusterId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query!(
        "update clusters set state = 'quarantined', updated_at = $2 where id = $1 and state in ('pendingBootstrap', 'enrolled')",
        cluster.as_str(),
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("quarantine a cluster"))?;
    Ok(())
}

/// A use of a token, good or bad, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttempt {
    /// Its id (UUIDv7).
    pub id: Uuid,
    /// Which token; none when the secret is nobody's.
    pub enrollment_id: Option<Uuid>,
    /// Which cluster it claimed to be.
    pub cluster_id: ClusterId,
    /// When.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// A sentence.
    pub message: String,
    /// From where.
    pub peer: String,
}

/// Attempts kept of one cluster in an hour: anybody who reaches the endpoint may make them.
const ATTEMPTS_AN_HOUR: i64 = 60;

/// Keeps an attempt, unless the cluster does not exist or there were too many within the hour.
///
/// # Errors
/// When Postgres does not answer.
pub async fn keep_attempt(connection: &mut PgConnection, attempt: &NewAttempt) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into enrollment_attempts (id, enrollment_id, cluster_id, at, outcome, message, peer)
         select $1, $2, c.id, $4, $5, $6, $7 from clusters c
         where c.id = $3 and $8 > (select count(*) from enrollment_attempts a
                                    where a.cluster_id = c.id and a.at > $4::timestamptz - interval '1 hour')",
        attempt.id,
        attempt.enrollment_id,
        attempt.cluster_id.as_str(),
        attempt.at.to_sqlx(),
        attempt.outcome,
        attempt.message,
        attempt.peer,
        ATTEMPTS_AN_HOUR,
    )
    .execute(connection)
    .await
    .map_err(failed("keep an enrollment attempt"))?;
    Ok(())
}
