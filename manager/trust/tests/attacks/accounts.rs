//! Account JWTs: who may change what counts at the broker, and what stays void.

use crate::{
    attacks::login::{claims_of, jwt},
    broker::{A, validity},
    session::{ANSWER_MAX, Broker, Session},
};
use kubenova_runtime::clock;
use kubenova_schema::subjects::servers;
use kubenova_test_attacks::stopped;
use kubenova_trust::{
    nats::{AccountJwt, Revocations, UserCredentials},
    nats_config::NatsConfig,
};
use nkeys::KeyPair;
use serde_json::json;
use std::collections::BTreeMap;

/// The account JWTs of this broker, with the cluster's key revoked or not.
fn accounts(broker: &Broker, revoked: Option<&str>, kept: &[AccountJwt]) -> Vec<AccountJwt> {
    let mut revocations = Revocations::default();
    revocations.edge.extend(revoked.map(|nkey| (nkey.to_owned(), clock::now().as_second() + 1)));
    let kept: BTreeMap<_, _> = kept.iter().map(|account| (account.name.to_owned(), account.signed.clone())).collect();
    broker.keyring.nkeys.account_jwts(&revocations, &kept, clock::now()).unwrap()
}

fn edge(accounts: &[AccountJwt]) -> &str {
    &accounts.iter().find(|account| account.name == "EDGE").unwrap().signed.jwt
}

async fn system(broker: &Broker) -> Session {
    let identity = broker.keyring.authority.client("system", validity()).unwrap();
    let user = broker.keyring.nkeys.system_user(validity()).unwrap();
    broker.connect("manager-system", Some(&identity), &user).await.unwrap()
}

async fn refusal(broker: &Broker, user: &UserCredentials) -> String {
    let identity = broker.keyring.authority.client(A, validity()).unwrap();
    broker.connect(A, Some(&identity), user).await.err().map_or("it is let in".to_owned(), |error| format!("{error:?}"))
}

#[tokio::test]
async fn a_revoked_cluster_is_out() {
    let broker = Broker::start().await;
    let before = accounts(&broker, None, &[]);
    let system = system(&broker).await;
    system.ask(servers::PUSH_ACCOUNT, edge(&before)).await;
    let user = broker.cluster_user(A);
    let identity = broker.keyring.authority.client(A, validity()).unwrap();
    let mut live = broker.connect(A, Some(&identity), &user).await.unwrap();

    let nkey = KeyPair::from_seed(&user.seed).unwrap().public_key();
    let after = accounts(&broker, Some(&nkey), &before);
    let answer = system.ask(servers::PUSH_ACCOUNT, edge(&after)).await;
    assert!(answer.contains("\"code\":200"), "{answer}");
    let said = tokio::time::timeout(ANSWER_MAX, live.said_about("revoked")).await;
    stopped("A-086", &said.expect("the live connection ends"));
    stopped("A-087", &refusal(&broker, &user).await);

    // An older JWT of the account counts as well: whoever has the Manager's user in the system account, and a JWT of before, brings the
    // cluster back until the Manager pushes the newest one again, which it does every minute.
    system.ask(servers::PUSH_ACCOUNT, edge(&before)).await;
    assert_eq!(refusal(&broker, &user).await, "it is let in");
    system.ask(servers::PUSH_ACCOUNT, edge(&after)).await;
    stopped("A-088", &refusal(&broker, &user).await);

    // Enrolled again it has another key.
    assert_eq!(refusal(&broker, &broker.cluster_user(A)).await, "it is let in");
}

/// An account of clusters as an attacker would have it: any user that its own key signs may do everything.
#[tokio::test]
async fn an_account_counts_as_its_operator_signed_it() {
    let broker = Broker::start().await;
    let system = system(&broker).await;
    let good = accounts(&broker, None, &[]);
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let mut claims = claims_of(edge(&good));
    let edge_public = claims["sub"].as_str().unwrap().to_owned();
    claims["iss"] = json!(operator.public_key());
    claims["iat"] = json!(clock::now().as_second() + 5);
    claims["nats"]["signing_keys"] = json!([account.public_key()]);
    system.ask(servers::PUSH_ACCOUNT, &jwt(&claims, &operator)).await;
    let claims = json!({
        "jti": "x", "iat": clock::now().as_second(), "iss": account.public_key(), "name": A, "sub": user.public_key(),
        "nats": { "type": "user", "version": 2, "issuer_account": edge_public, "subs": -1, "data": -1, "payload": -1 },
    });
    let forged = UserCredentials { user_jwt: jwt(&claims, &account), seed: user.seed().unwrap() };
    stopped("A-089", &refusal(&broker, &forged).await);
    // It is no account any more, though: no user of it is let in until the Manager pushes the newest again, which it does every minute.
    assert_ne!(refusal(&broker, &broker.cluster_user(A)).await, "it is let in");
    system.ask(servers::PUSH_ACCOUNT, edge(&good)).await;
    assert_eq!(refusal(&broker, &broker.cluster_user(A)).await, "it is let in");
}

/// A server whose store of account JWTs was lost begins with those of its configuration.
#[tokio::test]
async fn a_wiped_resolver_knows_the_revocations_of_the_newest_configuration() {
    let mut broker = Broker::start().await;
    let user = broker.cluster_user(A);
    assert_eq!(refusal(&broker, &user).await, "it is let in");
    let nkey = KeyPair::from_seed(&user.seed).unwrap().public_key();
    let accounts = accounts(&broker, Some(&nkey), &[]);
    let folder = broker.server.folder().to_owned();
    let hosts = ["127.0.0.1".to_owned()];
    let config = NatsConfig::on_loopback(&folder, &hosts, clock::now(), &accounts);
    std::fs::remove_dir_all(folder.join("jwt")).unwrap();
    let path = config.write(&broker.keyring.authority, &broker.keyring.nkeys).unwrap();
    broker.server.start_again(&path);
    broker.url = broker.server.url().await.replace("nats://", "tls://");
    stopped("A-090", &refusal(&broker, &user).await);
    assert_eq!(refusal(&broker, &broker.cluster_user(A)).await, "it is let in");
}
