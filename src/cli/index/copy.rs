//! `multiarch index copy`: an index elsewhere, with everything it names.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::HumanBytes;

use super::Context;
use super::publish::{CopiedBlobs, Published, tag_all};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::image::EditableIndex;
use crate::image::inspect::{Child, read_children};
use crate::platform::Platform;
use crate::registry::{Copied, Manifest, Reference, Repository, Session};

/// How many images are on their way at once; each has a few blobs on their way.
const PARALLEL_IMAGES: usize = 4;

/// From where to where.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The index, or an image.
    #[arg(value_name = "SRC", value_parser = reference::source)]
    source: Reference,
    /// Where it goes: `registry/repository:tag`, as many as are wanted.
    #[arg(value_name = "DST", required = true, value_parser = reference::target)]
    targets: Vec<Reference>,
    /// Only this platform with its attestations; may be given more than once. The index gets another digest.
    #[arg(short, long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let targets = by_repository(&self.targets);
        let repositories: Vec<&Repository> =
            std::iter::once(self.source.repository()).chain(targets.iter().map(|(target, _)| *target)).collect();
        let session = self.registry.session(&context.client, &repositories).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        let found = session.get_manifest(&self.source).await?;
        let manifest = self.filtered(context, found)?;
        let children = read_children(&session, &self.source, &manifest).await?;
        check_complete(&self.source, &children)?;

        let mut published = Published::new(&manifest);
        let mut copied = CopiedBlobs::default();
        // What a registry has once, its other repositories take from it.
        let mut nearest: HashMap<&str, &Repository> = HashMap::new();
        for (target, tags) in &targets {
            let source = nearest.get(target.registry()).copied().unwrap_or(self.source.repository());
            copied.add(copy_children(&session, source, target, &children).await?);
            nearest.insert(target.registry(), target);
            published.tags.extend(tag_all(&session, &manifest, tags).await?);
        }
        context.say(format!(
            "{} blobs sent ({}), {} mounted, {} there already",
            copied.uploaded,
            HumanBytes(copied.bytes),
            copied.mounted,
            copied.present
        ));
        published.copied = Some(copied);
        published.print(context, self.output.output)
    }

    /// The index with the platforms that are wanted only.
    fn filtered(&self, context: &Context, found: Manifest) -> Result<Manifest, Error> {
        if self.platforms.is_empty() {
            return Ok(found);
        }
        let media_type = &found.descriptor.media_type;
        if !media_type.is_index() {
            let message = format!("{}: --platform chooses from an index, and this is {media_type}", self.source);
            return Err(Failure::usage(message).into());
        }
        let mut index = EditableIndex::read(&found.bytes)?;
        index.keep(&self.platforms)?;
        let kept = index.write(&self.source.to_string(), media_type)?;
        if kept.descriptor.digest != found.descriptor.digest {
            let platforms: Vec<String> = self.platforms.iter().map(Platform::to_string).collect();
            context.say(format!(
                "only {}: the index gets the digest {} instead of {}",
                platforms.join(", "),
                kept.descriptor.digest,
                found.descriptor.digest
            ));
        }
        Ok(kept)
    }
}

impl CopiedBlobs {
    fn add(&mut self, copied: CopiedBlobs) {
        self.uploaded += copied.uploaded;
        self.mounted += copied.mounted;
        self.present += copied.present;
        self.bytes = self.bytes.saturating_add(copied.bytes);
    }
}

impl From<Copied> for CopiedBlobs {
    fn from(Copied { bytes, mounted, uploaded, present, .. }: Copied) -> Self {
        Self { uploaded, mounted, present, bytes }
    }
}

/// The tags of each repository, repositories in the order they were named.
fn by_repository(targets: &[Reference]) -> Vec<(&Repository, Vec<Reference>)> {
    let mut grouped: Vec<(&Repository, Vec<Reference>)> = Vec::new();
    for target in targets {
        match grouped.iter_mut().find(|(repository, _)| *repository == target.repository()) {
            Some((_, tags)) if tags.contains(target) => {}
            Some((_, tags)) => tags.push(target.clone()),
            None => grouped.push((target.repository(), vec![target.clone()])),
        }
    }
    grouped
}

/// What is not there cannot be copied, and half an index helps nobody.
fn check_complete(source: &Reference, children: &[Child]) -> Result<(), Error> {
    let broken = |child: &&Child| child.manifest.is_none();
    let Some(child) = children.iter().find(broken) else { return Ok(()) };
    let reasons: Vec<&str> = child.problems.iter().map(|problem| problem.message.as_str()).collect();
    let message = format!(
        "{source}: {} ({}): {}; nothing was published. --platform copies what is whole",
        child.platform_in_words(),
        child.descriptor.digest,
        reasons.join("; ")
    );
    Err(Failure::new(Exit::NotFound, message).into())
}

/// Images first, then the indexes that list them, the innermost first.
async fn copy_children(
    session: &Session,
    source: &Repository,
    target: &Repository,
    children: &[Child],
) -> Result<CopiedBlobs, Error> {
    // The same manifest may be listed twice.
    let manifests: BTreeMap<_, _> = children
        .iter()
        .filter_map(|child| child.manifest.as_ref())
        .map(|manifest| (&manifest.descriptor.digest, manifest))
        .collect();
    let images = manifests.values().filter(|manifest| !manifest.descriptor.media_type.is_index());
    let copied = stream::iter(images)
        .map(|manifest| session.copy(source, target, manifest))
        .buffer_unordered(PARALLEL_IMAGES)
        .try_fold(CopiedBlobs::default(), async |mut sum, copied| {
            sum.add(copied.into());
            Ok(sum)
        })
        .await?;
    // Children come after their parents in the list.
    for Child { manifest, .. } in children.iter().rev() {
        if let Some(Manifest { descriptor, bytes }) = manifest.as_ref().filter(|m| m.descriptor.media_type.is_index())
        {
            session.put_manifest(&target.with_digest(&descriptor.digest), &descriptor.media_type, bytes).await?;
        }
    }
    Ok(copied)
}
