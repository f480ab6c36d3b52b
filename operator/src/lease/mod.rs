//! Only the holder of the Lease `kubenova-operator` works. Implemented here, because every start raises the lease term
//! (`leaseTransitions`), also of a pod that already held it: the Manager takes two processes of one term for a clone.
//!
//! The holder is the pod's UID, so a restarted container need not wait for expiry. Whether another pod's lease has
//! expired is measured by the own monotonic clock since it last changed, never by comparing clocks. A lost lease ends
//! the process.

use crate::apiserver::{Error, client::Apiserver, verbs};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, api::ObjectMeta};
use kubenova_runtime::{clock, failpoint, retry::Retry, shutdown::Shutdown};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

pub const NAME: &str = "kubenova-operator";
/// Time between attempts to acquire: a lease that expired is taken over at most this much later.
const ACQUIRE_INTERVAL: Duration = Duration::from_secs(1);
/// An API server that is away must not use up the pod's time to stop.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct LeaseConfig {
    pub namespace: String,
    /// The pod's UID.
    pub holder: String,
    /// Another pod takes over when the holder has not renewed for this long.
    pub duration: Duration,
}

/// A held Lease.
#[derive(Debug)]
pub struct HeldLease {
    api: Api<Lease>,
    lease: Lease,
    config: LeaseConfig,
    /// `leaseTransitions` of this start.
    pub term: u64,
}

/// Waits until the Lease is held, and raises its term; says so whenever another pod holds it. `None` when a stop was requested first.
pub async fn acquire(
    apiserver: &Apiserver,
    config: LeaseConfig,
    shutdown: &Shutdown,
    stands_by: impl Fn(),
) -> Option<HeldLease> {
    let api: Api<Lease> = Api::namespaced(apiserver.client(), &config.namespace);
    let seen = Mutex::default();
    loop {
        let retry = Retry::new("acquire the lease").backoff(ACQUIRE_INTERVAL, ACQUIRE_INTERVAL).finish_attempt();
        if let Some(lease) = retry.until_ok(shutdown, || attempt(&api, &config, &seen)).await? {
            let term = term_of(&lease);
            tracing::info!(lease.term = term, "acquired the lease");
            return Some(HeldLease { api, lease, config, term });
        }
        // Another pod holds it, which is no failure.
        stands_by();
        if !shutdown.sleep(ACQUIRE_INTERVAL).await {
            return None;
        }
    }
}

/// The resourceVersion of another pod's lease, and since when it is that.
type Seen = Mutex<Option<(String, Instant)>>;

async fn attempt(api: &Api<Lease>, config: &LeaseConfig, seen: &Seen) -> Result<Option<Lease>, Error> {
    let Some(mut lease) = verbs::get(api, NAME).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(config.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(claimed(&LeaseSpec::default(), config)),
        };
        return verbs::create_if_absent(api, &lease).await;
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if !holder.is_empty() && holder != config.holder {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let limit = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(config.duration, Duration::from_secs);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((known, since)) if *known == version => {
                if since.elapsed() < limit {
                    return Ok(None);
                }
            }
            _ => {
                tracing::info!(lease.holder = %holder, "another pod holds the lease; waiting");
                *seen = Some((version, Instant::now()));
                return Ok(None);
            }
        }
    }
    lease.spec = Some(claimed(&spec, config));
    match verbs::replace(api, &lease).await {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

fn claimed(before: &LeaseSpec, config: &LeaseConfig) -> LeaseSpec {
    let now = MicroTime(clock::now());
    LeaseSpec {
        holder_identity: Some(config.holder.clone()),
        lease_duration_seconds: i32::try_from(config.duration.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(1)),
        ..before.clone()
    }
}

fn term_of(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
    u64::try_from(transitions).unwrap_or_default()
}

impl HeldLease {
    /// Renews the Lease until a stop is requested, and returns it then. `None` when the Lease is lost: the process must
    /// end, since another pod may be working.
    ///
    /// Not runtime::periodic: what counts is when the last renewal succeeded, not how long to wait for the next.
    pub async fn keep(mut self, shutdown: Shutdown) -> Option<Self> {
        let third = self.config.duration / 3;
        let mut renewed = Instant::now();
        loop {
            if !shutdown.sleep(third).await {
                return Some(self);
            }
            match tokio::time::timeout(third, self.renew()).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(error)) if error.is_conflict() || error.is_not_found() => {
                    tracing::error!("another pod has taken the lease; stopping");
                    failpoint::waiting("lease.lost").await;
                    return None;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not renew the lease");
                }
                Err(_) => tracing::warn!("could not renew the lease in time"),
            }
            if renewed.elapsed() + third >= self.config.duration {
                tracing::error!("could not renew the lease before it expires; stopping");
                return None;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Error> {
        if let Some(spec) = self.lease.spec.as_mut() {
            spec.renew_time = Some(MicroTime(clock::now()));
        }
        self.lease = verbs::replace(&self.api, &self.lease).await?;
        Ok(())
    }

    /// Releases the Lease, so that the next pod need not wait. Call it after everything else has stopped.
    pub async fn release(mut self) {
        if let Some(spec) = self.lease.spec.as_mut() {
            spec.holder_identity = None;
        }
        let released = tokio::time::timeout(RELEASE_LIMIT, verbs::replace(&self.api, &self.lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            tracing::debug!("could not release the lease; it will expire");
        }
    }
}
