//! Traces, sent to a collector by OTLP over HTTP.
//!
//! Spans are kept in a queue of bounded length and sent by a thread of their own: a collector that is slow or away keeps
//! nothing waiting, and what does not fit is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// How long the end of the process waits for the last spans to be sent.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const NAME: &str = "multiarch-operator";

/// Makes traces and sends them to the collector below `endpoint`. What else may be set is set by the variables that
/// OpenTelemetry has for it: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
/// OTEL_BSP_*.
pub(super) fn provider(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let fail = |error: &dyn std::fmt::Display| format!("no traces can be sent to {endpoint:?}: {error}");
    let address: reqwest::Url = endpoint.parse().map_err(|error| fail(&error))?;
    if !matches!(address.scheme(), "http" | "https") || address.host_str().is_none() {
        return Err(fail(&"write http://HOST:4318 or https://HOST"));
    }
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("multiarch-operator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT);
    if address.scheme() == "http" {
        // The certificates of authorities are not even read.
        client = client.tls_certs_only([]);
    }
    let collector = Collector {
        client: client.build().map_err(|error| fail(&error))?,
        runtime: Handle::current(),
        is_lost: Arc::default(),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_timeout(TIMEOUT)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .map_err(|error| fail(&error))?;
    let mut resource = Resource::builder_empty()
        .with_service_name(NAME)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Some(name) = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()) {
        resource = resource.with_service_name(name);
    }
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// Makes the operator's own spans those of traces, whatever the log shows, and what is told in them their events.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = filter_fn(|metadata| {
        let most = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
        *metadata.level() <= most && metadata.target().starts_with("multiarch")
    });
    let layer: OpenTelemetryLayer<S, SdkTracer> = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(NAME))
        .with_location(false)
        .with_threads(false);
    layer.with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
}

/// The collector, reached by the HTTP client that the rest of the operator has.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    /// Spans are sent from a thread without one.
    runtime: Handle,
    is_lost: Arc<AtomicBool>,
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.runtime.spawn(send(self.client.clone(), request));
        let is_lost = Arc::clone(&self.is_lost);
        async move {
            let answer = sent.await.unwrap_or_else(|error| Err(error.into()));
            tell(&answer, &is_lost);
            answer
        }
        .boxed()
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let answer = client.execute(request.try_into()?).await?;
    let status = answer.status();
    // Nobody reads what it says.
    Ok(Response::builder().status(status).body(Bytes::new())?)
}

/// Says once that traces are lost, and once that they are not any more.
fn tell(answer: &Result<Response<Bytes>, HttpError>, is_lost: &AtomicBool) {
    let problem = match answer {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("it answers {}", answer.status())),
        Err(error) => Some(leaf(error.as_ref())),
    };
    match (problem, is_lost.load(Ordering::Relaxed)) {
        (Some(problem), false) => {
            is_lost.store(true, Ordering::Relaxed);
            tracing::warn!("traces are lost, since the collector does not take them: {problem}");
        }
        (None, true) => {
            is_lost.store(false, Ordering::Relaxed);
            tracing::info!("the collector takes traces again");
        }
        _ => {}
    }
}

/// The innermost cause, which names no address: one may carry a password.
fn leaf(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
