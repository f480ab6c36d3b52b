//! Issues what an enrollment and a renewal answer: certificate and user JWT of a cluster, and what it needs to use them.
//!
//! What a request asks to be does not matter: certificate and JWT contain what the cluster's record says.

use jiff::{SignedDuration, Timestamp};
use kubenova_core::refusal::{Reason, Refusal};
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::enrollment::EnrollmentAnswer;
use kubenova_store::identities::CredentialsLife;
use kubenova_trust::{TrustError, authority::Validity, current::CurrentKeyring, keyring::Keyring};
use std::{sync::Arc, time::Duration};

/// Longest signing request; one of an Operator has about 500 characters.
pub(crate) const SIGNING_REQUEST_LENGTH_MAX: usize = 8 * 1024;

/// Refuses a signing request that is too long to be one.
pub(crate) fn check_signing_request(csr_pem: &str) -> Result<(), Refusal> {
    if csr_pem.len() <= SIGNING_REQUEST_LENGTH_MAX {
        return Ok(());
    }
    let detail = format!("csrPem is longer than {SIGNING_REQUEST_LENGTH_MAX} bytes");
    Err(Refusal::at(Reason::EnrollmentRequestInvalid, "/csrPem", detail))
}

/// What identities are issued with.
#[derive(Debug, Clone)]
pub struct IdentityIssuer {
    /// Certificate authority and broker identities.
    pub keyring: CurrentKeyring,
    /// `tls://` URLs at which clusters reach the broker.
    pub broker_urls: Vec<String>,
    /// URLs at which leaf nodes of clusters reach the hub.
    pub leaf_urls: Vec<String>,
    /// `https://` URLs at which clusters reach the Manager.
    pub endpoints: Vec<String>,
    /// Life of a cluster's certificate.
    pub certificate_lifetime: Duration,
    /// Life of a cluster's user JWT.
    pub user_jwt_lifetime: Duration,
}

/// A user JWT with the keys that it was signed with: the rest of the answer is made with the same.
pub(crate) struct UserJwt {
    jwt: String,
    keyring: Arc<Keyring>,
}

/// Whose identity it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterIdentity<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) incarnation: i64,
    pub(crate) epoch: i64,
}

impl IdentityIssuer {
    /// How long what is issued lasts: until the first of certificate and JWT expires.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.certificate_lifetime.min(self.user_jwt_lifetime)
    }

    /// The user JWT for a public nkey that a cluster made.
    pub(crate) fn user_jwt(&self, cluster: &str, nkey_public: &str, now: Timestamp) -> Result<UserJwt, Refusal> {
        let validity = Validity { now, lifetime: self.user_jwt_lifetime };
        let keyring = self.keyring.get();
        let jwt =
            keyring.nkeys.cluster_user(cluster, nkey_public, validity).map_err(|error| not_certifiable(&error))?;
        Ok(UserJwt { jwt, keyring })
    }

    /// The whole answer, with a certificate for the key of this signing request, and the life of what it contains.
    pub(crate) fn answer(
        &self,
        of: &ClusterIdentity<'_>,
        csr_pem: &str,
        UserJwt { jwt: user_jwt, keyring }: UserJwt,
        now: Timestamp,
    ) -> Result<(EnrollmentAnswer, CredentialsLife), Refusal> {
        let incarnation = of.incarnation.to_string();
        let authority = &keyring.authority;
        let validity = Validity { now, lifetime: self.certificate_lifetime };
        let certificate_chain_pem =
            authority.cluster(csr_pem, of.cluster, &incarnation, validity).map_err(|error| not_certifiable(&error))?;
        // As the answer says it, so that both sides name the same times.
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let after = |life: Duration| {
            SignedDuration::try_from(life).ok().and_then(|life| now.checked_add(life).ok()).unwrap_or(now)
        };
        let life = CredentialsLife {
            issued_at: now,
            expires_at: after(self.life()),
            user_jwt_expires_at: after(self.user_jwt_lifetime),
        };
        let answer = EnrollmentAnswer {
            cluster_id: of.cluster.to_owned(),
            incarnation,
            epoch: u64::try_from(of.epoch).unwrap_or_default(),
            certificate_chain_pem,
            user_jwt,
            broker_urls: self.broker_urls.clone(),
            leaf_urls: self.leaf_urls.clone(),
            ca_bundle_pem: authority.bundle_pem().to_owned(),
            command_keys: keyring.command.public(),
            key_set_id: keyring.key_set_id.clone(),
            endpoints: self.endpoints.clone(),
            issued_at: clock::rfc3339_ms(life.issued_at),
            expires_at: clock::rfc3339_ms(life.expires_at),
            manager_time: clock::rfc3339_ms(now),
        };
        Ok((answer, life))
    }
}

fn not_certifiable(error: &TrustError) -> Refusal {
    match error {
        TrustError::SigningRequest(_) | TrustError::NotAUserKey | TrustError::UserName(_) => {
            Refusal::new(Reason::EnrollmentRequestInvalid, error.to_string())
        }
        other => {
            tracing::error!(error = %telemetry::chain(other), "could not issue an identity");
            Refusal::new(Reason::Internal, "the identity could not be issued; nothing was used up")
        }
    }
}
