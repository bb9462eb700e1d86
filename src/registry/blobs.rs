//! Blobs: looked for, read, mounted from a neighbour or streamed from one repository to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::blob_reader::{BlobStore, ByteStream};

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::manifests::verified;
use super::reference::Repository;
use super::scope::Scopes;
use super::session::{Content, Request, Session};
use super::transport::Pace;
use super::upload::{Upload, header};

/// The largest blob that is sent without waiting for a turn, in bytes.
const SMALL: u64 = 256 * 1024;

/// How a blob came to be in its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It was there already.
    Present,
    /// The registry took it from another repository of its own, if it had not been there already.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// What a mount led to.
pub(super) enum Mount {
    Done,
    /// The blob has to come another way.
    Refused,
    /// The registry would rather have the bytes, and has opened an upload for them.
    Upload(Box<Upload>),
}

/// The blobs of a repository as its registry serves them.
#[derive(Clone)]
pub struct RepositoryBlobs {
    session: Session,
    repository: Repository,
    /// Whether some mirror has given bytes that were no use, so that the registry itself is asked from then on.
    doubted: Arc<AtomicBool>,
    /// Of the source of an upload: whether it was opened before, so that the upload may have its turn by now.
    opened: Option<Arc<AtomicBool>>,
}

impl BlobStore for RepositoryBlobs {
    fn place(&self, blob: &Descriptor) -> String {
        blob_name(&self.repository, &blob.digest)
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> BoxFuture<'static, Result<ByteStream, Error>> {
        let (mut this, digest) = (self.clone(), blob.digest.clone());
        if this.opened.as_ref().is_some_and(|opened| opened.swap(true, Ordering::Relaxed)) {
            this.session = this.session.awaited();
        }
        async move {
            let read = |session: Session, repository| {
                let digest = &digest;
                async move { session.stream_blob(&repository, digest, offset).await }
            };
            match this.doubted.load(Ordering::Relaxed) {
                true => read(this.session.clone(), this.repository.clone()).await,
                false => this.session.reading(&this.repository, read).await,
            }
        }
        .boxed()
    }

    fn doubt(&self) -> bool {
        let mirrored = !self.session.mirrors_of(&self.repository).is_empty();
        mirrored && !self.doubted.swap(true, Ordering::Relaxed)
    }
}

impl Session {
    /// The bytes of a blob from `offset` on, not verified.
    async fn stream_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        offset: u64,
    ) -> Result<ByteStream, Error> {
        let session = self;
        let mut request = session.blob_request(repository, digest, Method::GET, "fetching the blob")?;
        if offset > 0 {
            request.headers.insert(RANGE, header(&format!("bytes={offset}-")));
        }
        let response = session.send(&request).await?;
        if offset > 0 && !begins_at(&response, offset) {
            return Err(request.operation.error(Kind::Unsupported, "the registry serves no parts of blobs"));
        }
        let (client, operation) = (session.client().clone(), request.operation);
        let chunks = stream::try_unfold((response, Pace::default()), move |(mut response, mut pace)| {
            let (client, operation) = (client.clone(), operation.clone());
            async move {
                let chunk = client.chunk(&operation, &mut response, &mut pace).await?;
                Ok(chunk.map(|chunk| (chunk, (response, pace))))
            }
        });
        Ok(chunks.boxed())
    }
}

/// RFC 9110, section 14.4: whether this is the part that was asked for.
fn begins_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

impl Session {
    /// Whether the repository has the blob. `403` counts as no: some registries answer so to what is not there.
    ///
    /// # Errors
    /// If the registry gives no usable answer.
    pub async fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let request = self.blob_request(repository, digest, Method::HEAD, "looking for the blob")?;
        match self.send(&request).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The blobs of a repository, to be read.
    pub fn blobs_of(&self, repository: &Repository) -> RepositoryBlobs {
        let (session, repository) = (self.clone(), repository.clone());
        RepositoryBlobs { session, repository, doubted: Arc::default(), opened: None }
    }

    /// The same for one of them that is uploaded elsewhere.
    pub(super) fn source_of_upload(&self, repository: &Repository) -> RepositoryBlobs {
        RepositoryBlobs { opened: Some(Arc::default()), ..self.blobs_of(repository) }
    }

    /// The verified bytes of a blob that is not larger than `limit` bytes.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] before anything is fetched, [`Kind::DigestMismatch`] if size or digest are not as described.
    pub async fn get_blob_bytes(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, Error> {
        if descriptor.size > limit {
            let operation = Operation::new(blob_name(repository, &descriptor.digest), "fetching the blob");
            let cause = format!("the blob of {} bytes is larger than {limit}", descriptor.size);
            return Err(operation.error(Kind::TooLarge, cause));
        }
        let read = |session: Session, repository| async move {
            session.get_blob_bytes_at(&repository, descriptor, limit).await
        };
        self.reading(repository, read).await
    }

    async fn get_blob_bytes_at(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let request = self.blob_request(repository, &descriptor.digest, Method::GET, "fetching the blob")?;
        let (_, bytes) = self.fetch(&request, limit).await?;
        if bytes.len() as u64 != descriptor.size {
            let cause = format!("the content has {} bytes, not {}", bytes.len(), descriptor.size);
            return Err(request.operation.error(Kind::DigestMismatch, cause));
        }
        verified(&request.operation, &descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// Brings a blob from one repository to another by the cheapest way that works.
    ///
    /// Within a registry a mount is tried before anything else: it costs one request whether the blob is there
    /// already or not. Whatever answer but success leads to the next rung: is it there, then its bytes.
    ///
    /// # Errors
    /// If the source cannot be read, or the target cannot be written.
    pub async fn copy_blob(
        &self,
        source: &Repository,
        target: &Repository,
        blob: &Descriptor,
    ) -> Result<Delivery, Error> {
        let opened = match self.mount_blob(source, target, blob).await {
            Mount::Done => return Ok(Delivery::Mounted),
            Mount::Upload(upload) => Some(upload),
            Mount::Refused => None,
        };
        self.deliver(target, blob, Arc::new(self.source_of_upload(source)), opened).await
    }

    /// Brings a blob into a repository, from `store` if it is not there yet.
    ///
    /// # Errors
    /// If the store cannot be read, or the target cannot be written.
    pub async fn push_blob(
        &self,
        target: &Repository,
        blob: &Descriptor,
        store: Arc<dyn BlobStore>,
    ) -> Result<Delivery, Error> {
        self.deliver(target, blob, store, None).await
    }

    /// Sends a blob unless it is there. Nobody else uploads it to the same repository meanwhile.
    pub(super) async fn deliver(
        &self,
        target: &Repository,
        blob: &Descriptor,
        store: Arc<dyn BlobStore>,
        opened: Option<Box<Upload>>,
    ) -> Result<Delivery, Error> {
        let _guard = self.client().uploads().enter(target, &blob.digest).await;
        if self.has_blob(target, &blob.digest).await? {
            return Ok(self.delivered(target, blob, Delivery::Present));
        }
        let host = self.client().host(target.host());
        // What is small takes little memory, and more time on the way than in sending.
        let _turn = match blob.size > SMALL {
            true => Some(self.client().turn_to_send(&host).await),
            false => None,
        };
        self.observer().begun(target, blob);
        self.upload(target, blob, store, opened).await?;
        Ok(self.delivered(target, blob, Delivery::Uploaded))
    }

    fn delivered(&self, target: &Repository, blob: &Descriptor, delivery: Delivery) -> Delivery {
        self.observer().delivered(target, blob, delivery);
        delivery
    }

    /// Has the registry take the blob from another of its own repositories. Whatever goes wrong is no error, as the
    /// other ways are open.
    pub(super) async fn mount_blob(
        &self,
        source: &Repository,
        target: &Repository,
        blob: &Descriptor,
    ) -> Mount {
        let host = self.client().host(target.host());
        if source.registry() != target.registry() || host.has_no_mounts() {
            return Mount::Refused;
        }
        match self.mount(source, target, &blob.digest).await {
            Ok(mount) => {
                if matches!(mount, Mount::Done) {
                    self.delivered(target, blob, Delivery::Mounted);
                }
                mount
            }
            Err(error) => {
                tracing::debug!(%error, "mount refused, trying otherwise");
                if error.kind() == Kind::Unsupported {
                    host.remember_no_mounts();
                }
                Mount::Refused
            }
        }
    }

    /// Distribution spec, "Mounting a blob from another repository". Tried once.
    async fn mount(&self, source: &Repository, target: &Repository, digest: &Digest) -> Result<Mount, Error> {
        let operation = Operation::new(blob_name(target, digest), "mounting the blob");
        let mut url = self.url(&operation, target, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", source.path());
        let scopes = Scopes::mount(target, source);
        let request = write_request(operation, target, Method::POST, url, Content::Empty, scopes);
        let response = self.attempt(&request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mount::Done),
            _ => Ok(Mount::Upload(Box::new(Upload::opened(self, target, digest, &response)?))),
        }
    }

    fn blob_request<'a>(
        &self,
        repository: &'a Repository,
        digest: &Digest,
        method: Method,
        name: &'static str,
    ) -> Result<Request<'a>, Error> {
        let operation = Operation::new(blob_name(repository, digest), name);
        let url = self.url(&operation, repository, &format!("blobs/{digest}"))?;
        Ok(Request {
            operation,
            repository,
            method,
            url,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]),
            content: Content::Empty,
            scopes: Scopes::pull(repository),
        })
    }
}

pub(super) fn write_request(
    operation: Operation,
    repository: &Repository,
    method: Method,
    url: Url,
    content: Content,
    scopes: Scopes,
) -> Request<'_> {
    Request { operation, repository, method, url, headers: HeaderMap::new(), content, scopes }
}

pub(super) fn blob_name(repository: &Repository, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}
