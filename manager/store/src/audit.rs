//! What is written into the audit log, in the transaction of what it describes. `audit_chain.rs` moves it into the chain.
//!
//! Records about commands are written by the statements that write or end the commands (`outbox.rs`, `outcomes.rs`,
//! `cluster_queue.rs`, `application_removal.rs`): in the same statement, so that neither is there without the other.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{access::Role, cluster::ClusterId, tenant::TenantId};
use sqlx::PgConnection;

/// One accepted change. Never holds a body or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
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
        "insert into audit_pending (at, subject, role, action, target, tenant_id, request_id) values ($1, $2, $3, $4, $5, $6, $7)",
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
    .map_err(failed("write an audit record"))?;
    Ok(())
}

/// Something that a cluster did without a command. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEntry<'a> {
    /// When.
    pub at: Timestamp,
    /// The cluster that the request named.
    pub cluster: &'a ClusterId,
    /// `enrollment/accepted`.
    pub action: &'a str,
    /// The object: `enrollment/<id>`.
    pub target: String,
    /// Where it came from.
    pub detail: String,
}

/// Adds an entry about a cluster.
pub async fn insert_of_cluster(connection: &mut PgConnection, entry: &ClusterEntry<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into audit_pending (at, subject, role, action, target, detail) values ($1, $2, 'cluster', $3, $4, $5)",
        entry.at.to_sqlx(),
        entry.cluster.as_str(),
        entry.action,
        entry.target,
        entry.detail,
    )
    .execute(connection)
    .await
    .map_err(failed("write an audit record about a cluster"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        audit_chain, cluster_queue,
        error::StoreError,
        fixture::{Fixture, at, claim_options, new_id, reported, write_context},
        idempotency::ResponseRecord,
        outcomes::{self, Reported},
        write_tx::WriteContext,
    };
    use kubenova_core::{
        access::Action,
        audit::{Head, Record},
        change::Change,
        cluster::ClusterId,
        command::{CommandId, CommandState, Hop},
        tenant::Tenant,
    };

    fn response() -> ResponseRecord {
        ResponseRecord { status: 201, headers: Vec::new(), body: String::new() }
    }

    async fn records(fixture: &Fixture) -> Vec<Record> {
        let mut tx = fixture.begin().await;
        audit_chain::link(&mut tx, 100).await.unwrap();
        let linked = audit_chain::batch(&mut tx, 0, 100).await.unwrap();
        tx.commit().await.unwrap();
        linked.into_iter().map(|linked| linked.record).collect()
    }

    #[tokio::test]
    async fn a_record_is_written_with_the_change_and_holds_texts_that_do_not_depend_on_the_code() {
        let fixture = Fixture::new().await;
        for (dry_run, target) in [(true, "tenant/0"), (false, "tenant/1")] {
            let context = WriteContext { request_id: "r-1".into(), dry_run, ..write_context() };
            let write = fixture.store.write(context, async |tx| {
                tx.audit(Action::WriteTenants, "create", target, None).await?;
                Ok::<_, StoreError>(((), response()))
            });
            write.await.unwrap();
        }
        let records = records(&fixture).await;
        let [record] = records.as_slice() else { panic!("{records:?}") };
        let texts = [&record.subject, &record.role, &record.action, &record.target, &record.request_id];
        assert_eq!(texts.map(String::as_str), ["ann", "ops", "writeTenants/create", "tenant/1", "r-1"]);
    }

    /// One request with its change of a tenant; the id of its command.
    async fn request(fixture: &Fixture, cluster: &ClusterId, tenant: &Tenant, id: &str) -> CommandId {
        let context = WriteContext { request_id: id.into(), ..write_context() };
        let write = fixture.store.write(context, async |tx| {
            tx.audit(Action::WriteTenants, "replace", "tenant/1", Some(tenant.id)).await?;
            let enqueued = tx.enqueue_commands(std::slice::from_ref(cluster), &Change::Tenant(tenant.clone())).await?;
            Ok::<_, StoreError>((enqueued[0].command_id, response()))
        });
        write.await.unwrap()
    }

    #[tokio::test]
    async fn a_request_is_followed_by_its_commands_and_their_ends() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        let superseded = request(&fixture, &cluster, &tenant, "r-1").await;
        let carried_out = request(&fixture, &cluster, &tenant, "r-2").await;
        let due = claim_options();
        let mut tx = fixture.begin().await;
        cluster_queue::claim(&mut tx, &cluster, &due).await.unwrap();
        for state in [CommandState::Running, CommandState::Succeeded, CommandState::Succeeded] {
            let reported = Reported {
                reason: "Ready".into(),
                hops: vec![Hop { name: "applied".into(), at: String::new(), object: "uid/7".into() }],
                ..reported(&cluster, carried_out, state)
            };
            outcomes::record(&mut tx, &reported, at(2), new_id).await.unwrap();
        }
        tx.commit().await.unwrap();

        let records = records(&fixture).await;
        let told: Vec<_> = records
            .iter()
            .map(|record| (record.action.as_str(), record.role.as_str(), record.request_id.as_str(), record.command))
            .collect();
        let (first, second) = (Some(superseded.0), Some(carried_out.0));
        assert_eq!(
            told,
            [
                ("writeTenants/replace", "ops", "r-1", None),
                ("command/enqueued", "ops", "r-1", first),
                ("writeTenants/replace", "ops", "r-2", None),
                ("command/superseded", "manager", "", first),
                ("command/enqueued", "ops", "r-2", second),
                ("command/succeeded", "cluster", "", second),
            ]
        );
        let (enqueued, ended) = (&records[4], &records[5]);
        assert_eq!((enqueued.revision, ended.revision), (Some(2), Some(2)));
        assert_eq!((enqueued.document_sha256.len(), ended.subject.as_str()), (64, cluster.as_str()));
        assert_eq!((ended.detail.as_str(), ended.at), ("Ready, object uid/7", at(2)));
    }

    #[tokio::test]
    async fn what_was_written_is_neither_changed_nor_deleted_by_a_statement() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        request(&fixture, &cluster, &tenant, "r-1").await;
        let refused = async |sql: &'static str| {
            let mut connection = fixture.store.acquire().await.unwrap();
            let error = sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap_err().to_string();
            assert!(error.contains("neither changed nor deleted"), "{sql}: {error}");
        };
        refused("update audit_pending set subject = 'bob'").await;
        assert_ne!(records(&fixture).await, []);
        refused("update audit set subject = 'bob'").await;
        refused("delete from audit").await;
        refused("truncate audit").await;
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_ne!(audit_chain::head(&mut connection).await.unwrap(), Head::none());
    }
}
