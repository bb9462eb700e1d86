//! What the platforms add up to: the index when all that are needed are ready, else what stands in the way.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::conditions::{Verdict, is_ready_for};
use super::deletion::is_kept;
use super::delivery::Delivery;
use super::destinations::Destination;
use super::fact::Fact;
use super::task::Task;
use super::tracking::{is_reported, whole_seconds};
use super::{Planner, Step};
use crate::api::{
    DRIFTED, DeletionPolicy, HistoryEntry, MissingImage, MultiArchImageStatus, Phase, PlatformSource,
    Published, PublishedTag, Reason, Target,
};
use crate::image::{AssembledIndex, ResolvedImage};
use crate::registry::Digest;

/// Earlier publications that the status remembers.
const HISTORY_LENGTH: usize = 5;
/// For how long an optional platform is waited for that is only looked up, copied or checked.
const OPTIONAL_PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// When to go on with what a plan itself has found out.
const SOON: SignedDuration = SignedDuration::from_secs(1);

/// What is to be done for the index, and what is said of it.
pub(super) struct Publication {
    pub verdict: Verdict,
    pub tasks: Vec<Task>,
    /// When to plan again even if nothing happens.
    pub due: Vec<Timestamp>,
    /// Whether tags that somebody had moved are as they should be again.
    pub corrected: bool,
    ready_platforms: String,
    /// The index, once it is at the target, and every tag that is as it should be.
    pub published: Option<(Arc<AssembledIndex>, Vec<PublishedTag>)>,
    /// The tags that may be written from now on, if a publication is wanted at all.
    pub publishing: Option<Vec<PublishedTag>>,
    /// Images that a registry says it does not have.
    pub missing: Vec<MissingImage>,
}

impl Publication {
    fn new(verdict: Verdict, ready_platforms: &str) -> Self {
        let ready_platforms = ready_platforms.to_owned();
        Publication {
            verdict,
            tasks: Vec::new(),
            due: Vec::new(),
            corrected: false,
            ready_platforms,
            published: None,
            publishing: None,
            missing: Vec::new(),
        }
    }
}

pub(super) fn publish(planner: &Planner<'_>, status: &MultiArchImageStatus, steps: &[Step]) -> Publication {
    let mut publication = decide(planner, status, steps);
    if publication.publishing.is_none() {
        put_back(planner, status, &mut publication);
    }
    publication.due.extend(steps.iter().filter_map(|step| waited_for_until(planner, step)));
    if !publication.missing.is_empty() {
        publication.due.extend(planner.now.saturating_add(SOON));
    }
    publication
}

/// While there is no other index to publish, tags that somebody moved are pointed at the published one again, by its digest.
/// What the spec names no more is left alone.
fn put_back(planner: &Planner<'_>, status: &MultiArchImageStatus, publication: &mut Publication) {
    let drifted = planner.tracking.drifted(status).filter(|_| !is_reported(planner.image));
    let Some(drifted) = drifted else { return };
    let mut open = drifted.tags.len();
    for destination in &planner.destinations {
        let is_here = |tag: &PublishedTag| tag.repository == destination.name && destination.has(&tag.name);
        let here = drifted.tags.iter().filter(|drifted| is_here(&drifted.tag));
        let tags: Vec<(String, Digest)> = here
            .filter_map(|drifted| Some((drifted.tag.name.clone(), drifted.expected.parse().ok()?)))
            .collect();
        if tags.is_empty() {
            continue;
        }
        let count = tags.len();
        let task = Task::PutBack {
            generation: planner.epoch.generation,
            repository: destination.repository.clone(),
            tags,
            look: drifted_since(planner),
        };
        if let Some(Fact::Known(_)) = planner.observed.facts.get(&task) {
            open -= count;
        }
        publication.tasks.push(task);
    }
    publication.corrected = open == 0;
}

/// Since when tags have drifted. The moment stays the same one until they have been taken back, whoever looks meanwhile.
pub(super) fn drifted_since(planner: &Planner<'_>) -> Timestamp {
    let known = planner.observed.status.condition(DRIFTED).filter(|known| known.status == "True");
    whole_seconds(known.map_or(planner.now, |known| known.last_transition_time.0)).0
}

fn decide(planner: &Planner<'_>, status: &MultiArchImageStatus, steps: &[Step]) -> Publication {
    let is_left_out = |step: &&Step| {
        let entry = planner.image.spec.platform(&step.status.platform);
        entry.is_some_and(|entry| can_be_left_out(planner, entry, step))
    };
    let (left_out, needed): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_left_out);
    let ready = needed.iter().filter(|step| step.status.phase == Phase::Ready).count();
    let ready_platforms = format!("{ready}/{}", steps.len());
    if ready == 0 {
        return Publication::new(
            unready(&steps.iter().collect::<Vec<_>>(), &ready_platforms),
            &ready_platforms,
        );
    }
    if ready < needed.len() {
        return Publication::new(unready(&needed, &ready_platforms), &ready_platforms);
    }
    let index = match assemble(&planner.image.spec.target, steps) {
        Ok(index) => Arc::new(index),
        Err(message) => {
            return Publication::new(Verdict::Failed(Reason::InvalidSpec, message), &ready_platforms);
        }
    };
    if planner.image.spec.deletion_policy == DeletionPolicy::Delete && !is_kept(planner.image) {
        return Publication::new(being_marked(planner), &ready_platforms);
    }
    let message = describe(planner, &index, &left_out);
    let children: Vec<&Step> = steps.iter().filter(|step| step.child.is_some()).collect();
    let drifted = planner.tracking.drifted(status);
    let delivery = Delivery { planner, status, index, children, drifted };
    delivery.to_all(Publication::new(Verdict::Published(message.clone()), &ready_platforms), &message)
}

/// The finalizer comes first, or its tags could be left behind.
fn being_marked(planner: &Planner<'_>) -> Verdict {
    match planner.observed.failure(&Task::SetFinalizer { present: true }) {
        Some(failure) if failure.transient => Verdict::Working(failure.reason, failure.message.clone()),
        Some(failure) => {
            let message =
                format!("the finalizer of deletionPolicy: Delete cannot be set: {}", failure.message);
            Verdict::Failed(failure.reason, message)
        }
        None => {
            let message = "the resource is being marked, so that its tags go with it".to_owned();
            Verdict::Checking(Reason::Pending, message)
        }
    }
}

/// Whether the index goes without a platform for now. One that was in it and is only looked at anew is waited for, and so is
/// one that may be there in a moment.
fn can_be_left_out(planner: &Planner<'_>, entry: &PlatformSource, step: &Step) -> bool {
    let was_ready = step.status.digest.is_some();
    // What is being verified is not what is in the index.
    let known = step.status.verification.as_ref().map(|known| &known.digest);
    let is_another = known.is_some() && known != step.status.digest.as_ref();
    match step.status.phase {
        Phase::Skipped => true,
        Phase::Failed | Phase::Building => entry.optional,
        Phase::Waiting => entry.optional && (!was_ready || is_another),
        Phase::Pending => entry.optional && !was_ready && step.job.is_some(),
        Phase::Resolving | Phase::Verifying => {
            waited_for_until(planner, step).is_some_and(|until| until <= planner.now)
        }
        Phase::Ready => false,
    }
}

/// Until when an optional platform is waited for that is looked up, copied or checked: most are done in a moment, and the
/// index would be published twice. Where it is published without the platform already nothing is won by that.
fn waited_for_until(planner: &Planner<'_>, step: &Step) -> Option<Timestamp> {
    let entry = planner.image.spec.platform(&step.status.platform).filter(|entry| entry.optional);
    let is_looked_at = matches!(step.status.phase, Phase::Resolving | Phase::Verifying);
    if entry.is_none() || !is_looked_at || step.status.digest.is_some() {
        return None;
    }
    let before = &planner.observed.status;
    let at_work = before.condition("Reconciling").map(|at_work| at_work.last_transition_time.0);
    let since = match (&step.status.finished_at, at_work) {
        (Some(built), _) => built.0,
        (None, Some(at_work)) => at_work,
        (None, None) if is_ready_for(before, &planner.epoch) => return Some(planner.now),
        (None, None) => planner.now,
    };
    Some(since.saturating_add(OPTIONAL_PATIENCE).unwrap_or(Timestamp::MAX))
}

fn describe(planner: &Planner<'_>, index: &AssembledIndex, left_out: &[&Step]) -> String {
    let target = &planner.image.spec.target;
    let mut message =
        format!("{} at {}:{}", index.descriptor.digest, target.repository, target.tags.join(", "));
    let mirrors: Vec<&str> = planner.destinations.iter().skip(1).map(|mirror| mirror.name.as_str()).collect();
    if !mirrors.is_empty() {
        message.push_str(&format!(", mirrored to {}", mirrors.join(", ")));
    }
    if !left_out.is_empty() {
        let reason = |step: &Step| step.status.reason.unwrap_or(Reason::Pending);
        let names: Vec<String> =
            left_out.iter().map(|step| format!("{} ({})", step.status.platform, reason(step))).collect();
        message.push_str(&format!(", without {}", names.join(", ")));
    }
    message
}

pub(super) fn has(status: &MultiArchImageStatus, tag: &PublishedTag) -> bool {
    status.published.as_ref().is_some_and(|published| published.tags.contains(tag))
}

/// The images of the platforms that are ready.
fn images(status: &MultiArchImageStatus) -> Vec<String> {
    let ready = status.platforms.iter().filter(|platform| platform.phase == Phase::Ready);
    ready.filter_map(|platform| platform.digest.clone()).collect()
}

/// Whether the index that was published is the one that the platforms would give now.
pub(super) fn is_of_today(status: &MultiArchImageStatus) -> bool {
    // Versions before this field wrote only what they had published to its end.
    let known =
        status.published.as_ref().map(|published| &published.images).filter(|known| !known.is_empty());
    known.is_none_or(|known| *known == images(status))
}

/// Whether a publication that was given up may have left something under a tag of the spec.
pub(super) fn has_leftovers(status: &MultiArchImageStatus, destinations: &[Destination]) -> bool {
    let is_at = |tag: &PublishedTag, destination: &Destination| {
        destination.name == tag.repository && destination.has(&tag.name)
    };
    status.publishing.iter().any(|tag| destinations.iter().any(|destination| is_at(tag, destination)))
}

/// Whether every platform is ready and every tag of the spec was published, as far as the status knows.
pub(super) fn has_all(status: &MultiArchImageStatus, destinations: &[Destination]) -> bool {
    let is_ready = |platform: &str| status.platform(platform).and_then(|entry| entry.digest.clone());
    status.platforms.iter().all(|platform| matches!(platform.phase, Phase::Ready | Phase::Skipped))
        && destinations
            .iter()
            .flat_map(|destination| destination.published(is_ready))
            .all(|tag| has(status, &tag))
}

fn assemble(target: &Target, steps: &[Step]) -> Result<AssembledIndex, String> {
    let children = steps.iter().filter_map(|step| step.child.as_deref());
    let entries: Vec<_> = children.flat_map(ResolvedImage::descriptors).cloned().collect();
    AssembledIndex::assemble(target.format.map(Into::into), &target.annotations, &entries)
        .map_err(|error| error.to_string())
}

/// The most telling platform speaks for the image: one that failed, one that waits, one that works.
fn unready(steps: &[&Step], ready_platforms: &str) -> Verdict {
    let Some(step) = Phase::TELLING.into_iter().find_map(|phase| in_phase(steps, phase).next()) else {
        return Verdict::Working(Reason::Pending, format!("{ready_platforms} platforms are ready"));
    };
    let reason = step.status.reason.unwrap_or(Reason::Pending);
    let message = step.status.message.as_deref().unwrap_or_default();
    let message = format!("{}: {reason}: {message}", step.status.platform);
    match step.status.phase {
        Phase::Failed => Verdict::Failed(reason, message),
        // Only looking is no reason to say that what is published is not there any more.
        _ if steps
            .iter()
            .all(|step| matches!(step.status.phase, Phase::Ready | Phase::Skipped) || only_looks(step)) =>
        {
            Verdict::Checking(reason, message)
        }
        _ => Verdict::Working(reason, message),
    }
}

fn in_phase<'a>(steps: &[&'a Step], phase: Phase) -> impl Iterator<Item = &'a Step> {
    steps.iter().filter(move |step| step.status.phase == phase).copied()
}

fn only_looks(step: &Step) -> bool {
    let looks =
        matches!(step.status.phase, Phase::Resolving | Phase::Pending | Phase::Waiting | Phase::Verifying);
    let verifies_anew = step.status.phase != Phase::Verifying || step.status.digest.is_some();
    // Who runs an image works on something new.
    looks && verifies_anew && step.pod.is_none() && (step.job.is_none() || step.status.digest.is_some())
}

impl Publication {
    /// Writes what was published into the status.
    pub fn record(&self, status: &mut MultiArchImageStatus, now: Timestamp) {
        status.ready_platforms = Some(self.ready_platforms.clone());
        if let Some(publishing) = &self.publishing {
            status.publishing.clone_from(publishing);
        }
        self.record_missing(status);
        let Some((index, tags)) = &self.published else {
            // What was seen before a correction says nothing any more.
            if let Some(published) = status.published.as_mut().filter(|_| self.corrected) {
                published.published_at = MicroTime(now);
            }
            return;
        };
        let digest = index.descriptor.digest.to_string();
        let is_same = status.digest.as_ref() == Some(&digest);
        let before = status.published.as_ref().filter(|_| is_same);
        if !self.corrected && before.is_some_and(|published| published.tags == *tags) {
            return;
        }
        let source_revision = status.source_revision.clone();
        // What was seen before a correction says nothing any more; tags that are added change nothing else.
        let kept = before.filter(|_| !self.corrected).map(|published| published.published_at.clone());
        let published_at = kept.unwrap_or(MicroTime(now));
        status.published = Some(Published {
            media_type: index.descriptor.media_type.to_string(),
            size: i64::try_from(index.bytes.len()).unwrap_or(i64::MAX),
            tags: tags.clone(),
            images: images(status),
            source_revision: source_revision.clone(),
            published_at,
        });
        if !is_same {
            status
                .history
                .insert(0, HistoryEntry { digest: digest.clone(), source_revision, published_at: Time(now) });
            status.history.truncate(HISTORY_LENGTH);
        }
        status.digest = Some(digest);
    }

    fn record_missing(&self, status: &mut MultiArchImageStatus) {
        status.missing.retain(|known| !self.missing.iter().any(|missing| is_same_image(known, missing)));
        status.missing.extend(self.missing.iter().cloned());
    }
}

pub(super) fn is_same_image(one: &MissingImage, other: &MissingImage) -> bool {
    (&one.repository, &one.digest) == (&other.repository, &other.digest)
}
