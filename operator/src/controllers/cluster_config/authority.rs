//! The cluster's own certificate authority: a key in the Operator's namespace, serving certificates for webhooks and
//! Capsule Proxy, all renewed in the last third of their life. No cert-manager is needed.
//!
//! When the authority itself is renewed, its bundle holds the old and the new certificate, so that what still serves
//! under the old one keeps being trusted until it is replaced in the same reconcile.

use crate::apiserver::{self, verbs};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};
use kubenova_operator_core::components::{
    Component,
    certificate::{self, AUTHORITY_LIFE, Certificate, LEAF_LIFE, Stored},
    render::COMPONENT_LABEL,
};
use kubenova_runtime::clock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::{collections::BTreeMap, net::IpAddr};
use x509_parser::{extensions::GeneralName, pem::Pem};

/// Name of the Secret with the authority's key.
pub const SECRET: &str = "kubenova-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";
/// Room for a node's clock that runs behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(24);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The API server refused.
    #[error(transparent)]
    Apiserver(#[from] apiserver::Error),
    /// Key or certificate could not be created.
    #[error("could not create a certificate")]
    Make(#[from] rcgen::Error),
    /// The stored one is unreadable.
    #[error("could not read Secret {namespace}/{name}: {problem}; delete it and the Operator creates another")]
    Unreadable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The authority, ready to sign.
pub struct Authority {
    certificate: String,
    key: String,
    bundle: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).field("key", &"***").finish_non_exhaustive()
    }
}

impl Authority {
    /// The stored authority, created if absent, renewed if due.
    ///
    /// # Errors
    /// When it can be neither read nor created.
    pub async fn ensure(client: &Client, namespace: &str) -> Result<Self, AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let unreadable =
            |problem| AuthorityError::Unreadable { namespace: namespace.to_owned(), name: SECRET.to_owned(), problem };
        let Some(stored) = verbs::get(&secrets, SECRET).await? else {
            let made = Self::make("")?;
            let secret = made.secret(namespace);
            return Ok(match verbs::create_if_absent(&secrets, &secret).await? {
                Some(_) => made,
                // Another Operator was quicker; its authority counts.
                None => match verbs::get(&secrets, SECRET).await? {
                    Some(stored) => Self::from_secret(&stored).ok_or_else(|| unreadable("a field is missing"))?,
                    None => return Err(unreadable("it was deleted while it was being created")),
                },
            });
        };
        let present = Self::from_secret(&stored).ok_or_else(|| unreadable("a field is missing"))?;
        let known =
            read(&present.certificate, &present.certificate).ok_or_else(|| unreadable("it holds no certificate"))?;
        if !certificate::past_two_thirds(known.not_before, known.not_after, clock::now()) {
            return Ok(present);
        }
        let renewed = Self::make(&present.certificate)?;
        let mut secret = renewed.secret(namespace);
        secret.metadata.resource_version = stored.metadata.resource_version;
        verbs::replace(&secrets, &secret).await?;
        tracing::info!("the cluster's certificate authority was renewed");
        Ok(renewed)
    }

    /// What verifies every certificate it signs, PEM.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Makes sure that the Secret of a serving certificate holds a good one.
    ///
    /// # Errors
    /// When the Secret can be neither read nor written.
    pub async fn serve(
        &self,
        client: &Client,
        component: Component,
        desired: &Certificate,
    ) -> Result<(), AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
        let stored = verbs::get(&secrets, &desired.secret).await?;
        let field = |name: &str| stored.as_ref().and_then(|secret| text(secret, name));
        let is_good = match (field(CERTIFICATE), field(KEY), field(&desired.authority_key)) {
            (Some(certificate), Some(_), Some(bundle)) if bundle == self.bundle => {
                self.is_good(&certificate, &desired.dns_names)
            }
            _ => false,
        };
        if is_good {
            return Ok(());
        }
        let (certificate, key) = self.sign(&desired.dns_names)?;
        let data = [(CERTIFICATE, certificate), (KEY, key), (desired.authority_key.as_str(), self.bundle.clone())];
        let mut secret = secret(&desired.namespace, &desired.secret, data);
        secret.metadata.labels = Some(BTreeMap::from([(COMPONENT_LABEL.to_owned(), component.name().to_owned())]));
        verbs::apply(&secrets, &secret).await?;
        tracing::info!(secret = desired.secret, component = component.name(), "a serving certificate was issued");
        Ok(())
    }

    fn make(previous: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(AUTHORITY_LIFE, "KubeNova cluster authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        let bundle = format!("{certificate}{previous}");
        Ok(Self { certificate, key: key.serialize_pem(), bundle })
    }

    /// Whether a certificate is one of this authority for these names, with more than a third of its life left.
    #[must_use]
    pub fn is_good(&self, certificate: &str, names: &[String]) -> bool {
        read(certificate, &self.certificate).is_some_and(|stored| !certificate::is_due(&stored, names, clock::now()))
    }

    /// A serving certificate for these DNS names and addresses, and its key, PEM.
    ///
    /// # Errors
    /// When one of them is no name, or the authority's key cannot be used.
    pub fn sign(&self, names: &[String]) -> Result<(String, String), AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let common_name = names.first().map_or("kubenova", String::as_str);
        let mut params = params(LEAF_LIFE, common_name, names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    }

    fn secret(&self, namespace: &str) -> Secret {
        let data = [(CERTIFICATE, self.certificate.clone()), (KEY, self.key.clone()), (BUNDLE, self.bundle.clone())];
        secret(namespace, SECRET, data)
    }

    fn from_secret(secret: &Secret) -> Option<Self> {
        Some(Self { certificate: text(secret, CERTIFICATE)?, key: text(secret, KEY)?, bundle: text(secret, BUNDLE)? })
    }
}

fn params(life: SignedDuration, common_name: &str, dns_names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(dns_names.to_vec())?;
    // A common name has room for 64 characters; the names that count are the alternative ones.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = clock::now();
    // Whole days: the certificate library's time type is not ours to build otherwise.
    let (year, month, day) = ymd(now - BACKDATED);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = ymd(now + life);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    Ok(params)
}

fn ymd(at: Timestamp) -> (i32, u8, u8) {
    let date = at.to_zoned(TimeZone::UTC).date();
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    (i32::from(date.year()), part(date.month()), part(date.day()))
}

fn secret<const N: usize>(namespace: &str, name: &str, data: [(&str, String); N]) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()),
        ..Secret::default()
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// What is known of a PEM certificate, and whether this authority signed it.
fn read(certificate_pem: &str, authority_pem: &str) -> Option<Stored> {
    let pem = first_pem(certificate_pem)?;
    let certificate = pem.parse_x509().ok()?;
    let authority_pem = first_pem(authority_pem)?;
    let authority = authority_pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let dns_names = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    let validity = certificate.validity();
    Some(Stored {
        not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        dns_names: dns_names.collect(),
        under_present_authority: certificate.verify_signature(Some(authority.public_key())).is_ok(),
    })
}

/// An address as a text: four bytes or sixteen.
fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
}

fn first_pem(text: &str) -> Option<Pem> {
    Pem::iter_from_buffer(text.as_bytes()).next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_certificate_verifies_under_its_authority_alone() {
        let authority = Authority::make("").unwrap();
        let names = ["hook.ns.svc".to_owned(), "hook.ns".to_owned()];
        let (certificate, _key) = authority.sign(&names).unwrap();
        let stored = read(&certificate, &authority.certificate).unwrap();
        assert!(stored.under_present_authority);
        assert_eq!(stored.dns_names, names);
        assert!(!certificate::is_due(&stored, &names, clock::now()));
        let other = Authority::make("").unwrap();
        assert!(!read(&certificate, &other.certificate).unwrap().under_present_authority);
    }

    #[test]
    fn a_certificate_may_be_for_addresses() {
        let authority = Authority::make("").unwrap();
        let names = ["10.0.0.7".to_owned(), "2001:db8::7".to_owned(), "leaf.example".to_owned()];
        let (certificate, _key) = authority.sign(&names).unwrap();
        assert!(authority.is_good(&certificate, &names));
        assert!(!authority.is_good(&certificate, &["10.0.0.8".to_owned()]));
    }

    #[test]
    fn the_bundle_of_a_renewed_authority_holds_the_old_one() {
        let old = Authority::make("").unwrap();
        let new = Authority::make(&old.certificate).unwrap();
        assert!(new.bundle().contains(&old.certificate) && new.bundle().starts_with(&new.certificate));
    }

    #[test]
    fn an_authority_survives_its_secret_and_hides_its_key() {
        let authority = Authority::make("").unwrap();
        let again = Authority::from_secret(&authority.secret("kubenova-system")).unwrap();
        assert_eq!(again.bundle(), authority.bundle());
        assert!(!format!("{again:?}").contains("PRIVATE"));
    }
}
