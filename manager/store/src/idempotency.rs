//! Responses stored for a day, so that a repeated request changes nothing and gets the first response again.

use crate::error::{RowRef, StoreError, failed};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_schema::mutant;
use sqlx::PgConnection;

/// How long a response can be repeated.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(24);

/// A request's key with the hash of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of method, path with query, and body.
    pub request_sha256: [u8; 32],
}

/// A response as it is repeated. Holds no secret that is shown only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRecord {
    /// HTTP status.
    pub status: u16,
    /// Headers to repeat.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// Hash of the request that was answered.
    pub request_sha256: Vec<u8>,
    /// Its response.
    pub answer: ResponseRecord,
}

/// The response stored under this caller's key, unless it is older than [`RETENTION`].
pub async fn find(
    connection: &mut PgConnection,
    caller: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<StoredResponse>, StoreError> {
    let row = sqlx::query!(
        "select request_sha256, status, headers, body from idempotency where caller = $1 and key = $2 and expires_at > $3",
        caller,
        key,
        now.to_sqlx(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the response of an idempotency key"))?;
    row.map(|row| {
        let id = format!("{caller}/{key}");
        let at = RowRef { table: "idempotency", id: &id };
        Ok(StoredResponse {
            request_sha256: row.request_sha256,
            answer: ResponseRecord {
                status: u16::try_from(row.status).map_err(|error| at.invalid("status", error))?,
                headers: serde_json::from_value(row.headers).map_err(|error| at.invalid("headers", error))?,
                body: row.body,
            },
        })
    })
    .transpose()
}

/// Locks a key until the transaction ends: of two requests at once one proceeds and the other gets
/// [`StoreError::IdempotencyKeyInUse`], whatever else they would have collided on. An answered key fails the same way.
pub(crate) async fn lock_key(
    connection: &mut PgConnection,
    caller: &str,
    claim: &Claim,
    now: Timestamp,
) -> Result<(), StoreError> {
    let held = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('idempotency/' || length($1) || '/' || $1 || '/' || $2, 0)) as "held!""#,
        caller,
        claim.key,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("lock an idempotency key"))?;
    let held = held || mutant::is_on("idempotency.not-locked");
    if !held || find(connection, caller, &claim.key, now).await?.is_some() {
        return Err(StoreError::IdempotencyKeyInUse);
    }
    Ok(())
}

/// Stores a response. Waits for a concurrent transaction with the same key and fails with
/// [`StoreError::IdempotencyKeyInUse`] when that one committed.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    caller: &str,
    claim: &Claim,
    answer: &ResponseRecord,
    now: Timestamp,
) -> Result<(), StoreError> {
    let headers = serde_json::to_value(&answer.headers).expect("pairs of strings are JSON");
    let expires = now.checked_add(RETENTION).unwrap_or(now);
    let done = sqlx::query!(
        "insert into idempotency as present (caller, key, request_sha256, status, headers, body, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (caller, key) do update
            set request_sha256 = excluded.request_sha256, status = excluded.status, headers = excluded.headers,
                body = excluded.body, created_at = excluded.created_at, expires_at = excluded.expires_at
            where present.expires_at <= excluded.created_at",
        caller,
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
    .map_err(failed("store a response"))?;
    if done.rows_affected() == 0 { Err(StoreError::IdempotencyKeyInUse) } else { Ok(()) }
}

/// Deletes responses older than [`RETENTION`], at most `limit`; returns how many.
pub async fn delete_expired(connection: &mut PgConnection, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from idempotency where (caller, key) in
            (select caller, key from idempotency where expires_at <= $1 order by expires_at limit $2)",
        now.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete expired responses"))?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, caller, write_context},
        write_tx::WriteContext,
    };

    fn claim(hash: u8) -> Claim {
        Claim { key: "k-1".into(), request_sha256: [hash; 32] }
    }

    fn context(now: i64) -> WriteContext {
        WriteContext { now: at(now), claim: Some(claim(1)), ..write_context() }
    }

    fn response(body: &str) -> ResponseRecord {
        ResponseRecord { status: 201, headers: vec![("location".into(), "/x".into())], body: body.into() }
    }

    async fn write(fixture: &Fixture, now: i64, body: &str) -> Result<(), StoreError> {
        fixture.store.write(context(now), async |_| Ok(((), response(body)))).await
    }

    async fn stored(fixture: &Fixture, subject: &str, now: i64) -> Option<StoredResponse> {
        find(&mut fixture.store.acquire().await.unwrap(), subject, "k-1", at(now)).await.unwrap()
    }

    #[tokio::test]
    async fn a_response_is_found_by_its_caller_for_a_day() {
        let fixture = Fixture::new().await;
        let day = RETENTION.as_secs();
        write(&fixture, 0, "first").await.unwrap();
        let found = stored(&fixture, &caller().identity(), day - 1).await.unwrap();
        assert_eq!((found.request_sha256, found.answer), (vec![1; 32], response("first")));
        assert_eq!(stored(&fixture, &caller().identity(), day).await, None, "expired");
        assert_eq!(stored(&fixture, "bob", 1).await, None, "another caller");
    }

    #[tokio::test]
    async fn an_answered_key_is_refused_until_it_expires() {
        let fixture = Fixture::new().await;
        let day = RETENTION.as_secs();
        write(&fixture, 0, "first").await.unwrap();
        let again = write(&fixture, 1, "second").await.unwrap_err();
        assert!(matches!(again, StoreError::IdempotencyKeyInUse) && again.refusal().is_some(), "{again}");
        write(&fixture, day, "third").await.unwrap();
        assert_eq!(stored(&fixture, &caller().identity(), day).await.unwrap().answer, response("third"));
    }

    #[tokio::test]
    async fn of_two_requests_at_once_one_proceeds_and_a_refused_one_leaves_the_key_free() {
        let fixture = Fixture::new().await;
        let first: Result<(), StoreError> = fixture
            .store
            .write(context(0), async |_| {
                let second = write(&fixture, 0, "at once").await;
                assert!(matches!(second, Err(StoreError::IdempotencyKeyInUse)), "{second:?}");
                Err(StoreError::Missing { table: "none", id: String::new() })
            })
            .await;
        assert!(matches!(first, Err(StoreError::Missing { .. })), "{first:?}");
        write(&fixture, 0, "second").await.unwrap();
        assert_eq!(stored(&fixture, &caller().identity(), 0).await.unwrap().answer, response("second"));
    }

    #[tokio::test]
    async fn expired_responses_are_deleted_and_others_stay() {
        let fixture = Fixture::new().await;
        write(&fixture, 0, "first").await.unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        let day = RETENTION.as_secs();
        assert_eq!(delete_expired(&mut connection, at(day - 1), 10).await.unwrap(), 0);
        assert_eq!(delete_expired(&mut connection, at(day), 10).await.unwrap(), 1);
    }
}
