//! What a cluster has installed.

use crate::refusal::{Reason, Refusal};
use serde_json::Value;
use std::collections::BTreeMap;

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

impl Components {
    /// The component with this name.
    #[must_use]
    pub const fn get(&self, name: ComponentName) -> &Component {
        match name {
            ComponentName::Capsule => &self.capsule,
            ComponentName::CapsuleProxy => &self.capsule_proxy,
            ComponentName::KubeVela => &self.kubevela,
        }
    }

    /// The same with another component of this name.
    #[must_use]
    pub fn with(mut self, name: ComponentName, component: Component) -> Self {
        match name {
            ComponentName::Capsule => self.capsule = component,
            ComponentName::CapsuleProxy => self.capsule_proxy = component,
            ComponentName::KubeVela => self.kubevela = component,
        }
        self
    }
}

/// Which component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentName {
    /// Capsule.
    Capsule,
    /// Capsule Proxy.
    CapsuleProxy,
    /// KubeVela.
    KubeVela,
}

impl ComponentName {
    /// Every component, in the order in which a cluster installs them.
    pub const ALL: [Self; 3] = [Self::Capsule, Self::CapsuleProxy, Self::KubeVela];

    /// The text in paths, in the database and in a cluster's report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capsule => "capsule",
            Self::CapsuleProxy => "capsule-proxy",
            Self::KubeVela => "kubevela",
        }
    }

    /// The field of a document that holds it.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::CapsuleProxy => "capsuleProxy",
            Self::Capsule | Self::KubeVela => self.as_str(),
        }
    }

    /// The condition of the cluster's configuration that says whether it is installed as wanted.
    #[must_use]
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Capsule => "CapsuleReady",
            Self::CapsuleProxy => "CapsuleProxyReady",
            Self::KubeVela => "KubeVelaReady",
        }
    }

    /// The component with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Whether it is installed.
    pub enabled: bool,
    /// Whether the cluster leaves it as it is.
    pub paused: bool,
    /// Version; empty means the one that the Operator was built for.
    pub version: String,
    /// Take over an installation that exists already.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry; empty when unknown.
    pub public_url: String,
    /// Everything else, as exact JSON by field: images, placement, values. What is not there has its default. The fields and their
    /// types stand in `manager/api/types`; no rule of the Manager depends on them.
    pub settings: BTreeMap<String, String>,
}

impl Default for Component {
    fn default() -> Self {
        Self {
            enabled: false,
            paused: false,
            version: String::new(),
            adopt: false,
            replicas: 1,
            public_url: String::new(),
            settings: BTreeMap::new(),
        }
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
    pub fn check(&self, name: ComponentName, field: &str) -> Result<(), Refusal> {
        let refuse = |name: &str, why: String| Err(Refusal::at(Reason::FieldInvalid, format!("{field}/{name}"), why));
        let good_version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        if self.version.len() > 64 || !self.version.chars().all(good_version) {
            return refuse("version", format!("version {:?} is not a version like 1.10.9", self.version));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return refuse("replicas", format!("replicas is {}, possible is 1 to {REPLICAS_MAX}", self.replicas));
        }
        if !self.public_url.is_empty() && name != ComponentName::CapsuleProxy {
            return refuse("publicURL", format!("{} has no publicURL, only capsule-proxy has", name.as_str()));
        }
        let host = self.public_url.strip_prefix("https://").unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@');
        let is_https = !host.is_empty() && host.bytes().all(is_plain);
        if !self.public_url.is_empty() && (!is_https || self.public_url.len() > PUBLIC_URL_LENGTH_MAX) {
            let rule = format!(
                "publicURL must be https://<host> or https://<host>:<port>, without a path, of at most {PUBLIC_URL_LENGTH_MAX} bytes"
            );
            return refuse("publicURL", rule);
        }
        Ok(())
    }
}

/// What is changed of a component; what is none stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComponentChange {
    /// Whether it is installed.
    pub enabled: Option<bool>,
    /// Whether the cluster leaves it as it is.
    pub paused: Option<bool>,
    /// Version.
    pub version: Option<String>,
    /// Take over an installation that exists already.
    pub adopt: Option<bool>,
    /// Replicas of its controller.
    pub replicas: Option<u32>,
    /// The URL that kubeconfigs carry.
    pub public_url: Option<String>,
    /// Other fields, each as a whole; one that is none gets its default again.
    pub settings: BTreeMap<String, Option<String>>,
}

impl ComponentChange {
    /// True when it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A component with this change.
    #[must_use]
    pub fn applied_to(&self, component: &Component) -> Component {
        let before = component.clone();
        let mut settings = before.settings;
        for (field, value) in &self.settings {
            match value {
                Some(value) => settings.insert(field.clone(), value.clone()),
                None => settings.remove(field),
            };
        }
        Component {
            enabled: self.enabled.unwrap_or(before.enabled),
            paused: self.paused.unwrap_or(before.paused),
            version: self.version.clone().unwrap_or(before.version),
            adopt: self.adopt.unwrap_or(before.adopt),
            replicas: self.replicas.unwrap_or(before.replicas),
            public_url: self.public_url.clone().unwrap_or(before.public_url),
            settings,
        }
    }

    /// The change that takes this one back where this was the component before it; other fields stay as they are by then.
    #[must_use]
    pub fn taken_back(&self, before: &Component) -> Self {
        let setting = |field: &String| (field.clone(), before.settings.get(field).cloned());
        Self {
            enabled: self.enabled.map(|_| before.enabled),
            paused: self.paused.map(|_| before.paused),
            version: self.version.as_ref().map(|_| before.version.clone()),
            adopt: self.adopt.map(|_| before.adopt),
            replicas: self.replicas.map(|_| before.replicas),
            public_url: self.public_url.as_ref().map(|_| before.public_url.clone()),
            settings: self.settings.keys().map(setting).collect(),
        }
    }
}

/// A setting as the one text that stands for its value: without spaces, the fields of objects in order.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            let field =
                |(name, value): (&String, &Value)| format!("{}:{}", Value::from(name.as_str()), canonical(value));
            format!("{{{}}}", joined(sorted.into_iter().map(field).collect()))
        }
        Value::Array(items) => format!("[{}]", joined(items.iter().map(canonical).collect())),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_text() {
        let texts =
            [r#"{ "b": [1, {"d": null, "c": "x\"y"}], "a": true }"#, r#"{"a":true,"b":[1,{"c":"x\"y","d":null}]}"#];
        let of = |text: &str| canonical(&serde_json::from_str(text).unwrap());
        assert_eq!(of(texts[0]), texts[1]);
        assert_eq!(of(texts[1]), texts[1]);
    }

    #[test]
    fn components_are_checked() {
        let check = |name, component: Component| component.check(name, "/components/x").unwrap_err().field.unwrap();
        let field = |component| check(ComponentName::CapsuleProxy, component);
        assert!(Component::default().check(ComponentName::Capsule, "/x").is_ok());
        assert_eq!(field(Component { version: "1 2".into(), ..Component::default() }), "/components/x/version");
        assert_eq!(field(Component { replicas: 0, ..Component::default() }), "/components/x/replicas");
        for url in ["http://x", "https://", "https://a b", "https://ü", "https://a/b", "https://ann@b"] {
            let component = Component { public_url: url.into(), ..Component::default() };
            assert_eq!(field(component), "/components/x/publicURL", "{url}");
        }
        let with_url = Component { public_url: "https://proxy.example.com:9443".into(), ..Component::default() };
        assert!(with_url.check(ComponentName::CapsuleProxy, "/x").is_ok());
        assert_eq!(check(ComponentName::Capsule, with_url), "/components/x/publicURL");
    }

    #[test]
    fn names_read_back() {
        for name in ComponentName::ALL {
            assert_eq!(ComponentName::parse(name.as_str()), Some(name));
            let one = Component { replicas: 3, ..Component::default() };
            let components = Components::default().with(name, one.clone());
            let found: Vec<_> = ComponentName::ALL.iter().filter(|name| *components.get(**name) == one).collect();
            assert_eq!(found, [&name]);
        }
        assert_eq!(ComponentName::parse("capsuleProxy"), None, "paths have one form");
    }

    #[test]
    fn a_change_is_applied_and_taken_back() {
        let text = |text: &str| Some(text.to_owned());
        let before = Component {
            enabled: true,
            version: "1".into(),
            settings: BTreeMap::from([("images".into(), r#"{"registry":"a"}"#.into())]),
            ..Component::default()
        };
        let settings =
            BTreeMap::from([("images".to_owned(), text(r#"{"registry":"b"}"#)), ("values".to_owned(), text("{}"))]);
        let change = ComponentChange { version: text("2"), settings, ..ComponentChange::default() };
        let after = change.applied_to(&before);
        assert_eq!((after.version.as_str(), after.settings.len(), after.enabled), ("2", 2, true));
        assert_eq!(change.applied_to(&after), after, "twice is the same");
        let since = Component { replicas: 2, ..after };
        let back = change.taken_back(&before).applied_to(&since);
        assert_eq!(back, Component { replicas: 2, ..before }, "what was changed otherwise since stays");
        assert!(ComponentChange::default().is_empty() && !change.is_empty());
    }
}
