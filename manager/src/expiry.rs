//! Deletes rows that are not read again: responses of idempotency keys that have expired, and what has ended and is older
//! than the settings' `retention`.

use crate::settings::Retention;
use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{
    audit_chain,
    command_retention::{self, Pass},
    connection::Connection,
    dead_letters, deletion_confirmations, enrollment_attempts,
    error::StoreError,
    idempotency,
    pool::Store,
    rollouts, sessions, unclaimed_usage,
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time between two rounds: expired rows cost disk only, never an answer.
const EVERY: Duration = Duration::from_secs(3600);
/// Time between two passes over the old commands, most of which stay because they are the newest of their objects.
const PASS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Days for which usage of unknown tenants is kept: clusters keep a window that was not received for 35, and a database that was
/// restored is recovered long before.
const UNCLAIMED_DAYS: u64 = 90;
/// Rows of one table that a statement deletes or looks at: some ten milliseconds of locks.
const BATCH: i64 = 1000;
/// Pause between two batches of commands: relay and ingest use the same rows.
const PAUSE: Duration = Duration::from_millis(100);

/// Deletes until a stop is requested. Several Managers at once do no harm.
pub async fn run(store: Store, retention: Retention, shutdown: Shutdown) {
    let pass = Mutex::new(Pass::default());
    let commands = Periodic::new("delete old commands", PASS_EVERY)
        .run(&shutdown, || commands_round(&store, &retention, &pass, clock::now()));
    let others = Periodic::new("delete expired rows", EVERY).run(&shutdown, || round(&store, &retention, clock::now()));
    tokio::join!(commands, others);
}

/// Deletes one batch of each table.
async fn round(store: &Store, retention: &Retention, now: Timestamp) -> Result<Next, StoreError> {
    let mut connection = store.acquire().await?;
    let mut most = idempotency::delete_expired(&mut connection, now, BATCH).await?;
    let before = days_before(now, retention.enrollment_attempts_days);
    most = most.max(enrollment_attempts::delete_old(&mut connection, before, BATCH).await?);
    let before = days_before(now, retention.dead_letters_days);
    most = most.max(dead_letters::delete_old(&mut connection, before, BATCH).await?);
    let before = days_before(now, retention.refused_hellos_days);
    most = most.max(sessions::delete_refusals(&mut connection, before, BATCH).await?);
    let before = days_before(now, retention.commands_days);
    most = most.max(deletion_confirmations::delete_expired(&mut connection, before, BATCH).await?);
    most = most.max(rollouts::delete_old(&mut connection, before, BATCH).await?);
    most = most.max(unclaimed_usage::delete_old(&mut connection, days_before(now, UNCLAIMED_DAYS), BATCH).await?);
    drop(connection);
    let before = days_before(now, retention.audit_days);
    let prune = async |tx: &mut Connection| audit_chain::prune(tx, before, now, BATCH).await;
    most = most.max(store.transaction("delete old audit records", prune).await?);
    Ok(if most >= BATCH.unsigned_abs() { Next::AtOnce } else { Next::Wait })
}

/// Looks at the next old commands.
async fn commands_round(
    store: &Store,
    retention: &Retention,
    pass: &Mutex<Pass>,
    now: Timestamp,
) -> Result<Next, StoreError> {
    let before = days_before(now, retention.commands_days);
    let mut connection = store.acquire().await?;
    let from = *pass.lock().unwrap_or_else(PoisonError::into_inner);
    let next = command_retention::delete_old(&mut connection, before, from, BATCH).await?;
    *pass.lock().unwrap_or_else(PoisonError::into_inner) = next.unwrap_or_default();
    Ok(if next.is_some() { Next::After(PAUSE) } else { Next::Wait })
}

fn days_before(now: Timestamp, days: u64) -> Timestamp {
    let hours = i64::try_from(days.saturating_mul(24)).unwrap_or(i64::MAX);
    now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::{self, Cli},
        settings::Settings,
        wiring,
    };
    use clap::Parser as _;
    use kubenova_core::access::{Caller, Role};
    use kubenova_runtime::{random, tls};
    use kubenova_store::{
        error::StoreError,
        idempotency::{Claim, ResponseRecord},
        write_tx::WriteContext,
    };
    use kubenova_test_postgres::Database;
    use serde_json::json;

    fn caller() -> Caller {
        Caller { subject: "ann".to_owned(), role: Role::Ops, tenant: None }
    }

    async fn respond(store: &Store, key: &str, now: Timestamp) {
        let context = WriteContext {
            caller: caller(),
            request_id: "r".to_owned(),
            traceparent: None,
            now,
            new_id: random::uuid_v7,
            claim: Some(Claim { key: key.to_owned(), request_sha256: [1; 32] }),
            dry_run: false,
        };
        let response = ResponseRecord { status: 202, headers: Vec::new(), body: String::new() };
        store.write(context, async |_| Ok::<_, StoreError>(((), response))).await.unwrap();
    }

    /// Whether the row is there, as it was found while it was valid.
    async fn is_stored(store: &Store, key: &str, then: Timestamp) -> bool {
        let mut connection = store.acquire().await.unwrap();
        idempotency::find(&mut connection, &caller().identity(), key, then).await.unwrap().is_some()
    }

    /// Three commands about one object of the cluster with the number 1, which ended 91 days ago.
    const OLD_COMMANDS: &str = "insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by,
                                                      queued_at, acknowledged_at, finished_at)
         select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'c' || lpad('1', 26, '0'), n, 'apply-tenant', 'tenant/1',
                '{}', 1, 'succeeded', 'ann', now() - interval '91 days', now(), now() - interval '91 days'
         from generate_series(1, 3) n";

    async fn count(database: &Database, table: &str) -> usize {
        database.rows().await.iter().filter(|row| row.starts_with(&format!("{table} "))).count()
    }

    #[tokio::test]
    async fn a_round_that_filled_its_batch_is_followed_at_once() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        let begun = clock::now();
        for number in 0..=BATCH {
            respond(&store, &number.to_string(), begun).await;
        }
        let later = begun + idempotency::RETENTION;
        assert_eq!(round(&store, &Retention::default(), begun).await.unwrap(), Next::Wait, "none has expired");
        assert_eq!(round(&store, &Retention::default(), later).await.unwrap(), Next::AtOnce);
        assert_eq!(round(&store, &Retention::default(), later).await.unwrap(), Next::Wait);
        assert!(!is_stored(&store, &BATCH.to_string(), begun).await);
    }

    #[tokio::test]
    async fn what_is_older_than_the_settings_say_is_deleted_and_the_rest_stays() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        database
            .execute(
                "insert into clusters (id, name, created_at, updated_at, created_by)
                 select 'c' || lpad(n::text, 26, '0'), 'c' || n, now(), now(), 'test' from generate_series(1, 2) n;
                 insert into dead_letters (id, cluster_id, kind, payload_sha256, subject, reason, payload, payload_bytes,
                                           first_seen_at, last_seen_at)
                 select gen_random_uuid(), '', 'other', n::text, '', '', '', 0, now() - n * interval '20 days',
                        now() - n * interval '20 days' from generate_series(1, 2) n;
                 insert into hello_refusals (cluster_id, boot_id, reason, message, refused_at)
                 select 'c' || lpad(n::text, 26, '0'), '', '', '', now() - n * interval '20 days' from generate_series(1, 2) n;
                 insert into enrollment_attempts (id, kind, at, outcome)
                 select gen_random_uuid(), 'enrollment', now() - n * interval '20 days', 'accepted' from generate_series(1, 2) n;
                 insert into deletion_confirmations (id, cluster_id, tenant_ids, statement, signature, not_after, created_at, created_by)
                 select gen_random_uuid(), 'c' || lpad('1', 26, '0'), '{}', '', '', now() - n * interval '60 days', now(), 'ann'
                 from generate_series(1, 2) n;
                 insert into unclaimed_usage
                 select 'c' || lpad('1', 26, '0'), gen_random_uuid(), 'shop', now(), 3600, 0, 0, 0, 0, 0, 0, repeat('a', 64), '{}', false,
                        now() - n * interval '60 days' from generate_series(1, 2) n;
                 insert into audit_pending (at, subject, role, action, target)
                 select now() - interval '3651 days', 'ann', 'ops', 'writeTenants/create', 'tenant/1'",
            )
            .await;
        database.execute(OLD_COMMANDS).await;
        store.transaction("test", async |tx: &mut Connection| audit_chain::link(tx, 10).await).await.unwrap();
        let (retention, pass) = (Retention::default(), Mutex::new(Pass::default()));
        assert_eq!(round(&store, &retention, clock::now()).await.unwrap(), Next::Wait);
        assert_eq!(commands_round(&store, &retention, &pass, clock::now()).await.unwrap(), Next::Wait);
        // Of the audit log the record of the deletion stays, and of commands the newest of the object.
        for table in [
            "dead_letters",
            "hello_refusals",
            "enrollment_attempts",
            "deletion_confirmations",
            "unclaimed_usage",
            "commands",
            "audit",
        ] {
            assert_eq!(count(&database, table).await, 1, "{table}");
        }
    }

    #[tokio::test]
    async fn a_running_manager_deletes_what_has_expired_and_keeps_the_rest() {
        tls::install_provider();
        let database = Database::new().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manager.yaml");
        let settings = json!({
            "database": { "url": database.url() },
            "kekFile": "kek",
            "listen": ["127.0.0.1:0"],
            "publicNames": ["localhost"],
            "endpoints": ["https://localhost:8443"],
            // Nothing listens there: the task must not wait for the broker.
            "nats": { "urls": ["tls://127.0.0.1:1"] },
            "metrics": { "listen": null },
        });
        std::fs::write(&file, settings.to_string()).unwrap();
        let init = ["kubenova-manager", "--config", file.to_str().unwrap(), "init"];
        commands::run(Cli::try_parse_from(init).unwrap()).await.unwrap();

        let store = Store::open(database.url(), 2).unwrap();
        let (now, days_ago) = (clock::now(), clock::now() - idempotency::RETENTION * 2);
        respond(&store, "old", days_ago).await;
        respond(&store, "new", now).await;
        database
            .execute(
                "insert into audit_pending (at, subject, role, action, target)
                 values (now(), 'ann', 'ops', 'writeTenants/create', 'tenant/1');
                 insert into clusters (id, name, created_at, updated_at, created_by)
                 values ('c' || lpad('1', 26, '0'), 'dc1-a', now(), now(), 'test')",
            )
            .await;
        database.execute(OLD_COMMANDS).await;
        assert!(is_stored(&store, "old", days_ago).await);

        let shutdown = Shutdown::new();
        let running = wiring::start(Settings::read(&file).unwrap(), shutdown.clone()).await.unwrap();
        let deleted = async {
            let mut check = tokio::time::interval(Duration::from_millis(20));
            while is_stored(&store, "old", days_ago).await
                || count(&database, "commands").await > 1
                || count(&database, "audit").await == 0
            {
                check.tick().await;
            }
        };
        let deleted = tokio::time::timeout(Duration::from_secs(60), deleted).await;
        deleted.expect("the response and the commands are deleted, and the audit record is linked");
        assert!(is_stored(&store, "new", now).await);
        shutdown.request();
        shutdown.finish(Duration::from_secs(10)).await;
        drop(running);
    }
}
