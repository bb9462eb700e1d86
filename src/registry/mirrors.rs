//! Mirrors: asked first for what is read, never needed, never believed more than the registry itself.

use std::fmt;
use std::str::FromStr;

use super::error::Error;
use super::reference::{Repository, api_host};
use super::session::Session;

/// A place that has copies of what a registry has: `host[:port][/prefix]`, with each repository under the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Mirror {
    /// Where the mirror has its copy of `repository`.
    fn copy_of(&self, repository: &Repository) -> Option<Repository> {
        format!("{}/{}", self.0, repository.path()).parse().ok()
    }
}

impl Mirror {
    /// `host[:port]`.
    pub fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim_end_matches('/');
        let host = text.split('/').next().unwrap_or_default();
        let parsed = format!("{text}/web").parse::<Repository>();
        // What has neither a dot nor a port would be taken for a path on Docker Hub.
        match parsed {
            Ok(copy) if copy.host().eq_ignore_ascii_case(api_host(host)) => Ok(Self(text.to_owned())),
            _ => Err(format!("{text:?} is no mirror; write host[:port][/prefix], without a scheme")),
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Session {
    /// Reads by `read` from the mirrors of `repository` in their order, and then from the repository itself.
    ///
    /// A mirror that fails in any way is passed over at once, whatever it answered and without another attempt: an
    /// error is always the registry's own. A mirror gets credentials that match its own name only.
    pub(crate) async fn reading<T, F>(
        &self,
        repository: &Repository,
        read: impl Fn(Session, Repository) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        for copy in self.mirrors_of(repository) {
            match read(self.without_retries(), copy).await {
                Ok(found) => return Ok(found),
                Err(error) => tracing::debug!(%error, %repository, "the mirror is passed over"),
            }
        }
        read(self.clone(), repository.clone()).await
    }

    /// The copies of `repository` that may be read in its place.
    pub(crate) fn mirrors_of(&self, repository: &Repository) -> Vec<Repository> {
        if !self.may_use_mirrors(repository) {
            return Vec::new();
        }
        self.client().mirrors(repository)
    }
}

/// Where `mirrors` have their copies of `repository`.
pub(crate) fn copies(mirrors: &[Mirror], repository: &Repository) -> Vec<Repository> {
    mirrors.iter().filter_map(|mirror| mirror.copy_of(repository)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(mirror: &str, repository: &str) -> String {
        let mirror: Mirror = mirror.parse().unwrap();
        mirror.copy_of(&repository.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_copy_keeps_its_path_under_the_prefix() {
        assert_eq!(copy("mirror.example.com", "busybox"), "mirror.example.com/library/busybox");
        assert_eq!(
            copy("mirror.example.com:5000/hub/", "ghcr.io/acme/web"),
            "mirror.example.com:5000/hub/acme/web"
        );
        assert_eq!(copy("localhost/hub", "ghcr.io/acme/web"), "localhost/hub/acme/web");
        assert_eq!(copy("[::1]:5000", "ghcr.io/acme/web"), "[::1]:5000/acme/web");
        assert_eq!(copy("docker.io/acme", "ghcr.io/web"), "docker.io/acme/web");
    }

    #[test]
    fn what_would_not_be_a_host_is_refused() {
        for text in [
            "",
            "hub",
            "hub/acme",
            "https://mirror.example.com",
            "mirror.example.com/Hub",
            "a.io/b:1",
            "a.io//b",
        ] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
