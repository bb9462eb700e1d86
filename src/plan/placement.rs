//! Where a platform is built: on a node of its own, emulated on another, or for now nowhere (`whenNoNode`).

use jiff::{SignedDuration, Timestamp};
use kube::core::Duration;

use super::{Nodes, Planner, build_pod, build_state};
use crate::api::{Phase, PlatformSource, PlatformStatus, Reason, WhenNoNode};
use crate::build::BuildRequest;

/// How long a pod looks for a node before whenNoNode counts, where nodes are not seen and no schedulingTimeout is set.
const UNSEEN_NODES_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Where a platform is built.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// On a node of the platform, or by a remote builder.
    Native,
    /// The same; until a node takes it, the index does without the platform.
    NativeOrSkipped,
    /// On any node.
    Emulated,
    /// Not at all until a node comes.
    Skipped(String),
    /// Not at all until somebody does something.
    Failed(Reason, String),
}

/// Decides where a platform is built. What has begun goes on where it is.
pub(super) fn place(
    planner: &Planner<'_>,
    entry: &PlatformSource,
    status: &PlatformStatus,
    request: &BuildRequest<'_>,
) -> Placement {
    let nodes = &planner.observed.nodes;
    let may_have_node = nodes.may_have(request.platform);
    let is_job_of = |request: &BuildRequest<'_>| status.job.as_ref() == Some(&request.job_name());
    // Nodes that are there and take no build must not send it back and forth. What is built need only be run.
    let could_not = status.reason == Some(Reason::EmulationUnavailable)
        && request.build.scheduling_timeout.is_none()
        && status.built.is_none();
    match status.emulated {
        _ if request.build.remote.is_some() => return Placement::Native,
        // What emulation could not build a node of the platform may.
        true if is_job_of(&BuildRequest { emulated: true, ..request.clone() })
            && !(nodes.has(request.platform) && could_not) =>
        {
            return Placement::Emulated;
        }
        false if is_job_of(request) && has_begun(planner, status, request) => return Placement::Native,
        _ => {}
    }
    let policy = entry.when_no_node;
    let words = match (may_have_node, status.message.as_deref()) {
        (true, Some(said)) if status.waiting_since.is_some() => said.to_owned(),
        (true, _) => "no node takes the build".to_owned(),
        (false, _) => format!("the cluster has no node of {}", request.platform),
    };
    let reason = if may_have_node { Reason::Unschedulable } else { Reason::NoNodeForPlatform };
    match deadline(planner, entry, status, request) {
        None if may_have_node || policy == WhenNoNode::Wait => Placement::Native,
        None => match policy {
            WhenNoNode::Emulate => Placement::Emulated,
            WhenNoNode::Skip => Placement::Skipped(words),
            WhenNoNode::Wait | WhenNoNode::Fail => {
                Placement::Failed(reason, format!("{words}, and whenNoNode is Fail"))
            }
        },
        Some(deadline) if planner.now < deadline => Placement::Native,
        Some(_) => match policy {
            WhenNoNode::Emulate => Placement::Emulated,
            WhenNoNode::Skip => Placement::NativeOrSkipped,
            WhenNoNode::Wait | WhenNoNode::Fail if let Some(said) = gave_up(status) => {
                Placement::Failed(reason, said.to_owned())
            }
            WhenNoNode::Wait | WhenNoNode::Fail => {
                let waited = patience(planner, entry, request)
                    .map(|patience| patience.to_string())
                    .unwrap_or_default();
                Placement::Failed(reason, format!("not within the schedulingTimeout of {waited}: {words}"))
            }
        },
    }
}

/// Whether the platform's build has found its node, as the status remembers or the cluster says by now.
fn has_begun(planner: &Planner<'_>, status: &PlatformStatus, request: &BuildRequest<'_>) -> bool {
    let is_taken = planner.job_of(request).is_some_and(|job| {
        let build = build_state::Build::new(job, &planner.observed.pods);
        build_state::finished_at(job).is_some() || build.latest_pod().and_then(build_pod::node).is_some()
    });
    is_taken || status.built.is_some() || status.node.is_some() || status.finished_at.is_some()
}

/// What was said when waiting came to its end.
fn gave_up(status: &PlatformStatus) -> Option<&str> {
    status.message.as_deref().filter(|_| status.phase == Phase::Failed && waits_for_a_node(status.reason))
}

/// How long a node may be waited for; for ever if `None`.
fn patience(planner: &Planner<'_>, entry: &PlatformSource, request: &BuildRequest<'_>) -> Option<Duration> {
    let is_guessing = planner.observed.nodes == Nodes::Unseen && entry.when_no_node != WhenNoNode::Wait;
    request.build.scheduling_timeout.or_else(|| is_guessing.then(|| UNSEEN_NODES_PATIENCE.into()))
}

/// Until when a node may be waited for.
pub(super) fn deadline(
    planner: &Planner<'_>,
    entry: &PlatformSource,
    status: &PlatformStatus,
    request: &BuildRequest<'_>,
) -> Option<Timestamp> {
    let patience =
        SignedDuration::try_from(std::time::Duration::from(patience(planner, entry, request)?)).ok()?;
    let since = status.waiting_since.as_ref().map(|since| since.0);
    Some(since.map_or(Timestamp::MAX, |since| since.saturating_add(patience).unwrap_or(Timestamp::MAX)))
}

/// Whether something is waited for that only a node can bring.
pub(super) fn waits_for_a_node(reason: Option<Reason>) -> bool {
    matches!(reason, Some(Reason::NoNodeForPlatform | Reason::Unschedulable))
}

/// Notes since when a build waits for a node, and forgets it when one has taken it.
pub(super) fn note_waiting(status: &mut PlatformStatus, build: &build_state::Build<'_>, now: Timestamp) {
    if build.latest_pod().and_then(build_pod::node).is_some() {
        status.waiting_since = None;
    } else if waits_for_a_node(status.reason) {
        status.waiting_since.get_or_insert(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    }
}
