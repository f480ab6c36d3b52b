//! How often the public endpoints of enrollment and renewal may be used. They have no caller before the request is checked, so what is
//! limited is failure: who shows good tokens and keys is never slowed down by it, also behind one address with others.
//!
//! - Each address has a budget of refused requests, all addresses together another one, of which an address uses no more than its own
//!   budget has left. Memory is bounded ([`Buckets`]).
//! - Where a budget is used up, requests are looked at two at a time, by one indexed read: a token that exists or a
//!   key that is enrolled goes on, anything else is answered 429. So a flood costs Postgres two connections, and a good request
//!   behind the same load balancer gets through.
//! - A request is asked about again once it has its slot, so that many that came together, or whose bodies were held back until all could
//!   end at once, count for each other.
//! - How often one key renews is limited, too: whoever holds it can make the Manager sign. So is how often a token or key that exists is
//!   shown, whatever comes of it.
//!
//! How many are carried out at once is bounded by `enrollment_slots.rs`.

use crate::{enrollment_slots::EnrollmentSlots, error::ApiError};
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};
use kubenova_core::{
    cluster::ClusterId,
    rate_limit::{Bucket, Buckets, Rate},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::peer::Peer;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Refused requests of one address. An Operator with a wrong token asks four times a minute, so fifteen of them behind one address stay
/// below it.
const OF_PEER: Rate = Rate { burst: 60, refill: Duration::from_secs(1) };
/// Refused requests of all addresses: each takes about 2 ms of Postgres, so that these are a tenth of one connection.
const OF_ALL: Rate = Rate { burst: 600, refill: Duration::from_millis(20) };
/// Addresses that are remembered, some 100 bytes each.
const PEERS_MAX: usize = 10_000;
/// Requests that are looked at at once while a budget is used up.
const LOOKED_AT_MAX: usize = 2;
/// Longest wait for a place among them.
const LOOK_WAIT_MAX: Duration = Duration::from_millis(250);
/// Requests that show the same token, or the same key: who has one, used or revoked, must not fill the places of all others with it. An
/// Operator asks four times a minute.
const OF_SHOWN: Rate = Rate { burst: 40, refill: Duration::from_secs(1) };
/// Renewals of one key at once: an Operator that dies between the answer and its Secret asks again each time it starts.
const RENEWALS_BURST: u32 = 10;
/// Parts of the life of credentials after each of which a key may renew once more. Operators renew once in a third.
const RENEWALS_PER_LIFE: u32 = 12;
/// Longest time until one more renewal, however long the life.
const RENEWAL_REFILL_MAX: Duration = Duration::from_mins(10);
/// Keys that are remembered: above the ten thousand clusters that one Manager is measured with.
const HOLDERS_MAX: usize = 20_000;

/// The limits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EnrollmentLimits {
    /// Places for those that are carried out.
    pub slots: EnrollmentSlots,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    failures: Mutex<Failures>,
    looking: Arc<Semaphore>,
    shown: Mutex<Buckets<[u8; 32]>>,
    renewals: Mutex<Buckets<(ClusterId, i64)>>,
}

#[derive(Debug)]
struct Failures {
    of_peers: Buckets<Peer>,
    of_all: Bucket,
}

/// The address that a request comes from, in one form: who listens on both families sees an IPv4 address as an IPv6 one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for PeerAddress {
    type Rejection = <ConnectInfo<SocketAddr> as FromRequestParts<S>>::Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let ConnectInfo(peer) = ConnectInfo::<SocketAddr>::from_request_parts(parts, state).await?;
        Ok(Self(peer.ip().to_canonical()))
    }
}

/// How a request is treated.
#[derive(Debug)]
enum Standing {
    /// As any other.
    Good,
    /// Only when what it shows is known.
    Suspect(Suspect),
}

/// Why a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Its address, and all together, had budget left.
    OnBudget,
    /// What it shows is known.
    Known,
}

/// A request that may go on only when what it shows is known.
#[derive(Debug)]
struct Suspect {
    wait: Duration,
}

impl EnrollmentLimits {
    /// For credentials that live this long.
    #[must_use]
    pub fn new(life: Duration) -> Self {
        let refill = (life / RENEWALS_PER_LIFE).min(RENEWAL_REFILL_MAX);
        let inner = Inner {
            start: Instant::now(),
            failures: Mutex::new(Failures { of_peers: Buckets::new(OF_PEER, PEERS_MAX), of_all: Bucket::default() }),
            looking: Arc::new(Semaphore::new(LOOKED_AT_MAX)),
            shown: Mutex::new(Buckets::new(OF_SHOWN, HOLDERS_MAX)),
            renewals: Mutex::new(Buckets::new(Rate { burst: RENEWALS_BURST, refill }, HOLDERS_MAX)),
        };
        Self { slots: EnrollmentSlots::default(), inner: Arc::new(inner) }
    }

    /// Lets a request go on whose address has budget left, or that shows what is known; `is_known` is asked about suspects only, two at a
    /// time.
    ///
    /// # Errors
    /// With [`Reason::TooManyRequests`], or when it cannot be found out.
    pub(crate) async fn pass(
        &self,
        peer: IpAddr,
        is_known: impl AsyncFnOnce() -> Result<bool, ApiError>,
    ) -> Result<Passed, ApiError> {
        let Standing::Suspect(suspect) = self.standing(peer) else { return Ok(Passed::OnBudget) };
        let _place = self.look_at(&suspect).await?;
        self.check_known(&suspect, peer, is_known).await?;
        Ok(Passed::Known)
    }

    /// The same once a request has its slot. The slot bounds how many are looked at here: one that waited for a place beside it would
    /// keep it from others.
    ///
    /// # Errors
    /// As [`EnrollmentLimits::pass`].
    pub(crate) async fn pass_again(
        &self,
        passed: Passed,
        peer: IpAddr,
        is_known: impl AsyncFnOnce() -> Result<bool, ApiError>,
    ) -> Result<(), ApiError> {
        match self.standing_again(passed, peer) {
            Standing::Good => Ok(()),
            Standing::Suspect(suspect) => self.check_known(&suspect, peer, is_known).await,
        }
    }

    /// Refuses a suspect that shows nothing that is known. One that guesses is charged, too: the budget stays used up while the flood
    /// lasts.
    async fn check_known(
        &self,
        suspect: &Suspect,
        peer: IpAddr,
        is_known: impl AsyncFnOnce() -> Result<bool, ApiError>,
    ) -> Result<(), ApiError> {
        if is_known().await? {
            return Ok(());
        }
        self.charge(peer);
        Err(suspect.refusal().into())
    }

    /// Counts a request that was refused for what it shows. That the Manager is busy is no failure of the address.
    pub(crate) fn count<T>(&self, peer: IpAddr, outcome: &Result<T, ApiError>) {
        if let Err(ApiError::Refused(refusal)) = outcome
            && (400..500).contains(&refusal.reason.status())
            && refusal.reason != Reason::TooManyRequests
        {
            self.charge(peer);
        }
    }

    fn charge(&self, peer: IpAddr) {
        let (now, peer, mut failures) = (self.now(), Peer::from(peer), self.failures());
        // One address must not use up what all have. An address that is not remembered has its whole budget.
        if failures.of_peers.wait(&peer, now).is_none() {
            failures.of_all.charge(OF_ALL, now);
        }
        failures.of_peers.charge(peer, now);
    }

    /// How a request from this address is treated.
    fn standing(&self, peer: IpAddr) -> Standing {
        let (now, failures) = (self.now(), self.failures());
        let wait = failures.of_peers.wait(&Peer::from(peer), now).max(failures.of_all.wait(OF_ALL, now));
        wait.map_or(Standing::Good, |wait| Standing::Suspect(Suspect { wait }))
    }

    /// How a request is treated once it has its slot: what was refused since it passed counts for it, too.
    fn standing_again(&self, passed: Passed, peer: IpAddr) -> Standing {
        match passed {
            Passed::OnBudget => self.standing(peer),
            Passed::Known => Standing::Good,
        }
    }

    /// A place among the suspects that are looked at.
    ///
    /// # Errors
    /// With [`Reason::TooManyRequests`] when there is none.
    async fn look_at(&self, suspect: &Suspect) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = tokio::time::timeout(LOOK_WAIT_MAX, Arc::clone(&self.inner.looking).acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or_else(|| suspect.refusal())
    }

    /// Asked once a request has its place, so that of many that came together the first ones count for the others.
    ///
    /// # Errors
    /// With [`Reason::TooManyRequests`] when the token, or key, with this hash was shown too often.
    pub(crate) fn check_shown(&self, hash: &[u8; 32]) -> Result<(), Refusal> {
        let now = self.now();
        let wait = self.inner.shown.lock().unwrap_or_else(PoisonError::into_inner).wait(hash, now);
        wait.map_or(Ok(()), |wait| {
            let detail = format!("this token, or key, is shown too often; again in {wait:.0?}");
            Err(too_many(detail, wait))
        })
    }

    /// Counts that a token, or key, that exists was shown. What does not exist is not remembered: a client can make it up.
    pub(crate) fn shown(&self, hash: [u8; 32]) {
        let now = self.now();
        self.inner.shown.lock().unwrap_or_else(PoisonError::into_inner).charge(hash, now);
    }

    /// Counts a renewal of the key that was enrolled for this incarnation.
    ///
    /// # Errors
    /// With [`Reason::TooManyRequests`] when it renews too often.
    pub(crate) fn renew(&self, cluster: &ClusterId, incarnation: i64) -> Result<(), Refusal> {
        let (now, key) = (self.now(), (cluster.clone(), incarnation));
        let mut renewals = self.inner.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = renewals.wait(&key, now) {
            let detail =
                format!("the key of this cluster renews too often; its credentials stay valid; again in {wait:.0?}");
            return Err(too_many(detail, wait));
        }
        renewals.charge(key, now);
        Ok(())
    }

    fn now(&self) -> Duration {
        self.inner.start.elapsed()
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.inner.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Suspect {
    /// The answer to one that shows nothing that is known.
    fn refusal(&self) -> Refusal {
        let detail =
            "too many requests from this address, or from all together, were refused; what this one shows is not known";
        too_many(detail.to_owned(), self.wait)
    }
}

fn too_many(detail: String, wait: Duration) -> Refusal {
    Refusal::new(Reason::TooManyRequests, detail).after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn refused(limits: &EnrollmentLimits, peer: IpAddr, reason: Reason) {
        limits.count::<()>(peer, &Err(Refusal::new(reason, "no").into()));
    }

    fn is_good(limits: &EnrollmentLimits, peer: IpAddr) -> bool {
        matches!(limits.standing(peer), Standing::Good)
    }

    #[test]
    fn failures_of_one_address_are_its_own() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        for _ in 0..OF_PEER.burst {
            assert!(is_good(&limits, peer(1)));
            refused(&limits, peer(1), Reason::EnrollmentTokenUnknown);
        }
        assert!(!is_good(&limits, peer(1)) && is_good(&limits, peer(2)));
        // That the Manager is busy, or said so, is no failure of the address.
        for _ in 0..OF_PEER.burst {
            refused(&limits, peer(2), Reason::Contended);
            refused(&limits, peer(2), Reason::TooManyRequests);
        }
        assert!(is_good(&limits, peer(2)));
    }

    #[test]
    fn failures_of_many_addresses_have_every_request_looked_at() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        // More than may be refused meanwhile, on the slowest machine.
        for number in 0..OF_ALL.burst * 10 {
            let [.., high, low] = number.to_be_bytes();
            refused(&limits, IpAddr::from([10, 0, high, low]), Reason::EnrollmentTokenUnknown);
        }
        assert!(!is_good(&limits, peer(1)));
    }

    #[test]
    fn an_address_that_floods_does_not_use_up_the_budget_of_all() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        // More than all may have refused meanwhile, on the slowest machine.
        for _ in 0..OF_ALL.burst * 10 {
            refused(&limits, peer(1), Reason::EnrollmentTokenUnknown);
        }
        assert!(!is_good(&limits, peer(1)) && is_good(&limits, peer(2)));
    }

    #[test]
    fn a_request_that_passed_on_its_budget_is_asked_about_again_and_a_known_one_is_not() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        let is_good_again = |passed| matches!(limits.standing_again(passed, peer(1)), Standing::Good);
        assert!(is_good_again(Passed::OnBudget));
        for _ in 0..OF_PEER.burst * 2 {
            refused(&limits, peer(1), Reason::EnrollmentTokenUnknown);
        }
        assert!(!is_good_again(Passed::OnBudget) && is_good_again(Passed::Known));
    }

    #[test]
    fn a_token_that_is_shown_again_and_again_waits_and_others_do_not() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        for _ in 0..OF_SHOWN.burst {
            limits.check_shown(&[1; 32]).unwrap();
            limits.shown([1; 32]);
        }
        assert_eq!(limits.check_shown(&[1; 32]).unwrap_err().reason, Reason::TooManyRequests);
        assert!(limits.check_shown(&[2; 32]).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_beyond_those_looked_at_are_answered_with_a_time() {
        let limits = EnrollmentLimits::new(Duration::from_secs(3600));
        let suspect = Suspect { wait: Duration::from_millis(1500) };
        let held = [limits.look_at(&suspect).await.unwrap(), limits.look_at(&suspect).await.unwrap()];
        let refusal = limits.look_at(&suspect).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.retry_after_seconds), (Reason::TooManyRequests, Some(2)));
        drop(held);
        assert!(limits.look_at(&suspect).await.is_ok());
    }

    #[test]
    fn a_key_renews_so_often_and_others_as_well() {
        let limits = EnrollmentLimits::new(Duration::from_secs(14 * 24 * 3600));
        let cluster = ClusterId::from_uuid(uuid::Uuid::from_u128(1));
        for _ in 0..RENEWALS_BURST {
            limits.renew(&cluster, 1).unwrap();
        }
        let refusal = limits.renew(&cluster, 1).unwrap_err();
        assert_eq!(refusal.reason, Reason::TooManyRequests);
        assert!(refusal.retry_after_seconds.is_some_and(|seconds| (1..=600).contains(&seconds)), "{refusal:?}");
        assert!(limits.renew(&cluster, 2).is_ok(), "that of another incarnation");
    }
}
