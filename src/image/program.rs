//! The program of an image that was found before.

use std::sync::Arc;

use super::binary::{ProgramFinding, inspect_program};
use super::manifest::{ImageConfig, ImageManifest};
use super::resolve::ResolvedImage;
use crate::platform::Platform;
use crate::registry::{Error, LARGEST_MANIFEST, Repository, Session, readable};

/// Looks into an image that is in `repository`: was the program that it starts made for `platform`? Costs what
/// [`inspect_program`] costs, and the image's config.
///
/// # Errors
/// If the registry is unavailable, denies access, or lacks the image's blobs.
pub async fn inspect_program_of(
    session: &Session,
    repository: &Repository,
    image: &ResolvedImage,
    platform: &Platform,
) -> Result<ProgramFinding, Error> {
    let unknown = |why: String| Ok(ProgramFinding::Unknown { why });
    let manifest: ImageManifest = match serde_json::from_slice(&image.image.bytes) {
        Ok(manifest) => manifest,
        Err(error) => return unknown(readable(&format!("its manifest cannot be read: {error}"))),
    };
    if !manifest.config.media_type.is_image_config() {
        return unknown(readable(&format!("its config is {}", manifest.config.media_type)));
    }
    let config = session.get_blob_bytes(repository, &manifest.config, LARGEST_MANIFEST).await?;
    let config = match ImageConfig::read(&config) {
        Ok(config) => config,
        Err(error) => return unknown(format!("its config cannot be read: {error}")),
    };
    inspect_program(Arc::new(session.blobs_of(repository)), &manifest, &config, platform).await
}
