//! What came of the tasks: what each found, or why it failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::task::Task;
use crate::api::Reason;
use crate::image::{ProgramFinding, ResolvedImage};
use crate::registry::{Digest, Reference, Repository};

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
