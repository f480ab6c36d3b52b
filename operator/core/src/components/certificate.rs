//! Which serving certificates a component needs, and when one is to be replaced. The controller creates the keys.

use jiff::{SignedDuration, Timestamp};

/// How long a serving certificate lives.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How long the authority in a cluster lives.
pub const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(3650 * 24);

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

/// What is known of a stored certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// Its DNS names and addresses.
    pub dns_names: Vec<String>,
    /// It verifies under the present authority.
    pub under_present_authority: bool,
}

/// True when the stored certificate must be replaced: it has less than a third of its life left, lacks a name, or an
/// older authority signed it.
#[must_use]
pub fn is_due(stored: &Stored, dns_names: &[String], now: Timestamp) -> bool {
    !stored.under_present_authority
        || dns_names.iter().any(|name| !stored.dns_names.contains(name))
        || past_two_thirds(stored.not_before, stored.not_after, now)
}

/// True in the last third of a validity, and outside of it.
#[must_use]
pub fn past_two_thirds(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    let life = not_after.duration_since(not_before);
    let left = not_after.duration_since(now);
    now < not_before || left < life / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(days * 86_400).unwrap()
    }

    fn stored() -> Stored {
        Stored {
            not_before: at(100),
            not_after: at(190),
            dns_names: vec!["a.b.svc".to_owned()],
            under_present_authority: true,
        }
    }

    #[test]
    fn a_certificate_is_replaced_in_its_last_third() {
        let names = ["a.b.svc".to_owned()];
        assert!(!is_due(&stored(), &names, at(101)));
        assert!(!is_due(&stored(), &names, at(159)));
        assert!(is_due(&stored(), &names, at(161)));
        assert!(is_due(&stored(), &names, at(500)));
        assert!(is_due(&stored(), &names, at(99)), "a clock that went back must not keep a certificate of the future");
    }

    #[test]
    fn a_new_name_or_a_new_authority_makes_it_due() {
        assert!(is_due(&stored(), &["other.b.svc".to_owned()], at(101)));
        let old = Stored { under_present_authority: false, ..stored() };
        assert!(is_due(&old, &["a.b.svc".to_owned()], at(101)));
    }
}
