//! The machine-readable reasons of conditions, platforms and events.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $(#[serde($serde:ident)])? $name:ident),+ $(,)?) => {
        /// Why a platform or an image is in its state. Stable: scripts and alerts match on these words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Reason { $($(#[doc = $doc])+ $(#[serde($serde)])? $name),+ }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The word as it stands in a condition.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name)),+ }
            }

            /// What it means, as a sentence for people: its line in this documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

reasons! {
    /// The index is published and everything about it is as the spec says.
    Published,
    /// Sources are being resolved in their registries or repositories.
    Resolving,
    /// What a build pushed is being fetched and checked.
    Verifying,
    /// At least one platform is being built.
    Building,
    /// Children are being copied into the target repository.
    Copying,
    /// Every platform is ready; the index is being pushed.
    Publishing,
    /// The platform's child is in the target repository and verified.
    Verified,
    /// `spec.suspend` is true.
    Suspended,
    /// A source image or tag does not exist.
    SourceNotFound,
    /// A source image is not what it should be: too large, malformed, of an old format.
    SourceInvalid,
    /// A registry refused the credentials, or wants some and has none.
    AuthenticationFailed,
    /// A registry asked to be called later.
    RateLimited,
    /// A registry cannot be reached or answers with server errors.
    RegistryUnavailable,
    /// A source is not for the platform it was declared for.
    PlatformMismatch,
    /// No node of the cluster has the platform's os and architecture.
    NoNodeForPlatform,
    /// Nodes of the platform exist and the scheduler accepts none of them.
    Unschedulable,
    /// The build waits for its turn: the operator's limits, or Kueue.
    Queued,
    /// A base image of the Dockerfile has nothing for the platform.
    BaseImagePlatformMissing,
    /// A base image of the Dockerfile does not exist.
    BaseImageNotFound,
    /// The node that was to emulate the platform cannot.
    EmulationUnavailable,
    /// The remote builder does not answer, or refuses us.
    RemoteBuilderUnavailable,
    /// The build ran out of disk.
    BuildDiskFull,
    /// The cluster makes no pod for the build's Job.
    PodNotCreated,
    /// The pod has a node and its container has not started yet.
    ContainerStarting,
    /// A build step failed.
    BuildFailed,
    /// The build was killed for want of memory.
    BuildOutOfMemory,
    /// The node evicted the build's pod.
    BuildEvicted,
    /// The build took longer than `spec.build.timeout`.
    BuildTimeout,
    /// The build ended and its result is lost; it is built again.
    BuildResultLost,
    /// The builder's own image cannot be pulled, or the image that `spec.verify.run` is to run.
    ImagePullFailed,
    /// The build context, or the Dockerfile in it, does not exist.
    ContextNotFound,
    /// The build context was changed while it was being built.
    ContextChanged,
    /// The build context cannot be reached.
    ContextUnavailable,
    /// A Secret that the spec names does not exist.
    SecretNotFound,
    /// A Secret that the spec names has no usable content.
    SecretInvalid,
    /// A registry refused a write.
    PushDenied,
    /// A tag exists with other content and is not to be moved.
    TagExists,
    /// Another MultiArchImage, which is older, publishes under the same tag.
    TagConflict,
    /// Somebody else has moved or removed a published tag.
    TagMoved,
    /// The published tags are as they were published again.
    DriftCorrected,
    /// A resource was deleted and some of its tags could not be removed.
    TagsKept,
    /// Content does not have the digest it was asked for by.
    DigestMismatch,
    /// The program that an image starts was made for another platform.
    BinaryMismatch,
    /// The command of `spec.verify.run` is being run in a platform's image.
    VerifyRunning,
    /// The command of `spec.verify.run` failed in a platform's image.
    VerifyRunFailed,
    /// The operator's policies do not let the namespace publish there.
    PolicyDenied,
    /// A host that the spec names, or that a server leads to, is not spoken to.
    HostDenied,
    /// The spec contradicts itself in a way the schema cannot see.
    InvalidSpec,
    /// A Job or a pod of the name we need belongs to somebody else.
    JobConflict,
    /// The Kubernetes API refused a request.
    ClusterError,
    /// A mistake in the operator itself.
    InternalError,
    /// Work has been seen and not begun. What a newer operator has written reads as this too.
    #[serde(other)]
    Pending,
}

impl Reason {
    /// Whether a Secret of the spec is to be mended: it comes back by itself only where somebody was about to write it.
    pub fn is_about_a_secret(self) -> bool {
        matches!(self, Reason::SecretNotFound | Reason::SecretInvalid)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
