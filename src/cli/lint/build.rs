//! Advice about how platforms are built.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::finding::{Advice, Rule};
use crate::api::{
    Build, BuildArgument, CacheType, GitContext, MultiArchImageSpec, NamedContext, Resources, WhenNoNode,
};
use crate::build::for_platform;
use crate::dockerfile::{self, BuildParameters};
use crate::platform::Platform;
use crate::registry::Reference;

/// Words in the name of what nobody else may know.
const SECRET: [&str; 9] =
    ["PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "TOKEN", "SECRET", "CREDENTIAL", "CREDENTIALS", "APIKEY"];
/// The same of keys, which are harmless otherwise.
const KINDS_OF_KEYS: [&str; 5] = ["API", "PRIVATE", "ACCESS", "SIGNING", "DEPLOY"];
/// Last words of names that only speak of a secret: `TOKEN_URL`.
const ABOUT: [&str; 12] =
    ["FILE", "PATH", "URL", "URI", "ID", "NAME", "TTL", "TYPE", "VERSION", "LENGTH", "ENABLED", "HEADER"];

/// `written` is the spec as it stands in the file, without what the schema adds.
pub(super) fn advise(spec: &MultiArchImageSpec, written: &Value) -> Vec<Advice> {
    let Some(build) = &spec.build else { return Vec::new() };
    let mut advice = Vec::new();
    advice.extend(build.context.git.as_ref().map(git).into_iter().flatten());
    advice.extend(inline(spec, build));
    if build.emulated_timeout.is_some()
        && !spec.platforms.iter().any(|entry| entry.when_no_node == WhenNoNode::Emulate)
    {
        let message = "no platform is emulated; leave it out, or write whenNoNode: Emulate";
        advice.push(Advice::new(Rule::Unused, "spec.build.emulatedTimeout", message));
    }
    let parts = Part::all(spec, build);
    for part in &parts {
        advice.extend(part.advise(written));
    }
    advice
}

fn git(git: &GitContext) -> Vec<Advice> {
    let mut advice = Vec::new();
    if git.commit.is_none() && git.r#ref.is_none() {
        advice.push(Advice::new(
            Rule::DefaultBranch,
            "spec.build.context.git",
            "without ref and commit, whatever the default branch has by then is built; write ref or commit",
        ));
    }
    if git.commit.is_some() && git.r#ref.is_some() {
        let message = "commit says what is built, and ref is not used beside it; leave one of them out";
        advice.push(Advice::new(Rule::Unused, "spec.build.context.git.ref", message));
    }
    // A commit is its own checksum; a password has none.
    if git.url.starts_with("http://") && (git.commit.is_none() || git.secret_ref.is_some()) {
        advice.push(Advice::new(
            Rule::PlainHttpGit,
            "spec.build.context.git.url",
            "over http:// whoever is in between reads credentials and can change what is built; write https:// or ssh://",
        ));
    }
    advice
}

fn inline(spec: &MultiArchImageSpec, build: &Build) -> Vec<Advice> {
    let Some(inline) = &build.context.inline else { return Vec::new() };
    let mut advice = Vec::new();
    if build.dockerfile != "Dockerfile" {
        let message = "an inline context has one file, whatever dockerfile says; leave dockerfile out";
        advice.push(Advice::new(Rule::Unused, "spec.build.dockerfile", message));
    }
    let mut found = BTreeSet::new();
    for entry in spec.platforms.iter().filter(|entry| entry.image.is_none()) {
        let Ok(platform) = entry.platform.parse::<Platform>() else { continue };
        let build = for_platform(build, entry.build.as_ref());
        let text = |map: &BTreeMap<String, BuildArgument>| {
            map.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect()
        };
        let contexts = build.contexts.iter().map(|(name, address)| (name.clone(), address.0.clone()));
        let parameters = BuildParameters {
            arguments: &text(&build.args),
            target: build.target.as_deref(),
            target_platform: &platform,
            build_platform: None,
            contexts: &contexts.collect(),
        };
        let images = dockerfile::base_images(inline.dockerfile.as_bytes(), &parameters).unwrap_or_default();
        found.extend(images.into_iter().filter_map(|image| {
            is_latest(&image.reference).then(|| format!("line {} takes {}", image.line, image.reference))
        }));
    }
    advice.extend(found.into_iter().map(|what| {
        let message = format!(
            "{what}, whatever it is by then, which may differ between platforms and from build to build; name a version's tag \
             or a digest"
        );
        Advice::new(Rule::BaseLatest, "spec.build.context.inline.dockerfile", message)
    }));
    advice
}

fn is_latest(image: &str) -> bool {
    let reference: Option<Reference> = image.parse().ok();
    reference.is_some_and(|reference| reference.digest().is_none() && reference.tag() == Some("latest"))
}

/// What is written of builds in one place, and what that comes to.
struct Part<'a> {
    /// `spec.build`, or `spec.platforms[1].build`.
    path: String,
    args: &'a BTreeMap<String, BuildArgument>,
    contexts: &'a BTreeMap<String, NamedContext>,
    /// Whether the part itself says something of these.
    writes_cache: bool,
    writes_remote: bool,
    writes_resources: bool,
    merged: Build,
}

impl<'a> Part<'a> {
    fn all(spec: &'a MultiArchImageSpec, build: &'a Build) -> Vec<Self> {
        let whole = Part {
            path: "spec.build".to_owned(),
            args: &build.args,
            contexts: &build.contexts,
            writes_cache: build.cache.is_some(),
            writes_remote: build.remote.is_some(),
            writes_resources: build.pod.as_ref().is_some_and(|pod| pod.resources.is_some()),
            merged: build.clone(),
        };
        let platforms = spec.platforms.iter().enumerate().filter(|(_, entry)| entry.image.is_none());
        let platforms = platforms.filter_map(|(number, entry)| {
            let platform = entry.build.as_ref()?;
            Some(Part {
                path: format!("spec.platforms[{number}].build"),
                args: &platform.args,
                contexts: &platform.contexts,
                writes_cache: platform.cache.is_some(),
                writes_remote: platform.remote.is_some(),
                writes_resources: platform.pod.as_ref().is_some_and(|pod| pod.resources.is_some()),
                merged: for_platform(build, Some(platform)),
            })
        });
        [whole].into_iter().chain(platforms).collect()
    }

    fn advise(&self, written: &Value) -> Vec<Advice> {
        let mut advice = self.secrets();
        advice.extend(self.contexts());
        advice.extend(self.cache(written));
        if self.writes_remote && self.merged.remote.as_ref().is_some_and(|remote| remote.tls.is_none()) {
            advice.push(Advice::new(
                Rule::RemoteWithoutTls,
                format!("{}.remote", self.path),
                "without tls anybody on the way can read the build, its secrets too, and anybody can build there; write tls: \
                 {secretRef: {name: …}}",
            ));
        }
        let resources = self.merged.pod.as_ref().and_then(|pod| pod.resources.as_ref());
        if let Some(resources) = resources.filter(|_| self.writes_resources) {
            advice.extend(self.resources(resources));
        }
        advice
    }

    fn secrets(&self) -> Vec<Advice> {
        let secrets = self.args.iter().filter(|(name, value)| looks_secret(name, &value.0));
        let advise = |name: &String| {
            Advice::new(
                Rule::SecretInArgs,
                format!("{}.args.{name}", self.path),
                "whoever can read this resource, the image's history or its provenance reads a build argument; put the value \
                 into a Secret, name it in spec.build.secrets, and use RUN --mount=type=secret,id=…",
            )
        };
        secrets.map(|(name, _)| advise(name)).collect()
    }

    fn contexts(&self) -> Vec<Advice> {
        let advise = |(name, address): (&String, &NamedContext)| {
            let path = format!("{}.contexts.{name}", self.path);
            let address = &address.0;
            if let Some(image) = address.strip_prefix("docker-image://") {
                let message = format!(
                    "{image} is whatever latest is by then, which may differ between platforms; name a version's tag or a digest"
                );
                return is_latest(image).then(|| Advice::new(Rule::BaseLatest, path, message));
            }
            (!address.contains(".git#")).then(|| {
                let message = "each platform fetches the file for itself, and nothing tells whether it is the same; use a git \
                               repository at a commit, or docker-image://… by digest";
                Advice::new(Rule::ContextUnpinned, path, message)
            })
        };
        self.contexts.iter().filter_map(advise).collect()
    }

    fn cache(&self, written: &Value) -> Option<Advice> {
        let cache = self.merged.cache.as_ref().filter(|_| self.writes_cache)?;
        let pointer = self.path.trim_start_matches("spec").replace(['.', '['], "/").replace(']', "");
        let has_mode = written.pointer(&format!("{pointer}/cache/mode")).is_some();
        (has_mode && cache.r#type != CacheType::Registry).then(|| {
            let message =
                format!("mode is for type: Registry and does nothing for {:?}; leave it out", cache.r#type);
            Advice::new(Rule::Unused, format!("{}.cache.mode", self.path), message)
        })
    }

    fn resources(&self, resources: &Resources) -> Option<Advice> {
        (!resources.limits.contains_key("memory")).then(|| {
            Advice::new(
                Rule::MemoryLimit,
                format!("{}.pod.resources", self.path),
                "without limits.memory a build may take all memory of its node, and others on it are killed; write limits: \
                 {memory: …}",
            )
        })
    }
}

fn looks_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words: Vec<&str> = name.split('_').collect();
    let is_key = words.windows(2).any(|pair| KINDS_OF_KEYS.contains(&pair[0]) && pair[1] == "KEY");
    let speaks_of_one = words.last().is_some_and(|last| ABOUT.contains(last));
    let says_nothing = matches!(value, "" | "true" | "false" | "0" | "1");
    !says_nothing && !speaks_of_one && (is_key || words.iter().any(|word| SECRET.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_told_by_its_name() {
        for name in
            ["NPM_TOKEN", "password", "DB_PASSWORD", "API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN_RW"]
        {
            assert!(looks_secret(name, "hunter2"), "{name}");
        }
        for name in
            ["VERSION", "TOKENIZER", "TOKEN_URL", "SECRET_NAME", "KEY", "KEYBOARD", "COMPASS", "CACHE_KEY"]
        {
            assert!(!looks_secret(name, "hunter2"), "{name}");
        }
        assert!(!looks_secret("USE_TOKEN", "true") && !looks_secret("TOKEN", ""));
    }
}
