//! Log lines of commands: for people, so plain, and few unless asked for.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::progress::LogWriter;

/// Starts logging to standard error: warnings only, more with every `-v`, none if `quiet`, and as `RUST_LOG` says if
/// that is set. What the Kubernetes client has to say of a request comes back as the error of the command.
pub fn start(verbose: u8, quiet: bool) {
    let default = match verbose {
        0 if quiet => "error,kube_client=off,kube_runtime=off",
        0 => "warn,kube_client=off,kube_runtime=off",
        1 => "warn,multiarch=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter).event_format(Plain);
    // Whoever has started logging already, as a test may have, keeps it.
    let _ = subscriber.try_init();
}

/// `warning: registry warns place=… warning=…`.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(writer, "{level}: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
