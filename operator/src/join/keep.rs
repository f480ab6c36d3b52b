//! After the join: renews the credentials from a third of their life on, also after their end.
//!
//! Nothing else depends on the Manager's answer: as long as the credentials are valid the cluster works, and while they are not, asking
//! for new ones is the way back. What a failure means is said by the condition `IdentityIssued`, before the end and not after it.

use super::{
    conditions::{JoinError, StatusReporter},
    current::IdentitySender,
    identity::{Identity, IdentityStore},
    renew::{self, RenewalError},
    secret_error,
};
use crate::{apiserver, manager_clock::ManagerClock};
use futures::FutureExt as _;
use jiff::Timestamp;
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::{conditions::ConditionSet, renewal::CredentialsLife};
use kubenova_runtime::{failpoint, random, shutdown::Shutdown};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// Longest sleep between looks at the clock, which may be set meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Longest wait before the Manager is asked why the broker refuses credentials that have not expired: a person who looks at the
/// conditions should find the reason within half a minute. Ten thousand clusters that are refused together are 500 requests a second.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

/// What keeping the identity needs.
#[derive(Debug)]
pub struct IdentityKeeper {
    pub store: IdentityStore,
    pub identity: IdentitySender,
    pub reporter: StatusReporter,
    /// How the Manager is reached.
    pub dialer: Dialer,
    pub manager_clock: ManagerClock,
    /// The broker refuses the credentials, or the Manager asks for a renewal because it has other keys.
    pub renewal_wanted: Arc<Notify>,
    /// When the credentials expire, in seconds since 1970.
    pub expires: Gauge,
    /// Attempts to renew that failed.
    pub failures: Counter,
}

/// Runs until a stop is requested. A renewal that is stopped in its middle is made again by the next start.
pub async fn run(keeper: IdentityKeeper, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.requested() => {}
        () = keeper.keep() => {}
    }
}

/// When the next attempt is made.
#[derive(Debug)]
struct Schedule {
    /// Spreads the renewals of clusters that enrolled together.
    jitter: u16,
    /// After a failure, or once the broker has refused the credentials.
    next_attempt: Option<Instant>,
    /// Whatever a clock or the broker says, no attempt is made before: each makes the Manager sign, and a new connection.
    not_before: Instant,
    failures: u32,
}

impl Schedule {
    fn new() -> Self {
        Self { jitter: jitter(), next_attempt: None, not_before: Instant::now(), failures: 0 }
    }

    /// Time until the next attempt.
    fn due_in(&self, life: Option<CredentialsLife>, clock: &ManagerClock) -> Duration {
        let due_in = match (self.next_attempt, life) {
            (Some(at), _) => at.saturating_duration_since(Instant::now()),
            (None, Some(life)) => {
                let left = life.renewal_at(self.jitter).duration_since(clock.now_or_local());
                Duration::try_from(left).unwrap_or_default()
            }
            // What this version cannot read is replaced by what it can.
            (None, None) => Duration::ZERO,
        };
        due_in.max(self.not_before.saturating_duration_since(Instant::now()))
    }

    fn succeeded(&mut self, life: Option<CredentialsLife>) {
        (self.failures, self.next_attempt) = (0, None);
        self.not_before = Instant::now() + pause(life, u32::MAX);
    }

    /// The broker refuses the credentials, which is worth one attempt: the broker does not say why, the Manager does. Or the Manager asks for
    /// it. At once when they have expired, else spread, since a broker that refuses one cluster by mistake refuses all.
    fn wanted(&mut self, life: Option<CredentialsLife>, now: Timestamp) {
        let is_valid = life.is_some_and(|life| !life.has_ended(now));
        let part = pause(life, u32::MAX).min(REFUSED_WITHIN) * u32::from(jitter()) / u32::from(u16::MAX);
        self.next_attempt = Some(Instant::now() + if is_valid { part } else { Duration::ZERO });
    }

    /// The pause until the next attempt.
    fn failed(&mut self, life: Option<CredentialsLife>) -> Duration {
        self.failures += 1;
        let pause = pause(life, self.failures);
        self.next_attempt = Some(Instant::now() + pause);
        pause
    }
}

fn jitter() -> u16 {
    u16::from_le_bytes(random::bytes::<2>())
}

fn pause(life: Option<CredentialsLife>, failures: u32) -> Duration {
    life.map_or(LOOK_INTERVAL, |life| life.pause(failures))
}

impl IdentityKeeper {
    async fn keep(self) {
        let mut schedule = Schedule::new();
        loop {
            let identity = self.identity.get();
            let life = identity.life();
            if let Some(life) = life {
                self.expires.set(life.expires_at().as_second());
            }
            let due_in = schedule.due_in(life, &self.manager_clock);
            if !due_in.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(due_in.min(LOOK_INTERVAL)) => {}
                    () = self.wanted(schedule.not_before), if schedule.next_attempt.is_none() => {
                        schedule.wanted(life, self.manager_clock.now_or_local());
                    }
                }
                continue;
            }
            match self.renew(&identity).await {
                Ok(renewed) => {
                    schedule.succeeded(renewed.life());
                    self.use_renewed(renewed).await;
                }
                Err(error) => {
                    let pause = schedule.failed(life);
                    self.failed(&identity, life, pause, &error).await;
                }
            }
        }
    }

    /// Resolves when a renewal is wanted of the credentials that were in use at this moment. What was wanted before says nothing about them.
    async fn wanted(&self, since: Instant) {
        if Instant::now() < since {
            tokio::time::sleep_until(since).await;
            let _before = self.renewal_wanted.notified().now_or_never();
        }
        self.renewal_wanted.notified().await;
    }

    /// New credentials, stored before they are used, in the place of exactly those that they renew.
    async fn renew(&self, identity: &Identity) -> Result<Identity, RenewalError> {
        let stored = self.store.read().await.map_err(|error| secret_error("read", &error))?;
        if let Some(other) = stored.current.as_ref().filter(|stored| !stored.is_same(identity)) {
            if other.is_same_incarnation(identity) {
                tracing::info!(
                    expires = other.answer.expires_at,
                    "another Operator has renewed the credentials; using them"
                );
                return Ok(other.clone());
            }
            let message = "the Secret with the identity holds another one; the Operator uses it after a restart";
            return Err(JoinError::new(condition::IDENTITY_ISSUED, "IdentityReplaced", message).into());
        }
        let renewed = renew::renew(identity, &self.dialer).await?;
        failpoint::passing("renew.answered");
        self.store.store_renewed(stored, renewed.clone()).await.map_err(|error| secret_error("write", &error))?;
        failpoint::passing("renew.stored");
        Ok(renewed)
    }

    async fn use_renewed(&self, renewed: Identity) {
        let expires = renewed.answer.expires_at.clone();
        let cluster_id = renewed.cluster_id().to_owned();
        tracing::info!(expires, "renewed certificate and broker credentials");
        self.identity.renewed(renewed);
        let mut found = ConditionSet::new();
        let message = format!("certificate and broker credentials are valid until {expires}, and are renewed before");
        found.set_true(condition::IDENTITY_ISSUED, "Renewed", message);
        self.report(&found).await;
        if let Err(error) = self.reporter.report_identity(&cluster_id, &expires).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write until when the credentials are valid");
        }
    }

    async fn failed(&self, identity: &Identity, life: Option<CredentialsLife>, pause: Duration, error: &RenewalError) {
        self.failures.inc();
        let (JoinError { reason, message, .. }, expires) = (error.error(), &identity.answer.expires_at);
        let retry_seconds = pause.as_secs();
        tracing::warn!(reason, detail = message, expires, retry_seconds, "could not renew the credentials");
        let is_endangered = life.is_none_or(|life| life.is_endangered(self.manager_clock.now_or_local()));
        if is_endangered || matches!(error, RenewalError::Refused(_)) {
            let mut found = ConditionSet::new();
            let message = format!("no new credentials, and those in use expire at {expires}: {message}");
            found.set_false(condition::IDENTITY_ISSUED, reason, message);
            self.report(&found).await;
        }
    }

    async fn report(&self, found: &ConditionSet) {
        if let Err(error) = self.reporter.report(found).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write the condition IdentityIssued");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_runtime::clock;

    fn life(seconds_ago: i64, seconds: i64) -> Option<CredentialsLife> {
        // Of one moment, so that the life is as long as it says.
        let now = clock::now();
        let at = |offset| clock::rfc3339_ms(now + jiff::SignedDuration::from_secs(offset));
        CredentialsLife::parse(&at(-seconds_ago), &at(seconds - seconds_ago))
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_ahead_makes_no_loop() {
        let clock = ManagerClock::default();
        let mut schedule = Schedule::new();
        // By this clock, credentials that were issued a moment ago are past their end, every time.
        let old = life(5_000, 2_400);
        assert_eq!(schedule.due_in(old, &clock), Duration::ZERO);
        schedule.succeeded(old);
        assert_eq!(schedule.due_in(old, &clock), Duration::from_secs(100));
        schedule.succeeded(None);
        assert_eq!(schedule.due_in(None, &clock), LOOK_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_refuses_is_asked_about_within_seconds_and_at_once_when_it_has_expired() {
        let clock = ManagerClock::default();
        let (young, old) = (life(0, 2_400), life(5_000, 2_400));
        for _ in 0..20 {
            let mut schedule = Schedule::new();
            schedule.wanted(young, clock::now());
            let due_in = schedule.due_in(young, &clock);
            assert!(due_in <= REFUSED_WITHIN, "{due_in:?}");
            // However often it looks meanwhile, it does not begin to wait again.
            tokio::time::advance(due_in).await;
            assert_eq!(schedule.due_in(young, &clock), Duration::ZERO);
            schedule.wanted(old, clock::now());
            assert_eq!(schedule.due_in(old, &clock), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_attempts_fail_and_the_next_success_ends_them() {
        let clock = ManagerClock::default();
        let mut schedule = Schedule::new();
        let young = life(0, 2_400);
        for seconds in [1, 2, 4] {
            assert_eq!(schedule.failed(young), Duration::from_secs(seconds));
            assert_eq!(schedule.due_in(young, &clock), Duration::from_secs(seconds));
        }
        schedule.succeeded(young);
        assert!(schedule.due_in(young, &clock) > Duration::from_secs(700));
    }
}
