//! Ready, Reconciling and Stalled, as kstatus computes a resource's state from them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::task::Epoch;
use crate::api::{MultiArchImageStatus, Reason};

/// Conditions may hold 32 KiB; nobody reads more than this many bytes of one.
const MESSAGE_LIMIT: usize = 1024;

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
/// and Stalled True; done is Ready True alone.
pub(super) fn write(status: &mut MultiArchImageStatus, verdict: &Verdict, epoch: &Epoch, now: Timestamp) {
    let published = status
        .condition("Ready")
        .is_some_and(|ready| ready.status == "True" && ready.observed_generation == Some(epoch.generation));
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
        .map(|(type_, state, reason, message)| {
            let before = status.condition(type_).filter(|before| before.status == state);
            Condition {
                type_: type_.to_owned(),
                status: state.to_owned(),
                reason: reason.to_string(),
                message: cut(message),
                observed_generation: Some(epoch.generation),
                last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
            }
        })
        .collect();
    status.conditions = conditions;
}

/// Whether a condition is there and True.
pub(super) fn is_true(status: &MultiArchImageStatus, type_: &str) -> bool {
    status.condition(type_).is_some_and(|condition| condition.status == "True")
}

fn cut(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let end =
        (0..=MESSAGE_LIMIT - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &message[..end])
}
