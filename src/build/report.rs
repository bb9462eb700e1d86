//! What a build's pod says when it ends: a digest, or an exit code and its last lines.

use serde::Deserialize;

use crate::api::Reason;

/// The termination message of a build that succeeded. A hint: whoever uses the digest fetches the
/// manifest and hashes it.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Digest of what was pushed: of an image, or of an index with its attestations.
    pub digest: String,
}

impl BuildReport {
    /// Reads a termination message.
    pub fn parse(message: &str) -> Option<Self> {
        serde_json::from_str(message.trim()).ok()
    }
}

/// Exit codes of the pod's scripts that mean more than "it failed". The Job fails at once on the lasting
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
    /// A step was killed for want of memory.
    OutOfMemory = 71,
    /// There was no space left for what was built. Another node may have some.
    DiskFull = 72,
    /// The context's server cannot be reached.
    ContextUnavailable = 73,
    /// A git server or a registry refuses the credentials, or is not who it should be.
    Authentication = 74,
    /// The remote builder does not answer, or refuses us.
    RemoteBuilder = 75,
    /// The node does not run programs of the platform. Another one may.
    Emulation = 76,
    /// A base image has nothing for the platform.
    BaseImagePlatform = 77,
    /// A base image does not exist.
    BaseImage = 78,
    /// `SOURCE_DATE_EPOCH: context` with a context that has no time.
    Epoch = 79,
    /// The context is not the one that its digest names.
    Digest = 80,
    /// A Secret has no key that can be used.
    Secret = 81,
    /// The pod was to be in a user namespace and is not.
    UserNamespace = 82,
    /// A registry cannot be reached, or fails.
    Registry = 83,
    /// A registry asks to be called later.
    RateLimit = 84,
}

impl ExitCause {
    /// Every cause.
    pub const ALL: [ExitCause; 19] = [
        ExitCause::Build,
        ExitCause::Push,
        ExitCause::Timeout,
        ExitCause::Context,
        ExitCause::Changed,
        ExitCause::OutOfMemory,
        ExitCause::DiskFull,
        ExitCause::ContextUnavailable,
        ExitCause::Authentication,
        ExitCause::RemoteBuilder,
        ExitCause::Emulation,
        ExitCause::BaseImagePlatform,
        ExitCause::BaseImage,
        ExitCause::Epoch,
        ExitCause::Digest,
        ExitCause::Secret,
        ExitCause::UserNamespace,
        ExitCause::Registry,
        ExitCause::RateLimit,
    ];

    /// The causes that trying again does not cure.
    pub fn lasting() -> impl Iterator<Item = ExitCause> {
        Self::ALL.into_iter().filter(|cause| cause.is_lasting())
    }

    /// Whether trying again does not cure it.
    pub fn is_lasting(self) -> bool {
        !matches!(
            self,
            ExitCause::DiskFull
                | ExitCause::ContextUnavailable
                | ExitCause::RemoteBuilder
                | ExitCause::Emulation
                | ExitCause::Registry
                | ExitCause::RateLimit
        )
    }

    /// The cause behind an exit code.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as i32 == code)
    }

    /// What the platform's status says for it.
    pub fn reason(self) -> Reason {
        match self {
            ExitCause::Build => Reason::BuildFailed,
            ExitCause::Push => Reason::PushDenied,
            ExitCause::Timeout => Reason::BuildTimeout,
            ExitCause::Context => Reason::ContextNotFound,
            ExitCause::Changed => Reason::ContextChanged,
            ExitCause::OutOfMemory => Reason::BuildOutOfMemory,
            ExitCause::DiskFull => Reason::BuildDiskFull,
            ExitCause::ContextUnavailable => Reason::ContextUnavailable,
            ExitCause::Authentication => Reason::AuthenticationFailed,
            ExitCause::RemoteBuilder => Reason::RemoteBuilderUnavailable,
            ExitCause::Emulation => Reason::EmulationUnavailable,
            ExitCause::BaseImagePlatform => Reason::BaseImagePlatformMissing,
            ExitCause::BaseImage => Reason::BaseImageNotFound,
            ExitCause::Epoch => Reason::InvalidSpec,
            ExitCause::Digest => Reason::DigestMismatch,
            ExitCause::Secret => Reason::SecretInvalid,
            ExitCause::UserNamespace => Reason::ClusterError,
            ExitCause::Registry => Reason::RegistryUnavailable,
            ExitCause::RateLimit => Reason::RateLimited,
        }
    }
}
