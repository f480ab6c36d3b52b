//! After the join: a changed token file is a new enrollment, without restarting the pod.
//!
//! Until the Manager has accepted the new token the identity in use stays; then the parts are started again with the new one.

use super::{
    ClusterFacts, Enrollment,
    conditions::{JoinError, StatusReporter},
    current::CurrentIdentity,
    enroll::APPROVAL_PENDING,
    identity::IdentityStore,
    read_token, secret_error, set_joined,
};
use crate::apiserver;
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::{backoff::Backoff, shutdown::Shutdown};
use kubenova_schema::signature::sha256_hex;
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;

/// Time between looks at the file; the kubelet itself takes up to a minute to write a changed Secret.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Waits between attempts that failed.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Pause before a token is shown again that the Manager refused: an administrator may have lifted what it was refused for.
const REFUSED_PAUSE: Duration = Duration::from_mins(10);

/// What watching the file needs.
#[derive(Debug)]
pub struct TokenFile {
    pub path: PathBuf,
    pub store: IdentityStore,
    pub identity: CurrentIdentity,
    pub facts: ClusterFacts,
    pub dialer: Dialer,
    pub reporter: StatusReporter,
}

/// A token that was refused, and when it is shown again.
struct Refused {
    sha256: String,
    until: Instant,
}

/// Resolves when a new token was accepted and its identity is stored; never with a stop.
pub async fn enrolled_again(file: TokenFile, shutdown: Shutdown) {
    let used = file.identity.get().keys.token_sha256.clone();
    let mut refused: Option<Refused> = None;
    let mut failed = false;
    let mut backoff = Backoff::between(WAITS.0, WAITS.1);
    let mut wait = LOOK_INTERVAL;
    while shutdown.sleep(wait).await {
        wait = LOOK_INTERVAL;
        // Without a file the token that was enrolled with is no longer needed.
        let new = read_token(&file.path).await.map(|token| (sha256_hex(token.as_bytes()), token));
        let Some((sha256, token)) = new.filter(|(sha256, _)| *sha256 != used) else {
            refused = None;
            backoff.reset();
            if std::mem::take(&mut failed) {
                file.report_joined().await;
            }
            continue;
        };
        if refused.as_ref().is_some_and(|it| it.sha256 == sha256 && Instant::now() < it.until) {
            continue;
        }
        let mut found = ConditionSet::new();
        match file.enroll(&token, &mut found).await {
            Ok(()) => {
                tracing::info!("enrolled with the new token; starting again with the new identity");
                return;
            }
            Err(error) => {
                failed = true;
                file.report_failure(found, &error).await;
                // One that waits for approval is shown again soon: it is good.
                if error.condition == condition::TOKEN_ACCEPTED && error.reason != APPROVAL_PENDING {
                    refused = Some(Refused { sha256, until: Instant::now() + REFUSED_PAUSE });
                } else {
                    wait = backoff.next_wait();
                }
            }
        }
    }
    std::future::pending::<()>().await;
}

impl TokenFile {
    async fn enroll(&self, token: &str, found: &mut ConditionSet) -> Result<(), JoinError> {
        let stored = self.store.read().await.map_err(|error| secret_error("read", &error))?;
        let identity = self.identity.get();
        let (store, facts, dialer) = (&self.store, &self.facts, &self.dialer);
        Enrollment { store, facts, dialer, in_use: Some(&identity) }.run(stored, token, found).await.map(drop)
    }

    async fn report_failure(&self, mut found: ConditionSet, error: &JoinError) {
        let JoinError { condition, reason, message } = error;
        tracing::warn!(
            condition,
            reason,
            detail = message,
            "could not enroll with the new token; the identity in use stays"
        );
        found.set_false(condition, reason, format!("the new token: {message}; the identity in use stays"));
        self.report(&found).await;
    }

    /// The token that was enrolled with is in the file again, or none.
    async fn report_joined(&self) {
        let mut found = ConditionSet::new();
        set_joined(&mut found);
        self.report(&found).await;
    }

    async fn report(&self, found: &ConditionSet) {
        if let Err(error) = self.reporter.report(found).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write the join's conditions");
        }
    }
}
