//! Links committed audit records into the hash chain.
//!
//! Several Managers may run it: one of them links, the others pass. The chain's head goes to the log, which is kept elsewhere:
//! whoever changes the chain as a whole cannot change what was logged. Before it: `manager/store/src/audit.rs`. After it:
//! `kubenova-manager audit verify`.

use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{
    audit_chain::{self, Linked},
    connection::Connection,
    error::StoreError,
    pool::Store,
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time between two rounds: until then a record that was committed can be changed unnoticed.
const EVERY: Duration = Duration::from_secs(1);
/// Records linked in one transaction: some ten milliseconds.
const BATCH: i64 = 1000;
/// Time between two heads in the log.
const HEAD_LOGGED_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Links until a stop is requested.
pub async fn run(store: Store, shutdown: Shutdown) {
    let logged = Mutex::new(None);
    let round = || async {
        let Some(linked) = round(&store).await? else { return Ok(Next::Wait) };
        log_head(&mut logged.lock().unwrap_or_else(PoisonError::into_inner), &linked, clock::now());
        Ok::<_, StoreError>(next(&linked))
    };
    Periodic::new("link audit records", EVERY).run(&shutdown, round).await;
}

/// None when there is nothing to link, or another Manager does it.
async fn round(store: &Store) -> Result<Option<Linked>, StoreError> {
    if !audit_chain::is_pending(&mut *store.acquire().await?).await? {
        return Ok(None);
    }
    let link = async |tx: &mut Connection| audit_chain::link(tx, BATCH).await;
    store.transaction("link audit records", link).await
}

fn next(linked: &Linked) -> Next {
    if i64::try_from(linked.records).is_ok_and(|records| records < BATCH) { Next::Wait } else { Next::AtOnce }
}

fn log_head(logged: &mut Option<Timestamp>, linked: &Linked, now: Timestamp) {
    if logged.is_some_and(|last| now.duration_since(last) < HEAD_LOGGED_EVERY) {
        return;
    }
    *logged = Some(now);
    tracing::info!(head = %linked.head, "head of the audit log, for kubenova-manager audit verify --expect-head");
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_test_postgres::Database;

    #[tokio::test]
    async fn a_round_that_filled_its_batch_is_followed_at_once() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        assert_eq!(round(&store).await.unwrap(), None);
        database
            .execute(
                "insert into audit_pending (at, subject, role, action, target)
                 select now(), 'ann', 'ops', 'writeTenants/create', 'tenant/' || n from generate_series(1, 1001) n",
            )
            .await;
        let first = round(&store).await.unwrap().unwrap();
        assert_eq!((first.records, next(&first)), (1000, Next::AtOnce));
        let second = round(&store).await.unwrap().unwrap();
        assert_eq!((second.head.position, next(&second)), (1001, Next::Wait));
    }
}
