//! What clusters report about their objects: the newest report by (epoch, session, counter) wins, and an object that is
//! not mentioned stays as it is.
//!
//! Before it: `cluster_reports.rs`. After it: REST, with `asOf` on every value.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use serde_json::Value;
use sqlx::PgConnection;

/// The place of a report in the order of its cluster's reports.
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
    /// The object no longer exists in the cluster.
    pub absent: bool,
    /// `[{"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}]`.
    pub conditions: Value,
    /// The kind's own details.
    pub detail: Value,
    /// The cluster's time of the report.
    pub as_of: Timestamp,
}

/// Merges a report; objects with a newer one stay as they are, and objects that no command was about are passed over: a cluster
/// must not fill the database with keys of its own. A report of a session that is not open yet is passed over as well: it is of
/// a session that a restored database has lost, or made up, and would stand above every later one. Returns how many changed.
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
         select $1, new.object_key, $2, $3, $4, new.revision, new.absent, new.conditions, new.detail, new.as_of
         from unnest($5::text[], $6::bigint[], $7::boolean[], $8::jsonb[], $9::jsonb[], $10::timestamptz[])
              as new (object_key, revision, absent, conditions, detail, as_of)
         where exists (select from commands k where k.cluster_id = $1 and k.object_key = new.object_key)
           and ($2, $3) <= (select c.epoch, s.session from clusters c join sessions s on s.cluster_id = c.id where c.id = $1)
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

/// What these clusters reported about these objects.
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
            let cluster =
                RowRef { table: "observed", id: &row.cluster_id }.cluster_id("cluster_id", &row.cluster_id)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};
    use kubenova_core::change::Change;
    use serde_json::json;

    fn object(key: &str, revision: i64) -> ObservedObject {
        ObservedObject {
            object_key: key.into(),
            revision,
            absent: false,
            conditions: json!([{ "type": "Ready", "status": "True" }]),
            detail: json!({}),
            as_of: at(revision),
        }
    }

    /// A command about each of these objects.
    async fn commanded(fixture: &Fixture, cluster: &ClusterId, keys: &[&str]) {
        let tenant = fixture.tenant().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for key in keys {
            let command =
                fixture.enqueue(std::slice::from_ref(cluster), &Change::Tenant(tenant.clone())).await.remove(0);
            sqlx::query("update commands set object_key = $2 where id = $1")
                .bind(command.command_id.0)
                .bind(key)
                .execute(&mut *connection)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn objects_that_no_command_was_about_are_passed_over() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, &cluster, &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let version = Version { epoch: 1, session: 1, counter: 1 };
        let reported = [object("tenant/1", 1), object("tenant/made-up", 1)];
        assert_eq!(merge(&mut connection, &cluster, version, &reported).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_newest_report_wins_in_any_order_and_silence_changes_nothing() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, &cluster, &["tenant/1", "tenant/2"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        sqlx::query("update clusters set epoch = 3").execute(&mut *connection).await.unwrap();
        let version = |epoch, session, counter| Version { epoch, session, counter };
        for (version, revision, changed) in [
            (version(1, 1, 5), 1, 1),
            (version(1, 1, 5), 9, 0),
            (version(1, 1, 4), 9, 0),
            (version(1, 2, 1), 2, 1),
            (version(2, 1, 1), 3, 1),
            (version(1, 9, 9), 9, 0),
        ] {
            let merged = merge(&mut connection, &cluster, version, &[object("tenant/1", revision)]).await.unwrap();
            assert_eq!(merged, changed, "{version:?}");
        }
        merge(&mut connection, &cluster, version(3, 1, 1), &[object("tenant/2", 4)]).await.unwrap();
        let keys = ["tenant/1".to_owned(), "tenant/2".to_owned(), "tenant/3".to_owned()];
        let found = find(&mut connection, std::slice::from_ref(&cluster), &keys).await.unwrap();
        assert_eq!(found, [(cluster.clone(), object("tenant/1", 3)), (cluster, object("tenant/2", 4))]);
    }

    /// As after a restore of the database, or from a cluster that wants its state to stay as it is now.
    #[tokio::test]
    async fn a_report_of_a_session_that_is_not_open_yet_changes_nothing() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, &cluster, &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (epoch, session, changed) in [(1, 2, 0), (2, 1, 0), (i64::MAX, i64::MAX, 0), (1, 1, 1)] {
            let version = Version { epoch, session, counter: 1 };
            let merged = merge(&mut connection, &cluster, version, &[object("tenant/1", 1)]).await.unwrap();
            assert_eq!(merged, changed, "epoch {epoch}, session {session}");
        }
    }

    #[tokio::test]
    async fn an_object_named_twice_in_one_report_can_never_be_stored() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, &cluster, &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let version = Version { epoch: 1, session: 1, counter: 1 };
        let twice = [object("tenant/1", 1), object("tenant/1", 2)];
        let error = merge(&mut connection, &cluster, version, &twice).await.unwrap_err();
        assert!(error.is_unstorable() && !error.is_transient(), "{error:?}");
    }
}
