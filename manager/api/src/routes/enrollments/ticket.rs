//! A new token: its secret, what is kept of it, and what is shown once.

use crate::{request_context::RequestContext, state::AppState, token};
use data_encoding::BASE64URL_NOPAD;
use jiff::SignedDuration;
use kubenova_api_types::enrollments::{Enrollment, EnrollmentCommands};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::random;
use kubenova_schema::token::EnrollmentToken;
use kubenova_store::enrollments::NewEnrollment;

/// A fresh token: what is kept of it, and what is shown once.
pub(crate) struct Ticket {
    pub(crate) kept: NewEnrollment,
    pub(crate) shown: Enrollment,
}

/// Makes a token that works for this long.
pub(crate) fn make(state: &AppState, ctx: &RequestContext, cluster: &ClusterId, ttl: SignedDuration) -> Ticket {
    let settings = &state.settings.enrollment;
    let ca_sha256 = settings.ca.spki_sha256();
    let id = random::uuid_v7();
    let secret = BASE64URL_NOPAD.encode(&random::bytes::<32>());
    let expires_at = ctx.now.checked_add(ttl).unwrap_or(ctx.now);
    let kept = NewEnrollment {
        id,
        cluster_id: cluster.clone(),
        secret_sha256: token::sha256(&secret),
        created_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
        expires_at,
    };
    let token = EnrollmentToken {
        cluster_id: cluster.to_string(),
        endpoints: settings.endpoints.clone(),
        ca_spki_sha256: ca_sha256.clone(),
        secret,
    };
    let shown = Enrollment {
        id: id.to_string(),
        token: Some(token.encode()),
        expires_at,
        ca_sha256,
        endpoints: settings.endpoints.clone(),
        commands: EnrollmentCommands { helm: helm(&settings.chart) },
        revoked: Vec::new(),
    };
    Ticket { kept, shown }
}

/// The token is read from a file: every process of a machine can see command lines. A cluster that enrolls again keeps the values that its
/// site has chosen, its sovereign policy among them.
fn helm(chart: &str) -> String {
    format!(
        "helm upgrade --install kubenova-operator {chart} --namespace kubenova-system --create-namespace --reset-then-reuse-values \
         --set-file enrollment.token=./kn-token"
    )
}
