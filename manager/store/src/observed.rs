//! What clusters report about their objects: the newest report by (epoch, session, counter) wins, and an object that is
//! not mentioned stays as it is, but for one in the range of keys of which a snapshot is everything: that one is absent.
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

/// A range of keys, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Its keys are higher than this one.
    pub after: String,
    /// The highest; none: up to the end.
    pub through: Option<String>,
}

/// Takes in that a cluster has nothing but these objects in a range of keys: the others that it ever reported there are absent as of this
/// report, unless a newer one says otherwise. Returns how many became so.
pub async fn mark_absent(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    version: Version,
    range: &KeyRange,
    present: &[ObservedObject],
    as_of: Timestamp,
) -> Result<u64, StoreError> {
    let keys: Vec<String> = present.iter().map(|one| one.object_key.clone()).collect();
    // What is absent already takes the version too: an older report that comes later must not bring it back.
    let became = sqlx::query_scalar!(
        r#"with former as materialized (
               select object_key, absent from observed
               where cluster_id = $1 and object_key > $5 collate "C" and ($6::text is null or object_key <= $6 collate "C")
                 and object_key <> all($7) and (epoch, session, counter) < ($2, $3, $4)
                 and ($2, $3) <= (select c.epoch, s.session from clusters c join sessions s on s.cluster_id = c.id where c.id = $1)
               order by object_key for update
           ),
           marked as (
               update observed o
                  set epoch = $2, session = $3, counter = $4, absent = true,
                      revision = case when former.absent then o.revision else 0 end,
                      conditions = case when former.absent then o.conditions else '[]' end,
                      detail = case when former.absent then o.detail else '{}' end,
                      as_of = case when former.absent then o.as_of else $8 end
               from former where o.cluster_id = $1 and o.object_key = former.object_key
               returning former.absent
           )
           select count(*) filter (where not absent) as "became!" from marked"#,
        cluster.as_str(),
        version.epoch,
        version.session,
        version.counter,
        &range.after,
        range.through.as_deref(),
        &keys,
        as_of.to_sqlx() as _,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("mark objects as absent that a snapshot does not have"))?;
    Ok(u64::try_from(became).unwrap_or_default())
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
    async fn commanded(fixture: &Fixture, clusters: &[ClusterId], keys: &[&str]) {
        let tenant = fixture.tenant().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for key in keys {
            let commands = fixture.enqueue(clusters, &Change::Tenant(tenant.clone())).await;
            sqlx::query("update commands set object_key = $2 where id = any($1)")
                .bind(commands.iter().map(|command| command.command_id.0).collect::<Vec<_>>())
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
        commanded(&fixture, std::slice::from_ref(&cluster), &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let version = Version { epoch: 1, session: 1, counter: 1 };
        let reported = [object("tenant/1", 1), object("tenant/made-up", 1)];
        assert_eq!(merge(&mut connection, &cluster, version, &reported).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_newest_report_wins_in_any_order_and_silence_changes_nothing() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, std::slice::from_ref(&cluster), &["tenant/1", "tenant/2"]).await;
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
        commanded(&fixture, std::slice::from_ref(&cluster), &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (epoch, session, changed) in [(1, 2, 0), (2, 1, 0), (i64::MAX, i64::MAX, 0), (1, 1, 1)] {
            let version = Version { epoch, session, counter: 1 };
            let merged = merge(&mut connection, &cluster, version, &[object("tenant/1", 1)]).await.unwrap();
            assert_eq!(merged, changed, "epoch {epoch}, session {session}");
        }
    }

    fn absent(key: &str, as_of: Timestamp) -> ObservedObject {
        ObservedObject { absent: true, revision: 0, conditions: json!([]), as_of, ..object(key, 0) }
    }

    async fn all(connection: &mut PgConnection, cluster: &ClusterId, keys: &[&str]) -> Vec<ObservedObject> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let found = find(connection, std::slice::from_ref(cluster), &keys).await.unwrap();
        found.into_iter().map(|(_, object)| object).collect()
    }

    fn range(after: &str, through: Option<&str>) -> KeyRange {
        KeyRange { after: after.to_owned(), through: through.map(str::to_owned) }
    }

    /// Keys whose order differs between bytes and the words of most languages.
    const KEYS: [&str; 5] = ["application/t/A", "application/t/a-b", "application/t/aa", "cluster-config", "tenant/t"];

    #[tokio::test]
    async fn a_part_of_a_snapshot_marks_absent_what_it_does_not_name_in_its_range_only() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, std::slice::from_ref(&cluster), &KEYS).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let version = |counter| Version { epoch: 1, session: 1, counter };
        let before = KEYS.map(|key| object(key, 1));
        merge(&mut connection, &cluster, version(1), &before).await.unwrap();
        // By bytes, "A" < "a-b" < "aa".
        let part = range("application/t/A", Some("application/t/aa"));
        let present = [before[2].clone()];
        let marked = async |connection: &mut PgConnection, counter| {
            mark_absent(connection, &cluster, version(counter), &part, &present, at(9)).await.unwrap()
        };
        assert_eq!(marked(&mut connection, 1).await, 0, "not newer");
        assert_eq!(marked(&mut connection, 2).await, 1);
        assert_eq!(marked(&mut connection, 2).await, 0, "once");
        let mut expected = before.clone();
        expected[1] = absent(KEYS[1], at(9));
        assert_eq!(all(&mut connection, &cluster, &KEYS).await.len(), 5);
        for one in &expected {
            assert_eq!(all(&mut connection, &cluster, &[&one.object_key]).await, std::slice::from_ref(one));
        }
        let rest = range("application/t/aa", None);
        assert_eq!(mark_absent(&mut connection, &cluster, version(3), &rest, &[], at(9)).await.unwrap(), 2);
        assert_eq!(all(&mut connection, &cluster, &KEYS[..1]).await, before[..1], "outside of both");
        let everything = range("", None);
        assert_eq!(mark_absent(&mut connection, &cluster, version(4), &everything, &[], at(9)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn snapshots_and_changes_come_to_the_same_in_any_order() {
        let version = |session, counter| Version { epoch: 1, session, counter };
        // One object: an earlier session's last word, the snapshot without it, and a later change.
        let steps = [(version(1, 7), Some(1)), (version(2, 1), None), (version(2, 2), Some(3))];
        for (order, newest) in [
            (vec![0, 1, 2], Some(3)),
            (vec![2, 1, 0], Some(3)),
            (vec![1, 0], None),
            (vec![0, 1, 0], None),
            (vec![1, 2, 1], Some(3)),
        ] {
            let fixture = Fixture::new().await;
            let cluster = fixture.connected_cluster().await;
            commanded(&fixture, std::slice::from_ref(&cluster), &["tenant/t"]).await;
            fixture.execute("update sessions set session = 2").await;
            let mut connection = fixture.store.acquire().await.unwrap();
            // It was reported before, else a snapshot without it says nothing new.
            merge(&mut connection, &cluster, version(1, 1), &[object("tenant/t", 0)]).await.unwrap();
            for step in &order {
                match steps[*step] {
                    (version, Some(revision)) => {
                        merge(&mut connection, &cluster, version, &[object("tenant/t", revision)]).await.unwrap();
                    }
                    (version, None) => {
                        mark_absent(&mut connection, &cluster, version, &range("", None), &[], at(9)).await.unwrap();
                    }
                }
            }
            let expected = newest.map_or_else(|| absent("tenant/t", at(9)), |revision| object("tenant/t", revision));
            assert_eq!(all(&mut connection, &cluster, &["tenant/t"]).await, [expected], "{order:?}");
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_about_its_own_cluster_and_of_a_session_that_is_open() {
        let fixture = Fixture::new().await;
        let clusters = fixture.connected_clusters(2).await;
        let [one, other] = &clusters[..] else { panic!("not two clusters") };
        commanded(&fixture, &clusters, &["tenant/t"]).await;
        let version = |session| Version { epoch: 1, session, counter: 9 };
        let mut connection = fixture.store.acquire().await.unwrap();
        for cluster in [one, other] {
            let first = Version { epoch: 1, session: 1, counter: 1 };
            merge(&mut connection, cluster, first, &[object("tenant/t", 1)]).await.unwrap();
        }
        let everything = range("", None);
        for (session, marked) in [(2, 0), (i64::MAX, 0), (1, 1)] {
            let became = mark_absent(&mut connection, one, version(session), &everything, &[], at(9)).await.unwrap();
            assert_eq!(became, marked, "session {session}");
        }
        assert_eq!(all(&mut connection, other, &["tenant/t"]).await, [object("tenant/t", 1)]);
    }

    #[tokio::test]
    async fn an_object_named_twice_in_one_report_can_never_be_stored() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        commanded(&fixture, std::slice::from_ref(&cluster), &["tenant/1"]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let version = Version { epoch: 1, session: 1, counter: 1 };
        let twice = [object("tenant/1", 1), object("tenant/1", 2)];
        let error = merge(&mut connection, &cluster, version, &twice).await.unwrap_err();
        assert!(error.is_unstorable() && !error.is_transient(), "{error:?}");
    }
}
