//! Writing a layout as a tar archive, as a stream: nothing is held but a piece of one blob.
//!
//! The same content gives the same bytes: no times, no owners, one order. `oci-layout` and `index.json` come first and
//! manifests before the blobs that they name, so whoever reads a stream knows what is coming. (containerd, BuildKit and
//! skopeo take any order.)

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::error::LayoutError;
use crate::registry::BlobReader;

/// POSIX ustar: everything is in blocks of so many bytes.
const BLOCK: u64 = 512;

/// An archive on its way.
pub(super) struct ArchiveWriter<'a, W> {
    out: &'a mut W,
    place: &'a str,
}

impl<'a, W: AsyncWrite + Unpin> ArchiveWriter<'a, W> {
    pub(super) fn new(place: &'a str, out: &'a mut W) -> Self {
        Self { out, place }
    }

    pub(super) async fn folder(&mut self, name: &str) -> Result<(), LayoutError> {
        let header =
            header(name, tar::EntryType::Directory, 0o755, 0).map_err(|error| self.failed(&error))?;
        self.write(&header).await
    }

    /// A file with these bytes.
    pub(super) async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let size = bytes.len() as u64;
        self.begin(name, size).await?;
        self.write(bytes).await?;
        self.pad(size).await
    }

    /// A file of `size` bytes, as they come; `seen` is told of every piece.
    pub(super) async fn blob(
        &mut self,
        name: &str,
        size: u64,
        reader: &mut BlobReader,
        seen: impl Fn(u64),
    ) -> Result<(), LayoutError> {
        self.begin(name, size).await?;
        // The reader gives exactly this many, or an error.
        while let Some(chunk) = reader.next().await? {
            seen(chunk.len() as u64);
            self.write(&chunk).await?;
        }
        self.pad(size).await
    }

    /// Two empty blocks end an archive.
    pub(super) async fn finish(mut self) -> Result<(), LayoutError> {
        self.write(&[0; 2 * BLOCK as usize]).await?;
        self.out.flush().await.map_err(|error| self.failed(&error))
    }

    async fn begin(&mut self, name: &str, size: u64) -> Result<(), LayoutError> {
        let header =
            header(name, tar::EntryType::Regular, 0o644, size).map_err(|error| self.failed(&error))?;
        self.write(&header).await
    }

    async fn pad(&mut self, size: u64) -> Result<(), LayoutError> {
        let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        self.write(&vec![0; padding]).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.out.write_all(bytes).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> LayoutError {
        LayoutError::file(self.place, "writing the archive", error)
    }
}

/// The header of a member, with what comes before it if the name is long: that of a SHA-512 is.
fn header(name: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    for id in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        id(&mut header, 0);
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, io::empty())?;
    // Without the end of an archive that the builder writes when it goes.
    Ok(std::mem::take(builder.get_mut()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    async fn written(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut archive = ArchiveWriter::new("memory", &mut out);
        archive.folder("blobs/").await.unwrap();
        for (name, content) in files {
            archive.file(name, content).await.unwrap();
        }
        archive.finish().await.unwrap();
        out
    }

    #[tokio::test]
    async fn names_as_long_as_those_of_sha_512_and_contents_of_any_length_are_read_back() {
        let long = format!("blobs/sha512/{}", "0123456789abcdef".repeat(8));
        let files: [(&str, &[u8]); 4] =
            [("empty", b""), (&long, b"x"), ("block", &[7; 512]), ("more", &[8; 513])];
        let bytes = written(&files).await;
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap().skip(1) {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), content));
        }
        let expected: Vec<(String, Vec<u8>)> =
            files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_of_more_than_8_gib_has_a_header() {
        let size = 9 << 30;
        let bytes = header("blob", tar::EntryType::Regular, 0o644, size).unwrap();
        let header = tar::Header::from_byte_slice(&bytes);
        assert_eq!((bytes.len(), header.entry_size().unwrap()), (512, size));
    }
}
