//! Where repositories lie: a registry, or a path in it with all that is below.

use std::fmt;
use std::str::FromStr;

use super::name::{Name, without_https_port};
use super::reference::Repository;

/// A registry and the beginning of a path in it, whole segments only: `registry.example.com/team-a` has
/// `registry.example.com/team-a/web` and `registry.example.com/team-a` itself, and not `registry.example.com/team-ab`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPrefix {
    registry: String,
    /// Empty where the whole registry is meant.
    path: String,
}

/// Why a text is no prefix of repositories.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a registry or the beginning of a repository's name: {reason}")]
pub struct ParsePrefixError {
    text: String,
    reason: String,
}

impl RepositoryPrefix {
    /// Whether a repository lies below the prefix, or is what it names.
    pub fn covers(&self, repository: &Repository) -> bool {
        let below = repository.path().strip_prefix(self.path.as_str());
        let is_segment =
            self.path.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        without_https_port(repository.registry()) == self.registry && is_segment
    }
}

impl FromStr for RepositoryPrefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason: &str| ParsePrefixError { text: text.to_owned(), reason: reason.to_owned() };
        let registry = text.split('/').next().unwrap_or_default();
        // `team` would be docker.io/library/team to Docker, and a registry to most who read it.
        if !text.contains("://") && !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(fail("write the registry as well, as in docker.io/acme"));
        }
        if text.contains('*') {
            return Err(fail("all that is below is meant anyway; write it without *"));
        }
        if let Some(shorter) = text.strip_suffix('/') {
            return Err(fail(&format!("write {shorter}")));
        }
        if text.contains('@') {
            return Err(fail("it has an @; write registry/path alone"));
        }
        // Two segments more, so that no short name of Docker Hub is completed.
        let whole = format!("{text}/x/x");
        let name = Name::parse(&whole).map_err(|reason| fail(&reason))?;
        let path = name.path.strip_suffix("x/x").unwrap_or(&name.path).trim_end_matches('/').to_owned();
        Ok(RepositoryPrefix { registry: without_https_port(&name.registry).to_owned(), path })
    }
}

impl fmt::Display for RepositoryPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.registry)?;
        if self.path.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::super::name::tests::texts;
    use super::*;

    fn prefix(text: &str) -> RepositoryPrefix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn covers(prefix: &RepositoryPrefix, repository: &str) -> bool {
        repository.parse().is_ok_and(|repository| prefix.covers(&repository))
    }

    #[test]
    fn a_prefix_ends_between_two_segments() {
        let team = prefix("registry.example.com/team-a");
        for below in [
            "registry.example.com/team-a",
            "registry.example.com/team-a/web",
            "registry.example.com/team-a/x/y",
        ] {
            assert!(covers(&team, below), "{below}");
        }
        for other in [
            "registry.example.com/team-ab",
            "registry.example.com/team",
            "registry.example.com/team-b/registry.example.com/team-a",
            "registry.example.com:5000/team-a/web",
            "registry.example.com.evil.test/team-a/web",
            "evil.test/registry.example.com/team-a/web",
            "team-a/web",
        ] {
            assert!(!covers(&team, other), "{other}");
        }
        let all = prefix("registry.example.com");
        assert!(covers(&all, "registry.example.com/x") && !covers(&all, "registry.example.com.evil.test/x"));
    }

    #[test]
    fn one_registry_has_one_name_however_it_is_written() {
        for text in ["docker.io/acme", "index.docker.io/acme", "Docker.IO/acme", "registry-1.docker.io/acme"]
        {
            for repository in
                ["docker.io/acme/web", "acme/web", "index.docker.io/acme/web", "DOCKER.io/acme/x"]
            {
                assert!(covers(&prefix(text), repository), "{text} {repository}");
            }
            assert!(!covers(&prefix(text), "docker.io/library/acme"), "{text}");
        }
        assert!(covers(&prefix("docker.io/library"), "web") && covers(&prefix("docker.io"), "web"));
        for (text, repository) in
            [("r.test:443/a", "r.test/a/b"), ("r.test/a", "R.test:443/a/b"), ("[::1]:443/a", "[0:0::1]/a/b")]
        {
            assert!(covers(&prefix(text), repository), "{text} {repository}");
        }
        assert!(
            !covers(&prefix("r.test:5000/a"), "r.test/a/b")
                && !covers(&prefix("r.test/a"), "r.test:4430/a/b")
        );
    }

    #[test]
    fn what_is_no_prefix_is_told_with_what_to_write() {
        for (text, told) in [
            ("", "write the registry as well, as in docker.io/acme"),
            ("acme", "write the registry as well, as in docker.io/acme"),
            ("*", "write the registry as well"),
            ("r.test/*", "all that is below is meant anyway; write it without *"),
            ("r.test/team-a/", "write r.test/team-a"),
            ("r.test//a", "the path has an empty part"),
            ("r.test/a/../b", "\"..\" in the path"),
            ("r.test/A", "repositories are in lower case; write a/x/x"),
            ("https://r.test/a", "it begins with https://; write r.test/a"),
            ("r.test/a:1", "a tag is"),
            ("me@r.test/a", "it has an @; write registry/path alone"),
            (".", "\".\" is no host name"),
        ] {
            let error = text.parse::<RepositoryPrefix>().expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    /// Whatever is written, what the prefix covers is asked for at its host and below its path, as URLs are read.
    #[test]
    fn nothing_that_a_prefix_covers_leads_anywhere_else() {
        let pieces = [
            "r.test", "R.TEST", "team", "/", "..", "%2e%2e", "@", ":", ":443", "-b", ".evil.io", "\\", "#",
            "?", " ",
        ];
        let (team, mut covered) = (prefix("r.test/team"), 0);
        for text in texts(&pieces, 5) {
            let Ok(repository) = text.parse::<Repository>() else { continue };
            let url =
                Url::parse(&format!("https://{}/v2/{}/manifests/x", repository.host(), repository.path()));
            let Ok(url) = url else { continue };
            let path = url.path().trim_start_matches("/v2/").trim_end_matches("manifests/x");
            let leads_there =
                url.host_str() == Some("r.test") && url.port().is_none() && path.starts_with("team/");
            assert_eq!(team.covers(&repository), leads_there, "{text} leads to {url}");
            covered += usize::from(leads_there);
        }
        assert!(covered > 3, "only {covered} of them were covered");
    }
}
