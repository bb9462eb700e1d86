//! Platforms' own tags, mirrors, and platforms that may be missing.

use serde_json::{Value, json};

use super::publishes;
use super::scene::{REPOSITORY, Scene};
use crate::api::{Phase, Reason};
use crate::plan::task::Task;

const MIRROR: &str = "mirror.test/acme/web";

fn with_target(extra: Value) -> Scene {
    let mut target = json!({"repository": REPOSITORY, "tags": ["1", "latest"]});
    target.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    Scene::new(json!({"target": target, "platforms": [
        {"platform": "linux/amd64", "image": "other.test/web:amd64"},
        {"platform": "linux/arm/v7", "image": "other.test/web:arm"},
    ]}))
}

fn optional() -> Scene {
    Scene::new(json!({"platforms": [
        {"platform": "linux/amd64", "image": "other.test/web:amd64"},
        {"platform": "linux/s390x", "image": "other.test/web:s390x", "optional": true},
    ]}))
}

fn resolve(scene: &mut Scene, platform: &str) -> Task {
    let plan = scene.plan();
    let is_it = |task: &&Task| matches!(task, Task::ResolveImage { platform: other, .. } if other.to_string() == platform);
    plan.tasks.iter().find(is_it).cloned().expect("it is looked up")
}

#[test]
fn every_platform_has_its_own_tag_for_every_tag() {
    let mut scene = with_target(json!({"platformTag": "{tag}-{os}-{arch}{-variant}"}));
    scene.run();
    let published = scene.observed.status.published.clone().expect("published");
    let tags: Vec<(&str, Option<&str>)> =
        published.tags.iter().map(|tag| (tag.name.as_str(), tag.platform.as_deref())).collect();
    assert_eq!(
        tags,
        [
            ("1", None),
            ("latest", None),
            ("1-linux-amd64", Some("linux/amd64")),
            ("latest-linux-amd64", Some("linux/amd64")),
            ("1-linux-arm-v7", Some("linux/arm/v7")),
            ("latest-linux-arm-v7", Some("linux/arm/v7")),
        ]
    );
    let child = scene.platform("linux/arm/v7").digest.clone();
    assert_eq!(published.tags[5].digest, child);
}

#[test]
fn a_template_that_gives_two_platforms_one_tag_or_takes_the_indexs_is_refused() {
    for (template, said) in [("{arch}", None), ("x-{arch}", None), ("{tag}-{os}", Some("the tag 1-linux"))] {
        let mut scene = with_target(json!({"platformTag": template}));
        scene.run();
        match said {
            None => assert_eq!(scene.ready(), ("True", "Published"), "{template}"),
            Some(said) => {
                assert_eq!(scene.ready(), ("False", "InvalidSpec"));
                assert!(scene.message().contains(said), "{}", scene.message());
            }
        }
    }
    let mut scene = with_target(json!({"tags": ["amd64"], "platformTag": "{arch}"}));
    scene.run();
    assert!(scene.message().contains("the index and linux/amd64"), "{}", scene.message());
}

#[test]
fn mirrors_get_the_same_index_after_the_target_and_from_there() {
    let mut scene = with_target(json!({"mirrors": [{"repository": MIRROR}]}));
    let mut order = Vec::new();
    for _ in 0..12 {
        for task in scene.open() {
            match &task {
                Task::CopyImage { from, to, .. } => order.push(format!("copy {from} {to}")),
                Task::Publish { repository, .. } => order.push(format!("publish {repository}")),
                _ => {}
            }
            scene.succeed(&task);
        }
    }
    let expected = [
        format!("copy other.test/web {REPOSITORY}"),
        format!("copy other.test/web {REPOSITORY}"),
        format!("publish {REPOSITORY}"),
        format!("copy {REPOSITORY} {MIRROR}"),
        format!("copy {REPOSITORY} {MIRROR}"),
        format!("publish {MIRROR}"),
    ];
    assert_eq!(order, expected);
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.message().contains(&format!("mirrored to {MIRROR}")));
    let tags = &scene.observed.status.published.as_ref().expect("published").tags;
    assert_eq!(tags.iter().filter(|tag| tag.repository == MIRROR).count(), 2);
}

#[test]
fn a_mirror_that_refuses_is_named_and_the_target_counts_as_published() {
    let mut scene = with_target(json!({"mirrors": [{"repository": MIRROR}]}));
    let mut refused = false;
    for _ in 0..12 {
        for task in scene.open() {
            if matches!(&task, Task::CopyImage { to, .. } if to.to_string() == MIRROR) {
                scene.fail(&task, Reason::PushDenied, "denied", false);
                refused = true;
            } else {
                scene.succeed(&task);
            }
        }
    }
    assert!(refused);
    assert_eq!(scene.ready(), ("False", "PushDenied"));
    assert_eq!(scene.message(), format!("mirror {MIRROR}: denied"));
    assert!(scene.observed.status.digest.is_some());
    let tags = &scene.observed.status.published.as_ref().expect("published").tags;
    assert!(tags.iter().all(|tag| tag.repository == REPOSITORY));
}

#[test]
fn a_mirror_that_is_added_gets_what_is_published_and_a_restart_copies_nothing_again() {
    let mut scene = with_target(json!({}));
    scene.run();
    let digest = scene.observed.status.digest.clone();
    scene.edit(|image| {
        image.spec.target.mirrors = vec![crate::api::Mirror { repository: MIRROR.to_owned() }];
    });
    scene.run();
    assert_eq!(scene.observed.status.digest, digest);
    assert_eq!(scene.observed.status.history.len(), 1);
    scene.restart();
    let before = scene.observed.status.clone();
    let plan = scene.plan();
    assert!(!plan.tasks.iter().any(|task| matches!(task, Task::CopyImage { .. } | Task::Publish { .. })));
    assert_eq!(plan.status, before);
}

#[test]
fn a_mirror_that_is_the_target_is_refused() {
    let mut scene = with_target(json!({"mirrors": [{"repository": REPOSITORY}]}));
    scene.run();
    assert_eq!(scene.ready(), ("False", "InvalidSpec"));
    assert!(scene.message().contains("named twice"), "{}", scene.message());
}

#[test]
fn an_optional_platform_is_left_out_while_it_is_missing_and_joins_when_it_is_there() {
    let mut scene = optional();
    let missing = resolve(&mut scene, "linux/s390x");
    scene.fail(&missing, Reason::SourceNotFound, "no such tag", false);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.message().ends_with(", without linux/s390x (SourceNotFound)"), "{}", scene.message());
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("1/2"));
    assert!(!scene.has("Reconciling") && !scene.has("Stalled"));
    let alone = scene.observed.status.digest.clone();
    scene.succeed(&missing);
    scene.run();
    assert_ne!(scene.observed.status.digest, alone);
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("2/2"));
    assert_eq!(scene.observed.status.history.len(), 2);
}

#[test]
fn an_optional_platform_that_only_takes_a_moment_is_waited_for() {
    let mut scene = optional();
    let first = resolve(&mut scene, "linux/amd64");
    scene.succeed(&first);
    for _ in 0..3 {
        let plan = scene.plan();
        assert!(!publishes(&plan));
        let copies = plan.tasks.iter().filter(|task| matches!(task, Task::CopyImage { .. })).cloned();
        copies.collect::<Vec<_>>().iter().for_each(|task| scene.succeed(task));
    }
}

#[test]
fn an_optional_platform_in_the_index_does_not_leave_it_while_its_registry_is_down() {
    let mut scene = optional();
    scene.run();
    let digest = scene.observed.status.digest.clone();
    scene.restart();
    scene.annotate(crate::api::ANNOTATION_RECONCILE, "now");
    for _ in 0..8 {
        for task in scene.open() {
            match &task {
                Task::ResolveImage { reference, .. } if reference.to_string() == "other.test/web:s390x" => {
                    scene.fail(&task, Reason::RegistryUnavailable, "connection refused", true);
                }
                _ => scene.succeed(&task),
            }
        }
    }
    assert_eq!(scene.platform("linux/s390x").phase, Phase::Ready);
    assert_eq!(scene.observed.status.digest, digest);
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn an_image_of_optional_platforms_alone_is_published_with_the_first_that_is_ready() {
    let mut scene = optional();
    scene.image.spec.platforms[0].optional = true;
    let first = resolve(&mut scene, "linux/amd64");
    let second = resolve(&mut scene, "linux/s390x");
    scene.fail(&first, Reason::SourceNotFound, "no such tag", false);
    scene.fail(&second, Reason::SourceNotFound, "no such tag", false);
    scene.run();
    assert_eq!(scene.ready(), ("False", "SourceNotFound"));
    scene.succeed(&second);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_mirror_that_is_being_corrected_is_not_forgotten() {
    let mut scene = with_target(json!({"mirrors": [{"repository": MIRROR}]}));
    scene.run();
    let before = scene.observed.status.published.clone().expect("published");
    scene.wait();
    scene.point(&format!("{MIRROR}:1"), None);
    let wait = scene.plan().wake_after.expect("a look is due");
    scene.now += wait;
    for task in scene.plan().tasks.iter().filter(|task| matches!(task, Task::Check { .. })) {
        scene.succeed(task);
    }
    for _ in 0..6 {
        for task in scene.open() {
            match &task {
                Task::Publish { .. } => scene.fail(&task, Reason::RegistryUnavailable, "down", true),
                _ => scene.succeed(&task),
            }
        }
        assert_eq!(scene.observed.status.published.as_ref(), Some(&before));
        assert!(scene.has("Drifted"));
        assert_eq!(scene.ready().0, "True");
    }
}

#[test]
fn an_edit_takes_back_no_tag_that_is_only_to_be_reported() {
    let mut scene = with_target(json!({"driftPolicy": "Report"}));
    scene.run();
    scene.edit(|image| image.spec.target.tags.push("new".to_owned()));
    for _ in 0..8 {
        for task in scene.open() {
            if let Task::Publish { tags, .. } = &task {
                assert_eq!(tags, &["new"]);
            }
            scene.succeed(&task);
        }
    }
    let tags = scene.observed.status.published.as_ref().expect("published").tags.len();
    assert_eq!((tags, scene.ready()), (3, ("True", "Published")));
}

#[test]
fn a_mirror_that_does_not_follow_keeps_the_tags_that_it_had() {
    let mut scene = with_target(json!({"mirrors": [{"repository": MIRROR}]}));
    scene.run();
    let old = scene.observed.status.digest.clone();
    scene.edit(|image| image.spec.target.annotations = [("a".to_owned(), "b".to_owned())].into());
    let fail = |scene: &mut Scene| {
        for _ in 0..10 {
            for task in scene.open() {
                match &task {
                    Task::Publish { repository, .. } if repository.to_string() == MIRROR => {
                        scene.fail(&task, Reason::PushDenied, "denied", false);
                    }
                    _ => scene.succeed(&task),
                }
            }
        }
    };
    fail(&mut scene);
    assert_eq!(scene.ready(), ("False", "PushDenied"));
    assert_ne!(scene.observed.status.digest, old);
    let at_mirror = |scene: &Scene| {
        let tags = &scene.observed.status.published.as_ref().expect("published").tags;
        tags.iter().filter(|tag| tag.repository == MIRROR).cloned().collect::<Vec<_>>()
    };
    assert!(at_mirror(&scene).len() == 2 && at_mirror(&scene).iter().all(|tag| tag.digest == old));
    // Nothing about them has drifted, and no image is missed there.
    scene.look();
    fail(&mut scene);
    assert!(!scene.has("Drifted") && scene.observed.status.missing.is_empty());
    scene.restart();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(at_mirror(&scene).len() == 2 && at_mirror(&scene).iter().all(|tag| tag.digest.is_none()));
}

#[test]
fn an_optional_platform_that_takes_long_to_be_copied_keeps_nobody_waiting_and_joins() {
    let mut scene = optional();
    let is_slow = |task: &Task| {
        let Task::CopyImage { image, .. } = task else { return false };
        image.image.descriptor.platform.as_ref().is_some_and(|platform| platform.architecture == "s390x")
    };
    let run = |scene: &mut Scene| {
        for _ in 0..8 {
            let open = scene.open();
            open.iter().filter(|task| !is_slow(task)).for_each(|task| scene.succeed(task));
        }
    };
    run(&mut scene);
    assert_eq!(scene.ready().0, "Unknown", "it may be there in a moment");
    let wait = scene.plan().wake_after.expect("it is not waited for without end");
    scene.now += wait;
    run(&mut scene);
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.message().ends_with(", without linux/s390x (Copying)"), "{}", scene.message());
    let copy = scene.open().into_iter().find(is_slow).expect("it is still being copied");
    scene.succeed(&copy);
    scene.run();
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("2/2"));
    assert_eq!(scene.observed.status.history.len(), 2);
}
