//! Enrollment and renewal in tests: the endpoints, and installations that use them.

use super::{TestAnswer, TestApi, Token};
use crate::{
    enrollment::{self, Enrollment},
    enrollment_limits::EnrollmentLimits,
    identity_issuer::IdentityIssuer,
    renewal::{self, Renewal},
};
use axum::extract::ConnectInfo;
use data_encoding::BASE64;
use kubenova_core::access::Role;
use kubenova_runtime::clock;
use kubenova_schema::{
    enrollment::PATH,
    renewal::{self as renewals, NONCE_PATH},
    sealing,
    signature::{HEADER, PayloadType, nkey_encoding},
    token::EnrollmentToken,
};
use kubenova_trust::{
    current::CurrentKeyring,
    envelope::Envelope,
    keyring::{self, Keyring},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

/// UID of the Kubernetes cluster of an installation that does not say otherwise.
pub(crate) const UID: &str = "0198c1d2-0000-7000-8000-000000000000";

/// An Operator with keys of its own.
pub(crate) struct Installation {
    pub(crate) nkey: nkeys::KeyPair,
    pub(crate) uid: String,
}

impl Installation {
    pub(crate) fn new(uid: &str) -> Self {
        Self { nkey: nkeys::KeyPair::new_user(), uid: uid.to_owned() }
    }

    /// What it asks for with a token; each call makes a new key for the certificate.
    pub(crate) fn enrollment(&self, cluster: &str) -> Value {
        let public_key = sealing::public_key(&[7; sealing::KEY_BYTES]).unwrap();
        let signature = self.sign(PayloadType::SealingKey, &sealing::statement(cluster, &self.uid, &public_key));
        json!({
            "sealingKey": { "publicKey": public_key, "signature": signature },
            "clusterId": cluster, "clusterUid": self.uid, "csrPem": csr(),
            "nkeyPublic": self.nkey.public_key(),
            "operatorVersion": "0.1.0", "kubernetesVersion": "1.34.0", "nodes": 3, "at": "2026-01-01T00:00:00.000Z",
        })
    }

    /// What it asks for when it renews.
    pub(crate) fn renewal(&self, cluster: &str, incarnation: &str, nonce: &str) -> Value {
        json!({
            "clusterId": cluster, "clusterUid": self.uid, "incarnation": incarnation, "csrPem": csr(), "nonce": nonce,
            "operatorVersion": "0.1.0",
        })
    }

    /// Its signature over a body.
    pub(crate) fn sign(&self, payload_type: PayloadType, body: &str) -> String {
        let signature = self.nkey.sign(&nkey_encoding(payload_type, body.as_bytes())).unwrap();
        format!("{}:{}", self.nkey.public_key(), BASE64.encode(&signature))
    }
}

/// A signing request with a key of its own.
fn csr() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

/// A cluster with manual approval, and an installation that waits there: the path of its token, the token, and what it asks.
pub(crate) async fn waiting(api: &TestApi, admin: &Token, name: &str) -> (String, Token, Value) {
    let cluster = api.post("/api/v1/clusters").json(&json!({ "name": name, "approval": "manual" })).send(admin).await;
    let cluster = cluster.ok(201);
    let token = EnrollmentToken::decode(cluster["enrollment"]["token"].as_str().unwrap()).unwrap();
    let (id, token) = (token.cluster_id.clone(), TestApi::token(&token.secret));
    let body = Installation::new(&kubenova_runtime::random::uuid_v4().to_string()).enrollment(&id);
    api.enroll(&token, &body).await.ok(202);
    let path = format!("/api/v1/clusters/{id}/enrollments/{}", cluster["enrollment"]["id"].as_str().unwrap());
    (path, token, body)
}

impl TestApi {
    /// The API with enrollment and renewal, and an administrator.
    pub(crate) async fn start_with_enrollment() -> (Self, Token) {
        let (api, admin, _) = Self::start_with_keyring().await;
        (api, admin)
    }

    /// The same, and the Manager's keys.
    pub(crate) async fn start_with_keyring() -> (Self, Token, Arc<Keyring>) {
        let envelope = Envelope::from_bytes(&[7; 32]).unwrap();
        let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
        let current = CurrentKeyring::fixed(Keyring::open(&keys, &envelope, "test").unwrap());
        let keyring = current.get();
        let issuer = IdentityIssuer {
            keyring: current,
            broker_urls: vec!["tls://hub.example.com:4222".to_owned()],
            leaf_urls: vec!["tls://hub.example.com:7422".to_owned()],
            endpoints: vec!["https://manager.example.com".to_owned()],
            certificate_lifetime: Duration::from_secs(3600),
            user_jwt_lifetime: Duration::from_secs(1800),
        };
        let api = Self::start_with(|store| {
            let (store, limits) = (store.clone(), EnrollmentLimits::new(issuer.life()));
            let renewal = Renewal { store: store.clone(), issuer: issuer.clone(), limits: limits.clone() };
            enrollment::router(Enrollment { store, issuer, limits })
                .merge(renewal::router(renewal))
                .layer(axum::Extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1)))))
        })
        .await;
        let admin = api.caller(Role::Admin, None).await;
        (api, admin, keyring)
    }

    /// A cluster's id and the secret of its token.
    pub(crate) async fn cluster_with_token(&self, admin: &Token, name: &str) -> (String, Token) {
        let cluster = self.post("/api/v1/clusters").json(&json!({ "name": name })).send(admin).await.ok(201);
        let token = EnrollmentToken::decode(cluster["enrollment"]["token"].as_str().unwrap()).unwrap();
        (token.cluster_id.clone(), Self::token(&token.secret))
    }

    /// The secret of a further token.
    pub(crate) async fn further_token(&self, admin: &Token, name: &str) -> Token {
        let made = self.post(&format!("/api/v1/clusters/{name}/enrollments")).send(admin).await.ok(201);
        Self::token(&EnrollmentToken::decode(made["token"].as_str().unwrap()).unwrap().secret)
    }

    /// Sends an enrollment.
    pub(crate) async fn enroll(&self, token: &Token, body: &Value) -> TestAnswer {
        self.post(PATH).json(body).send(token).await
    }

    /// A nonce.
    pub(crate) async fn nonce(&self) -> String {
        self.get(NONCE_PATH).send(&Self::anonymous()).await.ok(200)["nonce"].as_str().unwrap().to_owned()
    }

    /// Sends a renewal with this signature.
    pub(crate) async fn renew(&self, body: &Value, signature: &str) -> TestAnswer {
        let post = self.post(renewals::PATH).json(body);
        let post = if signature.is_empty() { post } else { post.header(HEADER, signature) };
        post.send(&Self::anonymous()).await
    }
}
