//! What is published is kept true: at every interval one look at each source tag, at the git ref and at each published
//! tag, and once a day at each published image.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Observed;
use super::conditions::{self, Drift};
use super::fact::{Checked, Fact, Failure, Found};
use super::task::{Epoch, GitReference, Task};
use crate::api::{
    DRIFTED, DriftPolicy, MissingImage, MultiArchImage, MultiArchImageStatus, Phase, PlatformStatus,
    PublishedTag, Reason, TagPolicy,
};
use crate::registry::{Digest, Reference, Repository};

/// How often it is looked whether the published images themselves are still there: registries collect what no tag holds.
const CHILDREN_INTERVAL: SignedDuration = SignedDuration::from_hours(24);
/// For how many intervals nothing may be seen before it is told. An outage is not worth a word.
const BLIND_INTERVALS: i128 = 3;
/// Tags that a message names before it only counts them.
const NAMED: usize = 3;

/// What is known of the world since the image was published.
#[derive(Default)]
pub(super) struct Tracking<'a> {
    /// The next look, if it is time for it.
    pub task: Option<Task>,
    slots: Option<Slots>,
    checked: Option<&'a Checked>,
    failure: Option<&'a Failure>,
    /// Whether something has not been seen for so long that people should know.
    is_blind: bool,
    /// The images that are not where they were.
    pub missing: Vec<MissingImage>,
}

/// Published tags that are not as they were published.
pub(super) struct Drifted {
    pub tags: Vec<DriftedTag>,
}

/// A tag that somebody else moved or removed.
pub(super) struct DriftedTag {
    pub tag: PublishedTag,
    pub expected: String,
    found: Option<Digest>,
}

impl<'a> Tracking<'a> {
    /// `status` is what the work of this epoch begins with.
    pub fn of(
        image: &MultiArchImage,
        observed: &'a Observed,
        status: &MultiArchImageStatus,
        epoch: &Epoch,
        now: Timestamp,
    ) -> Self {
        let slots = Slots::of(image);
        let nothing =
            || Tracking { slots: Some(slots), missing: missing(status, None), ..Tracking::default() };
        let Some(since) = tracked_since(status) else { return nothing() };
        let first = slots.after(since.max(observed.started));
        // What has drifted is mended, and told, by what is found now and not by what was found before a restart.
        let is_asked = status.condition(DRIFTED).is_some();
        let everything = slots.looks_at_children(now) || conditions::is_pending(status);
        // Until the revision of this epoch is settled it is somebody else's look-up, and what is seen meanwhile is older.
        let follows_context = status.source_revision.is_some();
        let task = Task::Check {
            epoch: epoch.clone(),
            sources: sources(image, follows_context),
            published: published(status, everything),
            git: git(image).filter(|_| follows_context),
            slots,
        };
        let fact = observed.facts.get(&task);
        if fact.is_none() && first > now && !is_asked {
            return nothing();
        }
        let (checked, failure) = match fact {
            Some(Fact::Known(Found::Checked(checked))) => (Some(&**checked), None),
            Some(Fact::Failed(failure)) => (None, Some(failure)),
            _ => (None, None),
        };
        let failing = observed.facts.failing_since(&task);
        let is_blind = failing.is_some_and(|since| slots.have_passed(BLIND_INTERVALS, since, now));
        let missing = missing(status, checked);
        Tracking { task: Some(task), slots: None, checked, failure, is_blind, missing }
    }

    /// When to look first at what a status says is published.
    pub fn first_look(&self, status: &MultiArchImageStatus, now: Timestamp) -> Option<Timestamp> {
        tracked_since(status)?;
        Some(self.slots?.after(now))
    }

    /// What a source tag points at now; `None` while that is not known, or where it is gone.
    pub fn source(&self, reference: &Reference) -> Option<&Digest> {
        self.checked?.held.get(reference)?.as_ref()
    }

    /// The commit or digest that the build context has moved to. What is being built is built to its end first: a busy
    /// branch would never be.
    pub fn revision(&self, image: &MultiArchImage, status: &MultiArchImageStatus) -> Option<String> {
        let known = status.source_revision.as_ref()?;
        let builds = status
            .platforms
            .iter()
            .any(|entry| entry.job.is_some() && matches!(entry.phase, Phase::Building | Phase::Verifying));
        if builds || status.is_true("Reconciling") {
            return None;
        }
        let checked = self.checked?;
        let context = context_image(image).and_then(|reference| checked.held.get(&reference)?.clone());
        checked.commit.clone().or(context.map(|digest| digest.to_string())).filter(|found| found != known)
    }

    /// Since when an image is gone from a repository. The moment stays the same one until it has been seen there again,
    /// however long it takes to bring it back.
    pub fn lost(&self, repository: &Repository, digest: &str) -> Option<Timestamp> {
        let name = repository.to_string();
        let is_it = |missing: &&MissingImage| missing.repository == name && missing.digest == digest;
        self.missing.iter().find(is_it).map(|missing| missing.since.0)
    }

    /// The published tags that are not as they were published.
    pub fn drifted(&self, status: &MultiArchImageStatus) -> Option<Drifted> {
        let (checked, published) = (self.checked?, status.published.as_ref()?);
        // What was seen before the publication says nothing about it.
        if checked.at <= published.published_at.0 {
            return None;
        }
        let found = |tag: &PublishedTag| {
            let found = checked.held.get(&reference_of(tag)?)?;
            let expected = expected(tag, status)?;
            if found.as_ref().is_some_and(|found| is_being_written(status, tag, found)) {
                return None;
            }
            (found.as_ref().map(Digest::as_str) != Some(expected)).then(|| DriftedTag {
                tag: tag.clone(),
                expected: expected.to_owned(),
                found: found.clone(),
            })
        };
        let tags: Vec<DriftedTag> = published.tags.iter().filter_map(found).collect();
        (!tags.is_empty()).then_some(Drifted { tags })
    }

    /// Whether there is nothing to do but to look again.
    pub fn is_quiet(&self, image: &MultiArchImage, status: &MultiArchImageStatus) -> bool {
        let moved = |entry: &PlatformStatus| {
            let source = entry.source.as_ref()?;
            let found = self.source(&source.image.parse().ok()?)?;
            Some(source.digest.as_deref() != Some(found.as_str()))
        };
        (self.drifted(status).is_none() || is_reported(image))
            && self.revision(image, status).is_none()
            && self.missing.is_empty()
            && !status.platforms.iter().any(|entry| moved(entry) == Some(true))
    }

    /// What is said about the published tags; `corrected` tells that they have just been mended.
    pub fn drift(&self, status: &MultiArchImageStatus, corrected: bool) -> Drift {
        let is_told =
            |failure: &&Failure| !failure.transient || failure.reason.is_about_a_secret() || self.is_blind;
        if let Some(failure) = self.failure.filter(is_told) {
            let message = format!("the published tags cannot be checked: {}", failure.message);
            return Drift::Unknown(failure.reason, message);
        }
        let Some(checked) = self.checked else { return conditions::drift(status) };
        if let Some(drifted) = self.drifted(status).filter(|_| !corrected) {
            return Drift::Yes(Reason::TagMoved, drifted.describe());
        }
        let unseen = checked.unseen.as_ref().filter(|_| self.is_blind);
        if let Some((reason, message)) = checked.refused.as_ref().or(unseen) {
            return Drift::Unknown(*reason, format!("not everything can be looked at: {message}"));
        }
        let mut tags = status.published.iter().flat_map(|published| &published.tags);
        let is_unseen = |tag: &PublishedTag| {
            reference_of(tag).is_some_and(|reference| !checked.held.contains_key(&reference))
        };
        if !corrected && tags.any(is_unseen) { conditions::drift(status) } else { Drift::No }
    }

    /// Says of platforms that are ready whether their source is still there. What was published stays without it.
    pub fn note_sources(&self, status: &mut MultiArchImageStatus) {
        let Some(checked) = self.checked else { return };
        for entry in status.platforms.iter_mut().filter(|entry| entry.phase == Phase::Ready) {
            let Some(source) = entry.source.as_ref().and_then(|source| source.image.parse().ok()) else {
                continue;
            };
            let Some(found) = checked.held.get::<Reference>(&source) else { continue };
            let digest = entry.digest.clone().unwrap_or_default();
            match (found, entry.reason) {
                (None, Some(Reason::Verified)) => {
                    entry.reason = Some(Reason::SourceNotFound);
                    entry.message = Some(format!("verified {digest}; {source} is not there any more"));
                }
                (Some(_), Some(reason)) if reason != Reason::Verified => {
                    entry.reason = Some(Reason::Verified);
                    entry.message = Some(format!("verified {digest}"));
                }
                _ => {}
            }
        }
    }
}

/// Since when there is something to be looked at: what is published, whatever else is at work; else what has come to its end.
fn tracked_since(status: &MultiArchImageStatus) -> Option<Timestamp> {
    if let Some(published) = &status.published {
        return Some(published.published_at.0);
    }
    let ready = status.condition("Ready").filter(|_| !status.is_true("Reconciling"))?;
    Some(ready.last_transition_time.0)
}

/// Whether a tag holds what a publication under way writes, of whose end the status does not tell yet.
fn is_being_written(status: &MultiArchImageStatus, tag: &PublishedTag, found: &Digest) -> bool {
    let is_it = |other: &PublishedTag| (&other.name, &other.repository) == (&tag.name, &tag.repository);
    status.publishing.iter().any(|other| is_it(other) && other.digest.as_deref() == Some(found.as_str()))
}

/// The images of platforms that are known to be gone, and those that the latest look did not find. Where nothing at all is to
/// be seen, a registry says of everything that it is not there.
fn missing(status: &MultiArchImageStatus, checked: Option<&Checked>) -> Vec<MissingImage> {
    let is_wanted =
        |digest: &str| status.platforms.iter().any(|entry| entry.digest.as_deref() == Some(digest));
    let seen = |missing: &MissingImage| {
        let reference = missing_reference(missing)?;
        checked
            .filter(|checked| checked.at.as_second() > missing.since.0.as_second())?
            .held
            .get(&reference)?
            .as_ref()
    };
    let known = status.missing.iter().filter(|missing| is_wanted(&missing.digest) && seen(missing).is_none());
    let mut all: Vec<MissingImage> = known.cloned().collect();
    for (reference, held) in checked.iter().flat_map(|checked| &checked.held) {
        let Some(digest) = reference.digest().filter(|_| held.is_none()) else { continue };
        let (repository, digest) = (reference.repository(), digest.to_string());
        let name = repository.to_string();
        let is_known = all.iter().any(|other| (&other.repository, &other.digest) == (&name, &digest));
        let sees_others = checked.is_some_and(|checked| checked.sees_anything_in(repository));
        if sees_others && !is_known && is_wanted(&digest) {
            let since = checked.map_or(Timestamp::MIN, |checked| checked.at);
            all.push(MissingImage { repository: name, digest, since: whole_seconds(since) });
        }
    }
    all
}

fn missing_reference(missing: &MissingImage) -> Option<Reference> {
    Some(missing.repository.parse::<Repository>().ok()?.with_digest(&missing.digest.parse().ok()?))
}

/// A time as a status has it.
pub(super) fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Whether a tag that somebody moved is only told of. A tag that is never to be overwritten is not taken back either.
pub(super) fn is_reported(image: &MultiArchImage) -> bool {
    let target = &image.spec.target;
    target.drift_policy == DriftPolicy::Report || target.tag_policy == TagPolicy::IfAbsent
}

/// The moments of an image's looks: one an interval, the same ones after a restart, and others for each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    interval: i128,
    offset: i128,
}

impl Slots {
    fn of(image: &MultiArchImage) -> Self {
        let interval = std::time::Duration::from(image.spec.interval).as_nanos().max(1_000_000_000);
        let interval = i128::try_from(interval).unwrap_or(i128::MAX);
        let uid = Digest::sha256(image.metadata.uid.as_deref().unwrap_or_default().as_bytes());
        let hash = u64::from_str_radix(uid.hex().get(..16).unwrap_or_default(), 16).unwrap_or_default();
        Slots { interval, offset: i128::from(hash) % interval }
    }

    /// The next moment after a time.
    pub fn after(&self, time: Timestamp) -> Timestamp {
        let passed = (time.as_nanosecond() - self.offset).rem_euclid(self.interval);
        let next = time.as_nanosecond().saturating_add(self.interval - passed);
        Timestamp::from_nanosecond(next).unwrap_or(Timestamp::MAX)
    }

    /// Whether that many intervals have passed since a time.
    fn have_passed(&self, intervals: i128, since: Timestamp, now: Timestamp) -> bool {
        now.as_nanosecond() - since.as_nanosecond() >= self.interval.saturating_mul(intervals)
    }

    /// Whether the latest moment was the first of its day.
    fn looks_at_children(&self, now: Timestamp) -> bool {
        let day = |time: i128| (time - self.offset).div_euclid(CHILDREN_INTERVAL.as_nanos());
        let passed = (now.as_nanosecond() - self.offset).rem_euclid(self.interval);
        let latest = now.as_nanosecond() - passed;
        day(latest) != day(latest - self.interval)
    }
}

/// The tags of sources.
fn sources(image: &MultiArchImage, follows_context: bool) -> Vec<Reference> {
    let sources =
        image.spec.platforms.iter().filter_map(|entry| entry.image.as_ref()?.parse::<Reference>().ok());
    let context = context_image(image).filter(|_| follows_context);
    sorted(sources.chain(context).filter(|reference| reference.digest().is_none()))
}

/// The published tags, the images that were missed before, and where they are looked at too all published images.
fn published(status: &MultiArchImageStatus, images: bool) -> Vec<Reference> {
    let tags = status.published.iter().flat_map(|published| &published.tags).filter_map(reference_of);
    let digests = status.platforms.iter().filter_map(|entry| entry.digest.as_ref()?.parse::<Digest>().ok());
    let digests: Vec<Digest> = digests.filter(|_| images).collect();
    let at =
        |repository: Repository| digests.iter().map(move |digest| repository.with_digest(digest)).collect();
    let missing = status.missing.iter().filter_map(missing_reference);
    sorted(tags.chain(missing).chain(repositories(status).into_iter().flat_map::<Vec<Reference>, _>(at)))
}

fn sorted(references: impl Iterator<Item = Reference>) -> Vec<Reference> {
    references.collect::<BTreeSet<Reference>>().into_iter().collect()
}

fn context_image(image: &MultiArchImage) -> Option<Reference> {
    image.spec.build_in_use()?.context.oci.as_ref()?.image.parse().ok()
}

fn git(image: &MultiArchImage) -> Option<GitReference> {
    let git = image.spec.build_in_use()?.context.git.as_ref()?;
    let secret = git.secret_ref.as_ref().map(|secret| secret.name.clone());
    git.commit.is_none().then(|| GitReference { url: git.url.clone(), reference: git.r#ref.clone(), secret })
}

/// Where the images of the published index are: a mirror may still have an earlier one.
fn repositories(status: &MultiArchImageStatus) -> Vec<Repository> {
    let tags = status.published.iter().flat_map(|published| &published.tags);
    let tags = tags.filter(|tag| tag.platform.is_none() && expected(tag, status) == status.digest.as_deref());
    let mut repositories: Vec<Repository> = tags.filter_map(|tag| tag.repository.parse().ok()).collect();
    repositories.sort();
    repositories.dedup();
    repositories
}

pub(super) fn reference_of(tag: &PublishedTag) -> Option<Reference> {
    tag.repository.parse::<Repository>().ok()?.with_tag(&tag.name).ok()
}

/// The digest that a tag was published with.
pub(super) fn expected<'a>(tag: &'a PublishedTag, status: &'a MultiArchImageStatus) -> Option<&'a str> {
    tag.digest.as_deref().or(status.digest.as_deref())
}

impl Drifted {
    fn describe(&self) -> String {
        let one = |DriftedTag { tag, expected, found }: &DriftedTag| {
            let name = format!("{}:{}", tag.repository, tag.name);
            match found {
                Some(found) => format!("{name} points at {found}, not at {expected}"),
                None => format!("{name} is gone, it pointed at {expected}"),
            }
        };
        let named: Vec<String> = self.tags.iter().take(NAMED).map(one).collect();
        let more = self.tags.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        format!("{}{more}", named.join("; "))
    }
}
