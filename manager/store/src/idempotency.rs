//! Answers kept for a day, so that a repeated request changes nothing and is answered again.

use crate::error::{StoreError, failed};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// How long an answer is kept.
pub const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A request's key with the hash of what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of method, path with query, and body.
    pub request_sha256: [u8; 32],
}

/// An answer as it is repeated. It holds nothing that is shown only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRecord {
    /// HTTP status.
    pub status: u16,
    /// Headers that belong to the answer.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// Of the request that was answered.
    pub request_sha256: Vec<u8>,
    /// Its answer.
    pub answer: ResponseRecord,
}

/// The answer kept for this caller's key, unless its day is over.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(
    connection: &mut PgConnection,
    subject: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<StoredResponse>, StoreError> {
    let row = sqlx::query!(
        "select request_sha256, status, headers, body from idempotency where subject = $1 and key = $2 and expires_at > $3",
        subject,
        key,
        now.to_sqlx(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a kept answer"))?;
    Ok(row.map(|row| StoredResponse {
        request_sha256: row.request_sha256,
        answer: ResponseRecord {
            status: u16::try_from(row.status).unwrap_or(200),
            headers: serde_json::from_value(row.headers).unwrap_or_default(),
            body: row.body,
        },
    }))
}

/// Holds a key until the transaction ends, so that of two requests at once one changes something and the other is told
/// to repeat, whatever else they would have collided on.
///
/// # Errors
/// With [`StoreError::IdempotencyKeyInUse`] when another request holds it, or was answered meanwhile.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    subject: &str,
    claim: &Claim,
    now: Timestamp,
) -> Result<(), StoreError> {
    let held = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('idempotency/' || $1 || '/' || $2, 0)) as "held!""#,
        subject,
        claim.key,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("hold an idempotency key"))?;
    if !held || find(connection, subject, &claim.key, now).await?.is_some() {
        return Err(StoreError::IdempotencyKeyInUse);
    }
    Ok(())
}

/// Keeps an answer; waits for a concurrent transaction with the same key.
///
/// # Errors
/// With [`StoreError::IdempotencyKeyInUse`] when that one committed.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    subject: &str,
    claim: &Claim,
    answer: &ResponseRecord,
    now: Timestamp,
) -> Result<(), StoreError> {
    let headers = serde_json::to_value(&answer.headers).expect("pairs of strings are JSON");
    let expires = now.checked_add(KEPT_FOR).unwrap_or(now);
    let done = sqlx::query!(
        "insert into idempotency as kept (subject, key, request_sha256, status, headers, body, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (subject, key) do update
            set request_sha256 = excluded.request_sha256, status = excluded.status, headers = excluded.headers,
                body = excluded.body, created_at = excluded.created_at, expires_at = excluded.expires_at
            where kept.expires_at <= excluded.created_at",
        subject,
        claim.key,
        claim.request_sha256.as_slice(),
        i32::from(answer.status),
        headers,
        answer.body,
        now.to_sqlx(),
        expires.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("keep an answer"))?;
    if done.rows_affected() == 0 { Err(StoreError::IdempotencyKeyInUse) } else { Ok(()) }
}

/// Forgets answers whose day is over, at most this many; returns how many.
///
/// # Errors
/// When Postgres does not answer.
pub async fn forget_expired(connection: &mut PgConnection, now: Timestamp, most: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from idempotency where (subject, key) in
            (select subject, key from idempotency where expires_at <= $1 order by expires_at limit $2)",
        now.to_sqlx(),
        most,
    )
    .execute(connection)
    .await
    .map_err(failed("forget kept answers"))?;
    Ok(done.rows_affected())
}
