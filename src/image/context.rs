//! An image or an artifact whose files are the context of a build.

use super::manifest::ImageManifest;
use crate::registry::{Digest, Error, Reference, Session, readable};

/// What a reference to a build context leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextImage {
    /// Of the manifest or the index.
    pub digest: Digest,
    /// Of the archive, if it is an artifact and no image.
    pub archive: Option<Digest>,
}

/// Why a reference leads to no build context.
#[derive(Debug, thiserror::Error)]
pub enum ContextImageError {
    /// The registry failed, or said no.
    #[error(transparent)]
    Registry(#[from] Error),
    /// It is neither an image nor an artifact with one archive.
    #[error("{reference}: {cause}; a context is an image, or an artifact with one tar archive")]
    Unusable {
        /// What was asked for.
        reference: Box<Reference>,
        /// What it is instead.
        cause: String,
    },
}

/// Looks up the image or artifact of a reference.
///
/// # Errors
/// See [`ContextImageError`].
pub async fn context_image(
    session: &Session,
    reference: &Reference,
) -> Result<ContextImage, ContextImageError> {
    let unusable =
        |cause: String| ContextImageError::Unusable { reference: Box::new(reference.clone()), cause };
    let manifest = session.get_manifest(reference).await?;
    let digest = manifest.descriptor.digest.clone();
    if manifest.descriptor.media_type.is_index() {
        return Ok(ContextImage { digest, archive: None });
    }
    let parsed: ImageManifest = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| unusable(readable(&format!("no manifest: {error}"))))?;
    if parsed.config.media_type.is_image_config() {
        return Ok(ContextImage { digest, archive: None });
    }
    match parsed.layers.as_slice() {
        [archive] if archive.media_type.as_str().contains("tar") => {
            Ok(ContextImage { digest, archive: Some(archive.digest.clone()) })
        }
        [other] => Err(unusable(readable(&format!("the artifact's layer is {}", other.media_type)))),
        layers => Err(unusable(format!("the artifact has {} layers", layers.len()))),
    }
}
