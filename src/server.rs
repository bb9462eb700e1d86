//! The operator's HTTP server: what the kubelet and Prometheus ask.

mod authorization;
mod tls;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::health::Health;
use crate::metrics::{self, Metrics};
pub use authorization::Authorizer;
pub use tls::Certificate;
use tls::TlsListener;

/// How many connections wait for their turn; as tokio has it.
const BACKLOG: i32 = 1024;

/// Where the metrics are.
pub const METRICS: &str = "/metrics";

/// What is asked for.
#[derive(Clone)]
pub struct Answers {
    /// The operator's state.
    pub health: Arc<Health>,
    /// What it has counted.
    pub metrics: Metrics,
    /// Who may read that; everybody without it. Probes are for everybody.
    pub authorizer: Option<Arc<Authorizer>>,
}

/// What is answered, and where.
///
/// `/healthz` says whether a new start would help, `/readyz` whether the operator may be relied on, `/metrics` what it has
/// counted.
pub fn router(answers: Answers) -> Router {
    Router::new()
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route(METRICS, get(scrape))
        .with_state(answers)
}

async fn live(State(answers): State<Answers>) -> (StatusCode, String) {
    answer(answers.health.live(Instant::now()))
}

async fn ready(State(answers): State<Answers>) -> (StatusCode, String) {
    answer(answers.health.ready())
}

fn answer(state: Result<String, String>) -> (StatusCode, String) {
    match state {
        Ok(words) => (StatusCode::OK, format!("{words}\n")),
        Err(words) => (StatusCode::SERVICE_UNAVAILABLE, format!("{words}\n")),
    }
}

async fn scrape(State(answers): State<Answers>, headers: HeaderMap) -> Response {
    if let Some(authorizer) = &answers.authorizer
        && let Err((status, words)) = authorizer.check(&headers).await
    {
        return match status {
            StatusCode::UNAUTHORIZED => (status, [(WWW_AUTHENTICATE, "Bearer")], words).into_response(),
            status => (status, words).into_response(),
        };
    }
    answers.metrics.set_leader(answers.health.is_leading());
    match answers.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A server that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    /// Begins to answer, over TLS if there is a certificate.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the certificate cannot be used.
    pub async fn start(
        address: SocketAddr,
        certificate: Option<Certificate>,
        router: Router,
    ) -> Result<Self, String> {
        let cannot = |error| format!("cannot listen on {address}: {error}; choose another --listen");
        let listener = bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let serving = match certificate {
            Some(certificate) => {
                let listener = TlsListener::new(listener, certificate)?;
                tokio::spawn(ended(axum::serve(listener, router).into_future()))
            }
            None => tokio::spawn(ended(axum::serve(listener, router).into_future())),
        };
        Ok(Server { address, serving })
    }

    /// Where it answers: the port is another than the one asked for if that was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Who says every address of IPv4 means every address: pods of a cluster may have those of IPv6 only.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    if address.ip() == Ipv4Addr::UNSPECIFIED
        && let Ok(listener) = bind_both(address.port())
    {
        return Ok(listener);
    }
    TcpListener::bind(address).await
}

/// Every address of both families, whatever `net.ipv6.bindv6only` of the node says.
fn bind_both(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn ended(serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!("the server for probes and metrics ended: {error}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_address_is_one_of_either_family_whatever_the_node_prefers() {
        let listener = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await.unwrap();
        if address.is_ipv6() {
            // What IPv4 has been refused for where net.ipv6.bindv6only is 1.
            assert!(!socket2::SockRef::from(&listener).only_v6().unwrap());
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).await.unwrap();
        }
    }
}
