//! The certificate authority: a root that clusters pin, an issuing CA below it, and the leaves.
//!
//! Guarantees: of a signing request only the public key is used, after the request proved possession of its private
//! half; subject, SANs and usages are decided here. Every chain ends with the root, so that the pin of an enrollment token
//! can be checked against the chain that the Manager presents.

use crate::TrustError;
use jiff::Timestamp;
use kubenova_schema::{mutant, signature::sha256_hex};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use std::time::Duration;
use x509_parser::prelude::FromDer as _;

/// Lifetime of the two CAs; before its end they are replaced ([`crate::rotation`]).
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const ISSUING_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const ISSUING_NAME: &str = "KubeNova Issuing CA";

/// Every certificate is valid from a little before it was issued: the clock of whoever verifies it may be behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// A private key and its certificate chain, leaf first, root last.
#[derive(Clone)]
pub struct Identity {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PKCS#8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("chain_pem", &self.chain_pem).field("key_pem", &"***").finish()
    }
}

/// What `kubenova-manager init` stores: both CAs with their keys.
#[derive(Clone)]
pub struct AuthorityMaterial {
    /// The root.
    pub root: Identity,
    /// The issuing CA; its chain ends with the root.
    pub issuing: Identity,
}

/// What a rotation keeps of the CAs before it, none of it secret.
#[derive(Debug, Clone)]
pub struct FormerAuthority {
    /// The issuing CA's key certified by the former root, PEM: in every chain, so that what knows the former root alone verifies it.
    pub cross_pem: String,
    /// The former root, PEM: in every bundle, so that what was issued before is verified.
    pub root_pem: String,
}

/// How long a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// When it is made.
    pub now: Timestamp,
    /// How long from then.
    pub lifetime: Duration,
}

/// The authority, ready to issue.
pub struct Authority {
    bundle_pem: String,
    issuing_chain_pem: String,
    issuer: Issuer<'static, KeyPair>,
    trust_domain: String,
    ca_spki_sha256: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({}, {})", self.trust_domain, self.ca_spki_sha256)
    }
}

impl AuthorityMaterial {
    /// Makes a root and an issuing CA.
    ///
    /// # Errors
    /// When a key or certificate cannot be generated.
    pub fn generate(now: Timestamp) -> Result<Self, TrustError> {
        let subject = "KubeNova Root CA";
        let failed = |source| TrustError::Certificate { subject: subject.to_owned(), source };
        let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let root_params = ca_params(subject, Validity { now, lifetime: ROOT_LIFETIME }, 1);
        let root = root_params.self_signed(&root_key).map_err(failed)?;
        let issuing_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let issuing = issuing_params(now).signed_by(&issuing_key, &root_issuer).map_err(failed)?;
        Ok(Self {
            issuing: Identity {
                chain_pem: format!("{}{}", issuing.pem(), root.pem()),
                key_pem: issuing_key.serialize_pem(),
            },
            root: Identity { chain_pem: root.pem(), key_pem: root_key.serialize_pem() },
        })
    }

    /// What is kept of the CAs that these take the place of. It is the last thing that the former root's key is needed for.
    ///
    /// The issuing CA is certified, not the root: below a root of ours one CA may stand (`pathlen`), not two.
    ///
    /// # Errors
    /// When the former root is damaged.
    pub fn succeeding(&self, former_root: &Identity, now: Timestamp) -> Result<FormerAuthority, TrustError> {
        let failed = |source| TrustError::Certificate { subject: ISSUING_NAME.to_owned(), source };
        let former_key = KeyPair::from_pem(&former_root.key_pem).map_err(failed)?;
        let former = Issuer::from_ca_cert_pem(&former_root.chain_pem, former_key).map_err(failed)?;
        let issuing_key = KeyPair::from_pem(&self.issuing.key_pem).map_err(failed)?;
        let cross = issuing_params(now).signed_by(&issuing_key, &former).map_err(failed)?;
        Ok(FormerAuthority { cross_pem: cross.pem(), root_pem: former_root.chain_pem.clone() })
    }
}

fn issuing_params(now: Timestamp) -> CertificateParams {
    ca_params(ISSUING_NAME, Validity { now, lifetime: ISSUING_LIFETIME }, 0)
}

impl Authority {
    /// From stored material; `former` while a rotation is not finished. `trust_domain` is the host part of every SPIFFE id.
    ///
    /// # Errors
    /// When the material is damaged.
    pub fn new(
        root_pem: &str,
        issuing: &Identity,
        former: Option<&FormerAuthority>,
        trust_domain: &str,
    ) -> Result<Self, TrustError> {
        let damaged = |source| TrustError::Certificate { subject: ISSUING_NAME.to_owned(), source };
        let key = KeyPair::from_pem(&issuing.key_pem).map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_pem(&issuing.chain_pem, key).map_err(damaged)?;
        let ca_spki_sha256 = spki_sha256(root_pem).ok_or(TrustError::DamagedKey("ca.root"))?;
        let former = former.filter(|_| !mutant::is_on("rotation.one-root"));
        let (cross_pem, former_pem) =
            former.map(|it| (it.cross_pem.as_str(), it.root_pem.as_str())).unwrap_or_default();
        Ok(Self {
            bundle_pem: format!("{root_pem}{former_pem}"),
            // With the former root in it: enrollment tokens of before pin that one. And first, because OpenSSL takes the first issuer of a
            // certificate that it finds, and clients with the former root alone have no other way.
            issuing_chain_pem: format!("{cross_pem}{former_pem}{}", issuing.chain_pem),
            issuer,
            trust_domain: trust_domain.to_owned(),
            ca_spki_sha256,
        })
    }

    /// The root, during a rotation with the former one, PEM: what broker, Manager and clusters verify each other with.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// Certificates of the CAs that end every chain.
    #[must_use]
    pub(crate) fn issuing_chain_pem(&self) -> &str {
        &self.issuing_chain_pem
    }

    /// Hex SHA-256 of the root's DER SubjectPublicKeyInfo: the pin in enrollment tokens.
    #[must_use]
    pub fn ca_spki_sha256(&self) -> &str {
        &self.ca_spki_sha256
    }

    /// The SPIFFE id of one incarnation of a cluster.
    #[must_use]
    pub fn cluster_spiffe_id(&self, cluster: &str, incarnation: &str) -> String {
        format!("spiffe://{}/cluster/{cluster}/{incarnation}", self.trust_domain)
    }

    /// A server's identity for these DNS names and IP addresses; also usable as a client's, because hubs connect to
    /// each other.
    ///
    /// # Errors
    /// When a name is neither, or the certificate cannot be issued.
    pub fn server(&self, name: &str, hosts: &[String], validity: Validity) -> Result<Identity, TrustError> {
        let failed = |source| TrustError::Certificate { subject: name.to_owned(), source };
        let mut params = CertificateParams::new(hosts.to_vec()).map_err(failed)?;
        let id = format!("spiffe://{}/{name}", self.trust_domain);
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().map_err(failed)?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.own_identity(name, params, validity)
    }

    /// A client's identity for a part of the Manager or a user of the `nats` CLI: `spiffe://<domain>/<name>`.
    ///
    /// # Errors
    /// When the certificate cannot be issued.
    pub fn client(&self, name: &str, validity: Validity) -> Result<Identity, TrustError> {
        let failed = |source| TrustError::Certificate { subject: name.to_owned(), source };
        let mut params = CertificateParams::default();
        let id = format!("spiffe://{}/{name}", self.trust_domain);
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(failed)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.own_identity(name, params, validity)
    }

    /// A cluster's client certificate over the public key of its signing request: the chain, leaf first, then the CAs.
    ///
    /// # Errors
    /// When the request is damaged, does not prove its key, or has a kind of key that is not accepted.
    pub fn cluster(
        &self,
        csr_pem: &str,
        cluster: &str,
        incarnation: &str,
        validity: Validity,
    ) -> Result<String, TrustError> {
        let key = requested_key(csr_pem)?;
        let failed = |source| TrustError::Certificate { subject: format!("cluster {cluster}"), source };
        let mut params = CertificateParams::default();
        let id = self.cluster_spiffe_id(cluster, incarnation);
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(failed)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf_params(cluster, params, validity).signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(format!("{}{}", leaf.pem(), self.issuing_chain_pem))
    }

    fn own_identity(&self, name: &str, params: CertificateParams, validity: Validity) -> Result<Identity, TrustError> {
        let failed = |source| TrustError::Certificate { subject: name.to_owned(), source };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let leaf = leaf_params(name, params, validity).signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { chain_pem: format!("{}{}", leaf.pem(), self.issuing_chain_pem), key_pem: key.serialize_pem() })
    }
}

/// Hex SHA-256 of the SubjectPublicKeyInfo (DER) of the key that a signing request proves, as its cluster computes it: how "the same keys again" is recognized.
///
/// # Errors
/// When the request is not acceptable.
pub fn requested_key_sha256(csr_pem: &str) -> Result<String, TrustError> {
    requested_key(csr_pem).map(|key| sha256_hex(&key.subject_public_key_info()))
}

/// The key of a request that is signed with its private half. Subject, SANs and extensions are not even read.
fn requested_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, TrustError> {
    let refused = TrustError::SigningRequest;
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).map_err(|_| refused("it is not PEM"))?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|_| refused("it is not PKCS#10"))?;
    request.verify_signature().map_err(|_| refused("its signature does not verify with its key"))?;
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| refused("its kind of key is not supported: use ECDSA P-256 or Ed25519"))?;
    let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if !accepted.contains(&key.algorithm()) {
        return Err(refused("its kind of key is not supported: use ECDSA P-256 or Ed25519"));
    }
    Ok(key)
}

fn spki_sha256(certificate_pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Some(sha256_hex(certificate.tbs_certificate.subject_pki.raw))
}

fn ca_params(name: &str, validity: Validity, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // After a rotation there are two roots of one name: OpenSSL tells them apart by this.
    params.use_authority_key_identifier_extension = true;
    with_common(name, params, validity)
}

fn leaf_params(name: &str, mut params: CertificateParams, validity: Validity) -> CertificateParams {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    with_common(name, params, validity)
}

fn with_common(name: &str, mut params: CertificateParams, validity: Validity) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(validity.now.as_second()).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + validity.lifetime;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let mut serial = kubenova_runtime::random::bytes::<16>();
    serial[0] &= 0x7f; // A serial is a positive integer.
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::verify_server_cert_signed_by_trust_anchor,
        pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
        server::ParsedCertificate,
    };

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn authority() -> Authority {
        let material = AuthorityMaterial::generate(now()).unwrap();
        Authority::new(&material.root.chain_pem, &material.issuing, None, "kubenova.test").unwrap()
    }

    /// Verifies with one root, as broker, Manager and clusters do it.
    fn verifies(chain_pem: &str, root_pem: &str) -> bool {
        let certificates = |pem: &str| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(root_pem));
        let chain = certificates(chain_pem);
        let leaf = ParsedCertificate::try_from(&chain[0]).unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second().unsigned_abs()));
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &chain[1..], time, algorithms).is_ok()
    }

    #[test]
    fn after_a_rotation_old_and_new_certificates_verify_under_old_and_new_bundles() {
        let [old, new] = [(); 2].map(|()| AuthorityMaterial::generate(now()).unwrap());
        let former = new.succeeding(&old.root, now()).unwrap();
        let authority = |material: &AuthorityMaterial, former| {
            Authority::new(&material.root.chain_pem, &material.issuing, former, "kubenova.test").unwrap()
        };
        let (before, during, after) = (authority(&old, None), authority(&new, Some(&former)), authority(&new, None));
        let chain = |authority: &Authority| {
            let validity = Validity { now: now(), lifetime: DAY };
            authority.server("hub", &["hub.example".to_owned()], validity).unwrap().chain_pem
        };
        let verify = |issuer: &Authority, bundle: &Authority| verifies(&chain(issuer), bundle.bundle_pem());
        for issuer in [&before, &during] {
            assert!(verify(issuer, &before) && verify(issuer, &during), "{issuer:?}");
        }
        assert!(verify(&during, &after) && verify(&after, &during), "what was issued during a rotation lasts");
        assert!(!verify(&before, &after) && !verify(&after, &before));
        let pins = |authority: &Authority| authority.issuing_chain_pem().matches("BEGIN CERTIFICATE").count();
        assert_eq!([pins(&before), pins(&during), pins(&after)], [2, 4, 2]);
        // What OpenSSL needs, which does not try one issuer after the other.
        assert!(during.issuing_chain_pem().starts_with(&former.cross_pem), "the way to the former root comes first");
        for pem in [&new.root.chain_pem, &new.issuing.chain_pem, &former.cross_pem] {
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            let names_its_issuer = |extension: &x509_parser::extensions::X509Extension<'_>| {
                let parsed = extension.parsed_extension();
                matches!(parsed, x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(_))
            };
            assert!(certificate.extensions().iter().any(names_its_issuer), "{}", certificate.subject());
        }
        assert_eq!(during.ca_spki_sha256(), after.ca_spki_sha256(), "new tokens pin the new root");
    }

    fn csr() -> String {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["manager.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn of_a_request_only_the_key_is_used() {
        let authority = authority();
        let chain = authority.cluster(&csr(), "c1", "2", Validity { now: now(), lifetime: DAY }).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        assert!(!leaf.is_ca());
        let names: Vec<_> = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(names.len(), 1);
        assert!(format!("{:?}", names[0]).contains("spiffe://kubenova.test/cluster/c1/2"));
        assert_eq!(leaf.validity().not_after.timestamp(), 1_800_086_400);
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 3, "leaf, issuing, root");
        assert_eq!(spki_sha256(authority.bundle_pem()).as_deref(), Some(authority.ca_spki_sha256()));
    }

    #[test]
    fn a_request_that_does_not_prove_its_key_is_refused() {
        let text = csr();
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        let mut der = pem.contents.clone();
        let last = der.len() - 1;
        der[last] ^= 1;
        let altered = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            data_encoding::BASE64.encode(&der)
        );
        assert!(matches!(requested_key_sha256(&altered), Err(TrustError::SigningRequest(_))));
        assert!(matches!(requested_key_sha256("hello"), Err(TrustError::SigningRequest(_))));
        assert_eq!(requested_key_sha256(&text).unwrap(), requested_key_sha256(&text).unwrap());
    }
}
