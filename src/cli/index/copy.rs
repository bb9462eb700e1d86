//! `multiarch index copy`: an index elsewhere, with everything it names.

use std::collections::{HashMap, HashSet};

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::Context;
use super::publish::Published;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::image::inspect::{Child, Problem, ProblemReason, read_children};
use crate::image::{AssembledIndex, EditableIndex, Followed, Referrers, Tags, by_repository, copy_referrers};
use crate::platform::Platform;
use crate::registry::{Copied, Digest, Manifest, Reference, Repository, Session};

/// The referrers of how many images are looked for at once.
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
    /// Copy as well what refers to the index and its images: OCI referrers, and the tags of cosign.
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let targets = by_repository(&self.targets);
        // --username is for the first of them.
        let repositories: Vec<&Repository> =
            targets.iter().map(|(target, _)| *target).chain([self.source.repository()]).collect();
        let session = self.registry.session(&context.client, &repositories).await?;
        let session = session
            .writing_to(targets.iter().map(|(target, _)| *target), repositories.iter().copied())
            .observed_by(progress::observer(context.quiet));
        let found = session.get_manifest(&self.source).await?;
        let manifest = self.filtered(context, found)?;
        let children = read_children(&session, &self.source, &manifest).await?;
        check_complete(&self.source, &children)?;

        let mut copied = Copied::default();
        let (mut changes, mut warnings) = (Vec::new(), Vec::new());
        // What a registry has once, its other repositories take from it.
        let mut nearest: HashMap<&str, &Repository> = HashMap::new();
        for (target, tags) in &targets {
            let source = nearest.get(target.registry()).copied().unwrap_or(self.source.repository());
            let tags = Tags::read(&session, target, tags).await?;
            if source != *target {
                // Also where all tags hold the index: a registry may have collected what it lists.
                let expected = tags.all_hold(&manifest.descriptor.digest);
                copied = copied.plus(copy_children(&session, &children, source, &tags, expected).await?);
            }
            if self.referrers {
                let followed = follow(&session, &manifest, &children, source, target).await?;
                context.say(followed_in_words(&followed));
                copied = copied.plus(followed.copied);
                warnings.extend(followed.warnings);
            }
            // Tags last: whoever finds the index finds its images, and its signatures too.
            changes.extend(tags.write(&session, &AssembledIndex::from(&manifest)).await?);
            nearest.insert(target.registry(), target);
        }
        let published = Published::new(&manifest.descriptor, changes);
        Published { copied: Some(copied.into()), warnings, ..published }.print(context, self.output.output)
    }

    /// The index with the platforms that are wanted only.
    fn filtered(&self, context: &Context, found: Manifest) -> Result<Manifest, Error> {
        if self.platforms.is_empty() {
            return Ok(found);
        }
        let media_type = &found.descriptor.media_type;
        if !media_type.is_index() {
            let message =
                format!("{}: --platform chooses from an index, and this is {media_type}", self.source);
            return Err(Failure::usage(message).into());
        }
        let mut index = EditableIndex::read(&found.bytes)?;
        index.keep(&self.platforms)?;
        let kept = index.write(&self.source.to_string(), media_type)?;
        if kept.descriptor.digest != found.descriptor.digest {
            context.say_filtered(&self.platforms, &kept.descriptor.digest, &found.descriptor.digest);
        }
        Ok(kept)
    }
}

/// What is not there cannot be copied, and half an index helps nobody.
fn check_complete(source: &Reference, children: &[Child]) -> Result<(), Error> {
    let is_broken = |child: &&Child| {
        let lies = |problem: &Problem| problem.reason == ProblemReason::SizeMismatch;
        child.manifest.is_none() || child.problems.iter().any(lies)
    };
    let Some(child) = children.iter().find(is_broken) else { return Ok(()) };
    let reasons: Vec<&str> = child.problems.iter().map(|problem| problem.message.as_str()).collect();
    let message = format!(
        "{source}: {} ({}): {}; nothing was published. --platform copies what is whole",
        child.platform_in_words(),
        child.descriptor.digest,
        reasons.join("; ")
    );
    Err(Failure::new(Exit::of_problems(&child.problems), message).into())
}

/// Images first, then the indexes that list them, the innermost first. Nothing is written that is there, and nothing is
/// mounted before it is looked for if all is `expected` to be there.
async fn copy_children(
    session: &Session,
    children: &[Child],
    source: &Repository,
    tags: &Tags,
    expected: bool,
) -> Result<Copied, Error> {
    let mut seen = HashSet::new();
    let manifests = children.iter().filter_map(|child| child.manifest.as_ref());
    let (indexes, images): (Vec<&Manifest>, Vec<&Manifest>) = manifests
        .filter(|manifest| seen.insert(&manifest.descriptor.digest))
        .partition(|manifest| manifest.descriptor.media_type.is_index());
    let images: Vec<(&Repository, &Manifest)> = images.into_iter().map(|image| (source, image)).collect();
    let likely = |digest: &Digest| expected || tags.has_child(digest);
    let transfer = session.begin_transfer(tags.repository(), &images, likely).await?;
    let copied = transfer.finish().await?;
    // Children come after their parents in the list.
    for Manifest { descriptor, bytes } in indexes.into_iter().rev() {
        let reference = tags.repository().with_digest(&descriptor.digest);
        if !session.has_manifest(&reference).await? {
            session.put_manifest(&reference, &descriptor.media_type, bytes).await?;
        }
    }
    Ok(copied)
}

/// Copies what refers to the index and to everything in it.
async fn follow(
    session: &Session,
    manifest: &Manifest,
    children: &[Child],
    source: &Repository,
    target: &Repository,
) -> Result<Followed, Error> {
    let mut seen = HashSet::new();
    let manifests =
        std::iter::once(manifest).chain(children.iter().filter_map(|child| child.manifest.as_ref()));
    let what = Referrers { oci: true, cosign: true };
    let followed = stream::iter(manifests.filter(|m| seen.insert(&m.descriptor.digest)))
        .map(|manifest| copy_referrers(session, source, target, &manifest.descriptor, what))
        .buffered(PARALLEL_IMAGES)
        .try_fold(Followed::default(), async |mut all, followed| {
            all.referrers.extend(followed.referrers);
            all.tags.extend(followed.tags);
            all.warnings.extend(followed.warnings);
            all.copied = all.copied.plus(followed.copied);
            Ok(all)
        });
    Ok(followed.await?)
}

fn followed_in_words(followed: &Followed) -> String {
    let Followed { referrers, tags, .. } = followed;
    format!("referrers: {} manifests, {} tags of cosign's", referrers.len(), tags.len())
}
