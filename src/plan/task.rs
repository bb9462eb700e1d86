//! What must be learnt or done: tasks, and what came of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::api::{MultiArchImage, Reason};
use crate::image::{AssembledIndex, ResolvedImage, TagPolicy};
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
    /// What an image asks for as it is now.
    pub fn of(image: &MultiArchImage) -> Self {
        Epoch {
            generation: image.generation(),
            reconcile: image.reconcile_request(),
            rebuild: image.rebuild_request().map(str::to_owned),
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
    },
    /// What is in a ConfigMap?
    ReadConfigMap {
        /// When it was asked.
        epoch: Epoch,
        /// Its name.
        name: String,
        /// The key that must be there.
        dockerfile: String,
    },
    /// Which child does an image have for a platform, and is it what it claims?
    ResolveImage {
        /// When it was asked.
        epoch: Epoch,
        /// The image.
        reference: Reference,
        /// The platform.
        platform: Platform,
    },
    /// Is what a build pushed really there and really for the platform?
    InspectBuild {
        /// The target repository.
        repository: Repository,
        /// What the build's pod reported.
        digest: Digest,
        /// The platform.
        platform: Platform,
    },
    /// Bring a child into the target repository.
    CopyImage {
        /// Where it is.
        from: Repository,
        /// Where it shall be.
        to: Repository,
        /// The child.
        image: Arc<ResolvedImage>,
    },
    /// Create a build's Job.
    CreateJob {
        /// The Job.
        job: Box<Job>,
    },
    /// Merge the registry secrets into one of a Job's name, since the builder reads a single file.
    MergeSecrets {
        /// When it was asked: a new request reads rotated Secrets again.
        epoch: Epoch,
        /// Name of the Job, which owns the merged Secret.
        job: String,
        /// UID of the Job.
        uid: String,
        /// The Secrets to merge.
        secrets: Vec<String>,
    },
    /// Delete a Job with its pods.
    DeleteJob {
        /// Its name.
        name: String,
        /// Its UID: a namesake that came later is not touched.
        uid: String,
    },
    /// Push the index and its tags.
    Publish {
        /// The generation that the index is made for.
        generation: i64,
        /// The target repository.
        repository: Repository,
        /// Every tag.
        tags: Vec<String>,
        /// The index.
        index: Arc<AssembledIndex>,
        /// What is done about tags with other content.
        policy: TagPolicy,
    },
}

/// How long the watch may take to show what a write to the cluster did.
const EFFECT_GRACE: SignedDuration = SignedDuration::from_secs(30);

impl Task {
    /// When a task that ended well and is still wanted is done once more. A Job that was created and is not seen has
    /// gone again between two looks of the watch; doing it twice changes nothing where it has not.
    pub fn repeat_after(&self) -> Option<SignedDuration> {
        matches!(self, Task::CreateJob { .. } | Task::DeleteJob { .. }).then_some(EFFECT_GRACE)
    }

    /// Tells this work from any other of the same `MultiArchImage`.
    pub fn key(&self) -> String {
        match self {
            Task::CheckSecrets { epoch } => format!("secrets {epoch:?}"),
            Task::ResolveCommit { epoch, url, reference } => format!("commit {url} {reference:?} {epoch:?}"),
            Task::ReadConfigMap { epoch, name, dockerfile } => {
                format!("configmap {name} {dockerfile} {epoch:?}")
            }
            Task::ResolveImage { epoch, reference, platform } => {
                format!("resolve {reference} {platform} {epoch:?}")
            }
            Task::InspectBuild { repository, digest, platform } => {
                format!("inspect {repository}@{digest} {platform}")
            }
            Task::CopyImage { from, to, image } => {
                format!("copy {from}@{} {to}", image.image.descriptor.digest)
            }
            Task::CreateJob { job } => format!("create {:?}", job.metadata.name),
            Task::MergeSecrets { epoch, uid, .. } => format!("merge {uid} {epoch:?}"),
            Task::DeleteJob { name, uid } => format!("delete {name} {uid}"),
            Task::Publish { generation, repository, tags, index, policy } => {
                format!("publish {} {repository} {tags:?} {policy:?} {generation}", index.descriptor.digest)
            }
        }
    }
}

/// What a task found.
#[derive(Clone, Debug)]
pub enum Found {
    /// It was done; there is nothing to know.
    Done,
    /// A full commit hash.
    Commit(String),
    /// The SHA-256 of each file, in hexadecimal digits.
    Files(BTreeMap<String, String>),
    /// A verified image.
    Image(Arc<ResolvedImage>),
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

impl Failure {
    /// When to try again after `attempts` failures in a row (at least 1): transient ones from 1 s, lasting ones
    /// from 10 s, doubling up to 1 and 5 minutes; not before what the other side asked for, an hour at
    /// most.
    pub fn retry_after(transient: bool, attempts: u32, asked: Option<SignedDuration>) -> SignedDuration {
        let (first, last) = if transient { (1, 60) } else { (10, 300) };
        let doubled = first << attempts.saturating_sub(1).min(10);
        let asked = asked.unwrap_or(SignedDuration::ZERO).min(SignedDuration::from_hours(1));
        SignedDuration::from_secs(doubled.min(last)).max(asked)
    }
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub enum Fact {
    /// It ended well.
    Known(Found),
    /// It failed last time; it may be running again.
    Failed(Failure),
}

/// What is known of every task that has ended, by its key.
#[derive(Clone, Debug, Default)]
pub struct Facts(BTreeMap<String, Fact>);

impl Facts {
    /// Remembers how a task ended.
    pub fn insert(&mut self, key: String, fact: Fact) {
        self.0.insert(key, fact);
    }

    /// What is known of a task; `None` while it has never ended.
    pub fn get(&self, task: &Task) -> Option<&Fact> {
        self.0.get(&task.key())
    }
}
