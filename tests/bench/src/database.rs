//! What is read of the product's database while it is measured, without a transaction in it.

use anyhow::Result;
use kubenova_scenarios::platform::Platform;
use sqlx::{Connection as _, PgConnection};

/// The product's database.
const PRODUCT: &str = "kubenova";
/// Another one of the same server, whose transactions are not counted.
const BESIDE: &str = "postgres";

/// A connection.
#[derive(Debug)]
pub(crate) struct Database(PgConnection);

impl Database {
    /// To the product's database.
    pub(crate) async fn of_product(platform: &Platform) -> Result<Self> {
        Ok(Self(PgConnection::connect(&platform.postgres.url(PRODUCT)).await?))
    }

    /// To another database of the same server.
    pub(crate) async fn beside(platform: &Platform) -> Result<Self> {
        Ok(Self(PgConnection::connect(&platform.postgres.url(BESIDE)).await?))
    }

    /// Transactions of the product so far.
    pub(crate) async fn transactions(&mut self) -> Result<i64> {
        let sql = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        Ok(sqlx::query_scalar(sql).bind(PRODUCT).fetch_one(&mut self.0).await?)
    }

    /// The number that a query answers.
    pub(crate) async fn number(&mut self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.0).await?)
    }

    /// The text that a query answers.
    pub(crate) async fn text(&mut self, sql: &'static str) -> Result<String> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.0).await?)
    }

    /// Changes rows; how many.
    pub(crate) async fn execute(&mut self, sql: &'static str) -> Result<u64> {
        Ok(sqlx::query(sql).execute(&mut self.0).await?.rows_affected())
    }
}
