//! Several reports of one cluster in one transaction: the same as each in its own, one after the other, with one commit for all.
//!
//! Guarantees: when one of them cannot be stored none is, so that the caller finds it by storing each by itself. Before it:
//! `manager/src/ingest/by_cluster.rs`. After it: [`outcomes`] and [`observed`].

use crate::{
    error::{StoreError, failed},
    observed::{self, KeyRange, ObservedObject, Version},
    outcomes::{self, Recorded, Reported},
};
use jiff::Timestamp;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::mutant;
use sqlx::PgConnection;
use uuid::Uuid;

/// A status report, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedReport {
    /// The reporting cluster.
    pub cluster_id: ClusterId,
    /// The report's place among those of its cluster.
    pub version: Version,
    /// What it says.
    pub objects: Vec<ObservedObject>,
    /// Where it names every object that the cluster has; none when it names changes.
    pub complete_in: Option<KeyRange>,
    /// The cluster's time of the report.
    pub as_of: Timestamp,
}

/// Records outcomes of one cluster in their order; what each changed.
pub async fn record_outcomes(
    connection: &mut PgConnection,
    reports: &[Reported],
    now: Timestamp,
    new_id: fn() -> Uuid,
) -> Result<Vec<Recorded>, StoreError> {
    if let [first, _, ..] = reports {
        lock(connection, "outcomes", &first.cluster_id).await?;
        lock_commands(connection, &first.cluster_id, reports).await?;
    }
    let mut recorded = Vec::with_capacity(reports.len());
    for reported in reports {
        recorded.push(outcomes::record(connection, reported, now, new_id).await?);
    }
    Ok(recorded)
}

/// Merges status reports of one cluster in their order. Returns how many objects changed.
pub async fn merge_status(connection: &mut PgConnection, reports: &[ObservedReport]) -> Result<u64, StoreError> {
    // A part of a snapshot changes rows that it does not name.
    let locks_several = reports.len() > 1 || reports.iter().any(|report| report.complete_in.is_some());
    if let Some(first) = reports.first().filter(|_| locks_several) {
        lock(connection, "status", &first.cluster_id).await?;
    }
    let mut changed = 0;
    for report in reports {
        let ObservedReport { cluster_id, version, objects, complete_in, as_of } = report;
        changed += observed::merge(connection, cluster_id, *version, objects).await?;
        if let Some(range) = complete_in {
            changed += observed::mark_absent(connection, cluster_id, *version, range, objects, *as_of).await?;
        }
    }
    Ok(changed)
}

/// Locks the commands of these outcomes, and those that they may supersede, from the highest revision down, as the relay does that
/// records where it has sent them: in the order of the reports each would wait for the other.
async fn lock_commands(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    reports: &[Reported],
) -> Result<(), StoreError> {
    let commands: Vec<Uuid> = reports.iter().map(|reported| reported.command_id.0).collect();
    sqlx::query!(
        "select id from commands
         where cluster_id = $2
           and (id = any($1)
                or state in ('sent', 'acknowledged', 'running')
                   and object_key in (select reported.object_key from commands reported where reported.id = any($1)))
         order by revision desc for update",
        &commands,
        cluster.as_str(),
    )
    .fetch_all(connection)
    .await
    .map(drop)
    .map_err(failed("lock the commands of outcomes"))
}

/// Has the reports of another Manager about the same cluster wait until this transaction ends: two that lock several rows in
/// different orders would wait for each other. One that stores a single report of changes takes no lock: it holds its rows for so short a time that
/// Postgres seldom has to end one of two, and what was ended is delivered again.
async fn lock(connection: &mut PgConnection, kind: &str, cluster: &ClusterId) -> Result<(), StoreError> {
    if mutant::is_on("reports.unlocked") {
        return Ok(());
    }
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('reports/' || $1 || '/' || $2, 0))",
        kind,
        cluster.as_str()
    )
    .execute(connection)
    .await
    .map_err(failed("lock the reports of a cluster"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue::{self, ClaimOptions},
        enrollments,
        fixture::{Fixture, at, claim_options, new_id},
    };
    use kubenova_core::{
        change::Change,
        command::{CommandId, CommandState, Hop},
    };
    use serde_json::json;
    use std::time::Duration;

    /// Longest that a transaction may wait for another in a test; Postgres ends one of two that wait for each other after a second.
    const ENDED_WITHIN: Duration = Duration::from_secs(60);

    /// A cluster with so many sent commands, each about an application of its own, and then two about one tenant.
    async fn sent(fixture: &Fixture, applications: usize) -> (ClusterId, Vec<CommandId>) {
        let cluster = fixture.connected_cluster().await;
        let tenant = fixture.tenant().await;
        let clusters = std::slice::from_ref(&cluster);
        let mut ids = Vec::new();
        for number in 0..applications {
            let application = fixture.application(&tenant, &format!("app-{number}"), clusters).await;
            let change = Change::Application { tenant: tenant.name.clone(), application };
            ids.push(fixture.enqueue(clusters, &change).await.remove(0).command_id);
        }
        for _ in 0..2 {
            ids.push(fixture.enqueue(clusters, &Change::Tenant(tenant.clone())).await.remove(0).command_id);
            let due = ClaimOptions { send_again_at: at(31), window: 1_000, ..claim_options() };
            let mut connection = fixture.store.acquire().await.unwrap();
            cluster_queue::claim(&mut connection, &cluster, &due).await.unwrap();
        }
        (cluster, ids)
    }

    fn outcome(cluster: &ClusterId, command: CommandId, state: Option<CommandState>) -> Reported {
        Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            epoch: 2,
            state,
            reason: "Reason".to_owned(),
            message: String::new(),
            hops: vec![Hop { name: "stored".into(), at: "2026-03-01T00:00:02Z".into(), object: String::new() }],
            send_again_at: Some(at(60)),
        }
    }

    /// Outcomes of every sort: progress, repetitions, what comes too late, a deferral, a superseded one, one of an earlier epoch, one
    /// of the newest command, one about a lower command, an unknown command.
    fn outcomes_of_every_sort(cluster: &ClusterId, ids: &[CommandId]) -> Vec<Reported> {
        use CommandState::{Acknowledged, Failed, Refused, Running, Succeeded, Superseded};
        let [one, two, three, four, five, lower, newest] = ids else { panic!("seven commands") };
        let of = |id: &CommandId, state| outcome(cluster, *id, state);
        let earlier = Reported { epoch: 1, ..of(four, Some(Superseded)) };
        vec![
            of(one, Some(Acknowledged)),
            of(one, Some(Acknowledged)),
            of(two, None),
            of(one, Some(Running)),
            of(three, Some(Refused)),
            of(one, Some(Succeeded)),
            of(one, Some(Failed)),
            of(one, Some(Running)),
            earlier,
            of(five, Some(Superseded)),
            of(five, Some(Succeeded)),
            of(newest, Some(Acknowledged)),
            of(lower, Some(Succeeded)),
            of(&CommandId(Uuid::from_u128(404)), Some(Succeeded)),
            of(two, Some(Acknowledged)),
        ]
    }

    /// Everything that outcomes change, without the ids that are new each time.
    async fn changed(fixture: &Fixture) -> Vec<String> {
        let mut rows = Vec::new();
        for sql in [
            "select (object_key, revision, state, reason, message, waiting_for, hops, acknowledged_at, running_at,
                     finished_at, next_send_at)::text from commands order by revision",
            "select (at, action, target, revision, detail)::text from audit_pending order by id",
        ] {
            let mut connection = fixture.store.acquire().await.unwrap();
            rows.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(&mut *connection).await.unwrap());
        }
        rows
    }

    /// How many transactions wrote what commands are now.
    async fn transactions(fixture: &Fixture) -> i64 {
        let sql = "select count(distinct xmin::text) from commands where acknowledged_at is not null";
        sqlx::query_scalar(sql).fetch_one(&mut *fixture.store.acquire().await.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn outcomes_together_change_what_they_change_one_by_one() {
        let (mut results, mut rows) = (Vec::new(), Vec::new());
        for together in [false, true] {
            let fixture = Fixture::new().await;
            let (cluster, ids) = sent(&fixture, 5).await;
            // The cluster has enrolled again: an outcome of epoch 1 speaks of the time before.
            enrollments::enroll(&mut fixture.store.acquire().await.unwrap(), &cluster, "uid-1", at(2)).await.unwrap();
            let reports = outcomes_of_every_sort(&cluster, &ids);
            let mut recorded = Vec::new();
            for group in reports.chunks(if together { reports.len() } else { 1 }) {
                let mut tx = fixture.begin().await;
                recorded.extend(record_outcomes(&mut tx, group, at(3), new_id).await.unwrap());
                tx.commit().await.unwrap();
            }
            results.push(recorded);
            rows.push(changed(&fixture).await);
        }
        assert_eq!(results[0], results[1]);
        for recorded in [Recorded::Moved, Recorded::Repeated, Recorded::Unknown] {
            assert!(results[0].contains(&recorded), "{recorded:?} is among them");
        }
        assert_eq!(rows[0], rows[1]);
        assert!(rows[0].iter().any(|row| row.contains("NewerChange")), "a lower command was superseded: {:?}", rows[0]);
        assert!(rows[0].iter().any(|row| row.contains(",queued,")), "a newest one was sent again: {:?}", rows[0]);
    }

    /// The relay locks a cluster's commands from the highest revision down.
    #[tokio::test]
    async fn outcomes_together_hold_no_lower_command_while_they_wait_for_a_higher_one() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture, 2).await;
        let acknowledged = |id: &CommandId| outcome(&cluster, *id, Some(CommandState::Acknowledged));
        let reports: Vec<Reported> = ids.iter().take(2).map(acknowledged).collect();
        let mut tx = fixture.begin().await;
        let blocked = fixture.blocked(&mut tx).await;
        let mut relay = fixture.begin().await;
        let stored = |id: &CommandId| cluster_queue::Published { command: *id, stream: "s".into(), sequence: 1 };
        cluster_queue::record_published(&mut relay, &[stored(&ids[1])]).await.unwrap();
        let relays = async {
            blocked.await;
            cluster_queue::record_published(&mut relay, &[stored(&ids[0])]).await.unwrap();
            relay.commit().await.unwrap();
        };
        let (recorded, ()) = tokio::join!(record_outcomes(&mut tx, &reports, at(3), new_id), relays);
        assert_eq!(recorded.unwrap(), [Recorded::Moved, Recorded::Moved]);
    }

    #[tokio::test]
    async fn outcomes_together_are_one_transaction_for_postgres() {
        for (size, expected) in [(1, 20), (20, 1)] {
            let fixture = Fixture::new().await;
            let (cluster, ids) = sent(&fixture, 20).await;
            let acknowledged = |id: &CommandId| outcome(&cluster, *id, Some(CommandState::Acknowledged));
            let reports: Vec<Reported> = ids.iter().take(20).map(acknowledged).collect();
            for group in reports.chunks(size) {
                let mut tx = fixture.begin().await;
                record_outcomes(&mut tx, group, at(3), new_id).await.unwrap();
                tx.commit().await.unwrap();
            }
            assert_eq!(transactions(&fixture).await, expected, "{size} at once");
        }
    }

    #[tokio::test]
    async fn when_one_in_the_middle_cannot_be_stored_none_is() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture, 3).await;
        let mut reports: Vec<Reported> =
            ids.iter().take(3).map(|id| outcome(&cluster, *id, Some(CommandState::Acknowledged))).collect();
        reports[1].reason = "\0".to_owned();
        let before = changed(&fixture).await;
        let record = fixture.store.transaction("test", async |tx| record_outcomes(tx, &reports, at(3), new_id).await);
        let error = record.await.unwrap_err();
        assert!(error.is_unstorable() && !error.is_transient(), "{error:?}");
        assert_eq!(changed(&fixture).await, before);
        let mut stored = Vec::new();
        for report in reports.chunks(1) {
            let one = fixture.store.transaction("test", async |tx| record_outcomes(tx, report, at(3), new_id).await);
            stored.push(one.await.is_ok());
        }
        assert_eq!(stored, [true, false, true]);
    }

    #[tokio::test]
    async fn two_managers_that_store_the_same_rows_in_another_order_do_not_stop_each_other() {
        let fixture = Fixture::new().await;
        let (cluster, _) = sent(&fixture, 2).await;
        let keys: Vec<String> = sqlx::query_scalar("select object_key from commands order by revision")
            .fetch_all(&mut *fixture.store.acquire().await.unwrap())
            .await
            .unwrap();
        let reports = |keys: [&String; 2]| {
            let mut counter = 0;
            keys.map(|key| {
                counter += 1;
                let version = Version { epoch: 1, session: 1, counter };
                let objects = vec![object(key, counter)];
                ObservedReport { cluster_id: cluster.clone(), version, objects, complete_in: None, as_of: at(counter) }
            })
        };
        let (first, second) = (reports([&keys[0], &keys[1]]), reports([&keys[1], &keys[0]]));
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        // As far as the first of two.
        merge_status(&mut one, &first[..1]).await.unwrap();
        lock(&mut one, "status", &cluster).await.unwrap();
        let blocked = fixture.blocked(&mut other).await;
        let first = async {
            blocked.await;
            merge_status(&mut one, &first).await?;
            one.commit().await
        };
        let second = async {
            merge_status(&mut other, &second).await?;
            other.commit().await
        };
        let both = async { tokio::join!(first, second) };
        let (first, second) = tokio::time::timeout(ENDED_WITHIN, both).await.unwrap();
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn a_part_of_a_snapshot_waits_for_the_reports_of_another_manager() {
        let fixture = Fixture::new().await;
        let (cluster, _) = sent(&fixture, 1).await;
        let everything = KeyRange { after: String::new(), through: None };
        let snapshot = ObservedReport {
            cluster_id: cluster.clone(),
            version: Version { epoch: 1, session: 1, counter: 1 },
            objects: Vec::new(),
            complete_in: Some(everything),
            as_of: at(1),
        };
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        lock(&mut one, "status", &cluster).await.unwrap();
        let blocked = fixture.blocked(&mut other).await;
        let first = async {
            blocked.await;
            one.commit().await
        };
        let second = async {
            merge_status(&mut other, std::slice::from_ref(&snapshot)).await?;
            other.commit().await
        };
        let both = async { tokio::join!(first, second) };
        let (first, second) = tokio::time::timeout(ENDED_WITHIN, both).await.expect("it waits");
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn status_together_changes_what_it_changes_one_by_one() {
        let mut rows = Vec::new();
        for together in [false, true] {
            let fixture = Fixture::new().await;
            let (cluster, _) = sent(&fixture, 3).await;
            fixture.execute("update sessions set session = 2").await;
            let mut connection = fixture.store.acquire().await.unwrap();
            let keys: Vec<String> = sqlx::query_scalar("select object_key from commands order by revision")
                .fetch_all(&mut *connection)
                .await
                .unwrap();
            let report = |epoch, session, counter, keys: &[String]| ObservedReport {
                cluster_id: cluster.clone(),
                version: Version { epoch, session, counter },
                objects: keys.iter().map(|key| object(key, counter)).collect(),
                complete_in: None,
                as_of: at(counter),
            };
            let everything = KeyRange { after: String::new(), through: None };
            let reports = [
                report(1, 1, 2, &keys[..2]),
                report(1, 1, 1, &keys[..3]),
                report(1, 1, 2, &keys[1..3]),
                report(1, 2, 1, &keys[..1]),
                report(0, 9, 9, &keys[..3]),
                report(1, 2, 2, &["made-up".to_owned()]),
                ObservedReport { complete_in: Some(everything), ..report(1, 2, 3, &keys[1..2]) },
                report(1, 1, 9, &keys[2..3]),
                report(1, 2, 4, &keys[2..3]),
            ];
            let mut changed = 0;
            for group in reports.chunks(if together { reports.len() } else { 1 }) {
                let mut tx = fixture.begin().await;
                changed += merge_status(&mut tx, group).await.unwrap();
                tx.commit().await.unwrap();
            }
            let stored = observed::find(&mut connection, std::slice::from_ref(&cluster), &keys).await.unwrap();
            let transactions: i64 = sqlx::query_scalar("select count(distinct xmin::text) from observed")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(transactions, if together { 1 } else { 2 }, "that of the snapshot, and that of the last report");
            rows.push((changed, stored));
        }
        assert_eq!(rows[0], rows[1]);
    }

    fn object(key: &str, counter: i64) -> ObservedObject {
        ObservedObject {
            object_key: key.to_owned(),
            revision: counter,
            absent: false,
            conditions: json!([]),
            detail: json!({ "counter": counter }),
            as_of: at(counter),
        }
    }
}
