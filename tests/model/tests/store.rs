//! The model's database beside the real one: the same requests, claims, outcomes and hellos leave the same rows.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    access::{Caller, Role},
    application::ApplicationName,
    change::Change,
    cluster::{Cluster, ClusterId, ClusterName, ClusterState, Components},
    command::{CommandFilter, CommandId, CommandState},
    operation::{Operation, WorkflowOperation},
    page::Page,
    tenant::{Tenant, TenantId, TenantName},
};
use kubenova_model::{
    random::Random,
    store::{self as model, Kind, Queue},
};
use kubenova_store::{
    cluster_queue::{self, ClaimOptions},
    clusters, commands, enrollments,
    idempotency::ResponseRecord,
    operations,
    outbox::{self, Issuer},
    outcomes::{self, Reported},
    pool::Store,
    sessions::{self, HelloRequest},
    tenants,
    write_tx::WriteContext,
};
use kubenova_test_postgres::Database;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use uuid::Uuid;

const STEPS: usize = 1_500;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_767_225_600 + seconds)
}

/// Ids in the order in which they are made, as the model's are.
fn new_id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_u128(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

struct Real {
    store: Store,
    cluster: ClusterId,
    tenants: Vec<Tenant>,
    _database: Database,
}

impl Real {
    async fn new() -> Self {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        let cluster = Cluster {
            id: ClusterId::from_uuid(Uuid::from_u128(1)),
            name: ClusterName::parse("alpha").unwrap(),
            datacenter: String::new(),
            labels: BTreeMap::new(),
            components: Components::default(),
            generation: 1,
            epoch: 1,
            revision: 0,
            kubernetes_uid: None,
            incarnation: 0,
            state: ClusterState::PendingBootstrap,
            state_note: None,
            approval: kubenova_core::cluster::Approval::Automatic,
            enrolled_at: None,
            created_at: at(0),
            updated_at: at(0),
            created_by: "model".into(),
        };
        let mut connection = store.acquire().await.unwrap();
        clusters::insert(&mut connection, &cluster).await.unwrap();
        enrollments::enroll(&mut connection, &cluster.id, "uid", at(0)).await.unwrap();
        let mut all = Vec::new();
        for number in 0..4_u128 {
            let name = TenantName::parse(&format!("tenant-{number}")).unwrap();
            let tenant = Tenant::new(TenantId(Uuid::from_u128(100 + number)), name, at(0), "model");
            tenants::insert(&mut connection, &tenant).await.unwrap();
            all.push(tenant);
        }
        drop(connection);
        let real = Self { store, cluster: cluster.id, tenants: all, _database: database };
        real.hello(0, 0).await;
        real
    }

    async fn request(&self, key: u64, kind: Kind) -> u64 {
        let tenant = self.tenants[usize::try_from(key).unwrap()].clone();
        let change = match kind {
            Kind::Apply => Change::Tenant(tenant),
            _ => Change::TenantDeleted { id: tenant.id, name: tenant.name, generation: 1 },
        };
        let clusters = [self.cluster.clone()];
        let enqueue = self
            .store
            .transaction("model", async |tx| outbox::enqueue_commands(tx, issuer(), &clusters, &change).await);
        let enqueued: Result<_, kubenova_store::error::StoreError> = enqueue.await;
        number(enqueued.unwrap()[0].command_id)
    }

    async fn operate(&self, not_after: i64) -> u64 {
        let application = ApplicationName::parse("shop").unwrap();
        let workflow = WorkflowOperation::Restart;
        let operation = Operation { workflow, tenant_id: self.tenants[0].id, application, generation: 1 };
        let clusters = [self.cluster.clone()];
        let enqueue = self.store.transaction("model", async |tx| {
            operations::enqueue(tx, issuer(), &clusters, &operation, at(not_after)).await
        });
        let enqueued: Result<_, kubenova_store::error::StoreError> = enqueue.await;
        number(enqueued.unwrap()[0].command_id)
    }

    /// Cancels as REST does.
    async fn cancel(&self, id: u64) {
        let command = CommandId(Uuid::from_u128(id.into()));
        let context = WriteContext {
            caller: Caller { subject: "model".into(), role: Role::Ops, tenant: None },
            request_id: String::new(),
            traceparent: None,
            now: at(0),
            new_id,
            claim: None,
            dry_run: false,
        };
        let write = self.store.write(context, async |tx| {
            if !tx.cancel_command(command).await? {
                let operation = commands::find(tx.connection(), command).await?.unwrap();
                tx.request_cancel(&operation).await?;
            }
            let response = ResponseRecord { status: 202, headers: Vec::new(), body: String::new() };
            Ok::<_, kubenova_store::error::StoreError>(((), response))
        });
        write.await.unwrap();
    }

    async fn rows(&self) -> Vec<(u64, CommandState, Option<i64>)> {
        let mut connection = self.store.acquire().await.unwrap();
        let page = Page::new(None, Some(500));
        let rows = commands::list(&mut connection, &CommandFilter::default(), &page).await.unwrap();
        let seconds = |at_: Timestamp| at_.duration_since(at(0)).as_secs();
        let mut rows: Vec<_> =
            rows.into_iter().map(|row| (number(row.id), row.state, row.next_send_at.map(seconds))).collect();
        rows.sort_by_key(|row| row.0);
        rows
    }
}

const fn issuer() -> Issuer<'static> {
    Issuer::without_request("model", "ops", Timestamp::UNIX_EPOCH, new_id)
}

fn number(id: CommandId) -> u64 {
    u64::try_from(id.0.as_u128()).unwrap()
}

/// What is done to both.
#[derive(Debug, Clone, Copy)]
enum Action {
    Request(u64, Kind),
    Operate(i64),
    Cancel(u64),
    Claim,
    Report(u64, u64, Option<CommandState>),
    Hello,
    Enroll,
}

/// Ids are given in order, also to what is written again.
fn next_id(queue: &Queue) -> u64 {
    queue.rows.values().map(|row| row.id).max().unwrap_or_default() + 1
}

fn choose(random: &mut Random, queue: &Queue, now: i64) -> Action {
    let open = |row: &&model::Row| row.kind == Kind::Operate && !row.state.is_terminal();
    let operations: Vec<u64> = queue.rows.values().filter(open).map(|row| row.id).collect();
    let kind = if random.percent(30) { Kind::Delete } else { Kind::Apply };
    let ids: Vec<u64> = queue.rows.values().map(|row| row.id).collect();
    match random.below(100) {
        0..3 => Action::Operate(now + i64::try_from(random.below(400)).unwrap()),
        3..6 if !operations.is_empty() => Action::Cancel(operations[random.below(operations.len())]),
        6..15 => Action::Request(u64::try_from(random.below(4)).unwrap(), kind),
        15..40 => Action::Claim,
        40..94 if !ids.is_empty() => {
            let states = [
                None,
                Some(CommandState::Acknowledged),
                Some(CommandState::Running),
                Some(CommandState::Succeeded),
                Some(CommandState::Failed),
                Some(CommandState::Refused),
                Some(CommandState::Superseded),
                Some(CommandState::Expired),
            ];
            let epoch = 1 + u64::try_from(random.below(usize::try_from(queue.epoch).unwrap())).unwrap();
            // Mostly of the last ones: the others have ended.
            let from = if random.percent(80) { ids.len().saturating_sub(6) } else { 0 };
            Action::Report(ids[from + random.below(ids.len() - from)], epoch, states[random.below(states.len())])
        }
        94..98 => Action::Hello,
        98..100 => Action::Enroll,
        _ => Action::Claim,
    }
}

impl Real {
    async fn claim(&self, now: i64) -> Vec<u64> {
        let due = ClaimOptions {
            now: at(now),
            send_again_at: at(now + model::SEND_AGAIN),
            report_again_at: at(now + model::REPORT_AGAIN),
            window: i64::try_from(model::WINDOW).unwrap(),
            // Sessions of the model begin long ago, and the store compares them with the time of Postgres.
            heartbeat_within: Duration::from_secs(100 * 365 * 24 * 3600),
        };
        let claim = self.store.transaction("model", async |tx| cluster_queue::claim(tx, &self.cluster, &due).await);
        let claimed: Result<_, kubenova_store::error::StoreError> = claim.await;
        claimed.unwrap().unwrap().due.into_iter().map(|command| number(command.id)).collect()
    }

    async fn report(&self, id: u64, epoch: u64, state: Option<CommandState>, now: i64) {
        let again = if state.is_none() { now + 1 } else { now + model::REPORT_AGAIN };
        let reported = Reported {
            cluster_id: self.cluster.clone(),
            command_id: CommandId(Uuid::from_u128(id.into())),
            epoch: i64::try_from(epoch).unwrap(),
            state,
            reason: "Model".to_owned(),
            message: String::new(),
            hops: Vec::new(),
            send_again_at: Some(at(again)),
        };
        let record = self.store.transaction("model", async |tx| outcomes::record(tx, &reported, at(now), new_id).await);
        let recorded: Result<_, kubenova_store::error::StoreError> = record.await;
        recorded.unwrap();
    }

    async fn hello(&self, highest_revision: u64, now: i64) {
        let hello = HelloRequest {
            cluster_id: self.cluster.clone(),
            incarnation: "1".into(),
            boot_id: "boot".into(),
            lease_term: 1,
            operator_version: String::new(),
            kubernetes_version: String::new(),
            key_set_id: String::new(),
            highest_revision: i64::try_from(highest_revision).unwrap(),
            clock_offset_ms: 0,
        };
        let open = self.store.transaction("model", async |tx| {
            sessions::open(tx, &hello, at(now)).await?;
            cluster_queue::resend_open(tx, &self.cluster, hello.highest_revision, at(now)).await
        });
        let opened: Result<_, kubenova_store::error::StoreError> = open.await;
        opened.unwrap();
    }

    async fn floor(&self) -> u64 {
        let mut connection = self.store.acquire().await.unwrap();
        u64::try_from(cluster_queue::floor(&mut connection, &self.cluster).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_models_database_does_what_the_real_one_does() {
    let (real, mut queue, mut random) = (Real::new().await, Queue::default(), Random::new(1));
    let mut now = 0;
    for step in 0..STEPS {
        now += i64::try_from(random.below(40)).unwrap();
        let action = choose(&mut random, &queue, now);
        match action {
            Action::Request(key, kind) => {
                let id = real.request(key, kind).await;
                queue.enqueue(id, key, kind);
            }
            Action::Operate(not_after) => {
                let id = real.operate(not_after).await;
                queue.operate(id, not_after);
            }
            Action::Cancel(id) => {
                real.cancel(id).await;
                let next = next_id(&queue);
                queue.cancel_operation(id, || next);
            }
            Action::Claim => {
                let mut connection = real.store.acquire().await.unwrap();
                operations::expire(&mut connection, at(now)).await.unwrap();
                drop(connection);
                queue.expire(now);
                let claimed: Vec<u64> = queue.claim(now).into_iter().map(|message| message.id).collect();
                assert_eq!(real.claim(now).await, claimed, "step {step}");
            }
            Action::Report(id, epoch, state) => {
                real.report(id, epoch, state, now).await;
                let next = next_id(&queue);
                queue.record(&model::Outcome { id, epoch, state }, now, || next);
            }
            Action::Hello => {
                // Of a cluster that was restored, when it is not the highest.
                let held: Vec<(u64, u64)> = queue.rows.values().map(|row| (row.revision, row.id)).collect();
                let (revision, id) = held.get(random.below(held.len() + 1)).copied().unwrap_or_default();
                real.hello(revision, now).await;
                queue.hello(revision, id, 0, now).unwrap();
            }
            Action::Enroll => {
                let mut connection = real.store.acquire().await.unwrap();
                enrollments::enroll(&mut connection, &real.cluster, "uid", at(now)).await.unwrap();
                queue.enroll_again();
            }
        }
        let mut modeled: Vec<_> = queue.rows.values().map(|row| (row.id, row.state, row.next_send_at)).collect();
        modeled.sort_by_key(|row| row.0);
        assert_eq!(real.rows().await, modeled, "step {step}, {action:?} at {now} s");
        assert_eq!(real.floor().await, queue.floor(), "step {step}");
    }
}
