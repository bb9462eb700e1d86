//! What is published is kept true, on real registries: moved, removed, claimed twice, mirrored, deleted.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use multiarch::api::{ANNOTATION_RECONCILE, FINALIZER, MultiArchImage};
use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::builds::until_gone;
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::{Operator, Start};
use support::proxy::{Counts, Proxy};
use support::{World, has_condition, is_ready, message};

/// One image of one source, with what is given besides.
fn spec(world: &World, target: Value) -> Value {
    let mut whole = json!({"repository": world.repository("web"), "tags": ["1.0", "latest"]});
    whole.as_object_mut().expect("an object").extend(target.as_object().expect("an object").clone());
    json!({
        "target": whole,
        "platforms": [{"platform": "linux/amd64", "image": format!("{}:amd64", world.repository("from"))}],
    })
}

async fn source(world: &World, content: &str) -> String {
    Push::to(&world.repository("from")).image("amd64", "linux/amd64", content).await.digest
}

fn digest(image: &MultiArchImage) -> String {
    image.status.as_ref().and_then(|status| status.digest.clone()).unwrap_or_default()
}

fn child(image: &MultiArchImage) -> String {
    let entry = image.status.as_ref().and_then(|status| status.platforms.first()?.digest.clone());
    entry.unwrap_or_default()
}

async fn held(repository: &str, tag: &str) -> Option<String> {
    Push::to(repository).read(tag).await.map(|bytes| Digest::sha256(&bytes).to_string())
}

/// Asks for a look, as `kubectl annotate` does.
async fn request(world: &World, name: &str, value: &str) {
    let patch = json!({"metadata": {"annotations": {ANNOTATION_RECONCILE: value}}});
    let api = world.api::<MultiArchImage>();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the annotation");
}

/// Until the request was answered and nothing is open.
async fn until_answered(world: &World, name: &str, value: &str) -> MultiArchImage {
    let is_answered = |image: &MultiArchImage| {
        let status = image.status.as_ref();
        let handled = status.and_then(|status| status.last_handled_reconcile_at.as_deref());
        handled == Some(value)
            && is_ready(image)
            && status.is_some_and(|status| status.condition("Drifted").is_none())
            && status.is_some_and(|status| {
                status.platforms.iter().all(|entry| format!("{:?}", entry.phase) == "Ready")
            })
    };
    world.until(name, "answered", is_answered).await
}

async fn reasons(world: &World) -> Vec<String> {
    let events = world.api::<Event>().list(&ListParams::default()).await.expect("events");
    events.iter().filter_map(|event| event.reason.clone()).collect()
}

#[tokio::test]
async fn a_moved_source_and_a_moved_tag_are_found_within_the_interval() {
    let world = World::new().await;
    source(&world, "one").await;
    let _operator = Operator::start(&world);
    let mut spec = spec(&world, json!({}));
    spec["interval"] = json!("10s");
    world.apply("web", spec).await;
    let first = world.until_ready("web").await;
    source(&world, "two").await;
    let moved = |image: &MultiArchImage| is_ready(image) && digest(image) != digest(&first);
    let second = world.until("web", "published anew", moved).await;
    assert_eq!(second.metadata.generation, first.metadata.generation);
    let repository = world.repository("web");
    assert_eq!(held(&repository, "latest").await, Some(digest(&second)));

    Push::to(&repository).point("latest", &digest(&first)).await;
    world.until("web", "drifted", |image| has_condition(image, "Drifted", "True")).await;
    let is_corrected = |image: &MultiArchImage| {
        is_ready(image) && image.status.as_ref().is_some_and(|status| status.condition("Drifted").is_none())
    };
    world.until("web", "corrected", is_corrected).await;
    assert_eq!(held(&repository, "latest").await, Some(digest(&second)));
    let reasons = reasons(&world).await;
    for reason in ["TagMoved", "DriftCorrected"] {
        assert_eq!(reasons.iter().filter(|found| *found == reason).count(), 1, "{reasons:?}");
    }
}

#[tokio::test]
async fn a_steady_image_costs_one_request_a_source_tag_and_published_tag_and_interval() {
    let world = World::new().await;
    let counts = Arc::new(Counts::default());
    let registry = Proxy::of_registry(world.rig, &counts).await;
    let host = registry.address.to_string();
    Push::to(&world.repository("from")).image("amd64", "linux/amd64", "content").await;
    Push::to(&world.repository("from")).image("arm64", "linux/arm64", "content").await;
    let from = format!("{host}/{}/from", world.namespace);
    let spec = json!({
        "target": {"repository": format!("{host}/{}/web", world.namespace), "tags": ["1.0", "latest"]},
        "platforms": [
            {"platform": "linux/amd64", "image": format!("{from}:amd64")},
            {"platform": "linux/arm64", "image": format!("{from}:arm64")},
        ],
        "interval": "10s",
    });
    let _operator = Start::new(&world).plain_http(&host).run();
    world.apply("web", spec).await;
    let image = world.until_ready("web").await;
    counts.take_lines();
    let version = image.metadata.resource_version;
    let path =
        |repository: &str, tag: &str| format!("HEAD /v2/{}/{repository}/manifests/{tag}", world.namespace);
    let expected = [path("from", "amd64"), path("from", "arm64"), path("web", "1.0"), path("web", "latest")];
    for _ in 0..2 {
        counts.until_requests(4).await;
        assert_eq!(counts.take_lines(), expected);
    }
    let now = world.api::<MultiArchImage>().get("web").await.expect("the image");
    assert_eq!(now.metadata.resource_version, version, "nothing was written");
}

#[tokio::test]
async fn an_image_that_the_registry_has_collected_comes_back_on_request() {
    let world = World::new().await;
    source(&world, "content").await;
    let _operator = Operator::start(&world);
    let mirror = world.repository("mirror");
    world.apply("web", spec(&world, json!({"mirrors": [{"repository": mirror}]}))).await;
    let image = world.until_ready("web").await;
    let web = world.repository("web");
    for repository in [&web, &mirror] {
        Push::to(repository).remove(&child(&image)).await;
        assert_eq!(held(repository, &child(&image)).await, None);
    }
    request(&world, "web", "now").await;
    let image = until_answered(&world, "web", "now").await;
    for repository in [&web, &mirror] {
        assert_eq!(held(repository, &child(&image)).await, Some(child(&image)), "{repository}");
    }
}

#[tokio::test]
async fn mirrors_and_platforms_tags_are_published_and_kept() {
    let world = World::new().await;
    source(&world, "content").await;
    let _operator = Operator::start(&world);
    let (web, mirror) = (world.repository("web"), world.repository("mirror"));
    let target = json!({"mirrors": [{"repository": mirror}], "platformTag": "{tag}-{os}-{arch}{-variant}"});
    world.apply("web", spec(&world, target)).await;
    let image = world.until_ready("web").await;
    let check = async || {
        for repository in [&web, &mirror] {
            for tag in ["1.0", "latest"] {
                assert_eq!(held(repository, tag).await, Some(digest(&image)), "{repository}:{tag}");
                let of_platform = held(repository, &format!("{tag}-linux-amd64")).await;
                assert_eq!(of_platform, Some(child(&image)), "{repository}:{tag}-linux-amd64");
            }
        }
    };
    check().await;
    Push::to(&mirror).remove("1.0").await;
    Push::to(&web).point("latest-linux-amd64", "latest").await;
    request(&world, "web", "now").await;
    until_answered(&world, "web", "now").await;
    check().await;
}

#[tokio::test]
async fn of_two_that_name_one_tag_the_older_has_it_and_the_younger_follows_when_it_goes() {
    let world = World::new().await;
    source(&world, "content").await;
    let _operator = Operator::start(&world);
    let api = world.api::<MultiArchImage>();
    let older = world.apply("older", spec(&world, json!({}))).await;
    world.until_ready("older").await;
    // Ages are whole seconds, and chance decides between two of one age.
    let same_second = async |name: &str| {
        let younger = world.apply(name, spec(&world, json!({"annotations": {"name": name}}))).await;
        younger.creation_timestamp() == older.creation_timestamp()
    };
    while same_second("younger").await {
        api.delete("younger", &DeleteParams::default()).await.expect("it is deleted");
        until_gone(api.clone(), "younger").await;
    }
    let stalled = |image: &MultiArchImage| has_condition(image, "Stalled", "True");
    let younger = world.until("younger", "stalled", stalled).await;
    let said = message(&younger, "Ready");
    assert!(
        said.contains(&format!("{}:1.0 is published by {}/older", world.repository("web"), world.namespace)),
        "{said}"
    );
    let older = api.get("older").await.expect("the older one");
    assert!(is_ready(&older));
    assert_eq!(held(&world.repository("web"), "latest").await, Some(digest(&older)));

    api.delete("older", &DeleteParams::default()).await.expect("it is deleted");
    let younger = world.until_ready("younger").await;
    assert_eq!(held(&world.repository("web"), "latest").await, Some(digest(&younger)));
    assert_ne!(digest(&younger), digest(&older));
}

#[tokio::test]
async fn tags_go_with_their_resource_but_not_what_others_use() {
    let world = World::new().await;
    source(&world, "content").await;
    let _operator = Operator::start(&world);
    let api = world.api::<MultiArchImage>();
    let mut wanted =
        spec(&world, json!({"tags": ["1.0", "latest", "stable"], "platformTag": "{tag}-{arch}"}));
    wanted["deletionPolicy"] = json!("Delete");
    world.apply("web", wanted).await;
    let image = world.until_ready("web").await;
    assert_eq!(image.finalizers(), [FINALIZER]);
    let repository = world.repository("web");
    // Somebody has the same index under a tag of their own, and another image under one of ours.
    Push::to(&repository).point("theirs", "latest").await;
    let other = Push::to(&repository).image("stable", "linux/amd64", "other").await;

    api.delete("web", &DeleteParams::default()).await.expect("it is deleted");
    until_gone(api.clone(), "web").await;
    for tag in ["1.0", "latest", "1.0-amd64", "latest-amd64"] {
        assert_eq!(held(&repository, tag).await, None, "{tag}");
    }
    assert_eq!(held(&repository, "theirs").await, Some(digest(&image)));
    assert_eq!(held(&repository, "stable").await, Some(other.digest));
    assert_eq!(held(&repository, &child(&image)).await, Some(child(&image)), "its images stay");
}

#[tokio::test]
async fn where_no_tag_can_be_removed_the_index_is_unless_another_resource_names_it_by_its_digest() {
    let world = World::new().await;
    source(&world, "content").await;
    let counts = Arc::new(Counts::default());
    let host = Proxy::of_registry(world.rig, &counts).await.address.to_string();
    let _operator = Start::new(&world).plain_http(&host).run();
    let api = world.api::<MultiArchImage>();
    // Some say that they cannot, and some that there is no such tag.
    for status in [405, 404] {
        counts.keep_tags(status);
        for is_pinned in [true, false] {
            let name = format!("web-{status}-{is_pinned}");
            let repository = format!("{host}/{}/{name}", world.namespace);
            let mut wanted = spec(&world, json!({"repository": repository, "annotations": {"name": name}}));
            wanted["deletionPolicy"] = json!("Delete");
            world.apply(&name, wanted).await;
            let image = world.until_ready(&name).await;
            if is_pinned {
                let mut pinned =
                    spec(&world, json!({"repository": world.repository(&format!("pin-{status}"))}));
                pinned["platforms"][0]["image"] = json!(format!("{repository}@{}", digest(&image)));
                world.apply(&format!("pin-{status}"), pinned).await;
                world.until_ready(&format!("pin-{status}")).await;
            }
            api.delete(&name, &DeleteParams::default()).await.expect("it is deleted");
            until_gone(api.clone(), &name).await;
            let left = held(&world.repository(&name), &digest(&image)).await;
            assert_eq!(left, is_pinned.then(|| digest(&image)), "{name}");
        }
    }
}

#[tokio::test]
async fn an_optional_platform_joins_the_index_when_it_is_there() {
    let world = World::new().await;
    source(&world, "content").await;
    let from = world.repository("from");
    let _operator = Operator::start(&world);
    let mut wanted = spec(&world, json!({}));
    let later = json!({"platform": "linux/s390x", "image": format!("{from}:s390x"), "optional": true});
    wanted["platforms"].as_array_mut().expect("platforms").push(later);
    world.apply("web", wanted).await;
    let image = world.until_ready("web").await;
    assert!(
        message(&image, "Ready").ends_with(", without linux/s390x (SourceNotFound)"),
        "{}",
        message(&image, "Ready")
    );
    assert_eq!(image.status.as_ref().and_then(|status| status.ready_platforms.as_deref()), Some("1/2"));
    Push::to(&from).image("s390x", "linux/s390x", "late").await;
    request(&world, "web", "now").await;
    let without = digest(&image);
    // It stays Ready while the complete index is on its way.
    let joined = |image: &MultiArchImage| {
        is_ready(image)
            && digest(image) != without
            && image.status.as_ref().is_some_and(|status| status.ready_platforms.as_deref() == Some("2/2"))
    };
    let image = world.until("web", "complete", joined).await;
    let raw = Push::to(&world.repository("web")).read("latest").await.expect("the index");
    let index: Value = serde_json::from_slice(&raw).expect("JSON");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(Digest::sha256(&raw).to_string(), digest(&image));
}

#[tokio::test]
async fn a_branch_that_moves_is_built_again() {
    needs_nodes!("a_branch_that_moves_is_built_again");
    let world = World::new().await;
    let git = support::git::GitRepository::create(&world, "project");
    let dockerfile = |text: &str| format!("FROM scratch\nCOPY {text} /\n");
    git.commit("main", &[("Dockerfile", &dockerfile("one")), ("one", "1")]);
    let _operator = Operator::start(&world);
    let wanted = json!({
        "target": {"repository": world.repository("web"), "tags": ["latest"]},
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"git": {"url": git.url, "ref": "main"}}},
        "interval": "10s",
    });
    world.apply("web", wanted).await;
    let first = world.until_ready("web").await;
    let commit = git.commit("main", &[("Dockerfile", &dockerfile("two")), ("two", "2")]);
    let moved = |image: &MultiArchImage| {
        let revision = image.status.as_ref().and_then(|status| status.source_revision.as_ref());
        is_ready(image) && revision == Some(&commit)
    };
    let second = world.until("web", "built from the new commit", moved).await;
    assert_ne!(digest(&first), digest(&second));
    let history = second.status.map(|status| status.history).unwrap_or_default();
    assert_eq!(history.len(), 2);
}
