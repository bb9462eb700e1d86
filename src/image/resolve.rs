//! From a reference and a platform to the one image that runs there, verified.

use std::collections::BTreeMap;

use super::find::{Choice, Chosen, Found, check_entries, choose, fetch};
use super::manifest::{ImageConfig, ImageManifest, listed};
use crate::api::Enforcement;
use crate::platform::Platform;
use crate::registry::{
    Descriptor, DescriptorPlatform, Error, LARGEST_MANIFEST, Manifest, Operation, Reference, Repository,
    Session, readable,
};

/// What is done about an image whose config names another platform than the declared one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlatformCheck {
    /// The image is refused.
    #[default]
    Enforce,
    /// The image is taken, with a warning.
    Warn,
    /// The image is taken.
    Off,
}

impl From<Enforcement> for PlatformCheck {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Enforce => PlatformCheck::Enforce,
            Enforcement::Warn => PlatformCheck::Warn,
            Enforcement::Off => PlatformCheck::Off,
        }
    }
}

/// An image for one platform, as its registry has it, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Where the image is.
    pub repository: Repository,
    /// What the reference named: the index, or the image itself.
    pub source: Descriptor,
    /// The image, with the platform and the annotations for its entry in an index.
    pub image: Manifest,
    /// Its attestations, with the annotations that say so. Their manifests are fetched when they are copied.
    pub attestations: Vec<Descriptor>,
    /// What people should know, though the image is usable.
    pub warnings: Vec<String>,
}

impl ResolvedImage {
    /// The entries of an index for this image: itself, then its attestations.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.image.descriptor).chain(&self.attestations)
    }
}

/// Why a reference leads to no image for a platform.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// The registry failed, or said no.
    #[error(transparent)]
    Registry(#[from] Error),
    /// The index has nothing for the platform.
    #[error("{reference}: no image for {platform}; the index has {}", listed(available))]
    NoSuchPlatform {
        /// The index.
        reference: Box<Reference>,
        /// The platform that was looked for.
        platform: Platform,
        /// The platforms it has.
        available: Vec<String>,
    },
    /// The index has several images for the platform.
    #[error("{reference}: {} images for {platform}: {}; name one of them by its digest", candidates.len(), listed(candidates))]
    Ambiguous {
        /// The index.
        reference: Box<Reference>,
        /// The platform that was looked for.
        platform: Platform,
        /// Each with its platform and digest.
        candidates: Vec<String>,
    },
    /// The image's config names another platform.
    #[error(
        "{reference}: the image is for {}, not for {declared} (its config {config} says so)",
        readable(&found.to_string())
    )]
    PlatformMismatch {
        /// The image.
        reference: Box<Reference>,
        /// The platform it should have.
        declared: Box<Platform>,
        /// The platform that it has.
        found: Box<Platform>,
        /// The digest of the config.
        config: String,
    },
    /// The manifest is something else than an image that can be run.
    #[error("{reference}: not an image that runs anywhere: {reason}")]
    NotAnImage {
        /// The manifest.
        reference: Box<Reference>,
        /// What it is.
        reason: String,
    },
}

/// Finds the image for `platform` at `reference`, reads it and verifies that it is what it says.
///
/// Of an index, the one entry for the platform, with its attestations; an index within the index is looked into
/// once. The entry's own platform is written as declared and normalised, so that the same image gives the same index
/// however its source spells `arm64/v8`; `os.version` and `os.features` are kept.
///
/// # Errors
/// See [`ResolveError`].
pub async fn resolve(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
    check: PlatformCheck,
) -> Result<ResolvedImage, ResolveError> {
    let Choice { source, image, about, left_out } = choose(session, reference, platform).await?;
    let verified = async {
        let image = match image {
            Chosen::Alone(image) => image,
            Chosen::Entry(entry) => fetch(session, reference, entry).await?,
        };
        let operation = Operation::new(reference, "keeping the manifest");
        let image = Manifest { bytes: session.client().keep(&operation, &image.bytes)?, ..image };
        let (reference, declared) = (reference.clone(), Some(platform.clone()));
        verify(session, Found { reference, declared, source, image, attestations: Vec::new() }, check).await
    };
    let (mut image, attestations) = futures::try_join!(verified, attested(session, reference, about))?;
    image.attestations = attestations;
    check_entries(reference, image.descriptors())?;
    image.warnings.extend(left_out);
    Ok(image)
}

/// The attestations, once each was there. They may be large, so none is kept.
async fn attested(
    session: &Session,
    reference: &Reference,
    about: Vec<Descriptor>,
) -> Result<Vec<Descriptor>, ResolveError> {
    let mut attestations = Vec::new();
    for entry in about {
        attestations.push(fetch(session, reference, entry).await?.descriptor);
    }
    Ok(attestations)
}

/// Brings an image and its attestations from one repository to another: see [`Session::copy`].
///
/// # Errors
/// If the source cannot be read, or the target cannot be written.
pub async fn copy_image(
    session: &Session,
    source: &Repository,
    target: &Repository,
    image: &ResolvedImage,
) -> Result<(), Error> {
    session.copy(source, target, &image.image).await?;
    for descriptor in &image.attestations {
        let reference = source.with_digest(&descriptor.digest);
        let bytes = session.get_manifest(&reference).await?.bytes;
        let bytes = session.client().keep(&Operation::new(&reference, "copying the attestation"), &bytes)?;
        session.copy(source, target, &Manifest { descriptor: descriptor.clone(), bytes }).await?;
    }
    Ok(())
}

/// Reads the config of what was found and holds it against the platform. Without a declared one, the config's own
/// is the platform.
pub(super) async fn verify(
    session: &Session,
    found: Found,
    check: PlatformCheck,
) -> Result<ResolvedImage, ResolveError> {
    let Found { reference, declared, source, mut image, attestations } = found;
    let descriptor = config_of(&reference, &image)?;
    let config = match descriptor.media_type.is_image_config() {
        true => read_config(session, &reference, &descriptor).await?,
        // Of another kind, such as Wasm's: what it runs on is declared, and nobody asks the config.
        false if check == PlatformCheck::Off && declared.is_some() => ImageConfig::default(),
        false => {
            let media_type = readable(descriptor.media_type.as_str());
            return Err(not_an_image(&reference, format!("its config is {media_type}")));
        }
    };
    let config = (config, descriptor.digest.to_string());
    let platform = match declared.or_else(|| config.0.platform()) {
        Some(platform) => platform,
        None => return Err(not_an_image(&reference, "its config names no os and architecture".to_owned())),
    };
    let warnings = check_platform(&reference, &platform, &config, check)?;
    let attestations = attestations.into_iter().map(|manifest| manifest.descriptor).collect();
    image.descriptor.platform = Some(published_platform(&platform, &image.descriptor, &config.0));
    Ok(ResolvedImage { repository: reference.repository().clone(), source, image, attestations, warnings })
}

fn config_of(reference: &Reference, image: &Manifest) -> Result<Descriptor, ResolveError> {
    let manifest: ImageManifest = serde_json::from_slice(&image.bytes).map_err(|error| {
        let error = readable(&error.to_string());
        not_an_image(reference, format!("its manifest cannot be read: {error}"))
    })?;
    let Descriptor { media_type, digest, size, .. } = manifest.config;
    Ok(Descriptor::new(media_type, digest, size))
}

async fn read_config(
    session: &Session,
    reference: &Reference,
    config: &Descriptor,
) -> Result<ImageConfig, ResolveError> {
    let bytes = session.get_blob_bytes(reference.repository(), config, LARGEST_MANIFEST).await?;
    ImageConfig::read(&bytes)
        .map_err(|error| not_an_image(reference, format!("its config cannot be read: {error}")))
}

/// The warnings about a platform that is right, or not quite.
fn check_platform(
    reference: &Reference,
    declared: &Platform,
    (config, digest): &(ImageConfig, String),
    check: PlatformCheck,
) -> Result<Vec<String>, ResolveError> {
    let Some(found) = config.platform() else {
        return match check {
            PlatformCheck::Off => Ok(Vec::new()),
            PlatformCheck::Warn => Ok(vec![format!(
                "{reference}: its config names no os and architecture; taken for {declared} as declared"
            )]),
            PlatformCheck::Enforce => {
                Err(not_an_image(reference, "its config names no os and architecture".to_owned()))
            }
        };
    };
    // Many builders leave the variant out; what they left out is no contradiction.
    let same_but_for_variant = found.os() == declared.os() && found.architecture() == declared.architecture();
    if declared.matches(&found) || check == PlatformCheck::Off {
        return Ok(Vec::new());
    }
    if same_but_for_variant && config.variant.is_empty() {
        return Ok(vec![format!(
            "{reference}: the image's config has no variant; taken for {declared} as declared"
        )]);
    }
    let mismatch = ResolveError::PlatformMismatch {
        reference: Box::new(reference.clone()),
        declared: Box::new(declared.clone()),
        found: Box::new(found),
        config: digest.clone(),
    };
    if check == PlatformCheck::Warn { Ok(vec![mismatch.to_string()]) } else { Err(mismatch) }
}

/// The declared platform, its variant in the spelling of the image's own config: verifiers such as crane take `arm64`
/// in the index and `arm64/v8` in the config for two platforms.
fn published_platform(declared: &Platform, entry: &Descriptor, config: &ImageConfig) -> DescriptorPlatform {
    let own = Some(config.variant.as_str()).filter(|variant| {
        !variant.is_empty()
            && Platform::normalised(declared.os(), declared.architecture(), Some(variant)) == *declared
    });
    let written = entry.platform.clone().unwrap_or_default();
    let from_config = Some(config.os_version.clone()).filter(|version| !version.is_empty());
    let os_features = if written.os_features.is_empty() { &config.os_features } else { &written.os_features };
    DescriptorPlatform {
        architecture: declared.architecture().to_owned(),
        os: declared.os().to_owned(),
        os_version: written.os_version.clone().or(from_config),
        os_features: os_features.clone(),
        variant: own.or(declared.variant()).map(str::to_owned),
        others: BTreeMap::new(),
    }
}

pub(super) fn not_an_image(reference: &Reference, reason: String) -> ResolveError {
    ResolveError::NotAnImage { reference: Box::new(reference.clone()), reason }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
