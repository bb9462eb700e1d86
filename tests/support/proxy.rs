//! A proxy that counts what goes through it and can cut it off after a given write.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;

use super::Rig;

/// A plain-HTTP front of another HTTP server.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
}

/// What several proxies count together.
#[derive(Default)]
pub struct Counts {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    limit: AtomicU64,
    cut: Notify,
    lines: Mutex<Vec<String>>,
    asked: Notify,
    held: Mutex<Option<String>>,
    arrived: Notify,
    released: Notify,
    keeps_tags: AtomicU16,
}

#[derive(Clone)]
struct Front {
    upstream: String,
    http: reqwest::Client,
    counts: Arc<Counts>,
}

impl Front {
    fn is_registry(&self) -> bool {
        self.upstream.starts_with("http://")
    }
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

    /// Answers with a status whenever a tag is to be removed, and keeps it, as many registries do.
    pub fn keep_tags(&self, status: u16) {
        self.keeps_tags.store(status, Ordering::SeqCst);
    }

    fn refusal(&self, line: &str) -> Option<StatusCode> {
        let is_of_tag =
            line.starts_with("DELETE ") && line.contains("/manifests/") && !line.contains("sha256:");
        let status =
            Some(self.keeps_tags.load(Ordering::SeqCst)).filter(|status| is_of_tag && *status > 0)?;
        StatusCode::from_u16(status).ok()
    }

    /// Every request since this was asked last, as method and path, sorted.
    pub fn take_lines(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.lines.lock().expect("no panic"));
        lines.sort();
        lines
    }

    /// Until there were so many requests since they were taken last.
    pub async fn until_requests(&self, count: usize) {
        loop {
            let asked = self.asked.notified();
            if self.lines.lock().expect("no panic").len() >= count {
                return;
            }
            asked.await;
        }
    }

    /// Holds the next request whose method and path end like this.
    pub fn hold(&self, line: &str) {
        *self.held.lock().expect("no panic") = Some(line.to_owned());
    }

    /// Until that request has come.
    pub async fn until_held(&self) {
        self.arrived.notified().await;
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    fn is_held(&self, line: &str) -> bool {
        self.held.lock().expect("no panic").take_if(|held| line.ends_with(held.as_str())).is_some()
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
    /// In front of the API server, which the proxy speaks to as its administrator.
    pub async fn of_api_server(rig: &Rig, counts: &Arc<Counts>) -> Proxy {
        let text = std::fs::read_to_string(&rig.kubeconfig).expect("a kubeconfig");
        let config: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let pem = |data: &serde_json::Value| STANDARD.decode(data.as_str().expect("data")).expect("base64");
        let authority = reqwest::Certificate::from_pem(&pem(&cluster["certificate-authority-data"]));
        let identity = [pem(&user["client-certificate-data"]), pem(&user["client-key-data"])].concat();
        let http = reqwest::Client::builder()
            .add_root_certificate(authority.expect("a certificate"))
            .identity(reqwest::Identity::from_pem(&identity).expect("an identity"))
            .build()
            .expect("a client");
        Self::start("127.0.0.1", cluster["server"].as_str().expect("a server"), http, counts).await
    }

    /// In front of the rig's registry, at an address that pods reach as well.
    pub async fn of_registry(rig: &Rig, counts: &Arc<Counts>) -> Proxy {
        let upstream = format!("http://{}", rig.registry);
        Self::start(&rig.address, &upstream, reqwest::Client::new(), counts).await
    }

    async fn start(address: &str, upstream: &str, http: reqwest::Client, counts: &Arc<Counts>) -> Proxy {
        let front = Front { upstream: upstream.to_owned(), http, counts: Arc::clone(counts) };
        let listener = tokio::net::TcpListener::bind((address, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(forward).with_state(front);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Proxy { address }
    }

    /// A kubeconfig that leads through this proxy.
    pub fn kubeconfig(&self, folder: &std::path::Path) -> std::path::PathBuf {
        let path = folder.join(format!("kubeconfig-{}", self.address.port()));
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    let counts = &front.counts;
    // Builds push through the registry's proxy too; what they do is not the operator's doing.
    let agent = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    if front.is_registry() && !agent.starts_with("multiarch-operator/") {
        return send(&front, request).await;
    }
    if counts.is_cut() {
        // The writer is about to be killed: it gets no answer any more.
        std::future::pending::<()>().await;
    }
    let line = format!("{} {}", request.method(), request.uri().path());
    counts.lines.lock().expect("no panic").push(line.clone());
    counts.asked.notify_one();
    if let Some(status) = counts.refusal(&line) {
        let body = r#"{"errors":[{"code":"UNSUPPORTED","message":"the operation is unsupported"}]}"#;
        let body = if status == StatusCode::NOT_FOUND { "" } else { body };
        return Response::builder().status(status).body(Body::from(body)).expect("a response");
    }
    if counts.is_held(&line) {
        counts.arrived.notify_one();
        counts.released.notified().await;
    }
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
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
    // The host stays as it was, since uploads are told by it where to go on.
    let mut headers = parts.headers;
    if !front.is_registry() {
        headers.remove("host");
    }
    let sent = front.http.request(parts.method, format!("{}{path}", front.upstream)).headers(headers);
    let sent = sent.body(reqwest::Body::wrap_stream(body.into_data_stream())).send().await;
    match sent {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                *headers = answer.headers().clone();
                headers.remove("transfer-encoding");
            }
            response.body(Body::from_stream(answer.bytes_stream())).expect("a response")
        }
        Err(error) => {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            response.body(Body::from(error.to_string())).expect("a response")
        }
    }
}
