//! `POST /enrollment/v1` with a token that was guessed, stolen, cut or spent, and with keys and names of others.

use super::{certified, claiming, refused};
use crate::testing::{
    TestApi,
    enrollment::{Installation, UID, waiting},
};
use axum::http::StatusCode;
use data_encoding::BASE64;
use kubenova_schema::{sealing, signature::PayloadType};
use kubenova_test_attacks::stopped;
use serde_json::{Value, json};

const OTHER_UID: &str = "0198c1d2-0000-7000-8000-000000000001";

fn request(cluster: &str, uid: &str) -> Value {
    Installation::new(uid).enrollment(cluster)
}

#[tokio::test]
async fn a_token_that_is_none_or_another_s_is_refused() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    let (other, other_token) = api.cluster_with_token(&admin, "b").await;
    let body = request(&cluster, UID);
    let secret = token.text().to_owned();
    refused("A-123", &api.enroll(&TestApi::anonymous(), &body).await);
    refused("A-124", &api.enroll(&TestApi::token(&"A".repeat(secret.len())), &body).await);
    refused("A-125", &api.enroll(&TestApi::token(&secret[..secret.len() - 1]), &body).await);
    refused("A-126", &api.enroll(&token, &request(&other, UID)).await);
    refused("A-127", &api.enroll(&admin, &body).await);
    api.enroll(&token, &body).await.ok(200);
    api.enroll(&other_token, &request(&other, OTHER_UID)).await.ok(200);
}

#[tokio::test]
async fn a_token_has_an_end() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    for (id, name, ends, lasts) in [
        (
            "A-128",
            "a",
            "update enrollments set expires_at = 'epoch'",
            "update enrollments set expires_at = now() + interval '1 hour'",
        ),
        ("A-129", "b", "update enrollments set revoked_at = now()", "update enrollments set revoked_at = null"),
        ("A-130", "c", "update clusters set state = 'detached'", "update clusters set state = 'pendingBootstrap'"),
    ] {
        let (cluster, token) = api.cluster_with_token(&admin, name).await;
        let body = request(&cluster, &kubenova_runtime::random::uuid_v4().to_string());
        api.database.execute(ends).await;
        refused(id, &api.enroll(&token, &body).await);
        api.database.execute(lasts).await;
        api.enroll(&token, &body).await.ok(200);
    }
}

#[tokio::test]
async fn a_token_is_for_one_installation() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    let right = request(&cluster, UID);
    api.enroll(&token, &right).await.ok(200);
    refused("A-131", &api.enroll(&token, &request(&cluster, UID)).await);
    // The same keys get their answer again until the cluster has connected: it may have been lost.
    let mut seen = right.clone();
    seen["clusterUid"] = json!(OTHER_UID);
    refused("A-132", &api.enroll(&token, &seen).await);
    api.enroll(&token, &right).await.ok(200);
    let session = "insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
        select id, 1, '1', 'boot', 1, now(), now(), 'epoch' from clusters";
    api.database.execute(session).await;
    refused("A-133", &api.enroll(&token, &right).await);

    let (cluster, token) = api.cluster_with_token(&admin, "race").await;
    let bodies: Vec<Value> = (0..20).map(|_| request(&cluster, OTHER_UID)).collect();
    let answers = futures::future::join_all(bodies.iter().map(|body| api.enroll(&token, body))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!(won.len(), 1, "{answers:?}");
    for answer in lost {
        refused("A-134", answer);
    }
}

#[tokio::test]
async fn a_thief_of_a_token_is_not_approved_in_the_place_of_who_waits() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (path, token, body) = waiting(&api, &admin, "a").await;
    let thief = request(body["clusterId"].as_str().unwrap(), UID);
    refused("A-135", &api.enroll(&token, &thief).await);
    let approve = async |fingerprint: &Value| {
        api.post(&format!("{path}/approve")).json(&json!({ "fingerprint": fingerprint })).send(&admin).await
    };
    let other = json!(format!("sha256:{}", "0".repeat(64)));
    refused("A-136", &approve(&other).await);
    let shown = api.get(&path).send(&admin).await.ok(200)["request"]["fingerprint"].clone();
    approve(&shown).await.ok(200);
    refused("A-137", &api.enroll(&token, &thief).await);
    api.enroll(&token, &body).await.ok(200);
}

#[tokio::test]
async fn two_kubernetes_clusters_are_never_one() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    api.enroll(&token, &request(&cluster, UID)).await.ok(200);
    let (old, stolen) = (api.further_token(&admin, &cluster).await, api.further_token(&admin, &cluster).await);
    refused("A-138", &api.enroll(&stolen, &request(&cluster, OTHER_UID)).await);
    refused("A-139", &api.enroll(&old, &request(&cluster, UID)).await);
    let (second, second_token) = api.cluster_with_token(&admin, "b").await;
    refused("A-140", &api.enroll(&second_token, &request(&second, UID)).await);
    let new = api.further_token(&admin, &cluster).await;
    api.enroll(&new, &request(&cluster, UID)).await.ok(200);
}

#[tokio::test]
async fn keys_that_are_not_proved_are_not_enrolled() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (first, first_token) = api.cluster_with_token(&admin, "first").await;
    let first_keys = Installation::new(OTHER_UID);
    api.enroll(&first_token, &first_keys.enrollment(&first)).await.ok(200);

    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    let own = Installation::new(UID);
    let good = own.enrollment(&cluster);
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let sealing_key = |by: &Installation, of: &str, private: u8| {
        let public_key = sealing::public_key(&[private; sealing::KEY_BYTES]).unwrap();
        let signature = by.sign(PayloadType::SealingKey, &sealing::statement(of, UID, &public_key));
        json!({ "publicKey": public_key, "signature": signature })
    };
    let zero = BASE64.encode(&[0; sealing::KEY_BYTES]);
    let signed_zero = own.sign(PayloadType::SealingKey, &sealing::statement(&cluster, UID, &zero));
    let stolen = Installation { uid: UID.to_owned(), ..first_keys };
    for (id, body) in [
        ("A-141", with("csrPem", json!(resigned(good["csrPem"].as_str().unwrap())))),
        ("A-142", with("sealingKey", sealing_key(&Installation::new(UID), &cluster, 7))),
        ("A-143", with("sealingKey", sealing_key(&own, &first, 7))),
        ("A-144", with("sealingKey", json!({ "publicKey": zero, "signature": signed_zero }))),
        ("A-145", stolen.enrollment(&cluster)),
        ("A-146", with("clusterId", json!("*"))),
    ] {
        refused(id, &api.enroll(&token, &body).await);
    }
    let account = Installation { nkey: nkeys::KeyPair::new_account(), uid: UID.to_owned() };
    refused("A-147", &api.enroll(&token, &account.enrollment(&cluster)).await);
    api.enroll(&token, &good).await.ok(200);
}

/// A signing request whose signature is not by its key: who has only the public key of another makes no other.
fn resigned(csr_pem: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).unwrap();
    let mut der = pem.contents;
    *der.last_mut().unwrap() ^= 1;
    let lines: Vec<String> =
        BASE64.encode(&der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_signing_request_does_not_choose_who_it_is() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (other, _) = api.cluster_with_token(&admin, "other").await;
    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    let (csr, key) = claiming("manager", &format!("spiffe://test/cluster/{other}/1"));
    let mut body = request(&cluster, UID);
    body["csrPem"] = json!(csr);
    let (names, certified) = certified(&api.enroll(&token, &body).await.ok(200));
    stopped("A-148", &format!("the certificate names {names:?} alone").replace(&cluster, "the cluster of the token"));
    assert_eq!(certified, key, "its own key");
}

#[tokio::test]
async fn guesses_and_floods_are_limited() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (cluster, token) = api.cluster_with_token(&admin, "a").await;
    let body = request(&cluster, UID);
    let oversized = json!({ "csrPem": "a".repeat(64 * 1024) });
    refused("A-149", &api.enroll(&token, &oversized).await);
    let mut answer = api.enroll(&TestApi::token("guess"), &body).await;
    for _ in 0..200 {
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        answer = api.enroll(&TestApi::token("guess"), &body).await;
    }
    refused("A-150", &answer);
    api.enroll(&token, &body).await.ok(200);
    let thief = request(&cluster, UID);
    let mut answer = api.enroll(&token, &thief).await;
    for _ in 0..200 {
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        answer = api.enroll(&token, &thief).await;
    }
    refused("A-151", &answer);
}
