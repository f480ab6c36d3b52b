//! W3C Trace Context between processes, for spans that are exported: a span continues the trace of another process, and
//! names itself to the next one.
//!
//! While nothing is exported both do nothing: then the `traceparent` that came in is passed on as it is, by whoever has it.

use opentelemetry::{propagation::TextMapPropagator as _, trace::TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The one header of the standard that is used here.
const HEADER: &str = "traceparent";

/// Makes a span the child of the span that this `traceparent` names. Must come before the first span inside it.
pub fn follow(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&carrier);
    if parent.has_active_span() {
        // Fails while nothing is exported, or when the level of the span is: then there is nothing to connect.
        let _not_exported = span.set_parent(parent);
    }
}

/// The `traceparent` that names a span as the parent of what another process does. None while nothing is exported.
#[must_use]
pub fn of(span: &Span) -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(HEADER)
}
