//! Looks at what is published while something else is at work, and looks that do not see everything.

use jiff::SignedDuration;
use serde_json::json;

use super::scene::{COMMIT, REPOSITORY, Scene};
use super::tracking::{drifted, steady, tag};
use crate::api::{ANNOTATION_RECONCILE, DriftPolicy, Mirror, Phase, Reason};
use crate::plan::fact::{Checked, Fact, Found};
use crate::plan::notes;
use crate::plan::task::Task;
use crate::registry::Digest;

const MIRROR: &str = "mirror.test/acme/web";

fn is_check(task: &Task) -> bool {
    matches!(task, Task::Check { .. })
}

/// Published, and now with a platform that has to wait.
fn waiting() -> Scene {
    let mut scene = steady();
    scene.edit(|image| {
        let third = json!({"platform": "linux/s390x", "image": "other.test/web:s390x"});
        image.spec.platforms.push(serde_json::from_value(third).expect("a platform"));
    });
    for _ in 0..6 {
        for task in scene.open() {
            match &task {
                Task::ResolveImage { platform, .. } if platform.architecture() == "s390x" => {
                    scene.fail(&task, Reason::RegistryUnavailable, "connection refused", true);
                }
                _ => scene.succeed(&task),
            }
        }
    }
    assert_eq!(scene.platform("linux/s390x").phase, Phase::Waiting);
    assert!(scene.has("Reconciling"));
    scene
}

/// Lets time pass until the next look is due, whatever else is, and takes it.
fn look(scene: &mut Scene) {
    scene.now += SignedDuration::from_mins(10);
    for task in scene.plan().tasks.iter().filter(|task| is_check(task)) {
        scene.succeed(task);
    }
}

#[test]
fn a_look_from_before_a_push_does_not_take_back_the_commit_that_was_looked_up_after_it() {
    let mut scene = super::published();
    let next = "1".repeat(40);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    scene.open().iter().filter(|task| is_check(task)).for_each(|task| scene.succeed(task));
    scene.commit = Some(next.clone());
    scene.run();
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    for _ in 0..4 {
        scene.run();
    }
    assert_eq!(scene.ready(), ("True", "Published"));
    assert_eq!(scene.observed.status.source_revision.as_ref(), Some(&next));
    scene.commit = Some(COMMIT.to_owned());
    look(&mut scene);
    scene.plan();
    assert_eq!(scene.observed.status.source_revision.as_deref(), Some(COMMIT), "a later look counts");
}

#[test]
fn a_tag_that_is_moved_while_a_new_platform_waits_is_told() {
    let mut scene = waiting();
    scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
    look(&mut scene);
    scene.plan();
    assert_eq!(drifted(&scene), Some(("True".to_owned(), "TagMoved".to_owned())));
    assert!(scene.has("Reconciling"), "and it goes on waiting");
}

#[test]
fn a_tag_that_is_moved_while_a_new_platform_waits_is_taken_back_unless_it_is_only_to_be_reported() {
    for is_reported in [false, true] {
        let mut scene = waiting();
        let ours = scene.observed.status.digest.clone();
        if is_reported {
            scene.image.spec.target.drift_policy = DriftPolicy::Report;
        }
        scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
        look(&mut scene);
        for _ in 0..4 {
            let open = scene.open();
            open.iter()
                .filter(|task| matches!(task, Task::PutBack { .. }))
                .for_each(|task| scene.succeed(task));
        }
        let held = scene.registry[&tag("latest").parse().expect("a tag")].clone();
        assert_eq!(held.map(|held| held.to_string()) == ours, !is_reported);
        assert_eq!(drifted(&scene).is_some(), is_reported);
        assert!(scene.has("Reconciling"));
        look(&mut scene);
        scene.plan();
        assert_eq!(drifted(&scene).is_some(), is_reported, "and a look confirms it");
    }
}

#[test]
fn an_edit_begins_one_look_and_does_not_give_it_up() {
    let mut scene = steady();
    scene.now += SignedDuration::from_hours(1);
    scene.edit(|image| image.spec.target.tags.push("new".to_owned()));
    let look = scene.plan().tasks.iter().find(|task| is_check(task)).map(Task::key);
    assert!(look.is_some());
    for _ in 0..4 {
        let open = scene.open();
        assert_eq!(open.iter().find(|task| is_check(task)).map(Task::key), look);
        open.iter()
            .filter(|task| !is_check(task) && !matches!(task, Task::Publish { .. }))
            .for_each(|task| scene.succeed(task));
    }
}

#[test]
fn what_a_publication_under_way_has_written_is_nobody_elses() {
    let mut scene = steady();
    scene.now += SignedDuration::from_hours(1);
    scene.edit(|image| image.spec.target.annotations = [("a".to_owned(), "b".to_owned())].into());
    for _ in 0..4 {
        let open = scene.open();
        open.iter()
            .filter(|task| !is_check(task) && !matches!(task, Task::Publish { .. }))
            .for_each(|task| scene.succeed(task));
    }
    let open = scene.open();
    let publish = open.iter().find(|task| matches!(task, Task::Publish { .. })).expect("a publication");
    let Task::Publish { index, .. } = publish else { return };
    // Half of it is written when it is looked.
    scene.point(&tag("latest"), Some(index.descriptor.digest.clone()));
    open.iter().filter(|task| is_check(task)).for_each(|task| scene.succeed(task));
    scene.plan();
    assert_eq!(drifted(&scene), None);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.observed.status.publishing.is_empty());
}

#[test]
fn a_secret_that_is_gone_is_told_at_once_and_an_outage_after_three_intervals() {
    let mut scene = steady();
    scene.wait();
    let task = scene.run().tasks[0].clone();
    let before = scene.observed.status.clone();
    scene.fail(&task, Reason::SecretNotFound, "secret/regcred does not exist", true);
    scene.plan();
    assert_eq!(drifted(&scene), Some(("Unknown".to_owned(), "SecretNotFound".to_owned())));
    let told = notes(&before, &scene.observed.status);
    assert!(told.len() == 1 && told[0].warning && told[0].message.contains("secret/regcred"), "{told:?}");
    scene.succeed(&task);
    scene.plan();
    assert_eq!((drifted(&scene), scene.ready()), (None, ("True", "Published")));

    scene.fail(&task, Reason::RegistryUnavailable, "connection refused", true);
    for expected in [None, None, Some(("Unknown".to_owned(), "RegistryUnavailable".to_owned()))] {
        scene.now += SignedDuration::from_mins(14);
        scene.fail(&task, Reason::RegistryUnavailable, "connection refused", true);
        scene.plan();
        assert_eq!(drifted(&scene), expected);
    }
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn tags_that_have_not_been_seen_for_three_intervals_are_told_though_the_sources_are_seen() {
    let mut scene = steady();
    scene.wait();
    let task = scene.run().tasks[0].clone();
    scene.unseen = [tag("latest"), tag("1.4.2")].map(|tag| tag.parse().expect("a tag")).into();
    scene.succeed(&task);
    let Some(Fact::Known(Found::Checked(checked))) = scene.observed.facts.get(&task) else { return };
    let unseen = Some((Reason::RegistryUnavailable, "connection refused".to_owned()));
    let checked = Checked { unseen, ..(**checked).clone() };
    scene.observed.facts.insert(task.key(), Fact::Known(Found::Checked(checked.into())));
    scene.observed.facts.insert_failing(task.key(), scene.now);
    scene.plan();
    assert_eq!(drifted(&scene), None);
    scene.now += SignedDuration::from_mins(30);
    scene.plan();
    assert_eq!(drifted(&scene), Some(("Unknown".to_owned(), "RegistryUnavailable".to_owned())));
}

#[test]
fn an_image_that_a_mirror_has_lost_is_copied_there_however_long_that_takes() {
    let mut scene = steady();
    scene.edit(|image| image.spec.target.mirrors = vec![Mirror { repository: MIRROR.to_owned() }]);
    scene.run();
    let child = scene.platform("linux/arm64").digest.clone().expect("a digest");
    scene.point(&format!("{MIRROR}@{child}"), None);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    let copies = |scene: &mut Scene| -> Vec<Task> {
        let to_mirror = |task: &Task| matches!(task, Task::CopyImage { to, .. } if to.to_string() == MIRROR);
        scene.open().into_iter().filter(to_mirror).collect()
    };
    for _ in 0..6 {
        for task in scene.open() {
            if !matches!(&task, Task::CopyImage { look: Some(_), .. }) {
                scene.succeed(&task);
            }
        }
    }
    let copy = copies(&mut scene);
    assert_eq!(copy.len(), 1);
    // Looks come and go, and one fails, while it is copied.
    for round in 0..4 {
        look(&mut scene);
        if round == 1 {
            let task = scene.plan().tasks.into_iter().find(is_check).expect("a look");
            scene.fail(&task, Reason::RegistryUnavailable, "down", true);
        }
        assert_eq!(copies(&mut scene).iter().map(Task::key).collect::<Vec<_>>(), [copy[0].key()]);
    }
    scene.restart();
    scene.plan();
    assert_eq!(scene.observed.status.missing.len(), 1, "a restart does not forget it");
    scene.run();
    scene.point(&format!("{MIRROR}@{child}"), Some(child.parse().expect("a digest")));
    scene.wait();
    assert!(scene.observed.status.missing.is_empty());
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.run().tasks.iter().all(is_check), "it is steady again");
}

#[test]
fn an_image_that_was_collected_while_others_were_built_is_built_again() {
    let mut scene = super::building();
    scene.finish("linux-amd64");
    scene.run();
    scene.now += SignedDuration::from_hours(500);
    scene.finish("linux-arm64");
    let mut refused = 0;
    for _ in 0..12 {
        for task in scene.open() {
            match &task {
                Task::Publish { .. } => {
                    refused += 1;
                    scene.fail(&task, Reason::SourceNotFound, "what the manifest lists is not there", false);
                }
                Task::InspectBuild { platform, look: Some(_), .. } if platform.architecture() == "amd64" => {
                    scene.fail(&task, Reason::BuildResultLost, "manifest unknown", false);
                }
                Task::DeleteJob { .. } => {
                    scene.succeed(&task);
                    scene.observed.pods.retain(|pod| pod.metadata.name.as_deref() != Some("pod-linux-amd64"));
                }
                _ => scene.succeed(&task),
            }
        }
    }
    assert_eq!((refused, scene.observed.jobs.len()), (1, 2), "its next Job is there");
    assert_eq!(scene.platform("linux/arm64").phase, Phase::Ready);
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Pending);
    // What nobody wanted for a while is forgotten.
    scene.restart();
    scene.finish("linux-amd64");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.wait();
    assert!(scene.observed.status.missing.is_empty());
}

#[test]
fn a_registry_that_says_so_of_images_that_are_there_is_not_asked_for_them_again_and_again() {
    let mut scene = super::sources();
    let mut copies = 0;
    for _ in 0..20 {
        for task in scene.open() {
            match &task {
                Task::Publish { .. } => scene.fail(&task, Reason::SourceNotFound, "unknown blob", false),
                Task::CopyImage { .. } => {
                    copies += 1;
                    scene.succeed(&task);
                }
                _ => scene.succeed(&task),
            }
        }
        scene.now += SignedDuration::from_secs(20);
    }
    assert_eq!(copies, 4, "once, and once more");
    assert_eq!(scene.ready(), ("False", "SourceNotFound"));
    assert!(scene.observed.status.missing.iter().all(|missing| missing.repository == REPOSITORY));
}
