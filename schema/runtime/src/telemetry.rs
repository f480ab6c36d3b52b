//! Logs and spans: one JSON object a line on standard error, or readable text; and, when a collector is named, spans over
//! OTLP to it.
//!
//! The lines carry the fields of the spans that they stand in. What is exported is what the filter lets through: our spans
//! have level info, and a filter above it exports none.

mod otlp;
pub mod trace_context;

use crate::log_filter;
use otlp::Exporter;
pub use otlp::OtlpError;
use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Lines or spans.
type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What is logged, how, and where spans are sent.
#[derive(Debug, Clone, Copy)]
pub struct TelemetryOptions<'a> {
    /// Name of the service in traces, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` gives another.
    pub service: &'static str,
    /// A tracing filter such as `info` or `info,kubenova_operator=debug`; `RUST_LOG` wins.
    pub filter: &'a str,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// `http://` URL of an OTLP collector. Without one that of `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`; without any, no spans are sent.
    pub otlp_endpoint: Option<&'a str>,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter is not a tracing filter, for example info,kubenova_bus=debug")]
    Filter(#[from] ParseError),
    /// The collector cannot be used.
    #[error("could not set up the export of traces")]
    Otlp(#[from] OtlpError),
}

/// Running telemetry; finish it before the process ends.
#[derive(Debug)]
pub struct Telemetry {
    exporter: Option<Exporter>,
}

impl Telemetry {
    /// Sends the last spans. Takes a few seconds at most, whatever the collector does.
    pub async fn finish(self) {
        if let Some(exporter) = self.exporter {
            exporter.finish().await;
        }
    }
}

/// Starts logging for the whole process, within a tokio runtime.
///
/// # Errors
/// When the filter cannot be read or the collector's URL cannot be used.
pub fn init(options: &TelemetryOptions<'_>) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = subscriber(options)?;
    subscriber.init();
    Ok(telemetry)
}

/// What [`init`] installs, for tests that install it for one thread only.
///
/// # Errors
/// As [`init`].
pub fn subscriber(
    options: &TelemetryOptions<'_>,
) -> Result<(impl Subscriber + Send + Sync + use<>, Telemetry), TelemetryError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => log_filter::parse(&text)?,
        Err(_) => log_filter::parse(options.filter)?,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: BoxedLayer = if options.json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let mut layers: Vec<BoxedLayer> = vec![lines];
    let exporter = Exporter::start(options.service, options.otlp_endpoint)?;
    if let Some(exporter) = &exporter {
        layers.push(exporter.layer::<Registry>().boxed());
    }
    // One filter for all layers, not one for each: whoever asks whether a line would be logged and then logs none, as
    // sqlx does for every statement, leaves a layer's own filter in a state in which it drops the next line or span.
    Ok((tracing_subscriber::registry().with(layers).with(filter), Telemetry { exporter }))
}

/// The whole cause chain of an error, for one log line or one condition message.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
