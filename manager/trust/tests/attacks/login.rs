//! Who is let in: both factors of a login, each stolen, forged or missing.

use crate::{
    broker::{self, A, B, validity},
    handshake,
    session::{ANSWER_MAX, Broker},
};
use data_encoding::BASE64URL_NOPAD;
use kubenova_runtime::{clock, tls};
use kubenova_test_attacks::stopped;
use kubenova_trust::{
    authority::Validity,
    keyring,
    nats::{NatsIdentity, UserCredentials},
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn no_tls_without_a_certificate_of_the_authority() {
    let broker = Broker::start().await;
    let (foreign, _) = broker::keys();
    let at = |now| Validity { now, lifetime: Duration::from_secs(60) };
    let (over, to_come) = (at(clock::now() - Duration::from_secs(7200)), at(clock::now() + Duration::from_secs(7200)));
    let identity = |keyring: &keyring::Keyring, validity| keyring.authority.client(A, validity).unwrap();
    let (address, ca) = (broker.url.strip_prefix("tls://").unwrap(), broker.keyring.authority.bundle_pem());
    stopped("A-001", &handshake::refusal(address, ca, None).await);
    stopped("A-002", &handshake::refusal(address, ca, Some(&identity(&foreign, validity()))).await);
    stopped("A-003", &handshake::refusal(address, ca, Some(&identity(&broker.keyring, over))).await);
    stopped("A-278", &handshake::refusal(address, ca, Some(&identity(&broker.keyring, to_come))).await);
    broker.cluster(A).await.client.flush().await.unwrap();
}

/// What comes of a login with a good certificate.
async fn login(broker: &Broker, user_jwt: &str, seed: &str) -> String {
    let identity = broker.keyring.authority.client(A, validity()).unwrap();
    let user = UserCredentials { user_jwt: user_jwt.to_owned(), seed: seed.to_owned() };
    let connecting = broker.connect(A, Some(&identity), &user);
    let connected = tokio::time::timeout(ANSWER_MAX, connecting).await.expect("the server answers");
    connected.err().map_or("it is let in".to_owned(), |error| format!("{error:?}"))
}

/// A JWT as `claims` say, signed by this key.
pub(super) fn jwt(claims: &Value, signer: &KeyPair) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(claims));
    let signature = signer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

pub(super) fn claims_of(jwt: &str) -> Value {
    let claims = jwt.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn no_login_but_with_a_jwt_of_the_account_and_its_nkey() {
    let broker = Broker::start().await;
    let user = broker.cluster_user(A);
    let (pair, other) = (KeyPair::from_seed(&user.seed).unwrap(), broker.cluster_user(B));
    let (foreign, _) = broker::keys();
    let forged = foreign.nkeys.cluster_user(A, &pair.public_key(), validity()).unwrap();
    stopped("A-004", &login(&broker, &forged, &user.seed).await);
    let own = KeyPair::new_user().seed().unwrap();
    stopped("A-005", &login(&broker, &user.user_jwt, &own).await);
    let over = Validity { now: clock::now() - Duration::from_secs(3600), lifetime: Duration::from_secs(60) };
    let expired = broker.keyring.nkeys.cluster_user(A, &pair.public_key(), over).unwrap();
    stopped("A-006", &login(&broker, &expired, &user.seed).await);
    let parts: Vec<&str> = user.user_jwt.split('.').collect();
    let mut claims = claims_of(&user.user_jwt);
    claims["name"] = json!(B);
    let renamed = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    stopped("A-007", &login(&broker, &format!("{}.{renamed}.{}", parts[0], parts[2]), &user.seed).await);
    let none = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
    stopped("A-008", &login(&broker, &format!("{none}.{renamed}."), &user.seed).await);
    assert_eq!(login(&broker, &user.user_jwt, &user.seed).await, "it is let in");
    assert_eq!(login(&broker, &other.user_jwt, &other.seed).await, "it is let in");
}

/// The key with which the Manager signs clusters, stolen: it makes clusters, and nothing else.
#[tokio::test]
async fn the_key_of_the_role_makes_nothing_but_clusters() {
    tls::install_provider();
    let (keyring, stored) = broker::keys();
    let (server, keyring) = broker::serve(keyring, None, None);
    let broker = Broker::of(server, keyring).await;
    let name = NatsIdentity::EdgeCluster.as_str();
    let key = stored.iter().find(|key| key.name == name).unwrap();
    let seed = broker::envelope().open(keyring::place(name), &key.sealed).unwrap();
    let stolen = KeyPair::from_seed(std::str::from_utf8(&seed).unwrap()).unwrap();

    let user = broker.cluster_user(A);
    let good = claims_of(&user.user_jwt);
    let core = broker.keyring.nkeys.public(NatsIdentity::Core);
    let changed = |pointer: &str, value: Value| {
        let mut claims = good.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        claims.pointer_mut(parent).unwrap()[last] = value;
        jwt(&claims, &stolen)
    };
    let everything = json!({ "allow": [">"] });
    for (id, pointer, value) in [
        ("A-009", "/nats/pub", everything.clone()),
        ("A-010", "/nats/sub", everything),
        ("A-011", "/nats/bearer_token", json!(true)),
        ("A-012", "/nats/issuer_account", json!(core)),
    ] {
        stopped(id, &login(&broker, &changed(pointer, value), &user.seed).await);
    }
    // Any cluster, and by a name that is a wildcard all of them: what this key is worth.
    for name in [B, "*"] {
        assert_eq!(login(&broker, &changed("/name", json!(name)), &user.seed).await, "it is let in", "{name}");
    }
}
