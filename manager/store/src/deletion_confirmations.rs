//! The limit on deletes of tenants: what waits for a person, and what was confirmed (`migrations/0027`).

use crate::{
    error::{StoreError, failed},
    outbox_notification,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

/// A person's statement about one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConfirmation {
    /// Its id.
    pub id: Uuid,
    /// The cluster.
    pub cluster: ClusterId,
    /// The tenants that may be deleted there.
    pub tenants: Vec<TenantId>,
    /// The exact text.
    pub statement: String,
    /// `<key id>:<base64>`; empty for the caller's word alone.
    pub signature: String,
    /// Until when it counts.
    pub not_after: Timestamp,
    /// When it was given.
    pub created_at: Timestamp,
    /// Who gave it.
    pub created_by: String,
}

/// Stores a confirmation and makes what waited for it due, also what its cluster deferred. How many commands those are.
pub async fn insert(connection: &mut PgConnection, new: &NewConfirmation) -> Result<u64, StoreError> {
    let tenants: Vec<Uuid> = new.tenants.iter().map(|tenant| tenant.0).collect();
    sqlx::query!(
        "insert into deletion_confirmations (id, cluster_id, tenant_ids, statement, signature, not_after, created_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        new.id,
        new.cluster.as_str(),
        &tenants,
        new.statement,
        new.signature,
        new.not_after.to_sqlx(),
        new.created_at.to_sqlx(),
        new.created_by,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("store a confirmation"))?;
    let due = sqlx::query!(
        "update commands set waiting_for = '', message = '', reason = '', next_send_at = null
         where cluster_id = $1 and kind = 'delete-tenant' and tenant_id = any ($2) and state in ('queued', 'sent')",
        new.cluster.as_str(),
        &tenants,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("release confirmed deletes"))?;
    outbox_notification::send(connection, &[new.cluster.to_string()]).await?;
    Ok(due.rows_affected())
}

/// Deletes confirmations that expired before this time, at most `limit`; returns how many. The audit log keeps who confirmed what.
pub async fn delete_expired(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from deletion_confirmations where id in
            (select id from deletion_confirmations where not_after < $1 limit $2)",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old confirmations"))?;
    Ok(done.rows_affected())
}

/// Says of deletes that may not be sent now what they wait for. How many were not marked before.
pub async fn mark_waiting(connection: &mut PgConnection, now: Timestamp) -> Result<u64, StoreError> {
    let marked = sqlx::query!(
        "update commands k set waiting_for = 'DeletionConfirmation', reason = 'DeletionConfirmation',
                message = 'as many tenants of this cluster as are deleted at once were deleted within ten minutes: it is sent '
                          || 'when those are over, or when a person confirms it with POST /api/v1/clusters/' || k.cluster_id
                          || '/deletion-confirmations'
         where k.state = 'queued' and k.kind = 'delete-tenant' and k.waiting_for = ''
           and not tenant_delete_may_pass(k.cluster_id, k.revision, k.tenant_id, $1)",
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("mark deletes that wait"))?;
    Ok(marked.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue::{self, ClaimOptions, DueCommand},
        commands,
        fixture::{Fixture, at, claim_options, new_id, tenant},
        placements, tenants,
    };
    use kubenova_core::{change::Change, command::CommandFilter, page::Page, tenant::Tenant};

    /// A cluster with so many tenants, of which the first are to be deleted.
    async fn deleting(count: u128, deleted: usize) -> (Fixture, ClusterId, Vec<Tenant>) {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        let all: Vec<Tenant> = (1..=count).map(tenant).collect();
        let mut connection = fixture.store.acquire().await.unwrap();
        for tenant in &all {
            tenants::insert(&mut connection, tenant).await.unwrap();
            placements::insert(&mut connection, tenant.id, std::slice::from_ref(&cluster), "ann", at(0)).await.unwrap();
        }
        drop(connection);
        for Tenant { id, name, .. } in &all[..deleted] {
            let change = Change::TenantDeleted { id: *id, name: name.clone(), generation: 1 };
            fixture.enqueue(std::slice::from_ref(&cluster), &change).await;
        }
        (fixture, cluster, all)
    }

    async fn claim(fixture: &Fixture, cluster: &ClusterId, now: i64) -> Vec<DueCommand> {
        let due = ClaimOptions { now: at(now), send_again_at: at(now + 10_000), window: 100, ..claim_options() };
        let mut tx = fixture.begin().await;
        let claimed = cluster_queue::claim(&mut tx, cluster, &due).await.unwrap().unwrap().due;
        tx.commit().await.unwrap();
        claimed
    }

    #[tokio::test]
    async fn five_or_a_tenth_are_sent_within_ten_minutes_and_the_rest_says_what_it_waits_for() {
        for (tenants, sent) in [(8, 5), (71, 8)] {
            let (fixture, cluster, _) = deleting(tenants, 8).await;
            assert_eq!(claim(&fixture, &cluster, 1).await.len(), sent, "{tenants} tenants");
            assert_eq!(claim(&fixture, &cluster, 2).await.len(), 0);
            let mut connection = fixture.store.acquire().await.unwrap();
            assert_eq!(mark_waiting(&mut connection, at(2)).await.unwrap(), 8 - sent as u64);
            let all = commands::list(&mut connection, &CommandFilter::default(), &Page::new(None, None)).await.unwrap();
            let waiting: Vec<_> = all.iter().filter(|one| one.waiting_for == "DeletionConfirmation").collect();
            assert_eq!(waiting.len(), 8 - sent);
            assert!(waiting.iter().all(|one| one.message.contains("/deletion-confirmations")));
            drop(connection);
            assert_eq!(claim(&fixture, &cluster, 600).await.len(), 0, "ten minutes are not over");
            assert_eq!(claim(&fixture, &cluster, 602).await.len(), 8 - sent);
        }
    }

    #[tokio::test]
    async fn what_a_person_confirmed_is_sent_with_the_statement_until_its_time_is_over() {
        let (fixture, cluster, all) = deleting(8, 8).await;
        claim(&fixture, &cluster, 1).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        mark_waiting(&mut connection, at(2)).await.unwrap();
        let confirmation = |tenant: &Tenant, not_after| NewConfirmation {
            id: new_id(),
            cluster: cluster.clone(),
            tenants: vec![tenant.id],
            statement: "{}".into(),
            signature: "key:sig".into(),
            not_after: at(not_after),
            created_at: at(2),
            created_by: "ann".into(),
        };
        assert_eq!(insert(&mut connection, &confirmation(&all[6], 2)).await.unwrap(), 1);
        assert_eq!(claim(&fixture, &cluster, 3).await, [], "its time is over");
        assert_eq!(insert(&mut connection, &confirmation(&all[7], 100)).await.unwrap(), 1);
        let sent = claim(&fixture, &cluster, 3).await;
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].object_key, format!("tenant/{}", all[7].id));
        assert_eq!(sent[0].confirmation, Some(("{}".to_owned(), "key:sig".to_owned())));
    }

    #[tokio::test]
    async fn two_managers_at_once_let_no_more_pass() {
        let (fixture, cluster, _) = deleting(8, 8).await;
        let options = |window| ClaimOptions { window, ..claim_options() };
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        let first = cluster_queue::claim(&mut one, &cluster, &options(3)).await.unwrap().unwrap().due.len();
        let second = cluster_queue::claim(&mut other, &cluster, &options(100)).await.unwrap().unwrap().due.len();
        assert_eq!((first, second), (3, 2));
    }
}
