//! From a layout into registries.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::{join_all, try_join_all};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::contents::{Contents, ManifestStore as _, described, filtered, filtered_from, gather};
use super::entry::Entry;
use super::error::LayoutError;
use super::reader::Layout;
use crate::image::{AssembledIndex, TagChange, Tags, by_repository};
use crate::platform::Platform;
use crate::registry::{
    BlobStore, Copied, Descriptor, Digest, Error, Kind, Manifest, Reference, Repository, Session,
};

/// How many manifests and blobs are looked for at once. What is sent at once is bounded by the client.
const PARALLEL: usize = 32;

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The index or image, as the registries have it now.
    pub root: Descriptor,
    /// What the layout lists, if platforms were left out and the digest is another therefore.
    pub filtered_from: Option<Digest>,
    /// How many manifests it has, itself included.
    pub manifests: usize,
    /// What it took, over all targets.
    pub copied: Copied,
    /// What became of each tag, or of the digest where there are no tags.
    pub tags: Vec<(Reference, TagChange)>,
}

/// Brings an entry of a layout into registries, under every target's tag, or by digest where a target has no tag.
/// With `platforms` only these, each with its attestations.
///
/// Before anything is sent the whole layout is looked at, and all that is missing is told at once. In every repository
/// blobs go first, the largest first and each once; then manifests, the index last. Tags are written when all
/// repositories have everything. A blob whose bytes are not what its digest says is never completed in a registry.
///
/// # Errors
/// [`LayoutError::Incomplete`] if something is missing; else what the registries say.
pub async fn import(
    session: &Session,
    layout: Arc<Layout>,
    entry: &Entry,
    platforms: &[Platform],
    targets: &[Reference],
) -> Result<Imported, LayoutError> {
    let named = layout.manifest(&entry.descriptor).await.map_err(|error| match error.kind() {
        Kind::NotFound => {
            let missing = vec![described(&entry.descriptor, "not there")];
            LayoutError::Incomplete { place: layout.place().to_owned(), missing }
        }
        _ => error.into(),
    })?;
    let root = filtered(layout.place(), named, platforms)?;
    let contents = gather(&*layout, root).await?;
    check_blobs(&layout, &contents)?;
    let root = AssembledIndex::from(&contents.root);
    check_digests(targets, &root.descriptor.digest)?;
    let targets = by_repository(targets);
    let repositories: Vec<&Repository> = targets.iter().map(|(repository, _)| *repository).collect();
    let session = &session.writing_to(repositories.iter().copied(), repositories.iter().copied());
    let tags = targets.iter().map(|(repository, tags)| Tags::read(session, repository, tags));
    let tags: Vec<Tags> = try_join_all(tags).await?;
    let mut copied = Copied::default();
    // What a registry has once, its other repositories take from it.
    let mut nearest: HashMap<&str, &Repository> = HashMap::new();
    for target in repositories {
        // Also where all tags hold the index: a registry may have collected what it lists.
        let neighbour = nearest.get(target.registry()).copied();
        copied = copied.plus(send(session, &layout, neighbour, &contents, target).await?);
        nearest.insert(target.registry(), target);
    }
    let written = tags.into_iter().map(|tags| tags.write(session, &root));
    // None is cut short by the failure of another.
    let written: Vec<Vec<(Reference, TagChange)>> =
        join_all(written).await.into_iter().collect::<Result<_, _>>()?;
    Ok(Imported {
        filtered_from: filtered_from(&entry.descriptor.digest, &contents.root),
        manifests: 1 + contents.children.iter().flatten().count(),
        root: root.descriptor,
        copied,
        tags: written.into_iter().flatten().collect(),
    })
}

/// A target may have a digest only if it is what will be there.
fn check_digests(targets: &[Reference], digest: &Digest) -> Result<(), LayoutError> {
    let is_other = |target: &&Reference| target.digest().is_some_and(|wanted| wanted != digest);
    match targets.iter().find(is_other) {
        Some(target) => {
            Err(LayoutError::invalid(target, format!("what is imported has the digest {digest}")))
        }
        None => Ok(()),
    }
}

/// Whether every blob is there with its size; the digests are verified when the bytes are read.
fn check_blobs(layout: &Layout, contents: &Contents) -> Result<(), LayoutError> {
    let blobs = contents.blobs()?;
    let flawed = blobs.iter().filter_map(|blob| Some(described(blob, &layout.flaw(blob)?)));
    let missing: Vec<String> = flawed.collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LayoutError::Incomplete { place: layout.place().to_owned(), missing })
}

/// Everything but the root. What a `neighbour` in the registry has already is mounted from there.
async fn send(
    session: &Session,
    layout: &Arc<Layout>,
    neighbour: Option<&Repository>,
    contents: &Contents,
    target: &Repository,
) -> Result<Copied, LayoutError> {
    let present = present(session, contents, target).await?;
    let mut copied = Copied::default();
    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for (image, needed) in contents.images()? {
        if present.contains(&image.descriptor.digest) {
            copied.present += needed.len();
        } else {
            blobs.extend(needed.into_iter().filter(|blob| seen.insert(blob.digest.clone())));
        }
    }
    // The longest way should not be begun last.
    blobs.sort_by_key(|blob| Reverse(blob.size));
    let copied = stream::iter(blobs)
        .map(|blob| async move {
            let delivery = match neighbour {
                Some(neighbour) => session.copy_blob(neighbour, target, &blob).await?,
                None => session.push_blob(target, &blob, layout.clone() as Arc<dyn BlobStore>).await?,
            };
            Ok::<_, Error>((blob.size, delivery))
        })
        .buffer_unordered(PARALLEL)
        .try_fold(copied, async |sum, (size, delivery)| Ok(sum.and(size, delivery)))
        .await?;
    for group in &contents.children {
        let absent = group.iter().filter(|manifest| !present.contains(&manifest.descriptor.digest));
        try_join_all(absent.map(|manifest| put_by_digest(session, target, manifest))).await?;
    }
    Ok(copied)
}

/// The manifests that the target has already, and with them what they name.
async fn present(
    session: &Session,
    contents: &Contents,
    target: &Repository,
) -> Result<HashSet<Digest>, LayoutError> {
    // The root is an image alone, or is asked for by its tags.
    let root = [&contents.root].into_iter().filter(|root| !root.descriptor.media_type.is_index());
    let found: Vec<Option<Digest>> = stream::iter(contents.children.iter().flatten().chain(root))
        .map(|manifest| async move {
            let digest = &manifest.descriptor.digest;
            let is_there = session.has_manifest(&target.with_digest(digest)).await?;
            Ok::<_, Error>(is_there.then(|| digest.clone()))
        })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

async fn put_by_digest(session: &Session, target: &Repository, manifest: &Manifest) -> Result<(), Error> {
    let Manifest { descriptor, bytes } = manifest;
    session.put_manifest(&target.with_digest(&descriptor.digest), &descriptor.media_type, bytes).await
}
