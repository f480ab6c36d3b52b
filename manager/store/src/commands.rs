//! Commands as the REST API shows them. `outbox.rs` writes them, `cluster_queue.rs` sends them, `outcomes.rs` records what
//! clusters report about them.

use crate::error::{RowRef, StoreError, failed};
use jiff_sqlx::Timestamp;
use kubenova_core::{
    cluster::{ClusterId, ClusterState},
    command::{Command, CommandFilter, CommandId, CommandState, Hop},
    page::Page,
    tenant::TenantId,
};
use sqlx::PgConnection;
use uuid::Uuid;

struct Row {
    id: Uuid,
    cluster_id: String,
    cluster_name: String,
    revision: i64,
    kind: String,
    object_key: String,
    tenant_id: Option<Uuid>,
    application_name: Option<String>,
    generation: i64,
    state: String,
    reason: String,
    message: String,
    waiting_for: String,
    created_by: String,
    not_after: Option<Timestamp>,
    queued_at: Timestamp,
    sent_at: Option<Timestamp>,
    acknowledged_at: Option<Timestamp>,
    running_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    hops: serde_json::Value,
    send_count: i32,
    next_send_at: Option<Timestamp>,
    last_heartbeat_at: Option<Timestamp>,
    refused_reason: Option<String>,
    cluster_state: String,
}

impl TryFrom<Row> for Command {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let at = RowRef { table: "commands", id: &row.id };
        Ok(Self {
            id: CommandId(row.id),
            cluster_id: at.cluster_id("cluster_id", &row.cluster_id)?,
            state: at.parse("state", &row.state, CommandState::parse)?,
            hops: hops(&row.hops),
            cluster_name: row.cluster_name,
            revision: row.revision,
            kind: row.kind,
            object_key: row.object_key,
            tenant_id: row.tenant_id.map(TenantId),
            application_name: row.application_name,
            generation: row.generation,
            reason: row.reason,
            message: row.message,
            waiting_for: row.waiting_for,
            created_by: row.created_by,
            not_after: row.not_after.map(Timestamp::to_jiff),
            queued_at: row.queued_at.to_jiff(),
            sent_at: row.sent_at.map(Timestamp::to_jiff),
            acknowledged_at: row.acknowledged_at.map(Timestamp::to_jiff),
            running_at: row.running_at.map(Timestamp::to_jiff),
            finished_at: row.finished_at.map(Timestamp::to_jiff),
            send_count: row.send_count,
            next_send_at: row.next_send_at.map(Timestamp::to_jiff),
            cluster_last_heartbeat_at: row.last_heartbeat_at.map(Timestamp::to_jiff),
            cluster_refused: row.refused_reason.unwrap_or_default(),
            cluster_state: RowRef { table: "clusters", id: &row.cluster_id }.parse(
                "state",
                &row.cluster_state,
                ClusterState::parse,
            )?,
        })
    }
}

fn hops(value: &serde_json::Value) -> Vec<Hop> {
    let text = |hop: &serde_json::Value, name: &str| hop[name].as_str().unwrap_or_default().to_owned();
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|hop| Hop { name: text(hop, "name"), at: text(hop, "at"), object: text(hop, "object") })
        .collect()
}

/// The command with this id.
pub async fn find(connection: &mut PgConnection, id: CommandId) -> Result<Option<Command>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"select k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.last_heartbeat_at as "last_heartbeat_at?", c.state as cluster_state,
                case when s.session is null or r.refused_at > s.last_heartbeat_at then r.reason end as refused_reason
         from commands k join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id
              left join hello_refusals r on r.cluster_id = k.cluster_id
         where k.id = $1"#,
        id.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a command"))?;
    row.map(Command::try_from).transpose()
}

/// One page of commands, newest first, and one row more when there is a next page.
pub async fn list(
    connection: &mut PgConnection,
    filter: &CommandFilter,
    page: &Page,
) -> Result<Vec<Command>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.last_heartbeat_at as "last_heartbeat_at?", c.state as cluster_state,
                case when s.session is null or r.refused_at > s.last_heartbeat_at then r.reason end as refused_reason
         from commands k join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id
              left join hello_refusals r on r.cluster_id = k.cluster_id
         where ($1::text is null or k.cluster_id = $1) and ($2::uuid is null or k.tenant_id = $2)
           and ($3::text is null or k.application_name = $3) and ($4::text is null or k.state = $4)
           and ($5::uuid is null or k.id < $5)
         order by k.id desc limit $6"#,
        filter.cluster.as_ref().map(ClusterId::as_str),
        filter.tenant.map(|tenant| tenant.0),
        filter.application.as_deref(),
        filter.state.map(CommandState::as_str),
        page.after.as_deref().and_then(CommandId::parse).map(|id| id.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list commands"))?;
    rows.into_iter().map(Command::try_from).collect()
}

/// The newest command about each of these objects on each of these clusters.
pub async fn newest(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
    keys: &[String],
) -> Result<Vec<Command>, StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        // Each by its own look into commands_by_object: `distinct on` would read the whole history of every object.
        r#"select k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.last_heartbeat_at as "last_heartbeat_at?", c.state as cluster_state,
                case when s.session is null or r.refused_at > s.last_heartbeat_at then r.reason end as refused_reason
         from (select distinct unnest($1::text[]) as cluster_id) as wanted
              cross join (select distinct unnest($2::text[]) as object_key) as about
              cross join lateral (select * from commands o where o.cluster_id = wanted.cluster_id and o.object_key = about.object_key
                                  order by o.revision desc limit 1) as k
              join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id
              left join hello_refusals r on r.cluster_id = k.cluster_id
         order by k.cluster_id, k.object_key"#,
        &clusters,
        keys,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find the newest commands"))?;
    rows.into_iter().map(Command::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, rows_read};
    use kubenova_core::change::Change;

    #[tokio::test]
    async fn lists_are_filtered_and_newest_first_without_repeats() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let application = fixture.application(&tenant, "shop", &clusters).await;
        fixture.enqueue(&clusters, &Change::Tenant(tenant.clone())).await;
        let change = Change::Application { tenant: tenant.name.clone(), application };
        let newest = fixture.enqueue(&clusters, &change).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut page = Page::new(None, Some(3));
        let mut rows = list(&mut connection, &CommandFilter::default(), &page).await.unwrap();
        assert!(page.cut(&mut rows));
        page.after = rows.last().map(|command| command.id.to_string());
        rows.extend(list(&mut connection, &CommandFilter::default(), &page).await.unwrap());
        let mut ids: Vec<CommandId> = rows.iter().map(|command| command.id).collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.is_sorted_by(|a, b| a > b), "newest first, each once");
        ids.truncate(2);
        assert!(newest.iter().all(|command| ids.contains(&command.command_id)));
        let page = Page::new(None, None);
        for (filter, count) in [
            (CommandFilter { cluster: Some(clusters[0].clone()), ..CommandFilter::default() }, 2),
            (CommandFilter { tenant: Some(tenant.id), ..CommandFilter::default() }, 4),
            (CommandFilter { application: Some("shop".into()), ..CommandFilter::default() }, 2),
            (CommandFilter { state: Some(CommandState::Sent), ..CommandFilter::default() }, 0),
        ] {
            assert_eq!(list(&mut connection, &filter, &page).await.unwrap().len(), count, "{filter:?}");
        }
    }

    #[tokio::test]
    async fn the_newest_command_of_each_object_and_cluster_is_found() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let change = Change::Tenant(tenant.clone());
        fixture.enqueue(&clusters, &change).await;
        let second = fixture.enqueue(&clusters, &change).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let keys = [format!("tenant/{}", tenant.id)];
        let found = newest(&mut connection, &clusters, &keys).await.unwrap();
        let ids = |commands: &[Command]| commands.iter().map(|command| command.id).collect::<Vec<_>>();
        assert_eq!(ids(&found), second.iter().map(|command| command.command_id).collect::<Vec<_>>());
        assert_eq!(found[0].cluster_last_heartbeat_at, None, "a cluster that never connected");
    }

    #[tokio::test]
    async fn a_year_of_ended_commands_costs_readers_nothing() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        fixture
            .execute(
                "insert into tenants (id, name, quota_cpu, quota_memory, quota_pods, created_at, updated_at, created_by)
                 select '0fffffff-0000-7000-8000-000000000002', 'other', '1', '1', 1, now(), now(), 'ann';
                 insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                                       state, created_by, queued_at, sent_at, acknowledged_at, finished_at)
                 select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, c.id, n, 'apply-application',
                        'application/1/app-' || n % 100, '{}', t.id, 'app-' || n % 100, 1,
                        case when n % 100 = 0 and c.name = 'cluster-2' then 'failed' else 'succeeded' end, 'ann', now(), now(), now(),
                        now()
                 from generate_series(1, 50000) n
                      join clusters c on c.name = case n % 2 when 0 then 'cluster-2' else 'cluster-1' end
                      join tenants t on t.name = case n % 2 when 0 then 'other' else 'tenant-1' end;
                 analyze commands",
            )
            .await;
        let mut tx = fixture.begin().await;
        let keys = ["application/1/app-2".to_owned(), "application/1/app-7".to_owned()];
        assert_eq!(newest(&mut tx, &clusters, &keys).await.unwrap().len(), 2);
        let mut read = rows_read(&mut tx).await;
        assert!(read <= 10, "{read} rows were read to find the newest of two objects");

        let (cluster, tenant) = (Some(clusters[0].clone()), Some(tenant.id));
        let (application, state) = (Some("none".to_owned()), Some(CommandState::Failed));
        let none = CommandFilter::default();
        for filter in [
            CommandFilter { application: application.clone(), ..none.clone() },
            CommandFilter { tenant, application, ..none.clone() },
            CommandFilter { tenant, application: Some("app-2".to_owned()), ..none.clone() },
            CommandFilter { tenant, state, ..none.clone() },
            CommandFilter { cluster, state, ..none },
        ] {
            assert_eq!(list(&mut tx, &filter, &Page::new(None, None)).await.unwrap().len(), 0, "{filter:?}");
            let now = rows_read(&mut tx).await;
            assert!(now - read <= 10, "{} rows were read for an empty list: {filter:?}", now - read);
            read = now;
        }
    }

    #[tokio::test]
    async fn a_command_shows_the_session_of_its_cluster() {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        let tenant = fixture.tenant().await;
        let command = fixture.enqueue(&[cluster], &Change::Tenant(tenant)).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let found = find(&mut connection, command.command_id).await.unwrap().unwrap();
        assert_eq!((found.cluster_last_heartbeat_at, found.cluster_refused.as_str()), (Some(at(0)), ""));
    }
}
