//! What the platforms add up to: the index when all are ready, else what stands in the way.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::Verdict;
use super::task::{Fact, Failure, Task};
use super::{Planner, Step};
use crate::api::{
    HistoryEntry, MultiArchImageSpec, MultiArchImageStatus, Phase, Published, PublishedTag, Reason, Target,
};
use crate::image::{AssembledIndex, ResolvedImage};

/// Earlier publications that the status remembers.
const HISTORY_LENGTH: usize = 5;

pub(super) struct Publication {
    pub verdict: Outcome,
    pub task: Option<Task>,
}

/// The verdict, and the index that has just been published where there is one.
pub(super) struct Outcome {
    pub verdict: Verdict,
    ready_platforms: String,
    published: Option<(Arc<AssembledIndex>, Vec<PublishedTag>)>,
}

pub(super) fn publish(planner: &Planner<'_>, status: &MultiArchImageStatus, steps: &[Step]) -> Publication {
    let ready = steps.iter().filter(|step| step.status.phase == Phase::Ready).count();
    let ready_platforms = format!("{ready}/{}", steps.len());
    let outcome = |verdict| Outcome { verdict, ready_platforms: ready_platforms.clone(), published: None };
    let publication = |verdict| Publication { verdict: outcome(verdict), task: None };
    if ready < steps.len() {
        return publication(unready(steps, &ready_platforms));
    }
    let index = match assemble(&planner.image.spec.target, steps) {
        Ok(index) => Arc::new(index),
        Err(message) => return publication(Verdict::Failed(Reason::InvalidSpec, message)),
    };
    let target = &planner.image.spec.target;
    let tags = tags(target);
    let message = format!("{} at {}:{}", index.descriptor.digest, target.repository, target.tags.join(", "));
    let is_published = status.digest.as_deref() == Some(index.descriptor.digest.as_str())
        && status.published.as_ref().is_some_and(|published| published.tags == tags);
    if is_published {
        return publication(Verdict::Published(message));
    }
    let task = Task::Publish {
        generation: planner.epoch.generation,
        repository: planner.repository.clone(),
        tags: target.tags.clone(),
        index: Arc::clone(&index),
        policy: target.tag_policy.into(),
    };
    let fact = planner.observed.facts.get(&task);
    let task = Some(task.clone());
    match fact {
        Some(Fact::Known(_)) => {
            let verdict = Outcome { published: Some((index, tags)), ..outcome(Verdict::Published(message)) };
            Publication { verdict, task }
        }
        Some(Fact::Failed(failure)) => Publication { verdict: outcome(failed(failure)), task },
        None => {
            let verdict = Verdict::Working(Reason::Publishing, format!("pushing {message}"));
            Publication { verdict: outcome(verdict), task }
        }
    }
}

fn tags(target: &Target) -> Vec<PublishedTag> {
    let tag = |name: &String| PublishedTag { name: name.clone(), repository: target.repository.clone() };
    target.tags.iter().map(tag).collect()
}

/// Whether every platform is ready and every tag of the spec was published, as far as the status knows.
pub(super) fn has_all(status: &MultiArchImageStatus, spec: &MultiArchImageSpec) -> bool {
    status.platforms.iter().all(|platform| platform.phase == Phase::Ready)
        && status.published.as_ref().is_some_and(|published| published.tags == tags(&spec.target))
}

fn assemble(target: &Target, steps: &[Step]) -> Result<AssembledIndex, String> {
    let children = steps.iter().filter_map(|step| step.child.as_deref());
    let entries: Vec<_> = children.flat_map(ResolvedImage::descriptors).cloned().collect();
    AssembledIndex::assemble(target.format.map(Into::into), &target.annotations, &entries)
        .map_err(|error| error.to_string())
}

fn failed(failure: &Failure) -> Verdict {
    match failure.transient {
        true => Verdict::Working(failure.reason, failure.message.clone()),
        false => Verdict::Failed(failure.reason, failure.message.clone()),
    }
}

/// The most telling platform speaks for the image: one that failed, one that waits, one that works.
fn unready(steps: &[Step], ready_platforms: &str) -> Verdict {
    let in_phase = |phase: Phase| steps.iter().find(move |step| step.status.phase == phase);
    let order =
        [Phase::Failed, Phase::Waiting, Phase::Building, Phase::Verifying, Phase::Resolving, Phase::Pending];
    let Some(step) = order.into_iter().find_map(in_phase) else {
        return Verdict::Working(Reason::Pending, format!("{ready_platforms} platforms are ready"));
    };
    let reason = step.status.reason.unwrap_or(Reason::Pending);
    let message = step.status.message.as_deref().unwrap_or_default();
    let message = format!("{}: {reason}: {message}", step.status.platform);
    match step.status.phase {
        Phase::Failed => Verdict::Failed(reason, message),
        // Only looking is no reason to say that what is published is not there any more.
        _ if steps.iter().all(|step| step.status.phase == Phase::Ready || only_looks(step)) => {
            Verdict::Checking(reason, message)
        }
        _ => Verdict::Working(reason, message),
    }
}

fn only_looks(step: &Step) -> bool {
    let looks =
        matches!(step.status.phase, Phase::Resolving | Phase::Pending | Phase::Waiting | Phase::Verifying);
    let verifies_anew = step.status.phase != Phase::Verifying || step.status.digest.is_some();
    looks && verifies_anew && (step.job.is_none() || step.status.digest.is_some())
}

impl Outcome {
    /// Writes what was published into the status.
    pub fn record(&self, status: &mut MultiArchImageStatus, now: Timestamp) {
        status.ready_platforms = Some(self.ready_platforms.clone());
        let Some((index, tags)) = &self.published else { return };
        let digest = index.descriptor.digest.to_string();
        let source_revision = status.source_revision.clone();
        let published_at = Time(now);
        status.published = Some(Published {
            media_type: index.descriptor.media_type.to_string(),
            size: i64::try_from(index.bytes.len()).unwrap_or(i64::MAX),
            tags: tags.clone(),
            source_revision: source_revision.clone(),
            published_at: published_at.clone(),
        });
        if status.digest.as_ref() != Some(&digest) {
            status.history.insert(0, HistoryEntry { digest: digest.clone(), source_revision, published_at });
            status.history.truncate(HISTORY_LENGTH);
        }
        status.digest = Some(digest);
    }
}
