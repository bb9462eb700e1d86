//! A platform that is built: one Job, whose result is believed only after it was fetched and hashed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::build_pod;
use super::build_state::{self, Build, BuildState};
use super::checks::{self, Checked};
use super::context::Context;
use super::fact::{Fact, Found};
use super::placement::{self, Placement};
use super::queue::Turn;
use super::task::Task;
use super::{Planner, Step, delete, gates};
use crate::api::{self, Phase, PlatformSource, PlatformStatus, Reason};
use crate::build::{self, BuildRequest, PinnedContext};
use crate::platform::Platform;
use crate::registry::Digest;

/// How often it is looked whether a node has come.
pub(super) const NODE_CHECK: SignedDuration = SignedDuration::from_secs(60);
/// After how long a place in the queue is told anew, for every place before the turn, in seconds.
const TOLD_AGAIN: i64 = 15;

pub(super) fn step(
    planner: &Planner<'_>,
    mut step: Step,
    entry: &PlatformSource,
    platform: &Platform,
    build: &api::Build,
    context: &Context,
) -> Step {
    let pinned = match &context.pinned {
        Some(Ok(pinned)) => pinned,
        Some(Err(failure)) => return step.failed(failure),
        None => {
            let message = format!("looking up {}", context.looking_up);
            return step.at(Phase::Resolving, Reason::Resolving, message);
        }
    };
    let build = build::for_platform(build, entry.build.as_ref());
    if platform.os() != "linux" && build.remote.is_none() {
        let message = format!(
            "{platform} cannot be built in the cluster, since BuildKit's builders are for Linux; give the platform an image or \
             a remote builder"
        );
        return step.at(Phase::Failed, Reason::InvalidSpec, message);
    }
    let native = request(planner, platform, &build, pinned);
    // Whoever waits for a node that was not there waits anew for the one that has come.
    if planner.observed.nodes.has(platform) && step.status.reason == Some(Reason::NoNodeForPlatform) {
        step.status.waiting_since = None;
    }
    match placement::place(planner, entry, &step.status, &native) {
        Placement::Native => go(planner, step, &native, context),
        Placement::Emulated => go(planner, step, &BuildRequest { emulated: true, ..native }, context),
        Placement::NativeOrSkipped => {
            let step = go(planner, step, &native, context);
            let waits =
                step.status.phase != Phase::Failed && step.status.node.is_none() && step.child.is_none();
            if waits { skipped(step) } else { step }
        }
        Placement::Skipped(words) => {
            let step = begin(step, &native).at(Phase::Skipped, Reason::NoNodeForPlatform, words);
            look_for_nodes(planner, skipped(step))
        }
        Placement::Failed(reason, message) => {
            look_for_nodes(planner, begin(step, &native).at(Phase::Failed, reason, message))
        }
    }
}

/// A node that comes wakes the image, unless it came in the moment before this was written.
fn look_for_nodes(planner: &Planner<'_>, mut step: Step) -> Step {
    step.grace = planner.now.saturating_add(NODE_CHECK).ok();
    step
}

fn skipped(mut step: Step) -> Step {
    const LEFT_OUT: &str = "the index goes without it until a node comes: ";
    let said = step.status.message.take().unwrap_or_default();
    step.status.phase = Phase::Skipped;
    step.status.message = Some(format!("{LEFT_OUT}{}", said.trim_start_matches(LEFT_OUT)));
    step
}

fn request<'a>(
    planner: &'a Planner<'_>,
    platform: &'a Platform,
    build: &'a api::Build,
    context: &'a PinnedContext,
) -> BuildRequest<'a> {
    let metadata = &planner.image.metadata;
    BuildRequest {
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        image_name: metadata.name.as_deref().unwrap_or_default(),
        image_uid: metadata.uid.as_deref().unwrap_or_default(),
        platform,
        build,
        emulated: false,
        context,
        repository: &planner.image.spec.target.repository,
        registry_secrets: &planner.image.spec.registry_secrets,
        rebuild: planner.epoch.rebuild.as_deref(),
        reconcile: planner.epoch.reconcile.as_deref(),
        previous: planner.observed.status.digest.as_deref(),
    }
}

/// What the status said of another build is not true of this one.
fn begin(mut step: Step, request: &BuildRequest<'_>) -> Step {
    let name = request.job_name();
    if step.status.job.as_ref() != Some(&name) {
        let platform = std::mem::take(&mut step.status.platform);
        step.status = PlatformStatus { platform, job: Some(name), ..PlatformStatus::default() };
    }
    step.status.emulated = request.emulated;
    step
}

fn go(planner: &Planner<'_>, step: Step, request: &BuildRequest<'_>, context: &Context) -> Step {
    let mut step = begin(step, request);
    step.job = Some(request.job_name());
    if let Some(digest) = step.status.built.clone().or(step.status.digest.clone()) {
        return inspect(planner, step, request.platform, &digest);
    }
    match planner.job_of(request) {
        Some(job) if is_collected(&step.status) && build_state::has_finished(job) => {
            step.tasks.extend(delete(job));
            step
        }
        Some(job) => follow(planner, step, request, Build::new(job, &planner.observed.pods)),
        // The Job of a failed build may go; that it failed stays known until something about the build changes.
        None if has_failed(planner, &step.status, request) => step,
        None => prepare(planner, step, request, context),
    }
}

fn has_failed(planner: &Planner<'_>, status: &PlatformStatus, request: &BuildRequest<'_>) -> bool {
    let is_attempt = status.attempt.as_ref() == Some(&request.fingerprint(planner.settings));
    status.phase == Phase::Failed && status.finished_at.is_some() && is_attempt
}

/// A Job is made when nothing is known that would make its build fail.
fn prepare(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>, context: &Context) -> Step {
    let (tasks, checked) = checks::check(planner, request, context);
    step.tasks.extend(tasks);
    match checked {
        Checked::Looking(what) => step.at(Phase::Resolving, Reason::Resolving, format!("looking up {what}")),
        Checked::Failed(failure) => step.failed(&failure),
        Checked::Passed(None) => create(planner, step, request),
        Checked::Passed(Some(doubt)) => {
            let step = create(planner, step, request);
            let said = step.status.message.clone().unwrap_or_default();
            let (phase, message) = (step.status.phase, format!("{said}, although {}", doubt.message));
            step.at(phase, doubt.reason, message)
        }
    }
}

fn create(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>) -> Step {
    let name = request.job_name();
    let credentials = (!request.registry_secrets.is_empty()).then_some(name.as_str());
    let Some(owner) = api::owner_reference(planner.image) else {
        return step.at(Phase::Failed, Reason::ClusterError, "the MultiArchImage has no UID");
    };
    step.status.attempt = Some(request.fingerprint(planner.settings));
    step.status.finished_at = None;
    let claim = build::volume_claim(request, owner.clone()).map(Box::new);
    let job = Box::new(build::job(request, planner.settings, credentials, owner));
    let create = Task::CreateJob { job, claim };
    let failure = planner.observed.failure(&create);
    // What cannot be created gives its turn to others until it is tried again.
    let queued = failure.is_none_or(|failure| failure.retry_at <= planner.now);
    let turn = planner.observed.turn(&name);
    step.tasks.push(match turn {
        Some(Turn::Granted) if queued => create,
        _ => Task::AwaitTurn { job: name.clone(), queued },
    });
    match (failure, turn) {
        (Some(failure), _) => step.failed(failure),
        (None, Some(Turn::Queued { place, waiting, limit })) => {
            step.grace = told_again(place, planner.now);
            step.at(Phase::Waiting, Reason::Queued, format!("place {place} of {waiting}: {limit}"))
        }
        (None, _) => step.at(Phase::Pending, Reason::Pending, format!("job/{name} is being created")),
    }
}

/// When a place in the queue is told anew if nothing else happens: the further back, the later, so that a long queue
/// costs few writes.
fn told_again(place: usize, now: Timestamp) -> Option<Timestamp> {
    let seconds = i64::try_from(place).ok()?.saturating_mul(TOLD_AGAIN);
    now.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn follow(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>, build: Build<'_>) -> Step {
    let had_failed = has_failed(planner, &step.status, request);
    let failed_at = step.status.finished_at.clone().filter(|_| had_failed);
    let (build, state) = state_of(planner, &mut step, request, build, had_failed);
    describe(&mut step.status, &build);
    step.status.finished_at = step.status.finished_at.take().or(failed_at);
    let is_outdated = build.is_outdated(&state, &request.fingerprint(planner.settings));
    if had_failed && !is_outdated && stays_failed(&build, &state) {
        // One that was given up goes, whatever pods it makes meanwhile.
        step.tasks.extend(delete(build.job).filter(|_| !build_state::has_been_decided(build.job)));
        return step;
    }
    let merge = merge_secrets(planner, request, &build);
    let no_secret = merge.as_ref().and_then(|merge| planner.observed.failure(merge));
    step.tasks.extend(merge.clone());
    let mut step = match state {
        _ if is_outdated => replaced(planner, step, request),
        BuildState::Unborn { .. } | BuildState::Starting { .. } if let Some(failure) = no_secret => {
            step.failed(failure)
        }
        BuildState::Succeeded { digest } => {
            step.status.built = Some(digest.clone());
            inspect(planner, step, request.platform, &digest)
        }
        BuildState::Lost => {
            step.tasks.extend(delete(build.job));
            step.status.finished_at = None;
            let name = request.job_name();
            let message = format!("the pod of job/{name} went before its result was read; it is built again");
            step.at(Phase::Pending, Reason::BuildResultLost, message)
        }
        BuildState::Abandoned { pod, message } => abandon(planner, step, &build, pod, message),
        BuildState::GivenUp { reason, message, log_tail, at } => {
            step.tasks.extend(delete(build.job));
            step.status.finished_at = Some(Time(at));
            report(step, request, BuildState::Failed { reason, message, log_tail })
        }
        state if never_started(&step.status, &build, &state) => {
            let is_last = matches!(state, BuildState::Failed { .. });
            step.status.phase = if is_last { Phase::Failed } else { Phase::Waiting };
            step
        }
        state => report(step, request, state),
    };
    placement::note_waiting(&mut step.status, &build, planner.now);
    if step.status.waiting_since.is_some() {
        let entry = planner.image.spec.platform(&step.status.platform);
        let deadline = entry.and_then(|entry| placement::deadline(planner, entry, &step.status, request));
        step.grace = step.grace.into_iter().chain(deadline).min();
    }
    step
}

/// How a build has failed stays known, though its Job and its pods go, and the watches not together.
fn stays_failed(build: &Build<'_>, state: &BuildState<'_>) -> bool {
    match state {
        BuildState::Failed { .. } => build.latest_pod().is_none(),
        BuildState::Foreign(_) | BuildState::Succeeded { .. } | BuildState::Lost => false,
        BuildState::Leaving
        | BuildState::Unborn { .. }
        | BuildState::Starting { .. }
        | BuildState::Waiting { .. }
        | BuildState::Evicted { .. }
        | BuildState::Abandoned { .. }
        | BuildState::Building { .. }
        | BuildState::Reporting { .. }
        | BuildState::Unreported
        | BuildState::GivenUp { .. } => true,
    }
}

/// What is going on. Where the watch of pods does not say how a Job has ended, and nobody knows it yet, the API server is
/// asked, and what it says counts.
fn state_of<'a>(
    planner: &'a Planner<'_>,
    step: &mut Step,
    request: &BuildRequest<'_>,
    build: Build<'a>,
    had_failed: bool,
) -> (Build<'a>, BuildState<'a>) {
    let read =
        |build: &Build<'a>| build.state(planner.image, &request.hash(), &planner.observed.nodes, planner.now);
    let state = read(&build);
    let must_ask = state == BuildState::Unreported && !had_failed;
    let Some(uid) = build.job.metadata.uid.clone().filter(|_| must_ask) else { return (build, state) };
    let find = Task::FindPods { uid };
    step.tasks.push(find.clone());
    match planner.observed.facts.get(&find) {
        Some(Fact::Known(Found::Pods(pods))) => {
            let build = Build::complete(build.job, pods);
            let state = read(&build);
            (build, state)
        }
        _ => (build, state),
    }
}

/// The pod goes without its node's word, so that the volume of its cache is free, and then its Job: that one would wait for
/// the same word before it made another pod.
fn abandon(planner: &Planner<'_>, mut step: Step, build: &Build<'_>, pod: &Pod, message: String) -> Step {
    let identity = pod.metadata.name.clone().zip(pod.metadata.uid.clone());
    let delete_pod = identity.map(|(name, uid)| Task::DeletePod { name, uid, at_once: true });
    if delete_pod.as_ref().is_none_or(|task| planner.observed.facts.get(task).is_some()) {
        step.tasks.extend(delete(build.job));
    }
    step.tasks.extend(delete_pod);
    step.at(Phase::Waiting, Reason::BuildEvicted, message)
}

/// Whether a pod's time was over before a container of it had run: what kept it from starting is the cause, and stands in
/// the status.
fn never_started(status: &PlatformStatus, build: &Build<'_>, state: &BuildState<'_>) -> bool {
    let is_over = matches!(
        state,
        BuildState::Failed { reason: Reason::BuildTimeout, .. }
            | BuildState::Waiting { reason: Reason::BuildTimeout, .. }
    );
    let is_told = matches!(status.reason, Some(Reason::ImagePullFailed | Reason::ContainerStarting))
        && matches!(status.phase, Phase::Waiting | Phase::Failed);
    is_over && is_told && build.never_started()
}

/// What a state of the build looks like in the status.
fn report(mut step: Step, request: &BuildRequest<'_>, state: BuildState<'_>) -> Step {
    let name = request.job_name();
    let (phase, reason, message) = match state {
        BuildState::Foreign(message) => {
            let message = format!("{message}; delete or rename it");
            step.status.finished_at = None;
            return step.at(Phase::Failed, Reason::JobConflict, message);
        }
        BuildState::Leaving => {
            let message = format!("an earlier job/{name} is being removed");
            return step.at(Phase::Pending, Reason::Pending, message);
        }
        BuildState::Unborn { until } => {
            step.grace = Some(until);
            (Phase::Pending, Reason::Pending, "its pod is being created".to_owned())
        }
        BuildState::Starting { reason, message } => (Phase::Pending, reason, message),
        BuildState::Waiting { reason, message } => (Phase::Waiting, reason, message),
        BuildState::Evicted { until, message } => {
            step.grace = Some(until);
            (Phase::Waiting, Reason::BuildEvicted, message)
        }
        BuildState::Building { message, until } => {
            step.grace = until;
            (Phase::Building, Reason::Building, message)
        }
        BuildState::Reporting { until } => {
            step.grace = Some(until);
            (Phase::Building, Reason::Building, "the result is being collected".to_owned())
        }
        BuildState::Unreported => {
            (Phase::Building, Reason::Building, "the result is being collected".to_owned())
        }
        BuildState::Failed { reason, message, log_tail } => {
            step.status.log_tail = log_tail;
            (Phase::Failed, reason, message)
        }
        BuildState::Succeeded { .. }
        | BuildState::Lost
        | BuildState::Abandoned { .. }
        | BuildState::GivenUp { .. } => (Phase::Building, Reason::Building, "the build has ended".to_owned()),
    };
    step.at(phase, reason, format!("{message} (job/{name})"))
}

/// A Job is written once: one that was to run otherwise makes way for another.
fn replaced(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>) -> Step {
    step.tasks.extend(planner.job_of(request).and_then(|job| delete(job)));
    step.status.waiting_since = None;
    let message = format!("job/{} is made anew, since what it needs has changed", request.job_name());
    step.at(Phase::Pending, Reason::Pending, message)
}

/// The builder reads one file and knows hosts only: what the registry secrets give for the target is merged into a Secret
/// that goes with the Job.
fn merge_secrets(planner: &Planner<'_>, request: &BuildRequest<'_>, build: &Build<'_>) -> Option<Task> {
    let is_ours = build_state::is_owned_by(build.job, planner.image);
    if request.registry_secrets.is_empty() || build_state::has_finished(build.job) || !is_ours {
        return None;
    }
    Some(Task::MergeSecrets {
        epoch: planner.epoch.clone(),
        job: request.job_name(),
        uid: build.job.metadata.uid.clone()?,
        secrets: request.registry_secrets.iter().map(|secret| secret.name.clone()).collect(),
    })
}

/// What the Job and its latest pod say of themselves.
fn describe(status: &mut PlatformStatus, build: &Build<'_>) {
    let pod = build.latest_pod();
    status.pod = pod.and_then(|pod| pod.metadata.name.clone());
    status.node = pod.and_then(build_pod::node).map(str::to_owned);
    status.attempts = build.attempts();
    status.attempt = build.fingerprint().map(str::to_owned);
    let job = build.job.status.as_ref();
    status.started_at = job.and_then(|job| job.start_time.clone());
    status.finished_at = build_state::finished_at(build.job).or_else(|| build.succeeded_at());
}

/// The pod's word is a hint: the manifest is fetched and hashed before it counts.
fn inspect(planner: &Planner<'_>, mut step: Step, platform: &Platform, digest: &str) -> Step {
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => {
            let message = format!("the build reported no digest: {error}");
            return step.at(Phase::Failed, Reason::BuildResultLost, message);
        }
    };
    let task = Task::InspectBuild {
        repository: planner.repository.clone(),
        digest: digest.clone(),
        platform: platform.clone(),
        look: step.status.digest.as_ref().and_then(|child| planner.tracking.lost(&planner.repository, child)),
        check: gates::platform_check(planner.image.spec.verify.as_ref()),
    };
    step.tasks.push(task.clone());
    match planner.observed.facts.get(&task) {
        Some(Fact::Known(Found::Image(image))) => gates::pass(planner, step, platform, image),
        Some(Fact::Failed(failure))
            if failure.reason == Reason::BuildResultLost && step.status.digest.is_some() =>
        {
            collected(planner, step)
        }
        Some(Fact::Failed(failure)) => step.failed(failure),
        _ => {
            step.at(Phase::Verifying, Reason::Verifying, format!("verifying {}@{digest}", planner.repository))
        }
    }
}

/// Whether the Job that is there made what the registry has lost.
fn is_collected(status: &PlatformStatus) -> bool {
    (status.phase, status.reason) == (Phase::Pending, Some(Reason::BuildResultLost)) && status.built.is_none()
}

/// The registry had it and has it no more. What has never been seen there is not built again by itself: a registry that
/// loses what it is given would be given it for ever.
fn collected(planner: &Planner<'_>, mut step: Step) -> Step {
    let job = step.status.job.take();
    let of_build = planner.own_jobs().filter(|other| other.metadata.name == job);
    step.tasks.extend(of_build.filter_map(|job| delete(job)));
    let gone = step.status.built.take().or(step.status.digest.take()).unwrap_or_default();
    let platform = std::mem::take(&mut step.status.platform);
    step.status = PlatformStatus { platform, job, ..PlatformStatus::default() };
    let message = format!("{}@{gone} is in the registry no more; it is built again", planner.repository);
    step.at(Phase::Pending, Reason::BuildResultLost, message)
}
