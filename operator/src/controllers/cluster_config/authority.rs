//! The cluster's own certificate authority: a key in the Operator's namespace, serving certificates for webhooks and Capsule Proxy. No
//! cert-manager is needed. `operator/core/src/components/certificate.rs` decides when what is replaced.
//!
//! Its Secret also holds the authority that comes next and the certificate of the one before: the bundle has all of them.

use crate::apiserver::{self, verbs};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};
use kubenova_operator_core::components::{
    Component,
    certificate::{self, Authorities, Certificate, LIFE, Rotation, Stored, Validity},
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
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS_CERTIFICATE: &str = "previous.crt";
/// Since when the next authority is trusted by all.
const NEXT_TRUSTED_SINCE: &str = "kubenova.io/next-trusted-since";
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

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
struct KeyPairPem {
    certificate: String,
    /// Empty for one that signs no more.
    key: String,
}

/// The authority, ready to sign.
pub struct Authority {
    authorities: Authorities<KeyPairPem>,
    bundle: String,
    next_trusted_since: Option<Timestamp>,
    /// Of its Secret; none before that is written.
    resource_version: Option<String>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle).field("key", &"***").finish_non_exhaustive()
    }
}

impl Authority {
    /// The stored authority, created if absent, rotated if due.
    ///
    /// # Errors
    /// When it can be neither read nor created.
    pub async fn ensure(client: &Client, namespace: &str) -> Result<Self, AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let unreadable =
            |problem| AuthorityError::Unreadable { namespace: namespace.to_owned(), name: SECRET.to_owned(), problem };
        let Some(stored) = verbs::get(&secrets, SECRET).await? else {
            let made = Self::of(Authorities::new(make(clock::now())?), None);
            let secret = made.secret(namespace);
            return Ok(match verbs::create_if_absent(&secrets, &secret).await? {
                Some(written) => Self { resource_version: written.metadata.resource_version, ..made },
                // Another Operator was quicker; its authority counts.
                None => match verbs::get(&secrets, SECRET).await? {
                    Some(stored) => Self::from_secret(&stored).ok_or_else(|| unreadable("a field is missing"))?,
                    None => return Err(unreadable("it was deleted while it was being created")),
                },
            });
        };
        let mut present = Self::from_secret(&stored).ok_or_else(|| unreadable("a field is missing"))?;
        let rotation = present.due(clock::now()).ok_or_else(|| unreadable("it holds no certificate"))?;
        if rotation != Rotation::None {
            present.rotate(rotation, clock::now())?;
            present.write(&secrets, namespace).await?;
            tracing::info!(?rotation, "the cluster's certificate authority is being rotated");
        }
        Ok(present)
    }

    /// Remembers that everything which verifies certificates has the present bundle: every component was applied with it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn is_trusted_by_all(&mut self, client: &Client, namespace: &str) -> Result<(), AuthorityError> {
        if self.authorities.next.is_none() || self.next_trusted_since.is_some() {
            return Ok(());
        }
        self.next_trusted_since = Some(clock::now());
        self.write(&Api::namespaced(client.clone(), namespace), namespace).await
    }

    fn of(authorities: Authorities<KeyPairPem>, next_trusted_since: Option<Timestamp>) -> Self {
        let bundle = authorities.trusted().map(|pair| pair.certificate.as_str()).collect();
        Self { authorities, bundle, next_trusted_since, resource_version: None }
    }

    /// None when a certificate cannot be read.
    fn due(&self, now: Timestamp) -> Option<Rotation> {
        let validity = |pair: &KeyPairPem| Some(read(&pair.certificate, &pair.certificate)?.validity);
        let present = validity(&self.authorities.present)?;
        // One that cannot be read is made again.
        let next = self.authorities.next.as_ref().and_then(validity);
        Some(certificate::rotation(present, next, self.next_trusted_since, now))
    }

    fn rotate(&mut self, rotation: Rotation, now: Timestamp) -> Result<(), AuthorityError> {
        let mut authorities = self.authorities.clone();
        authorities.rotate(rotation, || make(now))?;
        *self = Self { resource_version: self.resource_version.take(), ..Self::of(authorities, None) };
        Ok(())
    }

    /// Writes it over the Secret that was read.
    async fn write(&mut self, secrets: &Api<Secret>, namespace: &str) -> Result<(), AuthorityError> {
        let mut secret = self.secret(namespace);
        secret.metadata.resource_version.clone_from(&self.resource_version);
        self.resource_version = verbs::replace(secrets, &secret).await?.metadata.resource_version;
        Ok(())
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
        let present = field(CERTIFICATE).zip(field(KEY));
        let present = present.filter(|(certificate, _)| self.is_good(certificate, &desired.dns_names));
        let is_new = present.is_none();
        if !is_new && field(&desired.authority_key).as_ref() == Some(&self.bundle) {
            return Ok(());
        }
        let (certificate, key) = match present {
            Some(present) => present,
            None => self.sign(&desired.dns_names)?,
        };
        let data = [(CERTIFICATE, certificate), (KEY, key), (desired.authority_key.as_str(), self.bundle.clone())];
        let mut secret = secret(&desired.namespace, &desired.secret, data);
        secret.metadata.labels = Some(BTreeMap::from([(COMPONENT_LABEL.to_owned(), component.name().to_owned())]));
        verbs::apply(&secrets, &secret).await?;
        tracing::info!(
            secret = desired.secret,
            component = component.name(),
            is_new,
            "a serving certificate was written"
        );
        Ok(())
    }

    /// Whether a certificate is one of this authority for these names, that need not be replaced.
    #[must_use]
    pub fn is_good(&self, certificate: &str, names: &[String]) -> bool {
        read(certificate, &self.authorities.present.certificate)
            .is_some_and(|stored| !certificate::is_due(&stored, names, clock::now()))
    }

    /// A serving certificate for these DNS names and addresses, and its key, PEM.
    ///
    /// # Errors
    /// When one of them is no name, or the authority's key cannot be used.
    pub fn sign(&self, names: &[String]) -> Result<(String, String), AuthorityError> {
        self.sign_at(names, clock::now())
    }

    fn sign_at(&self, names: &[String], now: Timestamp) -> Result<(String, String), AuthorityError> {
        let authority = &self.authorities.present;
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
        let key = KeyPair::generate()?;
        let common_name = names.first().map_or("kubenova", String::as_str);
        let mut params = params(now, common_name, names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    }

    fn secret(&self, namespace: &str) -> Secret {
        let Authorities { present, next, previous } = &self.authorities;
        let mut data =
            vec![(CERTIFICATE, present.certificate.clone()), (KEY, present.key.clone()), (BUNDLE, self.bundle.clone())];
        if let Some(next) = next {
            data.extend([(NEXT_CERTIFICATE, next.certificate.clone()), (NEXT_KEY, next.key.clone())]);
        }
        data.extend(previous.iter().map(|previous| (PREVIOUS_CERTIFICATE, previous.certificate.clone())));
        let mut secret = secret(namespace, SECRET, data);
        secret.metadata.annotations =
            self.next_trusted_since.map(|since| BTreeMap::from([(NEXT_TRUSTED_SINCE.to_owned(), since.to_string())]));
        secret
    }

    fn from_secret(secret: &Secret) -> Option<Self> {
        let pair = |certificate: &str, key: &str| {
            Some(KeyPairPem { certificate: text(secret, certificate)?, key: text(secret, key)? })
        };
        let previous =
            text(secret, PREVIOUS_CERTIFICATE).map(|certificate| KeyPairPem { certificate, key: String::new() });
        let authorities =
            Authorities { present: pair(CERTIFICATE, KEY)?, next: pair(NEXT_CERTIFICATE, NEXT_KEY), previous };
        let since = secret.metadata.annotations.as_ref().and_then(|all| all.get(NEXT_TRUSTED_SINCE)?.parse().ok());
        let resource_version = secret.metadata.resource_version.clone();
        Some(Self { resource_version, ..Self::of(authorities, since) })
    }
}

/// Another authority.
fn make(now: Timestamp) -> Result<KeyPairPem, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = params(now, "KubeNova cluster authority", &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(KeyPairPem { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn params(now: Timestamp, common_name: &str, dns_names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(dns_names.to_vec())?;
    // A common name has room for 64 characters; the names that count are the alternative ones.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Whole days: the certificate library's time type is not ours to build otherwise.
    let (year, month, day) = ymd(now - BACKDATED);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = ymd(now + LIFE);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    Ok(params)
}

fn ymd(at: Timestamp) -> (i32, u8, u8) {
    let date = at.to_zoned(TimeZone::UTC).date();
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    (i32::from(date.year()), part(date.month()), part(date.day()))
}

fn secret<'a>(namespace: &str, name: &str, data: impl IntoIterator<Item = (&'a str, String)>) -> Secret {
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
        validity: Validity {
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        },
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
    use kubenova_operator_core::components::certificate::{ROTATED_EVERY, TRUSTED_BEFORE_USE};

    fn authority(now: Timestamp) -> Authority {
        Authority::of(Authorities::new(make(now).unwrap()), None)
    }

    fn verifies(certificate: &str, bundle: &str) -> bool {
        Pem::iter_from_buffer(bundle.as_bytes()).any(|pem| {
            let pem = pem.unwrap();
            let authority = pem.parse_x509().unwrap();
            let leaf = first_pem(certificate).unwrap();
            leaf.parse_x509().unwrap().verify_signature(Some(authority.public_key())).is_ok()
        })
    }

    #[test]
    fn a_signed_certificate_verifies_under_its_authority_alone() {
        let own = authority(clock::now());
        let names = ["hook.ns.svc".to_owned(), "hook.ns".to_owned()];
        let (certificate, _key) = own.sign(&names).unwrap();
        let stored = read(&certificate, &own.authorities.present.certificate).unwrap();
        assert!(stored.under_present_authority);
        assert_eq!(stored.dns_names, names);
        assert!(!certificate::is_due(&stored, &names, clock::now()));
        let other = authority(clock::now());
        assert!(!read(&certificate, &other.authorities.present.certificate).unwrap().under_present_authority);
        assert!(verifies(&certificate, own.bundle()) && !verifies(&certificate, other.bundle()));
    }

    #[test]
    fn a_certificate_may_be_for_addresses() {
        let authority = authority(clock::now());
        let names = ["10.0.0.7".to_owned(), "2001:db8::7".to_owned(), "leaf.example".to_owned()];
        let (certificate, _key) = authority.sign(&names).unwrap();
        assert!(authority.is_good(&certificate, &names));
        assert!(!authority.is_good(&certificate, &["10.0.0.8".to_owned()]));
    }

    #[test]
    fn a_rotation_is_trusted_before_it_signs_and_the_former_authority_afterwards() {
        let names = ["hook.ns.svc".to_owned()];
        let began = clock::now();
        let mut authority = authority(began);
        let (old, _key) = authority.sign_at(&names, began).unwrap();
        assert_eq!(authority.due(began), Some(Rotation::None));
        let later = began + ROTATED_EVERY;
        assert_eq!(authority.due(later), Some(Rotation::Announce));
        authority.rotate(Rotation::Announce, later).unwrap();
        let announced = authority.bundle().to_owned();
        assert!(verifies(&old, &announced));
        assert!(authority.is_good(&authority.sign_at(&names, clock::now()).unwrap().0, &names), "the old one signs");
        assert_eq!(authority.due(later + TRUSTED_BEFORE_USE), Some(Rotation::None), "not all trust it");

        authority.next_trusted_since = Some(later);
        let mut authority = Authority::from_secret(&authority.secret("kubenova-system")).unwrap();
        let (switched, due) = (later + TRUSTED_BEFORE_USE, Some(Rotation::Switch));
        assert_eq!(authority.due(switched), due);
        authority.rotate(Rotation::Switch, switched).unwrap();
        let (new, _key) = authority.sign_at(&names, switched).unwrap();
        assert!(verifies(&new, &announced), "a webhook configuration that was not written since");
        assert!(verifies(&old, authority.bundle()), "a pod that serves the old certificate still");
        assert_eq!(authority.due(switched), Some(Rotation::None));
        let stored = authority.secret("kubenova-system").data.unwrap();
        assert!(!stored.contains_key(NEXT_KEY) && stored.contains_key(PREVIOUS_CERTIFICATE));
    }

    #[test]
    fn an_authority_survives_its_secret_and_hides_its_key() {
        let authority = authority(clock::now());
        let again = Authority::from_secret(&authority.secret("kubenova-system")).unwrap();
        assert_eq!(again.bundle(), authority.bundle());
        assert!(!format!("{again:?}").contains("PRIVATE"));
    }
}
