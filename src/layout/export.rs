//! From a registry into a layout.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::io::AsyncWrite;

use super::contents::{Contents, RegistryManifests, filtered, filtered_from, gather};
use super::directory::Directory;
use super::entry::{IMAGE_NAME, REF_NAME};
use super::error::LayoutError;
use super::writer::ArchiveWriter;
use super::{INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, blob_path};
use crate::image::ImageManifest;
use crate::platform::Platform;
use crate::registry::{
    BlobReader, BlobStore, Delivery, Descriptor, Digest, Manifest, MediaType, Reference, Session,
};

/// How many blobs are on their way into a directory at once.
const PARALLEL_BLOBS: usize = 4;
/// How many blobs the registry is asked for while one is written into an archive.
const OPENED_AHEAD: usize = 4;

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The index or image in the layout, as `index.json` lists it.
    pub entry: Descriptor,
    /// What the reference named, if platforms were left out and the digest is another therefore.
    pub filtered_from: Option<Digest>,
    /// How many manifests it has, itself included.
    pub manifests: usize,
    /// How many blobs were fetched.
    pub fetched: usize,
    /// How many blobs were there already.
    pub present: usize,
    /// How many bytes of blobs were fetched.
    pub bytes: u64,
}

/// What is to be written.
struct Export<'a> {
    session: &'a Session,
    reference: &'a Reference,
    contents: Contents,
    blobs: Vec<Descriptor>,
    report: Exported,
}

impl<'a> Export<'a> {
    /// Finds out all that there is. Nothing is written yet.
    async fn plan(
        session: &'a Session,
        reference: &'a Reference,
        platforms: &[Platform],
    ) -> Result<Self, LayoutError> {
        let manifests = RegistryManifests { session, repository: reference.repository() };
        let named = session.get_manifest(reference).await?;
        let digest = named.descriptor.digest.clone();
        let root = filtered(&reference.to_string(), named, platforms)?;
        let contents = gather(&manifests, root).await?;
        let blobs = contents.blobs()?;
        let report = Exported {
            entry: entry(reference, &contents.root.descriptor),
            filtered_from: filtered_from(&digest, &contents.root),
            manifests: 1 + contents.children.iter().flatten().count(),
            fetched: 0,
            present: 0,
            bytes: 0,
        };
        Ok(Self { session, reference, contents, blobs, report })
    }

    fn reader(&self, blob: &Descriptor) -> BlobReader {
        let store: Arc<dyn BlobStore> = Arc::new(self.session.blobs_of(self.reference.repository()));
        BlobReader::new(store, blob)
    }

    /// Tells whoever watches the session.
    fn begun(&self, blob: &Descriptor) {
        self.session.observer().begun(self.reference.repository(), blob);
    }

    fn delivered(&self, blob: &Descriptor, delivery: Delivery) {
        self.session.observer().delivered(self.reference.repository(), blob, delivery);
    }

    fn moved(&self, blob: &Descriptor, bytes: u64) {
        self.session.observer().moved(blob, bytes);
    }

    fn count(&mut self, blob: &Descriptor, delivery: Delivery) {
        if delivery == Delivery::Present {
            self.report.present += 1;
        } else {
            self.report.fetched += 1;
            self.report.bytes += blob.size;
        }
    }
}

/// How `index.json` lists the image: with its tag, and with the whole name as containerd, BuildKit and Docker read it.
fn entry(reference: &Reference, root: &Descriptor) -> Descriptor {
    let mut entry = Descriptor::new(root.media_type.clone(), root.digest.clone(), root.size);
    if let Some(tag) = reference.tag() {
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        entry.annotations.insert(IMAGE_NAME.to_owned(), format!("{}:{tag}", reference.repository()));
    }
    entry
}

/// Writes what `reference` names into a directory: a new one, an empty one, or a layout, in which it takes the place
/// of an image with the same tag. With `platforms` only these, each with its attestations.
///
/// Blobs that are there are not fetched again. Each is verified before it gets its name, and `index.json` is written
/// last and at once: whatever happens meanwhile, the layout is as it was or as it should be.
///
/// # Errors
/// If the registry does not give everything, or the directory is no layout and has files.
pub async fn export_to_directory(
    session: &Session,
    reference: &Reference,
    platforms: &[Platform],
    path: &Path,
) -> Result<Exported, LayoutError> {
    let mut export = Export::plan(session, reference, platforms).await?;
    let directory = Directory::create(path)?;
    let mut blobs = export.blobs.clone();
    // The longest way should not be begun last.
    blobs.sort_by_key(|blob| Reverse(blob.size));
    let (shared, into) = (&export, &directory);
    let deliveries: Vec<(Descriptor, Delivery)> = stream::iter(blobs)
        .map(|blob| async move {
            let delivery = match into.has(&blob) {
                true => Delivery::Present,
                false => {
                    shared.begun(&blob);
                    into.add(&blob, shared.reader(&blob), |bytes| shared.moved(&blob, bytes)).await?;
                    Delivery::Uploaded
                }
            };
            shared.delivered(&blob, delivery);
            Ok::<_, LayoutError>((blob, delivery))
        })
        .buffer_unordered(PARALLEL_BLOBS)
        .try_collect()
        .await?;
    for (blob, delivery) in &deliveries {
        export.count(blob, *delivery);
    }
    for manifest in export.contents.children.iter().flatten().chain([&export.contents.root]) {
        directory.add_manifest(manifest)?;
    }
    directory.add_entry(&export.report.entry).await?;
    Ok(export.report)
}

/// Writes what `reference` names into a tar archive, which is there as a whole or not at all. The same image gives the
/// same bytes.
///
/// # Errors
/// If the registry does not give everything, or the file cannot be written.
pub async fn export_to_file(
    session: &Session,
    reference: &Reference,
    platforms: &[Platform],
    path: &Path,
) -> Result<Exported, LayoutError> {
    use std::os::unix::fs::PermissionsExt as _;

    let export = Export::plan(session, reference, platforms).await?;
    let failed = |error: std::io::Error| LayoutError::file(path.display(), "writing the archive", &error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::fs::Permissions::from_mode(0o666);
    let mut builder = tempfile::Builder::new();
    let temporary =
        builder.prefix(".multiarch-").permissions(permissions).tempfile_in(folder).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone().map_err(failed)?);
    let report = write(export, &path.display().to_string(), &mut file).await?;
    file.sync_all().await.map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(report)
}

/// Writes what `reference` names as a tar archive, in order and without going back; `place` is what errors call it.
///
/// # Errors
/// If the registry does not give everything, or `out` does not take it. Then the archive has no end.
pub async fn export_to_stream(
    session: &Session,
    reference: &Reference,
    platforms: &[Platform],
    place: &str,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Exported, LayoutError> {
    write(Export::plan(session, reference, platforms).await?, place, out).await
}

async fn write(
    mut export: Export<'_>,
    place: &str,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Exported, LayoutError> {
    let mut archive = ArchiveWriter::new(place, out);
    let index =
        json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [export.report.entry]});
    archive.file(LAYOUT_FILE, LAYOUT_VERSION.as_bytes()).await?;
    archive.file(INDEX_FILE, index.to_string().as_bytes()).await?;
    if let Some(manifest) = docker_manifest(&export)? {
        archive.file("manifest.json", &manifest).await?;
    }
    for folder in folders(&export) {
        archive.folder(&folder).await?;
    }
    let Contents { root, children } = &export.contents;
    for manifest in [root].into_iter().chain(children.iter().rev().flatten()) {
        archive.file(&blob_path(&manifest.descriptor.digest), &manifest.bytes).await?;
    }
    write_blobs(&export, &mut archive).await?;
    archive.finish().await?;
    for blob in export.blobs.clone() {
        export.count(&blob, Delivery::Uploaded);
    }
    Ok(export.report)
}

/// The blobs one after the other; the registry is asked for the next ones meanwhile.
async fn write_blobs(
    export: &Export<'_>,
    archive: &mut ArchiveWriter<'_, impl AsyncWrite + Unpin>,
) -> Result<(), LayoutError> {
    let opened = stream::iter(&export.blobs).map(|blob| {
        let mut reader = export.reader(blob);
        async move { reader.open().await.map(|()| (blob, reader)) }
    });
    let mut opened = std::pin::pin!(opened.buffered(OPENED_AHEAD));
    while let Some((blob, mut reader)) = opened.try_next().await? {
        export.begun(blob);
        let seen = |bytes| export.moved(blob, bytes);
        archive.blob(&blob_path(&blob.digest), blob.size, &mut reader, seen).await?;
        export.delivered(blob, Delivery::Uploaded);
    }
    Ok(())
}

/// The folders of the blobs, each before what is in it.
fn folders(export: &Export<'_>) -> Vec<String> {
    let manifests = export.contents.children.iter().flatten().chain([&export.contents.root]);
    let digests = manifests.map(|manifest| &manifest.descriptor.digest);
    let paths = digests.chain(export.blobs.iter().map(|blob| &blob.digest)).map(blob_path);
    let mut folders: Vec<String> = paths
        .filter_map(|path| path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")))
        .chain(["blobs/".to_owned()])
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// What `docker load` needs where Docker has no containerd image store, and it can have only one image: of an index of
/// several there is none.
fn docker_manifest(export: &Export<'_>) -> Result<Option<Bytes>, LayoutError> {
    let images = export.contents.images()?;
    let mut runnable = images
        .iter()
        .map(|(manifest, _)| *manifest)
        .filter(|manifest| !manifest.descriptor.is_attestation() && runs(manifest).is_some());
    let (Some(image), None) = (runnable.next(), runnable.next()) else { return Ok(None) };
    let Some(ImageManifest { config, layers }) = runs(image) else { return Ok(None) };
    let tags: Vec<&String> = export.report.entry.annotations.get(IMAGE_NAME).into_iter().collect();
    let layers: Vec<String> = layers.iter().map(|layer| blob_path(&layer.digest)).collect();
    let manifest = json!([{"Config": blob_path(&config.digest), "RepoTags": tags, "Layers": layers}]);
    Ok(Some(manifest.to_string().into()))
}

/// The manifest of an image that has all its layers and can be run.
fn runs(manifest: &Manifest) -> Option<ImageManifest> {
    let image: ImageManifest = serde_json::from_slice(&manifest.bytes).ok()?;
    let whole = !image.layers.iter().any(|layer| layer.media_type.is_foreign_layer());
    (image.config.media_type.is_image_config() && whole).then_some(image)
}
