//! What clusters report about their objects: newest wins by (epoch, session, counter), and silence deletes nothing.
//!
//! Before it: `manager/src/ingest/status.rs`. After it: REST, with `asOf` on every value.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use serde_json::Value;
use sqlx::PgConnection;

/// Where a report stands in the order of its cluster's reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Epoch.
    pub epoch: i64,
    /// Session.
    pub session: i64,
    /// Counter within the session.
    pub counter: i64,
}

/// One object as its cluster sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedObject {
    /// As in a command's key.
    pub object_key: String,
    /// Newest revision the conditions speak about.
    pub revision: i64,
    /// Gone from the cluster.
    pub absent: bool,
    /// `[{"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}]`.
    pub conditions: Value,
    /// The kind's own details.
    pub detail: Value,
    /// The cluster's time of the report.
    pub as_of: Timestamp,
}

/// Merges a report: objects older than what is known stay as they are.
///
/// # Errors
/// When Postgres does not answer.
pub async fn merge(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    version: Version,
    objects: &[ObservedObject],
) -> Result<u64, StoreError> {
    let keys: Vec<String> = objects.iter().map(|one| one.object_key.clone()).collect();
    let revisions: Vec<i64> = objects.iter().map(|one| one.revision).collect();
    let absent: Vec<bool> = objects.iter().map(|one| one.absent).collect();
    let conditions: Vec<Value> = objects.iter().map(|one| one.conditions.clone()).collect();
    let details: Vec<Value> = objects.iter().map(|one| one.detail.clone()).collect();
    let times: Vec<jiff_sqlx::Timestamp> = objects.iter().map(|one| one.as_of.to_sqlx()).collect();
    let rows = sqlx::query!(
        "insert into observed (cluster_id, object_key, epoch, session, counter, revision, absent, conditions, detail, as_of)
         select $1, fresh.object_key, $2, $3, $4, fresh.revision, fresh.absent, fresh.conditions, fresh.detail, fresh.as_of
         from unnest($5::text[], $6::bigint[], $7::boolean[], $8::jsonb[], $9::jsonb[], $10::timestamptz[])
              as fresh (object_key, revision, absent, conditions, detail, as_of)
         on conflict (cluster_id, object_key) do update
            set epoch = excluded.epoch, session = excluded.session, counter = excluded.counter, revision = excluded.revision,
                absent = excluded.absent, conditions = excluded.conditions, detail = excluded.detail, as_of = excluded.as_of
         where (observed.epoch, observed.session, observed.counter) < (excluded.epoch, excluded.session, excluded.counter)",
        cluster.as_str(),
        version.epoch,
        version.session,
        version.counter,
        &keys,
        &revisions,
        &absent,
        &conditions,
        &details,
        times as _,
    )
    .execute(connection)
    .await
    .map_err(failed("merge a status report"))?;
    Ok(rows.rows_affected())
}

/// What a cluster reported about some objects, with whose report it is.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
    object_keys: &[String],
) -> Result<Vec<(ClusterId, ObservedObject)>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select cluster_id, object_key, revision, absent, conditions, detail, as_of from observed
         where cluster_id = any($1) and object_key = any($2) order by cluster_id, object_key",
        &ids,
        object_keys,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find observed objects"))?;
    rows.into_iter()
        .map(|row| {
            let cluster = ClusterId::parse(&row.cluster_id)
                .ok_or_else(|| inconsistent("observed", "cluster_id", &row.cluster_id))?;
            let object = ObservedObject {
                object_key: row.object_key,
                revision: row.revision,
                absent: row.absent,
                conditions: row.conditions,
                detail: row.detail,
                as_of: row.as_of.to_jiff(),
            };
            Ok((cluster, object))
        })
        .collect()
}
