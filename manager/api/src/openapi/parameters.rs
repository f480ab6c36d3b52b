//! Parameters that operations have in common: parts of the path, and the headers of a change.

use super::operations::Facts;
use utoipa::openapi::{
    Object, ObjectBuilder, RefOr, Required, Type,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
};

/// Longest Idempotency-Key; a UUID has 36 characters.
pub(crate) const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;

/// The names of an operation's parameters.
pub(super) fn names(operation: &Operation) -> impl Iterator<Item = &str> {
    operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter.name.as_str()),
        RefOr::Ref(_) => None,
    })
}

/// Gives parts of the path their form, and adds the headers that an operation reads.
pub(super) fn complete(operation: &mut Operation, facts: &Facts, is_mutation: bool) {
    let parameters = operation.parameters.get_or_insert_default();
    for parameter in parameters.iter_mut() {
        if let RefOr::T(parameter) = parameter
            && let Some(schema) = path_schema(parameter)
        {
            parameter.schema = Some(RefOr::T(schema.into()));
        }
    }
    if is_mutation {
        let text = "A key of the caller's choice, at best a UUID: a repeated request with the same key within 24 hours \
                    changes nothing and is answered with the first one's answer.";
        let schema = text_schema().min_length(Some(1)).max_length(Some(IDEMPOTENCY_KEY_LENGTH_MAX));
        parameters.push(RefOr::T(header("Idempotency-Key", text, schema.pattern(Some("^[!-~]+$")).build())));
    }
    if facts.if_match {
        let text = "The ETag under which the object was read: the change is refused with 412 when the object has changed \
                    since.";
        // A strong ETag, a list of them, or `*`.
        let schema = text_schema().pattern(Some(r#"^(\*|"[!#-~]+"(, *"[!#-~]+")*)$"#)).build();
        parameters.push(RefOr::T(header("If-Match", text, schema)));
    }
    if parameters.is_empty() {
        operation.parameters = None;
    }
}

fn text_schema() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn header(name: &str, description: &str, schema: Object) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Ids and names of objects are lower-case letters, digits and dashes; the longest are names.
fn path_schema(parameter: &Parameter) -> Option<Object> {
    if parameter.parameter_in != ParameterIn::Path {
        return None;
    }
    let example = match parameter.name.as_str() {
        "tenant" => "acme",
        "cluster" => "dc1-a",
        "application" => "shop",
        "component" => "capsule",
        "command" | "enrollment" | "rollout" => "0198c1d2-0000-7000-8000-000000000000",
        "slug" => "name-taken",
        _ => return None,
    };
    let schema = text_schema().min_length(Some(1)).max_length(Some(50)).pattern(Some("^[a-z0-9-]+$"));
    Some(schema.examples([example]).build())
}
