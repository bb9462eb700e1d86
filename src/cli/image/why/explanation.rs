//! From an image, and what else was looked up, to the explanation of how it stands: pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use super::super::state::{self, State};
use super::place::{Present, Subject, Typed};
use super::{advice, place};
use crate::api::{DRIFTED, MultiArchImage, Phase, PlatformStatus, Reason};

/// Why an image stands as it does. The names are stable.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    pub namespace: String,
    pub name: String,
    pub state: State,
    /// The same in a sentence.
    pub summary: String,
    /// What stands in the way, the most telling first.
    pub causes: Vec<Cause>,
}

/// One thing that stands in the way, or is being done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cause {
    /// The platform; nothing where it is about the image as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    pub reason: String,
    /// The operator's words.
    pub message: String,
    /// What the reason means.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// What to look at.
    pub objects: Vec<String>,
    /// What the cluster has said of the pod or the Job.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// The commands to type next.
    pub next: Vec<String>,
    /// The end of what a failed build printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
}

/// What was looked up beside the image.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub present: Present,
    /// What the cluster warned of: the object, and what was said.
    pub warnings: Vec<(String, String)>,
}

/// The platforms that are not ready, the most telling first.
pub(super) fn telling(image: &MultiArchImage) -> impl Iterator<Item = &PlatformStatus> {
    let platforms = state::platforms(image);
    Phase::TELLING
        .into_iter()
        .flat_map(|phase| platforms.iter().filter(move |platform| platform.phase == phase))
}

/// What is said of a reason that only a newer operator knows.
const UNKNOWN_MEANING: &str = "The operator is newer than this command, which does not know this reason.";
const UNKNOWN_REMEDY: &str = "Update this command; the message says what is the matter.";

/// Explains how an image stands.
pub(super) fn explain(image: &MultiArchImage, evidence: &Evidence, typed: &Typed) -> Explanation {
    let state = State::of(image);
    let causes = match state {
        State::Unseen | State::Deleting => vec![],
        State::Suspended => of_image(image).into_iter().collect(),
        State::Working | State::Ready | State::Stalled => subjects(image),
    };
    Explanation {
        namespace: image.metadata.namespace.clone().unwrap_or_default(),
        name: image.metadata.name.clone().unwrap_or_default(),
        state,
        summary: summary(image, state),
        causes: causes.iter().map(|subject| cause(subject, evidence, typed)).collect(),
    }
}

/// The image as a whole comes first where no platform stands in its way: what failed then is the publication.
fn subjects(image: &MultiArchImage) -> Vec<Subject<'_>> {
    let platforms = telling(image).map(|platform| Subject {
        image,
        platform: Some(platform),
        reason: platform.reason.unwrap_or(Reason::Pending),
        unknown: unknown_of(platform),
        message: platform.message.as_deref().unwrap_or_default(),
    });
    let whole = of_image(image).filter(|_| state::own_message(image).is_some());
    whole.into_iter().chain(drift(image)).chain(platforms).collect()
}

/// What stands in the way of the image as a whole.
fn of_image(image: &MultiArchImage) -> Option<Subject<'_>> {
    let ready = state::ready(image).filter(|ready| ready.status != "True" || image.spec.suspend)?;
    Some(of_condition(image, ready))
}

/// Published tags that are not as they were published, or cannot be checked: told though the image is Ready.
fn drift(image: &MultiArchImage) -> Option<Subject<'_>> {
    let drifted = image.status.as_ref()?.condition(DRIFTED).filter(|drifted| drifted.status != "False")?;
    Some(of_condition(image, drifted))
}

/// A platform that has failed is not pending: its reason is one that could not be read, and its word is lost.
fn unknown_of(platform: &PlatformStatus) -> Option<&'static str> {
    let is_unread =
        platform.phase == Phase::Failed && platform.reason.is_none_or(|reason| reason == Reason::Pending);
    is_unread.then_some("Unknown")
}

/// A reason that a newer operator writes has no advice of its own here; its message has.
fn of_condition<'a>(image: &'a MultiArchImage, condition: &'a Condition) -> Subject<'a> {
    let reason = Reason::ALL.iter().find(|reason| reason.as_str() == condition.reason);
    Subject {
        image,
        platform: None,
        reason: reason.copied().unwrap_or(Reason::Pending),
        unknown: reason.is_none().then_some(condition.reason.as_str()),
        message: &condition.message,
    }
}

fn cause(subject: &Subject<'_>, evidence: &Evidence, typed: &Typed) -> Cause {
    let platform = subject.platform;
    let is_own = |object: &str| {
        let own = platform.map(objects_of).unwrap_or_default();
        own.iter().any(|own| own == object)
    };
    let is_news = |said: &str| {
        let message = said.split_once(": ").map_or(said, |(_, message)| message);
        !subject.message.contains(message)
    };
    let (reason, meaning, remedy) = match subject.unknown {
        Some(reason) => (reason.to_owned(), UNKNOWN_MEANING, UNKNOWN_REMEDY),
        None => (subject.reason.to_string(), subject.reason.meaning(), advice::remedy(subject.reason)),
    };
    let warnings = evidence.warnings.iter().filter(|(object, said)| is_own(object) && is_news(said));
    Cause {
        platform: platform.map(|platform| platform.platform.clone()),
        phase: platform.map(|platform| platform.phase),
        reason,
        message: subject.message.to_owned(),
        meaning,
        remedy,
        objects: subject.objects(&evidence.present),
        events: warnings.map(|(object, said)| format!("{object}: {said}")).collect(),
        next: subject.commands(&evidence.present, typed),
        log_tail: platform.and_then(|platform| platform.log_tail.clone()),
    }
}

/// The pods and the Job that a platform's status names.
pub(super) fn objects_of(platform: &PlatformStatus) -> Vec<String> {
    let run = platform.message.as_deref().and_then(|message| place::named(message, "pod/"));
    let pod = platform.pod.iter().map(|pod| format!("pod/{pod}"));
    let job = platform.job.iter().map(|job| format!("job/{job}"));
    run.into_iter().chain(pod).chain(job).collect()
}

fn summary(image: &MultiArchImage, state: State) -> String {
    let (ready, all) = state::ready_platforms(image);
    let platforms = format!("{ready}/{all} platforms are ready");
    match state {
        State::Deleting => "it is being deleted".to_owned(),
        State::Unseen => unseen(image),
        State::Suspended if state::is_published(image) => {
            "suspended; what is published stays as it is".to_owned()
        }
        State::Suspended => format!("suspended before it was published; {platforms}"),
        State::Working => format!("on the way; {platforms}"),
        State::Stalled => format!("it does not become ready unless somebody acts; {platforms}"),
        State::Ready => {
            let message = state::ready(image).map(|ready| ready.message.as_str()).unwrap_or_default();
            format!("{message}; {platforms}")
        }
    }
}

/// What the operator has not seen, and how that may be.
fn unseen(image: &MultiArchImage) -> String {
    let seen = image.status.as_ref().and_then(|status| status.observed_generation);
    let what = match seen {
        None => "the operator has not looked at it yet".to_owned(),
        Some(seen) if seen != image.generation() => {
            format!(
                "the operator has not looked at generation {} yet; what it last saw is {seen}",
                image.generation()
            )
        }
        Some(_) => {
            "the operator has not answered the latest request to reconcile or to rebuild yet".to_owned()
        }
    };
    format!("{what}. If that lasts longer than a moment, it does not run, or does not look at this namespace")
}
