//! What must be learnt or done.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::tracking::Slots;
use crate::api::{MultiArchImage, MultiArchImageStatus};
use crate::dockerfile::BaseImage;
use crate::image::{AssembledIndex, PlatformCheck, ResolvedImage, TagPolicy};
use crate::platform::Platform;
use crate::registry::{Digest, Reference, Repository};

/// A look-up is good for one epoch: a new generation or a new request looks again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// `metadata.generation`.
    pub generation: i64,
    /// The latest request to check now.
    pub reconcile: Option<String>,
    /// The latest request to build again.
    pub rebuild: Option<String>,
}

impl Epoch {
    /// What an image asks for as it is now. An annotation that has been taken away asks for nothing new: what its last
    /// value asked for stands in the status.
    pub fn of(image: &MultiArchImage, status: &MultiArchImageStatus) -> Self {
        let rebuild = image.rebuild_request().or(status.last_handled_rebuild_at.as_deref());
        Epoch {
            generation: image.generation(),
            reconcile: image.reconcile_request().or_else(|| status.last_handled_reconcile_at.clone()),
            rebuild: rebuild.map(str::to_owned),
        }
    }
}

/// One piece of work. Two tasks with the same key are the same work.
#[derive(Clone, Debug)]
pub enum Task {
    /// Are the registry secrets there, and can they be read?
    CheckSecrets {
        /// When it was asked.
        epoch: Epoch,
    },
    /// Which commit does a git ref name?
    ResolveCommit {
        /// When it was asked.
        epoch: Epoch,
        /// http(s) address of the repository.
        url: String,
        /// Branch, tag or full ref; HEAD when absent.
        reference: Option<String>,
        /// The Secret with what the server asks for.
        secret: Option<String>,
    },
    /// Which image or artifact does a reference name?
    ResolveContextImage {
        /// When it was asked.
        epoch: Epoch,
        /// The image.
        reference: Reference,
    },
    /// What is in a ConfigMap?
    ReadConfigMap {
        /// When it was asked.
        epoch: Epoch,
        /// Its name.
        name: String,
        /// The keys that must be there: the Dockerfiles of all platforms.
        dockerfiles: BTreeSet<String>,
    },
    /// What is in a file of a commit?
    ReadFile {
        /// Address of the git repository.
        url: String,
        /// The full commit hash.
        commit: String,
        /// The file.
        path: String,
        /// The Secret with what the server asks for.
        secret: Option<String>,
    },
    /// Are the Secrets there that a build's pod mounts?
    CheckBuildSecrets {
        /// When it was asked.
        epoch: Epoch,
        /// The Secrets.
        wanted: Vec<SecretKeys>,
    },
    /// Do base images offer the platform?
    CheckBaseImages {
        /// When it was asked.
        epoch: Epoch,
        /// The images, each with the platform.
        images: Vec<BaseImage>,
    },
    /// Which child does an image have for a platform, and is it what it claims?
    ResolveImage {
        /// When it was asked.
        epoch: Epoch,
        /// The image.
        reference: Reference,
        /// The platform.
        platform: Platform,
        /// What the tag is known to point at by now.
        moved_to: Option<Digest>,
        /// What is done about a config that names another one.
        check: PlatformCheck,
    },
    /// Is what a build pushed really there and really for the platform?
    InspectBuild {
        /// The target repository.
        repository: Repository,
        /// What the build's pod reported.
        digest: Digest,
        /// The platform.
        platform: Platform,
        /// The look that did not find it.
        look: Option<Timestamp>,
        /// What is done about a config that names another one.
        check: PlatformCheck,
    },
    /// Bring a child into the target repository, or from there into a mirror.
    CopyImage {
        /// Where it is.
        from: Repository,
        /// Where it shall be.
        to: Repository,
        /// The child.
        image: Arc<ResolvedImage>,
        /// The look that did not find it there.
        look: Option<Timestamp>,
    },
    /// Create a build's Job.
    CreateJob {
        /// The Job.
        job: Box<Job>,
        /// The volume of its cache, which an earlier Job may have left.
        claim: Option<Box<PersistentVolumeClaim>>,
    },
    /// Wait for the turn to create a Job. Nothing is done meanwhile, and how its creation failed is not forgotten.
    AwaitTurn {
        /// Its name.
        job: String,
        /// Whether it wants a turn now; not while the next attempt after a failure is not due.
        queued: bool,
    },
    /// Merge the registry secrets into one of a Job's name, since the builder reads a single file.
    MergeSecrets {
        /// When it was asked: a new request reads rotated Secrets at once.
        epoch: Epoch,
        /// Name of the Job, which owns the merged Secret.
        job: String,
        /// UID of the Job.
        uid: String,
        /// The Secrets to merge.
        secrets: Vec<String>,
    },
    /// Which pods does a Job have? Asked of the API server where the watch cannot be believed.
    FindPods {
        /// UID of the Job.
        uid: String,
    },
    /// Delete a Job with its pods.
    DeleteJob {
        /// Its name.
        name: String,
        /// Its UID: a namesake that came later is not touched.
        uid: String,
    },
    /// Push the index and its tags, and before it the tags of its platforms' images.
    Publish {
        /// The generation that the index is made for.
        generation: i64,
        /// The repository.
        repository: Repository,
        /// Every tag of the index.
        tags: Vec<String>,
        /// The index.
        index: Arc<AssembledIndex>,
        /// The tags of the platforms' images.
        platform_tags: Vec<(String, Arc<ResolvedImage>)>,
        /// What is done about tags with other content.
        policy: TagPolicy,
        /// The look that found tags which are not as they were published.
        look: Option<Timestamp>,
    },
    /// Point tags that somebody moved at what was published again, while there is nothing else to publish.
    PutBack {
        /// The generation that is being worked for.
        generation: i64,
        /// The repository.
        repository: Repository,
        /// Each with the digest that it was published with.
        tags: Vec<(String, Digest)>,
        /// The look that found them moved.
        look: Timestamp,
    },
    /// Look what the sources and the published tags are now.
    Check {
        /// A request looks at once.
        epoch: Epoch,
        /// The tags of sources.
        sources: Vec<Reference>,
        /// The published tags, and by their digests images that may have gone. No mirror answers for them.
        published: Vec<Reference>,
        /// The git ref that is built from.
        git: Option<GitReference>,
        /// When it is done.
        slots: Slots,
    },
    /// Keep the resource, once it is deleted, until its tags are removed; or keep it no more.
    SetFinalizer {
        /// Whether it shall be kept.
        present: bool,
    },
    /// Remove tags that still point at what was published.
    DeleteTags {
        /// Each with the digest that it was published with.
        tags: Vec<(Reference, Digest)>,
    },
    /// Was the program that a child starts made for the platform?
    InspectProgram {
        /// The target repository, which has the child.
        repository: Repository,
        /// The child.
        image: Arc<ResolvedImage>,
        /// The platform.
        platform: Platform,
    },
    /// Create a pod that runs a child.
    CreatePod {
        /// The pod.
        pod: Box<Pod>,
    },
    /// Delete a pod.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID: a namesake that came later is not touched.
        uid: String,
        /// Whether its node is not waited for, which is gone.
        at_once: bool,
    },
}

/// A branch or tag of a git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitReference {
    /// Address of the repository.
    pub url: String,
    /// Branch, tag or full ref; HEAD when absent.
    pub reference: Option<String>,
    /// The Secret with what the server asks for.
    pub secret: Option<String>,
}

/// How long the watch may take to show what a write to the cluster did, or what was there before.
const EFFECT_GRACE: SignedDuration = SignedDuration::from_secs(30);
/// How often a build that waits or runs is given its credentials anew: some are good for an hour and it may take longer.
const MERGE_AGAIN: SignedDuration = SignedDuration::from_mins(5);

impl Task {
    /// When a task that ended well at a time and is still wanted is done once more. A Job that was created and is not
    /// seen has gone again between two looks of the watch; doing it twice changes nothing where it has not.
    pub fn repeat_at(&self, ended: Timestamp) -> Option<Timestamp> {
        match self {
            Task::CreateJob { .. }
            | Task::FindPods { .. }
            | Task::DeleteJob { .. }
            | Task::CreatePod { .. }
            | Task::DeletePod { .. }
            | Task::SetFinalizer { .. } => ended.checked_add(EFFECT_GRACE).ok(),
            Task::MergeSecrets { .. } => ended.checked_add(MERGE_AGAIN).ok(),
            Task::Check { slots, .. } => Some(slots.after(ended)),
            _ => None,
        }
    }

    /// What sort of work it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Task::CheckSecrets { .. } => "CheckSecrets",
            Task::ResolveCommit { .. } => "ResolveCommit",
            Task::ResolveContextImage { .. } => "ResolveContextImage",
            Task::ReadConfigMap { .. } => "ReadConfigMap",
            Task::ReadFile { .. } => "ReadFile",
            Task::CheckBuildSecrets { .. } => "CheckBuildSecrets",
            Task::CheckBaseImages { .. } => "CheckBaseImages",
            Task::ResolveImage { .. } => "ResolveImage",
            Task::InspectBuild { .. } => "InspectBuild",
            Task::CopyImage { .. } => "CopyImage",
            Task::CreateJob { .. } => "CreateJob",
            Task::AwaitTurn { .. } => "AwaitTurn",
            Task::MergeSecrets { .. } => "MergeSecrets",
            Task::FindPods { .. } => "FindPods",
            Task::DeleteJob { .. } => "DeleteJob",
            Task::Publish { .. } => "Publish",
            Task::PutBack { .. } => "PutBack",
            Task::Check { .. } => "Check",
            Task::SetFinalizer { .. } => "SetFinalizer",
            Task::DeleteTags { .. } => "DeleteTags",
            Task::InspectProgram { .. } => "InspectProgram",
            Task::CreatePod { .. } => "CreatePod",
            Task::DeletePod { .. } => "DeletePod",
        }
    }

    /// Whether it changes what others see, in a moment. The operator does not stop in the middle of that; copies may take
    /// minutes, are begun anew where they stopped, and nobody sees them before the tags move.
    pub fn writes(&self) -> bool {
        match self {
            Task::CreateJob { .. }
            | Task::DeleteJob { .. }
            | Task::CreatePod { .. }
            | Task::DeletePod { .. }
            | Task::MergeSecrets { .. }
            | Task::SetFinalizer { .. }
            | Task::Publish { .. }
            | Task::PutBack { .. }
            | Task::DeleteTags { .. } => true,
            Task::CheckSecrets { .. }
            | Task::ResolveCommit { .. }
            | Task::ResolveContextImage { .. }
            | Task::ReadConfigMap { .. }
            | Task::ReadFile { .. }
            | Task::CheckBuildSecrets { .. }
            | Task::CheckBaseImages { .. }
            | Task::ResolveImage { .. }
            | Task::InspectBuild { .. }
            | Task::CopyImage { .. }
            | Task::AwaitTurn { .. }
            | Task::FindPods { .. }
            | Task::Check { .. }
            | Task::InspectProgram { .. } => false,
        }
    }

    /// Tells this work from any other of the same `MultiArchImage`.
    pub fn key(&self) -> String {
        match self {
            Task::CheckSecrets { epoch } => format!("secrets {epoch:?}"),
            Task::ResolveCommit { epoch, url, reference, secret } => {
                format!("commit {url} {reference:?} {secret:?} {epoch:?}")
            }
            Task::ResolveContextImage { epoch, reference } => format!("context {reference} {epoch:?}"),
            Task::ReadConfigMap { epoch, name, dockerfiles } => {
                format!("configmap {name} {dockerfiles:?} {epoch:?}")
            }
            Task::ReadFile { url, commit, path, secret } => {
                format!("file {url} {commit} {path:?} {secret:?}")
            }
            Task::CheckBuildSecrets { epoch, wanted } => format!("build secrets {wanted:?} {epoch:?}"),
            Task::CheckBaseImages { epoch, images } => format!("base images {images:?} {epoch:?}"),
            Task::ResolveImage { epoch, reference, platform, moved_to, check } => {
                format!("resolve {reference} {platform} {moved_to:?} {check:?} {epoch:?}")
            }
            Task::InspectBuild { repository, digest, platform, look, check } => {
                format!("inspect {repository}@{digest} {platform} {look:?} {check:?}")
            }
            Task::CopyImage { from, to, image, look } => {
                format!("copy {from}@{} {to} {look:?}", image.image.descriptor.digest)
            }
            Task::CreateJob { job, .. } => format!("create {:?}", job.metadata.name),
            Task::AwaitTurn { job, .. } => format!("create {:?}", Some(job)),
            Task::MergeSecrets { epoch, uid, .. } => format!("merge {uid} {epoch:?}"),
            Task::FindPods { uid } => format!("pods of {uid}"),
            Task::DeleteJob { name, uid } => format!("delete {name} {uid}"),
            Task::Publish { generation, repository, tags, index, platform_tags, policy, look } => {
                let images: Vec<(&String, &Digest)> =
                    platform_tags.iter().map(|(tag, child)| (tag, &child.image.descriptor.digest)).collect();
                let digest = &index.descriptor.digest;
                format!("publish {digest} {repository} {tags:?} {images:?} {policy:?} {generation} {look:?}")
            }
            Task::PutBack { generation, repository, tags, look } => {
                format!("put back {repository} {tags:?} {generation} {look}")
            }
            // Whatever is looked at: what was found last counts until the next look.
            Task::Check { epoch, .. } => format!("check {epoch:?}"),
            Task::SetFinalizer { present } => format!("finalizer {present}"),
            Task::DeleteTags { tags } => format!("delete tags {tags:?}"),
            Task::InspectProgram { repository, image, platform } => {
                format!("program {repository}@{} {platform}", image.image.descriptor.digest)
            }
            Task::CreatePod { pod } => format!("create pod {:?}", pod.metadata.name),
            Task::DeletePod { name, uid, at_once } => format!("delete pod {name} {uid} {at_once}"),
        }
    }
}

/// A Secret, and of each of its keys the names that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKeys {
    /// Its name.
    pub name: String,
    /// For each key that must be there the names that it may have.
    pub keys: Vec<Vec<String>>,
}
