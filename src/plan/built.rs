//! A platform that is built: one Job, whose result is believed only after it was fetched and hashed.

use super::build_state::{self, Build, BuildState};
use super::context::Context;
use super::task::{Fact, Found, Task};
use super::{Planner, Step, delete};
use crate::api::{self, Phase, PlatformStatus, Reason};
use crate::build::{self, BuildRequest};
use crate::platform::Platform;
use crate::registry::Digest;

pub(super) fn step(
    planner: &Planner<'_>,
    mut step: Step,
    platform: &Platform,
    build: &api::Build,
    context: &Context,
) -> Step {
    let pinned = match &context.pinned {
        Some(Ok(pinned)) => pinned,
        Some(Err(failure)) => return step.failed(failure),
        None => {
            return step.at(
                Phase::Resolving,
                Reason::Resolving,
                format!("looking up {}", context.looking_up),
            );
        }
    };
    let metadata = &planner.image.metadata;
    let request = BuildRequest {
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        image_name: metadata.name.as_deref().unwrap_or_default(),
        image_uid: metadata.uid.as_deref().unwrap_or_default(),
        platform,
        build,
        context: pinned,
        repository: &planner.image.spec.target.repository,
        registry_secrets: &planner.image.spec.registry_secrets,
        rebuild: planner.image.rebuild_request(),
    };
    let name = request.job_name();
    if step.status.job.as_ref() != Some(&name) {
        let platform = std::mem::take(&mut step.status.platform);
        step.status = PlatformStatus { platform, job: Some(name.clone()), ..PlatformStatus::default() };
    }
    step.job = Some(name.clone());
    if let Some(digest) = step.status.digest.clone() {
        return inspect(planner, step, platform, &digest);
    }
    match job_of(planner, &name) {
        Some(job) => follow(planner, step, &request, &Build::new(job, &planner.observed.pods)),
        // The Job of a failed build may go; that it failed stays known until something about the build changes.
        None if step.status.phase == Phase::Failed && step.status.finished_at.is_some() => step,
        None => create(planner, step, &request),
    }
}

fn create(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>) -> Step {
    let name = request.job_name();
    let credentials = (!request.registry_secrets.is_empty()).then_some(name.as_str());
    let Some(owner) = api::owner_reference(planner.image) else {
        return step.at(Phase::Failed, Reason::ClusterError, "the MultiArchImage has no UID");
    };
    let job = Box::new(build::job(request, planner.settings, credentials, owner));
    let create = Task::CreateJob { job };
    let fact = planner.observed.facts.get(&create);
    step.tasks.push(create);
    match fact {
        Some(Fact::Failed(failure)) => step.failed(failure),
        _ => step.at(Phase::Pending, Reason::Pending, format!("job/{name} is being created")),
    }
}

fn follow(planner: &Planner<'_>, mut step: Step, request: &BuildRequest<'_>, build: &Build<'_>) -> Step {
    let name = request.job_name();
    describe(&mut step.status, build);
    let merge = merge_secrets(planner, request, build);
    let no_secret = merge.as_ref().and_then(|merge| planner.observed.failure(merge));
    step.tasks.extend(merge.clone());
    match build.state(planner.image, &request.hash(), &planner.observed.nodes, planner.now) {
        BuildState::Foreign(message) => {
            let message = format!("{message}; delete or rename it");
            step.at(Phase::Failed, Reason::JobConflict, message)
        }
        BuildState::Leaving => {
            step.at(Phase::Pending, Reason::Pending, format!("an earlier job/{name} is being removed"))
        }
        BuildState::Unborn { .. } | BuildState::Starting { .. } if let Some(failure) = no_secret => {
            step.failed(failure)
        }
        BuildState::Unborn { until } => {
            step.grace = Some(until);
            step.at(Phase::Pending, Reason::Pending, format!("its pod is being created (job/{name})"))
        }
        BuildState::Starting { reason, message } => {
            step.at(Phase::Pending, reason, format!("{message} (job/{name})"))
        }
        BuildState::Waiting { reason, message } => {
            step.at(Phase::Waiting, reason, format!("{message} (job/{name})"))
        }
        BuildState::Building { message } => {
            step.at(Phase::Building, Reason::Building, format!("{message} (job/{name})"))
        }
        BuildState::Succeeded { digest } => inspect(planner, step, request.platform, &digest),
        BuildState::Reporting { until } => {
            step.grace = Some(until);
            step.at(Phase::Building, Reason::Building, format!("the result is being collected (job/{name})"))
        }
        BuildState::Lost => {
            step.tasks.extend(job_of(planner, &name).and_then(delete));
            let message = format!("the pod of job/{name} went before its result was read; it is built again");
            step.at(Phase::Pending, Reason::BuildResultLost, message)
        }
        BuildState::Failed { reason, message, log_tail } => {
            step.status.log_tail = log_tail;
            step.at(Phase::Failed, reason, format!("{message} (job/{name})"))
        }
    }
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

fn job_of<'a>(
    planner: &'a Planner<'_>,
    name: &str,
) -> Option<&'a std::sync::Arc<k8s_openapi::api::batch::v1::Job>> {
    planner.observed.jobs.iter().find(|job| job.metadata.name.as_deref() == Some(name))
}

/// What the Job and its latest pod say of themselves.
fn describe(status: &mut PlatformStatus, build: &Build<'_>) {
    let pod = build.latest_pod();
    status.pod = pod.and_then(|pod| pod.metadata.name.clone());
    status.node = pod.and_then(build_state::node).map(str::to_owned);
    status.attempts = build.attempts();
    let job = build.job.status.as_ref();
    status.started_at = job.and_then(|job| job.start_time.clone());
    status.finished_at = job.and_then(|job| {
        let failed = job.conditions.iter().flatten().find(|condition| condition.type_ == "Failed");
        job.completion_time.clone().or_else(|| failed?.last_transition_time.clone())
    });
}

/// The pod's word is a hint: the manifest is fetched and hashed before it counts.
fn inspect(planner: &Planner<'_>, mut step: Step, platform: &Platform, digest: &str) -> Step {
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => {
            return step.at(
                Phase::Failed,
                Reason::BuildResultLost,
                format!("the build reported no digest: {error}"),
            );
        }
    };
    let task = Task::InspectBuild {
        repository: planner.repository.clone(),
        digest: digest.clone(),
        platform: platform.clone(),
    };
    step.tasks.push(task.clone());
    match planner.observed.facts.get(&task) {
        Some(Fact::Known(Found::Image(image))) => {
            let image = image.clone();
            step.ready(image)
        }
        Some(Fact::Failed(failure)) => step.failed(failure),
        _ => {
            step.at(Phase::Verifying, Reason::Verifying, format!("verifying {}@{digest}", planner.repository))
        }
    }
}
