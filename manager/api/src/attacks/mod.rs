//! Attacks on the endpoints of enrollment and renewal, each with its case of the matrix (`tests/attacks`).

mod enrollment;
mod renewal;

use crate::testing::TestAnswer;
use kubenova_test_attacks::stopped;
use serde_json::Value;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// Asserts that a case ended with the refusal that stops it: status, reason and detail.
#[track_caller]
fn refused(id: &str, answer: &TestAnswer) {
    let said = |part: &str| answer.body[part].as_str().unwrap_or_default().to_owned();
    stopped(id, &format!("{} {}: {}", answer.status.as_u16(), said("reason"), said("detail")));
}

/// Whose certificate an answer contains, and for which key (DER, hex).
fn certified(identity: &Value) -> (Vec<String>, Vec<u8>) {
    let chain = identity["certificateChainPem"].as_str().unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&pem.contents).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => format!("{other:?}"),
    });
    (names.collect(), certificate.tbs_certificate.subject_pki.raw.to_vec())
}

/// A signing request that asks for other names, and its key (DER).
fn claiming(name: &str, uri: &str) -> (String, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.subject_alt_names = vec![
        rcgen::SanType::URI(uri.try_into().unwrap()),
        rcgen::SanType::DnsName("manager.example.com".try_into().unwrap()),
    ];
    parameters.is_ca = rcgen::IsCa::NoCa;
    let csr = parameters.serialize_request(&key).unwrap().pem().unwrap();
    (csr, rcgen::PublicKeyData::subject_public_key_info(&key))
}
