//! How a `MultiArchImage` stands, in one word: pure, from the object alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::api::{MultiArchImage, MultiArchImageStatus, Phase, PlatformStatus};

/// How an image stands. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum State {
    /// It is being deleted.
    Deleting,
    /// The operator has not looked at the latest spec, or at the latest request to reconcile or to rebuild.
    Unseen,
    /// `spec.suspend`.
    Suspended,
    /// On the way.
    Working,
    /// Published as the spec says.
    Ready,
    /// Not without somebody's help.
    Stalled,
}

impl State {
    pub fn of(image: &MultiArchImage) -> State {
        if image.is_deleted() {
            return State::Deleting;
        }
        if current(image).is_none() {
            return State::Unseen;
        }
        match () {
            () if image.spec.suspend => State::Suspended,
            () if image.is_true("Stalled") => State::Stalled,
            () if image.is_true("Ready") => State::Ready,
            () => State::Working,
        }
    }
}

/// The status, if it speaks of the latest spec and of the latest requests.
pub(super) fn current(image: &MultiArchImage) -> Option<&MultiArchImageStatus> {
    let status = image.status.as_ref()?;
    let is_answered = |request: Option<&str>, answered: &Option<String>| {
        request.is_none_or(|request| answered.as_deref() == Some(request))
    };
    let is_current = status.observed_generation == Some(image.generation())
        && is_answered(image.reconcile_request().as_deref(), &status.last_handled_reconcile_at)
        && is_answered(image.rebuild_request(), &status.last_handled_rebuild_at)
        && !status.conditions.is_empty();
    is_current.then_some(status)
}

/// Whether what the spec asks for is published and nothing of it is being looked at again: after a request, what was
/// published stays Ready while its sources are looked up once more.
pub(super) fn is_published(image: &MultiArchImage) -> bool {
    let is_optional = |platform: &PlatformStatus| {
        image.spec.platform(&platform.platform).is_some_and(|entry| entry.optional)
    };
    let looks = |platform: &PlatformStatus| {
        matches!(platform.phase, Phase::Pending | Phase::Resolving | Phase::Verifying)
            && !is_optional(platform)
    };
    current(image).is_some_and(|status| {
        image.is_true("Ready") && (image.spec.suspend || !status.platforms.iter().any(looks))
    })
}

/// The Ready condition, of whichever generation.
pub(super) fn ready(image: &MultiArchImage) -> Option<&Condition> {
    image.status.as_ref()?.condition("Ready")
}

/// The message of the Ready condition, unless it only repeats the words of a platform, after that platform's name.
pub(super) fn own_message(image: &MultiArchImage) -> Option<&str> {
    let message = ready(image)?.message.as_str();
    let is_of = |platform: &PlatformStatus| {
        message.strip_prefix(platform.platform.as_str()).is_some_and(|rest| rest.starts_with(':'))
    };
    (!platforms(image).iter().any(is_of)).then_some(message)
}

/// The platforms as the status has them; none before the operator has written one.
pub(super) fn platforms(image: &MultiArchImage) -> &[PlatformStatus] {
    image.status.as_ref().map_or(&[], |status| &status.platforms)
}

/// How many platforms are ready, of how many. Those that the operator has not seen yet count as not ready.
pub(super) fn ready_platforms(image: &MultiArchImage) -> (usize, usize) {
    let ready = platforms(image).iter().filter(|platform| platform.phase == Phase::Ready).count();
    (ready, platforms(image).len().max(image.spec.platforms.len()))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{ANNOTATION_REBUILD, ANNOTATION_RECONCILE};

    /// An image of generation 2 whose Ready and Stalled conditions are these, with these platforms.
    pub fn image(ready: &str, stalled: bool, platforms: Value) -> MultiArchImage {
        let condition = |type_: &str, status: &str| {
            json!({"type": type_, "status": status, "reason": "Reason", "message": "message",
                "observedGeneration": 2, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let mut conditions = vec![condition("Ready", ready)];
        conditions.extend(stalled.then(|| condition("Stalled", "True")));
        let declared =
            platforms.as_array().unwrap().iter().map(|entry| json!({"platform": entry["platform"]}));
        serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "namespace": "team-a", "generation": 2, "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "target": {"repository": "registry.example.com/team-a/web", "tags": ["1.4.2", "latest"]},
                "platforms": declared.collect::<Vec<_>>(),
            },
            "status": {"observedGeneration": 2, "conditions": conditions, "platforms": platforms},
        }))
        .unwrap()
    }

    fn platform(phase: &str) -> Value {
        json!([{"platform": "linux/amd64", "phase": phase}])
    }

    fn annotated(mut image: MultiArchImage, annotation: &str) -> MultiArchImage {
        image.metadata.annotations = Some([(annotation.to_owned(), "now".to_owned())].into());
        image
    }

    #[test]
    fn conditions_of_the_latest_generation_say_how_it_stands() {
        for (ready, stalled, state) in [
            ("True", false, State::Ready),
            ("False", true, State::Stalled),
            ("Unknown", false, State::Working),
        ] {
            assert_eq!(State::of(&image(ready, stalled, platform("Ready"))), state);
        }
    }

    #[test]
    fn what_was_true_of_an_earlier_spec_does_not_count() {
        let mut edited = image("True", false, platform("Ready"));
        edited.metadata.generation = Some(3);
        assert_eq!(State::of(&edited), State::Unseen);
        assert!(!is_published(&edited));
        // The status knows the generation, the condition is older.
        edited.status.as_mut().unwrap().observed_generation = Some(3);
        assert_eq!(State::of(&edited), State::Working);
        assert!(!is_published(&edited));
    }

    #[test]
    fn a_request_that_is_not_answered_makes_what_was_true_old() {
        for annotation in [ANNOTATION_RECONCILE, ANNOTATION_REBUILD] {
            let mut asked = annotated(image("True", false, platform("Ready")), annotation);
            assert_eq!(State::of(&asked), State::Unseen, "{annotation}");
            let status = asked.status.as_mut().unwrap();
            status.last_handled_reconcile_at = Some("now".to_owned());
            status.last_handled_rebuild_at = Some("now".to_owned());
            assert_eq!(State::of(&asked), State::Ready, "{annotation}");
        }
    }

    #[test]
    fn while_sources_are_looked_up_again_it_is_ready_and_not_yet_published_anew() {
        let looking = image("True", false, platform("Resolving"));
        assert_eq!(State::of(&looking), State::Ready);
        assert!(!is_published(&looking));
        assert!(is_published(&image("True", false, platform("Skipped"))));
        // What may come later holds nobody up.
        let mut optional = looking;
        optional.spec.platforms[0].optional = true;
        assert!(is_published(&optional));
    }
}
