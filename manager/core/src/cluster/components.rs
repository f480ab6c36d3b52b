//! What a cluster has installed.

use crate::refusal::{Reason, Refusal};

/// The three components a cluster may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Components {
    /// Capsule: isolates tenants from each other.
    pub capsule: Component,
    /// Capsule Proxy: shows each tenant its own part of the API.
    pub capsule_proxy: Component,
    /// KubeVela: runs applications.
    pub kubevela: Component,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Whether it is installed.
    pub enabled: bool,
    /// Version; empty means the one that the Operator was built for.
    pub version: String,
    /// Take over an installation that exists already.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry; empty when unknown.
    pub public_url: String,
}

impl Default for Component {
    fn default() -> Self {
        Self { enabled: false, version: String::new(), adopt: false, replicas: 1, public_url: String::new() }
    }
}

/// Most replicas of a component's controller: one leads, the others only stand by.
const REPLICAS_MAX: u32 = 5;
/// Longest URL that every browser and proxy takes.
const PUBLIC_URL_LENGTH_MAX: usize = 2000;

impl Component {
    /// Checks what a caller may choose; `field` is the component's JSON pointer.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`] and the pointer of the field.
    pub fn check(&self, field: &str) -> Result<(), Refusal> {
        let refuse = |name: &str, why: String| Err(Refusal::at(Reason::FieldInvalid, format!("{field}/{name}"), why));
        let good_version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        if self.version.len() > 64 || !self.version.chars().all(good_version) {
            return refuse("version", format!("version {:?} is not a version like 1.10.9", self.version));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return refuse("replicas", format!("replicas is {}, possible is 1 to {REPLICAS_MAX}", self.replicas));
        }
        let host = self.public_url.strip_prefix("https://").unwrap_or_default();
        let is_https = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.public_url.is_empty() && (!is_https || self.public_url.len() > PUBLIC_URL_LENGTH_MAX) {
            let rule = format!("publicURL must be an https:// URL of at most {PUBLIC_URL_LENGTH_MAX} bytes");
            return refuse("publicURL", rule);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_checked() {
        let field = |component: Component| component.check("/components/capsule").unwrap_err().field.unwrap();
        assert!(Component::default().check("/x").is_ok());
        assert_eq!(field(Component { version: "1 2".into(), ..Component::default() }), "/components/capsule/version");
        assert_eq!(field(Component { replicas: 0, ..Component::default() }), "/components/capsule/replicas");
        for url in ["http://x", "https://", "https://a b", "https://ü"] {
            let component = Component { public_url: url.into(), ..Component::default() };
            assert_eq!(field(component), "/components/capsule/publicURL", "{url}");
        }
    }
}
