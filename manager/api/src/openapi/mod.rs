//! The OpenAPI 3.1 document: the routes bring paths, bodies and successful answers; what follows from the rules of the
//! whole API is added here, once: every refusal with its reasons, the answer of a dry run, and headers.
//!
//! `crate::testing` compares every answer of the route tests with this document.

mod constraints;
mod headers;
pub mod operations;
mod parameters;

use headers::{Direction, documented};
use kubenova_api_types::problem::{MEDIA_TYPE, Problem};
use kubenova_core::refusal::Reason;
use operations::{Facts, facts};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder,
        extensions::ExtensionsBuilder,
        path::{HttpMethod, Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// The document's head; paths come from the routes.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "KubeNova Manager",
        description = "One platform over many sovereign Kubernetes clusters.\n\n\
            Every refusal is a problem (RFC 9457) with a stable `reason`; each status below lists the reasons that lead \
            to it. The `Accept` header is ignored: answers are `application/json`, refusals \
            `application/problem+json`. Every GET also answers HEAD. An unknown query parameter is refused where an \
            operation has parameters."
    ),
    components(schemas(Problem)),
    tags(
        (name = "clusters", description = "Clusters and their enrollment"),
        (name = "components", description = "What is installed in a cluster: Capsule, Capsule Proxy, KubeVela"),
        (name = "rollouts", description = "One change of a component for many clusters, in waves"),
        (name = "tenants", description = "Tenants and the clusters they are placed on"),
        (name = "applications", description = "Applications of tenants"),
        (name = "commands", description = "Commands sent to clusters, and their progress"),
        (name = "dead letters", description = "Messages of clusters that can never be handled"),
        (name = "usage", description = "What tenants used, from the ledger"),
        (name = "meta", description = "The Manager itself: health, documentation, the caller's identity")
    )
)]
pub(crate) struct Head;

/// Name of the one security scheme.
const BEARER: &str = "bearer";

/// Adds to the routes' document what follows from the rules of the API.
pub(crate) fn complete(mut document: Document) -> Document {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A service token, `knt_…`; an administrator creates one with `kubenova-manager token create`",
    ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme.build()));
    constraints::constrain(&mut document);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations_of(item) {
            complete_operation(path, &method, operation);
        }
    }
    document
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn complete_operation(path: &str, method: &HttpMethod, operation: &mut Operation) {
    if operation.security.is_none() {
        operation.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    }
    let facts = facts(operation.operation_id.as_deref().unwrap_or_default());
    parameters::complete(operation, facts, is_mutation(method));
    if is_mutation(method) {
        add_dry_run(operation);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            headers::add(response, documented(Direction::of(status, method), facts));
        }
    }
    for (status, reasons) in by_status(reasons(path, method, operation, facts)) {
        let problem = problem(&reasons, facts);
        match operation.responses.responses.get_mut(&status) {
            // A status that a handler answers itself, such as 503 of /readyz.
            Some(RefOr::T(own)) => own.content.extend(problem.content),
            _ => {
                operation.responses.responses.insert(status, RefOr::T(problem));
            }
        }
    }
}

const fn is_mutation(method: &HttpMethod) -> bool {
    !matches!(method, HttpMethod::Get)
}

/// `dryRun=true` answers 200 with the body of the real answer, so that one generated type reads both.
fn add_dry_run(operation: &mut Operation) {
    let answers = &mut operation.responses.responses;
    let real = answers.iter().find(|(status, _)| matches!(status.as_str(), "201" | "202"));
    let Some((_, RefOr::T(real))) = real else { return };
    let text = "With `dryRun=true`: what the answer would be. Nothing was changed: `commands` is empty, and the `id` of an \
                object that would be created belongs to none.";
    let (content, text) = (real.content.clone(), text.to_owned());
    match answers.get_mut("200") {
        Some(RefOr::T(own)) => own.description = format!("{}\n\n{text}", own.description),
        _ => {
            let mut response = Response::new(text);
            response.content = content;
            answers.insert("200".to_owned(), RefOr::T(response));
        }
    }
}

/// Every reason with which an operation may be refused: what its shape implies, and what its rules add.
fn reasons(path: &str, method: &HttpMethod, operation: &Operation, facts: &Facts) -> BTreeSet<Reason> {
    use Reason as R;
    let mut reasons = BTreeSet::from([R::QueryInvalid, R::UriTooLong, R::Internal, R::Timeout]);
    reasons.extend(facts.refusals);
    if operation.security.as_ref().is_some_and(|security| !security.is_empty()) {
        reasons.extend([R::Unauthenticated, R::Forbidden, R::HeaderInvalid, R::DependencyDown]);
    }
    for (part, not_found) in [
        ("{tenant}", R::TenantNotFound),
        ("{cluster}", R::ClusterNotFound),
        ("{application}", R::ApplicationNotFound),
        ("{command}", R::CommandNotFound),
        ("{deadLetter}", R::DeadLetterNotFound),
        ("{enrollment}", R::EnrollmentNotFound),
        ("{component}", R::ComponentNotFound),
        ("{rollout}", R::RolloutNotFound),
    ] {
        if path.contains(part) {
            reasons.insert(not_found);
        }
    }
    if path.contains('{') {
        // A path that is not UTF-8.
        reasons.insert(R::RouteNotFound);
    }
    if parameters::names(operation).any(|name| name == "cursor") {
        reasons.insert(R::CursorInvalid);
    }
    if facts.if_match {
        reasons.insert(R::EtagMismatch);
    }
    if is_mutation(method) {
        reasons.extend([R::IdempotencyKeyInUse, R::IdempotencyKeyReused, R::Contended]);
        // The body is read before the operation is known not to have one.
        reasons.extend([R::BodyMalformed, R::BodyTooLarge, R::RequestTimeout]);
    }
    if operation.request_body.is_some() {
        reasons.extend([R::MediaTypeUnsupported, R::FieldInvalid]);
    }
    reasons
}

fn by_status(reasons: BTreeSet<Reason>) -> BTreeMap<String, Vec<Reason>> {
    let mut statuses: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
    for reason in reasons {
        statuses.entry(reason.status().to_string()).or_default().push(reason);
    }
    statuses
}

/// A refusal with one status: the reasons in the description for readers, in `x-reasons` for programs.
fn problem(reasons: &[Reason], facts: &Facts) -> Response {
    let lines = reasons.iter().map(|reason| format!("- `{reason}`: {}", reason.meaning()));
    let texts: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
    let mut response = ResponseBuilder::new()
        .description(lines.collect::<Vec<_>>().join("\n"))
        .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build())
        .extensions(Some(ExtensionsBuilder::new().add("x-reasons", serde_json::json!(texts)).build()))
        .build();
    headers::add(&mut response, documented(Direction::Refused(reasons), facts));
    response
}

#[cfg(test)]
mod tests {
    use super::operations::OPERATIONS;
    use crate::router::openapi;
    use kubenova_core::refusal::Reason;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(&openapi()).unwrap()
    }

    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let all = paths.iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
        });
        all.collect()
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

    /// What only a cluster can know.
    const REPORTED: [&str; 11] = [
        "connection",
        "session",
        "conditions",
        "ready",
        "hops",
        "waitingFor",
        "removal",
        "listing",
        "unknownObjects",
        "coverageMs",
        "totals",
    ];

    /// Properties of a schema and of those that it consists of.
    fn properties<'a>(document: &'a Value, schema: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointed = document.pointer(reference.trim_start_matches('#')).unwrap();
            properties(document, pointed, found);
        }
        for part in ["allOf", "oneOf", "anyOf"].iter().flat_map(|kind| schema[*kind].as_array().into_iter().flatten()) {
            properties(document, part, found);
        }
        if schema["items"].is_object() {
            properties(document, &schema["items"], found);
        }
        let own = schema["properties"].as_object().into_iter().flatten();
        found.extend(own.map(|(name, schema)| (name.as_str(), schema)));
    }

    /// What a schema has of a cluster's reports where neither it nor what contains it says as of when.
    fn timeless(document: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
        let mut all = Vec::new();
        properties(document, schema, &mut all);
        // A schema that contains itself needs no second look.
        if all.iter().any(|(name, _)| *name == "asOf") || place.matches('.').count() > 8 {
            return;
        }
        for (name, schema) in all {
            let place = format!("{place}.{name}");
            let mut inner = Vec::new();
            properties(document, schema, &mut inner);
            if REPORTED.contains(&name) && !inner.iter().any(|(name, _)| *name == "asOf") {
                found.push(place.clone());
            }
            timeless(document, schema, &place, found);
        }
    }

    #[test]
    fn whatever_a_cluster_reports_is_shown_with_its_time() {
        let document = document();
        let (mut found, mut seen) = (Vec::new(), 0);
        // These two speak of the Manager itself.
        let of_clusters = |path: &str| !["/healthz", "/readyz"].contains(&path);
        for (path, method, operation) in operations(&document).into_iter().filter(|(path, ..)| of_clusters(path)) {
            for answer in operation["responses"].as_object().unwrap().values() {
                let schema = &answer["content"]["application/json"]["schema"];
                timeless(&document, schema, &format!("{method} {path}"), &mut found);
                seen += usize::from(schema.is_object());
            }
        }
        assert!(seen > 20, "{seen} answers");
        assert!(found.is_empty(), "without asOf: {found:#?}");
    }

    #[test]
    fn every_operation_has_its_own_name_a_tag_and_a_summary() {
        let mut names = BTreeSet::new();
        for (path, method, operation) in operations(&document()) {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} stands twice");
            assert!(operation["tags"].is_array() && operation["summary"].is_string(), "{method} {path}");
            assert!(operation["security"].is_array(), "{method} {path}");
        }
        let known: BTreeSet<String> = OPERATIONS.iter().map(|facts| facts.operation.to_owned()).collect();
        assert_eq!(known.len(), OPERATIONS.len(), "an operation stands twice in the table");
        assert_eq!(names, known, "the table of operations and the routes differ");
    }

    #[test]
    fn every_reason_of_a_rest_request_leads_somewhere() {
        let document = document().to_string();
        for reason in Reason::ALL {
            let of_enrollment = matches!(
                reason,
                Reason::EnrollmentTokenUnknown
                    | Reason::EnrollmentTokenUsed
                    | Reason::EnrollmentRejected
                    | Reason::ClusterUidMismatch
                    | Reason::EnrollmentRequestInvalid
                    | Reason::RenewalNonceInvalid
                    | Reason::RenewalUnverified
                    | Reason::IncarnationReplaced
                    | Reason::CredentialsRevoked
                    | Reason::CredentialsTooOld
                    | Reason::TooManyRequests
            );
            // A path answers 405 for methods that are no operations.
            let of_no_operation = matches!(reason, Reason::MethodNotAllowed);
            let documented = document.contains(&format!("\"{reason}\""));
            assert_eq!(documented, !of_enrollment && !of_no_operation, "{reason}");
        }
    }

    #[test]
    fn a_change_documents_its_dry_run_with_the_body_of_the_real_answer() {
        for (path, method, operation) in operations(&document()) {
            let answers = operation["responses"].as_object().unwrap();
            let dry_run = operation["parameters"].as_array().into_iter().flatten().any(|it| it["name"] == "dryRun");
            assert_eq!(dry_run, method != "get", "{method} {path}");
            if dry_run {
                // A change that no cluster carries out is answered 200 itself.
                let real = answers.get("202").or_else(|| answers.get("201")).unwrap_or(&answers["200"]);
                assert_eq!(answers["200"]["content"], real["content"], "{method} {path}");
            }
        }
    }
}
