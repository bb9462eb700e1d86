//! Reads the pod that runs an image for `spec.verify.run`: what is going on, in the words of whoever knows best.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::{Nodes, build_pod};
use crate::api::{MultiArchImage, Reason, controller_uid};
use crate::verification::{self, CONTAINER, RunRequest};

/// How much of an image's own words stands in a message, in characters.
const WORDS_LIMIT: usize = 500;
/// How the kubelet introduces what it said before, when it waits to pull again.
const BACK_OFF: &str = ": ErrImagePull: ";

/// What the pod of a run says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// It is somebody else's.
    Foreign,
    /// It is being deleted.
    Leaving,
    /// It is on the way to running, or runs.
    Running { message: String },
    /// Something outside the image stands in its way.
    Waiting { reason: Reason, message: String },
    /// The command ended with exit code 0 in time.
    Passed,
    /// The command failed.
    Failed { reason: Reason, message: String, log_tail: Option<String> },
    /// The pod failed, and not for its image; another one is made after a while.
    Lost { message: String },
}

/// What a pod says of the run that was asked for.
pub(super) fn read(pod: &Pod, image: &MultiArchImage, request: &RunRequest<'_>, nodes: &Nodes) -> RunState {
    if !is_owned_by(pod, image) {
        return RunState::Foreign;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return RunState::Leaving;
    }
    match (build_pod::phase(pod), terminated(pod)) {
        // Containers that others have put beside it may go on.
        (_, Some(end)) if is_of_the_image(pod, end, request) => ended(pod, end, request),
        ("Succeeded" | "Failed", _) | (_, Some(_)) => lost(pod),
        ("Running", None) => {
            let node = build_pod::node(pod).unwrap_or("a node");
            RunState::Running { message: format!("running {} on {node}", words(&request.command())) }
        }
        _ => pending(pod, nodes),
    }
}

pub(super) fn is_owned_by(pod: &Pod, image: &MultiArchImage) -> bool {
    let uid = image.metadata.uid.as_deref();
    uid.is_some() && controller_uid(&pod.metadata) == uid
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == CONTAINER)
}

/// How the command ended.
pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

/// Whether a container's end tells of the image, and not of a node that drained, went away or had no room.
fn is_of_the_image(pod: &Pod, end: &ContainerStateTerminated, request: &RunRequest<'_>) -> bool {
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default();
    let is_disturbed = build_pod::pod_condition(pod, "DisruptionTarget").is_some()
        || matches!(reason, "Evicted" | "Terminated" | "NodeShutdown" | "NodeLost")
        || end.reason.as_deref() == Some("ContainerStatusUnknown");
    match reason {
        _ if has_exceeded_its_limits(pod) => true,
        // The pod's own deadline: a pull that took all the time is nobody's fault.
        "DeadlineExceeded" => is_overdue(end, request),
        // Exit code 0 counts for nothing if the command was told to end.
        _ => !is_disturbed && (end.exit_code != 0 || end.finished_at.is_some()),
    }
}

/// Whether the kubelet evicted a pod for more ephemeral storage than its own limits allow. A node that is short of something
/// sets the condition `DisruptionTarget`; one that takes no pod for that has begun no container.
fn has_exceeded_its_limits(pod: &Pod) -> bool {
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    reason == Some("Evicted")
        && build_pod::pod_condition(pod, "DisruptionTarget").is_none()
        && terminated(pod).is_some()
}

fn ended(pod: &Pod, end: &ContainerStateTerminated, request: &RunRequest<'_>) -> RunState {
    let log_tail = build_pod::tail(end);
    let command = words(&request.command());
    let last = log_tail.as_deref().and_then(last_line).map(|line| format!(": {line}")).unwrap_or_default();
    let failed =
        |message| RunState::Failed { reason: Reason::VerifyRunFailed, message, log_tail: log_tail.clone() };
    if verification::is_emulated(pod)
        && log_tail.as_deref().is_some_and(|log| log.contains("exec format error"))
    {
        let node = build_pod::node(pod).unwrap_or("its node");
        let platform = request.platform;
        let message =
            format!("{node} does not emulate {platform}, or the program is for another platform{last}");
        return RunState::Failed { reason: Reason::EmulationUnavailable, message, log_tail };
    }
    if matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun")) {
        return failed(format!("{command} cannot be started{last}"));
    }
    if has_exceeded_its_limits(pod) {
        let said = pod.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("Evicted");
        return failed(format!(
            "{command} was evicted: {} If it needs more, raise spec.verify.run.pod.resources.limits",
            words(said)
        ));
    }
    if is_overdue(end, request) {
        return failed(format!("{command} had not ended after {} s{last}", request.timeout()));
    }
    if end.exit_code == 0 {
        return RunState::Passed;
    }
    failed(match end.reason.as_deref() {
        Some("OOMKilled") => format!(
            "{command} was killed for want of memory; raise spec.verify.run.pod.resources.limits.memory"
        ),
        _ => format!("{command} ended with exit code {}{last}", end.exit_code),
    })
}

/// Whether it was killed because its time was over. Of what never began containerd says that it began in 1970.
fn is_overdue(end: &ContainerStateTerminated, request: &RunRequest<'_>) -> bool {
    let times = end.started_at.as_ref().zip(end.finished_at.as_ref());
    let lived = times
        .filter(|(started, _)| started.0 > Timestamp::UNIX_EPOCH)
        .and_then(|(started, finished)| finished.0.duration_since(started.0).try_into().ok());
    lived.is_some_and(|lived| verification::is_overdue(lived, request.timeout()))
}

fn lost(pod: &Pod) -> RunState {
    let status = pod.status.as_ref();
    let disruption = build_pod::pod_condition(pod, "DisruptionTarget");
    let said = disruption
        .and_then(|condition| condition.message.as_deref())
        .or_else(|| status?.message.as_deref())
        .or_else(|| status?.reason.as_deref())
        .unwrap_or("its node went away");
    RunState::Lost { message: words(said) }
}

fn pending(pod: &Pod, nodes: &Nodes) -> RunState {
    if let Some((reason, message)) = build_pod::unscheduled(pod, nodes) {
        return RunState::Waiting { reason, message };
    }
    let starting = || match build_pod::node(pod) {
        Some(node) => format!("starting on {node}"),
        None => "waiting for a node".to_owned(),
    };
    let waiting = container(pod).and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let Some(reason) = waiting.and_then(|waiting| waiting.reason.as_deref()) else {
        return RunState::Running { message: starting() };
    };
    let said = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or(reason);
    match reason {
        "ContainerCreating" | "PodInitializing" => RunState::Running { message: starting() },
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            // Told alike while it is tried and between two attempts, or the status would change with each.
            let cause = said.split_once(BACK_OFF).map_or(said, |(_, cause)| cause);
            let node = build_pod::node(pod).unwrap_or("the node");
            RunState::Waiting {
                reason: Reason::ImagePullFailed,
                message: format!("{node} cannot pull the image: {}", words(cause)),
            }
        }
        _ => RunState::Waiting {
            reason: Reason::ContainerStarting,
            message: format!("{reason}: {}", words(said)),
        },
    }
}

/// What others say, as much of it as people read.
fn words(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(WORDS_LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn last_line(log: &str) -> Option<String> {
    log.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(words)
}
