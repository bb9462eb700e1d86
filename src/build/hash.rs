//! What tells one build from another.

use sha2::{Digest as _, Sha256};

use super::hexadecimal;
use crate::api::{Attestations, Build, BuildContext, CacheType};
use crate::platform::Platform;

/// Names and values that are hashed.
#[derive(Default)]
pub(super) struct Parts(Sha256);

impl Parts {
    pub fn add(&mut self, name: &str, value: &str) {
        // Lengths keep neighbouring parts from flowing into each other.
        self.0.update(format!("{name}={}:{value};", value.len()));
    }

    /// What is done with the context.
    pub fn add_recipe(&mut self, build: &Build) {
        self.add("dockerfile", &build.dockerfile);
        self.add("target", build.target.as_deref().unwrap_or_default());
        for (name, value) in &build.args {
            self.add("arg", name);
            self.add("value", &value.0);
        }
        for (name, address) in &build.contexts {
            self.add("context", name);
            self.add("address", &address.0);
        }
        for secret in &build.secrets {
            self.add("secret", &secret.id);
            self.add("from", &format!("{}/{}", secret.secret_ref.name, secret.secret_ref.key));
        }
        if let Some(ssh) = &build.ssh {
            self.add("ssh", &ssh.secret_ref.name);
        }
        for (kind, pairs) in [("label", &build.labels), ("annotation", &build.annotations)] {
            for (name, value) in pairs {
                self.add(kind, name);
                self.add("value", value);
            }
        }
        if let Some(attestations) =
            build.attestations.as_ref().filter(|wanted| **wanted != Attestations::default())
        {
            self.add("attestations", &format!("{:?} {}", attestations.provenance, attestations.sbom));
        }
        if build.cache.as_ref().is_some_and(|cache| cache.r#type == CacheType::Inline) {
            self.add("cache", "inline");
        }
    }

    pub fn hash(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

/// All that decides a platform's build but what its context turns out to be when it is looked up, and whether it is
/// emulated. Of two builds with different outlines one is not wanted any more.
#[derive(Clone, Debug)]
pub struct Outline<'a> {
    /// UID of the `MultiArchImage`.
    pub image_uid: &'a str,
    /// What to build for.
    pub platform: &'a Platform,
    /// `spec.build` as it is for this platform.
    pub build: &'a Build,
    /// Where the result is pushed.
    pub repository: &'a str,
    /// The latest request to build again.
    pub rebuild: Option<&'a str>,
}

impl Outline<'_> {
    /// SHA-256 of it, in hexadecimal digits. A field that is added to the spec and not set must leave it as it is, or
    /// Jobs of an earlier version would make way.
    pub fn hash(&self) -> String {
        let mut parts = Parts::default();
        parts.add("uid", self.image_uid);
        parts.add("platform", &self.platform.to_string());
        parts.add("repository", self.repository);
        parts.add("context", &named(&self.build.context));
        parts.add_recipe(self.build);
        parts.add("rebuild", self.rebuild.unwrap_or_default());
        parts.hash()
    }
}

/// How the spec names a context. Credentials change nothing about what it is.
fn named(context: &BuildContext) -> String {
    let mut context = context.clone();
    if let Some(git) = &mut context.git {
        git.secret_ref = None;
    }
    // Serialising what came from JSON cannot fail.
    serde_json::to_string(&context).unwrap_or_default()
}
