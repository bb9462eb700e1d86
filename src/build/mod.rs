//! Pure: a `MultiArchImage`, one of its platforms and a resolved context become a Job.

mod arguments;
mod cache;
mod daemon;
mod hash;
mod inputs;
mod job;
mod merge;
pub(crate) mod pod;
mod probe;
mod registries;
mod report;
mod settings;
mod settings_file;
mod volume_claim;

pub use cache::cache_claim_name;
pub use hash::Outline;
pub use job::job;
pub use merge::for_platform;
pub use pod::{BUILD_CONTAINER, CONTEXT_CONTAINER};
pub use probe::{LABEL_PROBE, probe};
pub use registries::{BuildkitRegistry, buildkit_registries};
pub use report::{BuildReport, ExitCause};
pub use settings::{BuilderSettings, NamespaceSettings, Profile};
pub use volume_claim::volume_claim;

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::api::{Build, LocalObjectReferenceRequired};
use crate::platform::Platform;
use hash::Parts;

/// The longest name a Job may have so that its pods can carry it in a label (RFC 1123 label).
pub(crate) const NAME_LIMIT: usize = 63;

/// Where the files of a build are, pinned: the same value means the same files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinnedContext {
    /// A commit of a git repository.
    Git {
        /// http(s) or ssh address of the repository.
        url: String,
        /// The full commit hash.
        commit: String,
        /// The folder that is the context.
        sub_path: Option<String>,
        /// The Secret with what the server asks for.
        secret: Option<String>,
    },
    /// A tar archive.
    Http {
        /// Its address.
        url: String,
        /// Its SHA-256, in hexadecimal digits.
        sha256: String,
    },
    /// An image, or an artifact with one archive.
    Oci {
        /// Registry and repository.
        repository: String,
        /// The digest of its manifest or index.
        digest: String,
        /// Of an artifact the digest of its archive.
        archive: Option<String>,
    },
    /// A ConfigMap with this content.
    ConfigMap {
        /// Its name.
        name: String,
        /// The SHA-256 of each of its files, in hexadecimal digits.
        files: BTreeMap<String, String>,
    },
    /// A Dockerfile on its own.
    Inline {
        /// Its text.
        dockerfile: String,
    },
}

/// Everything that decides one platform's build.
#[derive(Clone, Debug)]
pub struct BuildRequest<'a> {
    /// Namespace of the `MultiArchImage`.
    pub namespace: &'a str,
    /// Name of the `MultiArchImage`.
    pub image_name: &'a str,
    /// UID of the `MultiArchImage`: a namesake that comes later shares nothing with it.
    pub image_uid: &'a str,
    /// What to build for.
    pub platform: &'a Platform,
    /// `spec.build` as it is for this platform ([`for_platform`]).
    pub build: &'a Build,
    /// Whether a node of another architecture shall emulate the platform.
    pub emulated: bool,
    /// The files.
    pub context: &'a PinnedContext,
    /// Where the result is pushed, by digest.
    pub repository: &'a str,
    /// `spec.registrySecrets`.
    pub registry_secrets: &'a [LocalObjectReferenceRequired],
    /// The latest request to build again.
    pub rebuild: Option<&'a str>,
    /// The latest request to check now, which gives what has failed another attempt.
    pub reconcile: Option<&'a str>,
    /// The digest of what was published last, whose inline cache is read.
    pub previous: Option<&'a str>,
}

impl BuildRequest<'_> {
    /// SHA-256 of exactly what changes the build's output, in hexadecimal digits. Pod resources, tolerations,
    /// timeouts, caches and remote builders are not in it: editing those builds nothing again.
    pub fn hash(&self) -> String {
        let mut parts = Parts::default();
        let mut part = |name: &str, value: &str| parts.add(name, value);
        part("uid", self.image_uid);
        part("platform", &self.platform.to_string());
        part("repository", self.repository);
        match self.context {
            PinnedContext::Git { url, commit, sub_path, .. } => {
                part("git", url);
                part("commit", commit);
                part("subPath", sub_path.as_deref().unwrap_or_default());
            }
            PinnedContext::Http { url, sha256 } => {
                part("http", url);
                part("sha256", sha256);
            }
            PinnedContext::Oci { repository, digest, .. } => {
                part("oci", repository);
                part("digest", digest);
            }
            PinnedContext::ConfigMap { name, files } => {
                part("configMap", name);
                for (file, content) in files {
                    part("file", file);
                    part("content", content);
                }
            }
            PinnedContext::Inline { dockerfile } => part("inline", dockerfile),
        }
        parts.add_recipe(self.build);
        if self.emulated {
            parts.add("emulated", "true");
        }
        parts.add("rebuild", self.rebuild.unwrap_or_default());
        parts.hash()
    }

    /// What is known of the build before its context is looked up.
    pub fn outline(&self) -> Outline<'_> {
        Outline {
            image_uid: self.image_uid,
            platform: self.platform,
            build: self.build,
            repository: self.repository,
            rebuild: self.rebuild,
        }
    }

    /// What stands for how the Job is to run. What differs only there is not built again, but what has not begun or has
    /// failed for it deserves another attempt. Behind a dot the latest request to check now: it gives another attempt to
    /// what has failed, and leaves alone what waits.
    pub fn fingerprint(&self, settings: &BuilderSettings) -> String {
        let build = self.build;
        let run = (
            (&build.pod, build.timeout, build.emulated_timeout, build.retries),
            (&build.remote, &build.cache, self.registry_secrets),
            (&settings.image, format!("{:?}", settings.profile(self.namespace))),
        );
        let request = hexadecimal(&Sha256::digest(self.reconcile.unwrap_or_default()));
        // Serialising what came from JSON cannot fail.
        let text = serde_json::to_vec(&run).unwrap_or_default();
        format!("{}.{}", &hexadecimal(&Sha256::digest(&text))[..8], &request[..8])
    }

    /// How long the build may take, at least a second: an emulated one three times as long, unless the user says
    /// otherwise.
    pub fn timeout(&self) -> Duration {
        let native = Duration::from(self.build.timeout);
        let timeout = match (self.emulated, self.build.emulated_timeout) {
            (false, _) => native,
            (true, Some(emulated)) => Duration::from(emulated),
            (true, None) => native.saturating_mul(3),
        };
        timeout.max(Duration::from_secs(1))
    }

    /// `<name>-<os>-<arch>[-variant]-<8 hex of the hash>`, at most 63 characters.
    pub fn job_name(&self) -> String {
        let suffix = format!("-{}-{}", self.platform.slug(), &self.hash()[..8]);
        let room = NAME_LIMIT.saturating_sub(suffix.len());
        let stem: String = self.image_name.replace('.', "-").chars().take(room).collect();
        format!("{}{suffix}", stem.trim_end_matches('-'))
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod tests;
