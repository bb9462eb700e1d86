//! Reads a build's Job and pods: what is going on, in one word, with the words of whoever knows best.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Nodes;
use crate::api::{
    ANNOTATION_ATTEMPT, ANNOTATION_BUILD_HASH, ANNOTATION_OUTLINE, LABEL_PLATFORM, MultiArchImage, Reason,
    controller_uid,
};
use crate::build::{BuildReport, ExitCause};

/// Longest log tail that a status carries, in bytes.
const LOG_TAIL_LIMIT: usize = 2048;
/// How long the watch of pods may be behind the watch of Jobs before a missing pod counts as lost.
const REPORT_GRACE: SignedDuration = SignedDuration::from_secs(10);

/// How long the Job controller may take to create a pod before something must be in its way.
const POD_GRACE: SignedDuration = SignedDuration::from_secs(15);

/// The label by which a Job is in a queue of Kueue, which suspends it until there is room.
const KUEUE_QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// What a build's Job and its pods say together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BuildState {
    /// The Job is somebody else's; who.
    Foreign(String),
    /// The Job is being deleted; another of its name can be made when it is gone.
    Leaving,
    /// Its pod has not been created yet, which takes a moment.
    Unborn { until: Timestamp },
    /// Its pod is on the way to running, as every pod is for a moment.
    Starting { reason: Reason, message: String },
    /// Something outside the build stands in its way.
    Waiting { reason: Reason, message: String },
    /// The build's container is running.
    Building { message: String },
    /// It pushed this, it says.
    Succeeded { digest: String },
    /// It succeeded, and its pod's last words have not been seen yet.
    Reporting { until: Timestamp },
    /// It succeeded, and nobody knows any more what it pushed.
    Lost,
    /// It failed for good.
    Failed { reason: Reason, message: String, log_tail: Option<String> },
}

/// A Job with the pods that it controls, the latest last.
pub(super) struct Build<'a> {
    pub job: &'a Job,
    pods: Vec<&'a Pod>,
}

impl<'a> Build<'a> {
    pub fn new(job: &'a Job, pods: &'a [Arc<Pod>]) -> Self {
        let uid = job.metadata.uid.as_deref();
        let mut pods: Vec<&Pod> = pods
            .iter()
            .map(Arc::as_ref)
            .filter(|pod| controller_uid(&pod.metadata) == uid && uid.is_some())
            .collect();
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
        Build { job, pods }
    }

    pub fn latest_pod(&self) -> Option<&'a Pod> {
        self.pods.last().copied()
    }

    /// When the pod of a build that has succeeded ended: the Job's own time comes a moment after its success.
    pub fn succeeded_at(&self) -> Option<Time> {
        let end = self.pods.iter().rev().filter_map(|pod| terminated(pod)).find(|end| end.exit_code == 0)?;
        end.finished_at.clone().filter(|_| has_condition(self.job, "SuccessCriteriaMet"))
    }

    /// How the Job was meant to run.
    pub fn fingerprint(&self) -> Option<&'a str> {
        self.job.metadata.annotations.as_ref()?.get(ANNOTATION_ATTEMPT).map(String::as_str)
    }

    /// Whether the Job was meant to run otherwise than is wanted now, and nothing is lost with it: it has not begun or has
    /// failed.
    pub fn is_outdated(&self, state: &BuildState, fingerprint: &str) -> bool {
        let Some(found) = self.fingerprint() else { return false };
        let how = |fingerprint: &str| fingerprint.split('.').next().map(str::to_owned);
        match state {
            BuildState::Unborn { .. } | BuildState::Starting { .. } | BuildState::Waiting { .. } => {
                self.latest_pod().is_none_or(|pod| phase(pod) == "Pending") && how(found) != how(fingerprint)
            }
            BuildState::Failed { .. } => found != fingerprint,
            _ => false,
        }
    }

    /// The pods that there are, or those that the Job has counted: it remembers failed ones that have been deleted.
    pub fn attempts(&self) -> Option<i32> {
        let counted =
            self.job.status.as_ref().map_or(0, |status| {
                [status.active, status.succeeded, status.failed].into_iter().flatten().sum()
            });
        i32::try_from(self.pods.len()).ok().map(|seen| seen.max(counted)).filter(|attempts| *attempts > 0)
    }

    pub fn state(&self, image: &MultiArchImage, hash: &str, nodes: &Nodes, now: Timestamp) -> BuildState {
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        if !is_owned_by(self.job, image) {
            return BuildState::Foreign(format!(
                "job/{name} exists and is not controlled by this MultiArchImage"
            ));
        }
        if self.job.metadata.deletion_timestamp.is_some() {
            return BuildState::Leaving;
        }
        let annotations = self.job.metadata.annotations.as_ref();
        if annotations.and_then(|all| all.get(ANNOTATION_BUILD_HASH)).map(String::as_str) != Some(hash) {
            return BuildState::Foreign(format!("job/{name} exists and was made for another build"));
        }
        if has_condition(self.job, "Complete") || has_condition(self.job, "SuccessCriteriaMet") {
            return self.succeeded(now);
        }
        if has_condition(self.job, "Failed") || has_condition(self.job, "FailureTarget") {
            return self.failed();
        }
        self.running(nodes, now)
    }

    fn succeeded(&self, now: Timestamp) -> BuildState {
        let mut ends = self.pods.iter().rev().filter_map(|pod| terminated(pod));
        if let Some(end) = ends.find(|end| end.exit_code == 0) {
            return match BuildReport::parse(end.message.as_deref().unwrap_or_default()) {
                Some(report) => BuildState::Succeeded { digest: report.digest },
                None => BuildState::Failed {
                    reason: Reason::BuildResultLost,
                    message:
                        "the build ended well but reported no digest; is the builder image one of BuildKit's?"
                            .to_owned(),
                    log_tail: tail(end),
                },
            };
        }
        let finished = self.job.status.as_ref().and_then(|status| status.completion_time.as_ref());
        let until = finished.map(|time| time.0).unwrap_or(now).saturating_add(REPORT_GRACE).unwrap_or(now);
        if now < until { BuildState::Reporting { until } } else { BuildState::Lost }
    }

    fn failed(&self) -> BuildState {
        let Some(pod) = self.pods.iter().rev().find(|pod| phase(pod) == "Failed") else {
            let message =
                condition_message(self.job, "Failed").unwrap_or("the Job failed and its pods are gone");
            return BuildState::Failed {
                reason: Reason::BuildFailed,
                message: message.to_owned(),
                log_tail: None,
            };
        };
        let (reason, message) = cause(pod);
        BuildState::Failed { reason, message, log_tail: terminated(pod).and_then(tail) }
    }

    /// A Job whose pod is forbidden, by Pod Security, a quota or a webhook, has none, and only its events say so.
    fn without_pod(&self, now: Timestamp) -> BuildState {
        let created = self.job.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
        let until = created.saturating_add(POD_GRACE).unwrap_or(now);
        if now < until {
            return BuildState::Unborn { until };
        }
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "the cluster makes no pod for it; `kubectl describe job {name}` says why: a Pod Security level other \
             than privileged, a quota or an admission webhook may forbid it"
        );
        BuildState::Waiting { reason: Reason::PodNotCreated, message }
    }

    fn running(&self, nodes: &Nodes, now: Timestamp) -> BuildState {
        if is_suspended(self.job) {
            return BuildState::Waiting { reason: Reason::Queued, message: suspended(self.job) };
        }
        let Some(pod) = self.latest_pod() else { return self.without_pod(now) };
        match phase(pod) {
            "Running" => {
                BuildState::Building { message: format!("running on {}", node(pod).unwrap_or("a node")) }
            }
            // The Job is about to fail for the same cause, and no attempt follows.
            "Failed" if is_lasting(pod) => BuildState::Building { message: "ending".to_owned() },
            "Failed" => {
                let (reason, message) = cause(pod);
                BuildState::Waiting { reason, message: format!("{message}; another attempt follows") }
            }
            "Succeeded" => BuildState::Building { message: "finishing".to_owned() },
            _ => pending(pod, nodes),
        }
    }
}

/// Who will start a suspended Job; it is never the operator.
fn suspended(job: &Job) -> String {
    match job.metadata.labels.as_ref().and_then(|labels| labels.get(KUEUE_QUEUE)) {
        Some(queue) => format!("suspended: its queue ({KUEUE_QUEUE}: {queue}) will start it"),
        None => "suspended: whoever set spec.suspend of the Job has to start it".to_owned(),
    }
}

/// Why no node takes a pod, in the scheduler's words.
pub(super) fn unscheduled(pod: &Pod, nodes: &Nodes) -> Option<(Reason, String)> {
    let message = unschedulable(pod)?;
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
    let label = |key: &str| selector.get(key).map(String::as_str).unwrap_or_default();
    let (os, architecture) = (label("kubernetes.io/os"), label("kubernetes.io/arch"));
    Some((
        if nodes.may_have_labels(os, architecture) {
            Reason::Unschedulable
        } else {
            Reason::NoNodeForPlatform
        },
        message,
    ))
}

/// Why a pending pod is pending.
fn pending(pod: &Pod, nodes: &Nodes) -> BuildState {
    if let Some((reason, message)) = unscheduled(pod, nodes) {
        return BuildState::Waiting { reason, message };
    }
    let waiting = container(pod).and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let Some((reason, message)) =
        waiting.and_then(|waiting| Some((waiting.reason.as_deref()?, &waiting.message)))
    else {
        let message = match node(pod) {
            Some(node) => format!("starting on {node}"),
            None => "waiting for a node".to_owned(),
        };
        return BuildState::Starting { reason: Reason::ContainerStarting, message };
    };
    let message = message.clone().unwrap_or_else(|| reason.to_owned());
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            BuildState::Waiting {
                reason: Reason::ImagePullFailed,
                message: format!("the builder's image cannot be pulled: {message}"),
            }
        }
        "ContainerCreating" | "PodInitializing" => BuildState::Starting {
            reason: Reason::ContainerStarting,
            message: format!("starting on {}", node(pod).unwrap_or("a node")),
        },
        _ => {
            BuildState::Waiting { reason: Reason::ContainerStarting, message: format!("{reason}: {message}") }
        }
    }
}

fn is_lasting(pod: &Pod) -> bool {
    terminated(pod).and_then(|end| ExitCause::from_code(end.exit_code)).is_some_and(ExitCause::is_lasting)
}

/// Why a failed pod failed.
fn cause(pod: &Pod) -> (Reason, String) {
    let status = pod.status.as_ref();
    let pod_reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    let pod_message = status.and_then(|status| status.message.as_deref()).unwrap_or_default();
    if let Some(disruption) = pod_condition(pod, "DisruptionTarget") {
        return (Reason::BuildEvicted, disruption.message.clone().unwrap_or_else(|| "evicted".to_owned()));
    }
    match pod_reason {
        "Evicted" => return (Reason::BuildEvicted, pod_message.to_owned()),
        "DeadlineExceeded" => return (Reason::BuildTimeout, pod_message.to_owned()),
        // A kubelet refuses what the scheduler gave it, where its node has changed in between.
        refused
            if refused.starts_with("OutOf")
                || matches!(refused, "NodeAffinity" | "UnexpectedAdmissionError") =>
        {
            return (
                Reason::BuildEvicted,
                format!("the node refused the pod: {refused} {pod_message}").trim_end().to_owned(),
            );
        }
        _ => {}
    }
    let Some(end) = terminated(pod) else {
        return (
            Reason::BuildFailed,
            [pod_reason, pod_message, "the pod failed"]
                .into_iter()
                .find(|text| !text.is_empty())
                .unwrap_or_default()
                .to_owned(),
        );
    };
    // What a kubelet says of a container that was there before its machine was restarted or replaced.
    if end.reason.as_deref() == Some("ContainerStatusUnknown") {
        let node = node(pod).unwrap_or("the node");
        return (
            Reason::BuildEvicted,
            format!("{node} was restarted or replaced, and the build's container with it"),
        );
    }
    if end.reason.as_deref() == Some("OOMKilled") && ExitCause::from_code(end.exit_code).is_none() {
        let said = "the build was killed for want of memory; raise spec.build.pod.resources.limits.memory";
        return (Reason::BuildOutOfMemory, with_memory_limit(said, pod));
    }
    let words = end.message.as_deref().and_then(last_error).unwrap_or_else(|| "no output".to_owned());
    match ExitCause::from_code(end.exit_code) {
        Some(ExitCause::OutOfMemory) => (Reason::BuildOutOfMemory, with_memory_limit(&words, pod)),
        Some(cause) => (cause.reason(), words),
        None => (Reason::BuildFailed, format!("{words} (exit code {})", end.exit_code)),
    }
}

fn with_memory_limit(said: &str, pod: &Pod) -> String {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let limits = container.and_then(|container| container.resources.as_ref()?.limits.as_ref());
    match limits.and_then(|limits| limits.get("memory")) {
        Some(limit) => format!("{said}, which is {}", limit.0),
        None => said.to_owned(),
    }
}

/// BuildKit says what failed in its last line that begins with `error:`; below it stand git's words, if git failed.
fn last_error(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = |prefix: &str| lines.iter().rposition(|line| line.starts_with(prefix));
    let git = lines.iter().rposition(|line| line.starts_with("error: ") && line.ends_with("git stderr:"));
    let at = git.or_else(|| last("error: ")).or_else(|| last("ERROR: "));
    let at = at.or_else(|| lines.len().checked_sub(1))?;
    let line = ["error: ", "ERROR: ", "failed to solve: "]
        .iter()
        .fold(lines[at], |line, prefix| line.strip_prefix(prefix).unwrap_or(line));
    Some(match line.strip_suffix("git stderr:") {
        Some(line) => format!("{line}{}", lines[at + 1..].join(" ")),
        None => line.to_owned(),
    })
}

/// The last lines of a container's log, whole lines only, as the kubelet put them into the termination message.
pub(super) fn tail(end: &ContainerStateTerminated) -> Option<String> {
    let message = end.message.as_deref()?.trim_end();
    if message.len() <= LOG_TAIL_LIMIT {
        return (!message.is_empty()).then(|| message.to_owned());
    }
    let start = (message.len() - LOG_TAIL_LIMIT..message.len()).find(|at| message.is_char_boundary(*at))?;
    let cut = &message[start..];
    Some(cut.split_once('\n').map_or(cut, |(_, rest)| rest).to_owned())
}

pub(super) fn has_finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// When a Job ended, well or not.
pub(super) fn finished_at(job: &Job) -> Option<Time> {
    let status = job.status.as_ref()?;
    let failed = conditions(job).find(|condition| condition.type_ == "Failed" && condition.status == "True");
    status.completion_time.clone().or_else(|| failed?.last_transition_time.clone())
}

fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true))
}

/// Whether a Job counts where the number of running builds is limited: neither ended, nor on its way out, nor kept back
/// by a queue of its own.
pub fn counts_as_running(job: &Job) -> bool {
    !has_finished(job) && job.metadata.deletion_timestamp.is_none() && !is_suspended(job)
}

pub(super) fn is_owned_by(job: &Job, image: &MultiArchImage) -> bool {
    let uid = image.metadata.uid.as_deref();
    uid.is_some() && controller_uid(&job.metadata) == uid
}

/// What the Job builds but for the context as it was pinned.
pub(super) fn outline(job: &Job) -> Option<&String> {
    job.metadata.annotations.as_ref()?.get(ANNOTATION_OUTLINE)
}

pub(super) fn platform_slug(job: &Job) -> Option<&String> {
    job.metadata.labels.as_ref()?.get(LABEL_PLATFORM)
}

/// The node that a pod was bound to.
pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn has_condition(job: &Job, type_: &str) -> bool {
    conditions(job).any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn condition_message<'a>(job: &'a Job, type_: &str) -> Option<&'a str> {
    conditions(job).find(|condition| condition.type_ == type_)?.message.as_deref()
}

fn conditions(job: &Job) -> impl Iterator<Item = &k8s_openapi::api::batch::v1::JobCondition> {
    job.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

pub(super) fn pod_condition<'a>(
    pod: &'a Pod,
    type_: &str,
) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (scheduled.status == "False")
        .then(|| scheduled.message.clone().unwrap_or_else(|| "no node fits".to_owned()))
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The container that is at work or has failed: the one that fetches the context, until it has done so.
fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let has_succeeded = |container: &&ContainerStatus| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        ended.is_some_and(|end| end.exit_code == 0)
    };
    let fetching =
        status.init_container_statuses.iter().flatten().find(|container| !has_succeeded(container));
    fetching.or_else(|| status.container_statuses.as_ref()?.first())
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}
