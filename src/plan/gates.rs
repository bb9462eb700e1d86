//! What a child in the target repository must still pass before its platform is ready: the look at its program, and a
//! run. What has been found out about a digest stands in the status, so that neither a restart nor another look does it
//! again.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use super::built::NODE_CHECK;
use super::fact::{Fact, Failure, Found};
use super::run_state::{self, RunState};
use super::task::Task;
use super::{Planner, Step, build_pod};
use crate::api::{
    self, Enforcement, LABEL_PLATFORM, LABEL_VERIFICATION, LostPods, MultiArchImage, Phase, PlatformSource,
    ProgramResult, ProgramStatus, Reason, RunStatus, VerificationStatus, Verify, VerifyRun, WhenNoNode,
};
use crate::build;
use crate::image::{PlatformCheck, ProgramFinding, ResolvedImage};
use crate::platform::Platform;
use crate::verification::{RunRequest, is_emulated};

/// What a gate says.
enum Gate {
    /// The child may go on; what people should know all the same.
    Open(Option<String>),
    /// It may not, or not yet.
    Closed(Phase, Reason, String),
}

/// Makes a platform ready whose child has passed every gate. Until then `verification.digest` names the child that is
/// looked at, and `digest` the one that was ready before.
pub(super) fn pass(
    planner: &Planner<'_>,
    mut step: Step,
    platform: &Platform,
    child: &Arc<ResolvedImage>,
) -> Step {
    let digest = child.image.descriptor.digest.to_string();
    let known = step.status.verification.take().filter(|known| known.digest == digest);
    let mut known = known.unwrap_or_else(|| VerificationStatus { digest, ..VerificationStatus::default() });
    let verify = planner.image.spec.verify.clone().unwrap_or_default();
    let gate = look_at_program(planner, &mut step, &mut known, (platform, child), verify.binaries);
    let (gate, remark) = match (gate, &verify.run) {
        (Gate::Open(remark), Some(run)) => (run_it(planner, &mut step, &mut known, (platform, run)), remark),
        (gate, _) => (gate, None),
    };
    if verify.run.is_none() {
        known.lost = None;
    }
    if matches!(gate, Gate::Closed(..)) || known.program.is_some() || known.run.is_some() {
        step.status.verification = Some(known);
    }
    match gate {
        Gate::Open(said) => {
            let mut step = step.ready(Arc::clone(child));
            for remark in remark.into_iter().chain(said) {
                step.status.message.get_or_insert_default().push_str(&format!("; {remark}"));
            }
            step
        }
        Gate::Closed(phase, reason, message) => step.at(phase, reason, message),
    }
}

/// How strict the look at a config's platform is.
pub(super) fn platform_check(verify: Option<&Verify>) -> PlatformCheck {
    verify.map(|verify| verify.platform).unwrap_or_default().into()
}

fn look_at_program(
    planner: &Planner<'_>,
    step: &mut Step,
    known: &mut VerificationStatus,
    (platform, child): (&Platform, &Arc<ResolvedImage>),
    enforcement: Enforcement,
) -> Gate {
    if enforcement == Enforcement::Off {
        return Gate::Open(None);
    }
    if known.program.is_none() {
        let task = Task::InspectProgram {
            repository: planner.repository.clone(),
            image: Arc::clone(child),
            platform: platform.clone(),
        };
        step.tasks.push(task.clone());
        match planner.observed.facts.get(&task) {
            Some(Fact::Known(Found::Program(finding))) => known.program = Some(program(finding)),
            Some(Fact::Failed(failure)) if failure.transient || enforcement == Enforcement::Enforce => {
                let phase = if failure.transient { Phase::Waiting } else { Phase::Failed };
                return Gate::Closed(phase, failure.reason, failure.message.clone());
            }
            Some(Fact::Failed(failure)) => {
                return Gate::Open(Some(format!("its program could not be looked at: {}", failure.message)));
            }
            _ => {
                let message = format!("looking at the program of {}", known.digest);
                return Gate::Closed(Phase::Verifying, Reason::Verifying, message);
            }
        }
    }
    match &known.program {
        Some(ProgramStatus { result: ProgramResult::Mismatch, message })
            if enforcement == Enforcement::Enforce =>
        {
            Gate::Closed(Phase::Failed, Reason::BinaryMismatch, message.clone())
        }
        Some(ProgramStatus { result: ProgramResult::Mismatch | ProgramResult::Compatible, message }) => {
            Gate::Open(Some(message.clone()))
        }
        _ => Gate::Open(None),
    }
}

fn program(finding: &ProgramFinding) -> ProgramStatus {
    let result = match finding {
        ProgramFinding::Matches { .. } => ProgramResult::Matches,
        ProgramFinding::Compatible { .. } => ProgramResult::Compatible,
        ProgramFinding::Mismatch { .. } => ProgramResult::Mismatch,
        ProgramFinding::Unknown { .. } => ProgramResult::Unknown,
    };
    ProgramStatus { result, message: finding.to_string() }
}

fn run_it(
    planner: &Planner<'_>,
    step: &mut Step,
    known: &mut VerificationStatus,
    (platform, run): (&Platform, &VerifyRun),
) -> Gate {
    let metadata = &planner.image.metadata;
    let entry = planner.image.spec.platform(&step.status.platform);
    let when_no_node = entry.map(|entry| entry.when_no_node).unwrap_or_default();
    let build_pod = entry.and_then(|entry| build_pod(planner, entry));
    let nodes = &planner.observed.nodes;
    let digest = known.digest.clone();
    // What emulation could not run a node of the platform runs.
    let is_for_node =
        |run: &Option<RunStatus>| nodes.has(platform) && run.as_ref().is_some_and(failed_emulated);
    let may_be_emulated =
        step.status.emulated || (when_no_node == WhenNoNode::Emulate && !nodes.may_have(platform));
    let request = RunRequest {
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        image_name: metadata.name.as_deref().unwrap_or_default(),
        image_uid: metadata.uid.as_deref().unwrap_or_default(),
        platform,
        repository: &planner.image.spec.target.repository,
        digest: &digest,
        run,
        build_pod: build_pod.as_ref(),
        emulated: may_be_emulated && !is_for_node(&known.run),
        registry_secrets: &planner.image.spec.registry_secrets,
        reconcile: planner.epoch.reconcile.as_deref(),
    };
    let before = known.run.clone();
    let mut gate = attempt(planner, step, known, &request, when_no_node);
    if known.run != before && is_for_node(&known.run) {
        let native = RunRequest { emulated: false, ..request };
        gate = attempt(planner, step, known, &native, when_no_node);
    }
    if !nodes.may_have(platform) && matches!(gate, Gate::Closed(Phase::Failed | Phase::Skipped, ..)) {
        // A node that comes wakes the image, unless it came in the moment before this was written.
        step.grace = step.grace.into_iter().chain(planner.now.saturating_add(NODE_CHECK).ok()).min();
    }
    gate
}

fn failed_emulated(run: &RunStatus) -> bool {
    run.emulated && !run.passed
}

fn attempt(
    planner: &Planner<'_>,
    step: &mut Step,
    known: &mut VerificationStatus,
    request: &RunRequest<'_>,
    when_no_node: WhenNoNode,
) -> Gate {
    if let Some(gate) = known.run.as_ref().and_then(|run| known_end(step, run, request)) {
        return gate;
    }
    let pod = pod_of(planner, request, known.run.as_ref());
    let is_taken = pod.is_some_and(|pod| build_pod::node(pod).is_some());
    if !planner.observed.nodes.may_have(request.platform)
        && !is_taken
        && let Some(gate) = without_node(when_no_node, request.platform)
    {
        return gate;
    }
    step.status.log_tail = None;
    match pod {
        Some(pod) => follow(planner, step, known, pod, request),
        None => create(planner, step, request),
    }
}

/// What an earlier run says of this one. What failed stays failed until something changes, whether or not its pod is still
/// there; but what emulation could not run a node of the platform may.
fn known_end(step: &mut Step, run: &RunStatus, request: &RunRequest<'_>) -> Option<Gate> {
    if run.passed {
        return is_of(&run.attempt, &request.hash()).then_some(Gate::Open(None));
    }
    if run.attempt != request.attempt() || (run.emulated && !request.emulated) {
        return None;
    }
    step.pod = Some(run.pod.clone());
    let reason = run.reason.unwrap_or(Reason::VerifyRunFailed);
    Some(Gate::Closed(Phase::Failed, reason, run.message.clone().unwrap_or_default()))
}

/// What is done while the cluster has no node of the platform; none of what waits or is emulated.
fn without_node(policy: WhenNoNode, platform: &Platform) -> Option<Gate> {
    let words = format!("the cluster has no node of {platform} to run the image on");
    let closed = |phase, words| Some(Gate::Closed(phase, Reason::NoNodeForPlatform, words));
    match policy {
        WhenNoNode::Wait | WhenNoNode::Emulate => None,
        WhenNoNode::Fail => closed(Phase::Failed, format!("{words}, and whenNoNode is Fail")),
        WhenNoNode::Skip => {
            closed(Phase::Skipped, format!("the index goes without it until a node comes: {words}"))
        }
    }
}

/// What the build of a platform needs of its nodes the run needs as well. A remote builder's pod runs elsewhere.
fn build_pod(planner: &Planner<'_>, entry: &PlatformSource) -> Option<api::BuildPod> {
    let build = planner.image.spec.build.as_ref().filter(|_| entry.image.is_none())?;
    let build = build::for_platform(build, entry.build.as_ref());
    build.pod.filter(|_| build.remote.is_none())
}

/// Whether a fingerprint or an attempt begins with these parts.
fn is_of(attempt: &str, beginning: &str) -> bool {
    attempt.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The pod that runs what was asked for. What has begun goes on where it is, whatever nodes come and go and whoever asks to
/// check; one whose failure is known is of no use any more.
fn pod_of<'a>(
    planner: &Planner<'a>,
    request: &RunRequest<'_>,
    known: Option<&RunStatus>,
) -> Option<&'a Arc<Pod>> {
    let name = request.pod_name();
    let fingerprint = request.fingerprint();
    let is_known = |pod: &Pod| known.is_some_and(|run| Some(&run.pod) == pod.metadata.name.as_ref());
    let runs = |pod: &Pod| {
        run_state::is_owned_by(pod, planner.image)
            && label(pod, LABEL_VERIFICATION).is_some_and(|attempt| is_of(attempt, &fingerprint))
            && label(pod, LABEL_PLATFORM) == Some(&request.platform.slug())
            && (is_emulated(pod) == request.emulated || build_pod::node(pod).is_some())
    };
    let pods = || planner.observed.pods.iter().filter(|pod| !is_known(pod));
    pods().find(|pod| pod.metadata.name.as_ref() == Some(&name)).or_else(|| pods().find(|pod| runs(pod)))
}

fn label<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.labels.as_ref()?.get(name)
}

fn create(planner: &Planner<'_>, step: &mut Step, request: &RunRequest<'_>) -> Gate {
    let Some(owner) = api::owner_reference(planner.image) else {
        let message = "the MultiArchImage has no UID".to_owned();
        return Gate::Closed(Phase::Failed, Reason::ClusterError, message);
    };
    let create = Task::CreatePod { pod: Box::new(request.pod(owner)) };
    step.pod = Some(request.pod_name());
    step.tasks.push(create.clone());
    match planner.observed.failure(&create) {
        Some(failure) => {
            let phase = if failure.transient { Phase::Waiting } else { Phase::Failed };
            Gate::Closed(phase, failure.reason, failure.message.clone())
        }
        None => {
            let message = format!("pod/{} is being created", request.pod_name());
            Gate::Closed(Phase::Verifying, Reason::VerifyRunning, message)
        }
    }
}

/// What a pod has come to. Its end is written into the status before the pod is deleted: tasks are begun after that.
fn follow(
    planner: &Planner<'_>,
    step: &mut Step,
    known: &mut VerificationStatus,
    pod: &Arc<Pod>,
    request: &RunRequest<'_>,
) -> Gate {
    let name = pod.metadata.name.clone().unwrap_or_default();
    step.pod = Some(name.clone());
    let closed =
        |phase, reason, message: String| Gate::Closed(phase, reason, format!("{message} (pod/{name})"));
    match run_state::read(pod, planner.image, request, &planner.observed.nodes) {
        RunState::Foreign => {
            let message = "a pod of this name belongs to somebody else; delete or rename it".to_owned();
            closed(Phase::Failed, Reason::JobConflict, message)
        }
        RunState::Leaving => {
            match build_pod::must_have_gone_by(pod) {
                Some(until) if until <= planner.now => step.tasks.extend(delete_at_once(pod)),
                until => step.grace = step.grace.into_iter().chain(until).min(),
            }
            closed(Phase::Verifying, Reason::VerifyRunning, "an earlier pod is being removed".to_owned())
        }
        RunState::Running { message } => closed(Phase::Verifying, Reason::VerifyRunning, message),
        RunState::Waiting { reason, message } => closed(Phase::Waiting, reason, message),
        RunState::Lost { message } => {
            let follows = replace(planner, step, known, pod, request);
            closed(Phase::Waiting, Reason::VerifyRunning, format!("{message}; {follows}"))
        }
        RunState::Passed => {
            step.pod = None;
            known.lost = None;
            known.run = Some(ended(pod, request, None));
            Gate::Open(None)
        }
        RunState::Failed { reason, message, log_tail } => {
            step.status.log_tail = log_tail;
            let message = format!("{message} (pod/{name})");
            known.lost = None;
            known.run = Some(ended(pod, request, Some((reason, message.clone()))));
            Gate::Closed(Phase::Failed, reason, message)
        }
    }
}

/// Deletes a pod that was lost, so that another one is made: the first soon, every further one later. Whoever asks to check
/// is not kept waiting. What follows, for people.
fn replace(
    planner: &Planner<'_>,
    step: &mut Step,
    known: &mut VerificationStatus,
    pod: &Arc<Pod>,
    request: &RunRequest<'_>,
) -> String {
    known.lost = lost_pods(known.lost.take(), pod, request.attempt());
    let count = known.lost.as_ref().map_or(0, |lost| lost.count.unsigned_abs());
    let left_for = match count {
        0 => SignedDuration::ZERO,
        count => Failure::retry_after(false, count, None),
    };
    let created = pod.metadata.creation_timestamp.as_ref().map_or(planner.now, |created| created.0);
    let until = created.saturating_add(left_for).unwrap_or(planner.now);
    if planner.now < until {
        step.grace = step.grace.into_iter().chain([until]).min();
    } else {
        step.tasks.extend(delete(pod));
    }
    match count {
        ..=1 => "it is run again".to_owned(),
        _ => format!("it is run again at {until}, after {count} lost pods"),
    }
}

/// The pods lost in a row with this one; none if it was not made for this attempt.
fn lost_pods(before: Option<LostPods>, pod: &Pod, attempt: String) -> Option<LostPods> {
    if label(pod, LABEL_VERIFICATION) != Some(&attempt) {
        return None;
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let before = before.filter(|lost| lost.attempt == attempt);
    if before.as_ref().is_some_and(|lost| lost.uid == uid) {
        return before;
    }
    let count = before.map_or(0, |lost| lost.count).saturating_add(1);
    Some(LostPods { attempt, count, uid })
}

fn ended(pod: &Pod, request: &RunRequest<'_>, failure: Option<(Reason, String)>) -> RunStatus {
    let (reason, message) = failure.unzip();
    RunStatus {
        attempt: request.attempt(),
        passed: reason.is_none(),
        reason,
        message,
        pod: pod.metadata.name.clone().unwrap_or_default(),
        node: build_pod::node(pod).map(str::to_owned),
        emulated: is_emulated(pod),
        finished_at: run_state::terminated(pod).and_then(|end| end.finished_at.clone()),
    }
}

/// The pods that no platform stands on. A platform whose child is still being looked up may turn out to want its own.
pub(super) fn obsolete_pods(planner: &Planner<'_>, steps: &[Step]) -> Vec<Task> {
    let runs = planner.image.spec.verify.as_ref().is_some_and(|verify| verify.run.is_some());
    let may_want = |pod: &Pod| {
        runs && steps.iter().any(|step| {
            let slug = step.status.platform.parse::<Platform>().ok().map(|platform| platform.slug());
            step.pod.is_none()
                && step.child.is_none()
                && !matches!(step.status.phase, Phase::Failed | Phase::Skipped)
                && slug.as_ref() == label(pod, LABEL_PLATFORM)
        })
    };
    let is_wanted = |pod: &Pod| steps.iter().any(|step| step.pod.is_some() && step.pod == pod.metadata.name);
    let own = own_pods(planner.image, &planner.observed.pods);
    own.filter(|pod| !is_wanted(pod) && !may_want(pod)).filter_map(delete).collect()
}

/// What is left when nothing is to be run any more.
pub(super) fn stray_pods(image: &MultiArchImage, pods: &[Arc<Pod>]) -> Vec<Task> {
    own_pods(image, pods).filter_map(delete).collect()
}

/// What is still running while nothing shall.
pub(super) fn unfinished_pods(image: &MultiArchImage, pods: &[Arc<Pod>]) -> Vec<Task> {
    let has_finished = |pod: &Pod| matches!(build_pod::phase(pod), "Succeeded" | "Failed");
    own_pods(image, pods).filter(|pod| !has_finished(pod)).filter_map(delete).collect()
}

/// The pods that were made for `spec.verify.run`, and not those of builds.
fn own_pods<'a>(image: &'a MultiArchImage, pods: &'a [Arc<Pod>]) -> impl Iterator<Item = &'a Arc<Pod>> {
    pods.iter().filter(|pod| run_state::is_owned_by(pod, image) && label(pod, LABEL_VERIFICATION).is_some())
}

/// A pod whose node does not end it, and which nothing else would let go.
fn delete_at_once(pod: &Pod) -> Option<Task> {
    let (name, uid) = (pod.metadata.name.clone()?, pod.metadata.uid.clone()?);
    Some(Task::DeletePod { name, uid, at_once: true })
}

/// A pod that is already on its way out is not deleted again.
fn delete(pod: &Arc<Pod>) -> Option<Task> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (name, uid) = (pod.metadata.name.clone()?, pod.metadata.uid.clone()?);
    Some(Task::DeletePod { name, uid, at_once: false })
}
