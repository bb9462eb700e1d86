//! Writing a layout into a directory, a new one or beside what is there.
//!
//! Every file is written under another name, synchronised and then renamed: whatever dies in the middle, no file of the
//! layout is there by half, and `index.json` lists nothing that is not there.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;
use tokio::task::spawn_blocking;

use super::entry::REF_NAME;
use super::error::LayoutError;
use super::{INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, blob_path};
use crate::registry::{BlobReader, Descriptor, LARGEST_MANIFEST, Manifest, MediaType};

/// A directory that becomes a layout.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes a layout of the directory, which may not exist yet, be empty or be one already.
    pub(super) fn create(path: &Path) -> Result<Self, LayoutError> {
        let failed = |error: io::Error| LayoutError::file(path.display(), "making the layout", &error);
        fs::create_dir_all(path).map_err(failed)?;
        let empty = fs::read_dir(path).map_err(failed)?.next().is_none();
        if !empty && !path.join(INDEX_FILE).is_file() && !path.join(LAYOUT_FILE).is_file() {
            let reason = "the directory has files and is no image layout; name an empty or a new one";
            return Err(LayoutError::invalid(path.display(), reason));
        }
        let directory = Self { path: path.to_owned() };
        fs::create_dir_all(path.join("blobs/sha256")).map_err(failed)?;
        if !path.join(LAYOUT_FILE).exists() {
            directory.replace(LAYOUT_FILE, LAYOUT_VERSION.as_bytes())?;
        }
        Ok(directory)
    }

    /// Whether the blob is there, by its name and size: it was verified before it got its name.
    pub(super) fn has(&self, blob: &Descriptor) -> bool {
        let found = self.path.join(blob_path(&blob.digest)).symlink_metadata();
        found.is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }

    /// Writes a blob as it comes; `seen` is told of every piece.
    pub(super) async fn add(
        &self,
        blob: &Descriptor,
        mut reader: BlobReader,
        seen: impl Fn(u64),
    ) -> Result<(), LayoutError> {
        let path = self.path.join(blob_path(&blob.digest));
        let failed = |error: io::Error| LayoutError::file(path.display(), "writing the blob", &error);
        let temporary = self.temporary(&path).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone().map_err(failed)?);
        while let Some(chunk) = reader.next().await? {
            seen(chunk.len() as u64);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        temporary.persist(&path).map(drop).map_err(|error| failed(error.error))
    }

    /// Writes a manifest.
    pub(super) fn add_manifest(&self, manifest: &Manifest) -> Result<(), LayoutError> {
        match self.has(&manifest.descriptor) {
            true => Ok(()),
            false => self.replace(&blob_path(&manifest.descriptor.digest), &manifest.bytes),
        }
    }

    /// Lists the entry in `index.json`, in the place of one of the same name. Others who do so meanwhile wait.
    pub(super) async fn add_entry(&self, entry: &Descriptor) -> Result<(), LayoutError> {
        let (this, entry) = (self.clone(), entry.clone());
        let place = self.path.display().to_string();
        match spawn_blocking(move || this.add_entry_now(&entry)).await {
            Ok(result) => result,
            Err(error) => Err(LayoutError::invalid(place, error.to_string())),
        }
    }

    fn add_entry_now(&self, entry: &Descriptor) -> Result<(), LayoutError> {
        let failed = |error: io::Error| LayoutError::file(self.path.display(), "writing the index", &error);
        let lock = File::open(&self.path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        for folder in ["blobs", "blobs/sha256", "blobs/sha512"] {
            if let Ok(folder) = File::open(self.path.join(folder)) {
                folder.sync_all().map_err(failed)?;
            }
        }
        let index = with_entry(self.read_index()?, entry)
            .ok_or_else(|| LayoutError::invalid(self.path.display(), format!("{INDEX_FILE} is no index")))?;
        self.replace(INDEX_FILE, index.to_string().as_bytes())?;
        lock.sync_all().map_err(failed)
    }

    fn read_index(&self) -> Result<Value, LayoutError> {
        let path = self.path.join(INDEX_FILE);
        let failed = |error: &io::Error| LayoutError::file(path.display(), "reading the index", error);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []}))
            }
            Err(error) => Err(failed(&error)),
            Ok(found) if found.len() > LARGEST_MANIFEST => Err(LayoutError::invalid(
                path.display(),
                format!("it is larger than {LARGEST_MANIFEST} bytes"),
            )),
            Ok(_) => {
                let bytes = fs::read(&path).map_err(|error| failed(&error))?;
                serde_json::from_slice(&bytes).map_err(|error| {
                    LayoutError::invalid(path.display(), format!("it cannot be read: {error}"))
                })
            }
        }
    }

    /// Writes a small file at once.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let path = self.path.join(name);
        let write = || {
            let mut file = self.temporary(&path)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| LayoutError::file(path.display(), "writing the layout", &error))
    }

    fn temporary(&self, path: &Path) -> io::Result<NamedTempFile> {
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder)?;
        // Readable for everyone whom the umask lets, as other files are.
        let permissions = Permissions::from_mode(0o666);
        tempfile::Builder::new().prefix(".multiarch-").permissions(permissions).tempfile_in(folder)
    }
}

/// The index with the entry, whatever else others wrote into it; none if it is no index.
fn with_entry(mut index: Value, entry: &Descriptor) -> Option<Value> {
    let new = serde_json::to_value(entry).ok()?;
    let name = |entry: &Value| entry.get("annotations")?.get(REF_NAME)?.as_str().map(str::to_owned);
    let same = |old: &Value| match (name(old), name(&new)) {
        (Some(old), Some(new)) => old == new,
        (None, None) => old.get("digest") == new.get("digest"),
        _ => false,
    };
    let entries = index.get_mut("manifests")?;
    if entries.is_null() {
        *entries = json!([]);
    }
    let entries = entries.as_array_mut()?;
    match entries.iter().position(same) {
        Some(place) => *entries.get_mut(place)? = new,
        None => entries.push(new),
    }
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Digest;

    fn entry(content: &str, name: Option<&str>) -> Descriptor {
        let descriptor = Descriptor::new(MediaType::OCI_INDEX, Digest::sha256(content.as_bytes()), 1);
        let annotations = name.map(|name| (REF_NAME.to_owned(), name.to_owned())).into_iter().collect();
        Descriptor { annotations, ..descriptor }
    }

    fn digests(index: &Value) -> Vec<&str> {
        index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect()
    }

    #[test]
    fn an_entry_takes_the_place_of_the_one_with_its_name_and_leaves_others_alone() {
        let other = json!({"digest": "sha256:other", "annotations": {REF_NAME: "2"}, "unknown": 1});
        let index = json!({"schemaVersion": 2, "manifests": [entry("old", Some("1")), other], "more": true});
        let new = entry("new", Some("1"));
        let index = with_entry(index, &new).unwrap();
        assert_eq!(digests(&index), [new.digest.as_str(), "sha256:other"]);
        assert_eq!((&index["more"], &index["manifests"][1]["unknown"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn an_image_without_a_name_is_listed_once() {
        let (one, two) = (entry("one", None), entry("two", None));
        let index = with_entry(json!({"manifests": null}), &one).unwrap();
        let index = with_entry(index, &two).unwrap();
        let index = with_entry(index, &one).unwrap();
        assert_eq!(digests(&index), [one.digest.as_str(), two.digest.as_str()]);
    }

    #[test]
    fn what_is_no_index_is_not_made_one() {
        for index in [json!([]), json!({}), json!({"manifests": {}})] {
            assert_eq!(with_entry(index, &entry("one", None)), None);
        }
    }
}
