//! Only the holder of the Lease `kubenova-operator` works. By hand, because every start raises the lease term
//! (`leaseTransitions`), also of a pod that already held it: two processes of one term are a clone.
//!
//! The holder is the pod's UID, so a restarted container need not wait for expiry. Expiry of another's lease is judged
//! by our own monotonic clock since we last saw it change, never by comparing clocks. A lost lease ends the process.

use crate::apiserver::{Error, client::Apiserver, verbs};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, api::ObjectMeta};
use kubenova_runtime::{clock, shutdown::Shutdown};
use std::time::Duration;
use tokio::time::Instant;

/// The Lease's name.
pub const NAME: &str = "kubenova-operator";

/// How the Lease is kept.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Its namespace.
    pub namespace: String,
    /// The pod's UID.
    pub holder: String,
    /// Another pod takes over when the holder was silent for this long.
    pub duration: Duration,
}

/// A held Lease.
#[derive(Debug)]
pub struct HeldLease {
    api: Api<Lease>,
    lease: Lease,
    keeping: LeaseConfig,
    /// `leaseTransitions` of this start.
    pub term: u64,
}

/// Waits until the Lease is ours, and raises its term.
///
/// # Errors
/// When a stop was asked for while waiting.
pub async fn acquire(apiserver: &Apiserver, keeping: LeaseConfig, shutdown: &Shutdown) -> Option<HeldLease> {
    let api: Api<Lease> = Api::namespaced(apiserver.client(), &keeping.namespace);
    let mut seen: Option<(String, Instant)> = None;
    while !shutdown.is_requested() {
        match attempt(&api, &keeping, &mut seen).await {
            Ok(Some(lease)) => {
                let term = term_of(&lease);
                tracing::info!(lease.term = term, "holds the lease");
                return Some(HeldLease { api, lease, keeping, term });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not take the lease; trying again");
            }
        }
        tokio::select! {
            () = shutdown.requested() => return None,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    None
}

async fn attempt(
    api: &Api<Lease>,
    keeping: &LeaseConfig,
    seen: &mut Option<(String, Instant)>,
) -> Result<Option<Lease>, Error> {
    let Some(mut lease) = verbs::get(api, NAME).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(keeping.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(claimed(&LeaseSpec::default(), keeping)),
        };
        return verbs::create_if_absent(api, &lease).await;
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if !holder.is_empty() && holder != keeping.holder {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let limit = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(keeping.duration, Duration::from_secs);
        match seen {
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
    lease.spec = Some(claimed(&spec, keeping));
    match verbs::replace(api, &lease).await {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

fn claimed(before: &LeaseSpec, keeping: &LeaseConfig) -> LeaseSpec {
    let now = MicroTime(clock::now());
    LeaseSpec {
        holder_identity: Some(keeping.holder.clone()),
        lease_duration_seconds: i32::try_from(keeping.duration.as_secs()).ok(),
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
    /// Keeps the Lease until a stop is asked for, and returns it then. Returns nothing when the Lease is lost: the
    /// process must end, since another pod may be working.
    pub async fn keep(mut self, shutdown: Shutdown) -> Option<Self> {
        let third = self.keeping.duration / 3;
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.requested() => return Some(self),
                () = tokio::time::sleep(third) => {}
            }
            match tokio::time::timeout(third, self.renew()).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(error)) if error.is_conflict() || error.is_not_found() => {
                    tracing::error!("lost the lease to another pod; stopping");
                    return None;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not renew the lease");
                }
                Err(_) => tracing::warn!("could not renew the lease in time"),
            }
            if renewed.elapsed() + third >= self.keeping.duration {
                tracing::error!("could not renew the lease before it ends; stopping");
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

    /// Lets go of the Lease, so that the next pod need not wait. After everything else has stopped.
    pub async fn release(mut self) {
        if let Some(spec) = self.lease.spec.as_mut() {
            spec.holder_identity = None;
        }
        let released = tokio::time::timeout(Duration::from_secs(2), verbs::replace(&self.api, &self.lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            tracing::debug!("could not let go of the lease; it will expire");
        }
    }
}
