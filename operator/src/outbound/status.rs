//! Status of objects: a full snapshot opens each session, later reports carry what changed, newest wins.
//!
//! (epoch, session, counter) orders reports, so that a straggler changes nothing at the Manager. Before this file:
//! controllers put what they see on the [`StatusCache`].

use super::outcomes::{ended, wait_for_session};
use crate::{apiserver::verbs, context::Context, controllers::application::observe, session::Session};
use kube::Api;
use kubenova_bus::publish;
use kubenova_crds::{cluster_config::NovaClusterConfig, tenant::NovaTenant};
use kubenova_operator_core::observed;
use kubenova_runtime::{backoff, clock, failpoint, random, telemetry};
use kubenova_schema::{
    message, signature, subjects,
    v1::{ObjectStatus, StatusReport},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Objects in one report: an object's status is below 16 KiB, a message must stay below 1 MiB.
const OBJECTS_MAX: usize = 50;
/// Changes that come within this time travel together.
const SETTLE: Duration = Duration::from_millis(100);

/// What the cluster's objects look like at present. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StatusCache(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, ObjectStatus>,
    changed: BTreeSet<String>,
}

impl StatusCache {
    /// Puts an object's status up; nothing happens when it says what it said before.
    pub fn put(&self, status: ObjectStatus) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.objects.get(&status.key) == Some(&status) {
            return;
        }
        state.changed.insert(status.key.clone());
        state.objects.insert(status.key.clone(), status);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Takes an object down that is gone from the cluster.
    pub fn remove(&self, key: &str) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.objects.remove(key).is_some() {
            state.changed.insert(key.to_owned());
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Everything, and forgets what changed.
    fn snapshot(&self) -> Vec<ObjectStatus> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.changed.clear();
        state.objects.values().cloned().collect()
    }

    fn keys(&self) -> BTreeSet<String> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).objects.keys().cloned().collect()
    }

    /// What changed since the last time, at most [`OBJECTS_MAX`].
    fn changes(&self) -> Vec<ObjectStatus> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<String> = state.changed.iter().take(OBJECTS_MAX).cloned().collect();
        for key in &keys {
            state.changed.remove(key);
        }
        keys.into_iter()
            .map(|key| match state.objects.get(&key) {
                Some(status) => status.clone(),
                None => ObjectStatus { key, absent: true, ..ObjectStatus::default() },
            })
            .collect()
    }

    fn changed_again(&self, objects: &[ObjectStatus]) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.changed.extend(objects.iter().map(|status| status.key.clone()));
    }
}

/// Reports until the process stops.
pub async fn run(ctx: Context) {
    let mut session = ctx.session.clone();
    loop {
        let Some(open) = wait_for_session(&ctx, &mut session).await else { return };
        tokio::select! {
            () = ctx.shutdown.requested() => return,
            () = serve(&ctx, &open) => {}
            () = ended(&mut session, &open) => {}
        }
    }
}

async fn serve(ctx: &Context, session: &Session) {
    let mut reports = Reports { ctx, session, counter: 0 };
    refresh_until_done(ctx).await;
    reports.send(true, ctx.status_cache.snapshot()).await;
    loop {
        ctx.status_cache.0.wake.notified().await;
        tokio::time::sleep(SETTLE).await;
        loop {
            let changes = ctx.status_cache.changes();
            if changes.is_empty() {
                break;
            }
            reports.send(false, changes).await;
        }
    }
}

struct Reports<'a> {
    ctx: &'a Context,
    session: &'a Session,
    counter: u64,
}

impl Reports<'_> {
    /// Sends until the stream has it. A big snapshot is cut: its first part says what there is, the others follow as
    /// changes.
    async fn send(&mut self, snapshot: bool, mut objects: Vec<ObjectStatus>) {
        // A snapshot says "this is everything"; only one that fits may say so.
        let snapshot = snapshot && objects.len() <= OBJECTS_MAX;
        loop {
            let rest = objects.split_off(objects.len().min(OBJECTS_MAX));
            self.send_one(snapshot, objects).await;
            if rest.is_empty() {
                return;
            }
            objects = rest;
        }
    }

    async fn send_one(&mut self, snapshot: bool, objects: Vec<ObjectStatus>) {
        self.counter += 1;
        let report = StatusReport {
            cluster_id: self.ctx.identity.cluster_id().to_owned(),
            epoch: self.session.epoch,
            session: self.session.number,
            counter: self.counter,
            at: clock::rfc3339_ms(clock::now()),
            snapshot,
            objects,
        };
        let body = message::to_json(&report);
        failpoint::passing("outbound.status");
        for wait in backoff::forever() {
            let Some(connection) = self.ctx.bus.borrow().clone() else { return };
            let id = random::uuid_v4().to_string();
            let headers = publish::headers(&id, &[(signature::SCHEMA_HEADER, "kubenova.v1.StatusReport")]);
            let subject = subjects::status(self.ctx.identity.cluster_id());
            match publish::publish(&connection.jetstream, &subject, headers, body.clone()).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(error = %telemetry::chain(&error), "could not publish status; trying again");
                    self.ctx.hello_again.notify_one();
                    if !snapshot {
                        self.ctx.status_cache.changed_again(&report.objects);
                    }
                }
            }
            tokio::time::sleep(wait).await;
        }
    }
}

async fn refresh_until_done(ctx: &Context) {
    for wait in backoff::forever() {
        match refresh(ctx).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not read the cluster's objects for a snapshot");
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Makes the status_cache say what the API server says.
async fn refresh(ctx: &Context) -> Result<(), crate::apiserver::Error> {
    let before = ctx.status_cache.keys();
    let mut now = Vec::new();
    let configs: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    now.extend(verbs::list(&configs, "").await?.iter().filter_map(observed::cluster_config));
    let tenants: Api<NovaTenant> = Api::all(ctx.apiserver.client());
    now.extend(verbs::list(&tenants, "").await?.iter().map(observed::tenant));
    now.extend(observe::all(ctx).await?);
    let present: BTreeSet<String> = now.iter().map(|status| status.key.clone()).collect();
    for status in now {
        ctx.status_cache.put(status);
    }
    for gone in before.difference(&present) {
        ctx.status_cache.remove(gone);
    }
    Ok(())
}
