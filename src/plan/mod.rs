//! Pure: the spec, what was observed and the time become tasks and a status. Every decision stands here;
//! nothing here waits, calls or reads a clock.

mod build_state;
mod built;
mod conditions;
mod context;
mod events;
mod publication;
mod source;
pub mod task;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::api::{
    MultiArchImage, MultiArchImageStatus, Phase, PlatformSource, PlatformStatus, Reason, SourceStatus,
};
use crate::build::{BuilderSettings, PinnedContext};
use crate::image::ResolvedImage;
use crate::platform::Platform;
use crate::registry::Repository;
pub use conditions::Verdict;
pub use events::{Note, notes};
use task::{Epoch, Fact, Facts, Failure, Task};

/// What the cluster and the tasks say, gathered before anything is decided.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The status as it was written last.
    pub status: MultiArchImageStatus,
    /// The Jobs that carry the image's label.
    pub jobs: Vec<Arc<Job>>,
    /// The pods that carry the image's label.
    pub pods: Vec<Arc<Pod>>,
    /// os and architecture of every node, by its labels.
    pub nodes: Vec<(String, String)>,
    /// What came of the tasks.
    pub facts: Facts,
}

impl Observed {
    /// Until something is due that nobody will announce: the next attempt of a task, the end of a grace. What is due
    /// already is running again, and its end is announced.
    fn wake_after(&self, tasks: &[Task], graces: Vec<Timestamp>, now: Timestamp) -> Option<SignedDuration> {
        let retries = tasks.iter().filter_map(|task| Some(self.failure(task)?.retry_at));
        let repeats = tasks.iter().filter_map(|task| match self.facts.get(task)? {
            Fact::Known(_) => now.checked_add(task.repeat_after()?).ok(),
            Fact::Failed(_) => None,
        });
        let next = retries.chain(graces).chain(repeats).filter(|at| *at > now).min()?;
        Some(next.duration_since(now))
    }

    fn failure(&self, task: &Task) -> Option<&Failure> {
        match self.facts.get(task)? {
            Fact::Failed(failure) => Some(failure),
            Fact::Known(_) => None,
        }
    }
}

/// What to do and what to say.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the resource's status shall be.
    pub status: MultiArchImageStatus,
    /// All the work that is wanted now. What is not among it is stopped.
    pub tasks: Vec<Task>,
    /// Plan again after this time even if nothing happens.
    pub wake_after: Option<SignedDuration>,
}

/// How far one platform is, and what it needs next.
#[derive(Debug, Default)]
struct Step {
    status: PlatformStatus,
    tasks: Vec<Task>,
    /// The Job that this platform stands on: every other one is obsolete.
    job: Option<String>,
    child: Option<Arc<ResolvedImage>>,
    /// Until when something that is missing may still turn up.
    grace: Option<Timestamp>,
}

impl Step {
    fn new(status: PlatformStatus) -> Self {
        Step { status, ..Step::default() }
    }

    fn at(mut self, phase: Phase, reason: Reason, message: impl Into<String>) -> Self {
        self.status.phase = phase;
        self.status.reason = Some(reason);
        self.status.message = Some(message.into());
        self
    }

    fn failed(self, failure: &Failure) -> Self {
        let phase = if failure.transient { Phase::Waiting } else { Phase::Failed };
        self.at(phase, failure.reason, failure.message.clone())
    }

    fn ready(mut self, child: Arc<ResolvedImage>) -> Self {
        self.status.digest = Some(child.image.descriptor.digest.to_string());
        self.status.media_type = Some(child.image.descriptor.media_type.to_string());
        self.status.size = i64::try_from(child.image.descriptor.size).ok();
        self.status.log_tail = None;
        let message = match child.warnings.as_slice() {
            [] => format!("verified {}", child.image.descriptor.digest),
            warnings => format!("verified {}; {}", child.image.descriptor.digest, warnings.join("; ")),
        };
        self.child = Some(child);
        self.at(Phase::Ready, Reason::Verified, message)
    }
}

/// Everything that the steps of the platforms read.
struct Planner<'a> {
    image: &'a MultiArchImage,
    observed: &'a Observed,
    settings: &'a BuilderSettings,
    now: Timestamp,
    epoch: Epoch,
    repository: Repository,
}

/// Decides what to do for an image. `now` is the clock.
pub fn plan(image: &MultiArchImage, observed: &Observed, settings: &BuilderSettings, now: Timestamp) -> Plan {
    let epoch = Epoch::of(image);
    if is_settled(&observed.status, &epoch) && !image.spec.suspend {
        let tasks = stray_jobs(image, observed);
        let wake_after = observed.wake_after(&tasks, vec![], now);
        return Plan { status: observed.status.clone(), tasks, wake_after };
    }
    match image.spec.target.repository.parse::<Repository>() {
        Ok(repository) => Planner { image, observed, settings, now, epoch, repository }.plan(),
        Err(error) => {
            let verdict = Verdict::Failed(Reason::InvalidSpec, format!("spec.target.repository: {error}"));
            let mut status = opened(&observed.status, &epoch);
            conditions::write(&mut status, &verdict, &epoch, now);
            Plan { status, tasks: vec![], wake_after: None }
        }
    }
}

/// Whether the status speaks of this very request and nothing is left to do for it.
fn is_settled(status: &MultiArchImageStatus, epoch: &Epoch) -> bool {
    epoch_of(status) == Some(epoch.clone())
        && conditions::is_true(status, "Ready")
        && !conditions::is_true(status, "Reconciling")
        && status.condition("Ready").is_some_and(|ready| ready.reason != Reason::Suspended.as_str())
        && !status.platforms.is_empty()
        && status.platforms.iter().all(|platform| platform.phase == Phase::Ready)
}

fn epoch_of(status: &MultiArchImageStatus) -> Option<Epoch> {
    Some(Epoch {
        generation: status.observed_generation?,
        reconcile: status.last_handled_reconcile_at.clone(),
        rebuild: status.last_handled_rebuild_at.clone(),
    })
}

/// The status that the work of an epoch begins with: what is published stays, what was found is looked up again.
fn opened(status: &MultiArchImageStatus, epoch: &Epoch) -> MultiArchImageStatus {
    let mut opened = status.clone();
    if epoch_of(status).as_ref() != Some(epoch) {
        opened.source_revision = None;
    }
    opened.observed_generation = Some(epoch.generation);
    opened.last_handled_reconcile_at = epoch.reconcile.clone();
    opened.last_handled_rebuild_at = epoch.rebuild.clone();
    opened
}

impl Planner<'_> {
    fn plan(&self) -> Plan {
        let mut status = opened(&self.observed.status, &self.epoch);
        if self.image.spec.suspend {
            return self.suspended(status);
        }
        let secrets = self.registry_secrets();
        let context = context::pin(self, &status);
        if let Some(Ok(PinnedContext::Git { commit, .. })) = context.pinned.as_ref().map(Result::as_ref) {
            status.source_revision = Some(commit.clone());
        }
        let builds_are_known = secrets.ready && context.settled();
        let mut tasks: Vec<Task> = secrets.tasks.into_iter().chain(context.tasks.iter().cloned()).collect();
        let steps: Vec<Step> = match secrets.failure {
            Some(failure) => {
                self.image.spec.platforms.iter().map(|entry| self.begin(entry).failed(&failure)).collect()
            }
            None if !secrets.ready => self
                .image
                .spec
                .platforms
                .iter()
                .map(|entry| {
                    self.begin(entry).at(
                        Phase::Pending,
                        Reason::Pending,
                        "the registry secrets are being read",
                    )
                })
                .collect(),
            None => self.image.spec.platforms.iter().map(|entry| self.step(entry, &context)).collect(),
        };
        let publication = publication::publish(self, &status, &steps);
        tasks.extend(publication.task.iter().cloned());
        tasks.extend(self.obsolete_jobs(&steps, builds_are_known));
        let mut graces = vec![];
        status.platforms = Vec::with_capacity(steps.len());
        for step in steps {
            tasks.extend(step.tasks);
            graces.extend(step.grace);
            status.platforms.push(step.status);
        }
        publication.verdict.record(&mut status, self.now);
        conditions::write(&mut status, &publication.verdict.verdict, &self.epoch, self.now);
        let wake_after = self.observed.wake_after(&tasks, graces, self.now);
        Plan { status, tasks, wake_after }
    }

    /// Nothing runs while suspended; what is published and what is known stays.
    fn suspended(&self, mut status: MultiArchImageStatus) -> Plan {
        let tasks: Vec<Task> =
            self.own_jobs().filter(|job| !build_state::has_finished(job)).filter_map(delete).collect();
        status.platforms = self.image.spec.platforms.iter().map(|entry| self.begin(entry).status).collect();
        let published =
            conditions::is_true(&status, "Ready") && publication::has_all(&status, &self.image.spec);
        for platform in status.platforms.iter_mut().filter(|platform| platform.phase != Phase::Ready) {
            platform.phase = Phase::Pending;
            platform.reason = Some(Reason::Suspended);
            platform.message = Some("spec.suspend is true".to_owned());
        }
        conditions::write(&mut status, &Verdict::Suspended { published }, &self.epoch, self.now);
        let wake_after = self.observed.wake_after(&tasks, vec![], self.now);
        Plan { status, tasks, wake_after }
    }

    /// The entry of a platform as it was, in which the step writes what is new.
    fn begin(&self, entry: &PlatformSource) -> Step {
        let mut status = self.observed.status.platform(&entry.platform).cloned().unwrap_or_default();
        status.platform = entry.platform.clone();
        match &entry.image {
            Some(image) if status.source.as_ref().is_some_and(|source| source.image == *image) => {}
            Some(image) => {
                status = PlatformStatus {
                    platform: entry.platform.clone(),
                    source: Some(SourceStatus { image: image.clone(), digest: None }),
                    ..PlatformStatus::default()
                };
            }
            None if status.source.is_some() => {
                status = PlatformStatus { platform: entry.platform.clone(), ..PlatformStatus::default() };
            }
            None => {}
        }
        Step::new(status)
    }

    fn step(&self, entry: &PlatformSource, context: &context::Context) -> Step {
        let step = self.begin(entry);
        match (entry.platform.parse::<Platform>(), &entry.image, &self.image.spec.build) {
            (Err(error), _, _) => step.at(Phase::Failed, Reason::InvalidSpec, error.to_string()),
            (Ok(platform), Some(image), _) => source::step(self, step, &platform, image),
            (Ok(platform), None, Some(build)) => built::step(self, step, &platform, build, context),
            (Ok(_), None, None) => {
                step.at(Phase::Failed, Reason::InvalidSpec, "no image is given and spec.build is missing")
            }
        }
    }

    fn registry_secrets(&self) -> Secrets {
        if self.image.spec.registry_secrets.is_empty() {
            return Secrets { ready: true, failure: None, tasks: vec![] };
        }
        let task = Task::CheckSecrets { epoch: self.epoch.clone() };
        let (ready, failure) = match self.observed.facts.get(&task) {
            Some(Fact::Known(_)) => (true, None),
            Some(Fact::Failed(failure)) => (false, Some(failure.clone())),
            None => (false, None),
        };
        Secrets { ready, failure, tasks: vec![task] }
    }

    fn own_jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.observed.jobs.iter().filter(|job| build_state::is_owned_by(job, self.image))
    }

    /// Jobs that no platform stands on. While it is unknown which builds are wanted no Job is known to be obsolete,
    /// except those of platforms that are built no more.
    fn obsolete_jobs(&self, steps: &[Step], builds_are_known: bool) -> Vec<Task> {
        let built: Vec<String> = self
            .image
            .spec
            .platforms
            .iter()
            .filter(|entry| entry.image.is_none())
            .filter_map(|entry| entry.platform.parse::<Platform>().ok())
            .map(|platform| platform.slug())
            .collect();
        self.own_jobs()
            .filter(|job| {
                let wanted = steps.iter().any(|step| step.job == job.metadata.name);
                let platform_is_built =
                    build_state::platform_slug(job).is_some_and(|slug| built.contains(slug));
                !wanted && (builds_are_known || !platform_is_built)
            })
            .filter_map(delete)
            .collect()
    }
}

struct Secrets {
    ready: bool,
    failure: Option<Failure>,
    tasks: Vec<Task>,
}

/// Jobs that were created or not yet deleted when the image turned out to need them no more.
fn stray_jobs(image: &MultiArchImage, observed: &Observed) -> Vec<Task> {
    let is_named = |job: &Job| observed.status.platforms.iter().any(|entry| entry.job == job.metadata.name);
    let own = observed.jobs.iter().filter(|job| build_state::is_owned_by(job, image));
    own.filter(|job| !is_named(job)).filter_map(delete).collect()
}

/// A Job that is already on its way out is not deleted again.
fn delete(job: &Arc<Job>) -> Option<Task> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(Task::DeleteJob { name: job.metadata.name.clone()?, uid: job.metadata.uid.clone()? })
}
