//! `POST /clusters/{cluster}/deletion-confirmations`: more tenants may be deleted than are deleted at once.

use super::found;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use jiff::Timestamp;
use kubenova_api_types::clusters::{DeletionConfirmation, DeletionConfirmationCreate};
use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    deletion_confirmation::{TENANTS_MAX, check_not_after, not_after},
    refusal::{Reason, Refusal},
    tenant::{TenantId, TenantRef},
};
use kubenova_runtime::random;
use kubenova_schema::{deletion_confirmation, v1::DeletionStatement};
use kubenova_store::{
    clusters,
    connection::Connection,
    deletion_confirmations::{self, NewConfirmation},
    tenants,
};

/// Confirm that tenants of a cluster may be deleted.
///
/// More than five tenants, or a tenth of a cluster's, are not deleted within ten minutes: the deletes beyond that wait with
/// `waitingFor: DeletionConfirmation`. This lets the named ones pass. Where the sovereign policy of the cluster names keys of persons
/// (`deletionConfirmationKeys`), the statement must be one that such a person signed with `kubenova-manager confirm-deletions`; where
/// it names none, naming the tenants is enough.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/deletion-confirmations", tag = "clusters", operation_id = "confirmDeletions",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = DeletionConfirmationCreate,
    responses((status = 201, description = "Stored; the deletes that waited are sent", body = DeletionConfirmation)))]
pub async fn confirm_deletions(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<DeletionConfirmationCreate>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::find(tx.connection(), &named).await?, &named)?;
        let given = match &body {
            DeletionConfirmationCreate {
                statement: Some(text),
                signature: Some(signature),
                tenants: None,
                valid_seconds: None,
            } => signed(&cluster, text, signature, ctx.now)?,
            DeletionConfirmationCreate { statement: None, signature: None, tenants: Some(tenants), valid_seconds } => {
                let until = not_after(*valid_seconds, ctx.now)?;
                stated(tx.connection(), &cluster, tenants, until, &ctx.caller.subject).await?
            }
            _ => {
                let detail = "send either statement and signature, or tenants and perhaps validSeconds";
                return Err(Refusal::at(Reason::FieldInvalid, "/statement", detail).into());
            }
        };
        let new = NewConfirmation {
            id: random::uuid_v7(),
            cluster: cluster.id.clone(),
            tenants: given.tenants,
            statement: given.text,
            signature: given.signature,
            not_after: given.not_after,
            created_at: ctx.now,
            created_by: ctx.caller.subject.clone(),
        };
        let released = deletion_confirmations::insert(tx.connection(), &new).await?;
        tx.audit(ctx.action, "confirm-deletions", &format!("cluster/{}", cluster.id), None).await?;
        let key = new.signature.split_once(':').map(|(key, _)| key.to_owned());
        Ok(MutationResponse::created(&DeletionConfirmation {
            id: new.id.to_string(),
            cluster_id: cluster.id.to_string(),
            tenant_ids: new.tenants.iter().map(ToString::to_string).collect(),
            not_after: new.not_after,
            confirmed_by: given.confirmed_by,
            signed_by: key,
            released: released.to_string(),
        }))
    })
    .await
}

/// What was confirmed.
struct Given {
    text: String,
    signature: String,
    tenants: Vec<TenantId>,
    not_after: Timestamp,
    confirmed_by: String,
}

/// A statement that a person signed. Whose key it is, only the cluster's policy knows.
fn signed(cluster: &Cluster, text: &str, signature: &str, now: Timestamp) -> Result<Given, Refusal> {
    let invalid = |detail: &str| Refusal::at(Reason::FieldInvalid, "/statement", detail);
    let statement = deletion_confirmation::read(text);
    let statement =
        statement.ok_or_else(|| invalid("this is not a statement of kubenova-manager confirm-deletions"))?;
    if statement.cluster_id != cluster.id.as_str() || Some(&statement.cluster_uid) != cluster.kubernetes_uid.as_ref() {
        return Err(invalid("the statement is about another cluster, or another Kubernetes cluster of this name"));
    }
    let tenants: Option<Vec<TenantId>> = statement.tenant_ids.iter().map(|id| TenantId::parse(id)).collect();
    let tenants = tenants.filter(|ids| !ids.is_empty() && ids.len() <= TENANTS_MAX);
    let tenants = tenants.ok_or_else(|| invalid("the statement names no tenants by their ids, or too many"))?;
    let not_after = statement.not_after.parse().map_err(|_| invalid("the statement says no time"))?;
    check_not_after(not_after, now)?;
    if !signature.contains(':') {
        let detail = "the signature is not <key id>:<base64>";
        return Err(Refusal::at(Reason::FieldInvalid, "/signature", detail));
    }
    let (text, signature) = (text.to_owned(), signature.to_owned());
    Ok(Given { text, signature, tenants, not_after, confirmed_by: statement.confirmed_by })
}

/// The caller's own statement.
async fn stated(
    connection: &mut Connection,
    cluster: &Cluster,
    named: &[String],
    not_after: Timestamp,
    caller: &str,
) -> Result<Given, ApiError> {
    let invalid = |detail: String| Refusal::at(Reason::FieldInvalid, "/tenants", detail);
    if named.is_empty() || named.len() > TENANTS_MAX {
        return Err(invalid(format!("tenants names {}; it is from 1 to {TENANTS_MAX}", named.len())).into());
    }
    let mut ids = Vec::new();
    for text in named {
        let tenant = tenants::find(connection, &TenantRef::parse(text)).await?;
        ids.push(tenant.ok_or_else(|| invalid(format!("there is no tenant {text:?}")))?.id);
    }
    let statement = DeletionStatement {
        cluster_id: cluster.id.to_string(),
        cluster_uid: cluster.kubernetes_uid.clone().unwrap_or_default(),
        tenant_ids: ids.iter().map(ToString::to_string).collect(),
        not_after: not_after.to_string(),
        confirmed_by: caller.to_owned(),
    };
    Ok(Given {
        text: deletion_confirmation::text(&statement),
        signature: String::new(),
        tenants: ids,
        not_after,
        confirmed_by: caller.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::World;
    use jiff::SignedDuration;
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_runtime::clock;
    use kubenova_schema::{deletion_confirmation, v1::DeletionStatement};
    use serde_json::json;

    const PATH: &str = "/api/v1/clusters/west/deletion-confirmations";

    #[tokio::test]
    async fn an_administrator_names_tenants() {
        let world = World::new().await;
        world.api.relay(&world.west).await;
        let given = world.post(PATH, json!({ "tenants": ["acme"], "validSeconds": 60 })).await.ok(201);
        assert_eq!(given["tenantIds"], json!([world.acme.to_string()]));
        assert_eq!((&given["released"], &given["signedBy"]), (&json!("0"), &json!(null)));
        for body in [
            json!({}),
            json!({ "tenants": [] }),
            json!({ "tenants": ["none"] }),
            json!({ "tenants": ["acme"], "validSeconds": 0 }),
            json!({ "tenants": ["acme"], "signature": "a:b" }),
            json!({ "statement": "{}" }),
        ] {
            assert_eq!(world.post(PATH, body.clone()).await.refusal().1, "FIELD_INVALID", "{body}");
        }
        let ops = world.token(Role::Ops, None).await;
        world.api.post(PATH).json(&json!({ "tenants": ["acme"] })).send(&ops).await.refused(Reason::Forbidden);
    }

    #[tokio::test]
    async fn a_signed_statement_is_about_this_cluster_and_of_now() {
        let world = World::new().await;
        world.api.relay(&world.west).await;
        let post = async |change: fn(&mut DeletionStatement)| {
            let mut statement = DeletionStatement {
                cluster_id: world.west.to_string(),
                // What `relay` enrolls it with.
                cluster_uid: world.west.to_string(),
                tenant_ids: vec![world.acme.to_string()],
                not_after: (clock::now() + SignedDuration::from_hours(1)).to_string(),
                confirmed_by: "ann".to_owned(),
            };
            change(&mut statement);
            let statement = deletion_confirmation::text(&statement);
            world.post(PATH, json!({ "statement": statement, "signature": "0123:c2ln" })).await
        };
        let given = post(|_| {}).await.ok(201);
        assert_eq!((&given["confirmedBy"], &given["signedBy"]), (&json!("ann"), &json!("0123")));
        let changes: [fn(&mut DeletionStatement); 5] = [
            |it| it.cluster_id = "c00000000000000000000000001".to_owned(),
            |it| it.cluster_uid = "other".to_owned(),
            |it| it.tenant_ids = vec!["acme".to_owned()],
            |it| it.tenant_ids.clear(),
            |it| it.not_after = "2026-01-01T00:00:00Z".to_owned(),
        ];
        for change in changes {
            assert_eq!(post(change).await.refusal(), (422, "FIELD_INVALID", "/statement"));
        }
    }
}
