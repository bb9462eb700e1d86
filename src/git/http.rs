//! Git servers over http and https (`gitprotocol-http(5)`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, Url};

use super::answer::{Answer, Until, repeated};
use super::connection::explain;
use super::credentials::HttpsCredentials;
use super::error::{Error, leaf};
use crate::network::{self, Access, Guard};

const SERVICE: &str = "git-upload-pack";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Servers and proxies know git by this beginning.
const USER_AGENT: &str = concat!("git/2.0 (multiarch-operator/", env!("CARGO_PKG_VERSION"), ")");
const MOST_REDIRECTS: usize = 5;
/// How many ways to reach servers are remembered.
const MOST_CLIENTS: usize = 64;

/// Every way in which servers are reached: with the authorities of the Secrets.
#[derive(Debug)]
pub(super) struct HttpClients {
    /// Hosts that get credentials without TLS.
    pub(super) plain_http: BTreeSet<String>,
    proxies: Matcher,
    clients: Mutex<HashMap<Way, reqwest::Client>>,
}

/// What servers that share a client have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    /// Not through a proxy.
    direct: bool,
    /// Which of the addresses of a host are connected to; any where there is none.
    guard: Option<Guard>,
    /// Authorities besides the system's own, PEM.
    authority: Option<Arc<[u8]>>,
}

impl HttpClients {
    pub(super) fn new(plain_http: BTreeSet<String>) -> Self {
        Self { plain_http, proxies: Matcher::from_env(), clients: Mutex::default() }
    }

    /// The client for the host of `to`, where the repository of `url` is or has moved to.
    fn client(
        &self,
        access: Option<&Access>,
        url: &str,
        to: &Url,
        authority: Option<&Arc<[u8]>>,
    ) -> Result<reqwest::Client, Error> {
        // A proxy cannot reach what is on this machine.
        let direct = is_loopback(to) || !network::is_proxied(&self.proxies, to);
        let guard = network::guard(access, to, direct).map_err(|denied| Error::denied(url, denied))?;
        let way = Way { direct, guard, authority: authority.cloned() };
        self.client_of(way).map_err(|cause| Error::unavailable(url, cause))
    }

    fn client_of(&self, way: Way) -> Result<reqwest::Client, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&way) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if way.direct {
            builder = builder.no_proxy();
        }
        if let Some(guard) = &way.guard {
            builder = builder.dns_resolver(guard.clone());
        }
        if let Some(pem) = &way.authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            builder = builder.tls_certs_merge(certificates.map_err(|error| leaf(&error))?);
        }
        let client = builder.build().map_err(|error| leaf(&error))?;
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        clients.insert(way, client.clone());
        Ok(client)
    }

    fn may_send_credentials(&self, url: &Url) -> bool {
        url.scheme() == "https" || is_loopback(url) || self.plain_http.contains(&authority(url))
    }
}

/// A repository that has answered.
pub(super) struct HttpConnection {
    client: reqwest::Client,
    /// Where it is, after redirects.
    base: Url,
    authorization: Option<HeaderValue>,
    /// The user's own URL, for messages.
    url: String,
    /// The host that credentials were not sent to.
    redirected: Option<String>,
    /// Whether there are credentials at all.
    has_credentials: bool,
}

impl HttpConnection {
    /// Connects, and reads what the server says of itself.
    pub(super) async fn open(
        clients: &HttpClients,
        access: Option<&Access>,
        base: Url,
        credentials: Option<&HttpsCredentials>,
    ) -> Result<(Self, Answer), Error> {
        let url = base.to_string();
        let authorization = credentials.and_then(|credentials| credentials.authorization.clone());
        if authorization.is_some() && !clients.may_send_credentials(&base) {
            return Err(Error::credentials(
                &url,
                "credentials are not sent without TLS, where everyone on the way reads them; use https",
            ));
        }
        let authority = credentials.and_then(|credentials| credentials.authority.as_ref());
        let reach = |url: &str, to: &Url| clients.client(access, url, to, authority);
        let client = reach(&url, &base)?;
        let has_credentials = authorization.is_some();
        let mut connection = Self { client, base, authorization, url, redirected: None, has_credentials };
        let response = connection.follow(reach).await?;
        let mut answer = Answer::new(Until::Close);
        connection.read(response, "advertisement", &mut answer).await?;
        let answer = answer.end().map_err(|fault| explain(&connection.url, fault))?;
        Ok((connection, answer))
    }

    /// Asks for the refs wherever the server says that they are; later requests go there at once.
    async fn follow(
        &mut self,
        reach: impl Fn(&str, &Url) -> Result<reqwest::Client, Error>,
    ) -> Result<Response, Error> {
        for _ in 0..=MOST_REDIRECTS {
            let address = format!("{}/info/refs?service={SERVICE}", self.base.as_str().trim_end_matches('/'));
            let response = self.send(self.client.get(address)).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            self.redirect(&response)?;
            self.client = reach(&self.url, &self.base)?;
        }
        Err(Error::no_repository(&self.url, format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn redirect(&mut self, response: &Response) -> Result<(), Error> {
        let refuse = |cause: &str| Err(Error::no_repository(&self.url, cause));
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(mut to) = location.and_then(|location| response.url().join(location).ok()) else {
            return refuse("it redirects to nowhere");
        };
        if to.scheme() != "https" && (to.scheme() != "http" || self.base.scheme() == "https") {
            return refuse("it redirects to where there is no TLS, which is not followed");
        }
        let host = authority(&to);
        let Some(path) = to.path().strip_suffix("/info/refs").map(str::to_owned) else {
            return refuse(&format!("it redirects to {host}, where there is something else"));
        };
        to.set_path(&path);
        to.set_query(None);
        to.set_fragment(None);
        let _ = to.set_username("");
        let _ = to.set_password(None);
        if to.origin() != self.base.origin() && self.authorization.take().is_some() {
            self.redirected = Some(host);
        }
        self.base = to;
        Ok(())
    }

    /// One question and its answer.
    pub(super) async fn exchange(&self, body: Vec<u8>, answer: &mut Answer) -> Result<(), Error> {
        let address = format!("{}/{SERVICE}", self.base.as_str().trim_end_matches('/'));
        let request =
            self.client.post(address).header("Content-Type", format!("application/x-{SERVICE}-request"));
        let response = self.send(request.body(body)).await?;
        self.read(response, "result", answer).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        let mut request = request.header("Git-Protocol", "version=2");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| Error::no_answer(&self.url, &error))
    }

    async fn read(&self, response: Response, kind: &str, answer: &mut Answer) -> Result<(), Error> {
        self.check_status(response.status())?;
        let content_type = response.headers().get("Content-Type");
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type != format!("application/x-{SERVICE}-{kind}") {
            let cause = format!("the answer is {:?}, not git's smart protocol", repeated(content_type));
            return Err(Error::no_repository(&self.url, cause));
        }
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Error::unavailable(&self.url, leaf(&error)))?;
            if answer.push(&chunk) {
                break;
            }
        }
        Ok(())
    }

    fn check_status(&self, status: StatusCode) -> Result<(), Error> {
        match status.as_u16() {
            401 | 403 => Err(self.denied(status)),
            404 | 410 => {
                let hint = if self.authorization.is_some() {
                    "; or it is private, and the credentials do not open it"
                } else {
                    "; or it is private, which some servers say in no other way"
                };
                Err(Error::no_repository(&self.url, format!("HTTP {status}{hint}")))
            }
            200..=299 => Ok(()),
            300..=399 => {
                Err(Error::no_repository(&self.url, format!("HTTP {status} where a repository was")))
            }
            _ => Err(Error::unavailable(&self.url, format!("HTTP {status}"))),
        }
    }

    fn denied(&self, status: StatusCode) -> Error {
        let remedy = match &self.redirected {
            Some(host) => {
                format!("the server redirects to {host}, where credentials are not sent; use its URL there instead")
            }
            None if self.has_credentials => {
                "the server does not accept the credentials of the Secret for this repository: check username and password, or token, or bearerToken"
                    .to_owned()
            }
            None => "for a private repository name a Secret with username and password, or token, or bearerToken"
                .to_owned(),
        };
        Error::Denied { url: self.url.clone(), cause: format!("HTTP {status}"), remedy }
    }
}

/// `host` or `host:port`, the port where it is not the scheme's own.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
