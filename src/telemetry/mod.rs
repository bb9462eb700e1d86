//! Logs and traces.
//!
//! Both are of the same spans: a round for an image, in it the tasks that it starts, in them the requests to registries.
//! Every line of the log that comes about in one of them carries its fields and one `trace_id`, whether traces are sent
//! anywhere or not.

mod filter;
mod json;
mod spans;
mod traces;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, reload};

pub use filter::parse as parse_filter;
pub use spans::{fail, identify, propagate};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and where traces are sent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How log lines are written.
    pub format: LogFormat,
    /// Which lines, in the syntax of `RUST_LOG`. `RUST_LOG` counts where this is absent, and else `info`.
    pub filter: Option<String>,
    /// A file with such a filter, which counts while it is there and has one. It may change at any time.
    pub filter_file: Option<PathBuf>,
    /// The base address of a collector that takes OTLP over HTTP; no traces without one.
    pub otlp_endpoint: Option<String>,
}

/// Logs and traces of a process, from [`start`](Telemetry::start) to its end.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logging to standard error, and sending traces if there is somewhere to send them to. Once in a process,
    /// on a runtime.
    ///
    /// # Errors
    /// If the filter or the address of the collector cannot be used.
    pub fn start(settings: Settings) -> Result<Self, String> {
        let (mut filter, ignored) = filter::at_start(settings.filter.as_deref())?;
        let mut problems = Vec::from_iter(ignored);
        let mut followed = settings.filter_file.map(|file| filter::Followed::new(file, filter.clone()));
        match followed.as_mut().and_then(filter::Followed::change) {
            None => {}
            Some(Ok(changed)) => filter = changed,
            Some(Err(problem)) => problems.push(problem),
        }
        let provider = settings.otlp_endpoint.as_deref().map(traces::provider).transpose()?;
        let (reloadable, handle) = reload::Layer::new(filter.parse()?);
        let lines = lines(settings.format).with_filter(reloadable);
        let registry = tracing_subscriber::registry().with(lines);
        match &provider {
            Some(provider) => registry.with(traces::layer(provider)).init(),
            None => registry.init(),
        }
        for problem in problems {
            tracing::warn!("{problem}");
        }
        if let Some(followed) = followed {
            tokio::spawn(followed.follow(handle));
        }
        Ok(Self { provider })
    }

    /// Sends the traces that are still to be sent, for a few seconds at most.
    pub async fn stop(self) {
        let Some(provider) = self.provider else { return };
        // It blocks, and what it waits for is done by this runtime.
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(traces::LAST_WORDS));
        if let Ok(Err(error)) = stopped.await {
            tracing::debug!("the last traces were not sent: {error}");
        }
    }
}

/// What writes lines to standard error.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(json::Json).boxed(),
    }
}
