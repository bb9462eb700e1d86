//! What happened between two statuses, for those who count: the counterpart of the events, which tell people.

use jiff::SignedDuration;

use super::conditions::{DriftChange, drift_change};
use super::events;
use crate::api::{MultiArchImageStatus, Phase, PlatformStatus, Reason};

/// Something that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A build has begun.
    BuildBegun {
        /// The platform as the spec writes it.
        platform: String,
    },
    /// A build has ended.
    Build {
        /// The platform as the spec writes it.
        platform: String,
        /// Whether a node of another architecture emulated it.
        emulated: bool,
        /// Why it failed; `None` if it pushed an image.
        failed: Option<Reason>,
        /// From the start of its Job to its end, if both are known.
        took: Option<SignedDuration>,
    },
    /// The publication of an index and its tags at the target or at a mirror has ended.
    Publication {
        /// Why nothing is published; `None` if all of it is.
        failed: Option<Reason>,
    },
    /// Published tags were found to be others than were published.
    DriftFound,
    /// They are as they were published again.
    DriftCorrected,
}

/// What happened between two statuses. A status that says the same as before has none, so neither a restart of the
/// operator nor a look that finds nothing counts.
pub fn outcomes(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for platform in &after.platforms {
        let earlier = before.platform(&platform.platform);
        outcomes.extend(begun(earlier, platform));
        outcomes.extend(build(earlier, platform));
    }
    outcomes.extend(publication(before, after));
    outcomes.extend(drift(before, after));
    outcomes
}

fn begun(before: Option<&PlatformStatus>, after: &PlatformStatus) -> Option<Outcome> {
    let is_known = before.is_some_and(|before| before.started_at == after.started_at);
    let begun = Outcome::BuildBegun { platform: after.platform.clone() };
    (after.started_at.is_some() && !is_known).then_some(begun)
}

fn build(before: Option<&PlatformStatus>, after: &PlatformStatus) -> Option<Outcome> {
    let failed = match &after.built {
        Some(built) if before.and_then(|before| before.built.as_ref()) != Some(built) => None,
        Some(_) => return None,
        None => Some(failure(before, after)?),
    };
    let took = after.started_at.as_ref().zip(after.finished_at.as_ref());
    Some(Outcome::Build {
        platform: after.platform.clone(),
        emulated: after.emulated,
        failed,
        took: took.map(|(start, end)| end.0.duration_since(start.0)).filter(|took| !took.is_negative()),
    })
}

/// Why a build has just failed for good. The end of its Job tells one from the next, and from what no build had begun for.
fn failure(before: Option<&PlatformStatus>, after: &PlatformStatus) -> Option<Reason> {
    let end = |platform: &PlatformStatus| (platform.job.clone(), platform.finished_at.clone());
    let is_known = before.is_some_and(|before| end(before) == end(after));
    (after.phase == Phase::Failed && after.finished_at.is_some() && !is_known).then_some(after.reason?)
}

fn publication(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Option<Outcome> {
    let published = |status: &MultiArchImageStatus| {
        let published = status.published.as_ref()?;
        Some((status.digest.clone(), published.tags.clone(), published.published_at.clone()))
    };
    if after.published.is_some() && published(before) != published(after) {
        return Some(Outcome::Publication { failed: None });
    }
    let failed = Some(events::problem_of_the_image(before, after)?);
    Some(Outcome::Publication { failed })
}

fn drift(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Option<Outcome> {
    Some(match drift_change(before, after)? {
        DriftChange::Found(_) => Outcome::DriftFound,
        DriftChange::Corrected => Outcome::DriftCorrected,
    })
}
