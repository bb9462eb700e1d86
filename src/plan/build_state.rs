//! Reads a build's Job and pods: what is going on, in one word, with the words of whoever knows best.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Nodes;
use super::build_pod::{
    cause, has_ended, is_lasting, must_have_gone_by, never_started, node, pending, phase, pod_condition,
    tail, terminated,
};
use crate::api::{
    ANNOTATION_ATTEMPT, ANNOTATION_BUILD_HASH, ANNOTATION_OUTLINE, LABEL_PLATFORM, MultiArchImage, Reason,
    controller_uid,
};
use crate::build::BuildReport;

/// How long the watch of pods may be behind the watch of Jobs before the API server is asked for the pods.
const REPORT_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long a node may take to end a pod whose own deadline is over.
const OVERDUE_GRACE: SignedDuration = SignedDuration::from_mins(5);
/// How long the Job controller may take to create a pod before something must be in its way.
const POD_GRACE: SignedDuration = SignedDuration::from_secs(15);

/// The label by which a Job is in a queue of Kueue, which suspends it until there is room.
const KUEUE_QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// What a build's Job and its pods say together.
#[derive(Debug, PartialEq)]
pub(super) enum BuildState<'a> {
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
    /// Its pod is being taken from its node, which has until then to end it.
    Evicted { until: Timestamp, message: String },
    /// Its pod was to go, and its node does not end it: it has to be built again elsewhere.
    Abandoned { pod: &'a Pod, message: String },
    /// The build's container is running. By then its node must have ended it.
    Building { message: String, until: Option<Timestamp> },
    /// It pushed this, it says.
    Succeeded { digest: String },
    /// It ended, and its pod's last words have not been seen yet.
    Reporting { until: Timestamp },
    /// The same for too long: the API server must be asked for its pods.
    Unreported,
    /// It succeeded, and nobody knows any more what it pushed.
    Lost,
    /// It failed for good.
    Failed { reason: Reason, message: String, log_tail: Option<String> },
    /// The same, and the Job does not know: it would try again.
    GivenUp { reason: Reason, message: String, log_tail: Option<String>, at: Timestamp },
}

/// A Job with the pods that it controls, the latest last.
pub(super) struct Build<'a> {
    pub job: &'a Job,
    pods: Vec<&'a Pod>,
    /// Whether the API server was asked for the pods, so that there are no others.
    is_complete: bool,
}

impl<'a> Build<'a> {
    /// A Job with its pods as the watch knows them, which may be behind.
    pub fn new(job: &'a Job, pods: &'a [Arc<Pod>]) -> Self {
        Build { is_complete: false, ..Self::complete(job, pods) }
    }

    /// A Job with its pods as the API server has them.
    pub fn complete(job: &'a Job, pods: &'a [Arc<Pod>]) -> Self {
        let uid = job.metadata.uid.as_deref();
        let mut pods: Vec<&Pod> = pods
            .iter()
            .map(Arc::as_ref)
            .filter(|pod| controller_uid(&pod.metadata) == uid && uid.is_some())
            .collect();
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
        Build { job, pods, is_complete: true }
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
    pub fn is_outdated(&self, state: &BuildState<'_>, fingerprint: &str) -> bool {
        let Some(found) = self.fingerprint() else { return false };
        let how = |fingerprint: &str| fingerprint.split('.').next().map(str::to_owned);
        match state {
            BuildState::Unborn { .. } | BuildState::Starting { .. } | BuildState::Waiting { .. } => {
                self.latest_pod().is_none_or(|pod| phase(pod) == "Pending") && how(found) != how(fingerprint)
            }
            BuildState::Failed { .. } | BuildState::GivenUp { .. } => found != fingerprint,
            BuildState::Reporting { .. } | BuildState::Unreported => {
                has_condition(self.job, "Failed") && found != fingerprint
            }
            BuildState::Foreign(_)
            | BuildState::Leaving
            | BuildState::Evicted { .. }
            | BuildState::Abandoned { .. }
            | BuildState::Building { .. }
            | BuildState::Succeeded { .. }
            | BuildState::Lost => false,
        }
    }

    /// Whether no container of the latest pod has ever run.
    pub fn never_started(&self) -> bool {
        self.latest_pod().is_some_and(never_started)
    }

    /// The pods that there are, or those that the Job has counted: it remembers failed ones that have been deleted.
    pub fn attempts(&self) -> Option<i32> {
        let counted =
            self.job.status.as_ref().map_or(0, |status| {
                [status.active, status.succeeded, status.failed].into_iter().flatten().sum()
            });
        i32::try_from(self.pods.len()).ok().map(|seen| seen.max(counted)).filter(|attempts| *attempts > 0)
    }

    pub fn state(&self, image: &MultiArchImage, hash: &str, nodes: &Nodes, now: Timestamp) -> BuildState<'a> {
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
            return self.failed(now);
        }
        self.running(nodes, now)
    }

    fn succeeded(&self, now: Timestamp) -> BuildState<'a> {
        let mut ends = self.pods.iter().rev().filter_map(|pod| terminated(pod));
        let Some(end) = ends.find(|end| end.exit_code == 0) else {
            return self.unreported(now).unwrap_or(BuildState::Lost);
        };
        match BuildReport::parse(end.message.as_deref().unwrap_or_default()) {
            Some(report) => BuildState::Succeeded { digest: report.digest },
            None => BuildState::Failed {
                reason: Reason::BuildResultLost,
                message:
                    "the build ended well but reported no digest; is the builder image one of BuildKit's?"
                        .to_owned(),
                log_tail: tail(end),
            },
        }
    }

    fn failed(&self, now: Timestamp) -> BuildState<'a> {
        let failed = self.pods.iter().rev().find(|pod| phase(pod) == "Failed");
        // The last attempt is the one that counts.
        if let Some(pod) = failed.filter(|_| self.is_complete || self.pods.iter().all(|pod| has_ended(pod))) {
            let (reason, message) = cause(pod);
            return BuildState::Failed { reason, message, log_tail: terminated(pod).and_then(tail) };
        }
        self.unreported(now).unwrap_or_else(|| BuildState::Failed {
            reason: Reason::BuildFailed,
            message: condition_message(self.job, "Failed")
                .unwrap_or("the Job failed and its pods are gone")
                .to_owned(),
            log_tail: None,
        })
    }

    /// The Job has ended and no pod that is known says how. The watch of pods may be behind, and what it does not show may
    /// be there: only the API server's own word counts. `None` once it has said all.
    fn unreported(&self, now: Timestamp) -> Option<BuildState<'a>> {
        let until = |since: Timestamp| since.saturating_add(REPORT_GRACE).unwrap_or(now);
        match self.is_complete {
            true if self.pods.iter().all(|pod| has_ended(pod)) => None,
            true => Some(BuildState::Reporting { until: until(now) }),
            false => {
                let until = until(decided_at(self.job).unwrap_or(now));
                Some(if now < until { BuildState::Reporting { until } } else { BuildState::Unreported })
            }
        }
    }

    /// A Job whose pod is forbidden, by Pod Security, a quota or a webhook, has none, and only its events say so.
    fn without_pod(&self, now: Timestamp) -> BuildState<'a> {
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

    fn running(&self, nodes: &Nodes, now: Timestamp) -> BuildState<'a> {
        if is_suspended(self.job) {
            return BuildState::Waiting { reason: Reason::Queued, message: suspended(self.job) };
        }
        let Some(pod) = self.latest_pod() else { return self.without_pod(now) };
        let building = |message: String| BuildState::Building { message, until: None };
        match phase(pod) {
            // The Job is about to fail for the same cause, and no attempt follows.
            "Failed" if is_lasting(pod) => building("ending".to_owned()),
            "Failed" => failed_attempt(pod, now),
            "Succeeded" => building("finishing".to_owned()),
            _ if let Some(state) = leaving(pod, now).or_else(|| overdue(pod, now)) => state,
            "Running" => BuildState::Building {
                message: format!("running on {}", node(pod).unwrap_or("a node")),
                until: must_end_by(pod),
            },
            _ => pending(pod, nodes),
        }
    }
}

/// A pod that failed while its Job goes on. No exit code tells the Job what another attempt cannot cure if the kernel or
/// the kubelet killed the container.
fn failed_attempt<'a>(pod: &Pod, now: Timestamp) -> BuildState<'a> {
    let (reason, message) = cause(pod);
    let is_final = match reason {
        Reason::BuildOutOfMemory => true,
        Reason::BuildTimeout => !never_started(pod),
        _ => false,
    };
    let end = terminated(pod);
    if is_final {
        let at = end.and_then(|end| end.finished_at.as_ref()).map_or(now, |end| end.0);
        return BuildState::GivenUp { reason, message, log_tail: end.and_then(tail), at };
    }
    BuildState::Waiting { reason, message: format!("{message}; another attempt follows") }
}

/// A pod that is being deleted. As long as its node does not end it the Job makes no other, and its own deadline is nothing.
fn leaving<'a>(pod: &'a Pod, now: Timestamp) -> Option<BuildState<'a>> {
    let until = must_have_gone_by(pod)?;
    let node = node(pod).unwrap_or("a node");
    let disruption = pod_condition(pod, "DisruptionTarget").and_then(|it| it.message.as_deref());
    let why = disruption.map(|said| format!(" ({said})")).unwrap_or_default();
    Some(if now < until {
        BuildState::Evicted { until, message: format!("its pod is being taken from {node}{why}") }
    } else {
        let message = format!(
            "{node} does not end the pod that was taken from it{why}, so it is built again elsewhere"
        );
        BuildState::Abandoned { pod, message }
    })
}

/// A pod that its node should have ended because its time is over.
fn overdue<'a>(pod: &Pod, now: Timestamp) -> Option<BuildState<'a>> {
    if now < must_end_by(pod)? {
        return None;
    }
    let node = node(pod).unwrap_or("its node");
    let message = format!("its time is over, and {node} has not ended it: the node may be gone");
    Some(BuildState::GivenUp { reason: Reason::BuildTimeout, message, log_tail: None, at: now })
}

/// When a pod must have ended at the latest.
fn must_end_by(pod: &Pod) -> Option<Timestamp> {
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    let deadline = SignedDuration::from_secs(pod.spec.as_ref()?.active_deadline_seconds?);
    started.checked_add(deadline).ok()?.checked_add(OVERDUE_GRACE).ok()
}

/// Who will start a suspended Job; it is never the operator.
fn suspended(job: &Job) -> String {
    match job.metadata.labels.as_ref().and_then(|labels| labels.get(KUEUE_QUEUE)) {
        Some(queue) => format!("suspended: its queue ({KUEUE_QUEUE}: {queue}) will start it"),
        None => "suspended: whoever set spec.suspend of the Job has to start it".to_owned(),
    }
}

pub(super) fn has_finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// Whether it has been decided how a Job ends, which is a moment before its end: no attempt follows.
pub(super) fn has_been_decided(job: &Job) -> bool {
    decisions(job).next().is_some()
}

fn decisions(job: &Job) -> impl Iterator<Item = &JobCondition> {
    let of_its_end =
        |type_: &str| ["Complete", "SuccessCriteriaMet", "Failed", "FailureTarget"].contains(&type_);
    conditions(job).filter(move |condition| of_its_end(&condition.type_) && condition.status == "True")
}

fn decided_at(job: &Job) -> Option<Timestamp> {
    decisions(job)
        .filter_map(|condition| condition.last_transition_time.as_ref())
        .chain(job.status.as_ref().and_then(|status| status.completion_time.as_ref()))
        .map(|time| time.0)
        .min()
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

fn has_condition(job: &Job, type_: &str) -> bool {
    conditions(job).any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn condition_message<'a>(job: &'a Job, type_: &str) -> Option<&'a str> {
    conditions(job).find(|condition| condition.type_ == type_)?.message.as_deref()
}

fn conditions(job: &Job) -> impl Iterator<Item = &JobCondition> {
    job.status.iter().flat_map(|status| status.conditions.iter().flatten())
}
