//! `multiarch index annotate`: what an index says about its images, changed; the images stay as they are.

use std::sync::Arc;

use clap::Args;

use super::Context;
use super::publish::Published;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, reference};
use crate::image::{AssembledIndex, EditableIndex, Edits, Tags};
use crate::platform::Platform;
use crate::registry::{Manifest, Reference};

/// What is changed.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The index: `registry/repository:tag`. With a digest beside the tag, the tag is moved only if it still has that.
    #[arg(value_name = "REF", value_parser = reference::source)]
    reference: Reference,
    /// Change the entry for this platform; without it, the index itself.
    #[arg(short, long)]
    platform: Option<Platform>,
    /// An annotation to set; may be given more than once.
    #[arg(short, long = "annotation", value_name = "KEY=VALUE", value_parser = reference::annotation)]
    annotations: Vec<(Arc<str>, Arc<str>)>,
    /// The key of an annotation to remove; may be given more than once.
    #[arg(long = "remove-annotation", value_name = "KEY")]
    removed_annotations: Vec<String>,
    /// The variant of the architecture that the entry says; empty for none.
    #[arg(long, requires = "platform")]
    variant: Option<String>,
    /// The version of the operating system that the entry says; empty for none.
    #[arg(long, requires = "platform")]
    os_version: Option<String>,
    /// What the entry says that the operating system must have, separated by commas.
    #[arg(long, requires = "platform", value_delimiter = ',', value_name = "FEATURE,…")]
    os_features: Option<Vec<String>>,
    /// Publish under this tag instead of the one that was read; may be given more than once.
    #[arg(short, long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let (edits, tags) = (self.edits(), self.target_tags()?);
        if edits.is_empty() && self.tags.is_empty() {
            return Err(Failure::usage("nothing to change; see `multiarch index annotate --help`").into());
        }
        let repository = self.reference.repository();
        let session = self.registry.session(&context.client, &[repository]).await?.without_mirrors();
        let found = session.get_manifest(&self.reference).await?;
        let media_type = &found.descriptor.media_type;
        if !media_type.is_index() {
            let message = format!("{}: this is {media_type}, and no index", self.reference);
            return Err(Failure::usage(message).into());
        }
        let mut index = EditableIndex::read(&found.bytes)?;
        let changed = if edits.is_empty() {
            found.clone()
        } else {
            index.apply(self.platform.as_ref(), &edits)?;
            index.write(&self.reference.to_string(), media_type)?
        };
        let held = Tags::read(&session, repository, &tags).await?;
        if self.tags.is_empty() {
            self.check_unmoved(&held, &found)?;
        }
        let changes = held.write(&session, &AssembledIndex::from(&changed)).await?;
        Published::new(&changed.descriptor, changes).print(context, self.output.output)
    }

    fn edits(&self) -> Edits {
        Edits {
            annotations: self
                .annotations
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            removed_annotations: self.removed_annotations.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self
                .os_features
                .as_ref()
                .map(|features| features.iter().filter(|feature| !feature.is_empty()).cloned().collect()),
        }
    }

    fn target_tags(&self) -> Result<Vec<String>, Error> {
        let own = self.reference.tag().map(str::to_owned);
        let tags = if self.tags.is_empty() { own.into_iter().collect() } else { self.tags.clone() };
        if tags.is_empty() {
            let message = format!(
                "{} has no tag to publish under, and what is changed gets another digest; give one with --tag",
                self.reference
            );
            return Err(Failure::usage(message).into());
        }
        // Before anything is asked of a registry.
        tags.iter().try_for_each(|tag| self.reference.repository().with_tag(tag).map(drop))?;
        Ok(tags)
    }

    /// Nobody's work is overwritten unseen: the tag must still have what was changed.
    fn check_unmoved(&self, held: &Tags, found: &Manifest) -> Result<(), Error> {
        let Some(tag) = self.reference.tag() else { return Ok(()) };
        let tag = self.reference.repository().with_tag(tag)?;
        let was = &found.descriptor.digest;
        let message = match held.held_by(&tag) {
            Some(now) if now == was => return Ok(()),
            Some(now) => {
                format!("{tag} is {now} by now, and was {was}; nothing was changed, look at it again")
            }
            None => format!("{tag} is gone, and was {was}; nothing was changed"),
        };
        Err(Failure::new(Exit::Conflict, message).into())
    }
}
