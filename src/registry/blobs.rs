//! Blobs: looked for, read, mounted from a neighbour or streamed from one repository to another.

use std::sync::Mutex;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::manifests::verified;
use super::reference::Repository;
use super::scope::Scopes;
use super::session::{Content, Request, Session};
use super::transport::authority;
use super::verify::Verifier;

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
enum Mount {
    Done,
    /// The registry would rather have the bytes, and has opened an upload for them.
    Upload(Url),
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
        let request = self.blob_request(repository, &descriptor.digest, Method::GET, "fetching the blob")?;
        if descriptor.size > limit {
            let cause = format!("the blob of {} bytes is larger than {limit}", descriptor.size);
            return Err(request.operation.error(Kind::TooLarge, cause));
        }
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
    /// Nobody else uploads the same blob to the same repository meanwhile.
    ///
    /// # Errors
    /// If the source cannot be read, or the target cannot be written.
    pub async fn copy_blob(
        &self,
        source: &Repository,
        target: &Repository,
        blob: &Descriptor,
    ) -> Result<Delivery, Error> {
        let _guard = self.client().uploads().enter(target, &blob.digest).await;
        let mut opened = None;
        if source.registry() == target.registry() {
            match self.mount(source, target, &blob.digest).await {
                Ok(Mount::Done) => return Ok(Delivery::Mounted),
                Ok(Mount::Upload(location)) => opened = Some(location),
                Err(error) => tracing::debug!(%error, "mount refused, trying otherwise"),
            }
        }
        if self.has_blob(target, &blob.digest).await? {
            self.cancel(target, opened).await;
            return Ok(Delivery::Present);
        }
        let opened = Mutex::new(opened);
        let upload = || async {
            // The upload that a refused mount has opened serves the first attempt.
            let location = opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            self.upload(source, target, blob, location).await
        };
        self.client().retry().run(upload).await?;
        Ok(Delivery::Uploaded)
    }

    /// Distribution spec, "Mounting a blob from another repository". Tried once: the other ways are open.
    async fn mount(&self, source: &Repository, target: &Repository, digest: &Digest) -> Result<Mount, Error> {
        let operation = Operation::new(blob_name(target, digest), "mounting the blob");
        let mut url = self.url(&operation, target, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", source.path());
        let scopes = Scopes::mount(target, source);
        let request = write_request(operation, target, Method::POST, url, Content::Empty, scopes);
        let response = self.attempt(&request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mount::Done),
            _ => Ok(Mount::Upload(self.location(&request.operation, &response)?)),
        }
    }

    /// Sends the blob from source to target as its bytes arrive, in one `PUT`. Sends once.
    async fn upload(
        &self,
        source: &Repository,
        target: &Repository,
        blob: &Descriptor,
        opened: Option<Url>,
    ) -> Result<(), Error> {
        let get = self.blob_request(source, &blob.digest, Method::GET, "fetching the blob")?;
        let content = match self.attempt(&get).await {
            Ok(content) => content,
            Err(error) => {
                self.cancel(target, opened).await;
                return Err(error);
            }
        };
        let location = match opened {
            Some(location) => location,
            None => self.open_upload(target, &blob.digest).await?,
        };
        let verifier = Verifier::new(self.client(), &get.operation, content, blob);
        let verdict = verifier.verdict();
        let progress = verifier.progress();
        let body = Mutex::new(Some(Body::wrap_stream(verifier.into_stream())));
        let result = self.put_blob(target, blob, &location, Content::Stream { body, progress }).await;
        match verdict.take().map_or(result, Err) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.cancel(target, Some(location)).await;
                Err(error)
            }
        }
    }

    async fn open_upload(&self, target: &Repository, digest: &Digest) -> Result<Url, Error> {
        let operation = Operation::new(blob_name(target, digest), "starting the upload of the blob");
        let url = self.url(&operation, target, "blobs/uploads/")?;
        let scopes = Scopes::push(target);
        let request = write_request(operation, target, Method::POST, url, Content::Empty, scopes);
        let response = self.attempt(&request).await?;
        self.location(&request.operation, &response)
    }

    async fn put_blob(
        &self,
        target: &Repository,
        blob: &Descriptor,
        location: &Url,
        content: Content,
    ) -> Result<(), Error> {
        let operation = Operation::new(blob_name(target, &blob.digest), "uploading the blob");
        let mut url = location.clone();
        // Appended, as what is in the query already is the registry's own and may be signed.
        url.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        let scopes = Scopes::push(target);
        let mut request = write_request(operation, target, Method::PUT, url, content, scopes);
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.attempt(&request).await.map(drop)
    }

    /// Gives an upload up, so that the registry need not keep it. That it fails is no further harm.
    async fn cancel(&self, target: &Repository, location: Option<Url>) {
        let Some(url) = location else { return };
        let operation = Operation::new(target, "cancelling an upload");
        let scopes = Scopes::push(target);
        let request = write_request(operation, target, Method::DELETE, url, Content::Empty, scopes);
        if let Err(error) = self.attempt(&request).await {
            tracing::debug!(%error, "upload not cancelled");
        }
    }

    /// Where an upload goes on: distribution spec, "Pushing blobs". Relative or absolute.
    fn location(&self, operation: &Operation, response: &Response) -> Result<Url, Error> {
        let text = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let text = text.ok_or_else(|| {
            operation
                .error(Kind::Malformed, "the registry opened an upload and did not say where (no Location)")
        })?;
        let url = response.url();
        let mut location = url
            .join(text)
            .map_err(|_| operation.error(Kind::Malformed, "the upload's Location is no address"))?;
        // A registry behind a TLS proxy often takes itself for plain HTTP; we stay where we are.
        if url.scheme() == "https" && location.scheme() == "http" && authority(url) == authority(&location) {
            let _ = location.set_scheme("https");
        }
        self.client().check_scheme(operation, url, &location)?;
        Ok(location)
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

fn write_request(
    operation: Operation,
    repository: &Repository,
    method: Method,
    url: Url,
    content: Content,
    scopes: Scopes,
) -> Request<'_> {
    Request { operation, repository, method, url, headers: HeaderMap::new(), content, scopes }
}

fn blob_name(repository: &Repository, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}
