//! Clusters that hold commands which this database lost in a restore.
//!
//! Before it: `manager/src/session/open.rs` refuses the hello. After it: what the cluster holds comes (`diverged_records.rs`), and a
//! person decides (`recovery`).

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;
use uuid::Uuid;

/// What a diverged cluster says in its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedHello {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Highest epoch it has seen.
    pub epoch: i64,
    /// Highest revision stored there.
    pub highest_revision: i64,
    /// The command with that revision.
    pub highest_command: Option<Uuid>,
    /// Hash of its listing.
    pub listing_sha256: String,
}

/// Records that a cluster has diverged. True when its listing or its records are wanted.
pub async fn record(connection: &mut PgConnection, hello: &DivergedHello, now: Timestamp) -> Result<bool, StoreError> {
    // What was sent before describes another state of the cluster.
    sqlx::query!(
        "delete from diverged_records r using divergences d
         where r.cluster_id = $1 and d.cluster_id = $1
           and (d.highest_revision, d.listing_sha256) is distinct from ($2, $3)",
        hello.cluster_id.as_str(),
        hello.highest_revision,
        hello.listing_sha256,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("forget earlier records of a diverged cluster"))?;
    sqlx::query_scalar!(
        r#"insert into divergences as d (cluster_id, since, epoch, highest_revision, highest_command, listing_sha256)
           values ($1, $2, $3, $4, $5, $6)
           on conflict (cluster_id) do update
              set epoch = excluded.epoch, highest_revision = excluded.highest_revision,
                  highest_command = excluded.highest_command, listing_sha256 = excluded.listing_sha256,
                  is_listed = d.is_listed and d.highest_revision = excluded.highest_revision
                                          and d.listing_sha256 = excluded.listing_sha256
           returning not is_listed or exists (select from diverged_records r where r.cluster_id = $1 and r.is_lacking
                                                 and not r.is_verified) as "wanted!""#,
        hello.cluster_id.as_str(),
        now.to_sqlx(),
        hello.epoch,
        hello.highest_revision,
        hello.highest_command,
        hello.listing_sha256,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("record that a cluster has diverged"))
}

/// The cluster is in session: forgets what was kept.
pub async fn end(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query!("delete from divergences where cluster_id = $1", cluster.as_str())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("end a divergence"))
}

/// A cluster that has diverged, and how much of what it holds has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The first hello that was refused.
    pub since: Timestamp,
    /// Highest epoch that the cluster has seen.
    pub epoch: i64,
    /// Highest revision that it holds.
    pub highest_revision: i64,
    /// The command with that revision.
    pub highest_command: Option<Uuid>,
    /// The whole listing has come.
    pub is_listed: bool,
    /// Records that it holds and this database lacks.
    pub lacking: i64,
    /// Those of them that have not come, or cannot be used.
    pub missing: i64,
}

/// The clusters that have diverged, or this one if it has.
pub async fn list(connection: &mut PgConnection, cluster: Option<&ClusterId>) -> Result<Vec<Divergence>, StoreError> {
    let rows = sqlx::query!(
        r#"select d.cluster_id, d.since, d.epoch, d.highest_revision, d.highest_command, d.is_listed,
                  count(r.object_key) filter (where r.is_lacking) as "lacking!",
                  count(r.object_key) filter (where r.is_lacking and not r.is_verified) as "missing!"
           from divergences d left join diverged_records r on r.cluster_id = d.cluster_id
           where $1::text is null or d.cluster_id = $1
           group by d.cluster_id order by d.cluster_id"#,
        cluster.map(ClusterId::as_str),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list diverged clusters"))?;
    rows.into_iter()
        .map(|row| {
            Ok(Divergence {
                cluster_id: RowRef { table: "divergences", id: &row.cluster_id }
                    .cluster_id("cluster_id", &row.cluster_id)?,
                since: row.since.to_jiff(),
                epoch: row.epoch,
                highest_revision: row.highest_revision,
                highest_command: row.highest_command,
                is_listed: row.is_listed,
                lacking: row.lacking,
                missing: row.missing,
            })
        })
        .collect()
}
