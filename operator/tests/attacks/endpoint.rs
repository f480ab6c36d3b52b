//! Who stands at an address of the Manager: what a cluster that enrolls or renews there sends, and what it believes.

use crate::{
    CLUSTER, UID,
    false_manager::{Answer, Authority, Certified, serve},
    manager, own,
};
use data_encoding::BASE64;
use kubenova_bus::dial::Dialer;
use kubenova_operator::join::{
    ClusterFacts,
    enroll::{self, Attempt},
    identity::{Identity, Keys},
    renew,
};
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, PublicKey},
    renewal::{NONCE_PATH, NonceAnswer, RenewalAnswer, RenewalRequest},
    signature::{PayloadType, sha256_hex},
    token::EnrollmentToken,
};
use kubenova_test_attacks::stopped;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, SanType};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const HOST: &str = "127.0.0.1";
/// What the Manager says to a token that it does not know.
const REFUSED: &str = "EnrollmentTokenUnknown";

fn pin(authority: &Authority) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(authority.certificate.der()).unwrap();
    sha256_hex(certificate.tbs_certificate.subject_pki.raw)
}

/// What comes of an enrollment at a server with this certificate, and whether the server was shown the token.
async fn enrolled(pinned: &Authority, certified: Certified) -> (String, bool) {
    enrolled_at(HOST, pinned, certified, None).await
}

/// The same, at this address and of a cluster with this identity.
async fn enrolled_at(
    host: &str,
    pinned: &Authority,
    certified: Certified,
    in_use: Option<&Identity>,
) -> (String, bool) {
    let shown = Arc::new(AtomicBool::new(false));
    let shows = Arc::clone(&shown);
    let url = serve(host, certified, move |_, _| {
        shows.store(true, Ordering::SeqCst);
        let body = br#"{"reason":"ENROLLMENT_TOKEN_UNKNOWN","detail":"no such token"}"#.to_vec();
        Answer { status: 401, body, signature: None }
    })
    .await;
    let token = EnrollmentToken {
        cluster_id: CLUSTER.to_owned(),
        endpoints: vec![url.clone()],
        ca_spki_sha256: pin(pinned),
        secret: "secret".to_owned(),
    };
    let keys = Keys::make(&token.encode(), UID).unwrap();
    let facts = ClusterFacts { cluster_uid: UID.to_owned(), kubernetes_version: "1.34.0".to_owned(), nodes: None };
    let dialer = Dialer::default();
    let attempt = Attempt { token: &token, keys: &keys, facts: &facts, dialer: &dialer, in_use };
    let request = attempt.request().unwrap();
    let sent = enroll::send(&url, &attempt, &request, &mut ConditionSet::new()).await;
    let said = match sent {
        Ok(answered) => answered.answer.err().map_or("it is enrolled".to_owned(), |error| error.to_string()),
        Err(error) => format!("{}: {error}", error.condition),
    };
    (said, shown.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_token_is_shown_to_the_manager_that_it_names_alone() {
    kubenova_runtime::tls::install_provider();
    let (ours, other) = (Authority::new(), Authority::new());
    let expired = |parameters: &mut rcgen::CertificateParams| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let to_come = |parameters: &mut rcgen::CertificateParams| {
        parameters.not_before = rcgen::date_time_ymd(3000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(3001, 1, 1);
    };
    let of_client = |parameters: &mut rcgen::CertificateParams| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let of_bridge = |parameters: &mut rcgen::CertificateParams| {
        parameters.subject_alt_names.pop();
        parameters.subject_alt_names.push(SanType::URI("spiffe://kubenova.test/bridge".try_into().unwrap()));
    };
    for (id, certified) in [
        ("A-225", other.certify(HOST, |_| {})),
        ("A-226", other.certify(HOST, |_| {}).with_chain_of(&ours)),
        ("A-227", ours.certify("broker.example.com", |_| {})),
        ("A-286", ours.certify(HOST, of_bridge)),
        ("A-228", ours.certify(HOST, expired)),
        ("A-280", ours.certify(HOST, to_come)),
        ("A-229", ours.certify(HOST, of_client)),
    ] {
        let (said, shown) = enrolled(&ours, certified).await;
        stopped(id, &said);
        assert!(!shown, "{id}: the token was shown");
    }
    let (said, shown) = enrolled(&ours, ours.certify(HOST, |_| {})).await;
    assert!(said.contains(REFUSED) && shown, "{said}");
}

#[tokio::test]
async fn a_manager_is_reached_at_an_address_of_ipv6_that_its_certificate_names() {
    kubenova_runtime::tls::install_provider();
    let ours = Authority::new();
    let (said, shown) = enrolled_at("::1", &ours, ours.certify("::1", |_| {}), None).await;
    assert!(said.contains(REFUSED) && shown, "{said}");
    let (said, shown) = enrolled_at("::1", &ours, ours.certify("::2", |_| {}), None).await;
    assert!(said.contains("NameMismatch") && !shown, "{said}");
}

/// That cluster's record would have two installations, and be quarantined.
#[tokio::test]
async fn a_token_for_another_cluster_of_the_same_manager_is_not_shown() {
    kubenova_runtime::tls::install_provider();
    let (ours, other) = (Authority::new(), Authority::new());
    let in_use = |cluster: &str, authority: &Authority| {
        let keys = Keys::make("kn1.x", UID).unwrap();
        let answer = identity(authority, "", &keys.csr_pem().unwrap());
        Identity::replacing(None, keys, EnrollmentAnswer { cluster_id: cluster.to_owned(), ..answer })
    };
    let another = in_use("c1123456789abcdefghjkmnpqrs", &ours);
    let (said, shown) = enrolled_at(HOST, &ours, ours.certify(HOST, |_| {}), Some(&another)).await;
    assert!(said.starts_with("TokenAccepted: OtherCluster") && said.contains(another.cluster_id()), "{said}");
    assert!(!shown, "the token was shown");
    for in_use in [in_use(CLUSTER, &ours), in_use("c1123456789abcdefghjkmnpqrs", &other)] {
        let (said, shown) = enrolled_at(HOST, &ours, ours.certify(HOST, |_| {}), Some(&in_use)).await;
        assert!(said.contains(REFUSED) && shown, "{said}");
    }
}

fn public(key: &kubenova_schema::signature::SigningKey) -> PublicKey {
    PublicKey { key_id: key.id().to_owned(), public_key: BASE64.encode(&key.public_key()) }
}

/// What the Manager answers to a renewal.
fn identity(authority: &Authority, url: &str, csr_pem: &str) -> EnrollmentAnswer {
    let request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
    let certificate = request.signed_by(&authority.issuer()).unwrap();
    EnrollmentAnswer {
        key_set_id: String::new(),
        leaf_urls: Vec::new(),
        cluster_id: CLUSTER.to_owned(),
        incarnation: "1".to_owned(),
        epoch: 1,
        certificate_chain_pem: certificate.pem(),
        user_jwt: String::new(),
        broker_urls: vec!["tls://hub".to_owned()],
        ca_bundle_pem: authority.certificate.pem(),
        command_keys: vec![public(&manager())],
        endpoints: vec![url.to_owned()],
        issued_at: "2030-01-01T00:00:00Z".to_owned(),
        expires_at: "2030-01-02T00:00:00Z".to_owned(),
        manager_time: "2030-01-01T00:00:00Z".to_owned(),
    }
}

/// Changes an answer on its way to a cluster, and signs it.
type Forge = fn(RenewalAnswer) -> (RenewalAnswer, Signed);

/// By whom, and as what.
#[derive(Clone, Copy)]
enum Signed {
    No,
    ByOwnKey,
    AsHelloAnswer,
    ByManager,
}

/// What comes of a renewal at a server with this certificate that answers so.
async fn renewed(trusted: &Authority, certified: Certified, forge: Forge) -> String {
    let trusted_pem = trusted.certificate.pem();
    let issuing = Authority::new();
    let url = serve(HOST, certified, move |path, body| {
        let (body, signature) = if path == NONCE_PATH {
            let nonce = NonceAnswer { nonce: "this one".to_owned(), expires_at: "2030-01-01T00:00:00Z".to_owned() };
            (serde_json::to_vec(&nonce).unwrap(), None)
        } else {
            let request: RenewalRequest = serde_json::from_slice(body).unwrap();
            let identity = identity(&issuing, "https://manager.example.com", &request.csr_pem);
            let (answer, signed) = forge(RenewalAnswer { nonce: request.nonce, identity });
            let body = serde_json::to_vec(&answer).unwrap();
            let signature = match signed {
                Signed::No => None,
                Signed::ByOwnKey => Some(own().sign(PayloadType::RenewalAnswer, &body)),
                Signed::AsHelloAnswer => Some(manager().sign(PayloadType::HelloAnswer, &body)),
                Signed::ByManager => Some(manager().sign(PayloadType::RenewalAnswer, &body)),
            };
            (body, signature)
        };
        Answer { status: 200, body, signature }
    })
    .await;
    let keys = Keys::make("kn1.x", UID).unwrap();
    let csr = keys.csr_pem().unwrap();
    let mut present = identity(trusted, &url, &csr);
    present.ca_bundle_pem = trusted_pem;
    let present = Identity::replacing(None, keys, present);
    match renew::renew(&present, &Dialer::default()).await {
        Ok(_) => "it is believed".to_owned(),
        Err(error) => format!("{}: {error}", error.error().condition),
    }
}

/// A certificate of the Manager's authority for its name is no proof: the broker has one, too.
#[tokio::test]
async fn only_the_manager_s_signature_renews() {
    kubenova_runtime::tls::install_provider();
    let (ours, other) = (Authority::new(), Authority::new());
    let honest: Forge = |answer| (answer, Signed::ByManager);
    stopped("A-230", &renewed(&ours, other.certify(HOST, |_| {}), honest).await);
    let forges: [(&str, Forge); 7] = [
        ("A-231", |answer| (answer, Signed::No)),
        ("A-232", |mut answer| {
            answer.identity.command_keys = vec![public(&own())];
            (answer, Signed::ByOwnKey)
        }),
        ("A-233", |answer| (answer, Signed::AsHelloAnswer)),
        ("A-234", |answer| (RenewalAnswer { nonce: "an earlier one".to_owned(), ..answer }, Signed::ByManager)),
        ("A-235", |mut answer| {
            answer.identity.cluster_id = "c1123456789abcdefghjkmnpqrs".to_owned();
            (answer, Signed::ByManager)
        }),
        ("A-236", |mut answer| {
            let recorded = Keys::make("kn1.x", UID).unwrap().csr_pem().unwrap();
            answer.identity.certificate_chain_pem = identity(&Authority::new(), "", &recorded).certificate_chain_pem;
            (answer, Signed::ByManager)
        }),
        ("A-237", |mut answer| {
            answer.identity.expires_at = answer.identity.issued_at.clone();
            (answer, Signed::ByManager)
        }),
    ];
    for (id, forge) in forges {
        stopped(id, &renewed(&ours, ours.certify(HOST, |_| {}), forge).await);
    }
    assert_eq!(renewed(&ours, ours.certify(HOST, |_| {}), honest).await, "it is believed");
}
