//! How an application leaves clusters: at once where nothing of it was ever sent, else when a delete command succeeded
//! there. It is gone once it left the last one.
//!
//! Callers hold the application by `applications::find_for_update`, so its clusters do not change meanwhile, and a row
//! that is missing then is an error.

use crate::{
    error::{RowRef, StoreError, every_row, failed, one_row},
    outbox::EnqueuedCommand,
};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    application::ApplicationId,
    cluster::ClusterId,
    command::{CommandId, CommandState},
};
use sqlx::PgConnection;
use uuid::Uuid;

/// The commands of an application on one of its clusters, as far as its removal depends on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// True when a command about it was ever sent there since it was last removed.
    pub ever_sent: bool,
    /// State of the command of an earlier delete.
    pub delete_state: Option<CommandState>,
}

/// The histories of an application on these clusters. Its queued commands are locked, so that none of them is sent before
/// the transaction ends.
pub async fn histories(
    connection: &mut PgConnection,
    id: ApplicationId,
    object_key: &str,
    clusters: &[ClusterId],
) -> Result<Vec<History>, StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "select id from commands where cluster_id = any($1) and object_key = $2 and finished_at is null and (state = 'queued') is true
         order by cluster_id, revision for update",
        &clusters,
        object_key,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("lock queued commands"))?;
    // A new statement, so that it sees what the relay committed while this waited for its lock.
    let rows = sqlx::query!(
        r#"select a.cluster_id, d.state as "delete_state?",
                  exists (select from commands k where k.cluster_id = a.cluster_id and k.object_key = $3
                             and k.sent_at is not null
                             and k.revision > coalesce((select max(g.revision) from commands g
                                   where g.cluster_id = a.cluster_id and g.object_key = $3
                                     and g.kind = 'delete-application' and g.state = 'succeeded'), 0)) as "ever_sent!"
           from application_clusters a left join commands d on d.id = a.delete_command
           where a.application_id = $1 and a.cluster_id = any($2) order by a.cluster_id"#,
        id.0,
        &clusters,
        object_key,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read an application's history"))?;
    rows.into_iter()
        .map(|row| {
            let at = RowRef { table: "application_clusters", id: &id.0 };
            let state = row.delete_state.as_deref();
            let delete_state = state.map(|text| at.parse("delete_command", text, CommandState::parse)).transpose()?;
            let cluster_id = at.cluster_id("cluster_id", &row.cluster_id)?;
            Ok(History { cluster_id, ever_sent: row.ever_sent, delete_state })
        })
        .collect()
}

/// Cancels commands about an object that were not sent yet. Only for clusters that were never sent one: elsewhere a newer
/// command has to take their place.
pub async fn cancel_queued(
    connection: &mut PgConnection,
    object_key: &str,
    clusters: &[ClusterId],
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "with ended as (
             update commands set state = 'cancelled', reason = 'Deleted', waiting_for = '', finished_at = $3,
                    message = 'the application was deleted before this command was sent'
             where cluster_id = any($1) and object_key = $2 and finished_at is null and (state = 'queued') is true returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
         select finished_at, 'manager', 'manager', 'command/cancelled', object_key, tenant_id, id, cluster_id, revision, reason
         from ended order by cluster_id, revision",
        &clusters,
        object_key,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("cancel queued commands"))?;
    Ok(())
}

/// Ends that an application should run on these clusters, on which it is.
pub async fn unplace(
    connection: &mut PgConnection,
    id: ApplicationId,
    clusters: &[ClusterId],
) -> Result<(), StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let done = sqlx::query!(
        "delete from application_clusters where application_id = $1 and cluster_id = any($2)",
        id.0,
        &clusters
    )
    .execute(connection)
    .await
    .map_err(failed("unplace an application"))?;
    every_row(done.rows_affected(), clusters.len(), "application_clusters", &id)
}

/// The application leaves each of these clusters, on which it is, once the delete command succeeded there.
pub async fn await_removal(
    connection: &mut PgConnection,
    id: ApplicationId,
    deletes: &[EnqueuedCommand],
) -> Result<(), StoreError> {
    let clusters: Vec<String> = deletes.iter().map(|delete| delete.cluster_id.to_string()).collect();
    let commands: Vec<Uuid> = deletes.iter().map(|delete| delete.command_id.0).collect();
    let done = sqlx::query!(
        "update application_clusters a set delete_command = d.command
         from unnest($2::text[], $3::uuid[]) as d (cluster, command)
         where a.application_id = $1 and a.cluster_id = d.cluster",
        id.0,
        &clusters,
        &commands,
    )
    .execute(connection)
    .await
    .map_err(failed("record delete commands"))?;
    // A command that no row waits for would remove the application from the cluster and never from here.
    every_row(done.rows_affected(), commands.len(), "application_clusters", &id)
}

/// Records that a delete was accepted; a later one changes nothing.
pub async fn mark_deleting(
    connection: &mut PgConnection,
    id: ApplicationId,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update applications set deleting_since = coalesce(deleting_since, $2) where id = $1",
        id.0,
        now.to_sqlx()
    )
    .execute(connection)
    .await
    .map_err(failed("mark an application as deleting"))?;
    one_row(done.rows_affected(), "applications", &id.0)
}

/// Removes an application that is being deleted and is on no cluster any more; true when it did. Its commands stay, and
/// with them its history.
pub async fn remove_if_nowhere(connection: &mut PgConnection, id: ApplicationId) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "delete from applications a where a.id = $1 and a.deleting_since is not null
           and not exists (select from application_clusters c where c.application_id = a.id)",
        id.0
    )
    .execute(connection)
    .await
    .map_err(failed("remove an application"))?;
    Ok(removed.rows_affected() == 1)
}

/// A delete command succeeded: the application it belongs to left that cluster, and is gone once it left the last one.
/// A command that no application waits for changes nothing.
pub(crate) async fn delete_succeeded(connection: &mut PgConnection, command: CommandId) -> Result<(), StoreError> {
    // The application before its clusters, as every writer locks them.
    let application = sqlx::query_scalar!(
        "select a.id from applications a join application_clusters c on c.application_id = a.id
         where c.delete_command = $1 for update of a",
        command.0,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock an application that left a cluster"))?;
    let Some(application) = application else { return Ok(()) };
    // No row when a change put the application back on the cluster while this waited for its lock: it stays.
    sqlx::query!("delete from application_clusters where delete_command = $1", command.0)
        .execute(&mut *connection)
        .await
        .map_err(failed("record that an application left a cluster"))?;
    remove_if_nowhere(connection, ApplicationId(application)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        applications::{self, find_for_update, targets},
        cluster_queue::{self, ClaimOptions},
        commands,
        fixture::{Fixture, at, claim_options, new_id, reported},
        outcomes, wire,
    };
    use kubenova_core::{application::Application, change::Change, tenant::Tenant};

    /// An application on a connected cluster, with the command that creates it there still queued.
    struct Queued {
        fixture: Fixture,
        cluster: ClusterId,
        tenant: Tenant,
        application: Application,
        created: EnqueuedCommand,
        key: String,
    }

    impl Queued {
        async fn new() -> Self {
            let fixture = Fixture::new().await;
            let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
            let application = fixture.application(&tenant, "shop", std::slice::from_ref(&cluster)).await;
            let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
            let created = fixture.enqueue(std::slice::from_ref(&cluster), &change).await.remove(0);
            let key = wire::application_key(&application).to_string();
            Self { fixture, cluster, tenant, application, created, key }
        }

        /// Sends what is queued.
        async fn send(&self) {
            let mut tx = self.fixture.begin().await;
            assert_eq!(claim(&mut tx, &self.cluster).await.len(), 1);
            tx.commit().await.unwrap();
        }

        async fn report(&self, command: CommandId, state: CommandState) {
            let reported = reported(&self.cluster, command, state);
            let mut tx = self.fixture.begin().await;
            outcomes::record(&mut tx, &reported, at(9), new_id).await.unwrap();
            tx.commit().await.unwrap();
        }

        /// Accepts a delete, with the command that carries it.
        async fn delete(&self) -> EnqueuedCommand {
            let change =
                Change::ApplicationDeleted { tenant: self.tenant.name.clone(), application: self.application.clone() };
            let deletes = self.fixture.enqueue(std::slice::from_ref(&self.cluster), &change).await;
            let mut connection = self.fixture.store.acquire().await.unwrap();
            mark_deleting(&mut connection, self.application.id, at(5)).await.unwrap();
            await_removal(&mut connection, self.application.id, &deletes).await.unwrap();
            deletes.into_iter().next().unwrap()
        }

        async fn history(&self) -> Vec<(bool, Option<CommandState>)> {
            let mut tx = self.fixture.begin().await;
            let clusters = std::slice::from_ref(&self.cluster);
            let histories = histories(&mut tx, self.application.id, &self.key, clusters).await.unwrap();
            // Its locks must be free when the test goes on.
            tx.roll_back().await;
            histories.into_iter().map(|it| (it.ever_sent, it.delete_state)).collect()
        }

        async fn exists(&self) -> bool {
            let mut connection = self.fixture.store.acquire().await.unwrap();
            applications::find(&mut connection, self.tenant.id, "shop").await.unwrap().is_some()
        }
    }

    async fn claim(connection: &mut PgConnection, cluster: &ClusterId) -> Vec<CommandId> {
        let due = ClaimOptions { send_again_at: at(31), ..claim_options() };
        let queue = cluster_queue::claim(connection, cluster, &due).await.unwrap().unwrap();
        queue.due.into_iter().map(|command| command.id).collect()
    }

    #[tokio::test]
    async fn a_history_is_what_was_sent_since_the_last_removal_and_how_the_delete_stands() {
        let queued = Queued::new().await;
        assert_eq!(queued.history().await, [(false, None)]);
        queued.send().await;
        assert_eq!(queued.history().await, [(true, None)]);
        let delete = queued.delete().await;
        assert_eq!(queued.history().await, [(true, Some(CommandState::Queued))]);
        queued.send().await;
        queued.report(delete.command_id, CommandState::Running).await;
        assert_eq!(queued.history().await, [(true, Some(CommandState::Running))]);
        queued.report(delete.command_id, CommandState::Succeeded).await;
        assert_eq!(queued.history().await, [], "it left the cluster");
        // The same name again: what was sent before the removal does not count.
        queued.fixture.application(&queued.tenant, "shop", std::slice::from_ref(&queued.cluster)).await;
        let mut connection = queued.fixture.store.acquire().await.unwrap();
        let again = applications::find(&mut connection, queued.tenant.id, "shop").await.unwrap().unwrap();
        let clusters = std::slice::from_ref(&queued.cluster);
        let histories = histories(&mut connection, again.id, &queued.key, clusters).await.unwrap();
        assert_eq!(histories.iter().map(|it| it.ever_sent).collect::<Vec<_>>(), [false]);
    }

    #[tokio::test]
    async fn what_a_delete_has_looked_at_is_not_sent_meanwhile() {
        let queued = Queued::new().await;
        let clusters = std::slice::from_ref(&queued.cluster);
        let mut delete = queued.fixture.begin().await;
        let found = histories(&mut delete, queued.application.id, &queued.key, clusters).await.unwrap();
        assert_eq!(found.iter().map(|it| it.ever_sent).collect::<Vec<_>>(), [false]);
        let mut relay = queued.fixture.begin().await;
        assert_eq!(claim(&mut relay, &queued.cluster).await, [], "the delete holds it");
        relay.commit().await.unwrap();
        cancel_queued(&mut delete, &queued.key, clusters, at(2)).await.unwrap();
        unplace(&mut delete, queued.application.id, clusters).await.unwrap();
        delete.commit().await.unwrap();
        let mut connection = queued.fixture.store.acquire().await.unwrap();
        assert_eq!(claim(&mut connection, &queued.cluster).await, []);
        let command = commands::find(&mut connection, queued.created.command_id).await.unwrap().unwrap();
        assert_eq!((command.state, command.sent_at), (CommandState::Cancelled, None));
    }

    #[tokio::test]
    async fn a_delete_waits_for_the_relay_that_is_sending_and_then_sees_what_was_sent() {
        let queued = Queued::new().await;
        let clusters = std::slice::from_ref(&queued.cluster);
        let mut relay = queued.fixture.begin().await;
        assert_eq!(claim(&mut relay, &queued.cluster).await, [queued.created.command_id]);
        let mut delete = queued.fixture.begin().await;
        let waiting = queued.fixture.blocked(&mut delete).await;
        let sent = async {
            waiting.await;
            relay.commit().await.unwrap();
        };
        let (found, ()) = tokio::join!(histories(&mut delete, queued.application.id, &queued.key, clusters), sent);
        assert_eq!(found.unwrap().iter().map(|it| it.ever_sent).collect::<Vec<_>>(), [true]);
    }

    #[tokio::test]
    async fn the_success_of_its_delete_removes_an_application_from_the_cluster_and_after_the_last_altogether() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let application = fixture.application(&tenant, "shop", &clusters).await;
        let change = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
        let deletes = fixture.enqueue(&clusters, &change).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        mark_deleting(&mut connection, application.id, at(5)).await.unwrap();
        mark_deleting(&mut connection, application.id, at(6)).await.unwrap();
        await_removal(&mut connection, application.id, &deletes).await.unwrap();
        let deleting = applications::find(&mut connection, tenant.id, "shop").await.unwrap().unwrap();
        assert_eq!(deleting.deleting_since, Some(at(5)));
        delete_succeeded(&mut connection, CommandId(new_id())).await.unwrap();
        let waited_for: Vec<_> =
            targets(&mut connection, &[application.id]).await.unwrap().iter().map(|it| it.delete_command).collect();
        assert_eq!(waited_for, deletes.iter().map(|it| Some(it.command_id)).collect::<Vec<_>>());
        for (delete, left) in deletes.iter().zip([1, 0]) {
            assert!(!remove_if_nowhere(&mut connection, application.id).await.unwrap());
            delete_succeeded(&mut connection, delete.command_id).await.unwrap();
            assert_eq!(targets(&mut connection, &[application.id]).await.unwrap().len(), left);
        }
        assert_eq!(applications::find(&mut connection, tenant.id, "shop").await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_application_that_is_put_back_while_its_delete_succeeds_stays() {
        let queued = Queued::new().await;
        let delete = queued.delete().await;
        let mut change = queued.fixture.begin().await;
        let present = find_for_update(&mut change, queued.tenant.id, "shop").await.unwrap().unwrap();
        let back = Application { generation: 2, ..present };
        applications::update(&mut change, &back, std::slice::from_ref(&queued.cluster)).await.unwrap();
        let mut ingest = queued.fixture.begin().await;
        let waiting = queued.fixture.blocked(&mut ingest).await;
        let put_back = async {
            waiting.await;
            change.commit().await.unwrap();
        };
        let (succeeded, ()) = tokio::join!(delete_succeeded(&mut ingest, delete.command_id), put_back);
        succeeded.unwrap();
        ingest.commit().await.unwrap();
        assert!(queued.exists().await);
        let mut connection = queued.fixture.store.acquire().await.unwrap();
        assert_eq!(targets(&mut connection, &[back.id]).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_row_that_is_missing_is_an_error() {
        let queued = Queued::new().await;
        let mut connection = queued.fixture.store.acquire().await.unwrap();
        let missing = ApplicationId(new_id());
        let clusters = [queued.cluster.clone(), crate::fixture::cluster(2).id];
        let delete = EnqueuedCommand { cluster_id: clusters[1].clone(), ..queued.created.clone() };
        for (outcome, table) in [
            (mark_deleting(&mut connection, missing, at(1)).await, "applications"),
            (unplace(&mut connection, missing, &clusters[..1]).await, "application_clusters"),
            (unplace(&mut connection, queued.application.id, &clusters).await, "application_clusters"),
            (await_removal(&mut connection, queued.application.id, &[delete]).await, "application_clusters"),
        ] {
            assert!(
                matches!(&outcome, Err(StoreError::Missing { table: found, .. }) if *found == table),
                "{outcome:?}"
            );
        }
    }
}
