//! Service tokens. The store sees only their SHA-256.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    tenant::TenantId,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// Who calls with this token; none when it is unknown, over or taken back.
///
/// # Errors
/// When Postgres does not answer.
pub async fn caller(
    connection: &mut PgConnection,
    token_sha256: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Caller>, StoreError> {
    let row = sqlx::query!(
        "select id, subject, role, tenant_id from api_tokens
         where token_sha256 = $1 and revoked_at is null and (expires_at is null or expires_at > $2)",
        token_sha256.as_slice(),
        now.to_sqlx(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a token"))?;
    row.map(|row| {
        let role = Role::parse(&row.role).ok_or_else(|| inconsistent("api_tokens", "role", &row.id))?;
        Ok(Caller { subject: row.subject, role, tenant: row.tenant_id.map(TenantId) })
    })
    .transpose()
}

/// Adds a token.
///
/// # Errors
/// When Postgres does not answer, or its tenant does not exist.
pub async fn insert(
    connection: &mut PgConnection,
    token: &ApiToken,
    token_sha256: &[u8; 32],
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into api_tokens (id, token_sha256, subject, role, tenant_id, created_at, created_by, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        token.id,
        token_sha256.as_slice(),
        token.caller.subject,
        token.caller.role.as_str(),
        token.caller.tenant.map(|tenant| tenant.0),
        token.created_at.to_sqlx(),
        token.created_by,
        token.expires_at.map(jiff_sqlx::ToSqlx::to_sqlx) as _,
    )
    .execute(connection)
    .await
    .map_err(failed("add a token"))?;
    Ok(())
}

/// Takes a token back. False when there is none with this id that was not taken back before.
///
/// # Errors
/// When Postgres does not answer.
pub async fn revoke(connection: &mut PgConnection, id: Uuid, now: Timestamp) -> Result<bool, StoreError> {
    let done =
        sqlx::query!("update api_tokens set revoked_at = $2 where id = $1 and revoked_at is null", id, now.to_sqlx())
            .execute(connection)
            .await
            .map_err(failed("revoke a token"))?;
    Ok(done.rows_affected() == 1)
}

/// All tokens by age.
///
/// # Errors
/// When Postgres does not answer.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ApiToken>, StoreError> {
    let rows = sqlx::query!(
        "select id, subject, role, tenant_id, created_at, created_by, expires_at, revoked_at from api_tokens order by id",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list tokens"))?;
    rows.into_iter()
        .map(|row| {
            let role = Role::parse(&row.role).ok_or_else(|| inconsistent("api_tokens", "role", &row.id))?;
            Ok(ApiToken {
                id: row.id,
                caller: Caller { subject: row.subject, role, tenant: row.tenant_id.map(TenantId) },
                created_at: row.created_at.to_jiff(),
                created_by: row.created_by,
                expires_at: row.expires_at.map(jiff_sqlx::Timestamp::to_jiff),
                revoked_at: row.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        })
        .collect()
}
