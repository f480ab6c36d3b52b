//! Deletes rows that are not read again: responses of idempotency keys that have expired, and old enrollment attempts.

use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{enrollments, error::StoreError, idempotency, pool::Store};
use std::time::Duration;

/// Time between two rounds: expired rows cost disk only, never an answer.
const EVERY: Duration = Duration::from_secs(3600);
/// Rows of one table deleted in one statement: some ten milliseconds of locks.
const BATCH: i64 = 1000;
/// How long an enrollment attempt is kept: who looks for why a cluster did not join looks within days.
const ATTEMPTS_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Deletes until a stop is requested. Several Managers at once do no harm.
pub async fn run(store: Store, shutdown: Shutdown) {
    Periodic::new("delete expired rows", EVERY).run(&shutdown, || round(&store, clock::now())).await;
}

/// Deletes one batch of each table.
async fn round(store: &Store, now: Timestamp) -> Result<Next, StoreError> {
    let mut connection = store.acquire().await?;
    let attempts_before = now.checked_sub(ATTEMPTS_KEPT).unwrap_or(Timestamp::MIN);
    let responses = idempotency::delete_expired(&mut connection, now, BATCH).await?;
    let attempts = enrollments::delete_attempts(&mut connection, attempts_before, BATCH).await?;
    let whole_batch = responses.max(attempts) >= BATCH.unsigned_abs();
    Ok(if whole_batch { Next::AtOnce } else { Next::Wait })
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

    #[tokio::test]
    async fn a_round_that_filled_its_batch_is_followed_at_once() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        let begun = clock::now();
        for number in 0..=BATCH {
            respond(&store, &number.to_string(), begun).await;
        }
        let later = begun + idempotency::RETENTION;
        assert_eq!(round(&store, begun).await.unwrap(), Next::Wait, "none has expired");
        assert_eq!(round(&store, later).await.unwrap(), Next::AtOnce);
        assert_eq!(round(&store, later).await.unwrap(), Next::Wait);
        assert!(!is_stored(&store, &BATCH.to_string(), begun).await);
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
        assert!(is_stored(&store, "old", days_ago).await);

        let shutdown = Shutdown::new();
        let running = wiring::start(Settings::read(&file).unwrap(), shutdown.clone()).await.unwrap();
        let deleted = async {
            let mut check = tokio::time::interval(Duration::from_millis(20));
            while is_stored(&store, "old", days_ago).await {
                check.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), deleted).await.expect("the expired response stays");
        assert!(is_stored(&store, "new", now).await);
        shutdown.request();
        shutdown.finish(Duration::from_secs(10)).await;
        drop(running);
    }
}
