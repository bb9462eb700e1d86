//! Published tags that somebody else has moved or removed.

use super::scene::Scene;
use super::tracking::{drifted, run_without, steady, tag};
use super::{publishes, sources};
use crate::api::{DriftPolicy, Phase, Reason, TagPolicy};
use crate::plan::notes;
use crate::plan::task::Task;
use crate::registry::Digest;

#[test]
fn a_tag_that_somebody_moved_is_taken_back_and_told_of_twice() {
    let mut scene = steady();
    let digest = scene.observed.status.digest.clone().expect("a digest");
    scene.wait();
    let before = scene.observed.status.clone();
    scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
    let wait = scene.run().wake_after.expect("a look is due");
    scene.now += wait;
    let look = scene.plan().tasks[0].clone();
    scene.succeed(&look);
    let plan = scene.plan();
    assert_eq!(drifted(&scene), Some(("True".to_owned(), "TagMoved".to_owned())));
    assert_eq!(scene.ready().0, "True");
    let warning = notes(&before, &plan.status);
    assert!(warning.iter().any(|note| note.warning && note.reason == "TagMoved"), "{warning:?}");
    assert!(warning.iter().any(|note| note.message.contains(&format!("not at {digest}"))));
    let before = plan.status;
    scene.run();
    assert_eq!(drifted(&scene), None);
    let told = notes(&before, &scene.observed.status);
    assert!(told.iter().any(|note| !note.warning && note.reason == "DriftCorrected"), "{told:?}");
    assert_eq!(
        scene.registry[&tag("latest").parse().expect("a tag")],
        Some(digest.parse().expect("a digest"))
    );
    let after = scene.observed.status.clone();
    scene.wait();
    assert_eq!(scene.observed.status, after);
    assert_eq!(scene.run().tasks.len(), 1, "it is steady again");
}

#[test]
fn a_tag_that_is_moved_again_and_again_is_taken_back_every_time() {
    let mut scene = steady();
    scene.wait();
    for _ in 0..3 {
        scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
        scene.wait();
        let held = scene.registry[&tag("latest").parse().expect("a tag")].clone();
        assert_eq!(held.map(|held| held.to_string()), scene.observed.status.digest);
    }
}

#[test]
fn a_tag_that_is_gone_is_published_again() {
    let mut scene = steady();
    scene.point(&tag("1.4.2"), None);
    scene.wait();
    assert!(scene.registry[&tag("1.4.2").parse().expect("a tag")].is_some());
}

#[test]
fn a_restart_in_the_middle_of_a_correction_forgets_neither_it_nor_the_news() {
    let mut scene = steady();
    scene.wait();
    scene.point(&tag("latest"), None);
    let wait = scene.run().wake_after.expect("a look is due");
    scene.now += wait;
    let look = scene.plan().tasks[0].clone();
    scene.succeed(&look);
    scene.plan();
    scene.restart();
    scene.observed.started = scene.now;
    assert_eq!(drifted(&scene), Some(("True".to_owned(), "TagMoved".to_owned())));
    scene.run();
    assert_eq!(drifted(&scene), None);
    assert!(scene.registry[&tag("latest").parse().expect("a tag")].is_some());
}

#[test]
fn what_is_only_to_be_reported_is_reported_until_it_is_right_and_never_moved() {
    for set in [
        |scene: &mut Scene| scene.image.spec.target.drift_policy = DriftPolicy::Report,
        |scene: &mut Scene| scene.image.spec.target.tag_policy = TagPolicy::IfAbsent,
    ] {
        let mut scene = sources();
        set(&mut scene);
        scene.run();
        let ours = scene.observed.status.digest.clone().expect("a digest");
        scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
        scene.wait();
        assert_eq!(drifted(&scene), Some(("True".to_owned(), "TagMoved".to_owned())));
        assert_eq!(scene.ready(), ("True", "Published"));
        let plan = scene.run();
        assert!(!publishes(&plan));
        assert_eq!(plan.tasks.len(), 1, "it is only looked at again");
        scene.point(&tag("latest"), Some(ours.parse().expect("a digest")));
        scene.wait();
        assert_eq!(drifted(&scene), None);
    }
}

#[test]
fn credentials_that_do_no_longer_do_are_told_and_take_nothing_from_what_is_published() {
    let mut scene = steady();
    let wait = scene.run().wake_after.expect("a look is due");
    scene.now += wait;
    let look = scene.plan().tasks[0].clone();
    scene.fail(&look, Reason::RegistryUnavailable, "connection refused", true);
    assert_eq!(
        drifted({
            scene.plan();
            &scene
        }),
        None,
        "an outage is not worth a word"
    );
    scene.fail(&look, Reason::AuthenticationFailed, "denied", false);
    scene.plan();
    assert_eq!(drifted(&scene), Some(("Unknown".to_owned(), "AuthenticationFailed".to_owned())));
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.succeed(&look);
    scene.plan();
    assert_eq!(drifted(&scene), None);
}

#[test]
fn what_was_seen_before_a_publication_says_nothing_about_it() {
    let mut scene = steady();
    scene.point("other.test/web:amd64", Some(Digest::sha256(b"new")));
    // The look sees the old index under the tags, and the new source.
    let wait = scene.run().wake_after.expect("a look is due");
    scene.now += wait;
    let look = scene.plan().tasks[0].clone();
    scene.succeed(&look);
    for _ in 0..8 {
        let plan = scene.plan();
        assert_eq!(drifted(&scene), None);
        let open: Vec<Task> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_moved_tag_is_taken_back_though_a_source_is_gone() {
    let mut scene = steady();
    scene.wait();
    let ours = scene.observed.status.digest.clone();
    scene.point("other.test/web:amd64", None);
    scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
    scene.look();
    run_without(&mut scene, "other.test/web:amd64", Reason::SourceNotFound, false);
    assert_eq!(scene.ready(), ("True", "Published"));
    assert_eq!(scene.observed.status.digest, ours);
    assert_eq!(drifted(&scene), None);
    let held = scene.registry[&tag("latest").parse().expect("a tag")].clone();
    assert_eq!(held.map(|held| held.to_string()), ours);
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    assert_eq!(scene.platform("linux/amd64").reason, Some(Reason::SourceNotFound));
}

#[test]
fn a_correction_takes_nothing_from_ready_and_one_that_is_refused_fails_once() {
    let mut scene = steady();
    scene.wait();
    let mut seen = Vec::new();
    for _ in 0..3 {
        scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
        scene.look();
        for _ in 0..8 {
            for task in scene.open() {
                match task {
                    Task::Publish { .. } => scene.fail(&task, Reason::PushDenied, "immutable", false),
                    _ => scene.succeed(&task),
                }
            }
            seen.push((scene.ready().0.to_owned(), scene.has("Reconciling")));
        }
    }
    let failed = seen.iter().position(|(ready, _)| ready == "False").expect("it fails");
    assert!(seen[..failed].iter().all(|(ready, _)| ready == "True"), "{seen:?}");
    assert!(seen[failed..].iter().all(|(ready, _)| ready == "False"), "{seen:?}");
    assert!(seen.iter().all(|(_, reconciling)| !reconciling), "{seen:?}");
}

#[test]
fn a_tag_that_cannot_be_seen_is_neither_right_nor_wrong() {
    let mut scene = sources();
    scene.image.spec.target.drift_policy = DriftPolicy::Report;
    scene.run();
    scene.point(&tag("latest"), Some(Digest::sha256(b"somebody's")));
    scene.wait();
    let said = scene.observed.status.clone();
    scene.unseen = vec![tag("latest").parse().expect("a tag")];
    scene.wait();
    assert_eq!(scene.observed.status, said);
}
