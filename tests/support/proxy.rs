//! A proxy that counts what goes through it and can cut it off after a given write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use tokio::sync::Notify;

/// A plain-HTTP front of another HTTP server.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

/// What several proxies count together.
#[derive(Default)]
pub struct Counts {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    limit: AtomicU64,
    cut: Notify,
}

#[derive(Clone)]
struct Front {
    upstream: String,
    token: Option<String>,
    http: reqwest::Client,
    counts: Arc<Counts>,
}

impl Counts {
    /// Lets this many writes through and no request after them.
    pub fn cut_after(&self, writes: u64) {
        self.writes.store(0, Ordering::SeqCst);
        self.limit.store(writes, Ordering::SeqCst);
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.limit.store(0, Ordering::SeqCst);
    }

    /// Until the last write that is let through has been answered upstream.
    pub async fn until_cut(&self) {
        self.cut.notified().await;
    }

    fn is_cut(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        limit > 0 && self.writes.load(Ordering::SeqCst) >= limit
    }
}

impl Proxy {
    /// In front of `upstream` (`http://host:port`), adding a bearer token where one is given.
    pub async fn start(
        upstream: &str,
        token: Option<String>,
        http: reqwest::Client,
        counts: Arc<Counts>,
    ) -> Proxy {
        let front = Front { upstream: upstream.to_owned(), token, http, counts: Arc::clone(&counts) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(forward).with_state(front);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Proxy { address, counts }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    let counts = &front.counts;
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if counts.is_cut() {
        // The writer is about to be killed: it gets no answer any more.
        std::future::pending::<()>().await;
    }
    let limit = counts.limit.load(Ordering::SeqCst);
    let number = match is_write {
        true => counts.writes.fetch_add(1, Ordering::SeqCst) + 1,
        false => counts.reads.fetch_add(1, Ordering::SeqCst),
    };
    if is_write && limit > 0 && number > limit {
        std::future::pending::<()>().await;
    }
    let response = send(&front, request).await;
    if is_write && limit > 0 && number == limit {
        // It was done, and its doer never learns of it.
        counts.cut.notify_one();
        std::future::pending::<()>().await;
    }
    response
}

async fn send(front: &Front, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(|path| path.as_str()).unwrap_or("/");
    let mut headers: HeaderMap = parts.headers;
    // Uploads are addressed by the host that the client sees.
    let host = headers.get("host").cloned();
    headers.remove("accept-encoding");
    if let Some(token) = &front.token {
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        headers.remove("host");
    }
    let body = reqwest::Body::wrap_stream(body.into_data_stream());
    let sent =
        front.http.request(parts.method, format!("{}{path}", front.upstream)).headers(headers).body(body);
    let _ = host;
    match sent.send().await {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                *headers = answer.headers().clone();
                headers.remove("transfer-encoding");
            }
            response.body(Body::from_stream(answer.bytes_stream())).expect("a response")
        }
        Err(error) => Response::builder()
            .status(StatusCode::BAD_GATEWAY)
            .body(Body::from(error.to_string()))
            .expect("a response"),
    }
}
