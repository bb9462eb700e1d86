//! What the operator's own code does with spans, so that it need not know where they go.

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TraceContextExt as _, TraceId};
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use reqwest::header::HeaderMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Fills in the field `trace_id` of a span that others begin under: the id of its trace, or one of its own kind where no
/// traces are made.
pub fn identify(span: &Span) {
    if span.is_disabled() {
        return;
    }
    let id = match span.context().span().span_context().trace_id() {
        TraceId::INVALID => TraceId::from(fastrand::u128(1..)),
        id => id,
    };
    span.record("trace_id", tracing::field::display(id));
}

/// Marks what a span stands for as failed.
pub fn fail(span: &Span, problem: impl Into<std::borrow::Cow<'static, str>>) {
    span.set_status(Status::error(problem));
}

/// Tells whoever a request goes to which span it belongs to (W3C Trace Context); nothing where no traces are made.
pub fn propagate(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(headers));
    }
}
