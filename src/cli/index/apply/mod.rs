//! `multiarch index apply`: what files say, published without a cluster.

mod document;
mod manifest_tool;
mod multi_arch_image;

use std::path::PathBuf;

use clap::Args;

use self::document::Document;
use super::Context;
use super::publish::{Published, print_composed};
use crate::cli::output::{OutputArguments, OutputFormat, write};
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, file, progress};
use crate::image::{Composition, compose, publish_composition};
use crate::registry::Reference;

/// The files.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A file with MultiArchImages whose platforms all have an image, or of the form of manifest-tool; `-` is standard
    /// input. May be given more than once.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write nothing and print the indexes that would be published; with --output json, their exact bytes.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        // All are understood before anything is done for one.
        let mut documents = Vec::new();
        for path in &self.files {
            if file::is_standard_input(path) {
                self.registry.leave_standard_input()?;
            }
            let (name, text) = file::read(path)?;
            documents.extend(document::read(&name, &text)?);
        }
        for (number, document) in documents.iter().enumerate() {
            for warning in &document.warnings {
                context.warn(format!("{}: {warning}", document.name));
            }
            if document.suspended {
                context.say(format!("{}: suspended, nothing is done", document.name));
                continue;
            }
            if number > 0 && self.output.output == OutputFormat::Yaml {
                write(b"---\n")?;
            }
            self.apply(context, document).await.inspect_err(|_| {
                let total = documents.len();
                progress::say(&format!(
                    "{}: failed; of {total} documents, the {number} before it are done, those after it not",
                    document.name
                ));
            })?;
        }
        Ok(())
    }

    async fn apply(&self, context: &Context, Document { composition, .. }: &Document) -> Result<(), Error> {
        let session = self.registry.session(&context.client, &composition.repositories()).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        if self.dry_run {
            let composed = compose(&session, composition).await?;
            return print_composed(context, &composed, &tags(composition), self.output.output);
        }
        let publication = publish_composition(&session, composition).await?;
        Published::from(publication).print(context, self.output.output)
    }
}

fn tags(composition: &Composition) -> Vec<Reference> {
    let tags = composition
        .targets
        .iter()
        .flat_map(|target| target.tags.iter().filter_map(|tag| target.repository.with_tag(tag).ok()));
    tags.collect()
}
