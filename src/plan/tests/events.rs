//! Events: one for each change, however often it is tried again.

use jiff::SignedDuration;
use serde_json::json;

use super::scene::Scene;
use super::{building, builds, published, sources};
use crate::api::{ANNOTATION_RECONCILE, Reason};
use crate::plan::task::Task;

const PLATFORMS: [&str; 32] = [
    "linux/amd64",
    "linux/amd64/v2",
    "linux/amd64/v3",
    "linux/amd64/v4",
    "linux/arm64",
    "linux/arm64/v9",
    "linux/arm/v5",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/arm/v8",
    "linux/386",
    "linux/s390x",
    "linux/ppc64le",
    "linux/ppc64",
    "linux/riscv64",
    "linux/mips",
    "linux/mipsle",
    "linux/mips64",
    "linux/mips64le",
    "linux/loong64",
    "windows/amd64",
    "windows/arm64",
    "windows/386",
    "darwin/amd64",
    "darwin/arm64",
    "freebsd/amd64",
    "freebsd/arm64",
    "freebsd/386",
    "openbsd/amd64",
    "openbsd/arm64",
    "netbsd/amd64",
    "netbsd/arm64",
];

fn many_sources() -> Scene {
    let entry = |name: &&str| json!({"platform": name, "image": format!("other.test/web:{}", name.replace('/', "-"))});
    let platforms: Vec<_> = PLATFORMS.iter().map(entry).collect();
    Scene::new(json!({"platforms": platforms}))
}

fn many_builds() -> Scene {
    let linux = PLATFORMS.iter().filter(|name| name.starts_with("linux/"));
    let platforms: Vec<_> = linux.map(|name| json!({"platform": name})).collect();
    Scene::new(json!({
        "platforms": platforms,
        "build": {"context": {"git": {"url": "https://git.test/web.git", "ref": "main"}}},
    }))
}

fn resolving(scene: &mut Scene) -> Vec<Task> {
    scene.plan().tasks.into_iter().filter(|task| matches!(task, Task::ResolveImage { .. })).collect()
}

/// The reasons of what was told since the last call.
fn reasons(scene: &mut Scene) -> Vec<String> {
    std::mem::take(&mut scene.told).into_iter().map(|note| note.reason).collect()
}

fn after_a_minute(scene: &mut Scene) {
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(60)).expect("a time");
}

#[test]
fn what_is_tried_again_for_an_hour_is_told_once_however_its_text_changes() {
    for transient in [true, false] {
        let mut scene = sources();
        let resolve = resolving(&mut scene);
        scene.succeed(&resolve[1]);
        for minute in 0..60 {
            after_a_minute(&mut scene);
            let message = format!("other.test: 503, request {minute}, again in {} s", 60 - minute);
            scene.fail(&resolve[0], Reason::RegistryUnavailable, &message, transient);
            scene.plan();
        }
        assert_eq!(reasons(&mut scene), ["RegistryUnavailable"], "transient: {transient}");
    }
}

#[test]
fn a_cause_that_comes_and_goes_is_told_once_and_so_is_each_other_cause() {
    let mut scene = sources();
    let resolve = resolving(&mut scene);
    for minute in 0..60 {
        after_a_minute(&mut scene);
        let reason = if minute % 2 == 0 { Reason::RegistryUnavailable } else { Reason::RateLimited };
        scene.fail(&resolve[0], reason, "other.test: not now", true);
        scene.plan();
    }
    assert_eq!(reasons(&mut scene), ["RegistryUnavailable", "RateLimited"]);
}

#[test]
fn a_restart_in_the_middle_tells_nothing_again() {
    for (reason, transient) in [(Reason::RegistryUnavailable, true), (Reason::SourceNotFound, false)] {
        let mut scene = sources();
        for _ in 0..5 {
            for resolve in resolving(&mut scene) {
                scene.fail(&resolve, reason, &resolve.key(), transient);
            }
            scene.plan();
            scene.restart();
        }
        // Two images that do not exist are two mistakes, a registry that does not answer is one.
        let expected = if transient { 1 } else { 2 };
        let told = reasons(&mut scene);
        assert!(told.iter().all(|told| *told == reason.as_str()), "{told:?}");
        assert_eq!(told.len(), expected, "{told:?}");
    }
}

#[test]
fn a_restart_between_two_tags_tells_nothing_again() {
    let mut scene = sources();
    for _ in 0..5 {
        for _ in 0..3 {
            let plan = scene.plan();
            let (publish, others): (Vec<&Task>, Vec<&Task>) =
                plan.tasks.iter().partition(|task| matches!(task, Task::Publish { .. }));
            others.into_iter().for_each(|task| scene.succeed(task));
            for task in publish {
                scene.fail(task, Reason::RegistryUnavailable, "registry.test: 502", true);
            }
        }
        scene.plan();
        scene.restart();
    }
    assert_eq!(reasons(&mut scene), ["Verified", "Verified", "RegistryUnavailable"]);
    scene.run();
    assert_eq!(reasons(&mut scene), ["Published"]);
}

#[test]
fn a_cause_that_all_platforms_share_is_one_event_with_their_names() {
    let mut scene = many_sources();
    for resolve in resolving(&mut scene) {
        scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: connection refused", true);
    }
    scene.plan();
    assert_eq!(scene.told.len(), 1, "{:?}", scene.told);
    let words = &scene.told[0].message;
    assert!(words.starts_with("linux/amd64, linux/amd64/v2, "), "{words}");
    assert!(words.ends_with(" and 24 more: other.test: connection refused"), "{words}");

    let mut scene = many_builds();
    let commit = scene.plan().tasks[0].clone();
    scene.fail(&commit, Reason::ContextNotFound, "git.test/web.git: no branch main", false);
    scene.plan();
    assert_eq!(reasons(&mut scene), ["ContextNotFound"]);
}

#[test]
fn a_cause_that_platforms_share_is_one_event_though_each_finds_it_out_by_itself() {
    let mut scene = many_sources();
    for resolve in resolving(&mut scene) {
        scene.fail(&resolve, Reason::AuthenticationFailed, "other.test: 401", false);
        scene.plan();
    }
    assert_eq!(reasons(&mut scene), ["AuthenticationFailed"]);
}

#[test]
fn builds_that_fail_each_in_its_own_way_are_told_each() {
    let mut scene = building();
    scene.told.clear();
    scene.break_build("linux-amd64", 1, "error: no space for amd64");
    scene.break_build("linux-arm64", 1, "error: no such instruction");
    scene.plan();
    assert_eq!(reasons(&mut scene), ["BuildFailed", "BuildFailed"]);
}

#[test]
fn an_attempt_that_starts_and_stops_starting_is_told_once() {
    let mut scene = building();
    scene.told.clear();
    let waiting = |reason: &str| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "build", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason}}}]})
    };
    for _ in 0..5 {
        for reason in ["ErrImagePull", "ContainerCreating", "ImagePullBackOff"] {
            scene.pod("linux-arm64", "pod-1", waiting(reason));
            scene.plan();
        }
    }
    assert_eq!(reasons(&mut scene), ["ImagePullFailed"]);
}

#[test]
fn looking_again_at_what_is_published_tells_nothing() {
    for mut scene in [published(), {
        let mut scene = sources();
        scene.run();
        scene
    }] {
        scene.told.clear();
        for request in ["1", "2", "3"] {
            scene.annotate(ANNOTATION_RECONCILE, request);
            scene.run();
            assert_eq!(scene.ready(), ("True", "Published"));
        }
        assert_eq!(reasons(&mut scene), [""; 0]);
    }
}

#[test]
fn who_asks_anew_or_has_had_success_is_told_anew() {
    let mut scene = sources();
    let fail = |scene: &mut Scene| {
        for resolve in resolving(scene) {
            scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: 503", true);
        }
        scene.plan();
    };
    fail(&mut scene);
    scene.annotate(ANNOTATION_RECONCILE, "1");
    fail(&mut scene);
    assert_eq!(reasons(&mut scene), ["RegistryUnavailable"; 2]);
    scene.restart();
    scene.run();
    assert!(scene.observed.status.announced.is_empty(), "{:?}", scene.observed.status.announced);
}

#[test]
fn a_build_that_runs_is_told_once_though_the_operator_restarts() {
    let mut scene = builds();
    scene.image.spec.build.as_mut().expect("a build").context =
        serde_json::from_value(json!({"configMap": {"name": "context"}})).expect("a context");
    scene.run();
    scene.pod("linux-amd64", "pod-1", json!({"phase": "Running"}));
    for _ in 0..3 {
        scene.run();
        scene.restart();
        scene.plan();
    }
    assert_eq!(reasons(&mut scene), ["Building"]);
}

#[test]
fn no_event_is_longer_than_the_api_server_takes() {
    let mut scene = many_sources();
    for resolve in resolving(&mut scene) {
        scene.fail(&resolve, Reason::SourceNotFound, &"ä".repeat(2000), false);
    }
    scene.plan();
    assert!(!scene.told.is_empty());
    assert!(scene.told.iter().all(|note| note.message.len() <= 1024 && note.action.len() <= 128));
}
