//! Bad REST input: every refusal is a problem with a stable reason and a remedy, and nothing reaches the outbox.

use anyhow::{Context as _, Result};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::rest::{Answer, Rest};
use kubenova_scenarios::steps;
use serde_json::json;

/// Problem of this status and reason, with words for a person.
fn problem(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.body["reason"], reason, "{}", answer.body);
    assert!(
        answer.header("content-type").is_some_and(|it| it.starts_with("application/problem+json")),
        "{:?}",
        answer.headers
    );
    for field in ["title", "detail", "remedy"] {
        assert!(answer.body[field].as_str().is_some_and(|it| !it.is_empty()), "no {field}: {}", answer.body);
    }
}

fn commands(platform: &Platform) -> Result<String> {
    platform.postgres.query("kubenova", "select count(*) from commands")
}

/// A tenant owner's view, with a token made as an administrator would.
fn owner_of(platform: &Platform, tenant: &str) -> Result<Rest> {
    let file = platform.sandbox.folder("tokens")?.join(tenant);
    let out = file.to_str().context("the token file's name is not text")?;
    platform.manager.run(&[
        "token",
        "create",
        "--role",
        "tenantOwner",
        "--tenant",
        tenant,
        "--subject",
        "owner",
        "--out",
        out,
    ])?;
    Ok(platform.rest.with_token(&std::fs::read_to_string(&file)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn access_bad_input_gets_a_problem_and_reaches_no_outbox() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let rest = &platform.rest;
    platform.create_cluster("alpha").await?;
    platform.create_cluster("beta").await?;
    steps::create_tenant(&platform, "acme", &["alpha", "beta"]).await?;
    steps::create_tenant(&platform, "globex", &["alpha"]).await?;
    // One key, many at once: one is accepted, the others get the same answer or one that says to repeat.
    let body = serde_json::to_vec(&json!({ "name": "once" }))?;
    let requests =
        (0..12).map(|_| {
            let (rest, body) = (rest.clone(), body.clone());
            async move {
                rest.post_raw("/api/v1/clusters", "application/json", body, &[("idempotency-key", "k-once")]).await
            }
        });
    for answer in futures::future::join_all(requests).await {
        let answer = answer?;
        if answer.status != 201 {
            problem(&answer, 409, "IDEMPOTENCY_KEY_IN_USE");
        }
    }
    let before = commands(&platform)?;

    let app = steps::web_application("shop", 1, &["alpha"]);
    problem(&rest.post("/api/v1/tenants/unknown/apps", &app).await?, 404, "TENANT_NOT_FOUND");
    let quotes = json!({ "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": "quotes", "annotations": { "a": "\"".repeat(200_000) } },
        "spec": { "components": [{ "name": "web", "type": "webservice", "properties": { "image": "shop/web:1" } }] } });
    problem(&rest.post("/api/v1/tenants/acme/apps?clusters=alpha", &quotes).await?, 413, "BODY_TOO_LARGE");
    problem(&rest.post("/api/v1/tenants", &json!({ "name": "a\0b" })).await?, 400, "BODY_MALFORMED");
    problem(&rest.get("/api/v1/tenants/acme%00").await?, 404, "ROUTE_NOT_FOUND");
    problem(&rest.get("/api/v1/commands?cluster=%00").await?, 400, "QUERY_INVALID");
    problem(&rest.post("/api/v1/clusters", &json!({ "name": "Not A Name" })).await?, 422, "NAME_INVALID");
    problem(
        &rest.post("/api/v1/tenants", &json!({ "name": "a".repeat(51), "clusters": ["alpha"] })).await?,
        422,
        "NAME_INVALID",
    );
    problem(&rest.post("/api/v1/clusters", &json!({ "name": "alpha" })).await?, 409, "NAME_TAKEN");
    problem(&rest.post("/api/v1/tenants", &json!({ "name": "acme", "clusters": ["alpha"] })).await?, 409, "NAME_TAKEN");
    problem(
        &rest.post("/api/v1/tenants", &json!({ "name": "acme2", "clusters": ["gamma"] })).await?,
        422,
        "FIELD_INVALID",
    );

    let yaml =
        |body: &str| rest.post_raw("/api/v1/tenants/globex/apps", "application/yaml", body.as_bytes().to_vec(), &[]);
    problem(&yaml("a: [1,\n b: }").await?, 400, "BODY_MALFORMED");
    let foreign = "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {name: shop, namespace: acme-apps}\nspec: {components: [{name: web, type: webservice, properties: {image: x}}]}\n";
    problem(&yaml(foreign).await?, 422, "APPLICATION_NAMESPACE");

    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    problem(
        &rest.post_raw("/api/v1/tenants", "application/json", large.into_bytes(), &[]).await?,
        413,
        "BODY_TOO_LARGE",
    );
    problem(&rest.with_token("knt_wrong").get("/api/v1/clusters").await?, 401, "UNAUTHENTICATED");
    problem(&rest.get("/api/v1/no-such-path").await?, 404, "ROUTE_NOT_FOUND");

    let owner = owner_of(&platform, "acme")?;
    problem(&owner.get("/api/v1/tenants/globex").await?, 404, "TENANT_NOT_FOUND");
    problem(&owner.post("/api/v1/tenants/globex/apps", &app).await?, 404, "TENANT_NOT_FOUND");
    owner.get("/api/v1/tenants/acme").await?.expect(200)?;

    assert_eq!(commands(&platform)?, before, "nothing that was refused reached the outbox");
    repeats_change_nothing(&platform).await
}

/// The same POST with the same key is carried out once; another body with that key is refused.
async fn repeats_change_nothing(platform: &Platform) -> Result<()> {
    let body = |name: &str| json!({ "name": name, "clusters": ["alpha"] }).to_string().into_bytes();
    let key = [("idempotency-key", "k-1")];
    let post = |name: &'static str| platform.rest.post_raw("/api/v1/tenants", "application/json", body(name), &key);
    let first = post("initech").await?;
    let second = post("initech").await?;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    problem(&post("hooli").await?, 422, "IDEMPOTENCY_KEY_REUSED");
    let tenants =
        platform.postgres.query("kubenova", "select count(*) from tenants where name in ('initech', 'hooli')")?;
    assert_eq!(tenants.trim(), "1");
    Ok(())
}
