//! What tests of the store begin with: a database of their own, fixed times, and rows that others refer to.

use crate::{
    applications,
    cluster_queue::ClaimOptions,
    clusters, enrollments,
    outbox::{self, EnqueuedCommand, Issuer},
    outcomes::Reported,
    pool::Store,
    sessions::{self, HelloRequest},
    tenants,
    transaction::Tx,
    windows::NewWindow,
    write_tx::WriteContext,
};
use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    access::{Caller, Role},
    application::{Application, ApplicationId, ApplicationName, Form},
    change::Change,
    cluster::{Cluster, ClusterId, ClusterName, ClusterState, Components},
    command::{CommandId, CommandState},
    tenant::{PodSecurity, Tenant, TenantId, TenantName},
};
use kubenova_schema::window::Window;
use kubenova_test_postgres::Database;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use uuid::Uuid;

/// Sessions are compared with the time of Postgres, and those of tests begin at [`at`] 0.
pub(crate) const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Far longer than a statement takes to reach a lock on a busy machine.
const BLOCKED_WITHIN: Duration = Duration::from_secs(60);

/// A store on a database that no other test uses.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) database: Database,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        Self { store: Store::open(database.url(), 8).unwrap(), database }
    }

    /// URL of its database.
    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    pub(crate) async fn begin(&self) -> Tx {
        self.store.begin("test").await.unwrap()
    }

    /// Runs a statement that no function of the store has, committed at once.
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut *self.store.acquire().await.unwrap()).await.unwrap();
    }

    /// A future that resolves once this transaction waits for a lock that another holds.
    pub(crate) async fn blocked(&self, tx: &mut Tx) -> impl Future<Output = ()> + use<> {
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut **tx).await.unwrap();
        let mut observer = self.store.acquire().await.unwrap();
        async move {
            let observed = async {
                let sql = "select cardinality(pg_blocking_pids($1)) > 0";
                while !sqlx::query_scalar::<_, bool>(sql).bind(pid).fetch_one(&mut *observer).await.unwrap() {}
            };
            tokio::time::timeout(BLOCKED_WITHIN, observed).await.expect("the statement waits for a lock");
        }
    }

    /// Clusters 1 to `count`, committed.
    pub(crate) async fn clusters(&self, count: u128) -> Vec<ClusterId> {
        let mut connection = self.store.acquire().await.unwrap();
        let mut ids = Vec::new();
        for number in 1..=count {
            let cluster = cluster(number);
            clusters::insert(&mut connection, &cluster).await.unwrap();
            ids.push(cluster.id);
        }
        ids
    }

    /// Clusters that are enrolled, committed.
    pub(crate) async fn enrolled_clusters(&self, count: u128) -> Vec<ClusterId> {
        let ids = self.clusters(count).await;
        let mut connection = self.store.acquire().await.unwrap();
        for (number, id) in ids.iter().enumerate() {
            enrollments::enroll(&mut connection, id, &format!("uid-{}", number + 1), at(0)).await.unwrap();
        }
        ids
    }

    /// A cluster that is enrolled and in session since [`at`] 0, committed.
    pub(crate) async fn connected_cluster(&self) -> ClusterId {
        self.connected_clusters(1).await.remove(0)
    }

    /// Clusters that are enrolled and in session since [`at`] 0, committed.
    pub(crate) async fn connected_clusters(&self, count: u128) -> Vec<ClusterId> {
        let ids = self.enrolled_clusters(count).await;
        let mut connection = self.store.acquire().await.unwrap();
        for id in &ids {
            sessions::open(&mut connection, &hello(id), at(0)).await.unwrap();
        }
        ids
    }

    /// Tenant 1, committed.
    pub(crate) async fn tenant(&self) -> Tenant {
        let tenant = tenant(1);
        tenants::insert(&mut self.store.acquire().await.unwrap(), &tenant).await.unwrap();
        tenant
    }

    /// An application of this tenant on these clusters, committed.
    pub(crate) async fn application(&self, tenant: &Tenant, name: &str, clusters: &[ClusterId]) -> Application {
        let application = application(tenant, name);
        applications::insert(&mut self.store.acquire().await.unwrap(), &application, clusters).await.unwrap();
        application
    }

    /// A command with this change for each cluster, committed.
    pub(crate) async fn enqueue(&self, clusters: &[ClusterId], change: &Change) -> Vec<EnqueuedCommand> {
        let mut tx = self.begin().await;
        let enqueued = outbox::enqueue_commands(&mut tx, issuer(), clusters, change).await.unwrap();
        tx.commit().await.unwrap();
        enqueued
    }
}

/// Rows of table `commands` that the statements of this transaction read.
pub(crate) async fn rows_read(connection: &mut sqlx::PgConnection) -> i64 {
    sqlx::query_scalar(
        "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'commands'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// So many seconds after midnight of a fixed day.
pub(crate) fn at(seconds: i64) -> Timestamp {
    let midnight: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    midnight + SignedDuration::from_secs(seconds)
}

/// A new id; later ids are higher, as UUIDv7s are.
pub(crate) fn new_id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_u128((0xc0ffee_u128 << 96) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn issuer() -> Issuer<'static> {
    Issuer { subject: "ann", role: "ops", request_id: "r", now: at(0), new_id, traceparent: None }
}

pub(crate) fn caller() -> Caller {
    Caller { subject: "ann".into(), role: Role::Ops, tenant: None }
}

/// What the relay claims at [`at`] 1, of a cluster that was ever in session.
pub(crate) fn claim_options() -> ClaimOptions {
    ClaimOptions { now: at(1), send_again_at: at(30), report_again_at: at(600), window: 10, heartbeat_within: EVER }
}

/// A state that a cluster reports of a command of epoch 1, with nothing beside it.
pub(crate) fn reported(cluster: &ClusterId, command_id: CommandId, state: CommandState) -> Reported {
    Reported {
        cluster_id: cluster.clone(),
        command_id,
        epoch: 1,
        state: Some(state),
        reason: String::new(),
        message: String::new(),
        hops: Vec::new(),
        send_again_at: None,
    }
}

/// A request at [`at`] 0 without an idempotency key.
pub(crate) fn write_context() -> WriteContext {
    WriteContext {
        caller: caller(),
        request_id: "r".into(),
        traceparent: None,
        now: at(0),
        new_id,
        claim: None,
        dry_run: false,
    }
}

pub(crate) fn cluster(number: u128) -> Cluster {
    Cluster {
        id: ClusterId::from_uuid(Uuid::from_u128(number)),
        name: ClusterName::parse(&format!("cluster-{number}")).unwrap(),
        datacenter: "fra".into(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
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
        created_by: "ann".into(),
    }
}

pub(crate) fn hello(cluster: &ClusterId) -> HelloRequest {
    HelloRequest {
        cluster_id: cluster.clone(),
        incarnation: "1".into(),
        boot_id: "boot-1".into(),
        lease_term: 1,
        operator_version: "0.1.0".into(),
        kubernetes_version: "v1.34.0".into(),
        key_set_id: "keys-1".into(),
        highest_revision: 0,
        clock_offset_ms: 12,
    }
}

pub(crate) fn tenant(number: u128) -> Tenant {
    let name = TenantName::parse(&format!("tenant-{number}")).unwrap();
    // A level that is not the default, to see that it is stored.
    Tenant {
        pod_security: PodSecurity::Restricted,
        ..Tenant::new(TenantId(Uuid::from_u128(number)), name, at(0), "ann")
    }
}

pub(crate) fn application(tenant: &Tenant, name: &str) -> Application {
    Application {
        id: ApplicationId(new_id()),
        tenant_id: tenant.id,
        name: ApplicationName::parse(name).unwrap(),
        form: Form::Raw,
        labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        annotations: BTreeMap::new(),
        spec: r#"{"components":[{"weight":1.10}]}"#.into(),
        deleting_since: None,
        generation: 1,
        created_at: at(0),
        updated_at: at(0),
        created_by: "ann".into(),
    }
}

/// An hour of a cluster whose manifest hash consists of this digit.
pub(crate) fn window(cluster: &ClusterId, start: i64, sha: char) -> NewWindow {
    NewWindow {
        cluster: cluster.clone(),
        window: Window { start, seconds: 3600 },
        revision: 0,
        manifest_sha256: sha.to_string().repeat(64),
        previous_manifest_sha256: String::new(),
        manifest: b"{}".to_vec(),
        manifest_signature: "s".into(),
        record_count: 1,
        coverage_ms: 3_600_000,
        gaps: serde_json::json!([]),
        clock_offset_ms: 0,
        incarnation: "1".into(),
        sealed_at: "2026-03-01T01:00:00Z".into(),
    }
}
