//! Spans over OTLP: binary protobuf, plain HTTP, in batches from a thread of their own.
//!
//! Guarantees: a collector that is slow or dead costs spans and nothing else. At most [`QUEUE_MAX`] spans wait for it, each
//! request has [`EXPORT_MAX`], the last one [`FLUSH_MAX`]; the log says once that the collector does not take spans, and
//! once that it does again.
//!
//! TLS is left to a collector beside the process, as is usual: it also has the credentials of the tracing service.

use futures::future::BoxFuture;
use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider},
};
use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// Time for one request. A collector in the same network answers in milliseconds.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// Time to send the last spans when the process ends: a small part of the 30 s that a pod has to end.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// Spans that wait for the collector; what comes while so many wait is dropped. About 2 MiB.
const QUEUE_MAX: usize = 2048;
/// Where a collector takes traces, below its URL.
const TRACES_PATH: &str = "/v1/traces";

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// Another scheme.
    #[error(
        "the collector's URL \"{0}\" does not begin with http://: name a collector that is reached without TLS, for example \
         one beside this process, and let it forward spans"
    )]
    NotHttp(String),
    /// The URL or a variable `OTEL_EXPORTER_OTLP_…` cannot be used.
    #[error("the collector's URL or a variable OTEL_EXPORTER_OTLP_… cannot be used")]
    Exporter(#[from] ExporterBuildError),
}

/// Sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    collector: Arc<Collector>,
}

impl Exporter {
    /// Starts it. None when no collector is named.
    pub(super) fn start(service: &'static str, setting: Option<&str>) -> Result<Option<Self>, OtlpError> {
        let variable = |name| env::var(name).ok();
        let traces = variable(opentelemetry_otlp::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT);
        let base = variable(opentelemetry_otlp::OTEL_EXPORTER_OTLP_ENDPOINT);
        let Some(url) = endpoint(setting, traces.as_deref(), base.as_deref()) else { return Ok(None) };
        if !url.starts_with("http://") {
            return Err(OtlpError::NotHttp(url));
        }
        let collector = Arc::new(Collector { url: url.clone(), failed: AtomicBool::new(false) });
        let client = Client {
            http: HyperClient::with_default_connector(EXPORT_MAX, None),
            runtime: Handle::current(),
            collector: Arc::clone(&collector),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(url)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_MAX)
            // The next batch is the next attempt; a retry would only hold it up.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE_MAX).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider =
            SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource(service)).build();
        Ok(Some(Self { tracer: provider.tracer(service), provider, collector }))
    }

    /// The layer that turns tracing's spans into exported ones.
    pub(super) fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // Nothing here reads the current context of OpenTelemetry, and a span that was entered may still be given a
            // parent: a reconcile knows its trace only when it has read the object.
            .with_context_activation(false)
    }

    /// Sends what waits.
    pub(super) async fn finish(self) {
        let Self { provider, collector, .. } = self;
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => collector.failed(&error),
            Err(error) => collector.failed(&error),
        }
    }
}

/// The URL for traces: the setting's, else that of the two variables of the standard, of which the first is whole.
fn endpoint(setting: Option<&str>, traces: Option<&str>, base: Option<&str>) -> Option<String> {
    let named = |url: Option<&str>| url.map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned);
    let below = |base: String| format!("{}{TRACES_PATH}", base.trim_end_matches('/'));
    named(setting).map(below).or_else(|| named(traces)).or_else(|| named(base).map(below))
}

/// Who sends: the service's name and version, and what `OTEL_RESOURCE_ATTRIBUTES` adds.
fn resource(service: &'static str) -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    // What the SDK says when no variable names the service.
    let is_named = name.is_some_and(|name| !name.starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name(service).build() }
}

/// What is known about the collector.
#[derive(Debug)]
struct Collector {
    url: String,
    failed: AtomicBool,
}

impl Collector {
    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                url = self.url,
                error = super::chain(error),
                "the OTLP collector takes no spans; they are dropped until it does"
            );
        }
    }

    fn succeeded(&self) {
        if self.failed.swap(false, Ordering::Relaxed) {
            tracing::info!(url = self.url, "the OTLP collector takes spans again");
        }
    }
}

/// The status of an answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("it answered {0}")]
struct NotTaken(u16);

/// Sends requests from the exporter's thread, which has no tokio runtime, on that of the process.
#[derive(Debug)]
struct Client {
    http: HyperClient,
    runtime: Handle,
    collector: Arc<Collector>,
}

impl HttpClient for Client {
    fn send_bytes<'a, 'sent>(&'a self, request: Request<Bytes>) -> BoxFuture<'sent, Result<Response<Bytes>, HttpError>>
    where
        'a: 'sent,
        Self: 'sent,
    {
        let http = self.http.clone();
        Box::pin(async move {
            let sending = self.runtime.spawn(async move { http.send_bytes(request).await });
            // Fails when the runtime is gone: the process ends.
            let sent = sending.await.map_err(HttpError::from).flatten();
            match &sent {
                Ok(response) if response.status().is_success() => self.collector.succeeded(),
                Ok(response) => self.collector.failed(&NotTaken(response.status().as_u16())),
                Err(error) => self.collector.failed(&**error),
            }
            sent
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TelemetryOptions, subscriber};
    use super::*;
    use std::sync::Mutex;
    use tokio::net::TcpListener;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    #[test]
    fn the_setting_wins_over_the_variables_and_the_variable_for_traces_is_whole() {
        let (setting, traces, base) = (Some("http://a:4318/"), Some("http://b/take"), Some("http://c:4318"));
        let expected = |url: &str| Some(url.to_owned());
        assert_eq!(endpoint(setting, traces, base), expected("http://a:4318/v1/traces"));
        assert_eq!(endpoint(None, traces, base), expected("http://b/take"));
        assert_eq!(endpoint(Some(""), None, base), expected("http://c:4318/v1/traces"));
        assert_eq!(endpoint(None, Some(" "), None), None);
    }

    fn options(otlp_endpoint: &str) -> TelemetryOptions<'_> {
        TelemetryOptions { service: "test", filter: "info", json: false, otlp_endpoint: Some(otlp_endpoint) }
    }

    #[tokio::test]
    async fn a_collector_behind_tls_is_refused_with_what_to_do() {
        let error = subscriber(&options("https://collector:4318")).map(drop).unwrap_err();
        let error = super::super::chain(&error);
        assert!(error.contains("does not begin with http://") && error.contains("forward"), "{error}");
    }

    /// Ends telemetry with a span that waits for the collector at this address.
    async fn finish_with(address: std::net::SocketAddr) {
        let (subscriber, telemetry) = subscriber(&options(&format!("http://{address}"))).unwrap();
        tracing::subscriber::with_default(subscriber, || drop(tracing::info_span!("a span")));
        let ended = tokio::time::timeout(3 * FLUSH_MAX, telemetry.finish()).await;
        assert!(ended.is_ok(), "telemetry still runs after {:?}", 3 * FLUSH_MAX);
    }

    #[tokio::test]
    async fn a_collector_that_is_dead_does_not_stop_the_process_from_ending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        finish_with(address).await;
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_does_not_stop_the_process_from_ending() {
        // The kernel accepts connections for it, and nothing reads them.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        finish_with(listener.local_addr().unwrap()).await;
        let (_connection, _) = listener.accept().await.expect("the span was on its way");
    }

    /// The levels of what is logged.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<tracing::Level>>>);

    impl<S: Subscriber> Layer<S> for Levels {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }

    #[test]
    fn a_dead_collector_is_logged_once_and_so_is_its_return() {
        let levels = Levels::default();
        let collector = Collector { url: String::new(), failed: AtomicBool::new(false) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(levels.clone()), || {
            collector.succeeded();
            collector.failed(&NotTaken(503));
            collector.failed(&NotTaken(503));
            collector.succeeded();
            collector.succeeded();
            collector.failed(&NotTaken(429));
        });
        use tracing::Level;
        assert_eq!(*levels.0.lock().unwrap(), [Level::WARN, Level::INFO, Level::WARN]);
    }
}
