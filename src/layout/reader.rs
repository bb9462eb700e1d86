//! Reading a layout, be it a directory or an archive.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::archive::{self, Member, Members};
use super::contents::ManifestStore;
use super::entry::{self, Entry};
use super::error::{LayoutError, blob_error, cause};
use super::files::Piece;
use super::{INDEX_FILE, LAYOUT_FILE, blob_path};
use crate::image::Index;
use crate::registry::{
    BlobStore, ByteStream, Descriptor, Digest, Error, Kind, LARGEST_MANIFEST, Manifest, Operation,
    manifest_from_bytes,
};

/// A layout to read from. Only files of the layout itself are read, and no links are followed.
#[derive(Debug)]
pub struct Layout {
    place: String,
    files: Files,
    entries: Vec<Entry>,
}

#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    Archive(Members),
}

/// OCI image spec, image-layout.md, "oci-layout file".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

impl Layout {
    /// Opens a directory, a tar archive or one that gzip compressed.
    ///
    /// A compressed archive is unpacked into a temporary file without a name, in `$TMPDIR`.
    ///
    /// # Errors
    /// If there is no layout there, or none of a version that is known.
    pub async fn open(path: &Path) -> Result<Self, LayoutError> {
        let path = path.to_owned();
        blocking(move || {
            let place = path.display().to_string();
            let found = fs::metadata(&path)
                .map_err(|error| LayoutError::file(&place, "opening the layout", &error))?;
            let files = match found.is_dir() {
                true => Files::Directory(path),
                false => Files::Archive(archive::open(&path)?),
            };
            Self::of(place, files)
        })
        .await
    }

    /// Reads an archive to its end, into a temporary file without a name in `$TMPDIR`; `place` is what errors call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn read(place: &str, stream: impl io::Read + Send + 'static) -> Result<Self, LayoutError> {
        let place = place.to_owned();
        blocking(move || {
            let members = archive::read(Path::new(&place), stream)?;
            Self::of(place, Files::Archive(members))
        })
        .await
    }

    fn of(place: String, files: Files) -> Result<Self, LayoutError> {
        let invalid = |reason: String| LayoutError::invalid(&place, reason);
        let Some(index) =
            files.named(INDEX_FILE).map_err(|error| invalid(format!("{INDEX_FILE}: {error}")))?
        else {
            return Err(invalid(files.no_layout()));
        };
        // Some versions of BuildKit leave the file out.
        if let Some(version) =
            files.named(LAYOUT_FILE).map_err(|error| invalid(format!("{LAYOUT_FILE}: {error}")))?
        {
            let version: Version = read_json(&version, LAYOUT_FILE).map_err(&invalid)?;
            let version = version.image_layout_version;
            if !version.starts_with("1.") {
                return Err(invalid(format!("a layout of version {version:?}; only 1.0.0 is known")));
            }
        }
        let index: Index = read_json(&index, INDEX_FILE).map_err(&invalid)?;
        let entries = index.manifests.into_iter().map(|descriptor| Entry { descriptor }).collect();
        Ok(Self { place, files, entries })
    }

    /// What errors call the layout.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The entries of its `index.json`.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry called `name`: its name, containerd's name for it, its tag or its digest. Without a name, the only
    /// image that there is.
    ///
    /// # Errors
    /// [`LayoutError::Choice`], which lists what there is.
    pub fn choose(&self, name: Option<&str>) -> Result<&Entry, LayoutError> {
        entry::choose(&self.place, &self.entries, name)
    }

    /// What is wrong with a blob before its bytes are looked at, if anything is.
    pub(super) fn flaw(&self, blob: &Descriptor) -> Option<String> {
        match self.files.blob(&blob.digest) {
            Ok(piece) if piece.size == blob.size => None,
            Ok(piece) => Some(format!("it has {} bytes, not {}", piece.size, blob.size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("not there".to_owned()),
            Err(error) => Some(cause(&error)),
        }
    }

    fn operation(&self, blob: &Descriptor) -> Operation {
        Operation::new(BlobStore::place(self, blob), "reading the blob")
    }
}

impl BlobStore for Layout {
    fn place(&self, blob: &Descriptor) -> String {
        format!("{}: {}", self.place, blob_path(&blob.digest))
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> BoxFuture<'static, Result<ByteStream, Error>> {
        let operation = self.operation(blob);
        let piece = self.files.blob(&blob.digest).map_err(|error| blob_error(&operation, &error));
        async move { Ok(piece?.stream(offset, operation)) }.boxed()
    }
}

impl ManifestStore for Layout {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, Error> {
        let operation = self.operation(descriptor).step("reading the manifest");
        let piece = self.files.blob(&descriptor.digest).map_err(|error| blob_error(&operation, &error))?;
        if piece.size > LARGEST_MANIFEST {
            let cause = format!("the manifest of {} bytes is larger than {LARGEST_MANIFEST}", piece.size);
            return Err(operation.error(Kind::TooLarge, cause));
        }
        let bytes = piece.read(LARGEST_MANIFEST).map_err(|error| blob_error(&operation, &error))?;
        manifest_from_bytes(&operation, descriptor, bytes)
    }
}

impl Files {
    /// One of the two files that are not blobs.
    fn named(&self, name: &str) -> io::Result<Option<Piece>> {
        let found = match self {
            Self::Directory(path) => regular_file(&path.join(name)),
            Self::Archive(members) => {
                let member = if name == INDEX_FILE { &members.index } else { &members.version };
                member.as_ref().ok_or_else(absent).and_then(Member::piece)
            }
        };
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    fn blob(&self, digest: &Digest) -> io::Result<Piece> {
        match self {
            Self::Directory(path) => {
                // Neither may the folders above it lead elsewhere.
                let blob = blob_path(digest);
                let folders =
                    Path::new(&blob).ancestors().skip(1).filter(|part| !part.as_os_str().is_empty());
                for folder in folders {
                    if !path.join(folder).symlink_metadata()?.is_dir() {
                        return Err(not_a_file());
                    }
                }
                regular_file(&path.join(&blob))
            }
            Self::Archive(members) => members.blobs.get(digest).ok_or_else(absent)?.piece(),
        }
    }

    /// Why this is no layout.
    fn no_layout(&self) -> String {
        match self {
            Self::Archive(Members { docker: true, .. }) => format!(
                "no image layout but an archive of docker save: it has no {INDEX_FILE}; \
                 make one by `skopeo copy docker-archive:… oci-archive:…`"
            ),
            Self::Archive(_) => {
                format!("no image layout: there is no {INDEX_FILE} at the top of the archive")
            }
            Self::Directory(_) => format!("no image layout: there is no {INDEX_FILE} in the directory"),
        }
    }
}

impl Member {
    fn piece(&self) -> io::Result<Piece> {
        match self {
            Self::File(piece) => Ok(piece.clone()),
            Self::Other => Err(not_a_file()),
        }
    }
}

/// Opens what is a file and neither a link to one nor a pipe, which would never end.
fn regular_file(path: &Path) -> io::Result<Piece> {
    if !path.symlink_metadata()?.is_file() {
        return Err(not_a_file());
    }
    Piece::whole(File::open(path)?)
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not found")
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a link, or no regular file; it is not followed")
}

fn read_json<T: for<'de> Deserialize<'de>>(piece: &Piece, name: &str) -> Result<T, String> {
    let bytes = piece.read(LARGEST_MANIFEST).map_err(|error| format!("{name}: {}", cause(&error)))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{name} cannot be read: {error}"))
}

/// Runs what waits for files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LayoutError> + Send + 'static,
) -> Result<T, LayoutError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(LayoutError::invalid("the layout", error.to_string())),
    }
}
