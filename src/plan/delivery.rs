//! The index on its way: to the target, then to the mirrors, its platforms' images first and its tags last.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::conditions::{Verdict, is_ready_for};
use super::destinations::Destination;
use super::fact::{Fact, Failure};
use super::publication::{Publication, drifted_since, has, is_same_image};
use super::task::Task;
use super::tracking::{Drifted, expected, is_reported, whole_seconds};
use super::{Planner, Step};
use crate::api::{MissingImage, MultiArchImageStatus, PublishedTag, Reason};
use crate::image::AssembledIndex;

/// Tags of publications that were given up that the status remembers.
const LEFTOVERS: usize = 64;
/// How soon an image that a registry says it does not have is looked at once more for the same reason.
const MISSED_AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// An index on its way to the target and then to the mirrors.
pub(super) struct Delivery<'a> {
    pub planner: &'a Planner<'a>,
    pub status: &'a MultiArchImageStatus,
    pub index: Arc<AssembledIndex>,
    pub children: Vec<&'a Step>,
    pub drifted: Option<Drifted>,
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
    /// Adds to a publication what is to be done for every destination, and what is to be said of it.
    pub fn to_all(&self, mut publication: Publication, message: &str) -> Publication {
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
