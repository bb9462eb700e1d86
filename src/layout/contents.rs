//! Everything that hangs on one index or image: found before anything is written.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::error::LayoutError;
use crate::image::{EditError, EditableIndex, Index};
use crate::platform::Platform;
use crate::registry::{
    Descriptor, Digest, Error, Kind, Manifest, Operation, Repository, Session, blobs_of_image,
};

/// How deep indexes may list indexes.
const DEEPEST: usize = 4;
/// How much all manifests of one index may have together, in bytes: they are held in memory.
const LARGEST_MANIFESTS: u64 = 64 * 1024 * 1024;
/// How many manifests are asked for at once.
const PARALLEL: usize = 32;

/// Where manifests are read from by their descriptors, verified.
pub(super) trait ManifestStore: Sync {
    /// What errors call it.
    fn place(&self) -> String;

    /// The manifest. An error of the kind [`Kind::NotFound`] says that it is not there.
    fn manifest(&self, descriptor: &Descriptor) -> impl Future<Output = Result<Manifest, Error>> + Send;
}

/// A repository and the session to read it with.
pub(super) struct RegistryManifests<'a> {
    pub(super) session: &'a Session,
    pub(super) repository: &'a Repository,
}

impl ManifestStore for RegistryManifests<'_> {
    fn place(&self) -> String {
        self.repository.to_string()
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, Error> {
        self.session.get_manifest(&self.repository.with_digest(&descriptor.digest)).await
    }
}

/// An index or an image with all that it needs.
#[derive(Debug)]
pub(super) struct Contents {
    /// What everything hangs on.
    pub(super) root: Manifest,
    /// All manifests but the root, in groups: none lists one of its own group or of a later one.
    pub(super) children: Vec<Vec<Manifest>>,
}

/// An image and the blobs that it needs.
pub(super) type ImageBlobs<'a> = (&'a Manifest, Vec<Descriptor>);

impl Contents {
    /// Every image with its blobs, in the order of the index.
    pub(super) fn images(&self) -> Result<Vec<ImageBlobs<'_>>, LayoutError> {
        let all = self.children.iter().flatten().chain([&self.root]);
        all.filter(|manifest| !manifest.descriptor.media_type.is_index())
            .map(|manifest| {
                let operation = Operation::new(&manifest.descriptor.digest, "reading the manifest");
                Ok((manifest, blobs_of_image(&operation, manifest)?))
            })
            .collect()
    }

    /// The blobs of all images, each once.
    pub(super) fn blobs(&self) -> Result<Vec<Descriptor>, LayoutError> {
        let mut seen = HashSet::new();
        let blobs = self.images()?.into_iter().flat_map(|(_, blobs)| blobs);
        Ok(blobs.filter(|blob| seen.insert(blob.digest.clone())).collect())
    }
}

/// Reads all manifests below `root`.
///
/// # Errors
/// [`LayoutError::Incomplete`] with every manifest that is missing.
pub(super) async fn gather(store: &impl ManifestStore, root: Manifest) -> Result<Contents, LayoutError> {
    let mut levels: Vec<Vec<Manifest>> = Vec::new();
    let mut missing = Vec::new();
    let mut level = entries(&root)?;
    let mut bytes = 0;
    while !level.is_empty() {
        bytes += level.iter().map(|entry| entry.size).fold(0, u64::saturating_add);
        if levels.len() == DEEPEST || bytes > LARGEST_MANIFESTS {
            let reason =
                format!("too much is nested: over {DEEPEST} indexes deep, or over {LARGEST_MANIFESTS} bytes");
            return Err(LayoutError::invalid(store.place(), reason));
        }
        let fetched = fetch_all(store, &level, &mut missing).await?;
        level = Vec::new();
        for manifest in &fetched {
            level.extend(entries(manifest)?);
        }
        levels.push(fetched);
    }
    if !missing.is_empty() {
        return Err(LayoutError::Incomplete { place: store.place(), missing });
    }
    // What is listed twice belongs where it is listed the deepest.
    let mut seen = HashSet::new();
    let unseen = |level: Vec<Manifest>| {
        level.into_iter().filter(|manifest| seen.insert(manifest.descriptor.digest.clone())).collect()
    };
    Ok(Contents { root, children: levels.into_iter().rev().map(unseen).collect() })
}

/// The manifests of a level, each once; what is not there is noted.
async fn fetch_all(
    store: &impl ManifestStore,
    level: &[Descriptor],
    missing: &mut Vec<String>,
) -> Result<Vec<Manifest>, LayoutError> {
    let mut seen = HashSet::new();
    let wanted = level.iter().filter(|entry| seen.insert(&entry.digest));
    let fetched: Vec<Option<Manifest>> = stream::iter(wanted)
        .map(|entry| async move {
            match fetch(store, entry).await {
                Ok(manifest) => Ok(Ok(manifest)),
                Err(error) if error.kind() == Kind::NotFound => Ok(Err(described(entry, "not there"))),
                Err(error) => Err(LayoutError::from(error)),
            }
        })
        .buffered(PARALLEL)
        .map_ok(|found| found.map_err(|absent| missing.push(absent)).ok())
        .try_collect()
        .await?;
    Ok(fetched.into_iter().flatten().collect())
}

/// A missing manifest or blob in words.
pub(super) fn described(descriptor: &Descriptor, what: &str) -> String {
    let platform = match descriptor.runnable_platform() {
        Some(_) => format!("{} ", descriptor.platform_in_words()),
        None => String::new(),
    };
    format!("{} ({platform}{}): {what}", descriptor.digest, descriptor.media_type)
}

/// The manifest of an entry, if it is as the entry describes it.
async fn fetch(store: &impl ManifestStore, entry: &Descriptor) -> Result<Manifest, Error> {
    let Manifest { descriptor, bytes } = store.manifest(entry).await?;
    if descriptor.size != entry.size || descriptor.media_type.is_index() != entry.media_type.is_index() {
        let operation = Operation::new(store.place(), "reading the manifest");
        let cause = format!("{} is described with another size or type than it has", entry.digest);
        return Err(operation.error(Kind::DigestMismatch, cause));
    }
    Ok(Manifest { descriptor: Descriptor { media_type: descriptor.media_type, ..entry.clone() }, bytes })
}

/// What an index lists; nothing for an image.
fn entries(manifest: &Manifest) -> Result<Vec<Descriptor>, LayoutError> {
    if !manifest.descriptor.media_type.is_index() {
        return Ok(Vec::new());
    }
    Ok(parse(manifest)?.manifests)
}

fn parse(manifest: &Manifest) -> Result<Index, LayoutError> {
    serde_json::from_slice(&manifest.bytes).map_err(|error| {
        LayoutError::invalid(&manifest.descriptor.digest, format!("the index cannot be read: {error}"))
    })
}

/// The index with the entries for `platforms` alone, each with its attestations. The index itself if nothing is left out
/// of it, or no platforms are given.
///
/// # Errors
/// [`EditError::NoSuchPlatform`] if one of the platforms is not there.
pub(super) fn filtered(place: &str, root: Manifest, platforms: &[Platform]) -> Result<Manifest, LayoutError> {
    if platforms.is_empty() {
        return Ok(root);
    }
    let media_type = &root.descriptor.media_type;
    if !media_type.is_index() {
        let reason = format!("platforms are chosen from an index, and this is {media_type}");
        return Err(LayoutError::invalid(place, reason));
    }
    let edited = |error: EditError| LayoutError::Edit { place: place.to_owned(), error };
    let mut index = EditableIndex::read(&root.bytes).map_err(edited)?;
    let whole = index.clone();
    index.keep(platforms).map_err(edited)?;
    if index == whole {
        return Ok(root);
    }
    index.write(place, media_type).map_err(edited)
}

/// What a filter has done to the root.
pub(super) fn filtered_from(named: &Digest, root: &Manifest) -> Option<Digest> {
    (*named != root.descriptor.digest).then(|| named.clone())
}
