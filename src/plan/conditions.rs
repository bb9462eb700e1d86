//! Ready, Reconciling and Stalled, as kstatus computes a resource's state from them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::task::Epoch;
use crate::api::{DRIFTED, MultiArchImageStatus, Reason};

/// Conditions may hold 32 KiB; nobody reads more than this many bytes of one.
const MESSAGE_LIMIT: usize = 1024;

/// Whether the published tags are as they were published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// As far as is known they are.
    No,
    /// They are being looked at, or cannot be.
    Unknown(Reason, String),
    /// They are not.
    Yes(Reason, String),
}

/// What an image's platforms add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sources are being looked at; nothing changes yet.
    Checking(Reason, String),
    /// On the way.
    Working(Reason, String),
    /// Not without somebody's help.
    Failed(Reason, String),
    /// Published as the spec says.
    Published(String),
    /// `spec.suspend`.
    Suspended {
        /// What the spec asks for is published, as far as was last seen.
        published: bool,
    },
}

/// Sets the conditions of a status: at work is Ready Unknown and Reconciling True; lasting failure is Ready False
/// and Stalled True; done is Ready True alone. What is said of drift stays.
pub(super) fn write(status: &mut MultiArchImageStatus, verdict: &Verdict, epoch: &Epoch, now: Timestamp) {
    let drift = status.condition(DRIFTED).cloned();
    write_verdict(status, verdict, epoch, now);
    status.conditions.retain(|condition| condition.type_ != DRIFTED);
    status.conditions.extend(drift);
}

/// Says whether the published tags are as they were published.
pub(super) fn write_drift(status: &mut MultiArchImageStatus, drift: Drift, epoch: &Epoch, now: Timestamp) {
    let said = match drift {
        Drift::No => None,
        Drift::Unknown(reason, message) => Some(("Unknown", reason, message)),
        Drift::Yes(reason, message) => Some(("True", reason, message)),
    };
    let condition =
        said.map(|(state, reason, message)| condition(status, DRIFTED, state, reason, message, epoch, now));
    status.conditions.retain(|condition| condition.type_ != DRIFTED);
    status.conditions.extend(condition);
}

/// What a status says of drift.
pub(super) fn drift(status: &MultiArchImageStatus) -> Drift {
    let Some(said) = status.condition(DRIFTED) else { return Drift::No };
    let reason = serde_json::from_value(said.reason.clone().into()).unwrap_or(Reason::Pending);
    match said.status.as_str() {
        "True" => Drift::Yes(reason, said.message.clone()),
        _ => Drift::Unknown(reason, said.message.clone()),
    }
}

/// What is said of drift where nothing is looked at any more: what was found is old, and what was asked for is not done.
pub(super) fn unseen_drift(status: &MultiArchImageStatus, reason: Reason, why: &str) -> Drift {
    match status.condition(DRIFTED) {
        Some(_) => Drift::Unknown(reason, format!("the published tags are not looked at: {why}")),
        None => Drift::No,
    }
}

/// Whether somebody has asked for a look at the published tags that has not been taken yet.
pub(super) fn is_pending(status: &MultiArchImageStatus) -> bool {
    status.condition(DRIFTED).is_some_and(|drifted| drifted.reason == Reason::Verifying.as_str())
}

/// Notes that somebody has asked for a look at the published tags.
pub(super) fn ask(status: &mut MultiArchImageStatus, epoch: &Epoch, now: Timestamp) {
    let message = "the published tags are being looked at".to_owned();
    write_drift(status, Drift::Unknown(Reason::Verifying, message), epoch, now);
}

fn write_verdict(status: &mut MultiArchImageStatus, verdict: &Verdict, epoch: &Epoch, now: Timestamp) {
    let published = is_ready_for(status, epoch);
    let suspended = (Reason::Suspended, "spec.suspend is true; what is published stays as it is".to_owned());
    let wanted: Vec<(&str, &str, Reason, String)> = match verdict {
        Verdict::Checking(..) if published => return,
        Verdict::Checking(reason, message) | Verdict::Working(reason, message) => vec![
            ("Ready", "Unknown", *reason, message.clone()),
            ("Reconciling", "True", *reason, message.clone()),
        ],
        Verdict::Failed(reason, message) => {
            vec![("Ready", "False", *reason, message.clone()), ("Stalled", "True", *reason, message.clone())]
        }
        Verdict::Published(message) => vec![("Ready", "True", Reason::Published, message.clone())],
        Verdict::Suspended { published: true } => vec![("Ready", "True", suspended.0, suspended.1)],
        Verdict::Suspended { published: false } => vec![("Ready", "Unknown", suspended.0, suspended.1)],
    };
    let conditions = wanted
        .into_iter()
        .map(|(type_, state, reason, message)| condition(status, type_, state, reason, message, epoch, now));
    status.conditions = conditions.collect();
}

fn condition(
    status: &MultiArchImageStatus,
    type_: &str,
    state: &str,
    reason: Reason,
    message: String,
    epoch: &Epoch,
    now: Timestamp,
) -> Condition {
    let before = status.condition(type_).filter(|before| before.status == state);
    Condition {
        type_: type_.to_owned(),
        status: state.to_owned(),
        reason: reason.to_string(),
        message: cut(message),
        observed_generation: Some(epoch.generation),
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

/// Whether what was asked for by this very generation is published.
pub(super) fn is_ready_for(status: &MultiArchImageStatus, epoch: &Epoch) -> bool {
    let ready = status.condition("Ready").filter(|ready| ready.status == "True");
    ready.is_some_and(|ready| ready.observed_generation == Some(epoch.generation))
}

/// What became of the published tags between two statuses.
pub(super) enum DriftChange<'a> {
    /// They are not as they were published, which is told so.
    Found(&'a Condition),
    /// They are again.
    Corrected,
}

/// What became of the published tags between two statuses; nothing where the same is said, or it is not known.
pub(super) fn drift_change<'a>(
    before: &'a MultiArchImageStatus,
    after: &'a MultiArchImageStatus,
) -> Option<DriftChange<'a>> {
    let drifted = |status: &'a MultiArchImageStatus| {
        status.condition(DRIFTED).filter(|drifted| drifted.status == "True")
    };
    match (drifted(before), drifted(after)) {
        (before, Some(after)) if before.is_none_or(|before| before.message != after.message) => {
            Some(DriftChange::Found(after))
        }
        (Some(_), None) if after.condition(DRIFTED).is_none() => Some(DriftChange::Corrected),
        _ => None,
    }
}

fn cut(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let end =
        (0..=MESSAGE_LIMIT - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &message[..end])
}
