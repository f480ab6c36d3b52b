//! One request as its handler sees it: who asks, since when, with which key, and what a query may say.

use crate::{error::ApiError, state::AppState};
use axum::{
    extract::{FromRequestParts, Query},
    http::{header, request::Parts},
};
use jiff::Timestamp;
use kubenova_core::{
    access::{Action, Caller, Scope},
    refusal::{Reason, Refusal},
    tenant::Tenant,
};
use kubenova_runtime::{clock, random};
use kubenova_store::{
    idempotency::Claim,
    write_tx::{WriteContext, WriteTx},
};
use serde::de::DeserializeOwned;

/// The request's id, in every answer, problem, log line and audit row.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Who asks and how far they may go; put on the request by [`crate::authenticate`], which refused everybody else.
#[derive(Debug, Clone)]
pub struct Authorized {
    /// Who.
    pub caller: Caller,
    /// What this route is.
    pub action: Action,
    /// How far.
    pub scope: Scope,
}

/// One request of an authenticated route.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Who asks.
    pub caller: Caller,
    /// What this route is.
    pub action: Action,
    /// How far the caller may go.
    pub scope: Scope,
    /// When it came.
    pub now: Timestamp,
    request_id: String,
    claim: Option<Claim>,
    if_match: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let authorized = parts.extensions.get::<Authorized>().cloned();
        let Authorized { caller, action, scope } =
            authorized.ok_or_else(|| Refusal::new(Reason::Unauthenticated, "this path needs a token"))?;
        let if_match = parts.headers.get(header::IF_MATCH).map(|value| value.to_str().map(str::to_owned)).transpose();
        let if_match = if_match.map_err(|_| Refusal::new(Reason::HeaderInvalid, "If-Match is an ETag in ASCII"))?;
        Ok(Self {
            caller,
            action,
            scope,
            now: now(),
            request_id: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
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
    /// Opens the transaction of this request.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn write(&self, state: &AppState) -> Result<WriteTx, ApiError> {
        let context = WriteContext {
            caller: self.caller.clone(),
            request_id: self.request_id.clone(),
            now: self.now,
            new_id: random::uuid_v7,
            claim: self.claim.clone(),
        };
        Ok(state.store.write(context).await?)
    }

    /// The tenant when it exists for this caller; another's does not.
    ///
    /// # Errors
    /// With [`Reason::TenantNotFound`].
    pub fn own(&self, tenant: Option<Tenant>, named: &str) -> Result<Tenant, Refusal> {
        tenant
            .filter(|tenant| self.scope.sees(tenant.id))
            .ok_or_else(|| Refusal::new(Reason::TenantNotFound, format!("there is no tenant {named:?}")))
    }

    /// Checks `If-Match` against what is.
    ///
    /// # Errors
    /// With [`Reason::EtagMismatch`] when the caller changed something it has not seen.
    pub fn matches(&self, etag: &str) -> Result<(), Refusal> {
        let Some(wanted) = &self.if_match else { return Ok(()) };
        if wanted.split(',').map(str::trim).any(|one| one == "*" || one == etag) {
            return Ok(());
        }
        Err(Refusal::new(Reason::EtagMismatch, format!("If-Match is {wanted}, the object's ETag is {etag}")))
    }
}

/// The query, strictly: an unknown parameter is refused, for it is a typing error.
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

/// Query of every change.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeParams {
    /// Check and answer as if, but change nothing.
    #[serde(default)]
    pub dry_run: bool,
}
