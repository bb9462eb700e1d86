//! Pure: a `MultiArchImage`, one of its platforms and a resolved context become a Job.

mod job;
mod report;

pub use job::job;
pub use report::{BuildReport, ExitCause};

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::api::{Build, LocalObjectReferenceRequired};
use crate::platform::Platform;

/// The longest name a Job may have so that its pods can carry it in a label (RFC 1123 label).
const NAME_LIMIT: usize = 63;

/// Where the files of a build are, pinned: the same value means the same files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinnedContext {
    /// A commit of a git repository.
    Git {
        /// http(s) address of the repository.
        url: String,
        /// The full commit hash.
        commit: String,
        /// The folder that is the context.
        sub_path: Option<String>,
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

/// The operator's settings for the builder.
#[derive(Clone, Debug)]
pub struct BuilderSettings {
    /// An image of the shape of `moby/buildkit:*-rootless`.
    pub image: String,
    /// Registries (host or host:port) that speak plain HTTP.
    pub plain_http: Vec<String>,
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
    /// `spec.build`.
    pub build: &'a Build,
    /// The files.
    pub context: &'a PinnedContext,
    /// Where the result is pushed, by digest.
    pub repository: &'a str,
    /// `spec.registrySecrets`.
    pub registry_secrets: &'a [LocalObjectReferenceRequired],
    /// The latest request to build again.
    pub rebuild: Option<&'a str>,
}

impl BuildRequest<'_> {
    /// SHA-256 of exactly what changes the build's output, in hexadecimal digits. Pod resources, tolerations,
    /// timeouts and labels are not in it: editing those builds nothing again.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |name: &str, value: &str| {
            // Lengths keep neighbouring parts from flowing into each other.
            hash.update(format!("{name}={}:{value};", value.len()));
        };
        part("uid", self.image_uid);
        part("platform", &self.platform.to_string());
        part("repository", self.repository);
        match self.context {
            PinnedContext::Git { url, commit, sub_path } => {
                part("git", url);
                part("commit", commit);
                part("subPath", sub_path.as_deref().unwrap_or_default());
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
        part("dockerfile", &self.build.dockerfile);
        part("target", self.build.target.as_deref().unwrap_or_default());
        for (name, value) in &self.build.args {
            part("arg", name);
            part("value", &value.0);
        }
        part("rebuild", self.rebuild.unwrap_or_default());
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `<name>-<os>-<arch>[-variant]-<8 hex of the hash>`, at most 63 characters.
    pub fn job_name(&self) -> String {
        let suffix = format!("-{}-{}", self.platform.slug(), &self.hash()[..8]);
        let room = NAME_LIMIT.saturating_sub(suffix.len());
        let stem: String = self.image_name.replace('.', "-").chars().take(room).collect();
        format!("{}{suffix}", stem.trim_end_matches('-'))
    }
}

#[cfg(test)]
mod tests;
