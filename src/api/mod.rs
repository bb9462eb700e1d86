//! The contract: `MultiArchImage` of the API group `multiarch.dev`, its status, and the names that tie
//! objects together. Everything that users write or read stands here.

mod build;
mod context;
mod duration;
mod pod;
mod reason;
pub mod rules;
mod spec;
mod status;

pub use build::*;
pub use context::*;
pub use pod::*;
pub use reason::Reason;
pub use spec::*;
pub use status::*;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};

/// Field manager of every server-side apply, and the `reportingController` of events.
pub const MANAGER: &str = "multiarch-operator";
/// Label on Jobs and pods: the name of the `MultiArchImage` they work for.
pub const LABEL_IMAGE: &str = "multiarch.dev/image";
/// Label on Jobs and pods: the platform they build, as a slug (`linux-arm-v7`).
pub const LABEL_PLATFORM: &str = "multiarch.dev/platform";
/// Finalizer of a `MultiArchImage` whose tags are removed with it.
pub const FINALIZER: &str = "multiarch.dev/published-tags";
/// Label on the pods of `spec.verify.run`, by which they are told from those of builds: the attempt that they are.
pub const LABEL_VERIFICATION: &str = "multiarch.dev/verification";
/// Annotation on Jobs: SHA-256 of everything that changes what the build produces.
pub const ANNOTATION_BUILD_HASH: &str = "multiarch.dev/build-hash";
/// Annotation on Jobs: SHA-256 of what of it was known before the context was looked up.
pub const ANNOTATION_OUTLINE: &str = "multiarch.dev/build-outline";
/// Annotation on Jobs: the fingerprint of how the build is to run.
pub const ANNOTATION_ATTEMPT: &str = "multiarch.dev/attempt";
/// Annotation on Jobs, `true` where the node emulates the platform.
pub const ANNOTATION_EMULATED: &str = "multiarch.dev/emulated";
/// Annotation on a `MultiArchImage`: a new value makes the operator look at every source again.
pub const ANNOTATION_RECONCILE: &str = "multiarch.dev/reconcile-requested-at";
/// Flux's spelling of the same request, set by `flux reconcile`.
pub const ANNOTATION_RECONCILE_FLUX: &str = "reconcile.fluxcd.io/requestedAt";
/// Annotation on a `MultiArchImage`: a new value builds every built platform again.
pub const ANNOTATION_REBUILD: &str = "multiarch.dev/rebuild-requested-at";

impl MultiArchImage {
    /// The request to check now: the value of whichever annotation carries one, or of both.
    pub fn reconcile_request(&self) -> Option<String> {
        let annotations = self.annotations();
        match (annotations.get(ANNOTATION_RECONCILE), annotations.get(ANNOTATION_RECONCILE_FLUX)) {
            (Some(ours), Some(flux)) => Some(format!("{ours} {flux}")),
            (ours, flux) => ours.or(flux).cloned(),
        }
    }

    /// The value of the latest request to build again.
    pub fn rebuild_request(&self) -> Option<&str> {
        self.annotations().get(ANNOTATION_REBUILD).map(String::as_str)
    }

    /// `metadata.generation`; 0 for an object that no API server has seen.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// Whether a condition is true, and of the latest spec.
    pub fn is_true(&self, type_: &str) -> bool {
        let condition = self.status.as_ref().and_then(|status| status.condition(type_));
        condition.is_some_and(|condition| {
            condition.status == "True" && condition.observed_generation == self.metadata.generation
        })
    }

    /// Whether the object is being deleted.
    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// The `MultiArchImage` that a labelled Job or pod works for.
pub fn image_of<K: kube::Resource>(object: &K) -> Option<ObjectRef<MultiArchImage>> {
    let name = object.labels().get(LABEL_IMAGE)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// The UID of the object that controls another.
pub fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    Some(controller(metadata)?.uid.as_str())
}

/// What controls an object: of its owners the one that says so.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The owner reference that ties an object's life to its `MultiArchImage`.
pub fn owner_reference(image: &MultiArchImage) -> Option<OwnerReference> {
    image.controller_owner_ref(&())
}
