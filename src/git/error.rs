//! Why something could not be learnt from a git server.

use crate::network::HostDenied;

/// Why something could not be learnt from a git server. Every message begins with the repository and names no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, fails or answers nonsense; it may pass.
    #[error("{url}: {cause}")]
    Unavailable {
        /// The repository.
        url: String,
        /// The leaf cause.
        cause: String,
    },
    /// The server refuses us.
    #[error("{url}: access denied ({cause}); {remedy}")]
    Denied {
        /// The repository.
        url: String,
        /// The server's answer.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// The server must not be spoken to, or the one that it leads to; nothing was sent there.
    #[error("{url}: {cause}")]
    HostDenied {
        /// The repository.
        url: String,
        /// Which host it is, and which rule.
        cause: HostDenied,
    },
    /// The server of an ssh URL does not prove to be one of the known hosts. Nothing was sent to it.
    #[error("{url}: {cause}")]
    HostKey {
        /// The repository.
        url: String,
        /// The key that was offered, and what to do.
        cause: String,
    },
    /// The credentials do not fit the URL, or would be shown to everyone on the way.
    #[error("{url}: {cause}")]
    Credentials {
        /// The repository.
        url: String,
        /// What does not fit, and what to do.
        cause: String,
    },
    /// There is no repository there.
    #[error("{url}: no git repository is there ({cause})")]
    NoRepository {
        /// The repository.
        url: String,
        /// What is there instead.
        cause: String,
    },
    /// The repository has no such ref.
    #[error("{url}: no branch or tag is named {reference:?}{}", suggestion(.similar))]
    NoReference {
        /// The repository.
        url: String,
        /// The ref that was asked for.
        reference: String,
        /// Refs that were perhaps meant.
        similar: Vec<String>,
    },
    /// The repository has no such commit, or does not give it away.
    #[error(
        "{url}: the server does not give commit {commit} ({cause}); a commit that no branch or tag contains any more is soon lost"
    )]
    NoCommit {
        /// The repository.
        url: String,
        /// The commit that was asked for.
        commit: String,
        /// The server's words.
        cause: String,
    },
    /// The server offers no way to look at single files, or they are too large. What is in them stays unknown.
    #[error("{url}: files cannot be looked at without a clone ({cause})")]
    NotInspectable {
        /// The repository.
        url: String,
        /// What is missing or too large.
        cause: String,
    },
}

impl Error {
    pub(super) fn unavailable(url: &str, cause: impl Into<String>) -> Self {
        Error::Unavailable { url: url.to_owned(), cause: cause.into() }
    }

    /// The server has not answered at all.
    pub(super) fn no_answer(url: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        match HostDenied::behind(error) {
            Some(denied) => Error::denied(url, denied.clone()),
            None => Error::unavailable(url, leaf(error)),
        }
    }

    pub(super) fn denied(url: &str, cause: HostDenied) -> Self {
        Error::HostDenied { url: url.to_owned(), cause }
    }

    pub(super) fn no_repository(url: &str, cause: impl Into<String>) -> Self {
        Error::NoRepository { url: url.to_owned(), cause: cause.into() }
    }

    pub(super) fn credentials(url: &str, cause: impl Into<String>) -> Self {
        Error::Credentials { url: url.to_owned(), cause: cause.into() }
    }

    pub(super) fn not_inspectable(url: &str, cause: impl Into<String>) -> Self {
        Error::NotInspectable { url: url.to_owned(), cause: cause.into() }
    }
}

fn suggestion(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// The innermost cause: what a person can act on.
pub(super) fn leaf(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
