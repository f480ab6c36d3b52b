//! Carries rollouts out: assesses their clusters by what they report, and writes for those whose turn comes what `PUT` of a component would
//! write.
//!
//! A step is one transaction that holds the row of the rollout: of several Managers one takes it, and one that dies in the middle has
//! done nothing. What is decided stands in `manager/core/src/rollout`; before it: `manager/api/src/routes/rollouts`; after it: the relay.

use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    change::Change,
    cluster::{
        Cluster, ClusterId, ClusterRef, Connectivity,
        component_health::{self, Health},
    },
    command::Command,
    rollout::{
        Rollout, RolloutId,
        step::{self, Step},
        target::{self, Facts, Newest, Target, TargetState, Turn},
    },
};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    random,
    shutdown::Shutdown,
    telemetry,
};
use kubenova_schema::kinds::ObjectKey;
use kubenova_store::{
    clusters, commands,
    connection::Connection,
    error::StoreError,
    observed,
    outbox::{self, Issuer},
    pool::Store,
    rollouts::{self, Planned},
    sessions,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time between two looks for rollouts that are due.
const EVERY: Duration = Duration::from_secs(1);
/// Time between two steps of a rollout: clusters need many times that to become healthy.
const STEP_EVERY: SignedDuration = SignedDuration::from_secs(2);
/// Time after which a rollout whose step failed is looked at again, so that it does not keep others from theirs.
const FAILED_PAUSE: SignedDuration = SignedDuration::from_secs(15);

/// Takes steps until a stop is requested. Several Managers at once do no harm.
pub async fn run(store: Store, shutdown: Shutdown) {
    let listening_since = clock::now();
    Periodic::new("carry rollouts out", EVERY).run(&shutdown, || round(&store, listening_since, clock::now())).await;
}

/// One step of one rollout.
async fn round(store: &Store, listening_since: Timestamp, now: Timestamp) -> Result<Next, StoreError> {
    let claimed = Mutex::new(None);
    let step = async |tx: &mut Connection| {
        let Some(rollout) = rollouts::claim(tx, now).await? else { return Ok(false) };
        *claimed.lock().unwrap_or_else(PoisonError::into_inner) = Some(rollout.id);
        take_step(tx, rollout, listening_since, now).await?;
        Ok::<_, StoreError>(true)
    };
    let taken = store.transaction("take a step of a rollout", step).await;
    let claimed = *claimed.lock().unwrap_or_else(PoisonError::into_inner);
    match (taken, claimed) {
        (Ok(true), _) => Ok(Next::AtOnce),
        (Ok(false), _) => Ok(Next::Wait),
        (Err(error), None) => Err(error),
        (Err(error), Some(id)) => {
            tracing::warn!(error = %telemetry::chain(&error), rollout.id = %id, "could not take a step of a rollout; trying again");
            rollouts::postpone(&mut *store.acquire().await?, id, now + FAILED_PAUSE).await?;
            Ok(Next::AtOnce)
        }
    }
}

async fn take_step(
    tx: &mut Connection,
    rollout: Rollout,
    listening_since: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let planned = rollouts::targets(tx, rollout.id).await?;
    let facts = facts(tx, &rollout, &planned, listening_since, now).await?;
    let known: Vec<(Target, Facts)> = planned.iter().map(|one| one.target.clone()).zip(facts).collect();
    let Step { mut targets, begin, progress } = step::next(&rollout, &known, now);
    begin_with(tx, &rollout, &planned, &mut targets, &begin, now).await?;
    let changed: Vec<Target> =
        targets.into_iter().zip(&planned).filter(|(now, before)| *now != before.target).map(|(now, _)| now).collect();
    rollouts::save_targets(tx, rollout.id, &changed).await?;
    if progress.state != rollout.progress.state {
        let (state, reason) = (progress.state.as_str(), &progress.reason);
        tracing::info!(rollout.id = %rollout.id, state, reason, "a rollout moved on");
    }
    let ended_at = progress.state.has_ended().then_some(now);
    rollouts::save(tx, &Rollout { progress, ended_at, ..rollout }, now + STEP_EVERY, true, now).await
}

/// What is known of each cluster, in their order: one query for each kind of fact.
async fn facts(
    tx: &mut Connection,
    rollout: &Rollout,
    planned: &[Planned],
    listening_since: Timestamp,
    now: Timestamp,
) -> Result<Vec<Facts>, StoreError> {
    let ids: Vec<ClusterId> = planned.iter().map(|one| one.target.cluster_id.clone()).collect();
    let refs: Vec<ClusterRef> = ids.iter().cloned().map(ClusterRef::Id).collect();
    let keys = [ObjectKey::ClusterConfig.to_string()];
    let clusters: BTreeMap<ClusterId, Cluster> =
        clusters::find_all(tx, &refs).await?.into_iter().map(|cluster| (cluster.id.clone(), cluster)).collect();
    let heartbeats: BTreeMap<ClusterId, Timestamp> =
        sessions::of_clusters(tx, &ids).await?.into_iter().map(|one| (one.cluster_id, one.last_heartbeat_at)).collect();
    let mut newest = newest(tx, &ids).await?;
    let mut reports: BTreeMap<ClusterId, _> = observed::find(tx, &ids, &keys).await?.into_iter().collect();
    let of = |one: &Planned| {
        let id = &one.target.cluster_id;
        let cluster = clusters.get(id).ok_or_else(|| StoreError::Missing { table: "clusters", id: id.to_string() })?;
        let last_heartbeat_at = heartbeats.get(id).copied();
        let wanted = cluster.components.get(rollout.component);
        let report = reports.remove(id).filter(|report| !report.absent);
        Ok::<_, StoreError>(Facts {
            cluster_state: cluster.state,
            connectivity: Connectivity::of(last_heartbeat_at, listening_since, now),
            last_heartbeat_at,
            carries_change: one.change.applied_to(wanted) == *wanted,
            newest: newest.remove(id).map(|command| Newest {
                revision: command.revision,
                state: command.state,
                reason: command.reason,
                message: command.message,
            }),
            observed_revision: report.as_ref().map_or(0, |report| report.revision),
            health: report.map_or(Health::Unknown, |report| {
                component_health::health(rollout.component, wanted, &report.conditions, &report.detail)
            }),
        })
    };
    planned.iter().map(of).collect()
}

/// The newest command with the configuration of each cluster.
async fn newest(tx: &mut Connection, ids: &[ClusterId]) -> Result<BTreeMap<ClusterId, Command>, StoreError> {
    let found = commands::newest(tx, ids, &[ObjectKey::ClusterConfig.to_string()]).await?;
    Ok(found.into_iter().map(|command| (command.cluster_id.clone(), command)).collect())
}

/// Writes what is wanted of the clusters whose turn it is. They are held from here on: what is wanted of them, and whether they take
/// changes at all, is read again.
async fn begin_with(
    tx: &mut Connection,
    rollout: &Rollout,
    planned: &[Planned],
    targets: &mut [Target],
    begin: &[usize],
    now: Timestamp,
) -> Result<(), StoreError> {
    if begin.is_empty() {
        return Ok(());
    }
    let ids: Vec<ClusterId> = begin.iter().map(|&index| targets[index].cluster_id.clone()).collect();
    let held = clusters::lock_all(tx, &ids).await?;
    let newest = newest(tx, &ids).await?;
    // In id order, in which every writer of commands locks clusters.
    for cluster in held.into_iter().filter(|cluster| cluster.state.takes_changes()) {
        let Some(index) = begin.iter().copied().find(|&index| targets[index].cluster_id == cluster.id) else {
            continue;
        };
        let component = cluster.components.get(rollout.component);
        let newest = newest.get(&cluster.id);
        let state = newest.map(|command| command.state);
        let turn = target::turn(rollout.component, component, &planned[index].change, state);
        let target = targets[index].clone();
        targets[index] = match turn {
            Turn::Skip { reason, message } => target.ended(TargetState::Skipped, reason, message, now),
            Turn::Follow => target.begun(newest.map_or(0, |command| command.revision), now),
            Turn::Write(component) => {
                let before = cluster.components.get(rollout.component).clone();
                let components = cluster.components.clone().with(rollout.component, component);
                let revision = write(tx, rollout.id, Cluster { components, ..cluster }, now).await?;
                rollouts::save_before(tx, rollout.id, &target.cluster_id, &before).await?;
                target.begun(revision, now)
            }
        };
    }
    Ok(())
}

/// Writes what is wanted of a cluster that is held, with its command; the command's revision.
async fn write(tx: &mut Connection, rollout: RolloutId, cluster: Cluster, now: Timestamp) -> Result<i64, StoreError> {
    let cluster = Cluster { generation: cluster.generation + 1, updated_at: now, ..cluster };
    clusters::update_components(tx, &cluster).await?;
    let subject = format!("rollout/{rollout}");
    let issuer = Issuer::without_request(&subject, "manager", now, random::uuid_v7);
    let change = Change::ClusterConfig { components: cluster.components, generation: cluster.generation };
    let enqueued = outbox::enqueue_commands(tx, issuer, std::slice::from_ref(&cluster.id), &change).await?;
    Ok(enqueued.into_iter().map(|one| one.revision).max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_core::{
        cluster::{ClusterName, ClusterState, Component, ComponentChange, ComponentName, Components},
        command::CommandState,
        page::Page,
        rollout::{
            OfflinePolicy, Policy, Progress, RolloutState,
            plan::{self, Amount},
            verbs,
        },
    };
    use kubenova_store::{
        cluster_queue::{self, ClaimOptions},
        enrollments,
        observed::{ObservedObject, Version},
        outcomes::{self, Reported},
        rollouts::NewTarget,
        sessions::HelloRequest,
    };
    use kubenova_test_postgres::Database;
    use serde_json::json;
    use uuid::Uuid;

    /// Sessions are compared with the time of Postgres, and those of tests begin at [`at`] 0.
    const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn id(number: u128) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number))
    }

    fn change() -> ComponentChange {
        ComponentChange { version: Some("0.15.0".to_owned()), ..ComponentChange::default() }
    }

    /// Clusters 1 to n with a rollout of Capsule 0.15.0 over them, one as a canary, and what happens there.
    struct World {
        database: Database,
        store: Store,
        url: String,
        now: i64,
        counter: i64,
    }

    const ROLLOUT: RolloutId = RolloutId(Uuid::from_u128(7));

    impl World {
        async fn new(clusters: u128) -> Self {
            let database = Database::new().await;
            let url = database.url().to_owned();
            let store = Store::open(&url, 4).unwrap();
            let world = Self { database, store, url, now: 0, counter: 0 };
            for number in 1..=clusters {
                world.insert_cluster(number).await;
            }
            let waves = plan::waves(usize::try_from(clusters).unwrap(), Some(Amount::Count(1)), None);
            let target =
                |(number, wave): (u128, &u32)| NewTarget { cluster_id: id(number), wave: *wave, change: change() };
            let targets: Vec<NewTarget> = (1..=clusters).zip(&waves).map(target).collect();
            let rollout = Rollout {
                id: ROLLOUT,
                component: ComponentName::Capsule,
                change: Some(change()),
                rollback_of: None,
                policy: Policy {
                    canary: true,
                    max_unavailable: 10,
                    max_failures: 0,
                    pause: SignedDuration::ZERO,
                    wait_for_resume: false,
                    progress_deadline: SignedDuration::from_secs(600),
                    offline: OfflinePolicy::Wait,
                },
                waves: waves.last().unwrap() + 1,
                progress: Progress::begun(),
                created_at: at(0),
                created_by: "ann".to_owned(),
                ended_at: None,
            };
            let mut connection = world.store.acquire().await.unwrap();
            rollouts::insert(&mut connection, &rollout, &targets).await.unwrap();
            drop(connection);
            world
        }

        /// A cluster that is in session and has Capsule 0.14.0, by its first command.
        async fn insert_cluster(&self, number: u128) {
            let capsule = Component { enabled: true, version: "0.14.0".to_owned(), ..Component::default() };
            let cluster = Cluster {
                id: id(number),
                name: ClusterName::parse(&format!("dc{number}")).unwrap(),
                datacenter: String::new(),
                labels: BTreeMap::new(),
                components: Components { capsule, ..Components::default() },
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
                created_by: "ann".to_owned(),
            };
            let change = Change::ClusterConfig { components: cluster.components.clone(), generation: 1 };
            let write = async |tx: &mut Connection| {
                clusters::insert(tx, &cluster).await?;
                enrollments::enroll(tx, &cluster.id, &format!("uid-{number}"), at(0)).await?;
                sessions::open(tx, &hello(&cluster.id), at(0)).await?;
                let issuer = Issuer::without_request("ann", "ops", at(0), random::uuid_v7);
                outbox::enqueue_commands(tx, issuer, std::slice::from_ref(&cluster.id), &change).await
            };
            self.store.transaction("test", write).await.unwrap();
            self.settle(number, CommandState::Succeeded).await;
        }

        /// Sends what is due to a cluster, and ends it.
        async fn settle(&self, number: u128, state: CommandState) {
            let due = ClaimOptions {
                now: at(self.now),
                send_again_at: at(self.now + 600),
                report_again_at: at(self.now + 600),
                window: 32,
                heartbeat_within: EVER,
            };
            let cluster = id(number);
            let claim = async |tx: &mut Connection| cluster_queue::claim(tx, &cluster, &due).await;
            self.store.transaction("test", claim).await.unwrap();
            let newest = newest(&mut self.store.acquire().await.unwrap(), &[id(number)]).await.unwrap();
            let reported = Reported {
                cluster_id: id(number),
                command_id: newest[&id(number)].id,
                epoch: 1,
                state: Some(state),
                reason: "Because".to_owned(),
                message: "the cluster says why".to_owned(),
                hops: Vec::new(),
                send_again_at: None,
            };
            let record =
                async |tx: &mut Connection| outcomes::record(tx, &reported, at(self.now), random::uuid_v7).await;
            self.store.transaction("test", record).await.unwrap();
        }

        /// The cluster carries its newest command out, and its component is healthy.
        async fn healthy(&mut self, number: u128) {
            self.settle(number, CommandState::Succeeded).await;
            self.report(number, "True").await;
        }

        async fn report(&mut self, number: u128, status: &str) {
            self.counter += 1;
            let mut connection = self.store.acquire().await.unwrap();
            let revision = newest(&mut connection, &[id(number)]).await.unwrap()[&id(number)].revision;
            let condition = json!({ "type": "CapsuleReady", "status": status, "reason": "R", "observedGeneration": 1 });
            let object = ObservedObject {
                object_key: ObjectKey::ClusterConfig.to_string(),
                revision,
                absent: false,
                conditions: json!([condition]),
                detail: json!({ "generation": 1, "components": [{ "name": "capsule", "version": self.wanted(number).await.0 }] }),
                as_of: at(self.now),
            };
            let version = Version { epoch: 1, session: 1, counter: self.counter };
            observed::merge(&mut connection, &id(number), version, &[object]).await.unwrap();
        }

        /// Every Manager's next look, three seconds later; clusters but these have sent a heartbeat.
        async fn look_without(&mut self, silent: &[u128]) {
            self.now += 3;
            let mut connection = self.store.acquire().await.unwrap();
            let silent: Vec<ClusterId> = silent.iter().copied().map(id).collect();
            let page = Page::new(None, Some(500));
            for cluster in clusters::list(&mut connection, &page).await.unwrap() {
                if !silent.contains(&cluster.id) && cluster.state == ClusterState::Enrolled {
                    sessions::open(&mut connection, &hello(&cluster.id), at(self.now)).await.unwrap();
                }
            }
            drop(connection);
            while round(&self.store, at(-100_000), at(self.now)).await.unwrap() == Next::AtOnce {}
        }

        async fn look(&mut self) {
            self.look_without(&[]).await;
        }

        async fn rollout(&self) -> Rollout {
            rollouts::find(&mut self.store.acquire().await.unwrap(), ROLLOUT).await.unwrap().unwrap()
        }

        async fn is(&self, state: RolloutState, reason: &str) {
            let progress = self.rollout().await.progress;
            assert_eq!((progress.state, progress.reason.as_str()), (state, reason), "{progress:?}");
        }

        /// State and reason of each cluster.
        async fn states(&self) -> Vec<(TargetState, String)> {
            let planned = rollouts::targets(&mut self.store.acquire().await.unwrap(), ROLLOUT).await.unwrap();
            planned.into_iter().map(|one| (one.target.state, one.target.reason)).collect()
        }

        /// The version of Capsule that is wanted on a cluster, and the cluster's generation.
        async fn wanted(&self, number: u128) -> (String, i64) {
            let mut connection = self.store.acquire().await.unwrap();
            let cluster = clusters::find(&mut connection, &ClusterRef::Id(id(number))).await.unwrap().unwrap();
            (cluster.components.capsule.version, cluster.generation)
        }

        /// What a request makes of the rollout.
        async fn verb(&self, verb: impl Fn(&Rollout, &[Target]) -> (Progress, Vec<Target>)) {
            let write = async |tx: &mut Connection| {
                let rollout = rollouts::lock(tx, ROLLOUT).await?.expect("the rollout");
                let planned = rollouts::targets(tx, ROLLOUT).await?;
                let targets: Vec<Target> = planned.into_iter().map(|one| one.target).collect();
                let (progress, changed) = verb(&rollout, &targets);
                rollouts::save_targets(tx, ROLLOUT, &changed).await?;
                rollouts::save(tx, &Rollout { progress, ..rollout }, at(self.now), false, at(self.now)).await
            };
            self.store.transaction("test", write).await.unwrap();
        }
    }

    fn hello(cluster: &ClusterId) -> HelloRequest {
        HelloRequest {
            cluster_id: cluster.clone(),
            incarnation: "1".to_owned(),
            boot_id: "boot-1".to_owned(),
            lease_term: 1,
            operator_version: "0.1.0".to_owned(),
            kubernetes_version: "v1.34.0".to_owned(),
            key_set_id: String::new(),
            highest_revision: 0,
            clock_offset_ms: 0,
        }
    }

    const fn is(state: TargetState) -> (TargetState, String) {
        (state, String::new())
    }

    #[tokio::test]
    async fn a_canary_that_is_healthy_lets_the_others_be_changed() {
        let mut world = World::new(3).await;
        world.look().await;
        assert_eq!(world.wanted(1).await, ("0.15.0".to_owned(), 2));
        assert_eq!(world.wanted(2).await, ("0.14.0".to_owned(), 1));
        world.report(1, "False").await;
        world.look().await;
        assert_eq!(world.wanted(2).await.0, "0.14.0", "not on the word of a canary that is being changed");
        world.healthy(1).await;
        world.look().await;
        assert_eq!((world.wanted(2).await.0, world.wanted(3).await.0), ("0.15.0".to_owned(), "0.15.0".to_owned()));
        world.healthy(2).await;
        world.healthy(3).await;
        world.look().await;
        world.is(RolloutState::Completed, "Completed").await;
        let rollout = world.rollout().await;
        assert_eq!(rollout.ended_at, Some(at(world.now)));
        let newest = newest(&mut world.store.acquire().await.unwrap(), &[id(3)]).await.unwrap();
        assert_eq!(newest[&id(3)].created_by, format!("rollout/{ROLLOUT}"));
    }

    #[tokio::test]
    async fn a_canary_that_fails_stops_the_rollout_and_the_others_stay() {
        let mut world = World::new(3).await;
        world.look().await;
        world.settle(1, CommandState::Refused).await;
        world.look().await;
        world.is(RolloutState::Stopped, "CanaryFailed").await;
        world.look().await;
        assert_eq!((world.wanted(2).await.1, world.wanted(3).await.1), (1, 1));
        let states = world.states().await;
        assert_eq!(states[0], (TargetState::Failed, "Because".to_owned()));
        world.verb(|rollout, targets| (verbs::resume(rollout, targets, "ann").unwrap(), Vec::new())).await;
        world.look().await;
        assert_eq!(world.wanted(2).await.0, "0.15.0", "a person accepted it");
    }

    #[tokio::test]
    async fn a_pause_outlives_the_manager() {
        let mut world = World::new(2).await;
        world.look().await;
        world.verb(|rollout, _| (verbs::pause(rollout, "ann").unwrap(), Vec::new())).await;
        world.healthy(1).await;
        // Another process, with nothing but the database.
        world.store = Store::open(&world.url, 4).unwrap();
        for _ in 0..3 {
            world.look().await;
        }
        world.is(RolloutState::Paused, "Requested").await;
        assert_eq!(world.states().await, [is(TargetState::Succeeded), is(TargetState::Pending)]);
        assert_eq!(world.wanted(2).await.1, 1);
        world.verb(|rollout, targets| (verbs::resume(rollout, targets, "ann").unwrap(), Vec::new())).await;
        world.look().await;
        assert_eq!(world.wanted(2).await.0, "0.15.0");
    }

    #[tokio::test]
    async fn two_managers_take_each_step_once() {
        let mut world = World::new(1).await;
        let other = Store::open(&world.url, 4).unwrap();
        for _ in 0..5 {
            world.now += 3;
            let looks = (0..4).map(|number| {
                let store = if number % 2 == 0 { &world.store } else { &other };
                round(store, at(-100_000), at(world.now))
            });
            for taken in futures::future::join_all(looks).await {
                taken.unwrap();
            }
        }
        assert_eq!(world.wanted(1).await, ("0.15.0".to_owned(), 2));
        let newest = newest(&mut world.store.acquire().await.unwrap(), &[id(1)]).await.unwrap();
        assert_eq!(newest[&id(1)].revision, 2, "one command beside the first");
    }

    #[tokio::test]
    async fn a_step_that_was_not_committed_has_changed_nothing() {
        let mut world = World::new(1).await;
        let died = world.store.transaction("test", async |tx: &mut Connection| {
            let rollout = rollouts::claim(tx, at(1)).await?.expect("the rollout");
            take_step(tx, rollout, at(-100_000), at(1)).await?;
            Err::<(), _>(StoreError::Missing { table: "none", id: String::new() })
        });
        died.await.unwrap_err();
        assert_eq!((world.wanted(1).await.1, world.states().await), (1, vec![is(TargetState::Pending)]));
        world.look().await;
        assert_eq!(world.wanted(1).await.1, 2);
    }

    #[tokio::test]
    async fn what_was_changed_before_a_cancel_stays_and_is_followed() {
        let mut world = World::new(2).await;
        world.look().await;
        world.verb(|rollout, targets| verbs::cancel(rollout, targets, "ann", at(4)).unwrap()).await;
        world.look().await;
        world.is(RolloutState::Cancelling, "Cancelled").await;
        world.healthy(1).await;
        world.look().await;
        world.is(RolloutState::Cancelled, "Cancelled").await;
        assert_eq!((world.wanted(1).await.0, world.wanted(2).await.0), ("0.15.0".to_owned(), "0.14.0".to_owned()));
        let states = world.states().await;
        assert_eq!(states, [is(TargetState::Succeeded), (TargetState::Skipped, "RolloutCancelled".to_owned())]);
    }

    #[tokio::test]
    async fn a_cluster_that_is_purged_meanwhile_is_passed_over() {
        let mut world = World::new(3).await;
        world.look().await;
        world.healthy(1).await;
        world.look().await;
        world.healthy(3).await;
        world.database.execute("update clusters set state = 'purged' where name = 'dc2'").await;
        world.look().await;
        world.is(RolloutState::Completed, "Completed").await;
        assert_eq!(world.states().await[1], (TargetState::Skipped, "ClusterPurged".to_owned()));
    }

    #[tokio::test]
    async fn an_offline_cluster_is_named_delays_no_other_and_is_changed_when_it_is_back() {
        let mut world = World::new(3).await;
        world.now = 400;
        world.look_without(&[2]).await;
        world.healthy(1).await;
        world.look_without(&[2]).await;
        assert_eq!((world.wanted(2).await.0, world.wanted(3).await.0), ("0.14.0".to_owned(), "0.15.0".to_owned()));
        world.healthy(3).await;
        world.look_without(&[2]).await;
        world.is(RolloutState::Running, "WaitingForClusters").await;
        assert!(world.rollout().await.progress.message.ends_with("not connected: dc2"));
        assert_eq!(world.states().await[1], (TargetState::Pending, "ClusterOffline".to_owned()));
        world.look().await;
        assert_eq!(world.wanted(2).await.0, "0.15.0");
        world.healthy(2).await;
        world.look().await;
        world.is(RolloutState::Completed, "Completed").await;
    }

    #[tokio::test]
    async fn a_change_of_another_component_meanwhile_is_no_obstacle() {
        let mut world = World::new(1).await;
        world.look().await;
        let other = async |tx: &mut Connection| {
            let mut cluster = clusters::lock_all(tx, &[id(1)]).await?.remove(0);
            cluster.components.kubevela.enabled = true;
            write(tx, ROLLOUT, cluster, at(1)).await
        };
        world.store.transaction("test", other).await.unwrap();
        world.look().await;
        assert_eq!(world.states().await[0].0, TargetState::Updating);
        world.healthy(1).await;
        world.look().await;
        world.is(RolloutState::Completed, "Completed").await;
    }

    #[tokio::test]
    async fn a_rollout_whose_step_fails_keeps_no_other_from_its_own() {
        let mut world = World::new(1).await;
        world.database.execute("update rollout_clusters set state = 'updating'; alter table rollout_clusters drop column unhealthy_since").await;
        world.now = 3;
        assert_eq!(round(&world.store, at(0), at(3)).await.unwrap(), Next::AtOnce);
        assert_eq!(round(&world.store, at(0), at(3)).await.unwrap(), Next::Wait, "it is due again later");
    }
}
