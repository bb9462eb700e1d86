//! Tags that go with their resource.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::scene::REPOSITORY;
use super::scene::Scene;
use super::{building, publishes, sources};
use crate::api::{DeletionPolicy, FINALIZER, Reason};
use crate::plan::fact::{Fact, Failure, Found};
use crate::plan::task::Task;
use crate::plan::{Deletion, deletion, needs};
use crate::registry::Digest;

fn owned() -> Scene {
    let mut scene = sources();
    scene.image.spec.deletion_policy = DeletionPolicy::Delete;
    scene
}

/// Published, and now being deleted.
fn going() -> Scene {
    let mut scene = owned();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.image.metadata.deletion_timestamp = Some(Time(scene.now));
    scene
}

fn decide(scene: &Scene) -> Deletion {
    deletion(&scene.image, &scene.observed, scene.now)
}

fn releases(deletion: &Deletion) -> bool {
    deletion.tasks.iter().any(|task| matches!(task, Task::SetFinalizer { present: false }))
}

#[test]
fn nothing_is_published_before_the_resource_is_kept_until_its_tags_are_removed() {
    let mut scene = owned();
    for _ in 0..5 {
        let plan = scene.plan();
        assert!(!publishes(&plan));
        let open = plan.tasks.iter().filter(|task| !matches!(task, Task::SetFinalizer { .. }));
        let open: Vec<Task> = open.filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert!(scene.image.metadata.finalizers.is_none());
    scene.run();
    assert_eq!(scene.image.metadata.finalizers.as_deref(), Some([FINALIZER.to_owned()].as_slice()));
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_resource_whose_tags_are_to_stay_is_not_kept_and_is_let_go_when_the_policy_changes() {
    let mut scene = sources();
    scene.run();
    assert!(scene.image.metadata.finalizers.is_none());
    let mut scene = owned();
    scene.run();
    scene.edit(|image| image.spec.deletion_policy = DeletionPolicy::Retain);
    scene.run();
    assert!(scene.image.metadata.finalizers.is_none());
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn the_tags_go_first_and_then_the_resource() {
    let mut scene = going();
    let first = decide(&scene);
    assert!(!releases(&first));
    let [Task::DeleteTags { tags }] = first.tasks.as_slice() else { panic!("{:?}", first.tasks) };
    assert_eq!(tags.len(), 2);
    assert!(tags.iter().all(|(_, digest)| Some(digest.to_string()) == scene.observed.status.digest));
    scene.succeed(&first.tasks[0]);
    let then = decide(&scene);
    assert!(releases(&then) && then.notes.is_empty());
}

#[test]
fn what_could_not_be_removed_is_told_once_and_keeps_nobody() {
    let mut scene = going();
    let task = decide(&scene).tasks[0].clone();
    let kept = vec!["registry.test/team-a/web:latest (the registry removes no tags)".to_owned()];
    scene.observed.facts.insert(task.key(), Fact::Known(Found::Kept(kept)));
    let then = decide(&scene);
    assert!(releases(&then));
    assert!(then.notes[0].warning && then.notes[0].message.contains("web:latest"), "{:?}", then.notes);
    then.tasks.iter().for_each(|task| scene.observed.facts.insert(task.key(), Fact::Known(Found::Done)));
    scene.observed.facts.insert(task.key(), Fact::Known(Found::Kept(vec!["x".to_owned()])));
    assert!(decide(&scene).notes.is_empty());
}

#[test]
fn a_registry_that_is_down_is_waited_for_but_not_for_ever() {
    let mut scene = going();
    let task = decide(&scene).tasks[0].clone();
    scene.fail(&task, Reason::RegistryUnavailable, "connection refused", true);
    let waiting = decide(&scene);
    assert!(!releases(&waiting));
    assert_eq!(waiting.wake_after, Some(SignedDuration::from_secs(7)));
    scene.now = scene.now.saturating_add(SignedDuration::from_mins(11)).expect("a time");
    let then = decide(&scene);
    assert!(releases(&then));
    assert!(then.notes[0].message.contains("connection refused"), "{:?}", then.notes);
}

#[test]
fn a_refusal_keeps_nobody_at_all() {
    let mut scene = going();
    let task = decide(&scene).tasks[0].clone();
    for (reason, transient) in [(Reason::PushDenied, false), (Reason::SecretNotFound, true)] {
        scene.fail(&task, reason, "no", transient);
        assert!(releases(&decide(&scene)));
    }
}

#[test]
fn what_is_suspended_or_was_never_published_goes_at_once_and_builds_are_stopped() {
    let mut scene = going();
    scene.image.spec.suspend = true;
    assert!(releases(&decide(&scene)) && decide(&scene).tasks.len() == 1);
    let mut scene = building();
    scene.image.spec.deletion_policy = DeletionPolicy::Delete;
    scene.image.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let then = decide(&scene);
    assert!(releases(&then));
    assert_eq!(then.tasks.iter().filter(|task| matches!(task, Task::DeleteJob { .. })).count(), 2);
}

#[test]
fn a_registry_that_asks_to_be_left_alone_for_an_hour_keeps_nobody_for_so_long() {
    let mut scene = going();
    assert_eq!(decide(&scene).wake_after, Some(SignedDuration::from_mins(10)));
    let task = decide(&scene).tasks[0].clone();
    let retry_at = scene.now + SignedDuration::from_hours(1);
    let failure =
        Failure { reason: Reason::RateLimited, message: "slow down".to_owned(), transient: true, retry_at };
    scene.observed.facts.insert(task.key(), Fact::Failed(failure));
    assert_eq!(decide(&scene).wake_after, Some(SignedDuration::from_mins(10)));
    scene.now += SignedDuration::from_mins(10);
    assert!(releases(&decide(&scene)));
}

#[test]
fn a_finalizer_that_cannot_be_set_is_told() {
    let mut scene = owned();
    for _ in 0..6 {
        for task in scene.open() {
            match task {
                Task::SetFinalizer { .. } => scene.fail(&task, Reason::ClusterError, "forbidden", false),
                _ => scene.succeed(&task),
            }
        }
    }
    assert_eq!(scene.ready(), ("False", "ClusterError"));
    assert!(scene.message().contains("forbidden"), "{}", scene.message());
}

/// The publication of an image whose tags go with it, as it is begun.
fn publishing() -> (Scene, Task) {
    let mut scene = owned();
    scene.image.spec.target.platform_tag = Some("{tag}-{arch}".to_owned());
    for _ in 0..8 {
        for task in scene.open() {
            if !matches!(task, Task::Publish { .. }) {
                scene.succeed(&task);
            }
        }
    }
    let publish = scene.open().into_iter().find(|task| matches!(task, Task::Publish { .. }));
    (scene, publish.expect("a publication"))
}

#[test]
fn tags_of_a_publication_that_did_not_come_to_its_end_go_as_well() {
    let (mut scene, publish) = publishing();
    let Task::Publish { index, .. } = &publish else { return };
    assert!(scene.observed.status.published.is_none());
    assert_eq!(scene.observed.status.publishing.len(), 6, "two of the index and of each platform");
    scene.fail(&publish, Reason::PushDenied, "1.4.2: the tag is immutable", false);
    scene.plan();
    scene.restart();
    scene.image.metadata.deletion_timestamp = Some(Time(scene.now));
    let then = decide(&scene);
    let [Task::DeleteTags { tags }] = then.tasks.as_slice() else { panic!("{:?}", then.tasks) };
    assert_eq!(tags.len(), 6);
    let of_index = tags.iter().filter(|(_, digest)| *digest == index.descriptor.digest).count();
    assert_eq!(of_index, 2);
}

#[test]
fn a_publication_under_way_comes_to_its_end_before_its_tags_are_removed() {
    let (mut scene, publish) = publishing();
    scene.observed.publications = vec![publish.clone()];
    scene.image.metadata.deletion_timestamp = Some(Time(scene.now));
    let first = decide(&scene);
    let [task] = first.tasks.as_slice() else { panic!("{:?}", first.tasks) };
    assert_eq!(task.key(), publish.key());
    scene.now += SignedDuration::from_mins(10);
    assert!(
        !decide(&scene).tasks.iter().any(|task| matches!(task, Task::Publish { .. })),
        "but not for ever"
    );
    scene.observed.publications.clear();
    assert!(decide(&scene).tasks.iter().any(|task| matches!(task, Task::DeleteTags { .. })));
}

#[test]
fn what_is_published_is_not_remembered_as_being_published() {
    let (mut scene, publish) = publishing();
    scene.succeed(&publish);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.observed.status.publishing.is_empty());
}

#[test]
fn what_a_publication_left_that_was_given_up_is_written_again() {
    let mut scene = owned();
    scene.run();
    let ours = scene.observed.status.digest.clone().expect("a digest");
    scene.edit(|image| image.spec.target.annotations = [("a".to_owned(), "b".to_owned())].into());
    for _ in 0..6 {
        for task in scene.open() {
            if !matches!(task, Task::Publish { .. }) {
                scene.succeed(&task);
            }
        }
    }
    assert_eq!(scene.observed.status.publishing.len(), 2);
    // One tag was written when the edit was taken back.
    scene.point(
        &format!("{REPOSITORY}:latest"),
        scene.observed.status.publishing[0].digest.as_ref().and_then(|digest| digest.parse().ok()),
    );
    scene.edit(|image| image.spec.target.annotations.clear());
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert_eq!(scene.observed.status.digest.as_ref(), Some(&ours));
    let held = scene.registry[&format!("{REPOSITORY}:latest").parse().expect("a tag")].clone();
    assert_eq!(held.map(|held| held.to_string()), Some(ours));
    assert!(scene.observed.status.publishing.is_empty());
}

#[test]
fn an_index_that_another_resource_names_by_its_digest_is_needed() {
    let digest = Digest::sha256(b"index");
    let repository = REPOSITORY.parse().expect("a repository");
    let with = |image: String| {
        Scene::new(serde_json::json!({"platforms": [{"platform": "linux/amd64", "image": image}]})).image
    };
    assert!(needs(&with(format!("{REPOSITORY}@{digest}")), &repository, &digest));
    assert!(needs(&with(format!("registry.test:443/team-a/web:1@{digest}")), &repository, &digest));
    assert!(!needs(&with(format!("{REPOSITORY}:latest")), &repository, &digest));
    assert!(!needs(&with(format!("other.test/web@{digest}")), &repository, &digest));
    let mut scene = owned();
    scene.run();
    scene.image.status = Some(scene.observed.status.clone());
    let own = scene.observed.status.digest.as_ref().and_then(|digest| digest.parse().ok()).expect("a digest");
    assert!(needs(&scene.image, &repository, &own), "what it has published");
}
