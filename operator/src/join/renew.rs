//! `POST /enrollment/v1/renew`: the same identity with new credentials. The enrolled nkey signs the request, so that neither the token
//! nor a valid certificate is needed; the answer counts only with the signature of a command key that is accepted already.

use super::{
    conditions::{JoinError, keep_furthest},
    https::{Asked, ManagerClient, Reply},
    identity::{Identity, Keys, MakeError},
    keys_error, pinned,
};
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::{conditions::ConditionSet, renewal::CredentialsLife};
use kubenova_schema::{
    enrollment::EnrollmentAnswer,
    renewal::{NONCE_PATH, NonceAnswer, PATH, RenewalAnswer, RenewalRequest},
    signature::{HEADER, PayloadType},
};

/// Why there are no new credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenewalError {
    /// The Manager was not reached, or could not decide.
    #[error(transparent)]
    Failed(JoinError),
    /// The Manager decided so. Asking again changes nothing until a person does something.
    #[error(transparent)]
    Refused(JoinError),
}

impl RenewalError {
    /// What happened, and what to do about it.
    #[must_use]
    pub const fn error(&self) -> &JoinError {
        match self {
            Self::Failed(error) | Self::Refused(error) => error,
        }
    }
}

impl From<JoinError> for RenewalError {
    fn from(error: JoinError) -> Self {
        Self::Failed(error)
    }
}

impl From<MakeError> for RenewalError {
    fn from(error: MakeError) -> Self {
        Self::Failed(keys_error(&error))
    }
}

/// Asks the Manager's endpoints in order; a refusal of one is the answer. The error of the endpoint that got furthest is returned.
///
/// # Errors
/// When no endpoint gives new credentials.
pub async fn renew(identity: &Identity, dialer: &Dialer) -> Result<Identity, RenewalError> {
    let keys = identity.keys.with_new_tls_key()?;
    let mut furthest = None;
    for endpoint in &identity.answer.endpoints {
        match renew_at(endpoint, identity, &keys, dialer).await {
            Ok(answer) => return Ok(Identity::replacing(Some(identity), keys, answer)),
            Err(RenewalError::Refused(error)) => return Err(RenewalError::Refused(error)),
            Err(RenewalError::Failed(error)) => keep_furthest(&mut furthest, error, ()),
        }
    }
    let Some((error, ())) = furthest else {
        let message = "the Manager named no endpoint at which credentials are renewed; enroll this cluster again";
        return Err(RenewalError::Failed(JoinError::new(condition::IDENTITY_ISSUED, "NoEndpoint", message)));
    };
    Err(RenewalError::Failed(error))
}

async fn renew_at(
    endpoint: &str,
    identity: &Identity,
    keys: &Keys,
    dialer: &Dialer,
) -> Result<EnrollmentAnswer, RenewalError> {
    let manager = ManagerClient::of_bundle(endpoint, &identity.answer.ca_bundle_pem, dialer).ok_or_else(|| {
        let message = format!("\"{endpoint}\" is not an https:// URL; correct `endpoints` in the Manager's settings");
        JoinError::new(condition::IDENTITY_ISSUED, "EndpointInvalid", message)
    })?;
    // The steps of the join keep what enrollment made of them.
    let mut steps = ConditionSet::new();
    let nonce = manager.send(Asked::get(NONCE_PATH), &mut steps).await?;
    let nonce: NonceAnswer = if nonce.is_success() { nonce.decode()? } else { return Err(refusal(&nonce)) };
    let request = RenewalRequest {
        cluster_id: identity.cluster_id().to_owned(),
        cluster_uid: identity.cluster_uid().to_owned(),
        incarnation: identity.answer.incarnation.clone(),
        csr_pem: keys.csr_pem()?,
        nonce: nonce.nonce.clone(),
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let body = serde_json::to_vec(&request).expect("strings are JSON");
    let signature = keys.sign(PayloadType::Renewal, &body)?;
    let reply = manager.send(Asked::post(PATH, body).header(HEADER, &signature), &mut steps).await?;
    if !reply.is_success() {
        return Err(refusal(&reply));
    }
    Ok(believe(&reply, endpoint, &nonce.nonce, identity, keys)?)
}

/// What an answer says, if a command key that is accepted already has signed it, for this renewal.
fn believe(
    reply: &Reply,
    endpoint: &str,
    nonce: &str,
    identity: &Identity,
    keys: &Keys,
) -> Result<EnrollmentAnswer, JoinError> {
    let unverified = |message| JoinError::new(condition::IDENTITY_ISSUED, "AnswerUnverified", message);
    reply.verify(PayloadType::RenewalAnswer, &identity.command_keys()).map_err(|error| {
        unverified(format!(
            "believed nothing of an answer to a renewal: {error}; find out who answers at {endpoint} with a certificate of the Manager's CA"
        ))
    })?;
    let answer: RenewalAnswer = reply.decode()?;
    if answer.nonce != nonce {
        return Err(unverified(format!("the answer of {endpoint} is to another renewal; trying again")));
    }
    check(&answer.identity, identity, keys)?;
    Ok(answer.identity)
}

/// Refuses an answer that would take the place of working credentials without being any.
fn check(answer: &EnrollmentAnswer, identity: &Identity, keys: &Keys) -> Result<(), JoinError> {
    let unusable = |what: &str| {
        let message =
            format!("the Manager's answer to a renewal {what}; those in use stay; check the Manager's settings");
        JoinError::new(condition::IDENTITY_ISSUED, "AnswerUnusable", message)
    };
    if (&answer.cluster_id, &answer.incarnation) != (&identity.answer.cluster_id, &identity.answer.incarnation) {
        let message = format!(
            "the Manager answered for cluster {} incarnation {}; upgrade the older of Manager and Operator",
            answer.cluster_id, answer.incarnation
        );
        return Err(JoinError::new(condition::IDENTITY_ISSUED, "OtherCluster", message));
    }
    if answer.broker_urls.is_empty() || answer.endpoints.is_empty() || answer.command_keys.is_empty() {
        return Err(unusable("names no broker, no endpoint or no command key"));
    }
    if keys.csr_key() != pinned::first_key(&answer.certificate_chain_pem) {
        return Err(unusable("contains a certificate for another key"));
    }
    let lasts = CredentialsLife::parse(&answer.issued_at, &answer.expires_at).is_some_and(CredentialsLife::is_positive);
    if !lasts {
        return Err(unusable("contains credentials that end before they begin"));
    }
    Ok(())
}

fn refusal(reply: &Reply) -> RenewalError {
    let refusal = reply.refusal();
    // A nonce that was too old when it arrived says nothing about the identity.
    if !refusal.is_decided || refusal.reason == "RenewalNonceInvalid" {
        let message = format!("the Manager could not renew the credentials: {}; trying again", refusal.detail);
        return JoinError::new(condition::IDENTITY_ISSUED, refusal.reason, message).into();
    }
    let message =
        format!("the Manager does not renew this cluster's credentials: {}; {}", refusal.detail, refusal.remedy);
    RenewalError::Refused(JoinError::new(condition::IDENTITY_ISSUED, refusal.reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::identity::tests;
    use kubenova_schema::signature::SigningKey;

    #[test]
    fn what_a_person_decided_is_refused_and_what_may_pass_is_tried_again() {
        let of = |status, reason: &str| {
            let problem = format!(r#"{{"reason":"{reason}","detail":"so it is","remedy":"do this"}}"#);
            refusal(&Reply::of(status, &problem))
        };
        for (status, reason, refused) in [
            (403, "CREDENTIALS_REVOKED", true),
            (409, "INCARNATION_REPLACED", true),
            (401, "RENEWAL_UNVERIFIED", true),
            (409, "RENEWAL_NONCE_INVALID", false),
            (503, "DEPENDENCY_DOWN", false),
            (404, "ROUTE_NOT_FOUND", false),
        ] {
            let error = of(status, reason);
            assert_eq!(matches!(error, RenewalError::Refused(_)), refused, "{reason}");
            assert!(error.error().message.contains("so it is"));
            assert_eq!(error.error().message.contains("do this"), refused);
        }
    }

    fn certificate(keys: &Keys) -> String {
        let key = rcgen::KeyPair::from_pem(&keys.tls_key_pem).unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
    }

    /// An answer that can be used.
    fn good(keys: &Keys) -> EnrollmentAnswer {
        EnrollmentAnswer {
            certificate_chain_pem: certificate(keys),
            broker_urls: vec!["tls://hub".to_owned()],
            endpoints: vec!["https://manager".to_owned()],
            issued_at: "2030-01-01T00:00:00Z".to_owned(),
            expires_at: "2030-01-02T00:00:00Z".to_owned(),
            ..tests::answer(&[1])
        }
    }

    #[test]
    fn an_answer_counts_with_the_signature_of_an_accepted_key_and_for_its_own_renewal() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let identity = Identity::replacing(None, keys.clone(), tests::answer(&[1]));
        // Whoever answers names the keys that it signs with.
        let named = EnrollmentAnswer { command_keys: tests::answer(&[1, 2]).command_keys, ..good(&keys) };
        let body = serde_json::to_string(&RenewalAnswer { nonce: "n".to_owned(), identity: named.clone() }).unwrap();
        let signed =
            |seed: u8, payload_type| SigningKey::from_seed(&[seed; 32]).unwrap().sign(payload_type, body.as_bytes());
        let believed = |signature: Option<String>, nonce: &str| {
            believe(&Reply::signed(&body, signature), "https://manager", nonce, &identity, &keys)
        };
        assert_eq!(believed(Some(signed(1, PayloadType::RenewalAnswer)), "n"), Ok(named));
        for (signature, nonce) in [
            (None, "n"),
            (Some(signed(2, PayloadType::RenewalAnswer)), "n"),
            (Some(signed(1, PayloadType::HelloAnswer)), "n"),
            (Some(signed(1, PayloadType::RenewalAnswer)), "of another"),
        ] {
            assert_eq!(
                believed(signature.clone(), nonce).unwrap_err().reason,
                "AnswerUnverified",
                "{signature:?} {nonce}"
            );
        }
    }

    #[test]
    fn an_answer_must_be_for_the_key_that_was_sent_and_name_what_is_needed() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let identity = Identity::replacing(None, keys.clone(), tests::answer(&[1]));
        let good = good(&keys);
        assert_eq!(check(&good, &identity, &keys), Ok(()));
        let other = certificate(&Keys::make("kn1.x", "uid").unwrap());
        for bad in [
            EnrollmentAnswer { certificate_chain_pem: other, ..good.clone() },
            EnrollmentAnswer { broker_urls: Vec::new(), ..good.clone() },
            EnrollmentAnswer { endpoints: Vec::new(), ..good.clone() },
            EnrollmentAnswer { command_keys: Vec::new(), ..good.clone() },
            EnrollmentAnswer { expires_at: good.issued_at.clone(), ..good.clone() },
            EnrollmentAnswer { incarnation: "2".to_owned(), ..good.clone() },
        ] {
            assert!(check(&bad, &identity, &keys).is_err(), "{bad:?}");
        }
    }
}
