//! How the cluster joins: from a token to an identity, one condition after the other.
//!
//! Each thing that can be wrong has its own reason within 30 s, and is tried again after growing waits. A stored identity
//! is used again at every start without contacting the Manager. Afterwards `keep` renews its credentials, and `token_file` enrolls
//! again when the token changes; until the Manager has accepted that, the stored identity stays in use. After this: `session`.

pub mod conditions;
pub mod current;
pub mod enroll;
mod https;
pub mod identity;
pub mod keep;
pub mod pinned;
pub mod reach;
pub mod renew;
pub mod token_file;

use crate::{
    apiserver::{self, client::Apiserver, server},
    settings::Settings,
};
use conditions::{JoinError, StatusReporter};
use enroll::Attempt;
use identity::{Identity, IdentityStore, Keys, StoredIdentity};
use jiff::Timestamp;
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::{clock, failpoint, retry::Retry, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, EnrollmentRequest},
    signature::sha256_hex,
    token::EnrollmentToken,
};
use std::{path::Path, time::Duration};

/// Waits between attempts to join: at least a second, since each makes the Manager work.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What is known of the cluster before it joins.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    pub kubernetes_version: String,
    /// How many nodes it has; none when that is not known.
    pub nodes: Option<u32>,
}

/// Why the Operator cannot start to join.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Without this kind not even the failure could be reported.
    #[error("CRD novaclusterconfigs.kubenova.io is missing; install the kubenova-operator chart, which contains it")]
    CrdMissing,
}

/// Waits until the API server answers and our kinds are installed. `None` when a stop was requested first.
pub async fn prepare(apiserver: &Apiserver, shutdown: &Shutdown) -> Result<Option<ClusterFacts>, PrepareError> {
    let reporter = StatusReporter::new(apiserver);
    let attempt = || async {
        match read_facts(apiserver, &reporter).await {
            Ok(facts) => Ok(Ok(facts)),
            Err(error) if error.is_not_found() => Ok(Err(PrepareError::CrdMissing)),
            Err(error) => Err(error),
        }
    };
    Retry::new("read the cluster's identity").until_ok(shutdown, attempt).await.transpose()
}

async fn read_facts(apiserver: &Apiserver, reporter: &StatusReporter) -> Result<ClusterFacts, apiserver::Error> {
    let facts = ClusterFacts {
        cluster_uid: server::cluster_uid(apiserver).await?,
        kubernetes_version: server::version(apiserver).await?,
        nodes: server::node_count(apiserver).await,
    };
    reporter.open().await?;
    Ok(facts)
}

/// Joins, or uses the stored identity. `None` when a stop was requested first.
pub async fn run(
    apiserver: &Apiserver,
    settings: &Settings,
    facts: &ClusterFacts,
    shutdown: &Shutdown,
) -> Option<Identity> {
    let store = IdentityStore::new(apiserver, &settings.state_namespace);
    let reporter = StatusReporter::new(apiserver);
    let attempt = || async {
        let mut conditions = ConditionSet::new();
        let joined = join(&store, settings, facts, &mut conditions).await;
        if let Err(error) = &joined {
            conditions::set_not_joined(&mut conditions, error);
        }
        report(&reporter, &conditions, joined.as_ref().ok()).await;
        joined
    };
    Retry::new("join the cluster").backoff(WAITS.0, WAITS.1).until_ok(shutdown, attempt).await
}

async fn report(reporter: &StatusReporter, conditions: &ConditionSet, joined: Option<&Identity>) {
    let mut reported = reporter.report(conditions).await;
    if let (Ok(()), Some(identity)) = (&reported, joined) {
        reported = reporter.report_identity(identity.cluster_id(), &identity.answer.expires_at).await;
    }
    if let Err(error) = reported {
        tracing::warn!(error = %apiserver::error::chain(&error), "could not write the join's conditions");
    }
}

/// One attempt, from the beginning.
async fn join(
    store: &IdentityStore,
    settings: &Settings,
    facts: &ClusterFacts,
    conditions: &mut ConditionSet,
) -> Result<Identity, JoinError> {
    let stored = store.read().await.map_err(|error| secret_error("read", &error))?;
    let usable = stored.current.clone().filter(|identity| identity.cluster_uid() == facts.cluster_uid);
    // A new token is enrolled with while the stored identity is in use: `token_file`.
    if let Some(identity) = usable {
        set_joined(conditions);
        set_stored(conditions, &identity, clock::now());
        return Ok(identity);
    }
    let text = read_token(&settings.token_file).await.ok_or_else(|| {
        let message = "there is no enrollment token; install the chart with --set-file enrollment.token=<file>";
        JoinError::new(condition::TOKEN_ACCEPTED, "TokenMissing", message)
    })?;
    let enrollment = Enrollment { store, facts, dialer: &settings.dialer, in_use: None };
    enrollment.run(stored, &text, conditions).await
}

/// The steps of an enrollment that was completed earlier. The clock is left out: every hello measures it.
fn set_joined(conditions: &mut ConditionSet) {
    for (step, message) in [
        (
            condition::DNS_RESOLVED,
            "the Manager's name resolved at enrollment; it is needed to enroll and to renew credentials",
        ),
        (
            condition::ENDPOINT_REACHABLE,
            "the Manager's endpoint answered at enrollment; it is needed to enroll and to renew credentials",
        ),
        (condition::TLS_VERIFIED, "the Manager's certificate verified at enrollment under the CA pinned by the token"),
        (condition::TOKEN_ACCEPTED, "the Manager accepted the enrollment token; it is not needed again"),
    ] {
        conditions.set_true(step, "Enrolled", message);
    }
}

/// How long the stored credentials last.
fn set_stored(conditions: &mut ConditionSet, identity: &Identity, now: Timestamp) {
    let expires_at = &identity.answer.expires_at;
    if identity.life().is_some_and(|life| life.has_ended(now)) {
        let message =
            format!("certificate and broker credentials expired at {expires_at}; asking the Manager for new ones");
        conditions.set_false(condition::IDENTITY_ISSUED, "Expired", message);
    } else {
        let message =
            format!("certificate and broker credentials are stored, valid until {expires_at}, and are renewed before");
        conditions.set_true(condition::IDENTITY_ISSUED, "Stored", message);
    }
}

async fn read_token(file: &Path) -> Option<String> {
    let text = tokio::fs::read_to_string(file).await.ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What an enrollment needs beside the token.
struct Enrollment<'a> {
    store: &'a IdentityStore,
    facts: &'a ClusterFacts,
    dialer: &'a Dialer,
    /// The identity in use, where there is one.
    in_use: Option<&'a Identity>,
}

impl Enrollment<'_> {
    async fn run(
        &self,
        stored: StoredIdentity,
        text: &str,
        conditions: &mut ConditionSet,
    ) -> Result<Identity, JoinError> {
        let token = EnrollmentToken::decode(text)
            .map_err(|error| JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", error.to_string()))?;
        let (stored, keys) = pending_keys(self.store, stored, text, &self.facts.cluster_uid).await?;
        failpoint::passing("join.keys-stored");
        let attempt =
            Attempt { token: &token, keys: &keys, facts: self.facts, dialer: self.dialer, in_use: self.in_use };
        let answer = request(&attempt, conditions).await?;
        if answer.cluster_id != token.cluster_id {
            let message = format!(
                "the Manager answered for cluster \"{}\", but the token is for \"{}\"; create a new token",
                answer.cluster_id, token.cluster_id
            );
            return Err(JoinError::new(condition::IDENTITY_ISSUED, "OtherCluster", message));
        }
        failpoint::passing("join.answered");
        let identity = Identity::replacing(stored.current.as_ref(), keys, answer);
        let written = self.store.store_answer(stored, identity.clone()).await;
        written.map_err(|error| secret_error("write", &error))?;
        let message = format!("certificate and broker credentials are valid until {}", identity.answer.expires_at);
        conditions.set_true(condition::IDENTITY_ISSUED, "Issued", message);
        Ok(identity)
    }
}

/// The keys to enroll with, stored before the Manager sees them: an answer that got lost is given again only for the
/// same keys.
async fn pending_keys(
    store: &IdentityStore,
    stored: StoredIdentity,
    token: &str,
    cluster_uid: &str,
) -> Result<(StoredIdentity, Keys), JoinError> {
    let sha256 = sha256_hex(token.as_bytes());
    let made_for_this = |keys: &&Keys| keys.token_sha256 == sha256 && keys.cluster_uid == cluster_uid;
    if let Some(keys) = stored.pending.as_ref().filter(made_for_this).cloned() {
        return Ok((stored, keys));
    }
    let keys = Keys::make(token, cluster_uid).map_err(|error| keys_error(&error))?;
    let stored = store.store_pending(stored, keys.clone()).await.map_err(|error| secret_error("write", &error))?;
    Ok((stored, keys))
}

fn keys_error(error: &identity::MakeError) -> JoinError {
    let message = format!(
        "could not make or read this cluster's keys: {}; delete the Secret {} and enroll with a new token",
        telemetry::chain(error),
        identity::SECRET
    );
    JoinError::new(condition::IDENTITY_ISSUED, "KeysFailed", message)
}

fn secret_error(verb: &str, error: &apiserver::Error) -> JoinError {
    if error.is_conflict() {
        let message = format!("the Secret {} was changed meanwhile; trying again", identity::SECRET);
        return JoinError::new(condition::IDENTITY_ISSUED, "SecretChanged", message);
    }
    let message = format!(
        "could not {verb} the Secret {}: {}; check the API server and the Operator's roles",
        identity::SECRET,
        apiserver::error::chain(error)
    );
    JoinError::new(condition::IDENTITY_ISSUED, "SecretUnavailable", message)
}

/// Sends the enrollment request to the token's endpoints in order. The error of the endpoint that got furthest is shown.
async fn request(attempt: &Attempt<'_>, conditions: &mut ConditionSet) -> Result<EnrollmentAnswer, JoinError> {
    let request = attempt.request().map_err(|error| keys_error(&error))?;
    let mut furthest = None;
    for endpoint in &attempt.token.endpoints {
        let mut found = ConditionSet::new();
        match request_from(endpoint, attempt, &request, &mut found).await {
            Ok(answer) => {
                *conditions = found;
                return Ok(answer);
            }
            Err(error) => conditions::keep_furthest(&mut furthest, error, found),
        }
    }
    let Some((error, found)) = furthest else {
        let message = "the token names no endpoint of the Manager; create a new token";
        return Err(JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", message));
    };
    *conditions = found;
    Err(error)
}

async fn request_from(
    endpoint: &str,
    attempt: &Attempt<'_>,
    request: &EnrollmentRequest,
    conditions: &mut ConditionSet,
) -> Result<EnrollmentAnswer, JoinError> {
    let answered = enroll::send(endpoint, attempt, request, conditions).await?;
    conditions.set_true(condition::TLS_VERIFIED, "Pinned", enroll::PINNED);
    conditions::set_clock(conditions, answered.clock_offset_ms);
    let answer = answered.answer?;
    conditions.set_true(condition::TOKEN_ACCEPTED, "Accepted", "the Manager accepted the enrollment token");
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_identity_explains_each_condition_in_its_own_words() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let answer = EnrollmentAnswer {
            issued_at: "2029-01-01T00:00:00Z".into(),
            expires_at: "2030-01-01T00:00:00Z".into(),
            ..identity::tests::answer(&[])
        };
        let mut conditions = ConditionSet::new();
        set_joined(&mut conditions);
        let identity = Identity::replacing(None, keys, answer);
        set_stored(&mut conditions, &identity, "2029-12-31T00:00:00Z".parse().unwrap());
        let messages: std::collections::BTreeSet<&str> =
            conditions.iter().map(|update| update.message.as_str()).collect();
        assert_eq!(messages.len(), 5);
        assert!(conditions.get(condition::CLOCK_IN_SYNC).is_none());
        assert!(conditions.get(condition::IDENTITY_ISSUED).unwrap().message.contains("2030-01-01"));
        set_stored(&mut conditions, &identity, "2030-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(conditions.get(condition::IDENTITY_ISSUED).unwrap().reason, "Expired");
    }
}
