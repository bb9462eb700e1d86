//! Log lines as JSON: one flat object each, in which the fields of the spans around an event stand beside its own.

use std::fmt;

use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_serde::fields::AsMap as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// `{"timestamp":"…","level":"INFO","target":"…","message":"…","trace_id":"…","image":"team-a/web",…}`.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
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
        let mut fields = Map::new();
        // From the outermost on: what is nearer to the event knows better.
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(formatted) = span.extensions().get::<FormattedFields<N>>() {
                fields.extend(serde_json::from_str::<Map<_, _>>(formatted).unwrap_or_default());
            }
        }
        if let Ok(Value::Object(own)) = serde_json::to_value(event.field_map()) {
            fields.extend(own);
        }
        let target = match fields.remove("log.target") {
            // An event that came by the crate log.
            Some(Value::String(target)) => target,
            _ => event.metadata().target().to_owned(),
        };
        // How a span is to look in a trace says nothing here.
        fields.retain(|name, _| !name.starts_with("otel.") && !name.starts_with("log."));
        let line = write_line(&target, event.metadata().level().as_str(), fields).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn write_line(target: &str, level: &str, mut fields: Map<String, Value>) -> serde_json::Result<String> {
    let mut timestamp = String::new();
    SystemTime.format_time(&mut Writer::new(&mut timestamp)).map_err(serde::ser::Error::custom)?;
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut object = serializer.serialize_map(None)?;
    object.serialize_entry("timestamp", &timestamp)?;
    object.serialize_entry("level", level)?;
    object.serialize_entry("target", target)?;
    if let Some(message) = fields.remove("message") {
        object.serialize_entry("message", &message)?;
    }
    for (name, value) in &fields {
        object.serialize_entry(name, value)?;
    }
    object.end()?;
    String::from_utf8(line).map_err(serde::ser::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(Json)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = lines.0.lock().unwrap().clone();
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect()
    }

    #[test]
    fn the_fields_of_all_spans_stand_beside_those_of_the_event() {
        let lines = logged(|| {
            let round =
                tracing::info_span!("reconcile", image = "team-a/web", trace_id = tracing::field::Empty);
            round.record("trace_id", "0af7");
            let task = tracing::info_span!(parent: &round, "task", task = "Publish", otel.kind = "internal");
            task.in_scope(|| tracing::warn!(reason = "PushDenied", attempts = 2, "no \"way\"\nat all"));
            tracing::info!("outside");
        });
        assert_eq!(lines[0]["image"], "team-a/web");
        assert_eq!(lines[0]["trace_id"], "0af7");
        assert_eq!(lines[0]["task"], "Publish");
        assert_eq!(lines[0]["reason"], "PushDenied");
        assert_eq!(lines[0]["attempts"], 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "no \"way\"\nat all");
        assert_eq!(lines[0].get("otel.kind"), None);
        assert_eq!(lines[1]["message"], "outside");
        assert_eq!(lines[1].get("image"), None);
    }
}
