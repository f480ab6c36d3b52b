//! TLS to the Manager, verified by the token's pin, or by the CA bundle that came with the identity: the server's certificate must verify
//! for the name we dialed under a CA of its chain that has the pinned public key, or under one of the bundle. System roots do not count.

use super::conditions::JoinError;
use kubenova_crds::cluster_config::condition;
use kubenova_schema::{enrollment::MANAGER_SPIFFE_PATH, signature::sha256_hex};
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
use x509_parser::extensions::GeneralName;

/// A Manager that the pin must not lead to.
#[derive(Debug, Clone)]
pub struct Excluded {
    /// Its CAs, PEM.
    pub bundle_pem: String,
    /// What it means that the pin leads there.
    pub refusal: JoinError,
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
    excluded: Option<Excluded>,
    provider: Arc<CryptoProvider>,
    refusal: Mutex<Option<JoinError>>,
}

impl PinVerifier {
    /// For this hex SHA-256 of a CA's SubjectPublicKeyInfo, and for no server that verifies as the excluded Manager, too. While a CA is
    /// rotated, that says more than comparing the pin with the bundle: a chain has both roots, and the bundle may have the former one only.
    #[must_use]
    pub fn new(pin: &str, excluded: Option<Excluded>) -> Arc<Self> {
        Self::with(Anchor::Pin(pin.to_ascii_lowercase()), excluded)
    }

    /// For the CAs of this bundle, PEM. What cannot be read of it is left out.
    #[must_use]
    pub fn of_bundle(bundle_pem: &str) -> Arc<Self> {
        Self::with(Anchor::Bundle(certificates(bundle_pem)), None)
    }

    fn with(anchor: Anchor, excluded: Option<Excluded>) -> Arc<Self> {
        let provider = CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        Arc::new(Self { anchor, excluded, provider, refusal: Mutex::new(None) })
    }

    /// Why the last handshake was refused, if it was.
    pub fn refusal(&self) -> Option<JoinError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, reason: &'static str, message: String, error: rustls::Error) -> rustls::Error {
        self.keep(JoinError::new(condition::TLS_VERIFIED, reason, message));
        error
    }

    fn keep(&self, refusal: JoinError) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
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
        })?;
        if !is_of_manager(end_entity) {
            let message = "the certificate is of this Manager's CA and for another server of it (its URI is not spiffe://<trust domain>/manager); check that the endpoint leads to the Manager, and neither to the broker nor to the gRPC bridge".to_owned();
            let error = rustls::CertificateError::ApplicationVerificationFailure.into();
            return Err(self.refuse("SpiffeIdMismatch", message, error));
        }
        let is_under = |bundle: &str| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(bundle));
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms).is_ok()
        };
        match self.excluded.as_ref().filter(|excluded| is_under(&excluded.bundle_pem)) {
            Some(excluded) => {
                self.keep(excluded.refusal.clone());
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
            None => Ok(()),
        }
    }
}

/// Whether a certificate is the Manager's own. The CA signs those of broker and bridge, too, which may have the same names.
fn is_of_manager(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let path = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => {
            uri.strip_prefix("spiffe://").and_then(|id| id.split_once('/')).map(|(_, path)| path == MANAGER_SPIFFE_PATH)
        }
        _ => None,
    };
    let mut ids = names.value.general_names.iter().filter_map(path);
    ids.next() == Some(true) && ids.next().is_none()
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
    use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    const NAME: &str = "manager.test";

    /// A CA that signs.
    struct Root {
        certificate: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Root {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let certificate = authority().self_signed(&key).unwrap();
            Self { certificate, issuer: Issuer::new(authority(), key) }
        }

        fn pin(&self) -> String {
            spki_sha256(self.certificate.der()).unwrap()
        }

        fn server(&self, name: &str) -> CertificateDer<'static> {
            server(name, &self.issuer)
        }
    }

    fn authority() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    const MANAGER: &str = "spiffe://kubenova.test/manager";

    fn server(name: &str, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
        server_with(name, Some(MANAGER), issuer)
    }

    fn server_with(name: &str, id: Option<&str>, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.subject_alt_names.extend(id.map(|id| SanType::URI(id.try_into().unwrap())));
        params.signed_by(&key, issuer).unwrap().der().clone()
    }

    /// The reason, when the server is refused.
    fn verify(verifier: &PinVerifier, server: &CertificateDer<'_>, chain: &[&Certificate]) -> Option<String> {
        let name = ServerName::try_from(NAME).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let verified = verifier.verify(server, &chain, &name, now);
        assert_eq!(verified.is_err(), verifier.refusal().is_some());
        verifier.refusal().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_the_pinned_authority_and_the_right_name_pass() {
        kubenova_runtime::tls::install_provider();
        let (ours, other) = (Root::new(), Root::new());
        let check = |server: &CertificateDer<'_>, root: &Root| {
            verify(&PinVerifier::new(&ours.pin(), None), server, &[&root.certificate])
        };
        assert_eq!(check(&ours.server(NAME), &ours), None);
        assert_eq!(check(&other.server(NAME), &other).as_deref(), Some("PinMismatch"));
        assert_eq!(check(&other.server(NAME), &ours).as_deref(), Some("CertificateInvalid"));
        assert_eq!(check(&ours.server("other.test"), &ours).as_deref(), Some("NameMismatch"));
    }

    #[test]
    fn another_server_of_the_authority_is_not_the_manager_whatever_its_names() {
        kubenova_runtime::tls::install_provider();
        let ours = Root::new();
        let check = |id: Option<&str>| {
            let server = server_with(NAME, id, &ours.issuer);
            verify(&PinVerifier::new(&ours.pin(), None), &server, &[&ours.certificate])
        };
        assert_eq!(check(Some(MANAGER)), None);
        for id in ["bridge", "hub", "cluster/manager/1", "managers", "manager/x"] {
            let id = format!("spiffe://kubenova.test/{id}");
            assert_eq!(check(Some(&id)).as_deref(), Some("SpiffeIdMismatch"), "{id}");
        }
        for id in [None, Some("https://kubenova.test/manager")] {
            assert_eq!(check(id).as_deref(), Some("SpiffeIdMismatch"), "{id:?}");
        }
    }

    #[test]
    fn a_bundle_is_trusted_whatever_the_server_sends() {
        kubenova_runtime::tls::install_provider();
        let (ours, other) = (Root::new(), Root::new());
        let bundle = format!("{}{}", ours.certificate.pem(), Root::new().certificate.pem());
        let check = |server: &CertificateDer<'_>, root: &Root| {
            verify(&PinVerifier::of_bundle(&bundle), server, &[&root.certificate])
        };
        assert_eq!(check(&ours.server(NAME), &ours), None);
        assert_eq!(check(&other.server(NAME), &other).as_deref(), Some("CertificateInvalid"));
        assert_eq!(check(&ours.server("other.test"), &ours).as_deref(), Some("NameMismatch"));
    }

    /// A cluster with the former root alone must recognize its Manager by a token that pins the new root, and one with the new root by a
    /// token of before.
    #[test]
    fn an_excluded_manager_is_recognized_by_any_root_of_its_chain() {
        kubenova_runtime::tls::install_provider();
        let (former, new, other) = (Root::new(), Root::new(), Root::new());
        let issuing_key = KeyPair::generate().unwrap();
        let issuing = authority().signed_by(&issuing_key, &new.issuer).unwrap();
        let cross = authority().signed_by(&issuing_key, &former.issuer).unwrap();
        let server = server(NAME, &Issuer::new(authority(), issuing_key));
        let chain = [&cross, &former.certificate, &issuing, &new.certificate];
        let check = |pinned: &Root, known: &Root| {
            let refusal = JoinError::new(condition::TOKEN_ACCEPTED, "OtherCluster", "");
            let excluded = Excluded { bundle_pem: known.certificate.pem(), refusal };
            verify(&PinVerifier::new(&pinned.pin(), Some(excluded)), &server, &chain)
        };
        for (pinned, known) in [(&new, &former), (&former, &new), (&new, &new), (&former, &former)] {
            assert_eq!(check(pinned, known).as_deref(), Some("OtherCluster"));
        }
        for pinned in [&new, &former] {
            assert_eq!(check(pinned, &other), None, "a cluster of another Manager may change to this one");
        }
    }
}
