//! A collector of traces, which is also a registry that has nothing: both see what they are sent.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::sync::watch;

use crate::support::PATIENCE;

/// What has been received so far.
#[derive(Clone, Default)]
pub struct Received {
    pub spans: Vec<Span>,
    /// Attributes of who sent them.
    pub resource: Vec<(String, String)>,
    /// The `traceparent` headers of requests to the registry.
    pub parents: Vec<String>,
}

/// Ends with the test.
pub struct Collector {
    pub address: SocketAddr,
    received: watch::Receiver<Received>,
}

impl Collector {
    pub async fn start() -> Collector {
        let (sender, received) = watch::channel(Received::default());
        let router =
            Router::new().route("/v1/traces", post(collect)).fallback(registry).with_state(Arc::new(sender));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Collector { address, received }
    }

    /// Until what has been received is as the condition says.
    pub async fn until(&self, what: &str, condition: impl Fn(&Received) -> bool) -> Received {
        let mut received = self.received.clone();
        let waited = tokio::time::timeout(PATIENCE, received.wait_for(|received| condition(received))).await;
        if let Ok(Ok(received)) = waited {
            return received.clone();
        }
        let names: Vec<String> = self
            .received
            .borrow()
            .spans
            .iter()
            .map(|span| format!("{} {:?}", span.name, span.attributes))
            .collect();
        panic!("never {what}: {names:#?}");
    }
}

async fn collect(State(sender): State<Arc<watch::Sender<Received>>>, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).expect("spans");
    sender.send_modify(|received| {
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.expect("a resource");
            received.resource =
                resource.attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect();
            received.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    });
    StatusCode::OK
}

async fn registry(State(sender): State<Arc<watch::Sender<Received>>>, headers: HeaderMap) -> StatusCode {
    if let Some(parent) = headers.get("traceparent").and_then(|parent| parent.to_str().ok()) {
        sender.send_modify(|received| received.parents.push(parent.to_owned()));
    }
    StatusCode::NOT_FOUND
}

fn text(value: Option<opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// The attribute of a span.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let pair = span.attributes.iter().find(|pair| pair.key == name)?;
    Some(text(pair.value.clone()))
}

/// Bytes as traces and logs write them.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
