//! TLS to the Manager, verified by the token's pin, or by the CA bundle that came with the identity: the server's certificate must verify
//! for the name we dialed under a CA of its chain that has the pinned public key, or under one of the bundle. System roots do not count.

use kubenova_schema::signature::sha256_hex;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Why the server's certificate was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of the condition.
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Whom to trust.
#[derive(Debug)]
enum Anchor {
    /// The CA with this hex SHA-256 of its SubjectPublicKeyInfo.
    Pin(String),
    /// These CAs.
    Bundle(Vec<CertificateDer<'static>>),
}

/// Verifies by pin or bundle and keeps why it refused: the TLS library passes on less.
#[derive(Debug)]
pub struct PinVerifier {
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
    refusal: Mutex<Option<Refusal>>,
}

impl PinVerifier {
    /// For this hex SHA-256 of a CA's SubjectPublicKeyInfo.
    #[must_use]
    pub fn new(pin: &str) -> Arc<Self> {
        Self::with(Anchor::Pin(pin.to_ascii_lowercase()))
    }

    /// For the CAs of this bundle, PEM. What cannot be read of it is left out.
    #[must_use]
    pub fn of_bundle(bundle_pem: &str) -> Arc<Self> {
        Self::with(Anchor::Bundle(certificates(bundle_pem)))
    }

    fn with(anchor: Anchor) -> Arc<Self> {
        let provider = CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        Arc::new(Self { anchor, provider, refusal: Mutex::new(None) })
    }

    /// Why the last handshake was refused, if it was.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, reason: &'static str, message: String, error: rustls::Error) -> rustls::Error {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Refusal { reason, message });
        error
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        match &self.anchor {
            Anchor::Pin(pin) => {
                let is_pinned = |der: &&CertificateDer<'_>| spki_sha256(der).as_deref() == Some(pin.as_str());
                let Some(anchor) = intermediates.iter().find(is_pinned) else {
                    let message = "no CA in the server's chain is the one the token pins; check that the token comes from this Manager and that no proxy replaces its certificate".to_owned();
                    return Err(self.refuse("PinMismatch", message, rustls::CertificateError::UnknownIssuer.into()));
                };
                roots.add(anchor.clone().into_owned())?;
            }
            Anchor::Bundle(bundle) => {
                roots.add_parsable_certificates(bundle.iter().cloned());
            }
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms).map_err(
            |error| {
                let (reason, remedy) = match &error {
                    rustls::Error::InvalidCertificate(
                        rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
                    ) => ("CertificateExpired", "restart the Manager to renew it, or correct this node's clock"),
                    rustls::Error::InvalidCertificate(
                        rustls::CertificateError::NotValidYet | rustls::CertificateError::NotValidYetContext { .. },
                    ) => ("CertificateNotYetValid", "correct this node's clock"),
                    _ if matches!(self.anchor, Anchor::Bundle(_)) => (
                        "CertificateInvalid",
                        "check that this is the Manager that the cluster enrolled with and that no proxy replaces its certificate",
                    ),
                    _ => ("CertificateInvalid", "restart the Manager to issue a new one"),
                };
                self.refuse(
                    reason,
                    format!("the Manager's certificate does not verify under its CA: {error}; {remedy}"),
                    error,
                )
            },
        )?;
        verify_server_name(&certificate, server_name).map_err(|error| {
            let message = format!("the Manager's certificate is not for the name that was dialed: {error}; add the name to publicNames in the Manager's settings");
            self.refuse("NameMismatch", message, error)
        })
    }
}

/// Whether a bundle has the CA with this hex SHA-256 of its SubjectPublicKeyInfo.
#[must_use]
pub fn bundle_has(bundle_pem: &str, ca_spki_sha256: &str) -> bool {
    certificates(bundle_pem)
        .iter()
        .any(|der| spki_sha256(der).is_some_and(|pin| pin.eq_ignore_ascii_case(ca_spki_sha256)))
}

/// The public key of the first certificate of a chain, DER.
#[must_use]
pub fn first_key(chain_pem: &str) -> Option<Vec<u8>> {
    certificates(chain_pem).first().and_then(spki)
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect()
}

fn spki_sha256(der: &CertificateDer<'_>) -> Option<String> {
    spki(der).map(|key| sha256_hex(&key))
}

fn spki(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.tbs_certificate.subject_pki.raw.to_vec())
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Chain {
        leaf: CertificateDer<'static>,
        ca: CertificateDer<'static>,
        ca_pem: String,
        pin: String,
    }

    fn chain(name: &str) -> Chain {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, &ca_key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
        let pin = spki_sha256(ca.der()).unwrap();
        Chain { leaf: leaf.der().clone(), ca: ca.der().clone(), ca_pem: ca.pem(), pin }
    }

    fn check(
        pin: &str,
        leaf: &CertificateDer<'static>,
        ca: &CertificateDer<'static>,
        name: &str,
    ) -> Option<&'static str> {
        verify(&PinVerifier::new(pin), leaf, ca, name)
    }

    fn verify(
        verifier: &PinVerifier,
        leaf: &CertificateDer<'static>,
        ca: &CertificateDer<'static>,
        name: &str,
    ) -> Option<&'static str> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        let verified = verifier.verify(leaf, std::slice::from_ref(ca), &name, now);
        assert_eq!(verified.is_err(), verifier.refusal().is_some());
        verifier.refusal().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_the_pinned_authority_and_the_right_name_pass() {
        kubenova_runtime::tls::install_provider();
        let (ours, other) = (chain("manager.test"), chain("manager.test"));
        assert_eq!(check(&ours.pin, &ours.leaf, &ours.ca, "manager.test"), None);
        assert_eq!(check(&ours.pin, &other.leaf, &other.ca, "manager.test"), Some("PinMismatch"));
        assert_eq!(check(&ours.pin, &other.leaf, &ours.ca, "manager.test"), Some("CertificateInvalid"));
        assert_eq!(check(&ours.pin, &ours.leaf, &ours.ca, "other.test"), Some("NameMismatch"));
    }

    #[test]
    fn a_bundle_is_trusted_whatever_the_server_sends() {
        kubenova_runtime::tls::install_provider();
        let (ours, other) = (chain("manager.test"), chain("manager.test"));
        let bundle = format!("{}{}", ours.ca_pem, chain("next.test").ca_pem);
        let check = |leaf: &Chain, name| verify(&PinVerifier::of_bundle(&bundle), &leaf.leaf, &leaf.ca, name);
        assert_eq!(check(&ours, "manager.test"), None);
        assert_eq!(check(&other, "manager.test"), Some("CertificateInvalid"));
        assert_eq!(check(&ours, "other.test"), Some("NameMismatch"));
        assert!(bundle_has(&bundle, &ours.pin.to_ascii_uppercase()) && !bundle_has(&bundle, &other.pin));
    }
}
