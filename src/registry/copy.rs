//! Whole images from one repository to another, unchanged.

use std::cmp::Reverse;
use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::blobs::Delivery;
use super::descriptor::{Descriptor, null_as_default};
use super::error::{Error, Kind, Operation};
use super::manifests::Manifest;
use super::reference::Repository;
use super::session::Session;

/// How many blobs of an image are on their way at once. Each needs the memory of a few network frames.
const PARALLEL_BLOBS: usize = 4;

/// What it took to copy an image.
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
        let Manifest { descriptor, bytes } = manifest;
        let reference = target.with_digest(&descriptor.digest);
        let operation = Operation::new(&reference, "copying the image");
        let blobs = blobs(&operation, manifest)?;
        let found = self.clone().writing_to([target]).head_manifest(&reference).await;
        match found {
            Ok(Some(_)) => return Ok(Copied { present: blobs.len(), ..Copied::default() }),
            Ok(None) if source == target => return Err(operation.error(Kind::NotFound, "not found")),
            Ok(None) => {}
            // To who may not see what is not there, pushing it will say whether that is the reason.
            Err(error) if error.kind() == Kind::Denied && source != target => {}
            Err(error) => return Err(error),
        }
        let copied =
            stream::iter(blobs)
                .map(|blob| async move {
                    Ok::<_, Error>((blob.size, self.copy_blob(source, target, &blob).await?))
                })
                .buffer_unordered(PARALLEL_BLOBS)
                .try_fold(Copied::default(), async |sum, (size, delivery)| Ok(sum.and(size, delivery)))
                .await?;
        self.put_manifest(&reference, &descriptor.media_type, bytes).await?;
        Ok(copied)
    }
}

impl Copied {
    fn and(mut self, size: u64, delivery: Delivery) -> Self {
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

/// The blobs that go with a manifest, each once, the largest first: the longest way should not be begun last.
fn blobs(operation: &Operation, manifest: &Manifest) -> Result<Vec<Descriptor>, Error> {
    let media_type = &manifest.descriptor.media_type;
    if !media_type.is_manifest() {
        return Err(operation.error(Kind::Unsupported, format!("only images are copied, not {media_type}")));
    }
    let Contents { config, layers } = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| operation.error(Kind::Malformed, format!("this is no image manifest: {error}")))?;
    let mut seen = HashSet::new();
    let mut blobs: Vec<Descriptor> = layers
        .into_iter()
        .filter(|layer| !layer.media_type.is_foreign_layer())
        .chain([config])
        .filter(|blob| seen.insert(blob.digest.clone()))
        .collect();
    blobs.sort_by_key(|blob| Reverse(blob.size));
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::MediaType;
    use super::super::digest::Digest;
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
    fn every_blob_of_the_registry_is_copied_once_and_the_largest_first() {
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
        assert_eq!(sizes, [99, 10, 7]);
    }

    #[test]
    fn an_index_is_not_copied_as_an_image() {
        let index = manifest(MediaType::OCI_INDEX, &serde_json::json!({"manifests": []}));
        let error = blobs(&Operation::new("a.io/web", "testing"), &index).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
