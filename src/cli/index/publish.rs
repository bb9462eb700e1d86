//! What is published under tags, and what is said about it.

use futures::future::try_join_all;
use serde::Serialize;

use super::Context;
use crate::cli::Error;
use crate::cli::output::{OutputFormat, write};
use crate::registry::{Digest, Manifest, MediaType, Reference, Session};

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
#[derive(Serialize, Default, Clone, Copy)]
pub(super) struct CopiedBlobs {
    pub(super) uploaded: usize,
    pub(super) mounted: usize,
    pub(super) present: usize,
    pub(super) bytes: u64,
}

impl Published {
    /// Nothing yet, of this manifest.
    pub(super) fn new(manifest: &Manifest) -> Self {
        Self {
            digest: manifest.descriptor.digest.clone(),
            media_type: manifest.descriptor.media_type.clone(),
            size: manifest.descriptor.size,
            tags: Vec::new(),
            copied: None,
            warnings: Vec::new(),
        }
    }

    /// Tells what has happened: `repository:tag@digest` a line, or all of it for programs.
    pub(super) fn print(&self, context: &Context, output: OutputFormat) -> Result<(), Error> {
        for tag in &self.tags {
            context.say(match (tag.change, &tag.from) {
                (Change::Moved, Some(from)) => format!("moved {} from {from}", tag.reference),
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

/// Puts the manifest under each tag that has something else. What it names must be there already.
pub(super) async fn tag_all(
    session: &Session,
    manifest: &Manifest,
    tags: &[Reference],
) -> Result<Vec<PublishedTag>, Error> {
    try_join_all(tags.iter().map(|tag| tag_one(session, manifest, tag))).await
}

async fn tag_one(session: &Session, manifest: &Manifest, tag: &Reference) -> Result<PublishedTag, Error> {
    let digest = &manifest.descriptor.digest;
    let from = session.head_manifest(tag).await?.map(|found| found.digest);
    let change = match &from {
        Some(from) if from == digest => Change::Unchanged,
        Some(_) => Change::Moved,
        None => Change::Created,
    };
    if change != Change::Unchanged {
        session.put_manifest(tag, &manifest.descriptor.media_type, &manifest.bytes).await?;
    }
    let from = from.filter(|_| change == Change::Moved);
    Ok(PublishedTag { reference: format!("{tag}@{digest}"), change, from })
}
