//! Events: one for each change that a person would want to hear of, told from two statuses. What has been told is
//! remembered in the status, so that neither a retry nor a restart of the operator tells it again.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::conditions::{DriftChange, drift_change};
use crate::api::{DRIFTED, MultiArchImageStatus, Phase, PlatformStatus, PublishedTag, Reason};

/// Events carry at most 1 KiB of text.
const NOTE_LIMIT: usize = 1024;
/// Platforms that one event names; the status names them all.
const NAMED_PLATFORMS: usize = 8;
/// What is remembered of what was told: more than the platforms of an image have ways to fail.
const MEMORY: usize = 128;

/// One event on a `MultiArchImage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a `Warning` and not `Normal`.
    pub warning: bool,
    /// The machine-readable reason.
    pub reason: String,
    /// What was being done, and for which platform where it is one.
    pub action: String,
    /// The same for people.
    pub message: String,
    /// By which it is remembered that it was told; empty where a status alone says so.
    told_as: Vec<String>,
}

/// What happened between two statuses, as far as it has not been told since the last request or the last success.
pub fn notes(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Vec<Note> {
    let told = remembered(before, after);
    let changes = after.platforms.iter().filter_map(|platform| {
        Change::of(before.platform(&platform.platform), platform).filter(|change| !change.is_among(told))
    });
    let mut groups: Vec<Vec<Change<'_>>> = Vec::new();
    for change in changes {
        match groups.iter_mut().find(|group| group[0].is_like(&change)) {
            Some(group) => group.push(change),
            None => groups.push(vec![change]),
        }
    }
    let mut notes: Vec<Note> = groups.iter().map(|group| Change::told_together(group)).collect();
    notes.extend(
        of_the_image(before, after).filter(|note| !note.told_as.iter().any(|key| told.contains(key))),
    );
    notes.extend(drift_note(before, after));
    notes
}

/// A tag that somebody moved, that it is as it should be again, and that nobody can tell.
fn drift_note(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Option<Note> {
    if let Some(unknown) = unknown_drift(after)
        && unknown_drift(before).is_none_or(|known| known.reason != unknown.reason)
    {
        return Some(note(true, &unknown.reason, "Check".to_owned(), unknown.message.clone()));
    }
    Some(match drift_change(before, after)? {
        DriftChange::Found(drifted) => {
            note(true, &drifted.reason, "Check".to_owned(), drifted.message.clone())
        }
        DriftChange::Corrected => {
            let digest = after.digest.as_deref().unwrap_or_default();
            let message = format!("the published tags point at {digest} again");
            note(false, Reason::DriftCorrected.as_str(), "Check".to_owned(), message)
        }
    })
}

/// Why the published tags cannot be looked at, where somebody has to do something about it.
fn unknown_drift(status: &MultiArchImageStatus) -> Option<&Condition> {
    let is_as_wanted =
        |reason: &str| [Reason::Verifying, Reason::Suspended].iter().any(|own| own.as_str() == reason);
    let stands_in_ready =
        |drifted: &Condition| status.condition("Ready").is_some_and(|ready| ready.reason == drifted.reason);
    let drifted = status.condition(DRIFTED).filter(|drifted| drifted.status == "Unknown")?;
    (!is_as_wanted(&drifted.reason) && !stands_in_ready(drifted)).then_some(drifted)
}

/// What a status shall remember of what was told, including what [`notes`] tells now.
pub(super) fn announced(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Vec<String> {
    let is_ready = after.is_true("Ready");
    let is_well = |platform: &PlatformStatus| {
        (platform.phase, platform.reason) == (Phase::Ready, Some(Reason::Verified))
    };
    if is_ready && after.platforms.iter().all(is_well) {
        return Vec::new();
    }
    let mut all = remembered(before, after).to_vec();
    all.extend(notes(before, after).into_iter().flat_map(|note| note.told_as));
    all.drain(..all.len().saturating_sub(MEMORY));
    all
}

/// Who edits or asks anew is told anew.
fn remembered<'a>(before: &'a MultiArchImageStatus, after: &MultiArchImageStatus) -> &'a [String] {
    let request = |status: &MultiArchImageStatus| {
        let MultiArchImageStatus { last_handled_reconcile_at, last_handled_rebuild_at, .. } = status;
        (status.observed_generation, last_handled_reconcile_at.clone(), last_handled_rebuild_at.clone())
    };
    if request(before) == request(after) { &before.announced } else { &[] }
}

/// What of a platform is worth an event.
struct Change<'a> {
    warning: bool,
    verb: &'static str,
    reason: Reason,
    platform: &'a PlatformStatus,
}

impl<'a> Change<'a> {
    fn of(before: Option<&PlatformStatus>, after: &'a PlatformStatus) -> Option<Self> {
        if before.is_some_and(|before| (before.phase, before.reason) == (after.phase, after.reason)) {
            return None;
        }
        let reason = after.reason?;
        let (warning, verb) = match after.phase {
            Phase::Failed => (true, "Prepare"),
            Phase::Skipped => (true, "Skip"),
            Phase::Pending
                if matches!(reason, Reason::BaseImagePlatformMissing | Reason::BaseImageNotFound) =>
            {
                (true, "Prepare")
            }
            Phase::Waiting if reason == Reason::Queued => (false, "Queue"),
            Phase::Waiting => (true, "Prepare"),
            Phase::Building => (false, "Build"),
            // What is published stays without its source.
            Phase::Ready if reason != Reason::Verified => (true, "Check"),
            Phase::Ready if before.is_none_or(|before| before.digest != after.digest) => (false, "Verify"),
            _ => return None,
        };
        Some(Change { warning, verb, reason, platform: after })
    }

    fn message(&self) -> &str {
        self.platform.message.as_deref().unwrap_or_default()
    }

    /// Every attempt of a build is told; a cause that platforms share is told once for all of them.
    fn key(&self) -> Option<String> {
        let PlatformStatus { phase, platform, attempts, .. } = self.platform;
        if *phase == Phase::Ready && !self.warning {
            return None;
        }
        let mut key = format!("{phase:?} {}", self.reason);
        if !is_shared(self.reason) {
            let _ = write!(key, " {platform}");
            let _ = attempts.map(|attempts| write!(key, " {attempts}"));
        }
        Some(key)
    }

    fn is_among(&self, told: &[String]) -> bool {
        self.key().is_some_and(|key| told.contains(&key))
    }

    fn is_like(&self, other: &Change<'_>) -> bool {
        (self.warning, self.verb, self.reason) == (other.warning, other.verb, other.reason)
            && (is_shared(self.reason) || self.message() == other.message())
    }

    fn told_together(group: &[Self]) -> Note {
        let first = &group[0];
        let named: Vec<&str> =
            group.iter().take(NAMED_PLATFORMS).map(|change| change.platform.platform.as_str()).collect();
        let more = match group.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("{}{more}: {}", named.join(", "), first.message());
        let action = match group {
            [only] => format!("{}/{}", only.verb, only.platform.platform),
            _ => first.verb.to_owned(),
        };
        let mut told_as: Vec<String> = group.iter().filter_map(Change::key).collect();
        told_as.dedup();
        Note { told_as, ..note(first.warning, first.reason.as_str(), action, message) }
    }
}

/// Whether the cause lies in something that an image's platforms have in common.
fn is_shared(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::RegistryUnavailable
            | Reason::RateLimited
            | Reason::AuthenticationFailed
            | Reason::PushDenied
            | Reason::SecretNotFound
            | Reason::SecretInvalid
            | Reason::ContextNotFound
            | Reason::ContextChanged
            | Reason::ContextUnavailable
            | Reason::ImagePullFailed
            | Reason::PodNotCreated
            | Reason::Queued
            | Reason::ClusterError
            | Reason::InternalError
    )
}

/// What the conditions say and no platform has said.
fn of_the_image(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Option<Note> {
    let ready = after.condition("Ready")?;
    let earlier = before.condition("Ready");
    let is_new =
        earlier.is_none_or(|earlier| (&earlier.status, &earlier.reason) != (&ready.status, &ready.reason));
    let (reason, message, action) = (ready.reason.as_str(), ready.message.clone(), "Publish".to_owned());
    match ready.status.as_str() {
        "True" if is_new || what_is_published(before) != what_is_published(after) => {
            Some(note(false, reason, action, message))
        }
        _ => {
            problem_of_the_image(before, after)?;
            Some(Note { told_as: vec![format!("Publish {reason}")], ..note(true, reason, action, message) })
        }
    }
}

/// Why an image as a whole is not published, if that is new and no platform has said it.
pub(super) fn problem_of_the_image(
    before: &MultiArchImageStatus,
    after: &MultiArchImageStatus,
) -> Option<Reason> {
    let ready = after.condition("Ready").filter(|ready| ready.status != "True")?;
    let said = |status: &MultiArchImageStatus| {
        let ready = status.condition("Ready")?;
        Some((ready.status.clone(), ready.reason.clone()))
    };
    let is_new = said(before) != said(after);
    (is_new && is_problem(&ready.reason) && !is_said_by_a_platform(after, &ready.reason))
        .then(|| serde_json::from_value(ready.reason.clone().into()).unwrap_or(Reason::Pending))
}

fn what_is_published(status: &MultiArchImageStatus) -> Option<(Option<&String>, &Vec<PublishedTag>)> {
    status.published.as_ref().map(|published| (status.digest.as_ref(), &published.tags))
}

fn is_problem(reason: &str) -> bool {
    let at_work = [
        Reason::Pending,
        Reason::Resolving,
        Reason::ContainerStarting,
        Reason::Building,
        Reason::Verifying,
        Reason::Verified,
        Reason::Copying,
        Reason::Publishing,
        Reason::Suspended,
    ];
    at_work.iter().all(|progress| progress.as_str() != reason)
}

fn is_said_by_a_platform(status: &MultiArchImageStatus, reason: &str) -> bool {
    status.platforms.iter().any(|platform| {
        platform.reason.is_some_and(|said| said.as_str() == reason)
            && matches!(platform.phase, Phase::Failed | Phase::Waiting | Phase::Skipped)
    })
}

pub(super) fn note(warning: bool, reason: &str, action: String, message: String) -> Note {
    let end = (0..=NOTE_LIMIT.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    Note {
        warning,
        reason: reason.to_owned(),
        action,
        message: message[..end].to_owned(),
        told_as: Vec::new(),
    }
}
