//! Account JWTs: what the broker's accounts allow and whom they shut out, signed when it changes and pushed to every server until each
//! has it.
//!
//! Postgres is the truth: a server that was restored, wiped or added gets its JWTs again when the Manager connects, when the server is
//! seen for the first time, and every minute. A revocation is in force once all servers answered; until then a cluster is `revoking`.
//!
//! Before it: `store/revocations.rs`. After it: the broker ends the connections of who was revoked.

use crate::key_changes::stored_fingerprint;
use futures::StreamExt as _;
use jiff::Timestamp;
use kubenova_bus::{
    Connection,
    servers::{self, AccountInEffect, AskError, ServerPing},
};
use kubenova_core::account_rollout::{self, Answers, InEffect, Server};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    retry::Retry,
    shutdown::Shutdown,
    signal::Signal,
};
use kubenova_schema::subjects;
use kubenova_store::{
    account_jwts::{self, AccountRow},
    cluster_trust,
    connection::Connection as Database,
    error::StoreError,
    pool::Store,
    revocations::{self, InForce},
    sessions,
};
use kubenova_trust::{
    TrustError,
    current::CurrentKeyring,
    keyring::Keyring,
    nats::{AccountJwt, Revocations, SignedAccount},
};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Time between two looks for new revocations: revoking a cluster must end its connections within five seconds.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two rollouts without a reason.
const EVERY: Duration = Duration::from_secs(60);
/// Ids of servers that are remembered.
const KNOWN_MAX: usize = 10_000;
/// Waits after a rollout that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What the rollout needs.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// Postgres.
    pub store: Store,
    /// Signs the JWTs.
    pub keyring: CurrentKeyring,
    /// The Manager's connection in the system account.
    pub connection: Connection,
    /// Servers of the broker that lacked a JWT when they were asked last.
    pub servers_behind: Gauge,
}

/// Why a rollout could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// Postgres does not answer.
    #[error("could not read or write the account JWTs")]
    Store(#[from] StoreError),
    /// A JWT could not be signed.
    #[error("could not sign an account JWT")]
    Sign(#[from] TrustError),
    /// Signing with former keys would take back what a Manager with the new ones has signed.
    #[error("the keys in the database are others than those that this process has; it reads them again")]
    OtherKeys,
    /// The connection to the broker takes nothing.
    #[error("could not ask the servers of the broker")]
    Ask(#[from] AskError),
}

/// The JWTs of this moment, and the revocations that they carry.
#[derive(Debug)]
pub struct Current {
    /// Every account's.
    pub accounts: Vec<AccountJwt>,
    in_force: InForce,
    /// Names of those that were signed just now.
    fresh: BTreeSet<&'static str>,
}

/// Signs what has changed, in a transaction of its own.
///
/// # Errors
/// When Postgres does not answer, or a JWT cannot be signed.
pub async fn current(store: &Store, keyring: &Keyring) -> Result<Current, RolloutError> {
    // Dated by Postgres, as sessions are: a Manager whose clock is ahead would drop revocations that are needed.
    let signing = async |tx: &mut Database| {
        let now = sessions::database_time(tx).await?;
        sign(tx, keyring, now).await
    };
    store.transaction("sign account JWTs", signing).await
}

async fn sign(tx: &mut Database, keyring: &Keyring, now: Timestamp) -> Result<Current, RolloutError> {
    let kept: BTreeMap<String, SignedAccount> = account_jwts::lock(tx).await?.into_iter().map(kept).collect();
    if stored_fingerprint(tx).await? != keyring.fingerprint {
        return Err(RolloutError::OtherKeys);
    }
    revocations::delete_expired(tx, now).await?;
    let in_force = revocations::in_force(tx).await?;
    let of = |account: &str| in_force.get(account).cloned().unwrap_or_default();
    let carried = Revocations { edge: of("EDGE"), bill: of("BILL"), ops: of("OPS") };
    let accounts = keyring.nkeys.account_jwts(&carried, &kept, now)?;
    let mut fresh = BTreeSet::new();
    for account in accounts.iter().filter(|account| kept.get(account.name) != Some(&account.signed)) {
        account_jwts::store(tx, &row(account)).await?;
        fresh.insert(account.name);
    }
    Ok(Current { accounts, in_force, fresh })
}

fn kept(row: AccountRow) -> (String, SignedAccount) {
    let AccountRow { account, claims_sha256, issued_at, jwt } = row;
    (account, SignedAccount { claims_sha256, issued_at, jwt })
}

fn row(account: &AccountJwt) -> AccountRow {
    let SignedAccount { claims_sha256, issued_at, jwt } = account.signed.clone();
    AccountRow { account: account.name.to_owned(), claims_sha256, issued_at, jwt }
}

/// Rolls out until a stop is requested. Several Managers at once push the same JWTs.
pub async fn run(accounts: Accounts, shutdown: Shutdown) {
    let due = Arc::new(Due::default());
    let seen = watch(&accounts.connection, accounts.keyring.clone(), &due, &shutdown);
    let rollouts = Periodic::new("give the broker's servers their account JWTs", LOOK)
        .backoff(RETRY.0, RETRY.1)
        .on_signal(Arc::clone(&due.wake))
        .run(&shutdown, || accounts.round(&due));
    tokio::join!(seen, rollouts);
}

/// When the next rollout is due without a new revocation.
#[derive(Debug, Default)]
struct Due {
    at: Mutex<Option<Instant>>,
    /// Since the last rollout began: what happens during one makes another.
    is_wanted: AtomicBool,
    wake: Arc<Notify>,
    /// What was logged last of each account, so that a server that is away for a day fills no disk.
    logged: Mutex<BTreeMap<&'static str, String>>,
}

impl Due {
    /// Whether a rollout is due, which begins with this question.
    fn take(&self) -> bool {
        let is_wanted = self.is_wanted.swap(false, Ordering::Relaxed);
        is_wanted || self.lock().is_none_or(|at| Instant::now() >= at)
    }

    fn after(&self, wait: Duration) {
        *self.lock() = Some(Instant::now() + wait);
    }

    fn now(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Logs which servers lack the JWT of an account, when others do than before.
    fn log(&self, account: &'static str, behind: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = logged.insert(account, behind.to_owned()).unwrap_or_default();
        if before == behind {
            return;
        }
        if behind.is_empty() {
            tracing::info!(account, "every server of the broker has the account's JWT again");
        } else {
            tracing::warn!(
                account,
                behind,
                "not every server of the broker has an account's JWT; trying again every second"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a rollout due after each signal.
async fn due_after(mut signal: impl Signal, due: &Due) {
    loop {
        signal.signaled().await;
        due.now();
    }
}

/// Makes a rollout due after each connect, when other keys are in use, and when a server reports that was not seen before.
async fn watch(connection: &Connection, keyring: CurrentKeyring, due: &Due, shutdown: &Shutdown) {
    let known = Mutex::new(BTreeSet::new());
    let receive = || async {
        let mut stats = connection.client.subscribe(subjects::servers::STATS).await?;
        while let Some(message) = stats.next().await {
            let Some(id) = servers::sender(&message) else { continue };
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            // Each start has another id; a broker that invents them is not remembered without end.
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            if known.insert(id) {
                due.now();
            }
        }
        Ok::<_, async_nats::SubscribeError>(())
    };
    let listen = Retry::new("subscribe to what the broker's servers say").keep_running(shutdown, receive);
    tokio::select! {
        () = shutdown.requested() => {}
        () = due_after(connection.connects.clone(), due) => {}
        () = due_after(keyring, due) => {}
        () = listen => {}
    }
}

impl Accounts {
    async fn round(&self, due: &Due) -> Result<Next, RolloutError> {
        let is_pending = revocations::is_pending(&mut *self.store.acquire().await?).await?;
        if !due.take() && !is_pending {
            return Ok(Next::Wait);
        }
        let current = current(&self.store, &self.keyring.get()).await?;
        // Before anything is waited for: a server that is away or slow delays the others no further.
        for account in current.accounts.iter().filter(|account| is_pending || current.fresh.contains(account.name)) {
            servers::send_account(&self.connection.client, &account.signed.jwt).await?;
        }
        let before = servers::ping(&self.connection.client).await?;
        let mut rollouts = Vec::new();
        for account in &current.accounts {
            rollouts.push((account, self.push(account, &before).await?));
        }
        let after = servers::ping(&self.connection.client).await?;
        let (mut behind, mut is_replaced) = (0, false);
        for (account, mut answers) in rollouts {
            answers.servers.extend(after.iter().map(server));
            match self.record(account, &current.in_force, &answers, due).await? {
                Some(count) => behind = behind.max(count),
                None => is_replaced = true,
            }
        }
        let revoked: Result<Vec<String>, StoreError> = self
            .store
            .transaction("settle revocations", async |tx| cluster_trust::settle_revoked(tx, clock::now()).await)
            .await;
        for cluster in revoked? {
            tracing::info!(cluster.id = cluster, "every server of the broker refuses the credentials of a cluster");
        }
        self.servers_behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        if is_replaced {
            // What was given to the servers just now is older than what another Manager has signed meanwhile.
            due.now();
            return Ok(Next::AtOnce);
        }
        due.after(if behind == 0 { EVERY } else { LOOK });
        Ok(Next::Wait)
    }

    /// Records what came of giving one account's JWT to every server. How many servers do not have it; none when another JWT has taken its
    /// place meanwhile.
    async fn record(
        &self,
        account: &AccountJwt,
        in_force: &InForce,
        answers: &Answers,
        due: &Due,
    ) -> Result<Option<usize>, RolloutError> {
        let behind = account_rollout::behind(answers);
        let description = account_rollout::describe(&behind);
        due.log(account.name, &description);
        let now = clock::now();
        let record = async |tx: &mut Database| {
            if !account_jwts::record_behind(tx, &row(account), &description, now).await? {
                return Ok(false);
            }
            if let Some(carried) = in_force.get(account.name).filter(|_| description.is_empty()) {
                revocations::mark_effective(tx, account.name, carried, now).await?;
            }
            Ok(true)
        };
        let recorded: Result<bool, StoreError> = self.store.transaction("record a rollout", record).await;
        Ok(recorded?.then_some(behind.len()))
    }

    /// Gives one account's JWT to every server, and asks each for the one that it uses.
    async fn push(&self, account: &AccountJwt, before: &[ServerPing]) -> Result<Answers, RolloutError> {
        let client = &self.connection.client;
        let mut ids: BTreeSet<String> = before.iter().map(|server| server.id.clone()).collect();
        let stored = servers::push_account(client, &account.signed.jwt, &ids).await?;
        ids.extend(stored.keys().cloned());
        let in_effect = servers::accounts_in_effect(client, &account.public, &ids).await?;
        let in_effect = in_effect.into_iter().map(|(id, jwt)| {
            let in_effect = match jwt {
                AccountInEffect::NotLoaded => InEffect::NotLoaded,
                AccountInEffect::Jwt(jwt) if jwt == account.signed.jwt => InEffect::Pushed,
                AccountInEffect::Jwt(_) => InEffect::Other,
            };
            (id, in_effect)
        });
        Ok(Answers { servers: before.iter().map(server).collect(), stored, in_effect: in_effect.collect() })
    }
}

fn server(ping: &ServerPing) -> Server {
    Server { id: ping.id.clone(), name: ping.name.clone(), known: ping.known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_comes_while_the_others_are_asked_is_asked_next() {
        let due = Due::default();
        assert!(due.take(), "at the start");
        due.after(EVERY);
        assert!(!due.take());
        due.now();
        assert!(due.take());
        // During this rollout, before it says when the next one is.
        due.now();
        due.after(EVERY);
        assert!(due.take());
        assert!(!due.take());
    }
}
