//! `POST /enrollment/v1/renew` by who does not hold the key of the cluster, holds another one, or holds a copy of it.

use super::{certified, claiming, refused};
use crate::testing::{
    TestAnswer, TestApi, Token,
    enrollment::{Installation, UID},
};
use axum::http::StatusCode;
use jiff::SignedDuration;
use kubenova_runtime::clock;
use kubenova_schema::{
    renewal::PATH,
    signature::{HEADER, PayloadType},
};
use kubenova_test_attacks::stopped;
use serde_json::{Value, json};

const OTHER_UID: &str = "0198c1d2-0000-7000-8000-000000000001";

/// A cluster that is enrolled.
struct Enrolled {
    installation: Installation,
    cluster: String,
}

impl Enrolled {
    async fn new(api: &TestApi, admin: &Token, name: &str, uid: &str) -> Self {
        let (cluster, token) = api.cluster_with_token(admin, name).await;
        let installation = Installation::new(uid);
        api.enroll(&token, &installation.enrollment(&cluster)).await.ok(200);
        Self { installation, cluster }
    }

    /// Its own request with this nonce.
    fn request(&self, nonce: &str) -> Value {
        self.installation.renewal(&self.cluster, "1", nonce)
    }

    fn sign(&self, body: &Value) -> String {
        self.installation.sign(PayloadType::Renewal, &body.to_string())
    }

    async fn renew(&self, api: &TestApi, nonce: &str) -> TestAnswer {
        let body = self.request(nonce);
        api.renew(&body, &self.sign(&body)).await
    }
}

#[tokio::test]
async fn who_does_not_hold_the_key_of_the_cluster_renews_nothing() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let a = Enrolled::new(&api, &admin, "a", UID).await;
    let b = Enrolled::new(&api, &admin, "b", OTHER_UID).await;
    let nonce = api.nonce().await;
    let body = a.request(&nonce);
    let thief = Installation::new(UID);
    let other = a.request(&nonce);
    for (id, signature) in [
        ("A-152", String::new()),
        ("A-153", "a signature".to_owned()),
        ("A-154", thief.sign(PayloadType::Renewal, &body.to_string())),
        ("A-155", a.installation.sign(PayloadType::Usage, &body.to_string())),
        ("A-156", a.sign(&other)),
    ] {
        refused(id, &api.renew(&body, &signature).await);
    }
    let relabeled = format!("{}:{}", a.installation.nkey.public_key(), b.sign(&body).split_once(':').unwrap().1);
    refused("A-157", &api.renew(&body, &relabeled).await);
    let of_b = a.installation.renewal(&b.cluster, "1", &nonce);
    refused("A-158", &api.renew(&of_b, &a.sign(&of_b)).await);
    let next = a.installation.renewal(&a.cluster, "2", &nonce);
    refused("A-159", &api.renew(&next, &a.sign(&next)).await);
    let text = body.to_string();
    let cut = &text[..text.len() - 1];
    let post = api.post(PATH).body("application/json", cut).header(HEADER, a.sign(&body));
    refused("A-160", &post.send(&TestApi::anonymous()).await);
    let twice = text.replacen('{', &format!("{{\"clusterId\":\"{}\",", b.cluster), 1);
    let signature = a.installation.sign(PayloadType::Renewal, &twice);
    let post = api.post(PATH).body("application/json", &twice).header(HEADER, signature);
    refused("A-161", &post.send(&TestApi::anonymous()).await);
    a.renew(&api, &nonce).await.ok(200);
    b.renew(&api, &nonce).await.ok(200);
}

#[tokio::test]
async fn a_nonce_is_of_this_installation_and_of_this_minute() {
    let (api, admin, keyring) = TestApi::start_with_keyring().await;
    let (_, _, other) = TestApi::start_with_keyring().await;
    let a = Enrolled::new(&api, &admin, "a", UID).await;
    let after = |seconds: i64| keyring.nonces.issue(clock::now() + SignedDuration::from_secs(seconds));
    let good = after(0);
    let (head, tail) = good.split_at(8);
    let changed = format!("{}{tail}", head.replace(|_: char| true, "A"));
    for (id, nonce) in
        [("A-162", after(-121)), ("A-163", after(60)), ("A-164", changed), ("A-165", other.nonces.issue(clock::now()))]
    {
        refused(id, &a.renew(&api, &nonce).await);
    }
    // Of another Manager of the installation, whose clock differs by less than is allowed.
    for nonce in [after(-90), after(20)] {
        a.renew(&api, &nonce).await.ok(200);
    }
}

#[tokio::test]
async fn what_a_renewal_is_answered_is_for_the_key_in_it_and_the_cluster_of_its_record() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (a, b) = (Enrolled::new(&api, &admin, "a", UID).await, Enrolled::new(&api, &admin, "b", OTHER_UID).await);
    let (csr, key) = claiming("manager", &format!("spiffe://test/cluster/{}/1", b.cluster));
    let mut body = a.request(&api.nonce().await);
    body["csrPem"] = json!(csr);
    let signature = a.sign(&body);
    let identity = api.renew(&body, &signature).await.ok(200)["identity"].clone();
    let (names, _) = certified(&identity);
    stopped("A-166", &format!("the certificate names {names:?} alone").replace(&a.cluster, "the cluster of the key"));
    // The same bytes again, by who saw them: what it gets is for a key that it does not have.
    let again = api.renew(&body, &signature).await.ok(200)["identity"].clone();
    let same_key = certified(&again).1 == key;
    stopped(
        "A-167",
        if same_key { "a certificate for the key in the request" } else { "a certificate for another key" },
    );
}

#[tokio::test]
async fn who_holds_a_copy_of_the_key_renews_no_longer_than_the_cluster_is_trusted() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let a = Enrolled::new(&api, &admin, "a", UID).await;
    let asks = async || a.renew(&api, &api.nonce().await).await;
    for (id, sql, back) in [
        ("A-168", "update clusters set state = 'revoked'", "update clusters set state = 'enrolled'"),
        ("A-169", "update clusters set state = 'detached'", "update clusters set state = 'enrolled'"),
        ("A-170", "update clusters set incarnation = 2", "update clusters set incarnation = 1"),
        (
            "A-171",
            "update identities set expires_at = now() - interval '91 days'",
            "update identities set expires_at = now()",
        ),
    ] {
        api.database.execute(sql).await;
        refused(id, &asks().await);
        api.database.execute(back).await;
        asks().await.ok(200);
    }
    let nkey = nkeys::KeyPair::from_seed(&a.installation.nkey.seed().unwrap()).unwrap();
    let copy = Enrolled { installation: Installation { nkey, uid: OTHER_UID.to_owned() }, cluster: a.cluster.clone() };
    refused("A-172", &copy.renew(&api, &api.nonce().await).await);
    assert_eq!(api.get("/api/v1/clusters/a").send(&admin).await.ok(200)["state"], "quarantined");
}

#[tokio::test]
async fn who_holds_a_key_does_not_make_the_manager_sign_without_end() {
    let (api, admin) = TestApi::start_with_enrollment().await;
    let (a, b) = (Enrolled::new(&api, &admin, "a", UID).await, Enrolled::new(&api, &admin, "b", OTHER_UID).await);
    let mut answer = a.renew(&api, &api.nonce().await).await;
    for _ in 0..100 {
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        answer = a.renew(&api, &api.nonce().await).await;
    }
    refused("A-173", &answer);
    b.renew(&api, &api.nonce().await).await.ok(200);
}
