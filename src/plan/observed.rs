//! What a plan is made of besides the image itself.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::Nodes;
use super::fact::{Fact, Facts, Failure};
use super::queue::{Turn, Turns};
use super::task::Task;
use crate::api::MultiArchImageStatus;
use crate::registry::Reference;

/// What the cluster and the tasks say, gathered before anything is decided.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The status as it was written last.
    pub status: MultiArchImageStatus,
    /// The Jobs that carry the image's label.
    pub jobs: Vec<Arc<Job>>,
    /// The pods that carry the image's label.
    pub pods: Vec<Arc<Pod>>,
    /// The cluster's nodes.
    pub nodes: Nodes,
    /// What came of the tasks.
    pub facts: Facts,
    /// The publications that are under way.
    pub publications: Vec<Task>,
    /// Whose turn it is to build; `None` where nothing is limited.
    pub turns: Option<Turns>,
    /// An older image that publishes under one of this one's tags.
    pub conflict: Option<Conflict>,
    /// Since when the operator runs: what was due before has been done, or is done the next time.
    pub started: Timestamp,
}

/// Two images for one tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The tag.
    pub tag: Reference,
    /// Namespace and name of the image that has it.
    pub holder: String,
}

impl Observed {
    /// Until something is due that nobody will announce: the next attempt of a task, the end of a grace. What is due
    /// already is running again, and its end is announced.
    pub(super) fn wake_after(
        &self,
        tasks: &[Task],
        graces: Vec<Timestamp>,
        now: Timestamp,
    ) -> Option<SignedDuration> {
        let retries = tasks.iter().filter_map(|task| Some(self.failure(task)?.retry_at));
        let repeats = tasks.iter().filter_map(|task| match self.facts.get(task)? {
            Fact::Known(_) => task.repeat_at(now),
            Fact::Failed(_) => None,
        });
        let next = retries.chain(graces).chain(repeats).filter(|at| *at > now).min()?;
        Some(next.duration_since(now))
    }

    /// What is said of a build; nothing before it has asked.
    pub(super) fn turn(&self, job: &str) -> Option<Turn> {
        match &self.turns {
            Some(turns) => turns.get(job).cloned(),
            None => Some(Turn::Granted),
        }
    }

    pub(super) fn failure(&self, task: &Task) -> Option<&Failure> {
        match self.facts.get(task)? {
            Fact::Failed(failure) => Some(failure),
            Fact::Known(_) => None,
        }
    }
}
