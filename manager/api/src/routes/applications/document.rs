//! Reads a body as an application: the typed form, or a KubeVela Application bare or with its clusters. Which of the two
//! it is stands here; the rules stand in `kubenova_core::{application_form, application_document}`.

use crate::shape;
use kubenova_api_types::applications::{ApplicationForm, ApplicationRaw};
use kubenova_core::{
    application::{ApplicationName, DOCUMENT_BYTES_MAX, Form},
    application_document::{self, ApplicationDocument, ClusterRules},
    application_form::WebService,
    pointer::Pointer,
    refusal::{Reason, Refusal},
    tenant::Tenant,
};
use kubenova_schema::applications;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a body asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationRequest {
    /// The name.
    pub name: ApplicationName,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
    /// How it was described.
    pub form: Form,
    /// `spec`, exact JSON.
    pub spec: String,
    /// Named clusters.
    pub clusters: Option<Vec<String>>,
    /// Where the body names the application.
    pub name_pointer: String,
}

const RULES: ClusterRules<'static> = ClusterRules {
    component_types: applications::COMPONENT_TYPES,
    trait_types: applications::TRAIT_TYPES,
    is_reserved: applications::is_reserved,
    written_labels: applications::written_labels,
    written_annotations: applications::written_annotations,
    finalizer: applications::KUBEVELA_FINALIZER,
};

/// Reads a body. `named` are the clusters of the query, for bare Applications.
///
/// # Errors
/// When it is neither form, or breaks a rule of its form.
pub fn read(document: Value, named: Option<Vec<String>>, tenant: &Tenant) -> Result<ApplicationRequest, Refusal> {
    let has = |field: &str| document.get(field).is_some();
    let mut request = if has("application") {
        let ApplicationRaw { application, clusters } = shape::read(&document)?;
        raw(application, &Pointer::default().field("application"), clusters, tenant)?
    } else if has("apiVersion") || has("kind") || has("spec") {
        raw(document, &Pointer::default(), None, tenant)?
    } else {
        typed(shape::read(&document)?, tenant)?
    };
    match (&request.clusters, named) {
        (Some(_), Some(_)) => {
            return Err(Refusal::at(
                Reason::FieldInvalid,
                "/clusters",
                "clusters stands in the body and in the query; name them in one of the two",
            ));
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

fn raw(
    application: Value,
    at: &Pointer,
    clusters: Option<Vec<String>>,
    tenant: &Tenant,
) -> Result<ApplicationRequest, Refusal> {
    let ApplicationDocument { name, labels, annotations, spec } =
        application_document::check(application, at, tenant, &RULES)?;
    let name_pointer = at.field("metadata").field("name").to_string();
    Ok(ApplicationRequest {
        name,
        labels,
        annotations,
        form: Form::Raw,
        spec: spec.to_string(),
        clusters,
        name_pointer,
    })
}

fn typed(form: ApplicationForm, tenant: &Tenant) -> Result<ApplicationRequest, Refusal> {
    let name = ApplicationName::parse(&form.name)?;
    let typed = serde_json::to_string(&form).expect("the typed form is plain data");
    let clusters = form.clusters;
    let service = WebService {
        name: form.name,
        image: form.image,
        replicas: form.replicas,
        port: form.port,
        cpu: form.cpu,
        memory: form.memory,
        command: form.command,
        env: form.env,
        run_as_user: form.run_as_user,
    };
    service.check()?;
    Ok(ApplicationRequest {
        name,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        form: Form::Typed(typed),
        spec: service.spec(tenant.pod_security).to_string(),
        clusters,
        name_pointer: "/name".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::applications::testing::application;
    use jiff::Timestamp;
    use kubenova_core::tenant::{TenantId, TenantName};
    use serde_json::json;

    fn tenant() -> Tenant {
        let id = TenantId::parse("0198aaaa-0000-7000-8000-000000000000").unwrap();
        Tenant::new(id, TenantName::parse("acme").unwrap(), Timestamp::UNIX_EPOCH, "ann")
    }

    fn parsed(document: Value) -> Result<ApplicationRequest, Refusal> {
        read(document, None, &tenant())
    }

    #[test]
    fn the_form_is_kept_as_it_was_sent_beside_the_spec_it_becomes() {
        let request = parsed(json!({ "name": "shop", "image": "nginx:1", "replicas": 3, "clusters": ["a"] })).unwrap();
        let Form::Typed(typed) = request.form else { panic!("not the typed form") };
        assert_eq!(serde_json::from_str::<Value>(&typed).unwrap()["replicas"], 3);
        assert!(request.spec.contains("\"webservice\""), "{}", request.spec);
        assert_eq!(request.clusters, Some(vec!["a".to_owned()]));
    }

    #[test]
    fn an_application_is_read_bare_and_with_its_clusters() {
        for document in [application(), json!({ "application": application() })] {
            let request = parsed(document).unwrap();
            assert_eq!(request.form, Form::Raw);
            assert_eq!(serde_json::from_str::<Value>(&request.spec).unwrap(), application()["spec"]);
        }
    }

    #[test]
    fn pointers_begin_at_the_body() {
        let mut wrapped = json!({ "application": application() });
        wrapped["application"]["spec"]["components"][0]["type"] = json!("webservce");
        let refusal = parsed(wrapped).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/application/spec/components/0/type"));
        for (document, pointer) in [
            (json!({ "name": "Shop", "image": "x" }), "/name"),
            (json!({ "name": "shop", "image": "" }), "/image"),
            (json!({ "name": "shop", "image": "x", "colour": 1 }), "/colour"),
            (json!({ "application": 7 }), "/application"),
            (json!({ "application": application(), "cluster": "a" }), "/cluster"),
        ] {
            assert_eq!(parsed(document).unwrap_err().field.as_deref(), Some(pointer));
        }
        for other in [json!([]), json!("text"), json!(null)] {
            assert_eq!(parsed(other).unwrap_err().reason, Reason::BodyMalformed);
        }
    }

    #[test]
    fn clusters_stand_in_one_place_only() {
        let document = json!({ "name": "shop", "image": "x", "clusters": ["a"] });
        let both = read(document, Some(vec!["b".into()]), &tenant());
        assert_eq!(both.unwrap_err().field.as_deref(), Some("/clusters"));
        let bare = read(application(), Some(vec!["b".into()]), &tenant()).unwrap();
        assert_eq!(bare.clusters, Some(vec!["b".to_owned()]));
    }

    #[test]
    fn an_application_above_the_limit_is_refused() {
        let mut large = application();
        large["spec"]["components"][0]["properties"]["text"] = json!("x".repeat(DOCUMENT_BYTES_MAX));
        assert_eq!(parsed(large).unwrap_err().reason, Reason::BodyTooLarge);
    }
}
