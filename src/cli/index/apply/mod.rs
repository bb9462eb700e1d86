//! `multiarch index apply`: what files say, published without a cluster.

mod document;
mod manifest_tool;
mod multi_arch_image;
mod schema;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use self::document::Document;
use super::Context;
use super::publish::{Published, print_composed};
use crate::cli::exit::Failure;
use crate::cli::output::{OutputArguments, OutputFormat, write};
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress};
use crate::image::{Composition, Publication, compose, publish_composition};
use crate::registry::{Reference, Repository};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

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
        for file in &self.files {
            let name = if is_standard_input(file) {
                "standard input".to_owned()
            } else {
                file.display().to_string()
            };
            documents.extend(document::read(&name, &self.read(file)?)?);
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
        let session = self.registry.session(&context.client, &repositories(composition)).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        if self.dry_run {
            let composed = compose(&session, composition).await?;
            return print_composed(context, &composed, &tags(composition), self.output.output);
        }
        let Publication { composed, copied, tags } = publish_composition(&session, composition).await?;
        let published = Published::new(&composed.index.descriptor, tags);
        Published { copied: Some(copied.into()), warnings: composed.warnings, ..published }
            .print(context, self.output.output)
    }

    fn read(&self, file: &Path) -> Result<String, Error> {
        if is_standard_input(file) {
            self.registry.leave_standard_input()?;
            return capped("standard input", io::stdin().lock());
        }
        let name = file.display().to_string();
        let opened = std::fs::File::open(file).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        capped(&name, opened)
    }
}

fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// All of a file that is not too large.
fn capped(name: &str, file: impl Read) -> Result<String, Error> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Failure::usage(format!("{name}: larger than {LARGEST_FILE} bytes")).into());
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{name}: not UTF-8")).into())
}

/// All that are talked to, the target first.
fn repositories(composition: &Composition) -> Vec<&Repository> {
    let targets = composition.targets.iter().map(|target| &target.repository);
    targets.chain(composition.sources.iter().map(|source| source.reference.repository())).collect()
}

fn tags(composition: &Composition) -> Vec<Reference> {
    let tags = composition
        .targets
        .iter()
        .flat_map(|target| target.tags.iter().filter_map(|tag| target.repository.with_tag(tag).ok()));
    tags.collect()
}
