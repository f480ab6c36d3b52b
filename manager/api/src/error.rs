//! Why a request was refused, on its way from a handler to the outermost layer ([`crate::problem`]), which writes it.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kubenova_core::refusal::{Reason, Refusal};
use kubenova_runtime::telemetry;
use kubenova_store::error::StoreError;

/// Why a handler gave up.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request cannot be carried out as it is.
    #[error("refused")]
    Refused(#[from] Refusal),
    /// The store failed, or a constraint of the database refuses the request.
    #[error("could not use the store")]
    Store(#[from] StoreError),
}

/// Rides on a response until the outermost layer writes it as a problem.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) Refusal);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let refusal = match self {
            Self::Refused(refusal) => refusal,
            Self::Store(cause) => cause.refusal().unwrap_or_else(|| store_failed(&cause)),
        };
        refused(refusal)
    }
}

/// Part of a detail: whether a change was made is not known.
pub(crate) const MAY_BE_CHANGED: &str = "the change may or may not have been made: send the request again with the same \
                                         Idempotency-Key, and it is made once; without one, read the object first";

fn store_failed(cause: &StoreError) -> Refusal {
    let error = telemetry::chain(cause);
    if cause.is_undecided() {
        tracing::warn!(error, "the database did not say whether it committed a change; its caller has to ask again");
        return Refusal::new(Reason::DependencyDown, format!("the database does not respond; {MAY_BE_CHANGED}"));
    }
    if cause.is_transient() {
        tracing::warn!(error, "the database did not respond; the request was refused");
        return Refusal::new(Reason::DependencyDown, "the database does not respond");
    }
    tracing::error!(error, "a request failed because of the database");
    Refusal::new(Reason::Internal, "the request could not be carried out; nothing was changed")
}

/// A response that the outermost layer turns into a problem.
#[must_use]
pub fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    response.extensions_mut().insert(Refused(refusal));
    response
}

/// The answer when a handler panicked.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer calls")]
pub fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
    refused(Refusal::new(Reason::Internal, "the request could not be carried out"))
}
