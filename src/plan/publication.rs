//! What the platforms add up to: the index when all that are needed are ready, else what stands in the way.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::conditions::{Verdict, is_ready_for};
use super::deletion::is_kept;
use super::destinations::Destination;
use super::task::{Fact, Failure, Task};
use super::tracking::{Drifted, expected, is_reported, whole_seconds};
use super::{Planner, Step};
use crate::api::{
    DRIFTED, DeletionPolicy, HistoryEntry, MissingImage, MultiArchImageStatus, Phase, PlatformSource,
    Published, PublishedTag, Reason, Target,
};
use crate::image::{AssembledIndex, ResolvedImage};
use crate::registry::Digest;

/// Earlier publications that the status remembers.
const HISTORY_LENGTH: usize = 5;
/// Tags of publications that were given up that the status remembers.
const LEFTOVERS: usize = 64;
/// For how long an optional platform is waited for that is only looked up, copied or checked.
const OPTIONAL_PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// When to go on with what a plan itself has found out.
const SOON: SignedDuration = SignedDuration::from_secs(1);
/// How soon an image that a registry says it does not have is looked at once more for the same reason.
const MISSED_AGAIN: SignedDuration = SignedDuration::from_hours(1);

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
    published: Option<(Arc<AssembledIndex>, Vec<PublishedTag>)>,
    /// The tags that may be written from now on, if a publication is wanted at all.
    publishing: Option<Vec<PublishedTag>>,
    /// Images that a registry says it does not have.
    missing: Vec<MissingImage>,
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
fn drifted_since(planner: &Planner<'_>) -> Timestamp {
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

/// An index on its way to the target and then to the mirrors.
struct Delivery<'a> {
    planner: &'a Planner<'a>,
    status: &'a MultiArchImageStatus,
    index: Arc<AssembledIndex>,
    children: Vec<&'a Step>,
    drifted: Option<Drifted>,
}

/// How far the index has come at one destination.
enum Stage {
    Done,
    Working(Verdict),
    Failed(Failure),
    /// The target comes first.
    Behind,
}

impl Delivery<'_> {
    fn to_all(&self, mut publication: Publication, message: &str) -> Publication {
        let mut published = Vec::new();
        let mut begun: Vec<PublishedTag> = Vec::new();
        let mut done: Vec<&Destination> = Vec::new();
        let mut open: Option<Verdict> = None;
        for (number, destination) in self.planner.destinations.iter().enumerate() {
            // Mirrors follow the target.
            let follows = number == 0 || published_at_target(&done, &self.planner.destinations);
            let (tasks, stage) =
                if follows { self.to(destination, message) } else { (vec![], Stage::Behind) };
            let writes = tasks.iter().any(|task| matches!(task, Task::Publish { .. }));
            publication.tasks.extend(tasks);
            match stage {
                Stage::Done => {
                    published.extend(self.tags(destination));
                    done.push(destination);
                    continue;
                }
                Stage::Behind => {}
                Stage::Working(verdict) => open = open.or(Some(verdict)),
                Stage::Failed(failure) => {
                    if writes && failure.reason == Reason::SourceNotFound {
                        publication.missing.extend(self.missed(destination));
                    }
                    open = Some(self.failed(&failure, destination, number));
                }
            }
            published.extend(self.known(destination));
            begun.extend(self.to_be_written(destination).filter(|_| writes));
        }
        if published_at_target(&done, &self.planner.destinations) || self.is_same_index() {
            publication.published = Some((Arc::clone(&self.index), published));
        }
        publication.publishing = Some(self.with_leftovers(begun, &done));
        match open {
            Some(verdict) => publication.verdict = verdict,
            None => publication.corrected = !self.is_same_index() || self.drift_is_corrected(),
        }
        publication
    }

    /// What was published at a destination before stays known until something else is there.
    fn known(&self, destination: &Destination) -> impl Iterator<Item = PublishedTag> {
        let before = self.status.published.iter().flat_map(|published| &published.tags);
        let here = before.filter(|tag| tag.repository == destination.name && destination.has(&tag.name));
        here.map(|tag| match self.is_same_index() {
            true => tag.clone(),
            false => PublishedTag { digest: expected(tag, self.status).map(str::to_owned), ..tag.clone() },
        })
    }

    /// The tags that are about to be written, as long as the status does not tell that they are.
    fn to_be_written(&self, destination: &Destination) -> impl Iterator<Item = PublishedTag> {
        let digest = self.index.descriptor.digest.to_string();
        let tags = self.tags(destination).into_iter();
        tags.filter(|tag| !(self.is_same_index() && has(self.status, tag)))
            .map(move |tag| PublishedTag { digest: tag.digest.or_else(|| Some(digest.clone())), ..tag })
    }

    /// Along with what is begun, the tags that earlier publications may have written and that none has written since.
    fn with_leftovers(&self, begun: Vec<PublishedTag>, done: &[&Destination]) -> Vec<PublishedTag> {
        let is_superseded = |tag: &PublishedTag| {
            done.iter().any(|destination| tag.repository == destination.name && destination.has(&tag.name))
        };
        let before = self.status.publishing.iter();
        let leftovers = before.filter(|tag| !is_superseded(tag) && !begun.contains(tag)).take(LEFTOVERS);
        let leftovers: Vec<PublishedTag> = leftovers.cloned().collect();
        begun.into_iter().chain(leftovers).collect()
    }

    /// The images that a repository should have and, so it says, does not: a registry collects what no tag holds, while others
    /// are still being built. They are looked at once more; what is there after all not time and again.
    fn missed(&self, destination: &Destination) -> impl Iterator<Item = MissingImage> {
        let (repository, now) = (destination.repository.to_string(), self.planner.now);
        let digests = self.children.iter().filter_map(|step| step.status.digest.clone());
        let missing = digests.map(move |digest| MissingImage {
            repository: repository.clone(),
            digest,
            since: whole_seconds(now),
        });
        missing.filter(move |missing| {
            let known = self.status.missing.iter().find(|known| is_same_image(known, missing));
            known.is_none_or(|known| now.duration_since(known.since.0) >= MISSED_AGAIN)
        })
    }

    fn to(&self, destination: &Destination, message: &str) -> (Vec<Task>, Stage) {
        let (copies, stage) = self.children_to(destination);
        if !matches!(stage, Stage::Done) {
            return (copies, stage);
        }
        let look = self.drift_to_correct(destination);
        if look.is_none() && self.is_published(destination) {
            return (copies, Stage::Done);
        }
        let publish = self.publish(destination, look);
        let stage = match self.planner.observed.facts.get(&publish) {
            Some(Fact::Known(_)) => Stage::Done,
            Some(Fact::Failed(failure)) => Stage::Failed(failure.clone()),
            None => Stage::Working(self.working(Reason::Publishing, format!("pushing {message}"))),
        };
        (copies.into_iter().chain([publish]).collect(), stage)
    }

    fn publish(&self, destination: &Destination, look: Option<Timestamp>) -> Task {
        let child_of = |platform: &str| {
            let step = self.children.iter().find(|step| step.status.platform == platform)?;
            step.child.clone()
        };
        // A tag that somebody moved, and that is only to be reported, is not taken back on the occasion of another.
        let is_left_alone = |name: &str| {
            let mut tags = self.status.published.iter().flat_map(|published| &published.tags);
            let is_there = tags.any(|tag| tag.name == name && tag.repository == destination.name);
            is_there && self.is_same_index() && is_reported(self.planner.image)
        };
        let platform_tags = destination.platform_tags.iter().filter(|(_, tag)| !is_left_alone(tag));
        Task::Publish {
            generation: self.planner.epoch.generation,
            repository: destination.repository.clone(),
            tags: destination.tags.iter().filter(|tag| !is_left_alone(tag)).cloned().collect(),
            index: Arc::clone(&self.index),
            platform_tags: platform_tags
                .filter_map(|(platform, tag)| Some((tag.clone(), child_of(platform)?)))
                .collect(),
            policy: self.planner.image.spec.target.tag_policy.into(),
            look,
        }
    }

    /// What was published for this very spec stays Ready while it is corrected or followed.
    fn working(&self, reason: Reason, message: String) -> Verdict {
        let is_ready = is_ready_for(&self.planner.observed.status, &self.planner.epoch);
        match is_ready || self.drifted.is_some() {
            true => Verdict::Checking(reason, message),
            false => Verdict::Working(reason, message),
        }
    }

    fn failed(&self, failure: &Failure, destination: &Destination, number: usize) -> Verdict {
        let message = match number {
            0 => failure.message.clone(),
            _ => format!("mirror {}: {}", destination.name, failure.message),
        };
        match failure.transient {
            true => self.working(failure.reason, message),
            false => Verdict::Failed(failure.reason, message),
        }
    }

    /// A mirror gets its images from the target, which has them already.
    fn children_to(&self, destination: &Destination) -> (Vec<Task>, Stage) {
        let (from, to) = (&self.planner.repository, &destination.repository);
        if from == to {
            return (vec![], Stage::Done);
        }
        let is_published = self.is_published(destination);
        let mut tasks = Vec::new();
        let mut stage = Stage::Done;
        for image in self.children.iter().filter_map(|step| step.child.as_ref()) {
            let digest = &image.image.descriptor.digest;
            let look = self.planner.tracking.lost(to, digest.as_str());
            if is_published && look.is_none() {
                continue;
            }
            let (from, to) = (from.clone(), to.clone());
            let copy = Task::CopyImage { from, to, image: Arc::clone(image), look };
            match self.planner.observed.facts.get(&copy) {
                Some(Fact::Known(_)) => {}
                Some(Fact::Failed(failure)) => stage = Stage::Failed(failure.clone()),
                None => {
                    let message = format!("copying {digest} to {}", destination.name);
                    stage = Stage::Working(self.working(Reason::Copying, message));
                }
            }
            tasks.push(copy);
        }
        (tasks, stage)
    }

    /// Whether a publication that was given up may have left something else under a tag.
    fn is_overwritten(&self, tag: &PublishedTag) -> bool {
        let is_it = |other: &&PublishedTag| (&other.name, &other.repository) == (&tag.name, &tag.repository);
        let mut left = self.status.publishing.iter().filter(is_it);
        left.any(|other| other.digest.as_deref() != expected(tag, self.status))
    }

    /// Since when a tag here is to be taken back. One of another index is written anyway.
    fn drift_to_correct(&self, destination: &Destination) -> Option<Timestamp> {
        let is_here =
            self.drifted.as_ref()?.tags.iter().any(|drifted| drifted.tag.repository == destination.name);
        let is_to_be = is_here && self.is_published(destination) && !is_reported(self.planner.image);
        is_to_be.then(|| drifted_since(self.planner))
    }

    fn drift_is_corrected(&self) -> bool {
        self.drifted.is_some() && !is_reported(self.planner.image)
    }

    fn is_same_index(&self) -> bool {
        self.status.digest.as_deref() == Some(self.index.descriptor.digest.as_str())
    }

    fn is_published(&self, destination: &Destination) -> bool {
        let is_there = |tag: &PublishedTag| has(self.status, tag) && !self.is_overwritten(tag);
        self.is_same_index() && self.tags(destination).iter().all(is_there)
    }

    fn tags(&self, destination: &Destination) -> Vec<PublishedTag> {
        destination.published(|platform| {
            let step = self.children.iter().find(|step| step.status.platform == platform)?;
            step.status.digest.clone()
        })
    }
}

fn published_at_target(done: &[&Destination], all: &[Destination]) -> bool {
    done.first().zip(all.first()).is_some_and(|(done, target)| *done == target)
}

fn has(status: &MultiArchImageStatus, tag: &PublishedTag) -> bool {
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

fn is_same_image(one: &MissingImage, other: &MissingImage) -> bool {
    (&one.repository, &one.digest) == (&other.repository, &other.digest)
}
