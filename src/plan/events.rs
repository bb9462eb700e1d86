//! Events: one for each change that a person would want to hear of, told from two statuses.

use crate::api::{MultiArchImageStatus, Phase, PlatformStatus};

/// Events carry at most 1 KiB of text.
const NOTE_LIMIT: usize = 1024;

/// One event on a `MultiArchImage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a `Warning` and not `Normal`.
    pub warning: bool,
    /// The machine-readable reason.
    pub reason: String,
    /// What was being done, and for which platform: events that differ only in the text count as one.
    pub action: String,
    /// The same for people.
    pub message: String,
}

/// What happened between two statuses.
pub fn notes(before: &MultiArchImageStatus, after: &MultiArchImageStatus) -> Vec<Note> {
    let mut notes: Vec<Note> = after
        .platforms
        .iter()
        .filter_map(|platform| platform_note(before.platform(&platform.platform), platform))
        .collect();
    let ready = |status: &MultiArchImageStatus| {
        status
            .condition("Ready")
            .map(|ready| (ready.status.clone(), ready.reason.clone(), ready.message.clone()))
    };
    if let Some((status, reason, message)) = ready(after).filter(|_| ready(before) != ready(after)) {
        let said_by_platform = notes.iter().any(|note| note.reason == reason);
        match status.as_str() {
            "True" => notes.push(note(false, &reason, "Publish".to_owned(), message)),
            "False" if !said_by_platform => notes.push(note(true, &reason, "Publish".to_owned(), message)),
            _ => {}
        }
    }
    notes
}

fn platform_note(before: Option<&PlatformStatus>, after: &PlatformStatus) -> Option<Note> {
    if before.is_some_and(|before| (before.phase, before.reason) == (after.phase, after.reason)) {
        return None;
    }
    let reason = after.reason?.to_string();
    let action = |verb: &str| format!("{verb}/{}", after.platform);
    let message = format!("{}: {}", after.platform, after.message.as_deref().unwrap_or_default());
    match after.phase {
        Phase::Failed => Some(note(true, &reason, action("Prepare"), message)),
        Phase::Waiting => Some(note(true, &reason, action("Prepare"), message)),
        Phase::Building => Some(note(false, &reason, action("Build"), message)),
        Phase::Ready if before.is_none_or(|before| before.digest != after.digest || after.job.is_some()) => {
            Some(note(false, &reason, action("Verify"), message))
        }
        _ => None,
    }
}

fn note(warning: bool, reason: &str, action: String, message: String) -> Note {
    let end = (0..=NOTE_LIMIT.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    Note { warning, reason: reason.to_owned(), action, message: message[..end].to_owned() }
}
