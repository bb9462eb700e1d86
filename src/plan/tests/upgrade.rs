//! Objects as other versions of the operator have left them.

use super::created;
use super::scene::Scene;
use crate::api::{ANNOTATION_RECONCILE, MultiArchImage};

/// What earlier versions wrote, published; by the name of the file.
const PUBLISHED: [(&str, &str); 3] = [
    ("first", include_str!("../../../tests/recorded-objects/first.yaml")),
    ("target", include_str!("../../../tests/recorded-objects/target.yaml")),
    ("builds", include_str!("../../../tests/recorded-objects/builds.yaml")),
];
const NEWER: &str = include_str!("../../../tests/recorded-objects/newer.yaml");

fn recorded(text: &str) -> Scene {
    let image: MultiArchImage = serde_saphyr::from_str(text).expect("it is read");
    let mut scene = Scene::new(serde_json::json!({"platforms": []}));
    scene.observed.status = image.status.clone().expect("a status");
    // The Jobs have gone in time; there are nodes of one architecture.
    scene.has_nodes(&["amd64"]);
    scene.image = image;
    scene
}

#[test]
fn what_an_earlier_version_has_published_is_left_as_it_is() {
    for (name, text) in PUBLISHED {
        let mut scene = recorded(text);
        let before = scene.observed.status.clone();
        let plan = scene.plan();
        assert!(created(&plan).is_empty() && plan.status == before, "{name}: {plan:#?}");
        assert!(scene.told.is_empty(), "{name}: {:?}", scene.told);
    }
}

#[test]
fn what_an_earlier_version_has_built_is_not_built_again_when_it_is_looked_at_again() {
    for (name, text) in PUBLISHED {
        let mut scene = recorded(text);
        let jobs = |scene: &Scene| -> Vec<Option<String>> {
            scene.observed.status.platforms.iter().map(|entry| entry.job.clone()).collect()
        };
        let before = jobs(&scene);
        scene.annotate(ANNOTATION_RECONCILE, "by a newer version");
        scene.run();
        assert_eq!(scene.ready(), ("True", "Published"), "{name}: {:#?}", scene.observed.status);
        assert!(scene.observed.jobs.is_empty(), "{name}: {:?}", scene.observed.jobs);
        assert_eq!(jobs(&scene), before, "{name}");
    }
}

#[test]
fn what_a_newer_version_has_written_is_looked_at_again_and_not_built_again() {
    let mut scene = recorded(NEWER);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"), "{:#?}", scene.observed.status);
    assert!(scene.observed.jobs.is_empty(), "{:?}", scene.observed.jobs);
    assert!(scene.observed.status.announced.is_empty());
}
