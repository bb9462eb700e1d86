//! What is published is kept true: at every interval one look at each source tag, at the git ref and at each published
//! tag, and once a day at each published image.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::Observed;
use super::conditions::{self, Drift};
use super::task::{Checked, Epoch, Fact, Failure, Found, GitReference, Task};
use crate::api::{
    DRIFTED, DriftPolicy, MultiArchImage, MultiArchImageStatus, Phase, PlatformStatus, PublishedTag, Reason,
    TagPolicy,
};
use crate::registry::{Digest, Reference, Repository};

/// How often it is looked whether the published images themselves are still there: registries collect what no tag holds.
const CHILDREN_INTERVAL: SignedDuration = SignedDuration::from_hours(24);
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
}

/// Published tags that are not as they were published.
pub(super) struct Drifted {
    pub tags: Vec<DriftedTag>,
}

/// A tag that somebody else moved or removed.
pub(super) struct DriftedTag {
    pub tag: PublishedTag,
    expected: String,
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
        let Some(since) = status.condition("Ready").map(|ready| ready.last_transition_time.0) else {
            return Tracking { slots: Some(slots), ..Tracking::default() };
        };
        let first = slots.after(since.max(observed.started));
        // What has drifted is mended, and told, by what is found now and not by what was found before a restart.
        let is_asked = status.condition(DRIFTED).is_some();
        let everything = slots.looks_at_children(now) || conditions::is_pending(status);
        let task = Task::Check {
            epoch: epoch.clone(),
            sources: sources(image),
            published: published(status, everything),
            git: git(image),
            slots,
        };
        let fact = observed.facts.get(&task);
        let is_due = first <= now && !status.is_true("Reconciling");
        if fact.is_none() && !is_due && !is_asked {
            return Tracking { slots: Some(slots), ..Tracking::default() };
        }
        let (checked, failure) = match fact {
            Some(Fact::Known(Found::Checked(checked))) => (Some(&**checked), None),
            Some(Fact::Failed(failure)) => (None, Some(failure)),
            _ => (None, None),
        };
        Tracking { task: Some(task), slots: None, checked, failure }
    }

    /// When to look first at what a status says is published.
    pub fn first_look(&self, status: &MultiArchImageStatus, now: Timestamp) -> Option<Timestamp> {
        let slots = self.slots.filter(|_| !status.is_true("Reconciling"))?;
        Some(slots.after(now))
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

    /// The look that found an image gone from a repository. Where nothing at all is to be seen, a registry says of
    /// everything that it is not there.
    pub fn lost(&self, repository: &Repository, digest: &str) -> Option<Timestamp> {
        let checked = self.checked?;
        let reference = repository.with_digest(&digest.parse().ok()?);
        let is_gone = matches!(checked.held.get(&reference), Some(None));
        let mut others = checked.held.iter().filter(|(other, _)| other.repository() == repository);
        (is_gone && others.any(|(_, held)| held.is_some())).then_some(checked.at)
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
        let is_lost = |entry: &PlatformStatus| {
            let digest = entry.digest.as_deref()?;
            repositories(status).into_iter().find_map(|repository| self.lost(&repository, digest))
        };
        (self.drifted(status).is_none() || is_reported(image))
            && self.revision(image, status).is_none()
            && !status.platforms.iter().any(|entry| moved(entry) == Some(true) || is_lost(entry).is_some())
    }

    /// What is said about the published tags; `corrected` tells that they have just been mended.
    pub fn drift(&self, status: &MultiArchImageStatus, corrected: bool) -> Drift {
        if let Some(failure) = self.failure.filter(|failure| !failure.transient) {
            let message = format!("the published tags cannot be checked: {}", failure.message);
            return Drift::Unknown(failure.reason, message);
        }
        let Some(checked) = self.checked else { return conditions::drift(status) };
        if let Some(drifted) = self.drifted(status).filter(|_| !corrected) {
            return Drift::Yes(Reason::TagMoved, drifted.describe());
        }
        if let Some((reason, message)) = &checked.refused {
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

    /// Whether the latest moment was the first of its day.
    fn looks_at_children(&self, now: Timestamp) -> bool {
        let day = |time: i128| (time - self.offset).div_euclid(CHILDREN_INTERVAL.as_nanos());
        let passed = (now.as_nanosecond() - self.offset).rem_euclid(self.interval);
        let latest = now.as_nanosecond() - passed;
        day(latest) != day(latest - self.interval)
    }
}

/// The tags of sources.
fn sources(image: &MultiArchImage) -> Vec<Reference> {
    let sources =
        image.spec.platforms.iter().filter_map(|entry| entry.image.as_ref()?.parse::<Reference>().ok());
    sorted(sources.chain(context_image(image)).filter(|reference| reference.digest().is_none()))
}

/// The published tags, and where they are looked at too the published images.
fn published(status: &MultiArchImageStatus, images: bool) -> Vec<Reference> {
    let tags = status.published.iter().flat_map(|published| &published.tags).filter_map(reference_of);
    let digests = status.platforms.iter().filter_map(|entry| entry.digest.as_ref()?.parse::<Digest>().ok());
    let digests: Vec<Digest> = digests.filter(|_| images).collect();
    let at =
        |repository: Repository| digests.iter().map(move |digest| repository.with_digest(digest)).collect();
    sorted(tags.chain(repositories(status).into_iter().flat_map::<Vec<Reference>, _>(at)))
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

fn repositories(status: &MultiArchImageStatus) -> Vec<Repository> {
    let tags = status.published.iter().flat_map(|published| &published.tags);
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
