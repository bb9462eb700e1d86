//! Pieces of files, as streams of bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::error::blob_error;
use crate::registry::{ByteStream, Operation};

/// How much is read at once, in bytes.
const CHUNK: u64 = 256 * 1024;

/// A piece of a file: a blob in a directory, or a member of an archive.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) file: Arc<File>,
    pub(super) start: u64,
    pub(super) size: u64,
}

impl Piece {
    /// The whole of a file.
    pub(super) fn whole(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), start: 0, size })
    }

    /// Everything, at most `limit` bytes.
    pub(super) fn read(&self, limit: u64) -> io::Result<Bytes> {
        let size = match usize::try_from(self.size) {
            Ok(size) if self.size <= limit => size,
            _ => {
                let cause = format!("its {} bytes are more than {limit}", self.size);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
            }
        };
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.start)?;
        Ok(bytes.into())
    }

    /// The bytes from `offset` on, as they are asked for.
    pub(super) fn stream(self, offset: u64, operation: Operation) -> ByteStream {
        let start = offset.min(self.size);
        let pieces = stream::try_unfold(start, move |at| {
            let (piece, operation) = (self.clone(), operation.clone());
            async move {
                if at >= piece.size {
                    return Ok(None);
                }
                let read = spawn_blocking(move || piece.chunk(at)).await.map_err(io::Error::other);
                let chunk = read.and_then(|read| read).map_err(|error| blob_error(&operation, &error))?;
                let next = at + chunk.len() as u64;
                Ok(Some((chunk, next)))
            }
        });
        pieces.boxed()
    }

    fn chunk(&self, at: u64) -> io::Result<Bytes> {
        let size = usize::try_from(CHUNK.min(self.size - at)).unwrap_or_default();
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.start + at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the file has become shorter"),
            _ => error,
        })?;
        Ok(bytes.into())
    }
}
