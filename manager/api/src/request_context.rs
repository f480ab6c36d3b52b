//! One request as its handler sees it: the caller, the time, the idempotency key, `If-Match`, and the query.

use crate::{error::ApiError, request_id, state::AppState};
use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use axum_extra::headers::{ETag, HeaderMapExt as _, IfMatch};
use jiff::Timestamp;
use kubenova_core::{
    access::{Action, Caller, Scope},
    refusal::{Reason, Refusal},
    tenant::Tenant,
};
use kubenova_runtime::{clock, random};
use kubenova_schema::trace::TraceParent;
use kubenova_store::{
    idempotency::Claim,
    write_tx::{WriteContext, WriteTx},
};
use serde::de::DeserializeOwned;
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
        let if_match = parts.headers.typed_try_get::<IfMatch>().map_err(|_| {
            Refusal::new(Reason::HeaderInvalid, "If-Match is not an ETag such as \"0198….3\" in its quotes, or *")
        })?;
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

/// Now, as precisely as Postgres keeps it: what is answered today is read back tomorrow.
fn now() -> Timestamp {
    let now = clock::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl RequestContext {
    /// Opens the transaction of this request; with an idempotency key it waits for an earlier one with the same key.
    pub async fn write(&self, state: &AppState) -> Result<WriteTx, ApiError> {
        let context = WriteContext {
            caller: self.caller.clone(),
            request_id: self.request_id.clone(),
            traceparent: self.traceparent,
            now: self.now,
            new_id: random::uuid_v7,
            claim: self.claim.clone(),
        };
        Ok(state.store.begin_write(context).await?)
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
        let Query(params) = Query::<T>::try_from_uri(&parts.uri).map_err(|cause| {
            Refusal::new(
                Reason::QueryInvalid,
                std::error::Error::source(&cause).map_or_else(|| cause.to_string(), ToString::to_string),
            )
        })?;
        Ok(Self(params))
    }
}

/// The query of every change.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeParams {
    /// Check the request and answer what would happen, but change nothing.
    #[serde(default)]
    pub dry_run: bool,
}
