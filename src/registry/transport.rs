//! The one way to the network: a pool of connections, redirects followed by hand, limits and counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WARNING};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use super::challenge::Challenge;
use super::credentials::Keyring;
use super::error::{Error, Kind, Operation};
use super::host_state::HostState;
use super::http::HttpClients;
use super::memory::{Memory, PATIENCE, SMALL_ANSWER};
use super::retry::Retry;
use super::session::{Observer, Session};
use super::settings::Settings;
use super::single_flight::SingleFlight;
use super::token::TokenCache;
use crate::network::Access;
use crate::telemetry;

/// The largest answer that grants a token or refuses something, in bytes.
pub(crate) const LARGEST_WORDS: u64 = 64 * 1024;
/// The slowest that an answer may come for longer than silence is put up with, in bytes a second.
const SLOWEST: u64 = 1024;
/// How many redirects of one request are followed.
const MOST_REDIRECTS: usize = 5;
/// How many blobs are sent at once, by everyone together: each takes the memory of some network frames.
const MOST_SENDERS: usize = 32;
/// How many hosts are remembered.
const MOST_HOSTS: usize = 1024;

/// Connections, tokens and counts, shared by all sessions. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Shared>, Option<Access>);

struct Shared {
    http: HttpClients,
    read_timeout: Duration,
    upload_timeout: Duration,
    retry: Retry,
    tokens: TokenCache,
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
    background: TaskTracker,
    uploads: SingleFlight,
    memory: Memory,
    turns: Semaphore,
    requests: AtomicU64,
    observer: Arc<dyn Observer>,
}

/// One message to a server, already authorised.
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: Option<Body>,
    /// Told of every piece of a streamed body that is taken; none if the body is sent at once.
    pub(crate) progress: Option<Arc<Notify>>,
    /// Whether a request that has its turn waits for this one.
    pub(crate) awaited: bool,
}

impl Message {
    /// A question that says nothing of who asks.
    pub(crate) fn get(url: Url) -> Self {
        let (method, headers) = (Method::GET, HeaderMap::new());
        Self { method, url, headers, authorization: None, body: None, progress: None, awaited: false }
    }
}

impl Client {
    /// Remembers the settings; nothing is connected, and no certificate is read yet.
    ///
    /// # Errors
    /// If the user agent cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Self::observed(settings, Arc::new(()))
    }

    /// The same, with `observer` told of every request, and of the blobs of sessions that have no observer of their own.
    ///
    /// # Errors
    /// If the user agent cannot be used.
    pub fn observed(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Self, Error> {
        if HeaderValue::from_str(&settings.user_agent).is_err() {
            let operation = Operation::new("registry client", "setting up");
            return Err(operation.error(Kind::Unsupported, "the user agent is no header value"));
        }
        let shared = Shared {
            http: HttpClients::new(settings),
            read_timeout: settings.read_timeout,
            upload_timeout: settings.upload_timeout,
            retry: settings.retry.clone(),
            tokens: TokenCache::default(),
            hosts: Mutex::default(),
            background: TaskTracker::new(),
            uploads: SingleFlight::default(),
            memory: Memory::default(),
            turns: Semaphore::new(MOST_SENDERS),
            requests: AtomicU64::default(),
            observer,
        };
        Ok(Self(Arc::new(shared), None))
    }

    /// The same client, which speaks to no host but those that `access` lets it, wherever servers lead it.
    pub fn limited_to(&self, access: Access) -> Self {
        Self(Arc::clone(&self.0), Some(access))
    }

    /// Requests on behalf of whoever holds `keyring`. Tokens are shared only with holders of the same credentials.
    pub fn session(&self, keyring: Arc<Keyring>) -> Session {
        Session::new(self.clone(), keyring)
    }

    /// How many requests have been sent so far, those for tokens, of redirects and of retries included.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.0.observer
    }

    pub(crate) fn retry(&self) -> &Retry {
        &self.0.retry
    }

    pub(crate) fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }

    pub(crate) fn uploads(&self) -> &SingleFlight {
        &self.0.uploads
    }

    /// Whether `host` is spoken to without TLS.
    pub(crate) fn is_plain_http(&self, host: &str) -> bool {
        self.0.http.is_plain_http(host)
    }

    pub(crate) fn http(&self) -> &HttpClients {
        &self.0.http
    }

    /// Waits until few enough blobs are being sent, to this host and altogether. First come, first served; a host that
    /// is slow holds up only what goes there, until many are.
    pub(crate) async fn turn_to_send<'a>(&'a self, host: &'a HostState) -> [Option<SemaphorePermit<'a>>; 2] {
        let there = host.senders().acquire().await.ok();
        [there, self.0.turns.acquire().await.ok()]
    }

    /// What is known of `host`.
    pub(crate) fn host(&self, host: &str) -> Arc<HostState> {
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MOST_HOSTS && !hosts.contains_key(host) {
            // What is in use stays; the rest can be learnt again.
            hosts.retain(|_, state| Arc::strong_count(state) > 1);
        }
        let unknown = || Arc::new(HostState::allowing(self.max_concurrent(host)));
        Arc::clone(hosts.entry(host.to_owned()).or_insert_with(unknown))
    }

    /// Does what nobody waits for.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.0.background.spawn_on(work, &runtime);
        }
    }

    /// Until uploads that were abandoned are cancelled, or `limit` has passed. For the end of the process.
    pub async fn settle(&self, limit: Duration) {
        self.0.background.close();
        let _ = tokio::time::timeout(limit, self.0.background.wait()).await;
    }

    /// Sends a message. `GET` and `HEAD` follow redirects, to another origin without authorisation.
    pub(crate) async fn send(&self, operation: &Operation, message: Message) -> Result<Response, Error> {
        let Message { method, mut url, headers, mut authorization, mut body, progress, awaited } = message;
        let is_stream = progress.is_some();
        let limit = if is_stream { self.0.upload_timeout } else { self.0.read_timeout };
        let progress = progress.unwrap_or_default();
        let registry = url.origin();
        for _ in 0..=MOST_REDIRECTS {
            let http = self.0.http.for_url(operation, &url, self.1.as_ref())?;
            let is_asked = url.origin() == registry;
            let path = url.path().to_owned();
            let path = Some(path).filter(|path| is_asked && is_of_the_api(path));
            let span = span(&method, &url, path.as_deref());
            let mut headers = headers.clone();
            if is_asked {
                telemetry::propagate(&span, &mut headers);
            }
            let mut request = http.request(method.clone(), url.clone()).headers(headers);
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            if let Some(body) = body.take() {
                request = request.body(body);
            }
            let host = self.host(&authority(&url));
            // What an upload needs before it ends, the rest of its source, must not wait for the end of the upload.
            let turn = match awaited {
                true => host.limit().pass(),
                false => host.limit().enter().await,
            };
            self.0.requests.fetch_add(1, Ordering::Relaxed);
            let sent = Instant::now();
            let answer = moving(limit, &progress, request.send()).instrument(span.clone()).await;
            let status = answer.as_ref().and_then(|answer| answer.as_ref().ok()).map(Response::status);
            self.0.observer.answered(&method, status, sent.elapsed());
            match status.map(|status| status.as_u16()) {
                Some(code) => _ = span.record("http.response.status_code", i64::from(code)),
                None => telemetry::fail(&span, "no answer"),
            }
            let response = answered(operation, &url, answer)?;
            turn.answered(response.status() == StatusCode::TOO_MANY_REQUESTS);
            let path = path.as_deref().unwrap_or("/…");
            tracing::debug!("{method} {}{path}: {}", authority(&url), response.status().as_u16());
            show_warnings(operation, response.headers());
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            if !matches!(method, Method::GET | Method::HEAD) {
                return Err(operation.error(Kind::Unsupported, "the registry redirects what is sent to it"));
            }
            let target = self.redirect(operation, &url, response.headers())?;
            if target.origin() != url.origin() {
                authorization = None;
            }
            url = target;
        }
        Err(operation.error(Kind::Malformed, format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn redirect(&self, operation: &Operation, from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let target = location.and_then(|location| from.join(location).ok());
        let target =
            target.ok_or_else(|| operation.error(Kind::Malformed, "a redirect without a usable Location"))?;
        self.check_scheme(operation, from, &target)?;
        Ok(target)
    }

    /// Nobody leads us from TLS to plain HTTP, nor to plain HTTP that the settings do not name.
    pub(crate) fn check_scheme(&self, operation: &Operation, from: &Url, target: &Url) -> Result<(), Error> {
        let plain =
            target.scheme() == "http" && from.scheme() == "http" && self.is_plain_http(&authority(target));
        if target.scheme() == "https" || plain {
            return Ok(());
        }
        let cause = format!("{} leads to {}, which is not https", authority(from), authority(target));
        Err(operation.error(Kind::Unsupported, cause))
    }

    /// The next piece of a body, whose pieces all share one `pace`.
    pub(crate) async fn chunk(
        &self,
        operation: &Operation,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, Error> {
        let url = response.url().clone();
        let asked = Instant::now();
        let chunk = tokio::time::timeout(self.0.read_timeout.saturating_sub(pace.behind), response.chunk());
        let chunk = answered(operation, &url, chunk.await.ok())?;
        pace.received(chunk.as_ref().map_or(0, Bytes::len), asked.elapsed());
        Ok(chunk)
    }

    /// The whole body, if it is not longer than `limit` bytes.
    pub(crate) async fn read(
        &self,
        operation: &Operation,
        mut response: Response,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let too_large =
            || operation.error(Kind::TooLarge, format!("the answer is larger than {limit} bytes"));
        let length = response.content_length();
        if length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        let mut pace = Pace::default();
        while let Some(chunk) = self.chunk(operation, &mut response, &mut pace).await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(too_large());
            }
            if body.len() as u64 > SMALL_ANSWER {
                return self.read_large(operation, response, (body, length.unwrap_or(limit), limit)).await;
            }
        }
        Ok(body.freeze())
    }

    /// The rest of a body that is too large to be read whenever somebody wants it, with as many bytes as are expected
    /// and the most that there may be.
    async fn read_large(
        &self,
        operation: &Operation,
        mut response: Response,
        (mut body, expected, limit): (BytesMut, u64, u64),
    ) -> Result<Bytes, Error> {
        let host = authority(response.url());
        let late = |_| operation.silence(&host);
        let room = self.0.memory.room(expected);
        let _room = tokio::time::timeout(PATIENCE, room).await.map_err(late)?;
        // What grows by itself takes twice the memory.
        body.reserve(usize::try_from(expected).unwrap_or_default().saturating_sub(body.len()));
        let rest = async {
            let mut pace = Pace::default();
            while let Some(chunk) = self.chunk(operation, &mut response, &mut pace).await? {
                if (body.len() + chunk.len()) as u64 > limit {
                    let cause = format!("the answer is larger than {limit} bytes");
                    return Err(operation.error(Kind::TooLarge, cause));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        tokio::time::timeout(PATIENCE, rest).await.map_err(late)?
    }

    /// The same bytes of a manifest, for who keeps them while he waits for something else: of large ones there are
    /// never more than there is room for.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if there is none now.
    pub(crate) fn keep(&self, operation: &Operation, bytes: &Bytes) -> Result<Bytes, Error> {
        self.0.memory.keep(operation, bytes)
    }

    /// The answer if it is a success, else what the registry has to say about it.
    pub(crate) async fn success(&self, operation: &Operation, response: Response) -> Result<Response, Error> {
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(operation, response).await)
        }
    }

    /// The error of an answer that is no success.
    pub(crate) async fn refusal(&self, operation: &Operation, response: Response) -> Error {
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let lacks_scope = Challenge::is_insufficient_scope(response.headers());
        // What cannot be read of an error answer is not worth another error.
        let body = self.read(operation, response, LARGEST_WORDS).await.unwrap_or_default();
        match status {
            // A good token that may not do this; 403 by another name.
            StatusCode::UNAUTHORIZED if lacks_scope => {
                operation.refused(StatusCode::FORBIDDEN, retry_after, &body)
            }
            _ => operation.refused(status, retry_after, &body),
        }
    }
}

/// Whether a path is one of the distribution spec's, so that it names things and is no secret. Others, which registries
/// lead to for blobs, may have a token in the path itself; queries may be signed wherever they are.
fn is_of_the_api(path: &str) -> bool {
    path.starts_with("/v2/")
}

/// A request in a trace, named as OpenTelemetry's conventions for HTTP have it.
fn span(method: &Method, url: &Url, path: Option<&str>) -> Span {
    tracing::debug_span!(
        "request",
        otel.kind = "client",
        http.request.method = %method,
        server.address = authority(url),
        url.path = path,
        http.response.status_code = tracing::field::Empty,
    )
}

/// How far a body lies behind the slowest pace that is put up with. A server that sends a byte now and then is never
/// silent, and would hold us for ever.
#[derive(Default)]
pub(crate) struct Pace {
    behind: Duration,
}

impl Pace {
    fn received(&mut self, bytes: usize, waited: Duration) {
        let worth = Duration::from_micros(bytes as u64 * 1_000_000 / SLOWEST);
        self.behind = (self.behind + waited).saturating_sub(worth);
    }
}

/// Waits for `work`, or until `limit` has passed since it began or last made progress.
async fn moving<T>(limit: Duration, progress: &Notify, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            () = progress.notified() => {}
            () = tokio::time::sleep(limit) => return None,
        }
    }
}

fn answered<T>(operation: &Operation, url: &Url, answer: Option<reqwest::Result<T>>) -> Result<T, Error> {
    match answer {
        Some(answer) => answer.map_err(|error| operation.no_answer(&authority(url), &error)),
        None => Err(operation.silence(&authority(url))),
    }
}

/// `host[:port]` of an address, the port only if it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    }
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = jiff::fmt::rfc2822::parse(value).ok()?;
    Some(SystemTime::from(time.timestamp()).duration_since(now).unwrap_or_default())
}

/// Distribution spec, "Warnings": what the registry's people want its users to read.
fn show_warnings(operation: &Operation, headers: &HeaderMap) {
    for warning in headers.get_all(WARNING).iter().filter_map(|value| value.to_str().ok()) {
        if let Some(text) = warning.strip_prefix("299 ") {
            tracing::warn!(
                place = operation.place(),
                warning = super::error::readable(text),
                "registry warns"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&headers, now).map(|pause| pause.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn only_paths_of_the_distribution_api_are_told() {
        for path in ["/v2/", "/v2/team/web/manifests/1.0", "/v2/team/web/blobs/uploads/"] {
            assert!(is_of_the_api(path), "{path}");
        }
        for path in ["/", "/token", "/artifacts-downloads/namespaces/a/downloads/hunter2", "/v2"] {
            assert!(!is_of_the_api(path), "{path}");
        }
    }

    #[tokio::test]
    async fn what_stands_still_is_given_up_and_what_moves_is_not() {
        let progress = Notify::new();
        assert_eq!(moving(Duration::ZERO, &progress, std::future::pending::<()>()).await, None);
        let mut pieces = 3;
        let work = std::future::poll_fn(|_| match pieces {
            0 => std::task::Poll::Ready("done"),
            _ => {
                pieces -= 1;
                progress.notify_one();
                std::task::Poll::Pending
            }
        });
        assert_eq!(moving(Duration::ZERO, &progress, work).await, Some("done"));
    }

    #[test]
    fn nobody_leads_us_away_from_tls() {
        let settings = Settings { plain_http: vec!["registry.local:5000".to_owned()], ..Settings::default() };
        let client = Client::new(&settings).unwrap();
        let operation = Operation::new("a.io/web", "testing");
        let leads = |from: &str, to: &str| {
            client.check_scheme(&operation, &from.parse().unwrap(), &to.parse().unwrap()).is_ok()
        };
        assert!(leads("https://a.io/", "https://b.io/"));
        assert!(leads("http://127.0.0.1:5000/", "http://registry.local:5000/"));
        assert!(!leads("https://a.io/", "http://registry.local:5000/"));
        assert!(!leads("https://a.io/", "http://127.0.0.1/"));
        assert!(!leads("http://registry.local:5000/", "http://b.io/"));
        assert!(!leads("https://a.io/", "file:///etc/passwd"));
    }
}
