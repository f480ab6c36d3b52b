//! Who changed what. Rows are only ever added, in the transaction of the change.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{access::Role, tenant::TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

/// One accepted change. Never holds a body or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// UUIDv7.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub subject: String,
    /// As what.
    pub role: Role,
    /// What they did.
    pub action: String,
    /// With which object.
    pub target: String,
    /// Whose object.
    pub tenant: Option<TenantId>,
    /// The request, as in its `X-Request-Id`.
    pub request_id: String,
}

/// Adds an entry.
///
/// # Errors
/// When Postgres says no.
pub async fn insert(connection: &mut PgConnection, entry: &Entry) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into audit (id, at, subject, role, action, target, tenant_id, request_id) values ($1, $2, $3, $4, $5, $6, $7, $8)",
        entry.id,
        entry.at.to_sqlx(),
        entry.subject,
        entry.role.as_str(),
        entry.action,
        entry.target,
        entry.tenant.map(|tenant| tenant.0),
        entry.request_id,
    )
    .execute(connection)
    .await
    .map_err(failed("write an audit row"))?;
    Ok(())
}
