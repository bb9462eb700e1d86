//! The names of repositories and of what is in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::Digest;
use super::name::{Name, registry_named, without_default_port};

/// The registry that a name without a host means.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub's registry API is.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// The host that serves a registry's API.
pub(crate) fn api_host(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_HUB_API } else { registry }
}

/// A registry and the path of a repository in it, without tag or digest.
///
/// Names are what Docker made them: `busybox` is `docker.io/library/busybox`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    registry: String,
    path: String,
}

/// A repository and the tag, the digest or both of a manifest in it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image or repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {reason}")]
pub struct ParseReferenceError {
    text: String,
    what: &'static str,
    reason: String,
}

impl Repository {
    /// The registry's name with its port: `docker.io`, `registry.example.com:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The host and port that serve the registry's API: the registry's own, or `registry-1.docker.io`.
    pub fn host(&self) -> &str {
        api_host(&self.registry)
    }

    /// The name or address of that host by itself, and its port where one is written. Where none is, settings decide
    /// between those of HTTP with TLS and without.
    pub fn host_and_port(&self) -> (&str, Option<u16>) {
        match self.host().rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (self.host(), None),
        }
    }

    /// The repository by the one name that tells it from others, however it is written: without a port that goes without
    /// saying. It is compared by that name, and asked by the one that was written.
    pub fn identity(&self) -> Self {
        let registry = registry_named(without_default_port(&self.registry)).to_owned();
        Self { registry, path: self.path.clone() }
    }

    /// Whether two names mean one repository.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// The manifest under `tag` in this repository.
    ///
    /// # Errors
    /// If `tag` is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ParseReferenceError> {
        if !is_tag(tag) {
            let reason = "write 1 to 128 letters, digits, _ . -, the first no . or -".to_owned();
            return Err(ParseReferenceError { text: tag.to_owned(), what: "a tag", reason });
        }
        Ok(Reference { repository: self.clone(), tag: Some(tag.to_owned()), digest: None })
    }

    /// The manifest with `digest` in this repository.
    pub fn with_digest(&self, digest: &Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest.clone()) }
    }
}

impl Reference {
    /// The repository that holds the manifest.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if the reference has one; `latest` was added to a text with neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same manifest in another repository.
    pub(crate) fn in_repository(&self, repository: &Repository) -> Self {
        Self { repository: repository.clone(), ..self.clone() }
    }

    /// What `/manifests/` is asked for: the digest, which a tag beside it cannot change, or the tag.
    pub(crate) fn identifier(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl FromStr for Repository {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let what = "a repository";
        let (repository, name) = parse(text, what)?;
        if name.tag.is_none() && name.digest.is_none() {
            return Ok(repository);
        }
        let reason = "it has a tag or a digest; write registry/path alone".to_owned();
        Err(ParseReferenceError { text: text.to_owned(), what, reason })
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let what = "an image reference";
        let (repository, name) = parse(text, what)?;
        let digest = name.digest.map(str::parse).transpose().map_err(|error: super::ParseDigestError| {
            ParseReferenceError { text: text.to_owned(), what, reason: error.to_string() }
        })?;
        let latest = digest.is_none().then_some("latest");
        Ok(Self { repository, tag: name.tag.or(latest).map(str::to_owned), digest })
    }
}

fn parse<'a>(text: &'a str, what: &'static str) -> Result<(Repository, Name<'a>), ParseReferenceError> {
    let name =
        Name::parse(text).map_err(|reason| ParseReferenceError { text: text.to_owned(), what, reason })?;
    Ok((Repository { registry: name.registry.clone(), path: name.path.clone() }, name))
}

/// OCI distribution spec, "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub(super) fn is_tag(tag: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(valid);
    first && tag.len() <= 128 && bytes.all(|byte| valid(byte) || matches!(byte, b'.' | b'-'))
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Both names are written, read and shown in one form.
macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Repository Reference);

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_get_the_defaults_that_everyone_expects() {
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("acme/web:1", "docker.io/acme/web:1"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/web", "localhost/web:latest"),
            ("127.0.0.1:5000/team/web:1", "127.0.0.1:5000/team/web:1"),
            ("Registry.Example.COM/web", "registry.example.com/web:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole, "{text}");
        }
    }

    #[test]
    fn a_registry_may_be_an_ipv6_address() {
        for (text, whole) in [
            ("[::1]:5000/web", "[::1]:5000/web:latest"),
            ("[2001:DB8:0::1]/team/web:1", "[2001:db8::1]/team/web:1"),
            (&format!("[::1]:5000/web:1@{DIGEST}"), &format!("[::1]:5000/web:1@{DIGEST}")),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), whole, "{text}");
            assert_eq!(whole.parse::<Reference>().unwrap(), reference, "{text}");
        }
        assert_eq!("[::1]:5000/web".parse::<Repository>().unwrap().registry(), "[::1]:5000");
        for text in
            ["[::1]", "[::1", "[::1]:5000", "[::1]x/web", "[::1]:99999/web", "[web]/web", "[::1]:5000/Web"]
        {
            assert!(text.parse::<Repository>().is_err(), "{text}");
            assert!(text.parse::<Reference>().unwrap_err().to_string().contains(text), "{text}");
        }
        let error = "[::1]:5000/web:1".parse::<Repository>().unwrap_err().to_string();
        assert!(error.ends_with("write registry/path alone"), "{error}");
    }

    #[test]
    fn docker_hub_is_reached_at_its_own_address() {
        assert_eq!("busybox".parse::<Repository>().unwrap().host(), "registry-1.docker.io");
        assert_eq!("ghcr.io/acme/web".parse::<Repository>().unwrap().host(), "ghcr.io");
    }

    #[test]
    fn a_digest_wins_over_the_tag_beside_it() {
        let reference: Reference = format!("ghcr.io/acme/web:1@{DIGEST}").parse().unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.identifier(), DIGEST);
    }

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        assert_eq!("host:5000/web".parse::<Repository>().unwrap().to_string(), "host:5000/web");
        for text in ["ghcr.io/web:1", &format!("ghcr.io/web@{DIGEST}")] {
            let error = text.parse::<Repository>().unwrap_err().to_string();
            assert!(error.ends_with("it has a tag or a digest; write registry/path alone"), "{error}");
        }
        for text in ["", "ghcr.io/", "ghcr.io/Web", "ghcr.io//web", "https://ghcr.io/web"] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tag_is_checked_before_it_becomes_part_of_an_address() {
        let repository: Repository = "ghcr.io/acme/web".parse().unwrap();
        assert_eq!(repository.with_tag("1.4-rc_1").unwrap().to_string(), "ghcr.io/acme/web:1.4-rc_1");
        for tag in ["", ".1", "-1", "a/b", "a?b", "é", &"x".repeat(129)] {
            assert!(repository.with_tag(tag).is_err(), "{tag}");
        }
    }

    #[test]
    fn a_digest_that_cannot_be_verified_is_refused() {
        for digest in
            ["sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", &format!("sha384:{}", "a".repeat(96))]
        {
            assert!(format!("ghcr.io/web@{digest}").parse::<Reference>().is_err(), "{digest}");
        }
    }
}
