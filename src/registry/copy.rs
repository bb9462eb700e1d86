//! Whole images from one repository to another, unchanged.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::blobs::{Delivery, Mount};
use super::descriptor::{Descriptor, null_as_default};
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::manifests::Manifest;
use super::reference::Repository;
use super::session::Session;
use super::upload::Upload;

/// How many blobs are asked for or mounted at once. What is sent at once is bounded by the client.
const PARALLEL_BLOBS: usize = 64;

/// What it took to copy images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of blobs that were sent.
    pub bytes: u64,
    /// Blobs that the registry took from a neighbour.
    pub mounted: usize,
    /// Blobs whose bytes were sent.
    pub uploaded: usize,
    /// Blobs that were there already.
    pub present: usize,
}

/// Images on their way to a repository: what costs nothing has been done, their bytes are still to be sent.
pub struct Transfer {
    session: Session,
    target: Repository,
    manifests: Vec<Manifest>,
    blobs: Vec<Pending>,
    copied: Copied,
}

struct Pending {
    source: Repository,
    blob: Descriptor,
    /// The upload that a mount has led to.
    opened: Option<Box<Upload>>,
}

impl Session {
    /// Brings one image with its config and layers from `source` to `target`, under its digest only.
    ///
    /// If the target has the manifest, it has what the manifest names, and one request is all this costs. Else
    /// blobs go first, the largest first and each once, then the manifest with its bytes unchanged: dropping
    /// the future leaves no image that is there by half. Layers that are in no registry stay where they are.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the target is the source and does not have the manifest,
    /// [`Kind::Unsupported`] if the manifest is an index.
    pub async fn copy(
        &self,
        source: &Repository,
        target: &Repository,
        manifest: &Manifest,
    ) -> Result<Copied, Error> {
        let operation = Operation::new(target.with_digest(&manifest.descriptor.digest), "copying the image");
        let images = [(source, manifest)];
        let transfer = self.begin_transfer(target, &images, |_| true).await?;
        if source == target && !transfer.manifests.is_empty() {
            return Err(operation.error(Kind::NotFound, "not found"));
        }
        transfer.finish().await
    }

    /// Begins to bring images, each with the repository that has it, into `target`: finds out which are there, and
    /// mounts what can be mounted. Takes one round trip, or two for an image that was expected and is not there.
    ///
    /// The target is asked only for images that are `expected` there or come from another registry: mounting costs no
    /// more than asking.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if a manifest is an index, or whatever the registry answers.
    pub async fn begin_transfer(
        &self,
        target: &Repository,
        images: &[(&Repository, &Manifest)],
        expected: impl Fn(&Digest) -> bool,
    ) -> Result<Transfer, Error> {
        let session = self.writing_to([target], images.iter().map(|(source, _)| *source));
        let missing = images.iter().map(|&(source, manifest)| {
            let session = &session;
            let ask = expected(&manifest.descriptor.digest) || source.registry() != target.registry();
            async move {
                let there = ask && session.is_there(source, target, &manifest.descriptor.digest).await?;
                Ok::<_, Error>((source, manifest, there))
            }
        });
        let mut transfer = Transfer {
            session: session.clone(),
            target: target.clone(),
            manifests: Vec::new(),
            blobs: Vec::new(),
            copied: Copied::default(),
        };
        let mut wanted = Vec::new();
        let mut seen = HashSet::new();
        for (source, manifest, there) in try_join_all(missing).await? {
            let operation =
                Operation::new(target.with_digest(&manifest.descriptor.digest), "copying the image");
            let blobs = blobs(&operation, manifest)?;
            if there {
                transfer.copied.present += blobs.len();
                continue;
            }
            transfer.manifests.push(manifest.clone());
            // A blob that platforms share goes once.
            wanted.extend(
                blobs.into_iter().filter(|b| seen.insert(b.digest.clone())).map(|b| (source.clone(), b)),
            );
        }
        // The longest way should not be begun last.
        wanted.sort_by_key(|(_, blob)| Reverse(blob.size));
        let mounts = stream::iter(wanted)
            .map(|(source, blob)| session.mount_or_note(source, target, blob))
            .buffered(PARALLEL_BLOBS);
        let noted: Vec<Option<Pending>> = mounts.collect().await;
        transfer.copied.mounted = noted.iter().filter(|pending| pending.is_none()).count();
        transfer.blobs = noted.into_iter().flatten().collect();
        Ok(transfer)
    }

    async fn is_there(
        &self,
        source: &Repository,
        target: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let reference = target.with_digest(digest);
        match source == target {
            // Nothing will be written that could tell.
            true => Ok(self.head_manifest(&reference).await?.is_some()),
            false => self.has_manifest(&reference).await,
        }
    }

    async fn mount_or_note(
        &self,
        source: Repository,
        target: &Repository,
        blob: Descriptor,
    ) -> Option<Pending> {
        let opened = match self.mount_blob(&source, target, &blob).await {
            Mount::Done => return None,
            Mount::Upload(upload) => Some(upload),
            Mount::Refused => None,
        };
        Some(Pending { source, blob, opened })
    }
}

impl Transfer {
    /// Sends what could not be mounted, then writes the manifests.
    ///
    /// # Errors
    /// If a source cannot be read, or the target cannot be written. No manifest is written then whose blobs are not
    /// there.
    pub async fn finish(self) -> Result<Copied, Error> {
        let Self { session, target, manifests, blobs, copied } = self;
        let copied = stream::iter(blobs)
            .map(|Pending { source, blob, opened }| {
                let (session, target) = (&session, &target);
                async move {
                    let store = Arc::new(session.source_of_upload(&source));
                    let delivery = session.deliver(target, &blob, store, opened).await?;
                    Ok::<_, Error>((blob.size, delivery))
                }
            })
            .buffer_unordered(PARALLEL_BLOBS)
            .try_fold(copied, async |sum, (size, delivery)| Ok(sum.and(size, delivery)))
            .await?;
        let put = manifests.iter().map(|Manifest { descriptor, bytes }| {
            let reference = target.with_digest(&descriptor.digest);
            let session = &session;
            async move { session.put_manifest(&reference, &descriptor.media_type, bytes).await }
        });
        try_join_all(put).await?;
        Ok(copied)
    }
}

impl Copied {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            mounted: self.mounted + other.mounted,
            uploaded: self.uploaded + other.uploaded,
            present: self.present + other.present,
        }
    }

    pub(crate) fn and(mut self, size: u64, delivery: Delivery) -> Self {
        match delivery {
            Delivery::Present => self.present += 1,
            Delivery::Mounted => self.mounted += 1,
            Delivery::Uploaded => {
                self.uploaded += 1;
                self.bytes += size;
            }
        }
        self
    }
}

#[derive(Deserialize)]
struct Contents {
    config: Descriptor,
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<Descriptor>,
}

/// The blobs that go with a manifest, each once.
pub(crate) fn blobs(operation: &Operation, manifest: &Manifest) -> Result<Vec<Descriptor>, Error> {
    let media_type = &manifest.descriptor.media_type;
    if !media_type.is_manifest() {
        return Err(operation.error(Kind::Unsupported, format!("only images are copied, not {media_type}")));
    }
    let Contents { config, layers } = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| operation.error(Kind::Malformed, format!("this is no image manifest: {error}")))?;
    let mut seen = HashSet::new();
    Ok(layers
        .into_iter()
        .filter(|layer| !layer.media_type.is_foreign_layer())
        .chain([config])
        .filter(|blob| seen.insert(blob.digest.clone()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::MediaType;
    use super::*;

    fn layer(name: &str, size: u64, media_type: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": media_type, "digest": Digest::sha256(name.as_bytes()), "size": size})
    }

    fn manifest(media_type: MediaType, content: &serde_json::Value) -> Manifest {
        let bytes = bytes::Bytes::from(content.to_string());
        Manifest {
            descriptor: Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64),
            bytes,
        }
    }

    #[test]
    fn every_blob_of_the_registry_is_copied_once() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let content = serde_json::json!({
            "config": layer("config", 7, MediaType::OCI_CONFIG.as_str()),
            "layers": [layer("a", 10, gzip), layer("b", 99, gzip), layer("a", 10, gzip), layer("windows", 1000, foreign)],
        });
        let blobs =
            blobs(&Operation::new("a.io/web", "testing"), &manifest(MediaType::OCI_MANIFEST, &content))
                .unwrap();
        let sizes: Vec<u64> = blobs.iter().map(|blob| blob.size).collect();
        assert_eq!(sizes, [10, 99, 7]);
    }

    #[test]
    fn an_index_is_not_copied_as_an_image() {
        let index = manifest(MediaType::OCI_INDEX, &serde_json::json!({"manifests": []}));
        let error = blobs(&Operation::new("a.io/web", "testing"), &index).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
