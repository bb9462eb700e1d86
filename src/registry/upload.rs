//! The upload of one blob: whole, or in parts where the registry wants it so; resumed, or given up properly.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::Notify;

use super::blob_reader::{BlobReader, BlobStore};
use super::blobs::{blob_name, write_request};
use super::descriptor::Descriptor;
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::reference::Repository;
use super::scope::Scopes;
use super::session::{Content, Session};
use super::transport::authority;

/// Distribution spec, "Pushing a blob in chunks": the smallest part that the registry takes.
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The size of parts where the registry does not want larger ones, in bytes: no known registry refuses it.
const PART: u64 = 4 * 1024 * 1024;
/// How often an upload is taken up again without a byte gained in between.
const MOST_FRUITLESS: u32 = 3;

/// An upload that the registry has opened. Dropped unfinished, it is given up, so that the registry need not keep it.
pub(super) struct Upload {
    session: Session,
    target: Repository,
    digest: Digest,
    location: Url,
    /// The size of parts; none to send everything at once.
    part: Option<u64>,
    finished: bool,
}

impl Upload {
    /// Reads from the answer where the upload goes on and what it wants.
    pub(super) fn opened(
        session: &Session,
        target: &Repository,
        digest: &Digest,
        response: &Response,
    ) -> Result<Self, Error> {
        let operation = Operation::new(blob_name(target, digest), "starting the upload of the blob");
        let location = session.location(&operation, response)?;
        let smallest = response.headers().get(OCI_CHUNK_MIN_LENGTH).and_then(|size| size.to_str().ok());
        let smallest = smallest.and_then(|size| size.trim().parse::<u64>().ok());
        let part = smallest
            .map(|smallest| smallest.max(PART))
            .or_else(|| session.client().host(target.host()).part());
        let (session, target, digest) = (session.clone(), target.clone(), digest.clone());
        Ok(Self { session, target, digest, location, part, finished: false })
    }

    async fn send(&mut self, blob: &Descriptor, body: &Arc<PartialBody>) -> Result<(), Error> {
        let (mut position, mut fruitless) = (0, 0);
        loop {
            let error = match self.step(blob, body, position).await {
                Ok(_) if self.finished => return Ok(()),
                Ok(reached) => {
                    position = reached;
                    continue;
                }
                Err(error) => error,
            };
            // What the source cannot give is not mended by asking the target.
            if let Some(cause) = body.take_failure() {
                return Err(cause);
            }
            if error.kind() == Kind::NotFound {
                return Err(self.gone());
            }
            fruitless += 1;
            if !error.is_transient() || fruitless > MOST_FRUITLESS {
                return Err(error);
            }
            match self.reached().await {
                // Nothing kept is nothing to go on from: the whole blob in a new upload is simpler.
                None | Some(0) => return Err(error),
                Some(reached) if reached > blob.size => return Err(error),
                Some(reached) => {
                    tracing::debug!(%error, reached, "resuming the upload");
                    fruitless = if reached > position { 0 } else { fruitless };
                    position = reached;
                }
            }
        }
    }

    /// Registries forget uploads: after a restart, or where the turn to send came late. There is nothing to cancel then, and
    /// a new one will do.
    fn gone(&mut self) -> Error {
        self.finished = true;
        let operation = Operation::new(blob_name(&self.target, &self.digest), "uploading the blob");
        operation
            .error(Kind::Unavailable, "the registry does not know the upload any more that it has opened")
    }

    /// One request: everything, the next part, or the end. The result is how much the registry has then.
    async fn step(
        &mut self,
        blob: &Descriptor,
        body: &Arc<PartialBody>,
        position: u64,
    ) -> Result<u64, Error> {
        let whole = position == 0 && self.part.is_none_or(|part| blob.size <= part);
        if whole {
            let content = body.part(0, blob.size).await;
            self.put(blob.size, content).await?;
            self.finished = true;
            return Ok(blob.size);
        }
        if position == blob.size {
            self.put(0, Content::Empty).await?;
            self.finished = true;
            return Ok(blob.size);
        }
        // What is resumed is sent in one piece, unless parts are wanted.
        let end = blob.size.min(position.saturating_add(self.part.unwrap_or(u64::MAX)));
        let content = body.part(position, end).await;
        self.patch(position, end, content).await?;
        Ok(end)
    }

    /// Distribution spec, "POST then PUT": the last request, with the digest.
    async fn put(&self, size: u64, content: Content) -> Result<(), Error> {
        let operation = Operation::new(blob_name(&self.target, &self.digest), "uploading the blob");
        let mut url = self.location.clone();
        // Appended, as what is in the query already is the registry's own and may be signed.
        url.query_pairs_mut().append_pair("digest", self.digest.as_str());
        let scopes = Scopes::push(&self.target);
        let mut request = write_request(operation, &self.target, Method::PUT, url, content, scopes);
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.session.attempt(&request).await.map(drop)
    }

    /// Distribution spec, "Pushing a blob in chunks".
    async fn patch(&mut self, start: u64, end: u64, content: Content) -> Result<(), Error> {
        let operation = Operation::new(blob_name(&self.target, &self.digest), "uploading a part of the blob");
        let (url, scopes) = (self.location.clone(), Scopes::push(&self.target));
        let mut request = write_request(operation, &self.target, Method::PATCH, url, content, scopes);
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
        request.headers.insert(CONTENT_RANGE, header(&format!("{start}-{}", end - 1)));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let response = self.session.attempt(&request).await?;
        self.location = self.session.location(&request.operation, &response)?;
        Ok(())
    }

    /// How many bytes the registry has, if it says so: distribution spec, "Pushing a blob in chunks".
    async fn reached(&mut self) -> Option<u64> {
        let operation = Operation::new(blob_name(&self.target, &self.digest), "asking how far an upload is");
        let (url, scopes) = (self.location.clone(), Scopes::push(&self.target));
        let request = write_request(operation, &self.target, Method::GET, url, Content::Empty, scopes);
        let response = self.session.send(&request).await.ok()?;
        if response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        if let Ok(location) = self.session.location(&request.operation, &response) {
            self.location = location;
        }
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
        // `0-0` is what registries say of nothing as well.
        Some(if last == 0 { 0 } else { last + 1 })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !mem::replace(&mut self.finished, true) {
            let (session, target, location) =
                (self.session.clone(), self.target.clone(), self.location.clone());
            self.session.client().in_background(async move { session.cancel(&target, location).await });
        }
    }
}

/// The bytes of a blob, handed to one request after the other.
struct PartialBody {
    reader: tokio::sync::Mutex<Reading>,
    failure: Mutex<Option<Error>>,
    progress: Arc<Notify>,
    session: Session,
    blob: Descriptor,
}

struct Reading {
    reader: BlobReader,
    position: u64,
    /// Read, and beyond the end of the part that it was read for.
    rest: Bytes,
}

impl PartialBody {
    fn new(reader: BlobReader, session: &Session, blob: &Descriptor) -> Arc<Self> {
        Arc::new(Self {
            reader: tokio::sync::Mutex::new(Reading { reader, position: 0, rest: Bytes::new() }),
            failure: Mutex::default(),
            progress: Arc::default(),
            session: session.clone(),
            blob: blob.clone(),
        })
    }

    /// Goes to the beginning and asks the store for it.
    async fn open(&self) -> Result<(), Error> {
        let mut reading = self.reader.lock().await;
        reading.go_to(0);
        reading.reader.open().await
    }

    /// The bytes from `start` to `end`.
    async fn part(self: &Arc<Self>, start: u64, end: u64) -> Content {
        let mut reading = self.reader.lock().await;
        if reading.position != start {
            reading.go_to(start);
        }
        drop(reading);
        let parts = stream::try_unfold(Arc::clone(self), move |body| async move {
            let chunk = body.next(end).await?;
            Ok::<_, Error>(chunk.map(|chunk| (chunk, body)))
        });
        Content::Stream {
            body: Mutex::new(Some(Body::wrap_stream(parts))),
            progress: Arc::clone(&self.progress),
        }
    }

    async fn next(&self, end: u64) -> Result<Option<Bytes>, Error> {
        let mut reading = self.reader.lock().await;
        self.progress.notify_one();
        match reading.next(end).await {
            Ok(chunk) => {
                self.session.observer().moved(&self.blob, chunk.as_ref().map_or(0, |c| c.len() as u64));
                Ok(chunk)
            }
            Err(error) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                Err(error)
            }
        }
    }

    fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Reading {
    fn go_to(&mut self, position: u64) {
        self.reader.rewind(position);
        (self.position, self.rest) = (position, Bytes::new());
    }

    async fn next(&mut self, end: u64) -> Result<Option<Bytes>, Error> {
        if self.position >= end {
            return Ok(None);
        }
        if self.rest.is_empty() {
            match self.reader.next().await? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(None),
            }
        }
        let wanted = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let chunk = self.rest.split_to(wanted.min(self.rest.len()));
        self.position += chunk.len() as u64;
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

impl Session {
    /// Sends a blob that is not there yet. Of several attempts the first uses the upload that is `opened` already.
    pub(super) async fn upload(
        &self,
        target: &Repository,
        blob: &Descriptor,
        store: Arc<dyn BlobStore>,
        opened: Option<Box<Upload>>,
    ) -> Result<(), Error> {
        let opened = Mutex::new(opened);
        let body = PartialBody::new(BlobReader::new(store, blob), self, blob);
        let attempts = AtomicU32::new(0);
        let attempt = || async {
            // The answer to what arrived may have been lost on its way back.
            if attempts.fetch_add(1, Ordering::Relaxed) > 0 && self.has_blob(target, &blob.digest).await? {
                return Ok(Ok(()));
            }
            let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
            let upload = async {
                match opened {
                    Some(upload) => Ok(upload),
                    None => self.open_upload(target, &blob.digest).await.map(Box::new),
                }
            };
            let (source, upload) = futures::join!(body.open(), upload);
            // The store has tried again already, so what it refuses is not asked for once more here.
            if let Err(error) = source {
                return Ok(Err(error));
            }
            let mut upload = upload?;
            match upload.send(blob, &body).await {
                Err(error) if error.kind() == Kind::TooLarge && upload.part.is_none() && blob.size > PART => {
                    // A proxy before the registry has a limit of its own; parts pass it.
                    self.client().host(target.host()).send_parts(PART);
                    Err(error.worth_retrying())
                }
                other => other.map(Ok),
            }
        };
        self.client().retry().run(attempt).await?
    }

    async fn open_upload(&self, target: &Repository, digest: &Digest) -> Result<Upload, Error> {
        let operation = Operation::new(blob_name(target, digest), "starting the upload of the blob");
        let url = self.url(&operation, target, "blobs/uploads/")?;
        let scopes = Scopes::push(target);
        let request = write_request(operation, target, Method::POST, url, Content::Empty, scopes);
        let response = self.attempt(&request).await?;
        Upload::opened(self, target, digest, &response)
    }

    /// Gives an upload up. That it fails is no further harm.
    async fn cancel(&self, target: &Repository, url: Url) {
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
}

/// A header of digits and signs of our own.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
