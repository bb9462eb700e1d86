//! What the operator logs and where its traces go.

use std::path::PathBuf;

use clap::Args;

use crate::telemetry::{LogFormat, Settings, parse_filter};

/// What is logged and where traces go.
#[derive(Args, Debug)]
pub struct TelemetryArguments {
    /// How log lines are written.
    #[arg(long, env = "MULTIARCH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which lines are logged, as in RUST_LOG, which counts without it: info, or warn,multiarch=debug.
    #[arg(long, env = "MULTIARCH_LOG_FILTER", value_name = "FILTER", value_parser = log_filter)]
    log_filter: Option<Filter>,
    /// A file with such a filter, followed while the operator runs; the filter it begins with counts while there is none.
    #[arg(long, env = "MULTIARCH_LOG_FILTER_FILE", value_name = "FILE")]
    log_filter_file: Option<PathBuf>,
    /// The collector that traces are sent to by OTLP over HTTP, as http://collector:4318; no traces without one.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// A filter; none where a variable is empty.
#[derive(Clone, Debug)]
struct Filter(Option<String>);

fn log_filter(text: &str) -> Result<Filter, String> {
    if text.trim().is_empty() {
        Ok(Filter(None))
    } else {
        parse_filter(text).map(|filter| Filter(Some(filter)))
    }
}

impl TelemetryArguments {
    /// What they ask for. Empty variables ask for nothing.
    pub fn settings(&self) -> Settings {
        Settings {
            format: self.log_format,
            filter: self.log_filter.clone().and_then(|filter| filter.0),
            filter_file: self.log_filter_file.clone().filter(|file| !file.as_os_str().is_empty()),
            otlp_endpoint: self.otlp_endpoint.clone().filter(|address| !address.trim().is_empty()),
        }
    }
}
