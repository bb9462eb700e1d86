//! What must be learnt or done: tasks, and what came of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::tracking::Slots;
use crate::api::{MultiArchImage, MultiArchImageStatus, Reason};
use crate::dockerfile::BaseImage;
use crate::image::{AssembledIndex, PlatformCheck, ProgramFinding, ResolvedImage, TagPolicy};
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

/// What a task found.
#[derive(Clone, Debug)]
pub enum Found {
    /// It was done; there is nothing to know.
    Done,
    /// A full commit hash.
    Commit(String),
    /// The files of a ConfigMap.
    Files {
        /// The SHA-256 of each, in hexadecimal digits.
        sums: BTreeMap<String, String>,
        /// The text of the Dockerfiles among them.
        dockerfiles: BTreeMap<String, Bytes>,
    },
    /// A file of a commit, if it could be read.
    File(Option<Bytes>),
    /// An image that is a context, or an artifact with one archive.
    ContextImage {
        /// Of its manifest or index.
        digest: Digest,
        /// Of the artifact's archive.
        archive: Option<Digest>,
    },
    /// The pods of a Job, all of them.
    Pods(Vec<Arc<Pod>>),
    /// A verified image.
    Image(Arc<ResolvedImage>),
    /// What sources and published tags are now.
    Checked(Arc<Checked>),
    /// Tags that were to be removed and are still there, each with the reason.
    Kept(Vec<String>),
    /// What the program that an image starts was made for.
    Program(ProgramFinding),
}

/// What sources and published tags are at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// When it was looked.
    pub at: Timestamp,
    /// The digest that each reference has; `None` where it is gone. What cannot be seen is not listed.
    pub held: BTreeMap<Reference, Option<Digest>>,
    /// The commit of the git ref.
    pub commit: Option<String>,
    /// Why something cannot be seen, if that will not pass by itself.
    pub refused: Option<(Reason, String)>,
    /// Why something could not be seen this time, if that may pass.
    pub unseen: Option<(Reason, String)>,
}

impl Checked {
    /// Whether there is anything in a repository, as far as was looked.
    pub fn sees_anything_in(&self, repository: &Repository) -> bool {
        self.held.iter().any(|(reference, held)| reference.repository() == repository && held.is_some())
    }
}

/// Why a task failed, for people, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The machine-readable cause.
    pub reason: Reason,
    /// The leaf cause, the place and what to do.
    pub message: String,
    /// Whether it may pass by itself: then the platform waits, otherwise it has failed.
    pub transient: bool,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub enum Fact {
    /// It ended well.
    Known(Found),
    /// It failed last time; it may be running again.
    Failed(Failure),
}

impl Fact {
    /// Whether it leaves something open that was asked for.
    pub fn is_incomplete(&self) -> bool {
        match self {
            Fact::Known(Found::Checked(checked)) => checked.unseen.is_some(),
            Fact::Known(_) => false,
            Fact::Failed(_) => true,
        }
    }
}

/// What is known of every task that has ended, by its key.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    facts: BTreeMap<String, Fact>,
    failing: BTreeMap<String, Timestamp>,
}

impl Facts {
    /// Remembers how a task ended.
    pub fn insert(&mut self, key: String, fact: Fact) {
        if !fact.is_incomplete() {
            self.failing.remove(&key);
        }
        self.facts.insert(key, fact);
    }

    /// Remembers since when a task has left something open, every time.
    pub fn insert_failing(&mut self, key: String, since: Timestamp) {
        self.failing.insert(key, since);
    }

    /// What is known of a task; `None` while it has never ended.
    pub fn get(&self, task: &Task) -> Option<&Fact> {
        self.facts.get(&task.key())
    }

    /// Since when a task has left something open, every time.
    pub fn failing_since(&self, task: &Task) -> Option<Timestamp> {
        self.failing.get(&task.key()).copied()
    }
}
