//! Reads the pod of a build: what stands in its way, how it ended and why, with the words of whoever knows best.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::Nodes;
use super::build_state::BuildState;
use crate::api::Reason;
use crate::build::{BUILD_CONTAINER, CONTEXT_CONTAINER, ExitCause};

/// How long a node may take to end a pod after the time that the pod had for it.
const LEAVING_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// Longest log tail that a status carries, in bytes.
const LOG_TAIL_LIMIT: usize = 2048;

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
pub(super) fn pending<'a>(pod: &Pod, nodes: &Nodes) -> BuildState<'a> {
    if let Some((reason, message)) = unscheduled(pod, nodes) {
        return BuildState::Waiting { reason, message };
    }
    let Some((container, reason, said)) = statuses(pod).find_map(hindered) else {
        let message = match node(pod) {
            Some(node) => format!("starting on {node}"),
            None => "waiting for a node".to_owned(),
        };
        return BuildState::Starting { reason: Reason::ContainerStarting, message };
    };
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            let image = match is_ours(container) {
                true => "the builder's image".to_owned(),
                false => format!("the image of {}", foreign(container)),
            };
            let message = format!("{image} cannot be pulled: {said}");
            BuildState::Waiting { reason: Reason::ImagePullFailed, message }
        }
        _ => {
            let whose = if is_ours(container) { String::new() } else { format!("{}: ", foreign(container)) };
            let message = format!("{whose}{reason}: {said}");
            BuildState::Waiting { reason: Reason::ContainerStarting, message }
        }
    }
}

/// A container that cannot start, and why.
fn hindered(container: &ContainerStatus) -> Option<(&ContainerStatus, &str, &str)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let is_on_the_way = matches!(reason, "ContainerCreating" | "PodInitializing");
    (!is_on_the_way).then(|| (container, reason, waiting.message.as_deref().unwrap_or(reason)))
}

/// Whether the Job ends with this pod, whatever `retries` says.
pub(super) fn is_lasting(pod: &Pod) -> bool {
    terminated(pod).and_then(|end| ExitCause::from_code(end.exit_code)).is_some_and(ExitCause::is_lasting)
}

/// Why a failed pod failed.
pub(super) fn cause(pod: &Pod) -> (Reason, String) {
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
            [pod_reason, pod_message]
                .into_iter()
                .find(|text| !text.is_empty())
                .map(str::to_owned)
                .or_else(|| statuses(pod).find_map(failure_of_another))
                .unwrap_or_else(|| "the pod failed".to_owned()),
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
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let container = containers.into_iter().find(|container| container.name == BUILD_CONTAINER);
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

/// The node that a pod was bound to.
pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
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

/// Whether nothing of a pod runs any more, and nothing will.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// When a pod that is being deleted must have gone. Kubernetes waits for its node to end it, and for ever for one that is
/// gone while its Node is still there.
pub(super) fn must_have_gone_by(pod: &Pod) -> Option<Timestamp> {
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    Some(due.saturating_add(LEAVING_GRACE).unwrap_or(Timestamp::MAX))
}

/// Whether no container of ours has ever run. One that could not even start is said to have ended in 1970, or at no time.
pub(super) fn never_started(pod: &Pod) -> bool {
    let has_run = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        let start = end_of(container).and_then(|end| end.started_at.as_ref());
        state.is_some_and(|state| state.running.is_some())
            || start.is_some_and(|start| start.0 > Timestamp::UNIX_EPOCH)
    };
    !statuses(pod).filter(|container| is_ours(container)).any(has_run)
}

/// Every container, in the order in which they start.
fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses))
        .flatten()
}

fn is_ours(container: &ContainerStatus) -> bool {
    [BUILD_CONTAINER, CONTEXT_CONTAINER].contains(&container.name.as_str())
}

/// What a container is called that others have put into the pod.
fn foreign(container: &ContainerStatus) -> String {
    format!("container {} (not the build's)", container.name)
}

fn failure_of_another(container: &ContainerStatus) -> Option<String> {
    let end = end_of(container).filter(|end| end.exit_code != 0)?;
    Some(format!("{} ended with exit code {}", foreign(container), end.exit_code))
}

fn end_of(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

/// The container of ours that is at work or has ended: the one that fetches the context, until it has done so. Others may
/// have put theirs beside it.
fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let named = |name: &str| statuses(pod).find(|container| container.name == name);
    let has_succeeded =
        |container: &&ContainerStatus| end_of(container).is_some_and(|end| end.exit_code == 0);
    named(CONTEXT_CONTAINER).filter(|container| !has_succeeded(container)).or_else(|| named(BUILD_CONTAINER))
}

/// How it ended.
pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    end_of(container(pod)?)
}
