//! Sources, publication, conditions and events.

use jiff::SignedDuration;
use serde_json::json;

use super::scene::{REPOSITORY, Scene};
use super::{building, publishes, sources};
use crate::api::{Phase, PlatformStatus, Reason};
use crate::plan::notes;
use crate::plan::task::Task;

#[test]
fn conditions_are_there_on_first_sight_before_any_work() {
    let mut scene = sources();
    scene.plan();
    assert_eq!(scene.ready(), ("Unknown", "Resolving"));
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(scene.observed.status.observed_generation, Some(1));
    assert!(
        scene.observed.status.conditions.iter().all(|condition| condition.observed_generation == Some(1))
    );
}

#[test]
fn sources_are_resolved_copied_and_published() {
    let mut scene = sources();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(!scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("2/2"));
    assert!(scene.observed.status.digest.is_some());
    let tags = &scene.observed.status.published.as_ref().expect("published").tags;
    assert_eq!(tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["1.4.2", "latest"]);
}

#[test]
fn a_source_in_the_target_repository_is_not_copied() {
    let mut scene = Scene::new(
        json!({"platforms": [{"platform": "linux/amd64", "image": format!("{REPOSITORY}:amd64")}]}),
    );
    let mut plan = scene.plan();
    while !publishes(&plan) {
        assert!(!plan.tasks.iter().any(|task| matches!(task, Task::CopyImage { .. })));
        assert!(!plan.tasks.is_empty());
        plan.tasks.iter().for_each(|task| scene.succeed(task));
        plan = scene.plan();
    }
}

#[test]
fn nothing_is_published_while_a_platform_is_missing() {
    let mut scene = building();
    scene.finish("linux-amd64");
    let plan = scene.run();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    assert!(!publishes(&plan));
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("1/2"));
}

#[test]
fn a_registry_that_is_down_is_waited_for_and_asked_again_in_time() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: connection refused", true);
    let plan = scene.plan();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Waiting);
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(plan.wake_after, Some(SignedDuration::from_secs(7)));
    assert!(plan.tasks.iter().any(|task| task.key() == resolve.key()), "it is tried again");
}

#[test]
fn while_a_failed_task_runs_again_its_end_is_awaited_and_nothing_polls() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: connection refused", true);
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(7)).expect("a time");
    assert_eq!(scene.plan().wake_after, None);
}

#[test]
fn a_source_that_does_not_exist_stalls_the_image_and_is_still_looked_for() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::SourceNotFound, "other.test/web:amd64: not found", false);
    let plan = scene.plan();
    assert_eq!(scene.ready(), ("False", "SourceNotFound"));
    assert!(scene.has("Stalled"));
    assert_eq!(scene.message(), "linux/amd64: SourceNotFound: other.test/web:amd64: not found");
    assert!(plan.wake_after.is_some());
}

#[test]
fn a_status_that_a_newer_operator_wrote_can_be_read() {
    let status: PlatformStatus = serde_json::from_value(json!({
        "platform": "linux/amd64", "phase": "Teleporting", "reason": "WarpCoreCold", "somethingNew": 1,
    }))
    .expect("it is read");
    assert_eq!((status.phase, status.reason), (Phase::Pending, Some(Reason::Pending)));
}

#[test]
fn a_publication_that_is_refused_stalls_and_nothing_counts_as_published() {
    let mut scene = sources();
    for _ in 0..3 {
        let plan = scene.plan();
        let open: Vec<Task> = plan
            .tasks
            .iter()
            .filter(|task| scene.observed.facts.get(task).is_none() && !matches!(task, Task::Publish { .. }))
            .cloned()
            .collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    let publish = scene
        .plan()
        .tasks
        .iter()
        .find(|task| matches!(task, Task::Publish { .. }))
        .expect("it is published")
        .clone();
    scene.fail(&publish, Reason::PushDenied, "registry.test: denied", false);
    scene.plan();
    assert_eq!(scene.ready(), ("False", "PushDenied"));
    assert!(scene.observed.status.digest.is_none());
    scene.succeed(&publish);
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn the_index_has_the_format_the_annotations_and_the_tag_policy_of_the_spec() {
    let mut scene = sources();
    let target = &mut scene.image.spec.target;
    target.format = Some(crate::api::IndexFormat::Oci);
    target.annotations.insert("team".to_owned(), "web".to_owned());
    target.tag_policy = crate::api::TagPolicy::IfAbsent;
    let plan = scene.run();
    let Some(Task::Publish { index, policy, .. }) =
        plan.tasks.iter().find(|task| matches!(task, Task::Publish { .. }))
    else {
        panic!("it is published: {:?}", plan.tasks);
    };
    assert_eq!(*policy, crate::image::TagPolicy::IfAbsent);
    let content: serde_json::Value = serde_json::from_slice(&index.bytes).expect("JSON");
    assert_eq!(content["annotations"]["team"], "web");

    scene.image.spec.target.format = Some(crate::api::IndexFormat::Docker);
    scene.image.spec.target.annotations.clear();
    scene.image.metadata.generation = Some(2);
    scene.run();
    assert_eq!(scene.ready().1, "InvalidSpec");
    assert!(scene.message().contains("format Docker: the image for linux/amd64"), "{}", scene.message());
}

#[test]
fn a_spec_that_the_schema_let_through_is_refused_in_the_status() {
    let mut scene =
        Scene::new(json!({"platforms": [{"platform": "linux/potato", "image": "other.test/web:1"}]}));
    scene.plan();
    assert_eq!(scene.ready(), ("False", "InvalidSpec"));
    let mut scene =
        Scene::new(json!({"target": {"repository": "no spaces please", "tags": ["x"]}, "platforms": []}));
    scene.plan();
    assert_eq!(scene.ready(), ("False", "InvalidSpec"));
}

#[test]
fn history_keeps_the_last_five_publications() {
    let mut scene = sources();
    scene.run();
    for number in 0..7 {
        // Another platform, another index.
        scene.edit(|image| {
            image.spec.platforms[1].platform = format!("linux/{}", ["arm64", "s390x", "ppc64le"][number % 3]);
        });
        scene.run();
        scene.plan();
    }
    assert_eq!(scene.observed.status.history.len(), 5);
    assert_eq!(Some(&scene.observed.status.history[0].digest), scene.observed.status.digest.as_ref());
}

#[test]
fn each_change_is_one_event_and_what_stays_is_none() {
    let mut scene = building();
    let before = scene.observed.status.clone();
    assert!(notes(&before, &before).is_empty());
    scene.break_build("linux-arm64", 65, "error: no");
    scene.run();
    let told = notes(&before, &scene.observed.status);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].warning && told[0].reason == "BuildFailed");
    assert!(told[0].message.starts_with("linux/arm64: no"));
}

#[test]
fn a_message_longer_than_anyone_reads_is_cut_at_a_character() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::SourceNotFound, &"ä".repeat(2000), false);
    scene.plan();
    assert!(scene.message().len() <= 1024);
    assert!(scene.message().ends_with('…'));
}
