//! How the cluster joins: from a token to an identity, one condition after the other.
//!
//! Each thing that can be wrong has its own reason within 30 s, and is tried again with growing pauses. A stored
//! identity is used again at every start, without asking anybody; a fresh token makes a new one, and until the Manager
//! has accepted it the old one stays in use. After this: `session`.

pub mod conditions;
pub mod enroll;
pub mod identity;
pub mod pinned;
pub mod reach;

use crate::{
    apiserver::{self, client::Apiserver, server},
    settings::Settings,
};
use conditions::{ConditionSet, JoinError, StatusReporter};
use identity::{Identity, IdentityStore, Keys, StoredIdentity};
use kubenova_crds::cluster_config::condition;
use kubenova_runtime::{backoff, failpoint, shutdown::Shutdown, telemetry};
use kubenova_schema::{enrollment::EnrollmentAnswer, signature::sha256_hex, token::EnrollmentToken};
use reach::url_parts::HostPort;
use std::{path::Path, time::Duration};

/// Clocks that differ by more make certificates, tokens and deadlines unreliable.
const CLOCK_TOLERANCE_MS: i64 = 30_000;

/// What is known of the cluster before it joins.
#[derive(Debug, Clone)]
pub struct Here {
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// Version of the API server.
    pub kubernetes_version: String,
}

/// The join cannot be reported, because the kind that carries its conditions is missing.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Our own kinds are not installed.
    #[error("CRD novaclusterconfigs.kubenova.io is missing; install the Operator's chart, which brings it")]
    CrdMissing,
}

/// Waits until the API server answers and our kinds are there.
///
/// # Errors
/// When the CRDs are missing.
pub async fn prepare(apiserver: &Apiserver, shutdown: &Shutdown) -> Result<Option<Here>, PrepareError> {
    let reporter = StatusReporter::new(apiserver);
    for wait in backoff::forever() {
        match read_here(apiserver, &reporter).await {
            Ok(here) => return Ok(Some(here)),
            Err(error) if error.is_not_found() => return Err(PrepareError::CrdMissing),
            Err(error) => {
                tracing::warn!(error = %apiserver::error::chain(&error), "could not read the cluster; trying again");
            }
        }
        if pause(shutdown, wait).await.is_none() {
            break;
        }
    }
    Ok(None)
}

async fn read_here(apiserver: &Apiserver, reporter: &StatusReporter) -> Result<Here, apiserver::Error> {
    let here = Here {
        cluster_uid: server::cluster_uid(apiserver).await?,
        kubernetes_version: server::version(apiserver).await?,
    };
    reporter.open().await?;
    Ok(here)
}

/// Joins, or uses the identity that is stored. `None` when a stop was asked for first.
pub async fn run(apiserver: &Apiserver, settings: &Settings, here: &Here, shutdown: &Shutdown) -> Option<Identity> {
    let vault = IdentityStore::new(apiserver, &settings.state_namespace);
    let reporter = StatusReporter::new(apiserver);
    for wait in backoff::forever() {
        let mut conditions = ConditionSet::default();
        let joined = attempt(&vault, settings, here, &mut conditions).await;
        if let Err(fault) = &joined {
            conditions.stopped(fault);
        }
        if let Err(error) = reporter.tell(&conditions).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write the join's conditions");
        }
        if let Ok(identity) = joined {
            if let Err(error) = reporter.facts(identity.cluster_id(), &identity.answer.expires_at).await {
                tracing::warn!(error = %apiserver::error::chain(&error), "could not write the cluster's id into its status");
            }
            return Some(identity);
        }
        pause(shutdown, wait.max(Duration::from_secs(1))).await?;
    }
    None
}

async fn pause(shutdown: &Shutdown, wait: Duration) -> Option<()> {
    tokio::select! {
        () = shutdown.requested() => None,
        () = tokio::time::sleep(wait) => Some(()),
    }
}

/// One attempt, from the beginning.
async fn attempt(
    vault: &IdentityStore,
    settings: &Settings,
    here: &Here,
    conditions: &mut ConditionSet,
) -> Result<Identity, JoinError> {
    let stored = |error: apiserver::Error| {
        JoinError::new(
            condition::IDENTITY_ISSUED,
            "SecretUnavailable",
            format!("could not use the Secret kubenova-identity: {}", apiserver::error::chain(&error)),
        )
    };
    let kept = vault.read().await.map_err(stored)?;
    let usable = kept.current.clone().filter(|identity| identity.cluster_uid() == here.cluster_uid);
    let text = read_token(&settings.token_file).await;
    let fresh = match (&usable, &text) {
        (Some(identity), Some(text)) => identity.keys.token_sha256 != sha256_hex(text.as_bytes()),
        (Some(_), None) => false,
        (None, _) => true,
    };
    if let (Some(identity), false) = (&usable, fresh) {
        return Ok(reuse(identity, conditions));
    }
    match enroll(vault, kept, text.as_deref(), here, conditions).await {
        Ok(identity) => Ok(identity),
        Err(fault) => match usable {
            // A fresh token that does not work must not take a working cluster offline.
            Some(identity) => {
                tracing::warn!(
                    condition = fault.condition,
                    reason = fault.reason,
                    message = fault.message,
                    "could not enroll with the fresh token; the stored identity stays in use"
                );
                Ok(reuse(&identity, conditions))
            }
            None => Err(fault),
        },
    }
}

fn reuse(identity: &Identity, conditions: &mut ConditionSet) -> Identity {
    let message = "an identity from an earlier enrollment is stored";
    for step in [
        condition::DNS_RESOLVED,
        condition::ENDPOINT_REACHABLE,
        condition::TLS_VERIFIED,
        condition::CLOCK_IN_SYNC,
        condition::TOKEN_ACCEPTED,
        condition::IDENTITY_ISSUED,
    ] {
        conditions.passed(step, "Enrolled", message);
    }
    identity.clone()
}

async fn read_token(file: &Path) -> Option<String> {
    let text = tokio::fs::read_to_string(file).await.ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

async fn enroll(
    vault: &IdentityStore,
    kept: StoredIdentity,
    text: Option<&str>,
    here: &Here,
    conditions: &mut ConditionSet,
) -> Result<Identity, JoinError> {
    let Some(text) = text else {
        let message = "no enrollment token is there; install the chart with --set enrollment.token=kn1.…";
        return Err(JoinError::new(condition::TOKEN_ACCEPTED, "TokenMissing", message));
    };
    let token = EnrollmentToken::decode(text)
        .map_err(|error| JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", error.to_string()))?;
    let sha256 = sha256_hex(text.as_bytes());
    let (kept, keys) = match &kept.pending {
        Some(keys) if keys.token_sha256 == sha256 && keys.cluster_uid == here.cluster_uid => {
            let keys = keys.clone();
            (kept, keys)
        }
        _ => {
            let keys = Keys::make(text, &here.cluster_uid).map_err(keys_fault)?;
            let kept = vault.store_pending(kept, keys.clone()).await.map_err(|error| secret_fault(&error))?;
            (kept, keys)
        }
    };
    failpoint::passing("join.keys-stored");
    let answer = ask(&token, &keys, here, conditions).await?;
    if answer.cluster_id != token.cluster_id {
        let message = format!(
            "the Manager answered for cluster \"{}\", the token is for \"{}\"",
            answer.cluster_id, token.cluster_id
        );
        return Err(JoinError::new(condition::IDENTITY_ISSUED, "OtherCluster", message));
    }
    failpoint::passing("join.answered");
    let identity = Identity { keys, answer };
    vault.store_answer(kept, identity.clone()).await.map_err(|error| secret_fault(&error))?;
    conditions.passed(
        condition::IDENTITY_ISSUED,
        "Issued",
        format!("certificate and broker credentials until {}", identity.answer.expires_at),
    );
    Ok(identity)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn keys_fault(error: identity::MakeError) -> JoinError {
    JoinError::new(
        condition::IDENTITY_ISSUED,
        "KeysFailed",
        format!("could not make or use this cluster's keys: {}", telemetry::chain(&error)),
    )
}

fn secret_fault(error: &apiserver::Error) -> JoinError {
    let message = format!("could not store this cluster's keys: {}", apiserver::error::chain(error));
    JoinError::new(condition::IDENTITY_ISSUED, "SecretUnavailable", message)
}

/// Asks the endpoints in order; the fault of the one that got furthest is shown.
async fn ask(
    token: &EnrollmentToken,
    keys: &Keys,
    here: &Here,
    conditions: &mut ConditionSet,
) -> Result<EnrollmentAnswer, JoinError> {
    let request = enroll::request(token, keys, &here.kubernetes_version).map_err(keys_fault)?;
    let mut furthest: Option<(JoinError, ConditionSet)> = None;
    for endpoint in &token.endpoints {
        let mut told = ConditionSet::default();
        match ask_one(endpoint, token, &request, &mut told).await {
            Ok(answer) => {
                *conditions = told;
                return Ok(answer);
            }
            Err(fault) => {
                if furthest.as_ref().is_none_or(|(known, _)| fault.step() > known.step()) {
                    furthest = Some((fault, told));
                }
            }
        }
    }
    let (fault, told) = furthest.unwrap_or_else(|| {
        (
            JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", "the token names no endpoint; get a new one"),
            ConditionSet::default(),
        )
    });
    *conditions = told;
    Err(fault)
}

async fn ask_one(
    endpoint: &str,
    token: &EnrollmentToken,
    request: &kubenova_schema::enrollment::EnrollmentRequest,
    conditions: &mut ConditionSet,
) -> Result<EnrollmentAnswer, JoinError> {
    let Some(target) = HostPort::parse(endpoint) else {
        return Err(JoinError::new(
            condition::TOKEN_ACCEPTED,
            "TokenUnreadable",
            format!("\"{endpoint}\" in the token is no https:// URL; get a new one"),
        ));
    };
    let (addresses, reason) = reach::resolve(&target).await?;
    conditions.passed(condition::DNS_RESOLVED, reason, format!("{} is {}", target.host, join(&addresses)));
    reach::connect(&target, &addresses).await?;
    conditions.passed(
        condition::ENDPOINT_REACHABLE,
        "Connected",
        format!("TCP {}:{} answers", target.host, target.port),
    );
    let answered = enroll::ask(endpoint, token, request).await?;
    conditions.passed(
        condition::TLS_VERIFIED,
        "Pinned",
        "the Manager's certificate verifies under the CA that the token pins",
    );
    tell_clock(answered.clock_offset_ms, conditions);
    let answer = answered.answer?;
    conditions.passed(condition::TOKEN_ACCEPTED, "Accepted", "the Manager accepted the token");
    Ok(answer)
}

fn join(addresses: &[std::net::SocketAddr]) -> String {
    addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ")
}

/// Says how the clocks agree, as measured at enrollment or at the last hello.
pub(crate) fn tell_clock(offset_ms: Option<i64>, conditions: &mut ConditionSet) {
    match offset_ms {
        Some(offset) if offset.abs() > CLOCK_TOLERANCE_MS => {
            let message = format!(
                "this cluster's clock differs from the Manager's by {} s; mend the node's time synchronization",
                offset / 1000
            );
            conditions.warned(condition::CLOCK_IN_SYNC, "ClockSkewed", message);
        }
        Some(offset) => conditions.passed(
            condition::CLOCK_IN_SYNC,
            "InSync",
            format!("within {} s of the Manager's clock", offset.abs() / 1000 + 1),
        ),
        None => conditions.passed(condition::CLOCK_IN_SYNC, "NotTold", "the Manager did not tell its time"),
    }
}
