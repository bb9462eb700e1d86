//! The bytes of a blob wherever they are: hashed as they pass, resumed where they broke off.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};

use super::descriptor::Descriptor;
use super::digest::Hasher;
use super::error::{Error, Kind, Operation};

/// How often the bytes of one blob are asked for anew where they broke off with hardly a byte gained in between.
const MOST_FRUITLESS: u32 = 3;
/// How many bytes gained are worth another try, or a store that trickles would be read for ever.
const WORTHWHILE: u64 = 64 * 1024;

/// Some bytes, and what kept the rest from coming.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// Where blobs are read from: a repository, or the files of an image layout.
pub trait BlobStore: Send + Sync {
    /// What errors call the place of `blob`.
    fn place(&self, blob: &Descriptor) -> String;

    /// The bytes of `blob` from `offset` on, not verified.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not there; [`Kind::Unsupported`] if it can only be read from its beginning.
    fn open(&self, blob: &Descriptor, offset: u64) -> BoxFuture<'static, Result<ByteStream, Error>>;

    /// Told that bytes from here broke off or were wrong. Whether they may come from somewhere better the next time.
    fn doubt(&self) -> bool {
        false
    }
}

/// Reads one blob. The last bytes are held back until size and digest are right, so whoever reads to the end has what
/// the descriptor names; who stops before has read what nobody vouches for.
pub struct BlobReader {
    store: Arc<dyn BlobStore>,
    blob: Descriptor,
    operation: Operation,
    bytes: Option<ByteStream>,
    /// None once the digest was found right.
    hasher: Option<Hasher>,
    /// How many bytes the hasher has seen.
    hashed: u64,
    /// Where the next bytes of the store begin.
    position: u64,
    fruitless: u32,
    /// Where the bytes broke off the last time.
    broken_at: u64,
    /// Whether there are bytes among those hashed that came from where no more are fetched.
    doubtful: bool,
    held: Option<Bytes>,
}

impl BlobReader {
    /// Reads `blob` from `store`, which is asked when the first bytes are wanted.
    pub fn new(store: Arc<dyn BlobStore>, blob: &Descriptor) -> Self {
        Self {
            operation: Operation::new(store.place(blob), "reading the blob"),
            hasher: Some(Hasher::new(blob.digest.algorithm())),
            blob: blob.clone(),
            store,
            bytes: None,
            hashed: 0,
            position: 0,
            fruitless: 0,
            broken_at: 0,
            doubtful: false,
            held: None,
        }
    }

    /// The next bytes, or none after the last.
    ///
    /// # Errors
    /// [`Kind::DigestMismatch`] instead of the last bytes if size or digest are not as described.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.receive().await? {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => {
                    self.admit(&chunk)?;
                    if let Some(previous) = self.held.replace(chunk) {
                        return Ok(Some(previous));
                    }
                }
                None => {
                    self.finish()?;
                    return Ok(self.held.take());
                }
            }
        }
    }

    /// As a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        stream::try_unfold(self, |mut reader| async move {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        })
    }

    /// Sees to it that the store has been asked, so that what it refuses is known before anything is done with the bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(&mut self) -> Result<(), Error> {
        if self.bytes.is_none() {
            self.bytes = Some(self.store.open(&self.blob, self.position).await?);
        }
        Ok(())
    }

    /// The next bytes of the store. A connection that breaks is no reason to begin again.
    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            self.open().await?;
            let Some(bytes) = &mut self.bytes else { continue };
            let error = match bytes.next().await {
                Some(Ok(chunk)) => return Ok(Some(chunk)),
                Some(Err(error)) => error,
                None => return Ok(None),
            };
            let gained = self.position.saturating_sub(self.broken_at);
            self.fruitless = if gained >= WORTHWHILE { 1 } else { self.fruitless + 1 };
            self.broken_at = self.position;
            self.doubtful |= self.store.doubt();
            if !error.is_transient() || self.fruitless > MOST_FRUITLESS {
                return Err(error);
            }
            tracing::debug!(%error, position = self.position, "resuming the blob");
            self.bytes = None;
            // Who cannot go on from here says so; then the first error is the one that tells.
            if let Err(refused) = self.open().await {
                tracing::debug!(%refused, "not resumed");
                return Err(error);
            }
        }
    }

    /// Goes back to `position`, for a receiver that has lost what came after it. What was hashed
    /// stays hashed, unless all begins anew.
    pub(crate) fn rewind(&mut self, position: u64) {
        (self.bytes, self.held) = (None, None);
        self.position = position.min(self.hashed);
        self.broken_at = self.position;
        if position == 0 {
            (self.hasher, self.hashed) = (Some(Hasher::new(self.blob.digest.algorithm())), 0);
            self.doubtful = false;
        }
    }

    fn admit(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.position += chunk.len() as u64;
        if self.position > self.blob.size {
            return Err(self.wrong(format!("the content is larger than {} bytes", self.blob.size)));
        }
        let new = usize::try_from(self.position.saturating_sub(self.hashed)).unwrap_or(usize::MAX);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk[chunk.len() - new.min(chunk.len())..]);
        }
        self.hashed = self.hashed.max(self.position);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        if self.position != self.blob.size {
            let cause = format!("the content has {} bytes, not {}", self.position, self.blob.size);
            return Err(self.wrong(cause));
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(found) if found != self.blob.digest => {
                Err(self.wrong(format!("the content has digest {found}, not {}", self.blob.digest)))
            }
            _ => Ok(()),
        }
    }

    fn wrong(&self, cause: String) -> Error {
        let error = self.operation.error(Kind::DigestMismatch, cause);
        if self.store.doubt() || self.doubtful { error.worth_retrying() } else { error }
    }
}
