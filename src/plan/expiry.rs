//! Finished Jobs stay for a while, from when their result is in the status (`ttlAfterFinished`). That is a moment after their
//! end, or after the operator's start if it was away meanwhile.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use super::task::Task;
use super::{Observed, build_state, delete, own_jobs};
use crate::api::{MultiArchImage, Phase, PlatformStatus};

/// The Jobs whose time is over, and when the next one's will be.
#[derive(Default)]
pub(super) struct Expiry {
    pub tasks: Vec<Task>,
    pub next: Option<Timestamp>,
}

pub(super) fn of(image: &MultiArchImage, observed: &Observed, now: Timestamp) -> Expiry {
    let mut expiry = Expiry::default();
    let Some(build) = &image.spec.build else { return expiry };
    let ttl = SignedDuration::try_from(std::time::Duration::from(build.ttl_after_finished));
    let ttl = ttl.unwrap_or(SignedDuration::MAX);
    for job in own_jobs(image, observed).filter(|job| is_recorded(job, observed)) {
        let Some(finished) = build_state::finished_at(job) else { continue };
        let end = finished.0.max(observed.started).saturating_add(ttl).unwrap_or(Timestamp::MAX);
        if end <= now {
            expiry.tasks.extend(delete(job));
        } else {
            expiry.next = expiry.next.into_iter().chain([end]).min();
        }
    }
    expiry
}

/// Whether all that the Job can tell stands in the status as it was written last.
fn is_recorded(job: &Job, observed: &Observed) -> bool {
    let of_job = |entry: &&PlatformStatus| entry.job.is_some() && entry.job == job.metadata.name;
    observed
        .status
        .platforms
        .iter()
        .find(of_job)
        .is_some_and(|entry| entry.phase == Phase::Failed || entry.digest.is_some())
}
