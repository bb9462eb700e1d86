//! What is counted: every end once, whoever looks how often.

use jiff::SignedDuration;
use serde_json::json;

use super::scene::{REPOSITORY, Scene};
use super::{building, published, sources};
use crate::api::{ANNOTATION_REBUILD, ANNOTATION_RECONCILE, Reason};
use crate::plan::Outcome;
use crate::plan::task::Task;
use crate::registry::Digest;

fn builds_counted(scene: &Scene) -> Vec<(&str, Option<Reason>)> {
    let builds = scene.counted.iter().filter_map(|outcome| match outcome {
        Outcome::Build { platform, failed, .. } => Some((platform.as_str(), *failed)),
        _ => None,
    });
    builds.collect()
}

fn publications_counted(scene: &Scene) -> Vec<Option<Reason>> {
    let publications = scene.counted.iter().filter_map(|outcome| match outcome {
        Outcome::Publication { failed } => Some(*failed),
        _ => None,
    });
    publications.collect()
}

#[test]
fn a_build_and_a_publication_count_once_however_often_they_are_looked_at() {
    let mut scene = published();
    let counted = scene.counted.clone();
    assert_eq!(builds_counted(&scene), [("linux/amd64", None), ("linux/arm64", None)]);
    assert_eq!(publications_counted(&scene), [None]);
    scene.restart();
    scene.wait();
    scene.annotate(ANNOTATION_RECONCILE, "now");
    scene.wait();
    scene.edit(|image| image.spec.suspend = true);
    scene.run();
    scene.edit(|image| image.spec.suspend = false);
    scene.run();
    assert_eq!(scene.counted, counted);
}

#[test]
fn a_build_that_is_asked_for_again_counts_again_though_it_gives_the_same() {
    let mut scene = published();
    scene.annotate(ANNOTATION_REBUILD, "again");
    scene.run();
    scene.finish("linux-amd64");
    scene.run();
    let counted = builds_counted(&scene);
    assert_eq!(counted, [("linux/amd64", None), ("linux/arm64", None), ("linux/amd64", None)]);
}

#[test]
fn the_duration_of_a_build_is_that_of_its_job() {
    let mut scene = building();
    let started = scene.now;
    scene.change_job("linux-amd64", json!({"startTime": started.to_string()}));
    scene.plan();
    scene.plan();
    let platform = "linux/amd64".to_owned();
    assert_eq!(scene.counted, [Outcome::BuildBegun { platform }]);
    scene.counted.clear();
    scene.now = started + SignedDuration::from_secs(90);
    scene.finish("linux-amd64");
    scene.change_job(
        "linux-amd64",
        json!({"startTime": started.to_string(), "completionTime": scene.now.to_string(),
            "conditions": [{"type": "Complete", "status": "True"}]}),
    );
    scene.plan();
    let took = Some(SignedDuration::from_secs(90));
    let platform = "linux/amd64".to_owned();
    let build = Outcome::Build { platform, emulated: false, failed: None, took };
    assert_eq!(scene.counted, [build]);
}

#[test]
fn a_failed_build_counts_once_with_its_reason_and_again_when_it_fails_again() {
    let mut scene = building();
    scene.break_build("linux-amd64", 1, "error: failed to solve: no");
    scene.plan();
    scene.plan();
    scene.edit(|image| image.spec.suspend = true);
    scene.plan();
    scene.edit(|image| image.spec.suspend = false);
    scene.run();
    assert_eq!(builds_counted(&scene), [("linux/amd64", Some(Reason::BuildFailed))]);
    scene.annotate(ANNOTATION_REBUILD, "again");
    scene.run();
    scene.break_build("linux-amd64", 1, "error: failed to solve: no");
    scene.plan();
    assert_eq!(builds_counted(&scene), [("linux/amd64", Some(Reason::BuildFailed)); 2]);
}

#[test]
fn what_keeps_a_build_from_beginning_is_no_build() {
    let mut scene = super::builds();
    let tasks = scene.open();
    let commit = tasks.iter().find(|task| matches!(task, Task::ResolveCommit { .. })).expect("a look-up");
    scene.fail(commit, Reason::ContextNotFound, "no such ref", false);
    scene.plan();
    assert!(scene.counted.is_empty(), "{:?}", scene.counted);
}

#[test]
fn a_publication_that_is_refused_counts_with_its_reason_and_not_for_every_attempt() {
    let mut scene = sources();
    let publish = loop {
        let open = scene.open();
        match open.iter().find(|task| matches!(task, Task::Publish { .. })) {
            Some(publish) => break publish.clone(),
            None => open.iter().for_each(|task| scene.succeed(task)),
        }
    };
    for _ in 0..3 {
        scene.fail(&publish, Reason::PushDenied, "denied", false);
        scene.plan();
    }
    assert_eq!(publications_counted(&scene), [Some(Reason::PushDenied)]);
    scene.succeed(&publish);
    scene.plan();
    assert_eq!(publications_counted(&scene), [Some(Reason::PushDenied), None]);
}

#[test]
fn drift_counts_when_it_is_found_and_when_it_is_corrected() {
    let mut scene = published();
    scene.counted.clear();
    scene.point(&format!("{REPOSITORY}:latest"), Some(Digest::sha256(b"of somebody else")));
    scene.look();
    scene.plan();
    scene.plan();
    assert_eq!(scene.counted, [Outcome::DriftFound]);
    scene.wait();
    assert_eq!(
        scene.counted,
        [Outcome::DriftFound, Outcome::Publication { failed: None }, Outcome::DriftCorrected]
    );
}
