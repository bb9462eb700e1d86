//! Whether the images that a build starts from exist for its platform, asked before a pod is started for it.

use std::collections::BTreeMap;

use futures::stream;
use futures::{FutureExt as _, StreamExt as _};

use super::manifest::{ImageConfig, ImageManifest, Listing, listed};
use crate::dockerfile::BaseImage;
use crate::platform::Platform;
use crate::registry::{
    Descriptor, DescriptorPlatform, Error, Kind, LARGEST_MANIFEST, Manifest, Reference, Session, readable,
};

/// How many images are asked for at once.
const MOST_AT_ONCE: usize = 8;

/// Why a build cannot have an image that it needs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BaseImageError {
    /// The image exists, and not for this platform.
    #[error(
        "Dockerfile line {line}: {reference} has no image for {platform}; it has {}; use an image that has \
         {platform}, or leave the platform out",
        listed(available)
    )]
    PlatformMissing {
        /// The line of the Dockerfile; the first one is 1.
        line: usize,
        /// The image, as it is written there.
        reference: String,
        /// The platform that is needed.
        platform: Platform,
        /// The platforms that it has.
        available: Vec<String>,
    },
    /// There is no such image.
    #[error(
        "Dockerfile line {line}: there is no image {reference}; correct its name, or push it first: {error}"
    )]
    NotFound {
        /// The line of the Dockerfile; the first one is 1.
        line: usize,
        /// The image, as it is written there.
        reference: String,
        /// What the registry said.
        error: Error,
    },
    /// The registry could not be asked, or does not tell us.
    #[error("Dockerfile line {line}: {error}")]
    Registry {
        /// The line of the Dockerfile; the first one is 1.
        line: usize,
        /// What went wrong. See [`Error::is_transient`].
        error: Error,
    },
}

impl BaseImageError {
    /// The line of the Dockerfile that asks for the image; the first one is 1.
    pub fn line(&self) -> usize {
        match self {
            Self::PlatformMissing { line, .. }
            | Self::NotFound { line, .. }
            | Self::Registry { line, .. } => *line,
        }
    }

    /// What went wrong with the registry, if anything did.
    pub fn registry(&self) -> Option<&Error> {
        match self {
            Self::PlatformMissing { .. } => None,
            Self::NotFound { error, .. } | Self::Registry { error, .. } => Some(error),
        }
    }

    /// Whether the same question may be answered otherwise later, with nothing changed by anyone.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Registry { error, .. } if error.is_transient())
    }
}

/// Asks the registries whether every image is there for its platform: each image once, a few at the same time.
///
/// BuildKit's rules decide what will do for a platform: containerd's `platforms.Only`, so `linux/arm64` may be served
/// with `linux/arm/v7`, and an image that is no index is taken whatever it is for. Gives warnings about those; what
/// names no image that we could ask for is left to the builder, with a warning.
///
/// # Errors
/// See [`BaseImageError`]. Of several, the one that will not go away by itself, and then the first in the Dockerfile.
pub async fn check_base_images(
    session: &Session,
    images: &[BaseImage],
) -> Result<Vec<String>, BaseImageError> {
    let mut warnings = Vec::new();
    let mut wanted: BTreeMap<Reference, Vec<&BaseImage>> = BTreeMap::new();
    for image in images {
        match image.reference.parse::<Reference>() {
            Ok(reference) => wanted.entry(reference).or_default().push(image),
            Err(error) => warnings.push(format!("Dockerfile line {}: not checked: {error}", image.line)),
        }
    }
    // Boxed: the compiler loses track of the lifetimes otherwise.
    let checks: Vec<_> =
        wanted.iter().map(|(reference, images)| check(session, reference, images).boxed()).collect();
    let answers: Vec<_> = stream::iter(checks).buffered(MOST_AT_ONCE).collect().await;
    let mut errors = Vec::new();
    for answer in answers {
        match answer {
            Ok(found) => warnings.extend(found),
            Err(error) => errors.push(error),
        }
    }
    match errors.into_iter().min_by_key(|error| (error.is_transient(), error.line())) {
        Some(error) => Err(error),
        None => Ok(warnings),
    }
}

/// Checks one image for all platforms that it is needed for.
async fn check(
    session: &Session,
    reference: &Reference,
    images: &[&BaseImage],
) -> Result<Vec<String>, BaseImageError> {
    let Some(first) = images.first() else { return Ok(Vec::new()) };
    let named = session.get_manifest(reference).await.map_err(|error| match error.kind() {
        Kind::NotFound => {
            BaseImageError::NotFound { line: first.line, reference: first.reference.clone(), error }
        }
        _ => BaseImageError::Registry { line: first.line, error },
    })?;
    if !named.descriptor.media_type.is_index() {
        let platform = platform_of(session, reference, named).await;
        return Ok(images.iter().filter_map(|image| mismatch(image, platform.as_ref()?)).collect());
    }
    // What cannot be read may have what is looked for.
    let Ok(listing) = Listing::read(&named.bytes) else { return Ok(Vec::new()) };
    match images.iter().find(|image| !offers(&listing, &image.platform)) {
        None => Ok(Vec::new()),
        Some(image) => Err(BaseImageError::PlatformMissing {
            line: image.line,
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            available: platforms(&listing),
        }),
    }
}

/// What the config of an image that is alone under its name says, if it can be read.
async fn platform_of(session: &Session, reference: &Reference, image: Manifest) -> Option<Platform> {
    let config = config_of(image)?;
    let blob = session.get_blob_bytes(reference.repository(), &config, LARGEST_MANIFEST).await.ok()?;
    ImageConfig::read(&blob).ok()?.platform()
}

/// The config, and no more: nothing else is kept while it is fetched.
fn config_of(image: Manifest) -> Option<Descriptor> {
    let Descriptor { media_type, digest, size, .. } =
        serde_json::from_slice::<ImageManifest>(&image.bytes).ok()?.config;
    Some(Descriptor::new(media_type, digest, size))
}

/// BuildKit's own check of such an image (`InvalidBaseImagePlatform`) asks for no variant, and warns.
fn mismatch(image: &BaseImage, found: &Platform) -> Option<String> {
    let BaseImage { reference, platform, line, .. } = image;
    let same = found.os() == platform.os() && found.architecture() == platform.architecture();
    let found = readable(&found.to_string());
    let warning = format!(
        "Dockerfile line {line}: {reference} is an image for {found} alone; it is used for {platform} all the same"
    );
    (!same).then_some(warning)
}

/// Whether BuildKit would find something for `platform`, or nobody can tell without looking deeper.
fn offers(listing: &Listing, platform: &Platform) -> bool {
    let says_nothing = |entry: &&Descriptor| entry.platform.is_none() && !entry.is_attestation();
    !listing.unreadable.is_empty()
        || listing.entries.iter().any(|entry| says_nothing(&entry))
        || listing.entries.iter().filter_map(declared).any(|candidate| will_do(platform, &candidate))
}

fn platforms(listing: &Listing) -> Vec<String> {
    let mut platforms: Vec<String> =
        listing.entries.iter().filter_map(declared).map(|p| readable(&p.to_string())).collect();
    platforms.sort();
    platforms.dedup();
    platforms
}

/// The platform of an entry. As in containerd, no operating system is the builder's own.
fn declared(entry: &Descriptor) -> Option<Platform> {
    let DescriptorPlatform { os, architecture, variant, .. } = entry.platform.as_ref()?;
    match os.is_empty() && !architecture.is_empty() {
        true => Some(Platform::normalised("linux", architecture, variant.as_deref())),
        false => entry.runnable_platform(),
    }
}

/// Whether BuildKit takes an image for `candidate` where one for `platform` is wanted: containerd, `platforms.Only`.
/// Versions and features of the operating system are not looked at, so more is let through than there.
fn will_do(platform: &Platform, candidate: &Platform) -> bool {
    if platform.os() != candidate.os() {
        return false;
    }
    let no_newer = || match (version(platform), version(candidate)) {
        (Some(wanted), Some(found)) => is_covered(platform.architecture(), wanted, found),
        _ => false,
    };
    match (platform.architecture(), candidate.architecture()) {
        ("amd64", "386") | ("arm64", "arm") => true,
        ("amd64", "amd64") | ("arm", "arm") | ("arm64", "arm64") => platform == candidate || no_newer(),
        _ => platform == candidate,
    }
}

/// Major and minor version of a variant; of none, what goes without saying.
fn version(platform: &Platform) -> Option<(u32, u32)> {
    let unsaid = if platform.architecture() == "arm64" { "v8" } else { "v1" };
    let variant = platform.variant().unwrap_or(unsaid).strip_prefix('v')?;
    let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether what was made for `found` runs where `wanted` does. Of Arm's 64 bits, v9.0 has everything of v8.5, and so on.
fn is_covered(architecture: &str, wanted: (u32, u32), found: (u32, u32)) -> bool {
    match (architecture, wanted, found) {
        ("arm64", (9, minor), (8, found)) => found <= minor.saturating_add(5),
        ("arm64", (wanted, minor), (major, found)) => wanted == major && found <= minor,
        _ => found <= wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn will(platform: &str, candidate: &str) -> bool {
        will_do(&platform.parse().unwrap(), &candidate.parse().unwrap())
    }

    #[test]
    fn what_a_platform_can_run_will_do_as_in_containerd() {
        for (platform, candidate) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64", "linux/386"),
            ("linux/amd64/v3", "linux/amd64/v2"),
            ("linux/amd64/v3", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v6"),
            ("linux/arm/v7", "linux/arm/v5"),
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64", "linux/arm/v7"),
            ("linux/arm64", "linux/arm/v8"),
            ("linux/arm64/v8.2", "linux/arm64/v8.1"),
            ("linux/arm64/v9", "linux/arm64/v8.5"),
            ("linux/arm64/v9.1", "linux/arm64/v8.6"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert!(will(platform, candidate), "{candidate} for {platform}");
        }
    }

    #[test]
    fn what_a_platform_cannot_run_will_not_do() {
        for (platform, candidate) in [
            ("linux/amd64", "linux/arm64"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/amd64/v2"),
            ("linux/386", "linux/amd64"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/arm/v7", "linux/arm64"),
            ("linux/arm64", "linux/arm64/v8.1"),
            ("linux/arm64/v8.9", "linux/arm64/v9"),
            ("linux/arm64/v9", "linux/arm64/v8.6"),
            ("linux/riscv64", "linux/arm64"),
        ] {
            assert!(!will(platform, candidate), "{candidate} for {platform}");
        }
    }
}
