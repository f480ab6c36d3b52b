//! From a token to an identity, over the Manager's own enrollment endpoint.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator::join::ClusterFacts;
use kubenova_operator::join::enroll::{self, Attempt};
use kubenova_operator::join::identity::{Identity, Keys};
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::backoff::Backoff;
use kubenova_runtime::{random, tls};
use kubenova_schema::token::EnrollmentToken;

/// How long a cluster tries to reach the Manager.
const ENROLLED_WITHIN: Duration = Duration::from_secs(60);
const KUBERNETES_VERSION: &str = "v1.0.0-simulated";

/// Enrolls a cluster with keys of its own. Fails at once when the Manager refuses.
pub async fn enroll(token: &str) -> Result<Identity> {
    Ok(enroll_counting(token).await?.0)
}

/// The same, with how often it asked: a Manager that is busy has not decided.
pub(crate) async fn enroll_counting(token: &str) -> Result<(Identity, u32)> {
    tls::install_provider();
    let decoded = EnrollmentToken::decode(token)?;
    let keys = Keys::make(token, &random::uuid_v4().to_string())?;
    let facts = ClusterFacts {
        cluster_uid: keys.cluster_uid.clone(),
        kubernetes_version: KUBERNETES_VERSION.to_owned(),
        nodes: None,
    };
    let dialer = Dialer::default();
    let attempt = Attempt { token: &decoded, keys: &keys, facts: &facts, dialer: &dialer, in_use: None };
    let request = attempt.request()?;
    let endpoint = decoded.endpoints.first().context("the token names no endpoint")?;
    // A Manager that many clusters join at once may not answer in time; the same keys get their answer again.
    let mut conditions = ConditionSet::new();
    let (begun, mut backoff, mut asked) = (Instant::now(), Backoff::default(), 0);
    loop {
        asked += 1;
        let sent = enroll::send(endpoint, &attempt, &request, &mut conditions);
        match sent.await.and_then(|answered| answered.answer) {
            Ok(answer) => return Ok((Identity::replacing(None, keys, answer), asked)),
            Err(error) if error.condition == condition::TOKEN_ACCEPTED || begun.elapsed() > ENROLLED_WITHIN => {
                bail!("{}: {}", error.reason, error.message)
            }
            Err(_) => tokio::time::sleep(backoff.next_wait()).await,
        }
    }
}
