//! The end of a resource whose tags go with it (`deletionPolicy: Delete`).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::events::{Note, note};
use super::fact::{Fact, Failure, Found};
use super::task::Task;
use super::tracking::{expected, reference_of};
use super::{Observed, stopped};
use crate::api::{DeletionPolicy, FINALIZER, MultiArchImage, MultiArchImageStatus, Reason};
use crate::registry::{Digest, Reference, Repository};

/// For how long a registry that does not answer may keep a resource from going.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// What is left to do for a resource that is being deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// All the work that is wanted now.
    pub tasks: Vec<Task>,
    /// What people should hear.
    pub notes: Vec<Note>,
    /// Decide again after this time even if nothing happens.
    pub wake_after: Option<SignedDuration>,
}

/// Whether the resource is kept, once it is deleted, until its tags are removed.
pub fn is_kept(image: &MultiArchImage) -> bool {
    image.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|name| name == FINALIZER))
}

/// What makes the resource's finalizer agree with its policy.
pub(super) fn finalizer(image: &MultiArchImage) -> Option<Task> {
    let present = image.spec.deletion_policy == DeletionPolicy::Delete;
    (present != is_kept(image)).then_some(Task::SetFinalizer { present })
}

/// Removes the tags, those as well that a publication may have written which has not come to its end, and then lets the
/// resource go: at the latest when the registry has had its time, for a resource that cannot be deleted is worse than a tag
/// that stays. Nothing is removed while it is suspended.
pub fn deletion(image: &MultiArchImage, observed: &Observed, now: Timestamp) -> Deletion {
    if !is_kept(image) {
        return Deletion::default();
    }
    let mut tasks = stopped(image, observed);
    let began = image.metadata.deletion_timestamp.as_ref().map_or(now, |began| began.0);
    let end = began.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX);
    let wait = |tasks: Vec<Task>| {
        let wake_after = observed.wake_after(&tasks, vec![end], now);
        Deletion { tasks, notes: vec![], wake_after }
    };
    let tags = written_tags(&observed.status);
    let retained = image.spec.suspend || image.spec.deletion_policy == DeletionPolicy::Retain;
    // What a registry is being told now it may do after all that is asked of it next.
    if !retained && !observed.publications.is_empty() && now < end {
        tasks.extend(observed.publications.iter().cloned());
        return wait(tasks);
    }
    if retained || tags.is_empty() {
        tasks.push(Task::SetFinalizer { present: false });
        return Deletion { tasks, ..Deletion::default() };
    }
    let removal = Task::DeleteTags { tags };
    tasks.push(removal.clone());
    let kept = match observed.facts.get(&removal) {
        None if now < end => return wait(tasks),
        None => vec!["the registry has not answered in time".to_owned()],
        Some(Fact::Known(Found::Kept(kept))) => kept.clone(),
        Some(Fact::Known(_)) => Vec::new(),
        Some(Fact::Failed(failure)) if may_pass(failure) && now < end => return wait(tasks),
        Some(Fact::Failed(failure)) => vec![failure.message.clone()],
    };
    let release = Task::SetFinalizer { present: false };
    let is_told = observed.facts.get(&release).is_some() || kept.is_empty();
    let message = format!("tags stay in the registry: {}", kept.join("; "));
    let told = note(true, Reason::TagsKept.as_str(), "Delete".to_owned(), message);
    tasks.push(release);
    let wake_after = observed.wake_after(&tasks, vec![], now);
    Deletion { tasks, notes: if is_told { vec![] } else { vec![told] }, wake_after }
}

/// Where a whole namespace goes, its Secrets may have gone first, and do not come back.
fn may_pass(failure: &Failure) -> bool {
    failure.transient && !failure.reason.is_about_a_secret()
}

/// Every tag that was published or may have been, with the digest that it has then.
fn written_tags(status: &MultiArchImageStatus) -> Vec<(Reference, Digest)> {
    let published = status.published.iter().flat_map(|published| &published.tags);
    let tags = published.chain(&status.publishing);
    let tags = tags.filter_map(|tag| Some((reference_of(tag)?, expected(tag, status)?.parse().ok()?)));
    let mut seen = BTreeSet::new();
    tags.filter(|tag: &(Reference, Digest)| seen.insert(tag.clone())).collect()
}

/// Whether an image names a manifest by its digest: as a source, as what it is built from, or as what it has published.
pub fn needs(image: &MultiArchImage, repository: &Repository, digest: &Digest) -> bool {
    let is_it = |text: &str| {
        text.parse::<Reference>().is_ok_and(|reference| {
            reference.digest() == Some(digest) && reference.repository().is_same(repository)
        })
    };
    let build = image.spec.build.as_ref();
    let context = build.and_then(|build| build.context.oci.as_ref()).map(|oci| oci.image.as_str());
    let contexts = build.into_iter().flat_map(|build| build.contexts.values());
    let contexts = contexts.filter_map(|address| address.0.strip_prefix("docker-image://"));
    let sources = image.spec.platforms.iter().filter_map(|entry| entry.image.as_deref());
    let is_published = || {
        let status = image.status.as_ref()?;
        let tags = status.published.iter().flat_map(|published| &published.tags).chain(&status.publishing);
        let mut tags = tags.filter(|tag| expected(tag, status) == Some(digest.as_str()));
        Some(tags.any(|tag| tag.repository.parse().is_ok_and(|other: Repository| other.is_same(repository))))
    };
    sources.chain(context).chain(contexts).any(is_it) || is_published().unwrap_or_default()
}
