//! The audit log. Rows are only ever added, in the transaction of the change they describe.

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
    /// Name of the caller.
    pub subject: String,
    /// Role of the caller.
    pub role: Role,
    /// Permission and verb: `writeTenants/create`.
    pub action: String,
    /// The object: `tenant/<id>`.
    pub target: String,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Id of the request, as in its `X-Request-Id`.
    pub request_id: String,
}

/// Adds an entry.
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

#[cfg(test)]
mod tests {
    use crate::{
        error::StoreError,
        fixture::{Fixture, write_context},
        idempotency::ResponseRecord,
        write_tx::WriteContext,
    };
    use kubenova_core::access::Action;

    #[tokio::test]
    async fn an_audit_row_is_written_with_the_change_and_holds_texts_that_do_not_depend_on_the_code() {
        let fixture = Fixture::new().await;
        for (dry_run, target) in [(true, "tenant/0"), (false, "tenant/1")] {
            let context = WriteContext { request_id: "r-1".into(), dry_run, ..write_context() };
            let write = fixture.store.write(context, async |tx| {
                tx.audit(Action::WriteTenants, "create", target, None).await?;
                Ok::<_, StoreError>(((), ResponseRecord { status: 201, headers: Vec::new(), body: String::new() }))
            });
            write.await.unwrap();
        }
        let rows: Vec<(String, String, String, String, String)> =
            sqlx::query_as("select subject, role, action, target, request_id from audit")
                .fetch_all(&mut *fixture.store.acquire().await.unwrap())
                .await
                .unwrap();
        let expected = ["ann", "ops", "writeTenants/create", "tenant/1", "r-1"].map(str::to_owned);
        assert_eq!(rows, [expected.into()]);
    }
}
