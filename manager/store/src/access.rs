//! Service tokens. The store sees only their SHA-256.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    tenant::TenantId,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// The caller with this token; none when it is unknown, expired or revoked.
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
    .map_err(failed("find a token"))?;
    row.map(|row| {
        let role = RowRef { table: "api_tokens", id: &row.id }.parse("role", &row.role, Role::parse)?;
        Ok(Caller { subject: row.subject, role, tenant: row.tenant_id.map(TenantId) })
    })
    .transpose()
}

/// Adds a token.
/// Fails when its tenant does not exist.
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

/// Revokes a token. False when there is none with this id, or it was revoked before.
pub async fn revoke(connection: &mut PgConnection, id: Uuid, now: Timestamp) -> Result<bool, StoreError> {
    let done =
        sqlx::query!("update api_tokens set revoked_at = $2 where id = $1 and revoked_at is null", id, now.to_sqlx())
            .execute(connection)
            .await
            .map_err(failed("revoke a token"))?;
    Ok(done.rows_affected() == 1)
}

/// All tokens by age.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ApiToken>, StoreError> {
    let rows = sqlx::query!(
        "select id, subject, role, tenant_id, created_at, created_by, expires_at, revoked_at from api_tokens order by id",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list tokens"))?;
    rows.into_iter()
        .map(|row| {
            let role = RowRef { table: "api_tokens", id: &row.id }.parse("role", &row.role, Role::parse)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, new_id};

    fn token(role: Role, tenant: Option<TenantId>, expires_at: Option<Timestamp>) -> ApiToken {
        ApiToken {
            id: new_id(),
            caller: Caller { subject: "ann".into(), role, tenant },
            created_at: at(0),
            created_by: "root".into(),
            expires_at,
            revoked_at: None,
        }
    }

    #[tokio::test]
    async fn a_token_names_its_caller_until_it_expires_or_is_revoked() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let token = token(Role::Admin, None, Some(at(10)));
        insert(&mut connection, &token, &[1; 32]).await.unwrap();
        assert_eq!(caller(&mut connection, &[1; 32], at(9)).await.unwrap(), Some(token.caller.clone()));
        assert_eq!(caller(&mut connection, &[1; 32], at(10)).await.unwrap(), None, "expired");
        assert_eq!(caller(&mut connection, &[2; 32], at(0)).await.unwrap(), None, "unknown");
        assert!(revoke(&mut connection, token.id, at(1)).await.unwrap());
        assert!(!revoke(&mut connection, token.id, at(2)).await.unwrap(), "revoked before");
        assert_eq!(caller(&mut connection, &[1; 32], at(2)).await.unwrap(), None, "revoked");
        assert_eq!(list(&mut connection).await.unwrap(), [ApiToken { revoked_at: Some(at(1)), ..token }]);
    }

    #[tokio::test]
    async fn roles_of_a_tenant_need_one_and_global_roles_have_none() {
        let fixture = Fixture::new().await;
        let tenant = fixture.tenant().await.id;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (role, tenant, accepted) in [
            (Role::TenantOwner, None, false),
            (Role::ProjectDev, None, false),
            (Role::Admin, Some(tenant), false),
            (Role::Ops, Some(tenant), false),
            (Role::TenantOwner, Some(tenant), true),
            (Role::Billing, None, true),
        ] {
            let token = token(role, tenant, None);
            let hash: [u8; 32] = [token.id.as_bytes().last().copied().unwrap(); 32];
            assert_eq!(insert(&mut connection, &token, &hash).await.is_ok(), accepted, "{role:?} {tenant:?}");
        }
    }
}
