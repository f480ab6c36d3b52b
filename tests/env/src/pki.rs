//! Keys and certificates of a test cluster: its authority, its servers, its callers.
//!
//! Guarantees: nothing here outlives the run, and nothing here is the product's own trust code.

use std::net::IpAddr;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new authority of that name.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate().context("could not make a key")?;
        let mut params = params(name)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("could not sign the authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A serving certificate for these names and addresses.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Identity> {
        let mut params = params(names.first().copied().unwrap_or("server"))?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into().context("not a DNS name")?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate; to Kubernetes, `name` is the user and `group` the group.
    pub fn client(&self, name: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = params(name)?;
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("could not make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("could not sign a certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The key that signs service account tokens, and the public half that checks them, both PEM.
///
/// Two documents, because the API server reads no public half out of a PKCS#8 private key.
pub fn service_account_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("could not make a key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("could not begin a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_signed_by_the_authority() {
        let authority = Authority::new("test").unwrap();
        let server = authority.server(&["localhost"], &["127.0.0.1".parse().unwrap()]).unwrap();
        let client = authority.client("someone", Some("system:masters")).unwrap();
        for identity in [server, client] {
            assert!(identity.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
            assert!(identity.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        }
    }
}
