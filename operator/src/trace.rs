//! The trace of a command, from its message to every log line about it: the `traceparent` header is kept as an annotation
//! of the inbox record and of the object that it becomes, so that a controller that works later logs the same `trace.id`.
//!
//! It decides nothing: whoever changes the annotation changes what is logged.

use kube::ResourceExt;
use kubenova_bus::consume::Delivery;
use kubenova_crds::labels::TRACEPARENT;
use kubenova_runtime::telemetry::trace_context;
use kubenova_schema::trace::{HEADER, TraceParent};
use std::collections::BTreeMap;
use tracing::Span;

/// The trace that a message belongs to.
#[must_use]
pub fn of_delivery(delivery: &Delivery) -> Option<TraceParent> {
    delivery.header(HEADER).and_then(TraceParent::parse)
}

/// The trace of the command that last wrote the object.
#[must_use]
pub fn of_object(object: &impl ResourceExt) -> Option<TraceParent> {
    object.annotations().get(TRACEPARENT).and_then(|text| TraceParent::parse(text))
}

/// What is kept of a message that is being handled in the current span: the span itself when it is exported, so that what
/// follows is its child.
#[must_use]
pub fn to_keep(delivered: Option<TraceParent>) -> Option<String> {
    trace_context::of(&Span::current()).or(delivered.map(|parent| parent.to_string()))
}

/// Writes it into annotations; an older one goes.
pub fn annotate(annotations: &mut BTreeMap<String, String>, traceparent: Option<String>) {
    match traceparent {
        Some(traceparent) => annotations.insert(TRACEPARENT.to_owned(), traceparent),
        None => annotations.remove(TRACEPARENT),
    };
}

/// Names the trace of the object's command in the current span, which must have the field `trace.id`.
pub fn name_in_span(object: &impl ResourceExt) {
    if let Some(parent) = of_object(object) {
        Span::current().record("trace.id", parent.trace_id());
    }
}

/// Makes the current span part of the trace of the object's command, too.
pub fn follow_in_span(object: &impl ResourceExt) {
    if let Some(parent) = of_object(object) {
        trace_context::follow(&Span::current(), &parent.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::{CommandSpec, NovaCommand};

    const KEPT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_record_keeps_the_trace_of_its_newest_command() {
        let mut record = NovaCommand::new("tenant.1", CommandSpec::default());
        assert_eq!(of_object(&record), None);
        annotate(record.annotations_mut(), Some(KEPT.to_owned()));
        assert_eq!(of_object(&record), TraceParent::parse(KEPT));
        annotate(record.annotations_mut(), None);
        assert_eq!(of_object(&record), None, "the newest command had no trace");
    }

    #[test]
    fn what_is_kept_is_what_was_delivered_while_nothing_is_exported() {
        assert_eq!(to_keep(TraceParent::parse(KEPT)).as_deref(), Some(KEPT));
        assert_eq!(to_keep(None), None);
    }
}
