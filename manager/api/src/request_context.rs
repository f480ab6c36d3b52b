//! One request as its handler sees it: the caller, the time, the idempotency key, `If-Match`, and the query.

use crate::{error::ApiError, request_id, response::MutationResponse, shape, state::AppState};
use axum::{
    extract::{FromRequestParts, Query},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use axum_extra::headers::{ETag, HeaderMapExt as _, IfMatch};
use jiff::Timestamp;
use kubenova_core::{
    access::{Action, Caller, Scope},
    refusal::{Reason, Refusal},
    tenant::Tenant,
};
use kubenova_runtime::{clock, failpoint, random};
use kubenova_schema::trace::TraceParent;
use kubenova_store::{
    idempotency::Claim,
    write_tx::{WriteContext, WriteTx},
};
use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};
use tracing::{Span, field};

/// The caller and how far its role reaches; [`crate::authenticate`] puts it on every request that it lets through.
#[derive(Debug, Clone)]
pub struct Authorized {
    /// The caller.
    pub caller: Caller,
    /// What the route does.
    pub action: Action,
    /// The objects that the caller may reach.
    pub scope: Scope,
}

/// One request of an authenticated route.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The caller.
    pub caller: Caller,
    /// What the route does.
    pub action: Action,
    /// The objects that the caller may reach.
    pub scope: Scope,
    /// When the request arrived.
    pub now: Timestamp,
    request_id: String,
    traceparent: Option<TraceParent>,
    claim: Option<Claim>,
    if_match: Option<IfMatch>,
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let authorized = parts.extensions.get::<Authorized>().cloned();
        let Authorized { caller, action, scope } =
            authorized.ok_or_else(|| Refusal::new(Reason::Unauthenticated, "this path needs a token"))?;
        let if_match = if_match(&parts.headers)?;
        Ok(Self {
            caller,
            action,
            scope,
            now: now(),
            request_id: request_id::of(&parts.extensions),
            traceparent: parts.extensions.get::<TraceParent>().copied(),
            claim: parts.extensions.get::<Claim>().cloned(),
            if_match,
        })
    }
}

/// The typed header also takes texts without quotes for tags that match nothing, which hides a mistake.
fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Refusal> {
    let invalid =
        || Refusal::new(Reason::HeaderInvalid, "If-Match is not an ETag such as \"0198….3\" in its quotes, or *");
    let well_formed = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.trim() == "*" || are_etags(text));
    if !headers.get_all(header::IF_MATCH).iter().all(well_formed) {
        return Err(invalid());
    }
    headers.typed_try_get::<IfMatch>().map_err(|_| invalid())
}

/// Whether this is a list of entity tags (RFC 9110, 8.8.3).
fn are_etags(text: &str) -> bool {
    let mut rest = text.trim();
    loop {
        let opaque = rest.strip_prefix("W/").unwrap_or(rest);
        let Some((tag, after)) = opaque.strip_prefix('"').and_then(|opened| opened.split_once('"')) else {
            return false;
        };
        if !tag.bytes().all(|byte| byte.is_ascii_graphic()) {
            return false;
        }
        rest = after.trim_start();
        if rest.is_empty() {
            return true;
        }
        let Some(next) = rest.strip_prefix(',') else { return false };
        rest = next.trim_start();
    }
}

/// Now, as precisely as Postgres keeps it: what is answered today is read back tomorrow.
fn now() -> Timestamp {
    let now = clock::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl RequestContext {
    /// Carries this request out in one transaction ([`kubenova_store::pool::Store::write`]): the response is committed
    /// with the change, a refusal or a dry run leaves nothing. With an idempotency key it fails while another request with
    /// the same key is in progress. Waits a
    /// while, then fails, while too many changes of the same tenant or caller are being carried out.
    pub async fn write(
        &self,
        state: &AppState,
        dry_run: bool,
        work: impl AsyncFnOnce(&mut WriteTx) -> Result<MutationResponse, ApiError>,
    ) -> Result<Response, ApiError> {
        let context = WriteContext {
            caller: self.caller.clone(),
            request_id: self.request_id.clone(),
            traceparent: self.traceparent,
            now: self.now,
            new_id: random::uuid_v7,
            claim: self.claim.clone(),
            dry_run,
        };
        let _slot = state.writes.take(&self.caller).await?;
        let carried_out = state.store.write(context, async |tx| {
            let response = work(tx).await?;
            let stored = response.stored();
            Ok::<_, ApiError>((response, stored))
        });
        let response = carried_out.await?;
        if dry_run {
            return Ok(response.of_dry_run());
        }
        failpoint::passing("api.committed");
        Ok(response.into_response())
    }

    /// The tenant, or [`Reason::TenantNotFound`]: a tenant out of the caller's reach does not exist for it.
    pub fn own(&self, tenant: Option<Tenant>, named: &str) -> Result<Tenant, Refusal> {
        let own = tenant
            .filter(|tenant| self.scope.sees(tenant.id))
            .ok_or_else(|| Refusal::new(Reason::TenantNotFound, format!("there is no tenant {named:?}")))?;
        // A caller that is limited to a tenant sees no other, and its tenant stands in the span already.
        if self.caller.tenant.is_none() {
            Span::current().record("tenant.id", field::display(own.id));
        }
        Ok(own)
    }

    /// Refuses with [`Reason::EtagMismatch`] when the caller changes a version of the object that it has not read.
    pub fn matches(&self, etag: &str) -> Result<(), Refusal> {
        let Some(if_match) = &self.if_match else { return Ok(()) };
        let current: ETag = etag.parse().expect("an id, a dot and a number in quotes are an ETag");
        if if_match.precondition_passes(&current) {
            return Ok(());
        }
        Err(Refusal::new(Reason::EtagMismatch, format!("the object's ETag is {etag}, not the one in If-Match")))
    }
}

/// The query. An unknown parameter is refused: it is a misspelled one that would otherwise have no effect.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|cause| Refusal::new(Reason::QueryInvalid, cause.to_string()))?;
        Ok(read_query(pairs).map(Self)?)
    }
}

/// Reads a query as one shape, as bodies are read, so that mistakes are described in the same words.
fn read_query<T: DeserializeOwned>(pairs: Vec<(String, String)>) -> Result<T, Refusal> {
    let mut parameters = Map::new();
    for (name, value) in pairs {
        if parameters.contains_key(&name) {
            return Err(Refusal::new(Reason::QueryInvalid, format!("{name} is there more than once; send it once")));
        }
        parameters.insert(name, Value::String(value));
    }
    shape::read(&Value::Object(parameters)).map_err(|refusal| {
        Refusal::new(
            Reason::QueryInvalid,
            refusal.detail.replace("there is no such field", "there is no such parameter"),
        )
    })
}

/// Reads a parameter that is `true` or `false`; all values of a query are texts.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(D::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

/// The query of every change.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeParams {
    /// Check the request and answer what would happen, but change nothing. The answer has the header `Dry-Run: true`.
    #[serde(default, deserialize_with = "flag")]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use crate::{
        router::openapi,
        routes::{
            applications::testing::{APPS, SHOP, World, form},
            dead_letters,
        },
    };
    use axum::http::Method;
    use kubenova_core::{cluster::ClusterState, command::CommandState, refusal::Reason};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn mistakes_in_a_query_are_told_in_plain_words() {
        let world = World::new().await;
        for (path, detail) in [
            ("/api/v1/clusters?foo=1", "foo: there is no such parameter; possible are cursor, limit"),
            ("/api/v1/clusters?limit=1&limit=2", "limit is there more than once; send it once"),
            ("/api/v1/clusters?limit=x", "limit: \"x\" is not a whole number from 1 to 500"),
            ("/api/v1/commands?state=lost", "state: it is \"lost\", possible are queued, sent,"),
        ] {
            let problem = world.api.get(path).send(&world.admin).await.refused(Reason::QueryInvalid);
            assert!(problem["detail"].as_str().unwrap().starts_with(detail), "{problem}");
        }
        let dry = world.api.delete(&format!("{SHOP}?dryRun=perhaps")).send(&world.admin).await;
        let problem = dry.refused(Reason::QueryInvalid);
        assert_eq!(problem["detail"], "dryRun: \"perhaps\" is neither true nor false");
    }

    #[test]
    fn entity_tags_are_told_from_other_texts() {
        for good in ["\"a.1\"", "\"a.1\", W/\"b,2\"", " \"\" "] {
            assert!(super::are_etags(good), "{good}");
        }
        for bad in ["", "0", "a.1", "\"a.1", "\"a.1\" \"b\"", "\"a.1\",", "\"a b\"", "w/\"a\"", "*, \"a\""] {
            assert!(!super::are_etags(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_if_match_without_quotes_is_a_mistake_and_not_another_version() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        for bad in ["", "0", "abc.1"] {
            let delete = world.api.delete(SHOP).header("if-match", bad).send(&world.admin).await;
            delete.refused(Reason::HeaderInvalid);
        }
        world.api.delete(SHOP).header("if-match", "\"0\"").send(&world.admin).await.refused(Reason::EtagMismatch);
        world.api.delete(SHOP).header("if-match", "*").send(&world.admin).await.is(200);
    }

    /// Every change of the API in a state in which it has something to do.
    async fn changes(world: &World) -> Vec<(&'static str, Method, String, Value)> {
        let shop = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        world.api.report(&world.west, shop, CommandState::Failed, "No").await;
        let queued = world.get("/api/v1/commands?state=queued").await.ok(200)["items"][0]["id"].clone();
        let queued = format!("/api/v1/commands/{}/cancel", queued.as_str().unwrap());
        let token = world.get("/api/v1/clusters/west/enrollments").await.ok(200)["items"][0]["id"].clone();
        let token = format!("/api/v1/clusters/west/enrollments/{}", token.as_str().unwrap());
        let waiting = "insert into enrollment_approvals (enrollment_id, kubernetes_uid, keys, fingerprint, operator_version, kubernetes_version,
                                                         peer, requested_at, last_requested_at)
                       select e.id, 'u', 'k', 'sha256:ab', '', '', '', now(), now() from enrollments e join clusters c on c.id = e.cluster_id
                       where c.name = 'west'";
        world.api.database.execute(waiting).await;
        let rollout = async |cluster: &str| {
            let body = json!({ "component": "capsule", "change": { "version": "0.15.0" }, "clusters": { "names": [cluster] } });
            let answer = world.api.post("/api/v1/rollouts").json(&body).send(&world.admin).await.is(202);
            answer.header("location").to_owned()
        };
        let (stopped, running) = (rollout("west").await, rollout("east").await);
        let stop = "update rollouts set state = 'stopped' where id = (select min(id::text)::uuid from rollouts);
                    update rollout_clusters set before = '{}' where rollout_id = (select min(id::text)::uuid from rollouts)";
        world.api.database.execute(stop).await;
        let letter = dead_letters::testing::store(&world.api, "", "s", b"x").await;
        world.api.cluster_in_state("copied", ClusterState::Quarantined).await;
        world.api.cluster_in_state("left", ClusterState::Detached).await;
        let (cluster, blog) =
            (json!({ "name": "north" }), json!({ "name": "blog", "image": "nginx:1", "clusters": ["west"] }));
        let moved = json!({ "name": "shop", "image": "nginx:2", "clusters": ["east"] });
        let changes = [
            ("createCluster", Method::POST, "/api/v1/clusters", cluster.clone()),
            ("createClusterAtRoot", Method::POST, "/clusters", cluster),
            ("createEnrollment", Method::POST, "/api/v1/clusters/west/enrollments", Value::Null),
            ("revokeEnrollment", Method::DELETE, token.as_str(), Value::Null),
            ("approveEnrollment", Method::POST, &format!("{token}/approve"), json!({ "fingerprint": "sha256:ab" })),
            ("rejectEnrollment", Method::POST, &format!("{token}/reject"), json!({ "reason": "no" })),
            ("changeCluster", Method::PATCH, "/api/v1/clusters/west", json!({ "approval": "manual" })),
            ("replaceComponent", Method::PUT, "/api/v1/clusters/west/components/capsule", json!({ "replicas": 2 })),
            (
                "createRollout",
                Method::POST,
                "/api/v1/rollouts",
                json!({ "component": "kubevela", "change": { "replicas": 2 }, "clusters": { "names": ["west"] } }),
            ),
            ("pauseRollout", Method::POST, &format!("{running}/pause"), Value::Null),
            ("resumeRollout", Method::POST, &format!("{stopped}/resume"), Value::Null),
            ("cancelRollout", Method::POST, &format!("{running}/cancel"), Value::Null),
            ("rollbackRollout", Method::POST, &format!("{stopped}/rollback"), Value::Null),
            ("compareCluster", Method::POST, "/api/v1/clusters/west/sync", Value::Null),
            ("releaseCluster", Method::POST, "/api/v1/clusters/copied/release", Value::Null),
            ("revokeCluster", Method::POST, "/api/v1/clusters/west/revoke", json!({ "cluster": "west" })),
            ("detachCluster", Method::POST, "/api/v1/clusters/west/detach", json!({ "cluster": "west" })),
            ("undeleteCluster", Method::POST, "/api/v1/clusters/left/undelete", Value::Null),
            ("purgeCluster", Method::POST, "/api/v1/clusters/west/purge", json!({ "cluster": "west" })),
            (
                "confirmDeletions",
                Method::POST,
                "/api/v1/clusters/west/deletion-confirmations",
                json!({ "tenants": ["acme"] }),
            ),
            ("restartApplication", Method::POST, &format!("{SHOP}/restart"), Value::Null),
            ("restartApplicationAtRoot", Method::POST, "/users/acme/apps/shop/restart", Value::Null),
            ("suspendWorkflow", Method::POST, &format!("{SHOP}/workflow/suspend"), Value::Null),
            ("resumeWorkflow", Method::POST, &format!("{SHOP}/workflow/resume"), Value::Null),
            ("terminateWorkflow", Method::POST, &format!("{SHOP}/workflow/terminate"), Value::Null),
            ("createTenant", Method::POST, "/api/v1/tenants", json!({ "name": "new", "clusters": ["west"] })),
            ("createPlacement", Method::POST, "/api/v1/tenants/other/placements", json!({ "cluster": "east" })),
            ("createApplication", Method::POST, APPS, blog.clone()),
            ("createApplicationAtRoot", Method::POST, "/users/acme/apps", blog.clone()),
            ("createApplicationOfUser", Method::POST, "/api/v1/users/acme/apps", blog),
            ("replaceApplication", Method::PUT, SHOP, moved),
            ("deleteApplication", Method::DELETE, SHOP, Value::Null),
            ("cancelCommand", Method::POST, queued.as_str(), Value::Null),
            ("retryCommand", Method::POST, &format!("/api/v1/commands/{shop}/retry"), Value::Null),
            ("discardDeadLetter", Method::DELETE, &format!("/api/v1/dead-letters/{letter}"), Value::Null),
        ];
        changes.map(|(operation, method, path, body)| (operation, method, path.to_owned(), body)).to_vec()
    }

    fn operations_with_dry_run() -> BTreeSet<String> {
        let document: Value = serde_json::from_str(&openapi()).unwrap();
        let operations =
            document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
        let takes_it = |operation: &&Value| {
            operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "dryRun"))
        };
        operations.filter(takes_it).map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_dry_run_of_any_change_leaves_nothing() {
        let world = World::new().await;
        let changes = changes(&world).await;
        let tried: BTreeSet<String> = changes.iter().map(|change| change.0.to_owned()).collect();
        assert_eq!(tried, operations_with_dry_run(), "left: tried here; right: what the document has");
        let before = world.api.database.rows().await;
        for (operation, method, path, body) in changes {
            let send = async |query: &str| {
                let request = world.api.request(method.clone(), &format!("{path}{query}")).key(operation);
                let request = if body.is_null() { request } else { request.json(&body) };
                request.send(&world.admin).await
            };
            assert_eq!(send("?dryRun=true").await.is(200).header("dry-run"), "true", "{operation}");
            assert_eq!(world.api.database.rows().await, before, "{operation}");
        }
    }
}
