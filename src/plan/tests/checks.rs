//! What is checked before a Job is made.

use serde_json::{Value, json};

use super::created;
use super::scene::Scene;
use crate::api::{Phase, Reason};
use crate::plan::task::Task;

fn scene(dockerfile: &str, more: Value) -> Scene {
    let mut spec = json!({
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": dockerfile}}},
    });
    for (key, value) in more.as_object().expect("an object") {
        match key.as_str() {
            "verify" => spec[key] = value.clone(),
            _ => spec["build"][key] = value.clone(),
        }
    }
    Scene::new(spec)
}

fn check(scene: &mut Scene) -> Task {
    let tasks = scene.plan().tasks;
    let check = tasks.into_iter().find(|task| matches!(task, Task::CheckBaseImages { .. }));
    check.expect("base images are checked")
}

#[test]
fn no_job_is_made_while_a_base_image_lacks_the_platform() {
    let mut scene = scene("ARG TAG=1\nFROM base.test/os:${TAG}", json!({"args": {"TAG": "2"}}));
    let check = check(&mut scene);
    let Task::CheckBaseImages { images, .. } = &check else { panic!("a check") };
    assert_eq!(images[0].reference, "base.test/os:2");
    assert!(created(&scene.plan()).is_empty());
    scene.fail(
        &check,
        Reason::BaseImagePlatformMissing,
        "line 2: base.test/os:2 has no image for linux/amd64",
        false,
    );
    let plan = scene.plan();
    assert!(created(&plan).is_empty());
    let amd64 = scene.platform("linux/amd64");
    assert_eq!((amd64.phase, amd64.reason), (Phase::Failed, Some(Reason::BaseImagePlatformMissing)));
    scene.succeed(&check);
    assert_eq!(created(&scene.plan()).len(), 1);
}

#[test]
fn a_base_image_without_the_platform_is_only_said_where_it_is_only_to_be_warned_of() {
    let mut scene = scene("FROM base.test/os", json!({"verify": {"baseImages": "Warn"}}));
    let check = check(&mut scene);
    scene.fail(&check, Reason::BaseImagePlatformMissing, "base.test/os has no linux/amd64", false);
    assert_eq!(created(&scene.plan()).len(), 1);
    assert_eq!(scene.platform("linux/amd64").reason, Some(Reason::BaseImagePlatformMissing));
    assert!(
        scene
            .platform("linux/amd64")
            .message
            .as_ref()
            .is_some_and(|said| said.contains("has no linux/amd64"))
    );
}

#[test]
fn base_images_are_not_looked_at_where_that_is_off() {
    let mut scene = scene("FROM base.test/os", json!({"verify": {"baseImages": "Off"}}));
    assert_eq!(created(&scene.plan()).len(), 1);
}

#[test]
fn a_dockerfile_that_no_builder_understands_fails_without_a_pod() {
    let mut scene = scene("FROM", json!({}));
    let plan = scene.plan();
    assert!(created(&plan).is_empty());
    let amd64 = scene.platform("linux/amd64");
    assert_eq!((amd64.phase, amd64.reason), (Phase::Failed, Some(Reason::BuildFailed)));
    assert!(amd64.message.as_ref().is_some_and(|said| said.contains("line 1")), "{:?}", amd64.message);
}

#[test]
fn the_secrets_of_a_build_are_there_before_its_job_is_made() {
    let secrets = json!([{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}]);
    let mut scene = scene("FROM scratch", json!({"secrets": secrets, "ssh": {"secretRef": {"name": "key"}}}));
    let plan = scene.plan();
    assert!(created(&plan).is_empty());
    let check =
        plan.tasks.into_iter().find(|task| matches!(task, Task::CheckBuildSecrets { .. })).expect("a check");
    let Task::CheckBuildSecrets { wanted, .. } = &check else { panic!("a check") };
    assert_eq!(wanted[0].keys, [[".npmrc"]]);
    assert_eq!(wanted[1].keys, [["identity", "ssh-privatekey"]]);
    scene.fail(&check, Reason::SecretNotFound, "secret/npm does not exist", true);
    scene.plan();
    let amd64 = scene.platform("linux/amd64");
    assert_eq!((amd64.phase, amd64.reason), (Phase::Waiting, Some(Reason::SecretNotFound)));
    scene.succeed(&check);
    assert_eq!(created(&scene.plan()).len(), 1);
}

#[test]
fn the_image_that_is_a_context_is_looked_up_once_for_all_platforms() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64"}],
        "build": {"context": {"oci": {"image": "registry.test/source:main"}}},
    }));
    scene.run();
    let revision = scene.observed.status.source_revision.clone().expect("a revision");
    assert_eq!(scene.observed.jobs.len(), 2);
    scene.restart();
    let plan = scene.plan();
    let asked = plan.tasks.iter().find_map(|task| match task {
        Task::ResolveContextImage { reference, .. } => Some(reference.to_string()),
        _ => None,
    });
    assert_eq!(asked, Some(format!("registry.test/source@{revision}")), "the tag may have moved");
}
