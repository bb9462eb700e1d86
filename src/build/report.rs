//! What a build's pod says when it ends: a digest, or an exit code and its last lines.

use serde::Deserialize;

use crate::api::Reason;

/// The termination message of a build that succeeded. A hint: whoever uses the digest fetches the
/// manifest and hashes it.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Digest of what was pushed.
    pub digest: String,
}

impl BuildReport {
    /// Reads a termination message.
    pub fn parse(message: &str) -> Option<Self> {
        serde_json::from_str(message.trim()).ok()
    }
}

/// Exit codes of the build script that mean more than "it failed". The Job fails at once on the lasting
/// ones (`podFailurePolicy`); any other code is tried again within `spec.build.retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// A step of the Dockerfile failed, or the Dockerfile does not parse.
    Build = 65,
    /// The target registry refused the push.
    Push = 66,
    /// `spec.build.timeout` was over.
    Timeout = 67,
    /// The context or the Dockerfile in it does not exist.
    Context = 68,
    /// The ConfigMap that is the context was edited after it was read.
    Changed = 69,
}

impl ExitCause {
    /// The causes that trying again does not cure.
    pub const LASTING: [ExitCause; 5] =
        [ExitCause::Build, ExitCause::Push, ExitCause::Timeout, ExitCause::Context, ExitCause::Changed];

    /// The cause behind an exit code.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::LASTING.into_iter().find(|cause| *cause as i32 == code)
    }

    /// What the platform's status says for it.
    pub fn reason(self) -> Reason {
        match self {
            ExitCause::Build => Reason::BuildFailed,
            ExitCause::Push => Reason::PushDenied,
            ExitCause::Timeout => Reason::BuildTimeout,
            ExitCause::Context => Reason::ContextNotFound,
            ExitCause::Changed => Reason::ContextChanged,
        }
    }
}
