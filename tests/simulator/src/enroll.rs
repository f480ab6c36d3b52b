//! From a token to an identity, over the Manager's own enrollment endpoint.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use kubenova_bus::{Credentials, Settings};
use kubenova_operator::join::enroll;
use kubenova_operator::join::identity::{Identity, Keys};
use kubenova_runtime::backoff::Backoff;
use kubenova_runtime::{random, tls};
use kubenova_schema::subjects;
use kubenova_schema::token::EnrollmentToken;

/// How long a cluster tries to reach the Manager.
const ENROLLED_WITHIN: Duration = Duration::from_secs(60);
const KUBERNETES_VERSION: &str = "v1.0.0-simulated";

/// Enrolls a cluster with keys of its own.
pub(crate) async fn enroll(token: &str) -> Result<Identity> {
    tls::install_provider();
    let decoded = EnrollmentToken::decode(token)?;
    let keys = Keys::make(token, &random::uuid_v4().to_string())?;
    let request = enroll::request(&decoded, &keys, KUBERNETES_VERSION)?;
    let endpoint = decoded.endpoints.first().context("the token names no endpoint")?;
    // A Manager that many clusters join at once may not answer in time; the same keys get their answer again.
    let (begun, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        match enroll::send(endpoint, &decoded, &request).await {
            Ok(answered) => {
                let answer = answered.answer.map_err(|error| anyhow!("{}: {}", error.reason, error.message))?;
                return Ok(Identity { keys, answer });
            }
            Err(error) if begun.elapsed() > ENROLLED_WITHIN => bail!("{}", error.message),
            Err(_) => tokio::time::sleep(backoff.next_wait()).await,
        }
    }
}

/// How the cluster connects to the broker. The client library wants files; they lie in `folder`.
pub(crate) fn bus_settings(identity: &Identity, folder: &Path, ping_interval: Duration) -> Result<Settings> {
    let Identity { keys, answer } = identity;
    let folder = folder.join(&answer.cluster_id);
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let file = |name: &str, text: &str| -> Result<_> {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    };
    Ok(Settings {
        urls: answer.broker_urls.clone(),
        name: format!("kubenova-simulator {}", answer.cluster_id),
        ca_file: file("ca.crt", &answer.ca_bundle_pem)?,
        cert_file: file("tls.crt", &answer.certificate_chain_pem)?,
        key_file: file("tls.key", &keys.tls_key_pem)?,
        credentials: Credentials { user_jwt: answer.user_jwt.clone(), seed: keys.nkey_seed.clone() },
        inbox_prefix: Some(subjects::inbox_prefix(&answer.cluster_id)),
        api_prefix: Some(subjects::API_PREFIX.to_owned()),
        ping_interval,
    })
}
