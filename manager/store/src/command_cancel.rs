//! Cancels a command that was not sent, in one statement: whichever of this and the relay's claim comes first decides, and the
//! other finds the row as that left it.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{access::Caller, command::CommandId};
use sqlx::PgConnection;

/// Ends the command. False when it is not queued: then nothing was changed.
pub(crate) async fn cancel(
    connection: &mut PgConnection,
    command: CommandId,
    caller: &Caller,
    request_id: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "with ended as (
             update commands set state = 'cancelled', reason = 'Requested', waiting_for = '', finished_at = $2,
                    message = 'it was cancelled before it was sent; its object is wanted as before, so a retry sends it'
             where id = $1 and state = 'queued' returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision, detail)
         select finished_at, $3, $4, 'command/cancelled', object_key, tenant_id, $5, id, cluster_id, revision, reason from ended",
        command.0,
        now.to_sqlx(),
        caller.subject,
        caller.role.as_str(),
        request_id,
    )
    .execute(connection)
    .await
    .map_err(failed("cancel a command"))?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue, commands,
        fixture::{Fixture, at, caller, claim_options},
    };
    use kubenova_core::{change::Change, cluster::ClusterId, command::CommandState};

    /// A queued command of a connected cluster.
    async fn queued() -> (Fixture, ClusterId, CommandId) {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        let command = fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant)).await.remove(0);
        (fixture, cluster, command.command_id)
    }

    async fn state(fixture: &Fixture, command: CommandId) -> CommandState {
        let mut connection = fixture.store.acquire().await.unwrap();
        commands::find(&mut connection, command).await.unwrap().unwrap().state
    }

    #[tokio::test]
    async fn a_claim_that_comes_first_is_waited_for_and_the_command_is_sent() {
        let (fixture, cluster, command) = queued().await;
        let mut claiming = fixture.begin().await;
        assert_eq!(
            cluster_queue::claim(&mut claiming, &cluster, &claim_options()).await.unwrap().unwrap().due.len(),
            1
        );
        let cancelling = async {
            let mut connection = fixture.store.acquire().await.unwrap();
            cancel(&mut connection, command, &caller(), "r", at(2)).await.unwrap()
        };
        let committing = async {
            fixture.database.blocked().await;
            claiming.commit().await.unwrap();
        };
        let (cancelled, ()) = tokio::join!(cancelling, committing);
        assert!(!cancelled);
        assert_eq!(state(&fixture, command).await, CommandState::Sent);
    }

    #[tokio::test]
    async fn a_cancel_that_comes_first_leaves_nothing_to_claim() {
        let (fixture, cluster, command) = queued().await;
        let mut cancelling = fixture.begin().await;
        assert!(cancel(&mut cancelling, command, &caller(), "r", at(2)).await.unwrap());
        let claim = async || {
            let mut tx = fixture.begin().await;
            let claimed = cluster_queue::claim(&mut tx, &cluster, &claim_options()).await.unwrap().unwrap().due;
            tx.commit().await.unwrap();
            claimed
        };
        assert_eq!(claim().await, [], "the row is locked");
        cancelling.commit().await.unwrap();
        assert_eq!(claim().await, []);
        assert_eq!(state(&fixture, command).await, CommandState::Cancelled);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(!cancel(&mut connection, command, &caller(), "r", at(3)).await.unwrap(), "only once");
        assert_eq!(cluster_queue::floor(&mut connection, &cluster).await.unwrap(), 1, "it holds back no floor");
    }
}
