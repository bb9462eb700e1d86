//! What is published is kept true.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::json;

use super::scene::{COMMIT, REPOSITORY, Scene};
use super::sources;
use crate::api::{ANNOTATION_RECONCILE, Phase, Reason};
use crate::plan::task::Task;
use crate::plan::{Plan, notes};
use crate::registry::{Digest, Reference};

/// Two sources, copied and published.
pub(super) fn steady() -> Scene {
    let mut scene = sources();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene
}

fn looked_at(plan: &Plan) -> Vec<String> {
    let references = plan.tasks.iter().filter_map(|task| match task {
        Task::Check { sources, published, .. } => Some(sources.iter().chain(published)),
        _ => None,
    });
    references.flatten().map(Reference::to_string).collect()
}

pub(super) fn tag(name: &str) -> String {
    format!("{REPOSITORY}:{name}")
}

pub(super) fn drifted(scene: &Scene) -> Option<(String, String)> {
    let condition = scene.observed.status.condition("Drifted")?;
    Some((condition.status.clone(), condition.reason.clone()))
}

#[test]
fn a_steady_image_is_looked_at_once_an_interval_with_one_request_a_source_tag_and_published_tag() {
    let mut scene = steady();
    let before = scene.observed.status.clone();
    let plan = scene.run();
    let wait = plan.wake_after.expect("a look is due");
    assert!(wait <= SignedDuration::from_mins(10));
    scene.wait();
    for _ in 0..5 {
        let plan = scene.run();
        assert_eq!(plan.wake_after, Some(SignedDuration::from_mins(10)));
        let mut expected = vec!["other.test/web:amd64".to_owned(), "other.test/web:arm64".to_owned()];
        expected.extend([tag("1.4.2"), tag("latest")]);
        assert_eq!(looked_at(&plan), expected);
        assert_eq!(plan.tasks.len(), 1);
        scene.wait();
    }
    assert_eq!(scene.observed.status, before, "nothing is written");
}

#[test]
fn ten_thousand_images_are_looked_at_at_ten_thousand_moments() {
    let mut moments = BTreeSet::new();
    let mut scene = steady();
    for number in 0..10_000 {
        scene.image.metadata.uid = Some(format!("uid-{number}"));
        moments.insert(scene.plan().wake_after.expect("a look").as_millis() / 1000);
    }
    assert_eq!(moments.len(), 600, "every second of the interval has its share");
}

#[test]
fn a_restart_neither_looks_at_everything_at_once_nor_moves_the_moment() {
    let mut scene = steady();
    let due = scene.now + scene.plan().wake_after.expect("a look is due");
    scene.now = scene.now.saturating_add(SignedDuration::from_hours(30)).expect("a time");
    scene.restart();
    scene.observed.started = scene.now;
    let plan = scene.plan();
    assert!(plan.tasks.is_empty());
    let next = scene.now + plan.wake_after.expect("a look is due");
    assert_eq!((next.as_second() - due.as_second()) % 600, 0);
}

#[test]
fn a_moved_source_tag_is_published_and_nothing_else_is_said_meanwhile() {
    let mut scene = steady();
    let old = scene.observed.status.digest.clone();
    scene.point("other.test/web:amd64", Some(Digest::sha256(b"new")));
    scene.wait();
    assert_ne!(scene.observed.status.digest, old);
    assert_eq!(scene.ready(), ("True", "Published"));
    let source = scene.platform("linux/amd64").source.clone().expect("a source");
    assert_eq!(source.digest, Some(Digest::sha256(b"new").to_string()));
    assert_eq!(scene.observed.status.history.len(), 2);
    assert_eq!(drifted(&scene), None);
    let plan = scene.run();
    assert_eq!(plan.tasks.len(), 1, "it is steady again: {:?}", plan.tasks);
}

#[test]
fn a_source_that_is_gone_takes_nothing_from_what_is_published() {
    let mut scene = steady();
    scene.wait();
    let before = scene.observed.status.clone();
    scene.point("other.test/web:amd64", None);
    scene.wait();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert_eq!(scene.platform("linux/amd64").reason, Some(Reason::SourceNotFound));
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    let told = notes(&before, &scene.observed.status);
    assert_eq!(told.len(), 1);
    assert!(told[0].warning && told[0].message.contains("is not there any more"), "{told:?}");
    let source = before.platform("linux/amd64").and_then(|entry| entry.source.clone()?.digest);
    scene.point("other.test/web:amd64", source.map(|digest| digest.parse().expect("a digest")));
    scene.wait();
    assert_eq!(scene.observed.status, before);
}

#[test]
fn a_request_looks_at_the_tags_and_the_images_at_once() {
    let mut scene = steady();
    scene.point(&tag("latest"), None);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    let plan = scene.plan();
    let child = scene.platform("linux/amd64").digest.clone().expect("a digest");
    assert!(looked_at(&plan).contains(&format!("{REPOSITORY}@{child}")), "{:?}", looked_at(&plan));
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(5)).expect("a time");
    scene.run();
    assert!(scene.registry[&tag("latest").parse().expect("a tag")].is_some());
    assert_eq!(drifted(&scene), None);
}

#[test]
fn the_images_themselves_are_looked_at_once_a_day() {
    let mut scene = steady();
    let end = scene.now.saturating_add(SignedDuration::from_hours(48)).expect("a time");
    let (mut looks, mut with_images) = (0, 0);
    while scene.now < end {
        let wait = scene.run().wake_after.expect("a look is due");
        scene.now += wait;
        let plan = scene.plan();
        looks += 1;
        with_images += u32::from(looked_at(&plan).iter().any(|reference| reference.contains('@')));
        plan.tasks.iter().for_each(|task| scene.succeed(task));
    }
    assert!((287..=289).contains(&looks), "{looks}");
    assert_eq!(with_images, 2);
}

#[test]
fn an_image_that_the_registry_has_collected_is_copied_again() {
    let mut scene = steady();
    let child = scene.platform("linux/arm64").digest.clone().expect("a digest");
    scene.point(&format!("{REPOSITORY}@{child}"), None);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    let mut copies = BTreeSet::new();
    for _ in 0..10 {
        let plan = scene.plan();
        copies.extend(
            plan.tasks
                .iter()
                .filter(|task| matches!(task, Task::CopyImage { look: Some(_), .. }))
                .map(Task::key),
        );
        let open: Vec<Task> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(copies.len(), 1);
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_build_that_the_registry_has_collected_is_built_again() {
    let mut scene = super::published();
    scene.restart();
    scene.annotate(ANNOTATION_RECONCILE, "now");
    let inspect = |plan: &Plan| {
        plan.tasks.iter().find(|task| matches!(task, Task::InspectBuild { platform, .. } if platform.architecture() == "arm64")).cloned()
    };
    let commit = scene.plan().tasks.iter().find(|task| matches!(task, Task::ResolveCommit { .. })).cloned();
    scene.succeed(&commit.expect("the branch is looked up"));
    let task = inspect(&scene.plan()).expect("it is looked at");
    scene.fail(&task, Reason::BuildResultLost, "manifest unknown", false);
    let plan = scene.plan();
    assert_eq!(scene.platform("linux/arm64").reason, Some(Reason::BuildResultLost));
    assert!(
        scene
            .platform("linux/arm64")
            .message
            .as_ref()
            .is_some_and(|message| message.contains("is in the registry no more"))
    );
    let old = super::deleted(&plan);
    assert_eq!(old.len(), 1, "its Job is removed, though it had succeeded");
    // Until it has gone, its result counts no more.
    let plan = scene.plan();
    assert_eq!(super::deleted(&plan).len(), 1);
    assert_eq!(inspect(&plan).map(|task| task.key()), None);
    scene
        .observed
        .jobs
        .retain(|job| !job.metadata.name.as_deref().is_some_and(|name| name.contains("arm64")));
    scene
        .observed
        .pods
        .retain(|pod| !pod.metadata.name.as_deref().is_some_and(|name| name.contains("arm64")));
    scene.run();
    assert_eq!(scene.observed.jobs.len(), 2, "it is built again");
    assert_eq!(scene.ready().0, "Unknown");
    // While it was being built nobody wanted the look that failed, so it is forgotten.
    scene.restart();
    scene.run();
    scene.finish("linux-arm64");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn what_a_build_has_pushed_and_nobody_has_ever_seen_is_not_built_for_ever() {
    let mut scene = super::building();
    scene.finish("linux-amd64");
    let plan = scene.plan();
    let task =
        plan.tasks.iter().find(|task| matches!(task, Task::InspectBuild { .. })).cloned().expect("a look");
    scene.fail(&task, Reason::BuildResultLost, "manifest unknown", false);
    scene.plan();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Failed);
}

#[test]
fn a_branch_that_moved_is_built_again_and_not_before_the_build_under_way_has_ended() {
    let mut scene = super::published();
    let next = "1".repeat(40);
    scene.commit = Some(next.clone());
    scene.wait();
    assert_eq!(scene.observed.status.source_revision.as_ref(), Some(&next));
    assert!(scene.has("Reconciling"));
    let jobs: Vec<_> = scene.observed.jobs.iter().filter_map(|job| job.metadata.name.clone()).collect();
    scene.commit = Some("2".repeat(40));
    let wait = scene.run().wake_after.expect("a look is due");
    scene.now += wait;
    for task in scene.plan().tasks.iter().filter(|task| matches!(task, Task::Check { .. })) {
        scene.succeed(task);
    }
    scene.run();
    assert_eq!(scene.observed.status.source_revision.as_ref(), Some(&next), "it is built to its end");
    assert!(
        scene.observed.jobs.iter().all(|job| job
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| jobs.contains(name)))
    );
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    for _ in 0..4 {
        scene.run();
    }
    assert_eq!(scene.observed.status.source_revision, Some("2".repeat(40)));
}

#[test]
fn a_commit_that_does_not_build_makes_way_for_the_next_one() {
    let mut scene = super::building();
    scene.break_build("linux-amd64", 65, "no");
    scene.break_build("linux-arm64", 65, "no");
    scene.run();
    assert!(scene.has("Stalled"));
    assert_eq!(scene.observed.status.source_revision.as_deref(), Some(COMMIT));
    scene.commit = Some("3".repeat(40));
    scene.wait();
    assert_eq!(scene.observed.status.source_revision, Some("3".repeat(40)));
    assert!(scene.has("Reconciling"));
}

#[test]
fn a_fixed_commit_is_never_looked_up() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"git": {"url": "https://git.test/web.git", "commit": COMMIT}}},
    }));
    scene.run();
    scene.finish("linux-amd64");
    scene.run();
    scene.wait();
    let plan = scene.run();
    assert!(plan.tasks.iter().any(|task| matches!(task, Task::Check { git: None, .. })));
}

/// Lets everything end well but the look-up of one source, which fails.
pub(super) fn run_without(scene: &mut Scene, source: &str, reason: Reason, transient: bool) {
    for _ in 0..12 {
        for task in scene.open() {
            match &task {
                Task::ResolveImage { reference, .. } if reference.to_string() == source => {
                    scene.fail(&task, reason, "it is not there", transient);
                }
                _ => scene.succeed(&task),
            }
        }
    }
}

#[test]
fn a_look_that_does_not_see_a_source_takes_nothing_back() {
    let mut scene = steady();
    scene.wait();
    scene.point("other.test/web:amd64", Some(Digest::sha256(b"new")));
    scene.look();
    run_without(&mut scene, "other.test/web:arm64", Reason::SourceInvalid, false);
    scene.unseen = vec!["other.test/web:amd64".parse().expect("a tag")];
    let before = scene.observed.status.clone();
    for _ in 0..3 {
        scene.look();
        run_without(&mut scene, "other.test/web:arm64", Reason::SourceInvalid, false);
        assert_eq!(scene.observed.status, before);
    }
}

#[test]
fn where_nothing_at_all_is_to_be_seen_nothing_is_thought_lost() {
    let mut scene = super::published();
    let digests: Vec<String> =
        scene.observed.status.platforms.iter().filter_map(|entry| entry.digest.clone()).collect();
    for digest in digests {
        scene.point(&format!("{REPOSITORY}@{digest}"), None);
    }
    scene.point(&tag("1.4.2"), None);
    scene.point(&tag("latest"), None);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    for _ in 0..10 {
        for task in scene.open() {
            assert!(!matches!(task, Task::InspectBuild { look: Some(_), .. }));
            scene.succeed(&task);
        }
    }
}
