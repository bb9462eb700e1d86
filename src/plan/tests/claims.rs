//! Two images for one tag.

use kube::runtime::reflector::ObjectRef;
use serde_json::json;

use super::scene::{REPOSITORY, Scene};
use super::{building, deleted, sources};
use crate::api::MultiArchImage;
use crate::plan::Conflict;
use crate::plan::claims::{Claims, Relisted};

fn image(name: &str, created: &str, target: serde_json::Value) -> MultiArchImage {
    let scene = Scene::new(
        json!({"target": target, "platforms": [{"platform": "linux/amd64", "image": "other.test/web:1"}]}),
    );
    let mut image = scene.image;
    image.metadata = serde_json::from_value(json!({
        "name": name, "namespace": "team-a", "uid": format!("uid of {name}"), "creationTimestamp": created,
    }))
    .expect("metadata");
    image
}

fn object(name: &str) -> ObjectRef<MultiArchImage> {
    ObjectRef::new(name).within("team-a")
}

fn conflict(tag: &str, holder: &str) -> Conflict {
    Conflict { tag: tag.parse().expect("a tag"), holder: holder.to_owned() }
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

#[test]
fn the_older_image_has_the_tag_whichever_is_seen_first() {
    let target = json!({"repository": REPOSITORY, "tags": ["1", "2"]});
    for order in [["old", "young"], ["young", "old"]] {
        let mut claims = Claims::default();
        for name in order {
            claims.set(&image(name, if name == "old" { EARLY } else { LATE }, target.clone()), true);
        }
        assert_eq!(claims.conflict(&object("old")), None);
        assert_eq!(
            claims.conflict(&object("young")),
            Some(conflict(&format!("{REPOSITORY}:1"), "team-a/old"))
        );
    }
}

#[test]
fn the_younger_takes_over_when_the_older_goes_or_names_other_tags() {
    let mut claims = Claims::default();
    claims.set(&image("old", EARLY, json!({"repository": REPOSITORY, "tags": ["1"]})), true);
    let young = image("young", LATE, json!({"repository": REPOSITORY, "tags": ["1"]}));
    assert_eq!(claims.set(&young, true).into_iter().collect::<Vec<_>>(), [object("old")]);
    let concerned = claims.set(&image("old", EARLY, json!({"repository": REPOSITORY, "tags": ["2"]})), true);
    assert_eq!(concerned.into_iter().collect::<Vec<_>>(), [object("young")]);
    assert_eq!(claims.conflict(&object("young")), None);
    claims.set(&image("old", EARLY, json!({"repository": REPOSITORY, "tags": ["1"]})), true);
    assert!(claims.conflict(&object("young")).is_some());
    assert_eq!(claims.remove(&object("old")).into_iter().collect::<Vec<_>>(), [object("young")]);
    assert_eq!(claims.conflict(&object("young")), None);
}

#[test]
fn an_image_that_went_while_nobody_watched_is_forgotten_with_the_next_list() {
    let mut claims = Claims::default();
    let young = image("young", LATE, json!({"repository": REPOSITORY, "tags": ["1"]}));
    claims.set(&image("old", EARLY, json!({"repository": REPOSITORY, "tags": ["1"]})), true);
    claims.set(&young, true);
    claims.begin_list();
    assert!(claims.set(&young, true).is_empty(), "nothing about it has changed");
    assert!(claims.conflict(&object("young")).is_some(), "the list has not ended");
    let told = Relisted { gone: [object("old")].into(), concerned: [object("young")].into() };
    assert_eq!(claims.end_list(), told);
    assert_eq!(claims.conflict(&object("young")), None);
    assert_eq!(claims.end_list(), Relisted::default(), "a list ends once");
}

#[test]
fn an_image_that_was_made_anew_while_nobody_watched_is_not_taken_for_the_earlier_one() {
    let mut claims = Claims::default();
    let first = image("web", EARLY, json!({"repository": REPOSITORY, "tags": ["1"]}));
    let mut second = first.clone();
    second.metadata.uid = Some("another".to_owned());
    claims.set(&first, true);
    claims.begin_list();
    claims.set(&second, true);
    assert_eq!(claims.end_list(), Relisted { gone: [object("web")].into(), ..Relisted::default() });
    claims.begin_list();
    claims.set(&second, true);
    assert_eq!(claims.end_list(), Relisted::default(), "it is known by now");
}

#[test]
fn one_repository_is_the_same_however_it_is_written_and_mirrors_and_platforms_tags_count() {
    let mut claims = Claims::default();
    claims.set(
        &image(
            "old",
            EARLY,
            json!({"repository": "docker.io/library/web", "tags": ["1"], "platformTag": "{tag}-{arch}"}),
        ),
        true,
    );
    claims.set(
        &image("young", LATE, json!({"repository": "index.docker.io/library/web", "tags": ["1"]})),
        true,
    );
    assert!(claims.conflict(&object("young")).is_some());
    claims.set(&image("young", LATE, json!({"repository": REPOSITORY, "tags": ["1-amd64"], "mirrors": [{"repository": "docker.io/library/web"}]})), true);
    assert_eq!(
        claims.conflict(&object("young")),
        Some(conflict("docker.io/library/web:1-amd64", "team-a/old"))
    );
    claims.set(&image("young", LATE, json!({"repository": "docker.io/library/web", "tags": ["2"]})), true);
    assert_eq!(claims.conflict(&object("young")), None, "another tag of the same repository is nobody's");
}

#[test]
fn of_two_of_one_age_one_has_the_tag_and_it_stays_the_same_one() {
    let mut claims = Claims::default();
    let target = json!({"repository": REPOSITORY, "tags": ["1"]});
    claims.set(&image("b", EARLY, target.clone()), true);
    claims.set(&image("a", EARLY, target), true);
    assert_eq!(claims.conflict(&object("a")), None);
    assert!(claims.conflict(&object("b")).is_some());
}

#[test]
fn a_conflict_stalls_the_younger_which_builds_and_publishes_nothing_until_it_is_over() {
    let mut scene = building();
    scene.observed.conflict = Some(conflict(&format!("{REPOSITORY}:latest"), "team-b/web"));
    let plan = scene.plan();
    assert_eq!(scene.ready(), ("False", "TagConflict"));
    assert!(scene.has("Stalled") && !scene.has("Reconciling"));
    assert!(scene.message().contains("published by team-b/web"), "{}", scene.message());
    assert_eq!((deleted(&plan).len(), plan.tasks.len()), (2, 2), "what runs is stopped");
    let mut scene = sources();
    scene.observed.conflict = Some(conflict(&format!("{REPOSITORY}:latest"), "team-b/web"));
    assert!(scene.plan().tasks.is_empty());
    scene.observed.conflict = None;
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn an_image_that_may_not_publish_keeps_nobody_from_a_tag() {
    let mut claims = Claims::default();
    let target = json!({"repository": REPOSITORY, "tags": ["1"]});
    claims.set(&image("old", EARLY, target.clone()), false);
    claims.set(&image("young", LATE, target), true);
    assert_eq!(claims.conflict(&object("young")), None);
}

#[test]
fn a_port_that_goes_without_saying_makes_no_other_repository() {
    for (old, young) in [
        ("registry.test/web", "registry.test:443/web"),
        ("registry.test:443/web", "registry.test/web"),
        ("registry.test:80/web", "registry.test/web"),
        ("[::1]:443/web", "[::1]/web"),
        ("docker.io/library/web", "registry-1.docker.io:443/library/web"),
    ] {
        let mut claims = Claims::default();
        claims.set(&image("old", EARLY, json!({"repository": old, "tags": ["1"]})), true);
        claims.set(&image("young", LATE, json!({"repository": young, "tags": ["1"]})), true);
        assert!(claims.conflict(&object("young")).is_some(), "{old} {young}");
        let tag = format!("{old}:1").parse().expect("a tag");
        assert!(claims.is_named_by_another(&object("old"), &tag), "{old} {young}");
    }
    let mut claims = Claims::default();
    claims.set(&image("old", EARLY, json!({"repository": "registry.test/web", "tags": ["1"]})), true);
    claims.set(&image("young", LATE, json!({"repository": "registry.test:5000/web", "tags": ["1"]})), true);
    assert_eq!(claims.conflict(&object("young")), None);
}
