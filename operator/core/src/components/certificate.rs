//! Which serving certificates a component needs, when one is replaced, and how the authority that signs them is. The controller creates
//! the keys.
//!
//! Certificates outlive the Operator: without it nothing renews them, and a webhook whose certificate has expired refuses what every
//! tenant does. So they live for ten years and are replaced every year while the Operator runs: whenever it goes, nine years are left.
//!
//! A new authority is trusted by all before it signs anything, and the former one is trusted until the next comes, so at no moment does a
//! webhook serve a certificate that the API server does not verify.

use jiff::{SignedDuration, Timestamp};

/// How long an authority and the certificates that it signs live.
pub const LIFE: SignedDuration = SignedDuration::from_hours(3650 * 24);
/// Both are replaced after this time.
pub const ROTATED_EVERY: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long a new authority stands in every webhook configuration before it signs. Components copy it into configurations of their own
/// (Capsule does), and each API server reads them within seconds.
pub const TRUSTED_BEFORE_USE: SignedDuration = SignedDuration::from_hours(24);

/// A serving certificate, as a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// The names it is valid for; the first is the common name.
    pub dns_names: Vec<String>,
    /// Key under which the authority's certificate is stored; charts differ.
    pub authority_key: String,
}

impl Certificate {
    /// For a Service, under the names a client inside the cluster may use.
    #[must_use]
    pub fn for_service(namespace: &str, secret: &str, service: &str, authority_key: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            dns_names: vec![
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.svc.cluster.local"),
                format!("{service}.{namespace}"),
            ],
            authority_key: authority_key.to_owned(),
        }
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its start.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

impl Validity {
    /// True while it is valid.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// True when it is to be replaced: less is left than an Operator that goes must leave behind, or it is not valid yet, which is a clock
    /// that was set back.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now < self.not_before || self.not_after.duration_since(now) < LIFE - ROTATED_EVERY
    }
}

/// What is known of a stored certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// When it is valid.
    pub validity: Validity,
    /// Its DNS names and addresses.
    pub dns_names: Vec<String>,
    /// It verifies under the present authority.
    pub under_present_authority: bool,
}

/// True when the stored certificate must be replaced: it is old, lacks a name, or another authority signed it.
#[must_use]
pub fn is_due(stored: &Stored, dns_names: &[String], now: Timestamp) -> bool {
    !stored.under_present_authority
        || dns_names.iter().any(|name| !stored.dns_names.contains(name))
        || stored.validity.is_due(now)
}

/// The authorities of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities<A> {
    /// Signs.
    pub present: A,
    /// Will sign once it is trusted by all.
    pub next: Option<A>,
    /// Signed what may still be served: a kubelet brings a new certificate to a pod within minutes, a component that fails is applied
    /// again later.
    pub previous: Option<A>,
}

impl<A> Authorities<A> {
    /// The first one of a cluster.
    #[must_use]
    pub const fn new(present: A) -> Self {
        Self { present, next: None, previous: None }
    }

    /// All that certificates are verified with, the one that signs first.
    pub fn trusted(&self) -> impl Iterator<Item = &A> {
        std::iter::once(&self.present).chain(&self.next).chain(&self.previous)
    }

    /// Does what [`rotation`] has decided; `made` makes an authority.
    ///
    /// # Errors
    /// When `made` fails.
    pub fn rotate<E>(&mut self, rotation: Rotation, made: impl FnOnce() -> Result<A, E>) -> Result<(), E> {
        match rotation {
            Rotation::None => {}
            Rotation::Announce => self.next = Some(made()?),
            Rotation::Switch => {
                if let Some(next) = self.next.take() {
                    self.previous = Some(std::mem::replace(&mut self.present, next));
                }
            }
            Rotation::StartAgain => *self = Self::new(made()?),
        }
        Ok(())
    }
}

/// What is done about the authorities now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Nothing.
    None,
    /// Another one is made, and trusted from now on.
    Announce,
    /// It is trusted everywhere: it signs from now on.
    Switch,
    /// The present one is not valid, so nothing that it signed is accepted anyway.
    StartAgain,
}

/// Decides it. `next_trusted_since` says since when everything that verifies trusts the next one; none when it does not yet.
#[must_use]
pub fn rotation(
    present: Validity,
    next: Option<Validity>,
    next_trusted_since: Option<Timestamp>,
    now: Timestamp,
) -> Rotation {
    if !present.holds(now) {
        return Rotation::StartAgain;
    }
    match next {
        Some(next) if !next.holds(now) => Rotation::Announce,
        Some(_) if next_trusted_since.is_some_and(|since| now.duration_since(since) >= TRUSTED_BEFORE_USE) => {
            Rotation::Switch
        }
        Some(_) => Rotation::None,
        None if present.is_due(now) => Rotation::Announce,
        None => Rotation::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(days * 86_400).unwrap()
    }

    fn of_ten_years(from: Timestamp) -> Validity {
        Validity { not_before: from, not_after: from + LIFE }
    }

    fn stored() -> Stored {
        Stored { validity: of_ten_years(at(100)), dns_names: vec!["a.b.svc".to_owned()], under_present_authority: true }
    }

    #[test]
    fn a_certificate_is_replaced_every_year_and_one_of_former_days_at_once() {
        let names = ["a.b.svc".to_owned()];
        for good in [100, 101, 464] {
            assert!(!is_due(&stored(), &names, at(good)), "{good}");
        }
        assert!(is_due(&stored(), &names, at(466)));
        assert!(is_due(&stored(), &names, at(9000)));
        assert!(is_due(&stored(), &names, at(99)), "a clock that went back must not keep a certificate of the future");
        let short = Validity { not_before: at(100), not_after: at(190) };
        assert!(is_due(&Stored { validity: short, ..stored() }, &names, at(101)), "it would not outlive the Operator");
    }

    #[test]
    fn a_new_name_or_a_new_authority_makes_it_due() {
        assert!(is_due(&stored(), &["other.b.svc".to_owned()], at(101)));
        let old = Stored { under_present_authority: false, ..stored() };
        assert!(is_due(&old, &["a.b.svc".to_owned()], at(101)));
    }

    #[test]
    fn an_authority_signs_only_once_all_have_trusted_it_for_a_day() {
        let (present, next) = (of_ten_years(at(0)), Some(of_ten_years(at(366))));
        assert_eq!(rotation(present, None, None, at(364)), Rotation::None);
        assert_eq!(rotation(present, None, None, at(366)), Rotation::Announce);
        assert_eq!(rotation(present, next, None, at(900)), Rotation::None, "a component cannot be applied");
        assert_eq!(rotation(present, next, Some(at(366)), at(366)), Rotation::None);
        assert_eq!(rotation(present, next, Some(at(366)), at(367)), Rotation::Switch);
        assert_eq!(rotation(present, next, Some(at(370)), at(367)), Rotation::None, "the clock was set back");
        assert_eq!(rotation(present, None, None, at(4000)), Rotation::StartAgain, "away for more than ten years");
    }

    /// An authority by its number, and when it is valid.
    type Numbered = (u32, Validity);

    /// A cluster over the years: what of the authorities has arrived at the webhook configurations, and which certificate is served.
    struct World {
        authorities: Authorities<Numbered>,
        trusted_since: Option<Timestamp>,
        /// As the API server has it: authorities by number.
        webhooks: Vec<u32>,
        /// As the Secret has it, and as the pod serves it: signed by, valid.
        secret: Numbered,
        served: Numbered,
        made: u32,
    }

    impl World {
        fn new(now: Timestamp) -> Self {
            let first = (0, of_ten_years(now));
            Self {
                authorities: Authorities::new(first),
                trusted_since: None,
                webhooks: vec![0],
                secret: first,
                served: first,
                made: 1,
            }
        }

        fn trusted(&self) -> Vec<u32> {
            self.authorities.trusted().map(|(number, _)| *number).collect()
        }

        /// One reconcile of the Operator. `is_applied`: the webhook configurations could be written.
        fn reconcile(&mut self, now: Timestamp, is_applied: bool) {
            let next = self.authorities.next.map(|(_, validity)| validity);
            let rotation = rotation(self.authorities.present.1, next, self.trusted_since, now);
            if rotation != Rotation::None {
                self.trusted_since = None;
            }
            let made = self.made;
            self.authorities.rotate(rotation, || Ok::<_, Infallible>((made, of_ten_years(now)))).unwrap();
            self.made += u32::from(rotation == Rotation::Announce);
            let (signs, _) = self.authorities.present;
            if self.secret.0 != signs || self.secret.1.is_due(now) {
                self.secret = (signs, of_ten_years(now));
            }
            if is_applied {
                self.webhooks = self.trusted();
                self.trusted_since = self.trusted_since.or(self.authorities.next.map(|_| now));
            }
        }

        fn check(&self, now: Timestamp) {
            assert!(self.webhooks.contains(&self.served.0), "{:?} at {now}: {:?}", self.served, self.webhooks);
            assert!(self.served.1.holds(now), "{:?} at {now}", self.served);
        }
    }

    /// Reconciles every six hours for twelve years. `applies(hour)`: the webhook configurations can be written then; `serves(hour)`: a
    /// kubelet brings the Secret to the pod then.
    fn run(applies: impl Fn(i64) -> bool, serves: impl Fn(i64) -> bool) -> World {
        let mut world = World::new(at(0));
        for hour in (0..12 * 365 * 24).step_by(6) {
            let now = Timestamp::from_second(hour * 3600).unwrap();
            world.reconcile(now, applies(hour));
            world.check(now);
            if serves(hour) {
                world.served = world.secret;
            }
            world.check(now);
        }
        world
    }

    #[test]
    fn at_no_moment_is_a_certificate_served_that_the_api_server_does_not_verify() {
        let world = run(|_| true, |_| true);
        assert!(world.made >= 11, "rotated {} times", world.made);
        // Webhooks that can be written one month in five, pods that restart once a week.
        let world = run(|hour| (hour / 720) % 5 == 4, |hour| hour % 168 == 0);
        assert!(world.made >= 9, "rotated {} times", world.made);
    }

    #[test]
    fn whenever_the_operator_goes_nine_years_are_left() {
        let mut world = World::new(at(0));
        let left = |world: &World, now| world.secret.1.not_after.duration_since(now);
        for day in 0..5000 {
            world.reconcile(at(day), true);
            assert!(left(&world, at(day)) >= LIFE - ROTATED_EVERY, "day {day}");
            // A certificate is accepted no longer than the authority that signed it.
            let (_, authority) = *world.authorities.trusted().find(|(number, _)| *number == world.secret.0).unwrap();
            assert!(
                authority.not_after.duration_since(at(day)) >= LIFE - ROTATED_EVERY - SignedDuration::from_hours(72)
            );
        }
    }
}
