//! The typed form of an application: one web service, and the KubeVela spec it becomes.

use crate::{
    quantity,
    refusal::{Reason, Refusal},
    tenant::PodSecurity,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Most pods of one application by the typed form: more than a tenant's largest quota in use.
pub const REPLICAS_MAX: u32 = 1000;
/// User id for `restricted` tenants when the form names none: any but root.
const RUN_AS_USER: u32 = 10_001;
/// Longest image reference and name of an environment variable.
pub const WORD_BYTES_MAX: usize = 1024;
/// Longest value of an environment variable, and longest word of a command.
pub const VALUE_BYTES_MAX: usize = 32 * 1024;

/// One web service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebService {
    /// Name of the application and of its only component.
    pub name: String,
    /// Container image.
    pub image: String,
    /// How many pods; 1 when absent.
    pub replicas: Option<u32>,
    /// Port to expose inside the cluster.
    pub port: Option<u16>,
    /// CPU request of each pod.
    pub cpu: Option<String>,
    /// Memory request of each pod.
    pub memory: Option<String>,
    /// Command in place of the image's.
    pub command: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// User id the container runs as, where the tenant's pods are `restricted`.
    pub run_as_user: Option<u32>,
}

impl WebService {
    /// Checks what a caller filled in.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`] and the pointer of the field.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |pointer: &str, detail: String| Err(Refusal::at(Reason::FieldInvalid, pointer, detail));
        if !is_word(&self.image) {
            return invalid("/image", format!("image {:?} is not an image reference like nginx:1.29", self.image));
        }
        if self.replicas.is_some_and(|replicas| replicas > REPLICAS_MAX) {
            return invalid("/replicas", format!("replicas is above {REPLICAS_MAX}"));
        }
        if self.port == Some(0) {
            return invalid("/port", "port is 0, possible is 1 to 65535".to_owned());
        }
        for (pointer, chosen) in [("/cpu", &self.cpu), ("/memory", &self.memory)] {
            if let Some(text) = chosen {
                quantity::check(pointer, text)?;
            }
        }
        if let Some(index) = self.command.iter().position(|word| word.len() > VALUE_BYTES_MAX) {
            return invalid(&format!("/command/{index}"), format!("the word has more than {VALUE_BYTES_MAX} bytes"));
        }
        for (name, value) in &self.env {
            let pointer = format!("/env/{}", name.replace('~', "~0").replace('/', "~1"));
            if !is_word(name) || name.contains('=') {
                return invalid(&pointer, format!("{name:?} is not a name of visible ASCII without ="));
            }
            if value.len() > VALUE_BYTES_MAX {
                return invalid(&pointer, format!("the value has more than {VALUE_BYTES_MAX} bytes"));
            }
        }
        if self.run_as_user == Some(0) {
            return invalid("/runAsUser", "user id 0 is root; choose another".to_owned());
        }
        Ok(())
    }

    /// The `spec` of the KubeVela Application. Where pods are `restricted`, the two traits without which none would start
    /// are added.
    #[must_use]
    pub fn spec(&self, security: PodSecurity) -> Value {
        let mut traits = vec![json!({ "type": "scaler", "properties": { "replicas": self.replicas.unwrap_or(1) } })];
        if security == PodSecurity::Restricted {
            traits.extend(self.restricted_traits());
        }
        let component = json!({
            "name": self.name,
            "type": "webservice",
            "properties": self.properties(),
            "traits": traits,
        });
        json!({ "components": [component] })
    }

    fn properties(&self) -> Value {
        let mut properties = Map::from_iter([("image".to_owned(), json!(self.image))]);
        let mut set = |name: &str, value: Value| properties.insert(name.to_owned(), value);
        if let Some(port) = self.port {
            set("ports", json!([{ "port": port, "expose": true }]));
            set("exposeType", json!("ClusterIP"));
        }
        for (name, quantity) in [("cpu", &self.cpu), ("memory", &self.memory)] {
            if let Some(quantity) = quantity {
                set(name, json!(quantity));
            }
        }
        if !self.command.is_empty() {
            set("cmd", json!(self.command));
        }
        if !self.env.is_empty() {
            let variable = |(name, value): (&String, &String)| json!({ "name": name, "value": value });
            set("env", self.env.iter().map(variable).collect());
        }
        Value::Object(properties)
    }

    fn restricted_traits(&self) -> [Value; 2] {
        let user = self.run_as_user.unwrap_or(RUN_AS_USER);
        let seccomp = json!({ "type": "RuntimeDefault" });
        [
            json!({ "type": "securitycontext", "properties": { "dropCapabilities": ["ALL"], "runAsUser": user } }),
            json!({ "type": "podsecuritycontext", "properties": { "runAsUser": user, "seccompProfile": seccomp } }),
        ]
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= WORD_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop() -> WebService {
        WebService { name: "shop".into(), image: "nginx:1".into(), ..WebService::default() }
    }

    #[test]
    fn the_form_becomes_one_webservice() {
        let form = WebService {
            replicas: Some(3),
            port: Some(80),
            cpu: Some("100m".into()),
            command: vec!["sh".into()],
            env: BTreeMap::from([("A".into(), "b".into())]),
            ..shop()
        };
        assert_eq!(form.check(), Ok(()));
        let component = &form.spec(PodSecurity::Baseline)["components"][0];
        assert_eq!((&component["name"], &component["type"]), (&json!("shop"), &json!("webservice")));
        assert_eq!(
            component["properties"],
            json!({
                "image": "nginx:1", "ports": [{ "port": 80, "expose": true }], "exposeType": "ClusterIP", "cpu": "100m",
                "cmd": ["sh"], "env": [{ "name": "A", "value": "b" }],
            })
        );
        assert_eq!(component["traits"], json!([{ "type": "scaler", "properties": { "replicas": 3 } }]));
        assert_eq!(shop().spec(PodSecurity::Baseline)["components"][0]["traits"][0]["properties"]["replicas"], 1);
    }

    #[test]
    fn restricted_tenants_get_the_two_traits() {
        for (form, user) in [(shop(), 10_001), (WebService { run_as_user: Some(7), ..shop() }, 7)] {
            let traits = form.spec(PodSecurity::Restricted)["components"][0]["traits"].clone();
            assert_eq!(traits[1]["type"], "securitycontext");
            assert_eq!(traits[1]["properties"]["runAsUser"], user);
            assert_eq!(traits[2]["type"], "podsecuritycontext");
            assert_eq!(traits[2]["properties"]["seccompProfile"]["type"], "RuntimeDefault");
        }
    }

    #[test]
    fn each_refusal_names_its_field() {
        let env = |name: &str, value: String| BTreeMap::from([(name.to_owned(), value)]);
        for (form, pointer) in [
            (WebService { image: String::new(), ..shop() }, "/image"),
            (WebService { image: "ng inx".into(), ..shop() }, "/image"),
            (WebService { replicas: Some(1001), ..shop() }, "/replicas"),
            (WebService { port: Some(0), ..shop() }, "/port"),
            (WebService { cpu: Some("lots".into()), ..shop() }, "/cpu"),
            (WebService { memory: Some(String::new()), ..shop() }, "/memory"),
            (WebService { command: vec!["a".into(), "x".repeat(VALUE_BYTES_MAX + 1)], ..shop() }, "/command/1"),
            (WebService { env: env("A=B", String::new()), ..shop() }, "/env/A=B"),
            (WebService { env: env("A/B C", String::new()), ..shop() }, "/env/A~1B C"),
            (WebService { env: env("A", "x".repeat(VALUE_BYTES_MAX + 1)), ..shop() }, "/env/A"),
            (WebService { run_as_user: Some(0), ..shop() }, "/runAsUser"),
        ] {
            assert_eq!(form.check().unwrap_err().field.as_deref(), Some(pointer));
        }
    }

    proptest! {
        #[test]
        fn numbers_in_a_spec_are_the_form_s_own(replicas in 0..=REPLICAS_MAX, port in 1_u16.., user in 1_u32..) {
            let form = WebService { replicas: Some(replicas), port: Some(port), run_as_user: Some(user), ..shop() };
            prop_assert_eq!(form.check(), Ok(()));
            let component = &form.spec(PodSecurity::Restricted)["components"][0];
            prop_assert_eq!(component["traits"][0]["properties"]["replicas"].as_u64(), Some(u64::from(replicas)));
            prop_assert_eq!(component["properties"]["ports"][0]["port"].as_u64(), Some(u64::from(port)));
            prop_assert_eq!(component["traits"][1]["properties"]["runAsUser"].as_u64(), Some(u64::from(user)));
        }
    }
}
