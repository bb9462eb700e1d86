//! What is published under tags, and what is said about it.

use indicatif::HumanBytes;
use serde::Serialize;

use super::Context;
use crate::cli::Error;
use crate::cli::output::{BOLD, OutputFormat, Table, write, write_exactly};
use crate::image::{Composed, Publication, ResolvedImage, TagChange};
use crate::registry::{Copied, Descriptor, Digest, MediaType, Reference};

/// What has been published, in the words that programs read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Published {
    pub(super) digest: Digest,
    pub(super) media_type: MediaType,
    pub(super) size: u64,
    pub(super) tags: Vec<PublishedTag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copied: Option<CopiedBlobs>,
    pub(super) warnings: Vec<String>,
}

/// A tag, and what has become of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublishedTag {
    /// `repository:tag@digest`.
    pub(super) reference: String,
    pub(super) change: Change,
    /// What the tag had before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Digest>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Moved,
    Unchanged,
}

/// How the blobs came.
#[derive(Serialize)]
pub(super) struct CopiedBlobs {
    pub(super) uploaded: usize,
    pub(super) mounted: usize,
    pub(super) present: usize,
    pub(super) bytes: u64,
}

impl Published {
    /// The index with what became of its tags.
    pub(super) fn new(descriptor: &Descriptor, tags: Vec<(Reference, TagChange)>) -> Self {
        let digest = descriptor.digest.clone();
        let tags = tags.into_iter().map(|(tag, change)| PublishedTag::new(&tag, &digest, change));
        Self {
            tags: tags.collect(),
            digest: digest.clone(),
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            copied: None,
            warnings: Vec::new(),
        }
    }

    /// Tells what has happened: `repository:tag@digest` a line, or all of it for programs.
    pub(super) fn print(&self, context: &Context, output: OutputFormat) -> Result<(), Error> {
        self.warnings.iter().for_each(|warning| context.warn(warning));
        if let Some(copied) = &self.copied {
            context.say(copied.in_words());
        }
        for tag in &self.tags {
            context.say(match (tag.change, &tag.from) {
                (Change::Moved, Some(from)) => format!("moved {}, which was {from}", tag.reference),
                (Change::Moved, None) => format!("moved {}", tag.reference),
                (Change::Created, _) => format!("created {}", tag.reference),
                (Change::Unchanged, _) => format!("unchanged {}", tag.reference),
            });
        }
        match output {
            OutputFormat::Table => {
                let lines: String = self.tags.iter().map(|tag| tag.reference.clone() + "\n").collect();
                write(lines.as_bytes())
            }
            _ => output.print(self, |_| String::new()),
        }
    }
}

impl From<Publication> for Published {
    fn from(Publication { composed, copied, tags }: Publication) -> Self {
        let published = Self::new(&composed.index.descriptor, tags);
        Self { copied: Some(copied.into()), warnings: composed.warnings, ..published }
    }
}

impl PublishedTag {
    pub(super) fn new(reference: &Reference, digest: &Digest, change: TagChange) -> Self {
        // A reference without a tag is that of the digest already.
        let reference = match reference.digest() {
            Some(_) => reference.to_string(),
            None => format!("{reference}@{digest}"),
        };
        let (change, from) = match change {
            TagChange::Created => (Change::Created, None),
            TagChange::Moved { from } => (Change::Moved, Some(from)),
            TagChange::Unchanged => (Change::Unchanged, None),
        };
        Self { reference, change, from }
    }
}

impl CopiedBlobs {
    fn in_words(&self) -> String {
        let Self { uploaded, mounted, present, bytes } = self;
        let sent = HumanBytes(*bytes);
        format!("blobs: {uploaded} sent ({sent}), {mounted} mounted, {present} there already")
    }
}

impl From<Copied> for CopiedBlobs {
    fn from(Copied { bytes, mounted, uploaded, present }: Copied) -> Self {
        Self { uploaded, mounted, present, bytes }
    }
}

/// Tells what would be published under these tags.
pub(super) fn print_composed(
    context: &Context,
    composed: &Composed,
    targets: &[Reference],
    output: OutputFormat,
) -> Result<(), Error> {
    composed.warnings.iter().for_each(|warning| context.warn(warning));
    let index = &composed.index;
    match output {
        OutputFormat::Json => write_exactly(&index.bytes),
        OutputFormat::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&index.bytes)?;
            output.print(&value, |_| String::new())
        }
        OutputFormat::Table => write(render(composed, targets).as_bytes()),
    }
}

fn render(composed: &Composed, targets: &[Reference]) -> String {
    let descriptor = &composed.index.descriptor;
    let line = |name: &str, value: &str| format!("{BOLD}{name:<13}{BOLD:#}{value}\n");
    let mut text = line("Digest:", descriptor.digest.as_str());
    text += &line("Media type:", descriptor.media_type.as_str());
    for target in targets {
        text += &line("Target:", &target.to_string());
    }
    let mut images = Table::new(["PLATFORM", "DIGEST", "ATTESTATIONS", "FROM"]);
    for ResolvedImage { repository, image, attestations, .. } in &composed.images {
        let attestations =
            if attestations.is_empty() { String::new() } else { attestations.len().to_string() };
        let platform = image.descriptor.platform_in_words();
        let digest = image.descriptor.digest.to_string();
        images.row([platform.into(), digest.into(), attestations.into(), repository.to_string().into()]);
    }
    text + "\n" + &images.render()
}
