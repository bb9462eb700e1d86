//! Requests on behalf of one keyring: authorised, tried again, their failures explained.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::Notify;

use super::authorization::Authorization;
use super::blobs::Delivery;
use super::challenge::Challenge;
use super::credentials::{Credential, Keyring};
use super::descriptor::Descriptor;
use super::error::{Error, Kind, Operation};
use super::reference::Repository;
use super::retry::Retry;
use super::scope::Scopes;
use super::transport::{Client, Message};

/// For how many repositories that may be mounted from a token is asked for at once; servers limit what they read.
const MOST_FORESEEN: usize = 8;

/// Speaks to registries with the credentials of one keyring. Make a new one when a Secret has changed.
/// Cheap to clone.
#[derive(Clone)]
pub struct Session {
    client: Client,
    keyring: Arc<Keyring>,
    /// Which of several matching credentials was good for what.
    good: Arc<Mutex<HashMap<(Repository, Scopes), usize>>>,
    retry: Retry,
    /// Whether mirrors are asked for what is read.
    mirrored: bool,
    /// Whether a request that has its turn at a registry waits for those of this session.
    awaited: bool,
    /// What else the tokens of some repositories are asked for, so that one serves all that is to come.
    pub(super) foreseen: Arc<HashMap<Repository, Scopes>>,
    /// Where that was refused.
    pub(super) narrow: Arc<Mutex<HashSet<Repository>>>,
    observer: Arc<dyn Observer>,
}

/// Sees what happens at registries: the bytes of blobs on their way, as progress bars do, and requests, as metrics do.
pub trait Observer: Send + Sync {
    /// `blob` is being sent to `target`.
    fn begun(&self, target: &Repository, blob: &Descriptor) {
        let _ = (target, blob);
    }

    /// `bytes` more of it have been handed over. What is sent again counts again.
    fn moved(&self, blob: &Descriptor, bytes: u64) {
        let _ = (blob, bytes);
    }

    /// It is there now; `delivery` is how it came.
    fn delivered(&self, target: &Repository, blob: &Descriptor, delivery: Delivery) {
        let _ = (target, blob, delivery);
    }

    /// A request was sent: `status` is that of its answer, if there was one, and `took` the time until its head came.
    /// Only the observer of a whole client is told.
    fn answered(&self, method: &Method, status: Option<StatusCode>, took: Duration) {
        let _ = (method, status, took);
    }

    /// A token server was asked for a token. Only the observer of a whole client is told.
    fn token_asked_for(&self, granted: bool) {
        let _ = granted;
    }
}

/// Nobody looks.
impl Observer for () {}

/// What is asked of a registry.
pub(crate) struct Request<'a> {
    pub(crate) operation: Operation,
    pub(crate) repository: &'a Repository,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    pub(crate) scopes: Scopes,
}

/// What is sent with a request.
pub(crate) enum Content {
    Empty,
    Bytes(Bytes),
    /// Can be sent once; whoever made the stream starts over.
    Stream {
        body: Mutex<Option<Body>>,
        /// Told of every piece that is taken.
        progress: Arc<Notify>,
    },
}

impl Content {
    fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Stream { .. })
    }

    fn take(&self) -> Option<Body> {
        match self {
            Self::Empty => None,
            Self::Bytes(bytes) => Some(bytes.clone().into()),
            Self::Stream { body, .. } => body.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }

    fn progress(&self) -> Option<Arc<Notify>> {
        match self {
            Self::Stream { progress, .. } => Some(progress.clone()),
            _ => None,
        }
    }
}

impl Session {
    pub(crate) fn new(client: Client, keyring: Arc<Keyring>) -> Self {
        let retry = client.retry().clone();
        let observer = client.observer().clone();
        let (good, foreseen, narrow) = Default::default();
        Self { client, keyring, good, retry, mirrored: true, awaited: false, foreseen, narrow, observer }
    }

    /// The same session, for who has to know what the registry itself has.
    pub fn without_mirrors(&self) -> Self {
        Self { mirrored: false, ..self.clone() }
    }

    /// Whether mirrors may be asked for what `repository` has: not where this session writes.
    pub(crate) fn may_use_mirrors(&self, repository: &Repository) -> bool {
        self.mirrored && !self.writes_to(repository)
    }

    /// The same session for what an upload needs while it has its turn: waiting for another could take for ever.
    pub(super) fn awaited(&self) -> Self {
        Self { awaited: true, ..self.clone() }
    }

    /// Whether an upload waits for what is asked.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// The same session for what may fail.
    pub(crate) fn without_retries(&self) -> Self {
        Self { retry: Retry { attempts: 1, ..self.retry.clone() }, ..self.clone() }
    }

    /// The same session, with `observer` told of every blob that it moves.
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The same session, about to write to `targets` what it reads from `sources`: what they have is not asked of
    /// mirrors, and the first token of a target allows pushing and mounting as well, so that none has to be asked for
    /// half-way.
    pub fn writing_to<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a Repository>,
        sources: impl IntoIterator<Item = &'a Repository>,
    ) -> Self {
        let sources: BTreeSet<&Repository> = sources.into_iter().collect();
        let mut foreseen = HashMap::clone(&self.foreseen);
        for target in targets {
            let mountable =
                |source: &&&Repository| source.registry() == target.registry() && **source != target;
            let mounts = sources.iter().filter(mountable).take(MOST_FORESEEN);
            let scopes = foreseen.remove(target).unwrap_or_else(|| Scopes::push(target));
            let scopes = mounts.fold(scopes, |scopes, source| scopes.and_all(&Scopes::pull(source)));
            foreseen.insert(target.clone(), scopes);
        }
        Self { foreseen: Arc::new(foreseen), ..self.clone() }
    }

    /// Whether this session is about to write to the repository.
    pub(crate) fn writes_to(&self, repository: &Repository) -> bool {
        self.foreseen.contains_key(repository)
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The address of `rest` under the repository in the registry's API.
    pub(crate) fn url(
        &self,
        operation: &Operation,
        repository: &Repository,
        rest: &str,
    ) -> Result<Url, Error> {
        let scheme = if self.client.is_plain_http(repository.host()) { "http" } else { "https" };
        let address = format!("{scheme}://{}/v2/{}/{rest}", repository.host(), repository.path());
        address.parse().map_err(|_| operation.error(Kind::Malformed, "this is no address of a registry"))
    }

    /// Sends until there is a success or a lasting failure.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        self.retry.run(|| self.attempt(request)).await
    }

    /// As [`send`](Self::send), and reads the body of at most `limit` bytes; one that breaks off is asked for again.
    pub(crate) async fn fetch(&self, request: &Request<'_>, limit: u64) -> Result<(HeaderMap, Bytes), Error> {
        let attempt = || async {
            let response = self.attempt(request).await?;
            let headers = response.headers().clone();
            Ok((headers, self.client.read(&request.operation, response, limit).await?))
        };
        self.retry.run(attempt).await
    }

    /// Sends once with each matching credential until one is good. Never anonymously when there are any.
    pub(crate) async fn attempt(&self, request: &Request<'_>) -> Result<Response, Error> {
        let credentials = self.keyring.for_repository(request.repository);
        if credentials.is_empty() {
            return self.attempt_as(request, None).await;
        }
        let key = (request.repository.clone(), request.scopes.clone());
        let first = self.good.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied().unwrap_or(0);
        let mut order: Vec<usize> = (0..credentials.len()).collect();
        order.sort_by_key(|&index| index != first);
        let mut refused = None;
        for index in order {
            match self.attempt_as(request, credentials.get(index)).await {
                Err(error)
                    if matches!(error.kind(), Kind::Unauthorized | Kind::Denied)
                        && request.content.is_repeatable() =>
                {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
                Ok(response) => {
                    self.good.lock().unwrap_or_else(PoisonError::into_inner).insert(key, index);
                    return Ok(response);
                }
            }
        }
        Err(refused.unwrap_or_else(|| request.operation.error(Kind::Unauthorized, "authentication failed")))
    }

    /// Sends once, and once more with a new token if the registry asks for one.
    async fn attempt_as(
        &self,
        request: &Request<'_>,
        credential: Option<&Credential>,
    ) -> Result<Response, Error> {
        let host = request.repository.host();
        // An upload may be led to another host, which is told nothing.
        let registry = self.url(&request.operation, request.repository, "")?.origin();
        let authorization = match self.client.host(host).challenge() {
            Some(challenge) if request.url.origin() == registry => {
                self.authorize_again(request, credential, &challenge).await?
            }
            _ => None,
        };
        let response = self.send_as(request, authorization.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != registry {
            let result = self.client.success(&request.operation, response).await;
            return match (result, authorization.and_then(|authorization| authorization.token)) {
                // Public ECR answers 400 to a token that has ended.
                (Err(error), Some((key, token))) if error.is_about_an_ended_token() => {
                    self.client.tokens().forget(&key, &token).await;
                    self.renew(request, credential, error).await
                }
                (result, _) => result,
            };
        }
        if let Some((key, token)) =
            authorization.as_ref().and_then(|authorization| authorization.token.as_ref())
        {
            self.client.tokens().forget(key, token).await;
        }
        let Some(challenge) = Challenge::from_headers(response.headers()) else {
            return self.client.success(&request.operation, response).await;
        };
        self.client.host(host).remember(&challenge);
        if !request.content.is_repeatable() {
            // The next attempt, with a stream of its own, gets a new token.
            return Err(self.client.refusal(&request.operation, response).await.worth_retrying());
        }
        // A password that was refused will be refused again; a token may only have ended.
        if authorization.is_some_and(|authorization| authorization.token.is_none()) {
            return self.client.success(&request.operation, response).await;
        }
        let Some(renewed) = self.authorize(request, credential, &challenge).await? else {
            return Err(no_credential(request));
        };
        let response = self.send_as(request, Some(&renewed)).await?;
        if credential.is_none() && response.status() == StatusCode::UNAUTHORIZED {
            return Err(no_credential(request));
        }
        self.client.success(&request.operation, response).await
    }

    /// Sends once more with a new token, after `error` told that the token has ended.
    async fn renew(
        &self,
        request: &Request<'_>,
        credential: Option<&Credential>,
        error: Error,
    ) -> Result<Response, Error> {
        if !request.content.is_repeatable() {
            return Err(error.worth_retrying());
        }
        let Some(challenge) = self.client.host(request.repository.host()).challenge() else {
            return Err(error);
        };
        let renewed = self.authorize(request, credential, &challenge).await?;
        let response = self.send_as(request, renewed.as_ref()).await?;
        self.client.success(&request.operation, response).await
    }

    async fn send_as(
        &self,
        request: &Request<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let message = Message {
            method: request.method.clone(),
            url: request.url.clone(),
            headers: request.headers.clone(),
            authorization: authorization.map(|authorization| authorization.header.clone()),
            body: request.content.take(),
            progress: request.content.progress(),
            awaited: self.awaited,
        };
        self.client.send(&request.operation, message).await
    }
}

fn no_credential(request: &Request<'_>) -> Error {
    let cause = format!("authentication required, and no credential matches {}", request.repository);
    request.operation.error(Kind::Unauthorized, cause)
}
