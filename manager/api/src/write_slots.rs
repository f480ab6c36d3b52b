//! How many changes are carried out at once. Each holds a connection of Postgres, and changes of one object wait for each
//! other while they hold theirs: without a limit one tenant that sends many of them takes the connections of everybody.

use kubenova_core::{
    access::Caller,
    refusal::{Reason, Refusal},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest wait for a place: as long as for a connection.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Changes of one tenant that may wait, for each that may be carried out: more are refused at once, because each holds its
/// body in memory. With the default of 16 connections a client may send 132 at once.
const WAITING_FACTOR: usize = 32;

/// The places for changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriteSlots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    of_one_max: usize,
    of_one: Mutex<BTreeMap<String, Arc<Own>>>,
}

/// The places of one tenant or caller.
#[derive(Debug)]
struct Own {
    places: Arc<Semaphore>,
    /// Changes that have a place or wait for one.
    present: AtomicUsize,
}

/// A place for one change; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct WriteSlot {
    _present: Present,
    _own: Option<OwnedSemaphorePermit>,
    _shared: Option<OwnedSemaphorePermit>,
}

/// Counts one change as present.
#[derive(Debug)]
struct Present(Arc<Own>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WriteSlots {
    /// For a pool of so many connections: half of them for changes, so that reads, the relay and ingest have the others, and
    /// a quarter for the changes of one tenant, or of one caller that is limited to none.
    #[must_use]
    pub fn of_pool(connections: usize) -> Self {
        let (all, of_one_max) = ((connections / 2).max(1), (connections / 4).max(1));
        Self(Arc::new(Inner { all: Arc::new(Semaphore::new(all)), of_one_max, of_one: Mutex::default() }))
    }

    /// A place for a change of this caller, once there is one.
    ///
    /// # Errors
    /// With [`Reason::Contended`] when too many wait already, or after [`WAIT_MAX`].
    pub(crate) async fn take(&self, caller: &Caller) -> Result<WriteSlot, Refusal> {
        let own = self.own(caller);
        let present = own.present.fetch_add(1, Ordering::Relaxed);
        let present_guard = Present(Arc::clone(&own));
        if present >= self.0.of_one_max * (1 + WAITING_FACTOR) {
            return Err(too_many(caller));
        }
        let wait = async {
            // In this order: who waits for its own places holds none of the others.
            let own = Arc::clone(&own.places).acquire_owned().await.ok();
            let shared = Arc::clone(&self.0.all).acquire_owned().await.ok();
            WriteSlot { _present: present_guard, _own: own, _shared: shared }
        };
        tokio::time::timeout(WAIT_MAX, wait).await.map_err(|_| too_many(caller))
    }

    fn own(&self, caller: &Caller) -> Arc<Own> {
        let of_one_max = self.0.of_one_max;
        let mut of_one = self.0.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for.
        of_one.retain(|_, own| Arc::strong_count(own) > 1);
        let name = caller.tenant.map_or_else(|| caller.identity(), |tenant| tenant.to_string());
        let new = || Own { places: Arc::new(Semaphore::new(of_one_max)), present: AtomicUsize::new(0) };
        Arc::clone(of_one.entry(name).or_insert_with(|| Arc::new(new())))
    }
}

fn too_many(caller: &Caller) -> Refusal {
    let whose = if caller.tenant.is_some() { "of this tenant" } else { "of this caller" };
    Refusal::new(Reason::Contended, format!("too many changes {whose} are being carried out; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        routes::applications::testing::{APPS, SHOP, World, form},
        testing::TestApi,
    };
    use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
    use kubenova_core::{access::Role, refusal::Reason, tenant::TenantId};
    use kubenova_store::{
        applications,
        error::StoreError,
        pool::{Limits, Store},
    };
    use serde_json::json;
    use std::time::Duration;
    use uuid::Uuid;

    #[tokio::test]
    async fn callers_of_one_tenant_share_their_places_and_what_is_not_used_is_forgotten() {
        let caller = |subject: &str, tenant| Caller { subject: subject.into(), role: Role::TenantOwner, tenant };
        let acme = Some(TenantId(Uuid::from_u128(1)));
        let slots = WriteSlots::of_pool(8);
        let (_first, second) = (slots.take(&caller("a", acme)).await, slots.take(&caller("b", acme)).await);
        assert!(slots.take(&caller("a", acme)).now_or_never().is_none(), "a quarter of the connections are taken");
        let _other = slots.take(&caller("a", None)).now_or_never().expect("another caller has places of its own");
        drop(second);
        let _third = slots.take(&caller("c", acme)).now_or_never().expect("a place is free again");
        let _fourth = slots.take(&caller("d", None)).now_or_never().expect("the last of half the connections");
        assert!(slots.take(&caller("e", None)).now_or_never().is_none(), "half the connections are taken");
        assert!(slots.take(&caller("a", acme)).now_or_never().is_none());
        assert_eq!(slots.0.of_one.lock().unwrap().len(), 3, "the caller that gave up is forgotten");
    }

    #[tokio::test]
    async fn more_changes_than_can_be_carried_out_soon_are_refused_at_once() {
        let caller = Caller { subject: "a".into(), role: Role::Ops, tenant: None };
        let slots = WriteSlots::of_pool(4);
        let _held = slots.take(&caller).await.unwrap();
        let mut waiting: FuturesUnordered<_> = (0..WAITING_FACTOR).map(|_| slots.take(&caller)).collect();
        assert!(waiting.next().now_or_never().is_none());
        let refused = slots.take(&caller).now_or_never().expect("it does not wait").unwrap_err();
        assert_eq!(refused.reason, Reason::Contended);
        drop(waiting);
        assert!(slots.take(&caller).now_or_never().is_none(), "those that gave up count no more");
    }

    /// Does something while another transaction holds the application.
    async fn while_locked<T>(world: &World, work: impl Future<Output = T>) -> T {
        let store = Store::open(world.api.database.url(), 1).unwrap();
        let locked = store.transaction("hold the application", async |connection| {
            applications::find_for_update(connection, world.acme, "shop").await?.expect("the application");
            Ok::<_, StoreError>(work.await)
        });
        locked.await.unwrap()
    }

    async fn world(lock: Duration) -> World {
        let world = World::on(TestApi::start().await.with_limits(Limits { lock, ..Limits::default() })).await;
        world.post(APPS, form("west")).await.is(202);
        world
    }

    #[tokio::test]
    async fn a_tenant_whose_changes_wait_for_each_other_leaves_connections_to_everybody_else() {
        let world = world(Duration::from_secs(60)).await;
        let owner = world.token(Role::TenantOwner, Some(world.acme)).await;
        let replace = || world.api.put(SHOP).json(&form("west")).send(&owner);
        let others = async {
            world.api.database.blocked().await;
            world.api.get("/api/v1/clusters").send(&world.admin).await.is(200);
            world.api.post("/api/v1/clusters").json(&json!({ "name": "north" })).send(&world.admin).await.is(201);
        };
        let locked = while_locked(&world, async {
            let mut waiting: FuturesUnordered<_> = (0..16).map(|_| replace()).collect();
            tokio::select! {
                answer = waiting.next() => panic!("answered while the application is locked: {answer:?}"),
                () = others => {}
            }
        });
        Box::pin(locked).await;
    }

    #[tokio::test]
    async fn a_change_that_waits_too_long_for_another_one_says_so() {
        let world = world(Duration::from_millis(50)).await;
        let refused = while_locked(&world, world.put(SHOP, form("west"))).await;
        let problem = refused.refused(Reason::Contended);
        assert_eq!(problem["retryable"], true, "{problem}");
        world.put(SHOP, form("west")).await.is(200);
    }
}
