//! Images of many places as one index in one or more repositories, in as few round trips as there can be.
//!
//! ```text
//! find the images  ─┬─▶ read their configs ─┬─▶ write their manifests ─▶ write the tags
//! read the tags    ─┘   mount their blobs   ┘
//! ```

use std::collections::BTreeMap;

use futures::future::try_join_all;

use super::find::{Found, find, find_all};
use super::index::{AssembleError, AssembledIndex, Format};
use super::publish::{PublishError, TagChange, TagPolicy, Tags};
use super::resolve::{PlatformCheck, ResolveError, ResolvedImage, verify};
use crate::platform::Platform;
use crate::registry::{
    Copied, Descriptor, Digest, Error, Kind, Manifest, Reference, Repository, Session, Transfer,
};

/// What an index is made of and where it goes.
#[derive(Debug, Clone, Default)]
pub struct Composition {
    /// An index whose images are kept unless `sources` have another for their platform. If there is none, none is kept.
    pub base: Option<Reference>,
    /// The images, in the order of the index.
    pub sources: Vec<Source>,
    /// The format of the index; unset, a Docker list only if every image is Docker's own.
    pub format: Option<Format>,
    /// Annotations of the index.
    pub annotations: BTreeMap<String, String>,
    /// What is done about an image whose config names another platform than the declared one.
    pub check: PlatformCheck,
    /// Where the index goes. The first is published first; the others get the same.
    pub targets: Vec<Target>,
    /// What is done about tags with other content.
    pub policy: TagPolicy,
}

/// A repository and the tags of the index in it; without tags it is there by its digest only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The repository.
    pub repository: Repository,
    /// The tags.
    pub tags: Vec<String>,
}

/// Where images of the index come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// An image or an index.
    pub reference: Reference,
    /// The platform to take; none for all that there are.
    pub platform: Option<Platform>,
    /// What the index says of them beyond what is known.
    pub edits: DescriptorEdits,
}

/// Changes to the entry of an image in the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DescriptorEdits {
    /// The variant, as it is to be written.
    pub variant: Option<String>,
    /// The version of the operating system.
    pub os_version: Option<String>,
    /// What the operating system must have.
    pub os_features: Option<Vec<String>>,
    /// Annotations to be added or replaced.
    pub annotations: BTreeMap<String, String>,
}

/// An index and the images in it, verified; nothing is published yet.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The index.
    pub index: AssembledIndex,
    /// Its images, in its order.
    pub images: Vec<ResolvedImage>,
    /// What people should know, though all is well.
    pub warnings: Vec<String>,
}

/// A composition that was published.
#[derive(Debug, Clone)]
pub struct Publication {
    /// What was published.
    pub composed: Composed,
    /// What it took to bring the images to the targets.
    pub copied: Copied,
    /// What became of each tag, or of the digest where there are no tags.
    pub tags: Vec<(Reference, TagChange)>,
}

/// Why there is no such index.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ComposeError {
    /// An image was not found, or is not what it should be.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The images make no index.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The index is not under all its tags.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<Error> for ComposeError {
    fn from(error: Error) -> Self {
        Self::Resolve(error.into())
    }
}

impl Composition {
    /// All repositories that are talked to, the first target first.
    pub fn repositories(&self) -> Vec<&Repository> {
        let targets = self.targets.iter().map(|target| &target.repository);
        targets.chain(self.sources.iter().map(|source| source.reference.repository())).collect()
    }
}

impl DescriptorEdits {
    fn apply(&self, descriptor: &mut Descriptor) {
        let platform = descriptor.platform.get_or_insert_default();
        if let Some(variant) = &self.variant {
            platform.variant = Some(variant.clone()).filter(|variant| !variant.is_empty());
        }
        if let Some(version) = &self.os_version {
            platform.os_version = Some(version.clone()).filter(|version| !version.is_empty());
        }
        if let Some(features) = &self.os_features {
            platform.os_features.clone_from(features);
        }
        descriptor.annotations.extend(self.annotations.clone());
    }
}

/// What [`publish_composition`] would publish. Only reads.
///
/// # Errors
/// See [`ComposeError`].
pub async fn compose(session: &Session, composition: &Composition) -> Result<Composed, ComposeError> {
    let (found, left_out) = find_sources(session, composition).await?;
    assemble(composition, verify_all(session, composition, found).await?, left_out)
}

/// Finds and verifies the images, brings them to the targets, assembles the index and publishes it: images before the
/// index, tags last. Tags that hold the index already are not written; where a tag must not be moved, nothing is.
///
/// Within a registry that mounts, this takes three round trips for images of the target's own repository and four for
/// others, beside authentication and one for a source that is an index.
///
/// # Errors
/// See [`ComposeError`].
pub async fn publish_composition(
    session: &Session,
    composition: &Composition,
) -> Result<Publication, ComposeError> {
    let targets = &composition.targets;
    let session = &session.writing_to(
        targets.iter().map(|target| &target.repository),
        composition.sources.iter().map(|source| source.reference.repository()),
    );
    let tags = targets.iter().map(|target| Tags::read(session, &target.repository, &target.tags));
    let ((found, left_out), tags) =
        futures::try_join!(find_sources(session, composition), async { Ok(try_join_all(tags).await?) })?;
    let images: Vec<(Repository, Manifest)> = found.iter().flat_map(|(_, found)| found.manifests()).collect();
    let transfers = tags.iter().map(|tags| begin(session, tags, &images));
    let (images, transfers) =
        futures::try_join!(verify_all(session, composition, found), try_join_all(transfers))?;
    let composed = assemble(composition, images, left_out)?;
    let digest = &composed.index.descriptor.digest;
    for tags in &tags {
        tags.check(composition.policy, digest)?;
    }
    // Also where every tag holds the index already: a registry may have collected what it lists.
    let copied = try_join_all(transfers.into_iter().map(Transfer::finish))
        .await?
        .into_iter()
        .fold(Copied::default(), Copied::plus);
    let tags = match composition.policy {
        // Sending takes long enough for others to publish.
        TagPolicy::IfAbsent if copied.uploaded > 0 => checked_again(session, &tags, digest).await?,
        _ => tags,
    };
    let mut changes = Vec::new();
    let mut tags = tags.into_iter();
    if let Some(primary) = tags.next() {
        changes.extend(primary.write(session, &composed.index).await?);
    }
    let others = tags.map(|tags| tags.write(session, &composed.index));
    changes.extend(try_join_all(others).await?.into_iter().flatten());
    Ok(Publication { composed, copied, tags: changes })
}

async fn checked_again(session: &Session, tags: &[Tags], wanted: &Digest) -> Result<Vec<Tags>, ComposeError> {
    let tags = try_join_all(tags.iter().map(|tags| tags.read_again(session))).await?;
    for tags in &tags {
        tags.check(TagPolicy::IfAbsent, wanted)?;
    }
    Ok(tags)
}

async fn begin(
    session: &Session,
    tags: &Tags,
    images: &[(Repository, Manifest)],
) -> Result<Transfer, ComposeError> {
    let target = tags.repository();
    // What was just read from the target need not be brought there.
    let elsewhere = images.iter().filter(|(repository, _)| repository != target);
    let elsewhere: Vec<(&Repository, &Manifest)> =
        elsewhere.map(|(repository, manifest)| (repository, manifest)).collect();
    Ok(session.begin_transfer(target, &elsewhere, |digest| tags.has_child(digest)).await?)
}

/// What was found, each with the edits of its source, and warnings about what was left out.
async fn find_sources(
    session: &Session,
    composition: &Composition,
) -> Result<(Vec<(DescriptorEdits, Found)>, Vec<String>), ComposeError> {
    let base = async {
        let Some(base) = &composition.base else { return Ok(Default::default()) };
        match find_all(session, base).await {
            Err(ResolveError::Registry(error)) if error.kind() == Kind::NotFound => Ok(Default::default()),
            found => found,
        }
    };
    let sources = composition.sources.iter().map(|source| async move {
        let (found, left_out) = match &source.platform {
            Some(platform) => {
                find(session, &source.reference, platform).await.map(|(found, rest)| (vec![found], rest))?
            }
            None => find_all(session, &source.reference).await?,
        };
        Ok::<_, ResolveError>((source.edits.clone(), found, left_out))
    });
    let ((base, mut left_out), sources) = futures::try_join!(base, try_join_all(sources))?;
    let mut all: Vec<_> = base.into_iter().map(|found| (DescriptorEdits::default(), found)).collect();
    for (edits, found, others) in sources {
        all.extend(found.into_iter().map(|found| (edits.clone(), found)));
        left_out.extend(others);
    }
    Ok((all, left_out))
}

async fn verify_all(
    session: &Session,
    composition: &Composition,
    found: Vec<(DescriptorEdits, Found)>,
) -> Result<Vec<ResolvedImage>, ComposeError> {
    let verified = found.into_iter().map(|(edits, found)| async move {
        let mut image = verify(session, found, composition.check).await?;
        edits.apply(&mut image.image.descriptor);
        Ok::<_, ComposeError>(image)
    });
    try_join_all(verified).await
}

fn assemble(
    composition: &Composition,
    images: Vec<ResolvedImage>,
    left_out: Vec<String>,
) -> Result<Composed, ComposeError> {
    let images = match composition.base {
        Some(_) => amended(images),
        None => without_repetitions(images),
    };
    let entries: Vec<Descriptor> = images.iter().flat_map(ResolvedImage::descriptors).cloned().collect();
    let index = AssembledIndex::assemble(composition.format, &composition.annotations, &entries)?;
    let told = images.iter().flat_map(|image| &image.warnings).chain(&index.warnings).cloned();
    let warnings = left_out.into_iter().chain(told).collect();
    Ok(Composed { index, images, warnings })
}

/// An image that two sources name is one, and has the edits of both.
fn without_repetitions(images: Vec<ResolvedImage>) -> Vec<ResolvedImage> {
    let mut kept: Vec<ResolvedImage> = Vec::new();
    for image in images {
        let descriptor = &image.image.descriptor;
        let same = |other: &&mut ResolvedImage| {
            let other = &other.image.descriptor;
            other.digest == descriptor.digest && other.runs_on() == descriptor.runs_on()
        };
        match kept.iter_mut().find(same) {
            Some(other) => other.image.descriptor.annotations.extend(descriptor.annotations.clone()),
            None => kept.push(image),
        }
    }
    kept
}

/// The last image of a platform takes the place of the first.
fn amended(images: Vec<ResolvedImage>) -> Vec<ResolvedImage> {
    let mut kept: Vec<ResolvedImage> = Vec::new();
    for image in images {
        let descriptor = &image.image.descriptor;
        match kept.iter_mut().find(|other| other.image.descriptor.runs_on() == descriptor.runs_on()) {
            Some(other) => *other = image,
            None => kept.push(image),
        }
    }
    kept
}
