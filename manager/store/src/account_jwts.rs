//! The broker's account JWTs as they were signed last: what they say is compared with what they should say, and a new one is signed only
//! when that differs.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// An account's JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Name of the account.
    pub account: String,
    /// Of what it says and who signed it.
    pub claims_sha256: [u8; 32],
    /// Its time of issue.
    pub issued_at: Timestamp,
    /// The JWT.
    pub jwt: String,
}

/// All of them, held until the transaction ends: of several Managers one signs.
pub async fn lock(connection: &mut PgConnection) -> Result<Vec<AccountRow>, StoreError> {
    sqlx::query!("lock table account_jwts in share row exclusive mode")
        .execute(&mut *connection)
        .await
        .map_err(failed("lock the account JWTs"))?;
    all(connection).await
}

/// All of them.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<AccountRow>, StoreError> {
    let rows = sqlx::query!("select account, claims_sha256, issued_at, jwt from account_jwts order by account")
        .fetch_all(connection)
        .await
        .map_err(failed("read the account JWTs"))?;
    let row = |row: &[u8]| <[u8; 32]>::try_from(row).unwrap_or_default();
    Ok(rows
        .into_iter()
        .map(|it| AccountRow {
            claims_sha256: row(&it.claims_sha256),
            account: it.account,
            issued_at: it.issued_at.to_jiff(),
            jwt: it.jwt,
        })
        .collect())
}

/// Stores a JWT that was signed in this transaction, after [`lock`].
pub async fn store(connection: &mut PgConnection, row: &AccountRow) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into account_jwts (account, claims_sha256, issued_at, jwt) values ($1, $2, $3, $4)
         on conflict (account) do update
            set claims_sha256 = excluded.claims_sha256, issued_at = excluded.issued_at, jwt = excluded.jwt, verified_at = null",
        row.account,
        row.claims_sha256.as_slice(),
        row.issued_at.to_sqlx(),
        row.jwt,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("store an account JWT"))
}

/// The JWT of an account, if every server of the broker had it when they were asked last; with the servers that had not, if some had not.
pub async fn verified(connection: &mut PgConnection, account: &str) -> Result<Result<String, String>, StoreError> {
    let row = sqlx::query!("select jwt, behind, verified_at from account_jwts where account = $1", account)
        .fetch_optional(connection)
        .await
        .map_err(failed("find whether servers of the broker lack an account JWT"))?;
    Ok(match row {
        Some(row) if row.verified_at.is_some() && row.behind.is_empty() => Ok(row.jwt),
        Some(row) => Err(row.behind),
        None => Err(String::new()),
    })
}

/// Records which servers of the broker do not have this JWT; none: all have it. False when another one has taken its place meanwhile.
pub async fn record_behind(
    connection: &mut PgConnection,
    row: &AccountRow,
    behind: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update account_jwts set behind = $3, verified_at = case when $3 = '' then $4 else verified_at end
          where account = $1 and jwt = $2",
        row.account,
        row.jwt,
        behind,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("record the servers of the broker that lack an account JWT"))?;
    Ok(done.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};

    #[tokio::test]
    async fn of_two_managers_one_signs_and_the_other_finds_what_it_signed() {
        let fixture = Fixture::new().await;
        let row = |jwt: &str| AccountRow {
            account: "EDGE".to_owned(),
            claims_sha256: [7; 32],
            issued_at: at(0),
            jwt: jwt.to_owned(),
        };
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        assert_eq!(lock(&mut one).await.unwrap(), []);
        let blocked = fixture.blocked(&mut other).await;
        let waits = tokio::spawn(async move { lock(&mut other).await.unwrap() });
        blocked.await;
        store(&mut one, &row("first")).await.unwrap();
        one.commit().await.unwrap();
        assert_eq!(waits.await.unwrap(), [row("first")]);

        let mut connection = fixture.store.acquire().await.unwrap();
        store(&mut connection, &row("second")).await.unwrap();
        assert!(!record_behind(&mut connection, &row("first"), "hub-1", at(1)).await.unwrap());
        let behind: String =
            sqlx::query_scalar("select behind from account_jwts").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(behind, "", "that was about the JWT before");
        assert!(record_behind(&mut connection, &row("second"), "hub-1", at(1)).await.unwrap());
        assert_eq!(verified(&mut connection, "EDGE").await.unwrap(), Err("hub-1".to_owned()));
        assert!(record_behind(&mut connection, &row("second"), "", at(2)).await.unwrap());
        assert_eq!(verified(&mut connection, "EDGE").await.unwrap(), Ok("second".to_owned()));
        store(&mut connection, &row("third")).await.unwrap();
        assert_eq!(
            verified(&mut connection, "EDGE").await.unwrap(),
            Err(String::new()),
            "nobody was asked about this one"
        );
    }
}
