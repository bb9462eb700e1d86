//! Bytes that pass through are hashed, and the last of them are held back until the hash is right.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, stream};
use reqwest::Response;
use tokio::sync::Notify;

use super::descriptor::Descriptor;
use super::digest::{Digest, Hasher};
use super::error::{Error, Kind, Operation};
use super::transport::Client;

/// The body of an answer on its way to somewhere else.
pub(crate) struct Verifier {
    client: Client,
    progress: Arc<Notify>,
    operation: Operation,
    source: Response,
    expected: Descriptor,
    hasher: Option<Hasher>,
    passed: u64,
    held: Option<Bytes>,
    verdict: Verdict,
}

/// Why a stream ended early, for who only sees that its request failed.
#[derive(Clone, Default)]
pub(crate) struct Verdict(Arc<Mutex<Option<Error>>>);

impl Verdict {
    /// The failure of the source, if it was the source that failed.
    pub(crate) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Verifier {
    pub(crate) fn new(
        client: &Client,
        operation: &Operation,
        source: Response,
        expected: &Descriptor,
    ) -> Self {
        Self {
            client: client.clone(),
            progress: Arc::default(),
            operation: operation.clone(),
            source,
            expected: expected.clone(),
            hasher: Some(Hasher::new(expected.digest.algorithm())),
            passed: 0,
            held: None,
            verdict: Verdict::default(),
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// Told of every piece that is taken.
    pub(crate) fn progress(&self) -> Arc<Notify> {
        self.progress.clone()
    }

    /// The bytes, or an error instead of the last of them: the receiver never has all of a wrong blob.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        stream::try_unfold(self, |mut verifier| async move {
            match verifier.next().await {
                Ok(chunk) => Ok(chunk.map(|chunk| (chunk, verifier))),
                Err(error) => {
                    *verifier.verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    Err(error)
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            self.progress.notify_one();
            match self.client.chunk(&self.operation, &mut self.source).await? {
                Some(chunk) if chunk.is_empty() => continue,
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

    fn admit(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.passed += chunk.len() as u64;
        if self.passed > self.expected.size {
            return Err(self.wrong(format!("the content is larger than {} bytes", self.expected.size)));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        let Some(found) = self.hasher.take().map(Hasher::finish) else { return Ok(()) };
        let expected: &Digest = &self.expected.digest;
        if self.passed != self.expected.size {
            return Err(
                self.wrong(format!("the content has {} bytes, not {}", self.passed, self.expected.size))
            );
        }
        if found != *expected {
            return Err(self.wrong(format!("the content has digest {found}, not {expected}")));
        }
        Ok(())
    }

    fn wrong(&self, cause: String) -> Error {
        self.operation.error(Kind::DigestMismatch, cause)
    }
}
