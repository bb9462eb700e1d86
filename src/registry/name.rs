//! The grammar of image names: distribution's `reference` package, and Docker's way to complete a short name.
//!
//! ```text
//! [registry/]component[/component…][:tag][@digest]
//! ```
//!
//! Written out rather than as one regular expression, which takes longer to compile than everything else that a
//! command does before its first request.

use std::net::Ipv6Addr;

use super::reference::{DOCKER_HUB, is_tag};

/// The longest path of a repository, in characters.
const LONGEST_PATH: usize = 255;

/// A name taken apart, its short forms completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) registry: String,
    pub(super) path: String,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(format!("it begins with {scheme}://; write {rest}"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (registry, rest) = split_registry(name)?;
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("a tag is 1 to 128 letters, digits, _ . -, the first no . or -".to_owned());
        }
        check_path(path)?;
        let path = match registry.as_str() {
            DOCKER_HUB if !path.contains('/') => format!("library/{path}"),
            _ => path.to_owned(),
        };
        if path.len() > LONGEST_PATH {
            return Err(format!("the path has {} characters; {LONGEST_PATH} is the most", path.len()));
        }
        Ok(Self { registry, path, tag, digest })
    }
}

/// The registry with its port in lower case, and what comes after it. As in Docker, the first part of a name is a
/// registry only if it looks like a host: `team/web` is on Docker Hub, `localhost/web` is not.
fn split_registry(name: &str) -> Result<(String, &str), String> {
    if name.starts_with('[') {
        return split_address(name);
    }
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if looks_like_a_host(first) => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    check_host(registry)?;
    Ok((registry_named(&registry.to_ascii_lowercase()).to_owned(), rest))
}

/// The registry that a host in lower case means: Docker's own files and Docker Hub's API have other names for that.
pub(super) fn registry_named(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// A registry without the port of HTTPS, which goes without saying.
pub(super) fn without_https_port(registry: &str) -> &str {
    registry.strip_suffix(":443").unwrap_or(registry)
}

/// A registry without the port of HTTPS or of HTTP. Where no port is written, settings decide between the two, so either may be
/// what is meant.
pub(super) fn without_default_port(registry: &str) -> &str {
    without_https_port(registry.strip_suffix(":80").unwrap_or(registry))
}

/// Docker takes `A` of `A/web` for a host as well. We write hosts in lower case, and `a/web` is another name.
fn looks_like_a_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

/// `[::1]:5000/web`: RFC 3986, section 3.2.2.
fn split_address(name: &str) -> Result<(String, &str), String> {
    let inside = name.trim_start_matches('[');
    let (address, rest) = inside.split_once(']').ok_or("the ] after the IPv6 address is missing")?;
    let address: Ipv6Addr = address.parse().map_err(|_| "what is in [ ] is no IPv6 address")?;
    let (port, rest) = rest.split_once('/').ok_or("the path after the registry is missing")?;
    match port.strip_prefix(':') {
        Some(port) if is_port(port) => Ok((format!("[{address}]:{port}"), rest)),
        None if port.is_empty() => Ok((format!("[{address}]"), rest)),
        _ => Err("what follows the IPv6 address is no port".to_owned()),
    }
}

fn check_host(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err(format!("{registry:?} has no valid port"));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match host.split('.').all(is_label) {
        true => Ok(()),
        false => Err(format!("{host:?} is no host name")),
    }
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the name of the repository is missing".to_owned());
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("repositories are in lower case; write {}", path.to_ascii_lowercase()));
    }
    match path.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some("") => Err("the path has an empty part".to_owned()),
        Some(component) => Err(format!(
            "{component:?} in the path is not letters and digits with single . _ __ or - between"
        )),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    let separators = bytes.split(|&byte| is_word(byte)).filter(|separator| !separator.is_empty());
    separators.into_iter().all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::digest::Digest;
    use super::*;

    /// Every text of up to `length` of these pieces.
    pub fn texts(pieces: &[&str], length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|text| pieces.iter().map(move |piece| format!("{text}{piece}")))
                .collect();
            all.extend(last.clone());
        }
        all
    }

    #[test]
    fn names_are_taken_apart_as_oci_client_takes_them_apart() {
        let digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pieces = ["a", "9", "/", ":", ".", "_", "-", "localhost", "a.b:5", digest];
        for text in texts(&pieces, 4) {
            let theirs: Result<oci_client::Reference, _> = text.parse();
            let is_digest =
                |name: &Name<'_>| name.digest.is_none_or(|digest| digest.parse::<Digest>().is_ok());
            let ours = Name::parse(&text).ok().filter(is_digest);
            let Ok(theirs) = theirs else {
                assert_eq!(ours, None, "{text} is refused there");
                continue;
            };
            // `A/a` is a path on Docker Hub there, which none can be.
            if theirs.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
                assert_eq!(ours, None, "{text}");
                continue;
            }
            let ours = ours.unwrap_or_else(|| panic!("{text} is accepted there"));
            assert_eq!(ours.registry, theirs.registry().to_ascii_lowercase(), "{text}");
            assert_eq!(ours.path, theirs.repository(), "{text}");
            assert_eq!(ours.digest, theirs.digest(), "{text}");
            let tag = ours.tag.or(ours.digest.is_none().then_some("latest"));
            assert_eq!(tag, theirs.tag(), "{text}");
        }
    }

    #[test]
    fn docker_hub_is_one_registry_whatever_it_is_called() {
        for text in
            ["busybox", "docker.io/busybox", "index.docker.io/busybox", "Registry-1.Docker.io/busybox"]
        {
            let name = Name::parse(text).unwrap();
            assert_eq!(
                (name.registry.as_str(), name.path.as_str()),
                (DOCKER_HUB, "library/busybox"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_port_goes_without_saying_only_at_the_end() {
        for (registry, without) in [
            ("registry.test:443", "registry.test"),
            ("registry.test:80", "registry.test"),
            ("[::1]:443", "[::1]"),
            ("registry.test:4430", "registry.test:4430"),
            ("registry.test:8080", "registry.test:8080"),
            ("[2001:db8::443]", "[2001:db8::443]"),
            ("[2001:db8::80]:5000", "[2001:db8::80]:5000"),
        ] {
            assert_eq!(without_default_port(registry), without);
        }
        assert_eq!(without_https_port("registry.test:80"), "registry.test:80");
    }

    #[test]
    fn a_short_name_is_as_long_as_what_it_stands_for() {
        let longest = LONGEST_PATH - "library/".len();
        assert!(Name::parse(&"x".repeat(longest)).is_ok());
        assert!(Name::parse(&"x".repeat(longest + 1)).is_err());
        assert!(Name::parse(&format!("ghcr.io/{}", "x".repeat(LONGEST_PATH))).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_and_what_would_be_right() {
        for (text, reason) in [
            ("https://ghcr.io/acme/web", "it begins with https://; write ghcr.io/acme/web"),
            ("ghcr.io/Acme/web", "repositories are in lower case; write acme/web"),
            ("ghcr.io/acme/web:", "a tag is 1 to 128 letters"),
            ("ghcr.io/", "the name of the repository is missing"),
            ("ghcr.io//web", "the path has an empty part"),
            ("ghcr.io:port/web", "\"ghcr.io:port\" has no valid port"),
            ("-a.io/web", "\"-a.io\" is no host name"),
            ("ghcr.io/a..b", "\"a..b\" in the path"),
            ("[::1/web", "the ] after the IPv6 address is missing"),
        ] {
            let error = Name::parse(text).unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }
}
