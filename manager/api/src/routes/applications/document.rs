//! Reads what a body asks for: the typed form, or a KubeVela Application as it is.

use crate::body;
use kubenova_api_types::applications::{ApplicationForm, ApplicationRaw};
use kubenova_core::{
    application::{Accepted, DOCUMENT_BYTES_MAX, Form, Metadata},
    refusal::{Reason, Refusal},
    tenant::{PodSecurity, Tenant, is_quantity},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a body asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationRequest {
    /// Name, labels, annotations.
    pub accepted: Accepted,
    /// How it was asked for.
    pub form: Form,
    /// `spec`, exact JSON.
    pub spec: String,
    /// Named clusters.
    pub clusters: Option<Vec<String>>,
}

/// Most pods of one application by the typed form.
const REPLICAS_MAX: u32 = 1000;
/// User id for `restricted` tenants when the form names none: any but root.
const RUN_AS_USER: u32 = 10_001;
/// Longest image reference, environment variable and command word.
const TEXT_MAX: usize = 1024;

/// Reads a body. `named` are the clusters of the query, for bare Applications.
///
/// # Errors
/// When it is neither form, or breaks a rule of its form.
pub fn read(document: Value, named: Option<Vec<String>>, tenant: &Tenant) -> Result<ApplicationRequest, Refusal> {
    let Value::Object(object) = &document else {
        return Err(Refusal::new(Reason::BodyMalformed, "the body is not an object"));
    };
    let mut request = if object.contains_key("application") {
        let ApplicationRaw { application, clusters } = body::shape(document)?;
        raw(application, clusters, tenant)?
    } else if object.contains_key("apiVersion") || object.contains_key("kind") || object.contains_key("spec") {
        raw(document, None, tenant)?
    } else {
        typed(body::shape(document)?, tenant)?
    };
    match (&request.clusters, named) {
        (Some(_), Some(_)) => {
            return Err(Refusal::at(Reason::FieldInvalid, "/clusters", "clusters stands in the body and in the query"));
        }
        (None, Some(named)) => request.clusters = Some(named),
        _ => {}
    }
    if request.spec.len() > DOCUMENT_BYTES_MAX {
        let detail = format!("the application has {} bytes, the most is {DOCUMENT_BYTES_MAX}", request.spec.len());
        return Err(Refusal::new(Reason::BodyTooLarge, detail));
    }
    Ok(request)
}

fn raw(application: Value, clusters: Option<Vec<String>>, tenant: &Tenant) -> Result<ApplicationRequest, Refusal> {
    let invalid = |pointer: &str, detail: String| Refusal::at(Reason::ApplicationInvalid, pointer, detail);
    let Value::Object(mut object) = application else {
        return Err(invalid("/application", "the Application is not an object".to_owned()));
    };
    for (field, wanted) in [("apiVersion", "core.oam.dev/v1beta1"), ("kind", "Application")] {
        match object.remove(field) {
            Some(Value::String(text)) if text == wanted => {}
            other => {
                let found = other.map_or_else(|| "missing".to_owned(), |value| value.to_string());
                return Err(invalid(&format!("/{field}"), format!("{field} is {found}, it must be \"{wanted}\"")));
            }
        }
    }
    // Status is what a cluster says, never what a person wishes.
    object.remove("status");
    let metadata = metadata(object.remove("metadata").unwrap_or_default())?;
    let spec = object.remove("spec").unwrap_or_default();
    if let Some(field) = object.keys().next() {
        return Err(invalid(&format!("/{field}"), format!("an Application has no field {field:?}")));
    }
    check_spec(&spec)?;
    Ok(ApplicationRequest {
        accepted: metadata.accept(&tenant.name)?,
        form: Form::Raw,
        spec: spec.to_string(),
        clusters,
    })
}

fn metadata(value: Value) -> Result<Metadata, Refusal> {
    let invalid = |pointer: &str, detail: &str| Refusal::at(Reason::ApplicationInvalid, pointer, detail);
    let Value::Object(mut object) = value else {
        return Err(invalid("/metadata", "metadata is missing or not an object"));
    };
    let mut text = |field: &str| match object.remove(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(&format!("/metadata/{field}"), "it must be a string")),
    };
    let (name, namespace) = (text("name")?, text("namespace")?);
    let mut map = |field: &str| match object.remove(field) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(value) => serde_json::from_value(value)
            .map_err(|_| invalid(&format!("/metadata/{field}"), "it must be an object of strings")),
    };
    let (labels, annotations) = (map("labels")?, map("annotations")?);
    Ok(Metadata { name, namespace, labels, annotations, others: object.keys().cloned().collect() })
}

/// The part of the spec's shape without which nothing can run. The rest is KubeVela's to judge, in the cluster.
fn check_spec(spec: &Value) -> Result<(), Refusal> {
    let invalid = |pointer: String, detail: &str| Err(Refusal::at(Reason::ApplicationInvalid, pointer, detail));
    if !spec.is_object() {
        return invalid("/spec".to_owned(), "spec is missing or not an object");
    }
    let Some(components) = spec["components"].as_array().filter(|components| !components.is_empty()) else {
        return invalid("/spec/components".to_owned(), "components is missing or empty");
    };
    for (index, component) in components.iter().enumerate() {
        for field in ["name", "type"] {
            if component[field].as_str().is_none_or(str::is_empty) {
                return invalid(format!("/spec/components/{index}/{field}"), "it must be a text");
            }
        }
    }
    Ok(())
}

fn typed(form: ApplicationForm, tenant: &Tenant) -> Result<ApplicationRequest, Refusal> {
    check_form(&form)?;
    let metadata = Metadata { name: form.name.clone(), ..Metadata::default() };
    let accepted =
        metadata.accept(&tenant.name).map_err(|refusal| Refusal { field: Some("/name".to_owned()), ..refusal })?;
    let spec = spec(&form, tenant.pod_security).to_string();
    let typed = serde_json::to_string(&form).expect("the typed form is plain data");
    Ok(ApplicationRequest { accepted, form: Form::Typed(typed), spec, clusters: form.clusters })
}

fn check_form(form: &ApplicationForm) -> Result<(), Refusal> {
    let invalid = |pointer: &str, detail: String| Err(Refusal::at(Reason::FieldInvalid, pointer, detail));
    let plain = |text: &str| !text.is_empty() && text.len() <= TEXT_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain(&form.image) {
        return invalid("/image", format!("image {:?} is not an image reference", form.image));
    }
    if form.replicas.is_some_and(|replicas| replicas > REPLICAS_MAX) {
        return invalid("/replicas", format!("replicas is above {REPLICAS_MAX}"));
    }
    if form.port == Some(0) {
        return invalid("/port", "port is 0, possible is 1 to 65535".to_owned());
    }
    for (pointer, quantity) in [("/cpu", &form.cpu), ("/memory", &form.memory)] {
        if quantity.as_deref().is_some_and(|text| !is_quantity(text)) {
            return invalid(pointer, "it is not a Kubernetes quantity like 100m or 128Mi".to_owned());
        }
    }
    if form.env.iter().any(|(name, value)| !plain(name) || name.contains('=') || value.len() > 32 * TEXT_MAX) {
        return invalid("/env", "names are visible ASCII without =, values have at most 32 KiB".to_owned());
    }
    if form.run_as_user == Some(0) {
        return invalid("/runAsUser", "root is not possible".to_owned());
    }
    Ok(())
}

/// The form as one webservice. Where pods are `restricted`, the two traits without which none would start are added.
fn spec(form: &ApplicationForm, security: PodSecurity) -> Value {
    let mut properties = Map::from_iter([("image".to_owned(), json!(form.image))]);
    if let Some(port) = form.port {
        properties.insert("ports".to_owned(), json!([{ "port": port, "expose": true }]));
        properties.insert("exposeType".to_owned(), json!("ClusterIP"));
    }
    for (name, value) in [("cpu", &form.cpu), ("memory", &form.memory)] {
        if let Some(quantity) = value {
            properties.insert(name.to_owned(), json!(quantity));
        }
    }
    if !form.command.is_empty() {
        properties.insert("cmd".to_owned(), json!(form.command));
    }
    if !form.env.is_empty() {
        let env: Vec<Value> = form.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        properties.insert("env".to_owned(), json!(env));
    }
    let mut traits = vec![json!({ "type": "scaler", "properties": { "replicas": form.replicas.unwrap_or(1) } })];
    if security == PodSecurity::Restricted {
        let user = form.run_as_user.unwrap_or(RUN_AS_USER);
        traits.push(
            json!({ "type": "securitycontext", "properties": { "dropCapabilities": ["ALL"], "runAsUser": user } }),
        );
        let seccomp = json!({ "type": "RuntimeDefault" });
        traits.push(
            json!({ "type": "podsecuritycontext", "properties": { "runAsUser": user, "seccompProfile": seccomp } }),
        );
    }
    json!({ "components": [{ "name": form.name, "type": "webservice", "properties": properties, "traits": traits }] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kubenova_core::tenant::{Quota, TenantId, TenantName};

    fn tenant(pod_security: PodSecurity) -> Tenant {
        Tenant {
            id: TenantId::parse("0198aaaa-0000-7000-8000-000000000000").unwrap(),
            name: TenantName::parse("acme").unwrap(),
            quota: Quota::default(),
            pod_security,
            generation: 1,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            created_by: "ann".into(),
        }
    }

    fn ask(document: Value) -> Result<ApplicationRequest, Refusal> {
        read(document, None, &tenant(PodSecurity::Baseline))
    }

    fn application() -> Value {
        json!({
            "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": { "name": "shop" },
            "spec": { "components": [{ "name": "web", "type": "webservice", "properties": { "image": "nginx" } }] },
            "status": { "status": "running" },
        })
    }

    #[test]
    fn the_typed_form_becomes_one_webservice() {
        let request = ask(json!({ "name": "shop", "image": "nginx:1", "replicas": 3, "port": 80 })).unwrap();
        let spec: Value = serde_json::from_str(&request.spec).unwrap();
        let component = &spec["components"][0];
        assert_eq!(
            component["properties"],
            json!({ "image": "nginx:1", "ports": [{ "port": 80, "expose": true }], "exposeType": "ClusterIP" })
        );
        assert_eq!(component["traits"], json!([{ "type": "scaler", "properties": { "replicas": 3 } }]));
    }

    #[test]
    fn restricted_tenants_get_the_two_traits() {
        let request =
            read(json!({ "name": "shop", "image": "nginx" }), None, &tenant(PodSecurity::Restricted)).unwrap();
        for part in ["\"securitycontext\"", "\"podsecuritycontext\"", "RuntimeDefault", "10001"] {
            assert!(request.spec.contains(part), "{part}");
        }
    }

    #[test]
    fn bad_forms_name_their_field() {
        let bad = [
            (json!({ "name": "Shop", "image": "x" }), "/name"),
            (json!({ "name": "shop", "image": "" }), "/image"),
            (json!({ "name": "shop", "image": "x", "port": 0 }), "/port"),
            (json!({ "name": "shop", "image": "x", "cpu": "lots" }), "/cpu"),
            (json!({ "name": "shop", "image": "x", "replicas": 100_000 }), "/replicas"),
        ];
        for (document, pointer) in bad {
            assert_eq!(ask(document).unwrap_err().field.as_deref(), Some(pointer));
        }
        assert_eq!(ask(json!({ "name": "shop", "image": "x", "colour": 1 })).unwrap_err().reason, Reason::FieldInvalid);
        assert_eq!(ask(json!([])).unwrap_err().reason, Reason::BodyMalformed);
    }

    #[test]
    fn a_raw_application_is_taken_as_it_is_without_its_status() {
        for document in [application(), json!({ "application": application() })] {
            let request = ask(document).unwrap();
            assert_eq!(request.form, Form::Raw);
            assert_eq!(serde_json::from_str::<Value>(&request.spec).unwrap(), application()["spec"]);
        }
    }

    #[test]
    fn raw_applications_that_cannot_be_are_refused() {
        let with = |pointer: &str, value: Value| {
            let mut document = application();
            *document.pointer_mut(pointer).unwrap() = value;
            ask(document).unwrap_err()
        };
        assert_eq!(with("/kind", json!("Deployment")).field.as_deref(), Some("/kind"));
        assert_eq!(
            with("/metadata", json!({ "name": "shop", "namespace": "other-apps" })).reason,
            Reason::ApplicationNamespace
        );
        assert_eq!(
            with("/metadata", json!({ "name": "shop", "annotations": { "app.oam.dev/username": "x" } })).reason,
            Reason::ApplicationInvalid
        );
        assert_eq!(with("/spec", json!({ "components": [] })).field.as_deref(), Some("/spec/components"));
        assert_eq!(with("/spec/components/0/type", json!(7)).field.as_deref(), Some("/spec/components/0/type"));
        assert_eq!(with("/metadata", json!({})).reason, Reason::NameInvalid);
    }

    #[test]
    fn clusters_stand_in_one_place_only() {
        let document = json!({ "name": "shop", "image": "x", "clusters": ["a"] });
        let both = read(document.clone(), Some(vec!["b".into()]), &tenant(PodSecurity::Baseline));
        assert_eq!(both.unwrap_err().field.as_deref(), Some("/clusters"));
        assert_eq!(ask(document).unwrap().clusters, Some(vec!["a".to_owned()]));
    }
}
