//! A front before a registry: every request waits before it is passed on, is counted, and may need a token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::token::Gate;

/// The largest body that passes, in bytes: layers of the publishing scenes are small.
const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// Requests by method, the one for a token as `TOKEN`.
pub type Counts = BTreeMap<String, u64>;

/// Ends with the value. A new one has a new address, so nobody profits from what an earlier run has taught.
pub struct Front {
    pub host: String,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    upstream: String,
    http: reqwest::Client,
    delay: Duration,
    gate: Option<Gate>,
    counts: Mutex<Counts>,
}

impl Front {
    /// Before the registry at `upstream`, which makes its `Location`s from the `Host` header that is passed on, so
    /// that they lead back here.
    pub async fn before(upstream: &str, http: &reqwest::Client, delay: Duration, tokens: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            http: http.clone(),
            delay,
            gate: tokens.then(|| Gate::new(&host)),
            counts: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        // Small answers are not to wait for the acknowledgement of what went before.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("no delay of the kernel's"));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving") });
        Self { host, inner, serving }
    }

    /// What came since the last time.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(front): State<Arc<Inner>>, request: Request) -> Response<Body> {
    let to_token_server = Gate::is_token_request(request.uri().path());
    let name = if to_token_server { "TOKEN" } else { request.method().as_str() };
    *front.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
    // Of each request, not of each connection; many wait at once. The runtime's timers would add up to a millisecond.
    let delay = front.delay;
    tokio::task::spawn_blocking(move || std::thread::sleep(delay)).await.expect("sleep");
    match &front.gate {
        Some(gate) if to_token_server => gate.token(request).await,
        Some(gate) => match gate.refuse(&request) {
            Some(refusal) => refusal,
            None => forward(&front, request).await,
        },
        None => forward(&front, request).await,
    }
}

async fn forward(front: &Inner, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove("authorization");
    headers.remove("transfer-encoding");
    headers.remove("content-length");
    let body = to_bytes(body, LARGEST_BODY).await.expect("a small body");
    let has_body = !body.is_empty() || matches!(parts.method, Method::PUT | Method::POST | Method::PATCH);
    let mut sent = front.http.request(parts.method.clone(), format!("http://{}{path}", front.upstream));
    sent = sent.headers(headers);
    if has_body {
        sent = sent.body(body);
    }
    let answer = match sent.send().await {
        Ok(answer) => answer,
        Err(error) => return plain(StatusCode::BAD_GATEWAY, error.to_string()),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove("transfer-encoding");
    // The answer to HEAD keeps the length of what it has not.
    if parts.method != Method::HEAD {
        match answer.bytes().await {
            Ok(bytes) => *response.body_mut() = Body::from(bytes),
            Err(error) => return plain(StatusCode::BAD_GATEWAY, error.to_string()),
        }
    }
    response
}

/// An answer of the front's own.
pub fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
