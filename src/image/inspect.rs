//! An index read to the bottom, and what is wrong with it, as data.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::manifest::{ImageConfig, ImageManifest, Index};
use crate::platform::Platform;
use crate::registry::{
    Descriptor, Digest, Error, Kind, LARGEST_MANIFEST, Manifest, MediaType, Operation, Reference, Repository,
    Session,
};

/// How many manifests or configs are asked for at once.
const PARALLEL_READS: usize = 16;
/// How many entries are looked at, those of indexes within the index included.
const MOST_CHILDREN: usize = 1024;
/// How many bytes all manifests have, and all configs.
const LARGEST_ALTOGETHER: u64 = 64 * 1024 * 1024;
/// How deep indexes within indexes are looked into.
const DEEPEST: usize = 4;

/// An entry of an index, as its registry has it.
#[derive(Debug, Clone)]
pub struct Child {
    /// The entry, as the index describes it.
    pub descriptor: Descriptor,
    /// The index within the index that lists it; none if the index itself does.
    pub parent: Option<Digest>,
    /// Its bytes; none if they are not to be had.
    pub manifest: Option<Manifest>,
    /// The manifest, read; none of an index and of what cannot be read.
    pub contents: Option<ImageManifest>,
    /// The config with its bytes; only of images, and only once [`read_configs`] has fetched it.
    pub config: Option<(ImageConfig, Bytes)>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In one word, for programs.
    pub reason: ProblemReason,
    /// For people.
    pub message: String,
}

/// What can be wrong with an entry of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ProblemReason {
    /// The repository does not have the manifest.
    ManifestMissing,
    /// The registry has something else under its digest, or something that cannot be read.
    ManifestInvalid,
    /// The index gives another size.
    SizeMismatch,
    /// The index gives another media type.
    MediaTypeMismatch,
    /// The repository does not have the config.
    ConfigMissing,
    /// The config is not what its descriptor says, or cannot be read.
    ConfigInvalid,
    /// The config names another platform than the index.
    PlatformMismatch,
}

impl ProblemReason {
    /// Whether this is about the config and not about the manifest.
    pub fn is_about_config(self) -> bool {
        matches!(self, Self::ConfigMissing | Self::ConfigInvalid)
    }
}

impl Child {
    fn new(descriptor: Descriptor, parent: Option<Digest>) -> Self {
        Self { descriptor, parent, manifest: None, contents: None, config: None, problems: Vec::new() }
    }

    /// Whether this is an image, or was meant to be one: neither an attestation, nor an index, nor an artifact.
    pub fn is_image(&self) -> bool {
        let known = self.contents.as_ref().map(|contents| contents.config.media_type.is_image_config());
        self.descriptor.media_type.is_manifest()
            && !self.descriptor.is_attestation()
            && known.unwrap_or(self.descriptor.artifact_type.is_none())
    }

    /// The platform that the index gives, or else the config's own.
    pub fn platform(&self) -> Option<Platform> {
        let own = || self.config.as_ref().and_then(|(config, _)| config.platform());
        self.descriptor.runnable_platform().or_else(own)
    }

    /// What the index says of this entry's platform, in words; the config's own where it says nothing.
    pub fn platform_in_words(&self) -> String {
        match (self.descriptor.runnable_platform(), self.platform()) {
            (None, Some(own)) => own.to_string(),
            _ => self.descriptor.platform_in_words(),
        }
    }

    fn complain(&mut self, reason: ProblemReason, message: impl Into<String>) {
        self.problems.push(Problem { reason, message: message.into() });
    }
}

/// Everything that `manifest` lists, in its order, and after that what indexes within it list. An image alone is
/// its own only child.
///
/// What is missing or wrong is a problem of the child and no error.
///
/// # Errors
/// If the registry is unavailable or denies access, if an index cannot be read, or has too many entries.
pub async fn read_children(
    session: &Session,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<Vec<Child>, Error> {
    let repository = reference.repository();
    if !manifest.descriptor.media_type.is_index() {
        let mut child = Child::new(manifest.descriptor.clone(), None);
        accept(&mut child, manifest.clone());
        return Ok(vec![child]);
    }
    let mut children: Vec<Child> = Vec::new();
    let mut bytes = 0_u64;
    let mut level = entries(reference, manifest, None)?;
    for _ in 0..DEEPEST {
        if children.len() + level.len() > MOST_CHILDREN {
            let cause = format!("the index has more than {MOST_CHILDREN} entries");
            return Err(Operation::new(reference, "reading the index").error(Kind::TooLarge, cause));
        }
        bytes = bytes.saturating_add(altogether(level.iter().map(|child| &child.descriptor)));
        check_size(&Operation::new(reference, "reading the index"), "manifests", bytes)?;
        let read: Vec<Child> = stream::iter(level)
            .map(|child| read_child(session, repository, child))
            .buffered(PARALLEL_READS)
            .try_collect()
            .await?;
        level = Vec::new();
        for child in read.iter().filter(|child| child.descriptor.media_type.is_index()) {
            if let Some(nested) = &child.manifest {
                level.extend(entries(reference, nested, Some(&child.descriptor.digest))?);
            }
        }
        children.extend(read);
    }
    if level.is_empty() {
        return Ok(children);
    }
    let cause = format!("indexes within the index are nested deeper than {DEEPEST}");
    Err(Operation::new(reference, "reading the index").error(Kind::Unsupported, cause))
}

/// Fetches the configs of all images among the children, and holds them against what the index says.
///
/// # Errors
/// If the registry is unavailable or denies access, or if the configs are too large to be held at once.
pub async fn read_configs(
    session: &Session,
    repository: &Repository,
    children: Vec<Child>,
) -> Result<Vec<Child>, Error> {
    let images = children.iter().filter(|child| child.is_image());
    let configs = images.filter_map(|child| child.contents.as_ref()).map(|contents| &contents.config);
    check_size(&Operation::new(repository, "reading the configs"), "configs", altogether(configs))?;
    stream::iter(children)
        .map(|child| read_config(session, repository, child))
        .buffered(PARALLEL_READS)
        .try_collect()
        .await
}

/// How many bytes of these are held at most, whatever their descriptors say: nothing larger is fetched.
fn altogether<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> u64 {
    descriptors.map(|descriptor| descriptor.size.min(LARGEST_MANIFEST)).fold(0, u64::saturating_add)
}

fn check_size(operation: &Operation, what: &str, bytes: u64) -> Result<(), Error> {
    if bytes > LARGEST_ALTOGETHER {
        let cause = format!("all {what} together have over {LARGEST_ALTOGETHER} bytes");
        return Err(operation.error(Kind::TooLarge, cause));
    }
    Ok(())
}

fn entries(reference: &Reference, index: &Manifest, parent: Option<&Digest>) -> Result<Vec<Child>, Error> {
    let read: Index = serde_json::from_slice(&index.bytes).map_err(|error| {
        let cause = format!("this is no index: {error}");
        Operation::new(reference, "reading the index").error(Kind::Malformed, cause)
    })?;
    Ok(read.manifests.into_iter().map(|entry| Child::new(entry, parent.cloned())).collect())
}

async fn read_child(session: &Session, repository: &Repository, mut child: Child) -> Result<Child, Error> {
    match session.get_manifest(&repository.with_digest(&child.descriptor.digest)).await {
        Ok(manifest) => accept(&mut child, manifest),
        Err(error) => match error.kind() {
            Kind::NotFound => {
                child.complain(ProblemReason::ManifestMissing, "the manifest is not in the repository");
            }
            kind if is_about_content(kind) => {
                child.complain(ProblemReason::ManifestInvalid, error.to_string());
            }
            _ => return Err(error),
        },
    }
    Ok(child)
}

/// Takes the manifest as the child's own, and holds it against the entry.
fn accept(child: &mut Child, manifest: Manifest) {
    let found = &manifest.descriptor;
    if found.size != child.descriptor.size {
        let message =
            format!("the index says {} bytes, the manifest has {}", child.descriptor.size, found.size);
        child.complain(ProblemReason::SizeMismatch, message);
    }
    if found.media_type != child.descriptor.media_type {
        let message =
            format!("the index says {}, the manifest is {}", child.descriptor.media_type, found.media_type);
        child.complain(ProblemReason::MediaTypeMismatch, message);
    }
    if found.media_type.is_manifest() {
        match serde_json::from_slice(&manifest.bytes) {
            Ok(contents) => child.contents = Some(contents),
            Err(error) => {
                child.complain(ProblemReason::ManifestInvalid, format!("this is no image manifest: {error}"));
            }
        }
    }
    child.manifest = Some(manifest);
}

async fn read_config(session: &Session, repository: &Repository, mut child: Child) -> Result<Child, Error> {
    let Some(contents) = child.contents.as_ref().filter(|_| child.is_image()) else { return Ok(child) };
    let config = contents.config.clone();
    match session.get_blob_bytes(repository, &config, LARGEST_MANIFEST).await {
        Ok(bytes) => match ImageConfig::read(&bytes) {
            Ok(config) => {
                let lie = platform_mismatch(&child.descriptor, &config);
                child.config = Some((config, bytes));
                if let Some(message) = lie {
                    child.complain(ProblemReason::PlatformMismatch, message);
                }
            }
            Err(error) => {
                child.complain(ProblemReason::ConfigInvalid, format!("this is no image config: {error}"));
            }
        },
        Err(error) => match error.kind() {
            Kind::NotFound => {
                let message = format!("the config {} is not in the repository", config.digest);
                child.complain(ProblemReason::ConfigMissing, message);
            }
            kind if is_about_content(kind) => child.complain(ProblemReason::ConfigInvalid, error.to_string()),
            _ => return Err(error),
        },
    }
    Ok(child)
}

/// Whether it is the content that is wrong, and not the way to it.
fn is_about_content(kind: Kind) -> bool {
    matches!(kind, Kind::DigestMismatch | Kind::Malformed | Kind::TooLarge | Kind::Unsupported)
}

/// How the config contradicts the entry. A variant that only one of them names is no contradiction: many builders
/// leave it out of the config.
fn platform_mismatch(entry: &Descriptor, config: &ImageConfig) -> Option<String> {
    let declared = entry.runnable_platform()?;
    let Some(own) = config.platform() else {
        return Some(format!("the index says {declared}, the config names no os and architecture"));
    };
    let same_but_for_variant = own.os() == declared.os() && own.architecture() == declared.architecture();
    let left_out = same_but_for_variant && config.variant.is_empty();
    if !declared.matches(&own) && !left_out {
        return Some(format!("the index says {declared}, the config {own}"));
    }
    let version = entry.platform.as_ref().and_then(|platform| platform.os_version.as_deref());
    match version {
        Some(version) if !config.os_version.is_empty() && config.os_version != version => {
            Some(format!("the index says os.version {version}, the config {}", config.os_version))
        }
        _ => None,
    }
}

/// What kind of content an artifact is, for entries that are no images.
pub fn artifact_type(child: &Child) -> &str {
    match (&child.descriptor.artifact_type, &child.contents) {
        (Some(artifact_type), _) => artifact_type,
        (None, Some(contents)) if !contents.config.media_type.is_image_config() => {
            contents.config.media_type.as_str()
        }
        _ => MediaType::as_str(&child.descriptor.media_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatch(entry: &str, config: &str) -> Option<String> {
        let digest = Digest::sha256(b"");
        let entry = format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":0,"platform":{entry}}}"#,
            MediaType::OCI_MANIFEST
        );
        platform_mismatch(&serde_json::from_str(&entry).unwrap(), &serde_json::from_str(config).unwrap())
    }

    #[test]
    fn a_config_that_contradicts_its_entry_is_found_out() {
        let arm64 = r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#;
        for honest in [
            r#"{"os":"linux","architecture":"arm64"}"#,
            r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#,
        ] {
            assert_eq!(mismatch(arm64, honest), None);
        }
        assert_eq!(
            mismatch(arm64, r#"{"os":"linux","architecture":"amd64"}"#).unwrap(),
            "the index says linux/arm64, the config linux/amd64"
        );
        assert!(mismatch(arm64, r#"{"os":"linux","architecture":"arm64","variant":"v9"}"#).is_some());
        assert!(mismatch(arm64, "{}").unwrap().contains("names no os"));
    }

    #[test]
    fn a_variant_that_the_config_leaves_out_is_no_contradiction() {
        let v6 = r#"{"os":"linux","architecture":"arm","variant":"v6"}"#;
        assert_eq!(mismatch(v6, r#"{"os":"linux","architecture":"arm"}"#), None);
        assert!(mismatch(v6, r#"{"os":"linux","architecture":"arm","variant":"v7"}"#).is_some());
    }

    #[test]
    fn windows_images_are_held_against_their_version() {
        let entry = r#"{"os":"windows","architecture":"amd64","os.version":"10.0.17763.1"}"#;
        let config =
            |version| format!(r#"{{"os":"windows","architecture":"amd64","os.version":"{version}"}}"#);
        assert_eq!(mismatch(entry, &config("10.0.17763.1")), None);
        assert!(mismatch(entry, &config("10.0.20348.1")).is_some());
    }
}
