//! Pure: the spec, what was observed and the time become tasks and a status. Every decision stands here;
//! nothing here waits, calls or reads a clock.

mod build_pod;
mod build_state;
mod built;
mod checks;
pub mod claims;
mod conditions;
mod context;
mod deletion;
mod delivery;
mod destinations;
mod events;
mod expiry;
pub mod fact;
mod gates;
mod nodes;
mod observed;
mod outcomes;
mod placement;
mod publication;
pub mod queue;
pub mod retry;
mod run_state;
mod source;
pub mod task;
mod tracking;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::api::{
    Enforcement, MultiArchImage, MultiArchImageStatus, Phase, PlatformSource, PlatformStatus, Reason,
    SourceStatus,
};
use crate::build::{self, BuildRequest, BuilderSettings, Outline};
use crate::image::ResolvedImage;
use crate::network::Access;
use crate::platform::Platform;
use crate::policy::Policies;
use crate::registry::Repository;
pub use build_state::counts_as_running;
pub use conditions::Verdict;
pub use deletion::{Deletion, deletion, is_kept, needs};
pub use destinations::{Destination, destinations};
pub use events::{Note, notes};
use fact::{Fact, Failure};
pub use nodes::Nodes;
pub use observed::{Conflict, Observed};
pub use outcomes::{Outcome, outcomes};
use task::{Epoch, Task};
use tracking::Tracking;

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
    /// The pod of `spec.verify.run` that this platform stands on: every other one is obsolete.
    pod: Option<String>,
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

/// What whoever runs the operator has settled.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How builds are run.
    pub builder: BuilderSettings,
    /// What namespaces may do.
    pub policies: Policies,
}

/// Everything that the steps of the platforms read.
struct Planner<'a> {
    image: &'a MultiArchImage,
    observed: &'a Observed,
    settings: &'a BuilderSettings,
    access: Access,
    now: Timestamp,
    epoch: Epoch,
    repository: Repository,
    destinations: Vec<Destination>,
    tracking: Tracking<'a>,
}

/// Decides what to do for an image. `now` is the clock.
pub fn plan(image: &MultiArchImage, observed: &Observed, settings: &Settings, now: Timestamp) -> Plan {
    let mut plan = decide(image, observed, settings, now);
    plan.status.announced = events::announced(&observed.status, &plan.status);
    plan
}

fn decide(image: &MultiArchImage, observed: &Observed, settings: &Settings, now: Timestamp) -> Plan {
    let epoch = Epoch::of(image, &observed.status);
    let mut status = opened(&observed.status, &epoch, now);
    let destinations = match destinations(&image.spec) {
        Ok(destinations) => destinations,
        Err(message) => return refused(image, observed, status, Reason::InvalidSpec, message, &epoch, now),
    };
    let Some(target) = destinations.first() else {
        let message = "spec.target is missing".to_owned();
        return refused(image, observed, status, Reason::InvalidSpec, message, &epoch, now);
    };
    let repository = target.repository.clone();
    if let Some((reason, denial)) = settings.policies.denial(image).filter(|_| !image.spec.suspend) {
        return refused(image, observed, status, reason, denial, &epoch, now);
    }
    if let Some(Conflict { tag, holder }) = observed.conflict.as_ref().filter(|_| !image.spec.suspend) {
        let message = format!(
            "{tag} is published by {holder}, which is older; name another tag, or delete {holder}: this image then takes over"
        );
        return refused(image, observed, status, Reason::TagConflict, message, &epoch, now);
    }
    let tracking = Tracking::of(image, observed, &status, &epoch, now);
    if is_settled(&observed.status, &epoch, &destinations)
        && !image.spec.suspend
        && tracking.is_quiet(image, &status)
    {
        return settled(image, observed, &tracking, &epoch, now);
    }
    status.missing.clone_from(&tracking.missing);
    let access = settings.policies.access(image);
    let settings = &settings.builder;
    Planner { image, observed, settings, access, now, epoch, repository, destinations, tracking }.plan(status)
}

/// All is as the spec says: what is left is to clear up and to look again in time.
fn settled(
    image: &MultiArchImage,
    observed: &Observed,
    tracking: &Tracking<'_>,
    epoch: &Epoch,
    now: Timestamp,
) -> Plan {
    let mut status = observed.status.clone();
    status.missing.clone_from(&tracking.missing);
    tracking.note_sources(&mut status);
    let drift = tracking.drift(&status, false);
    conditions::write_drift(&mut status, drift, epoch, now);
    let mut upkeep = upkeep(image, observed, &Mode::Settled, now);
    upkeep.tasks.extend(tracking.task.clone());
    upkeep.due.extend(tracking.first_look(&status, now));
    upkeep.plan(status, observed, now)
}

/// What must not be done: nothing is begun, what runs is stopped, what is published stays.
fn refused(
    image: &MultiArchImage,
    observed: &Observed,
    mut status: MultiArchImageStatus,
    reason: Reason,
    message: String,
    epoch: &Epoch,
    now: Timestamp,
) -> Plan {
    let drift = conditions::unseen_drift(&status, reason, &message);
    conditions::write(&mut status, &Verdict::Failed(reason, message), epoch, now);
    conditions::write_drift(&mut status, drift, epoch, now);
    upkeep(image, observed, &Mode::Stopped, now).plan(status, observed, now)
}

/// What becomes of the Jobs and pods that an image has.
enum Mode<'a> {
    /// Platforms stand on some of them.
    Working { planner: &'a Planner<'a>, steps: &'a [Step], builds_are_known: bool },
    /// All is done: some may be left from before.
    Settled,
    /// Nothing may run.
    Stopped,
}

/// The work that no platform asks for, and when there is more of it.
struct Upkeep {
    tasks: Vec<Task>,
    due: Vec<Timestamp>,
}

/// What is to be cleared up, in whatever state an image is.
fn upkeep(image: &MultiArchImage, observed: &Observed, mode: &Mode<'_>, now: Timestamp) -> Upkeep {
    let mut tasks = match mode {
        Mode::Working { planner, steps, builds_are_known } => {
            let mut tasks = planner.obsolete_jobs(steps, *builds_are_known);
            tasks.extend(gates::obsolete_pods(planner, steps));
            tasks
        }
        Mode::Settled => {
            let mut tasks = stray_jobs(image, observed);
            tasks.extend(gates::stray_pods(image, &observed.pods));
            tasks
        }
        Mode::Stopped => stopped(image, observed),
    };
    // While nothing is published nothing new has to be kept for.
    let may_mark = !matches!(mode, Mode::Stopped);
    let finalizer = deletion::finalizer(image);
    tasks.extend(finalizer.filter(|task| may_mark || matches!(task, Task::SetFinalizer { present: false })));
    let expiry = expiry::of(image, observed, now);
    tasks.extend(expiry.tasks);
    Upkeep { tasks, due: expiry.next.into_iter().collect() }
}

impl Upkeep {
    fn plan(self, status: MultiArchImageStatus, observed: &Observed, now: Timestamp) -> Plan {
        let wake_after = observed.wake_after(&self.tasks, self.due, now);
        Plan { status, tasks: self.tasks, wake_after }
    }
}

/// Whether the status speaks of this very request and nothing is left to do for it.
fn is_settled(status: &MultiArchImageStatus, epoch: &Epoch, destinations: &[Destination]) -> bool {
    epoch_of(status) == Some(epoch.clone())
        && status.is_true("Ready")
        && !status.is_true("Reconciling")
        && status.condition("Ready").is_some_and(|ready| ready.reason != Reason::Suspended.as_str())
        && !status.platforms.is_empty()
        && status.platforms.iter().all(|platform| platform.phase == Phase::Ready)
        && publication::has_all(status, destinations)
        && publication::is_of_today(status)
        && !publication::has_leftovers(status, destinations)
}

fn epoch_of(status: &MultiArchImageStatus) -> Option<Epoch> {
    Some(Epoch {
        generation: status.observed_generation?,
        reconcile: status.last_handled_reconcile_at.clone(),
        rebuild: status.last_handled_rebuild_at.clone(),
    })
}

/// The status that the work of an epoch begins with: what is published stays, what was found is looked up again.
fn opened(status: &MultiArchImageStatus, epoch: &Epoch, now: Timestamp) -> MultiArchImageStatus {
    let mut opened = status.clone();
    // Versions before this field had published what their platforms say.
    if let Some(published) = opened.published.as_mut().filter(|published| published.images.is_empty()) {
        published.images = status.platforms.iter().filter_map(|entry| entry.digest.clone()).collect();
    }
    if status.published.is_some() && status.last_handled_reconcile_at != epoch.reconcile {
        conditions::ask(&mut opened, epoch, now);
    }
    if epoch_of(status).as_ref() != Some(epoch) {
        opened.source_revision = None;
    }
    opened.observed_generation = Some(epoch.generation);
    opened.last_handled_reconcile_at = epoch.reconcile.clone();
    opened.last_handled_rebuild_at = epoch.rebuild.clone();
    opened
}

impl Planner<'_> {
    fn plan(&self, mut status: MultiArchImageStatus) -> Plan {
        if self.image.spec.suspend {
            return self.suspended(status);
        }
        let secrets = self.registry_secrets();
        status.source_revision = self.tracking.revision(self.image, &status).or(status.source_revision);
        let context = context::pin(self, &status);
        status.source_revision = context.revision().or(status.source_revision);
        let builds_are_known = secrets.ready && context.settled();
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
        let mode = Mode::Working { planner: self, steps: &steps, builds_are_known };
        let mut upkeep = upkeep(self.image, self.observed, &mode, self.now);
        upkeep.tasks.extend(secrets.tasks);
        upkeep.tasks.extend(context.tasks);
        upkeep.tasks.extend(publication.tasks.iter().cloned());
        upkeep.tasks.extend(self.tracking.task.clone());
        upkeep.due.extend(publication.due.iter().copied());
        status.platforms = Vec::with_capacity(steps.len());
        for step in steps {
            upkeep.tasks.extend(step.tasks);
            upkeep.due.extend(step.grace);
            status.platforms.push(step.status);
        }
        publication.record(&mut status, self.now);
        let drift = self.tracking.drift(&status, publication.corrected);
        if !self.looks_at_what_is_stalled(&publication.verdict) {
            conditions::write(&mut status, &publication.verdict, &self.epoch, self.now);
        }
        conditions::write_drift(&mut status, drift, &self.epoch, self.now);
        upkeep.due.extend(self.tracking.first_look(&status, self.now));
        upkeep.plan(status, self.observed, self.now)
    }

    /// Whether all that goes on is a look at what was found stalled for this very request, as after a restart: until
    /// it is over nothing else is known.
    fn looks_at_what_is_stalled(&self, verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Checking(..))
            && self.observed.status.is_true("Stalled")
            && epoch_of(&self.observed.status).as_ref() == Some(&self.epoch)
    }

    /// Nothing runs while suspended; what is published and what is known stays.
    fn suspended(&self, mut status: MultiArchImageStatus) -> Plan {
        status.platforms = self.image.spec.platforms.iter().map(|entry| self.begin(entry).status).collect();
        let published = status.is_true("Ready") && publication::has_all(&status, &self.destinations);
        for platform in status.platforms.iter_mut().filter(|platform| platform.phase != Phase::Ready) {
            platform.phase = Phase::Pending;
            platform.reason = Some(Reason::Suspended);
            platform.message = Some("spec.suspend is true".to_owned());
        }
        conditions::write(&mut status, &Verdict::Suspended { published }, &self.epoch, self.now);
        let drift = conditions::unseen_drift(&status, Reason::Suspended, "spec.suspend is true");
        conditions::write_drift(&mut status, drift, &self.epoch, self.now);
        upkeep(self.image, self.observed, &Mode::Stopped, self.now).plan(status, self.observed, self.now)
    }

    /// The entry of a platform as it was, in which the step writes what is new.
    fn begin(&self, entry: &PlatformSource) -> Step {
        let mut status = self.observed.status.platform(&entry.platform).cloned().unwrap_or_default();
        status.platform = entry.platform.clone();
        // Who edits or asks anew gives what has failed another chance; what waits, or is done without, goes on waiting.
        if epoch_of(&self.observed.status).as_ref() != Some(&self.epoch) && status.phase == Phase::Failed {
            status.waiting_since = None;
        }
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
            (Ok(platform), None, Some(build)) => built::step(self, step, entry, &platform, build, context),
            (Ok(_), None, None) => {
                step.at(Phase::Failed, Reason::InvalidSpec, "no image is given and spec.build is missing")
            }
        }
    }

    /// The Job of a build, whoever made it.
    fn job_of(&self, request: &BuildRequest<'_>) -> Option<&Arc<Job>> {
        let name = request.job_name();
        self.observed.jobs.iter().find(|job| job.metadata.name.as_ref() == Some(&name))
    }

    fn enforcement(&self) -> Enforcement {
        self.image.spec.verify.as_ref().map(|verify| verify.base_images).unwrap_or_default()
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
        own_jobs(self.image, self.observed)
    }

    /// Jobs that no platform stands on. While it is unknown what the context is by now, a Job is known to be obsolete if
    /// its platform is built no more, or if all else that it builds is other than what is wanted.
    fn obsolete_jobs(&self, steps: &[Step], builds_are_known: bool) -> Vec<Task> {
        let outlines = self.outlines();
        self.own_jobs()
            .filter(|job| !steps.iter().any(|step| step.job == job.metadata.name))
            .filter(|job| builds_are_known || is_of_another_build(job, &outlines))
            .filter_map(|job| delete(job))
            .collect()
    }

    /// Every platform that is built, and what is known of its build before the context is looked up.
    fn outlines(&self) -> BTreeMap<String, String> {
        let metadata = &self.image.metadata;
        let outline = |entry: &PlatformSource| {
            let platform: Platform = entry.platform.parse().ok()?;
            let build = build::for_platform(self.image.spec.build.as_ref()?, entry.build.as_ref());
            let outline = Outline {
                image_uid: metadata.uid.as_deref().unwrap_or_default(),
                platform: &platform,
                build: &build,
                repository: &self.image.spec.target.repository,
                rebuild: self.epoch.rebuild.as_deref(),
            };
            Some((platform.slug(), outline.hash()))
        };
        self.image.spec.platforms.iter().filter(|entry| entry.image.is_none()).filter_map(outline).collect()
    }
}

/// What has ended costs nothing any more and may yet be wanted. Jobs of earlier versions do not say what they are for.
fn is_of_another_build(job: &Job, outlines: &BTreeMap<String, String>) -> bool {
    let Some(wanted) = build_state::platform_slug(job).and_then(|slug| outlines.get(slug)) else {
        return true;
    };
    build_state::outline(job).is_some_and(|outline| outline != wanted) && !build_state::has_finished(job)
}

struct Secrets {
    ready: bool,
    failure: Option<Failure>,
    tasks: Vec<Task>,
}

/// Jobs that were created or not yet deleted when the image turned out to need them no more.
fn stray_jobs(image: &MultiArchImage, observed: &Observed) -> Vec<Task> {
    let is_named = |job: &Job| observed.status.platforms.iter().any(|entry| entry.job == job.metadata.name);
    own_jobs(image, observed).filter(|job| !is_named(job)).filter_map(|job| delete(job)).collect()
}

/// Stops whatever runs for an image.
fn stopped(image: &MultiArchImage, observed: &Observed) -> Vec<Task> {
    let builds =
        own_jobs(image, observed).filter(|job| !build_state::has_finished(job)).filter_map(|job| delete(job));
    builds.chain(gates::unfinished_pods(image, &observed.pods)).collect()
}

/// The Jobs that the image controls.
fn own_jobs<'a>(image: &'a MultiArchImage, observed: &'a Observed) -> impl Iterator<Item = &'a Arc<Job>> {
    observed.jobs.iter().filter(|job| build_state::is_owned_by(job, image))
}

/// A Job that is already on its way out is not deleted again.
fn delete(job: &Job) -> Option<Task> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(Task::DeleteJob { name: job.metadata.name.clone()?, uid: job.metadata.uid.clone()? })
}
