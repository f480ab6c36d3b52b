//! The OpenAPI 3.1 document, from the code. What all operations have in common is added here, once.

use crate::router;
use kubenova_api_types::problem::{MEDIA_TYPE, Problem};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, OpenApi as Document, Ref, RefOr, ResponseBuilder,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// The document's head; paths come from the routes.
#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "KubeNova Manager", description = "One platform over many sovereign Kubernetes clusters."),
    components(schemas(Problem)),
    tags(
        (name = "clusters", description = "Clusters and how they enroll"),
        (name = "tenants", description = "Tenants and the clusters they are on"),
        (name = "applications", description = "Applications of tenants"),
        (name = "commands", description = "What was asked of clusters, and how far it got"),
        (name = "meta", description = "What the Manager says of itself")
    )
)]
pub(crate) struct Head;

/// Name of the one security scheme.
const BEARER: &str = "bearer";

/// The document as text; needs no database.
#[must_use]
pub fn openapi() -> String {
    let mut document = router::document();
    Common.modify(&mut document);
    document.to_pretty_json().expect("the document is plain data")
}

struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        let scheme = SecurityScheme::Http(
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A service token, `knt_…`")).build(),
        );
        document.components.get_or_insert_default().add_security_scheme(BEARER, scheme);
        for item in document.paths.paths.values_mut() {
            for operation in operations(item) {
                complete(operation);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Every operation needs the token unless it says otherwise, and every one may answer with a problem.
fn complete(operation: &mut Operation) {
    if operation.security.is_none() {
        operation.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    }
    let problem = ResponseBuilder::new()
        .description("Refused: see `reason`")
        .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build())
        .build();
    operation.responses.responses.entry("default".to_owned()).or_insert(RefOr::T(problem));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(&openapi()).unwrap()
    }

    #[test]
    fn it_is_openapi_3_1_and_every_reference_resolves() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let text = document.to_string();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_tag_a_summary_and_a_problem() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} stands twice");
                assert!(operation["tags"].is_array() && operation["summary"].is_string(), "{method} {path}");
                assert!(operation["responses"]["default"].is_object(), "{method} {path}");
                assert!(operation["security"].is_array(), "{method} {path}");
            }
        }
        assert!(names.len() > 20);
    }
}
