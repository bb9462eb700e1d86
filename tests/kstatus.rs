//! What other people's tools make of the conditions: every version of an image that the API server has had is shown to
//! kstatus itself and, with our script, to Argo CD's interpreter.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kube::api::{ApiResource, DeleteParams, Patch, PatchParams};
use multiarch::api::{ANNOTATION_REBUILD, ANNOTATION_RECONCILE, MultiArchImage};
use serde_json::{Value, json};
use support::builds;
use support::images::Push;
use support::operator::Operator;
use support::recording::{Recording, argo_cd, kstatus, says};
use support::{World, is_ready};
use tokio::process::Command;

/// What happened, as each tool tells it: a state for as long as it stayed.
#[derive(Debug, PartialEq)]
struct Story {
    kstatus: Vec<String>,
    argo_cd: Vec<String>,
}

/// What the versions of the latest spec tell; those before an edit may still say more about what was.
fn story(versions: &[Value]) -> Story {
    let generation = |version: &Value| version["metadata"]["generation"].as_i64();
    let latest = versions.last().and_then(generation);
    let versions: Vec<Value> =
        versions.iter().filter(|version| generation(version) == latest).cloned().collect();
    let versions = versions.as_slice();
    let states = kstatus(versions);
    for (version, state) in versions.iter().zip(&states) {
        let observed = version["status"]["observedGeneration"] == version["metadata"]["generation"];
        assert!(observed || state != "Current", "nobody has looked at this yet: {version:#}");
    }
    let told = |mut states: Vec<String>| {
        states.dedup();
        states
    };
    Story { kstatus: told(states), argo_cd: told(argo_cd(versions)) }
}

fn tells(kstatus: &[&str], argo_cd: &[&str]) -> Story {
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Story { kstatus: own(kstatus), argo_cd: own(argo_cd) }
}

fn published() -> Story {
    tells(&["InProgress", "Current"], &["Progressing", "Healthy"])
}

fn failed() -> Story {
    tells(&["InProgress", "Failed"], &["Progressing", "Degraded"])
}

async fn record(world: &World, name: &str) -> Recording {
    Recording::start(world, &ApiResource::erase::<MultiArchImage>(&()), name).await
}

async fn patch(world: &World, name: &str, patch: Value) -> MultiArchImage {
    let api = world.api::<MultiArchImage>();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it is patched")
}

async fn request(world: &World, name: &str, annotation: &str, value: &str) {
    patch(world, name, json!({"metadata": {"annotations": {annotation: value}}})).await;
}

fn ready(version: &Value) -> bool {
    says(version, "Ready", "True")
}

/// Ready by this edit or a later one.
fn ready_since(edited: &MultiArchImage) -> impl Fn(&Value) -> bool {
    let edited = edited.generation();
    move |version| ready(version) && version["metadata"]["generation"].as_i64() >= Some(edited)
}

fn suspended(version: &Value) -> bool {
    let ready = support::recording::condition(version, "Ready");
    ready.is_some_and(|ready| ready["reason"] == "Suspended")
}

#[tokio::test]
async fn an_image_of_sources_tells_one_story_from_its_creation_to_its_end() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let spec = |tag: &str, tags: Value| {
        json!({"target": {"repository": world.repository("web"), "tags": tags},
               "platforms": [{"platform": "linux/s390x", "image": format!("{from}:{tag}")}]})
    };
    let mut recording = record(&world, "web").await;

    world.apply("web", spec("v1", json!(["1.0"]))).await;
    let created = recording.until("created", |_| true).await;
    assert_eq!(story(&created), tells(&["InProgress"], &["Progressing"]), "no operator has seen it");

    let mut operator = Operator::start(&world);
    let versions = [created, recording.until("ready", ready).await].concat();
    assert_eq!(story(&versions), published());
    let mut drifted = versions.last().expect("a version").clone();
    let said = json!({"type": "Drifted", "status": "True", "reason": "TagMoved", "message": "", "observedGeneration": 1});
    drifted["status"]["conditions"].as_array_mut().expect("conditions").insert(0, said);
    assert_eq!(
        story(&[drifted]),
        tells(&["Current"], &["Healthy"]),
        "conditions that only tell change nothing"
    );

    for round in ["1", "2"] {
        request(&world, "web", ANNOTATION_RECONCILE, round).await;
        let handled = |version: &Value| version["status"]["lastHandledReconcileAt"] == round;
        let versions = recording.until("looked at again", handled).await;
        assert_eq!(story(&versions), tells(&["Current"], &["Healthy"]), "looking again changes nothing");
    }

    let edited = world.apply("web", spec("v1", json!(["1.0", "1.1"]))).await;
    assert_eq!(story(&recording.until("ready", ready_since(&edited)).await), published(), "an edit");

    world.apply("web", spec("missing", json!(["1.0"]))).await;
    let versions = recording.until("stalled", |version| says(version, "Stalled", "True")).await;
    assert_eq!(story(&versions), failed());

    // It has been tried again, at least by another operator, when it is found.
    operator.kill().await;
    let _operator = Operator::start(&world);
    world.apply("witness", spec("v1", json!(["2.0"]))).await;
    world.until_ready("witness").await;
    Push::to(&from).image("missing", "linux/s390x", "late").await;
    let versions = recording.until("ready", ready).await;
    let story_of_repair = story(&versions);
    assert_eq!(story_of_repair.kstatus.last().map(String::as_str), Some("Current"));
    assert!(
        story_of_repair.kstatus.iter().filter(|state| *state == "InProgress").count() <= 1,
        "what fails again stays failed: {story_of_repair:?}"
    );

    patch(&world, "web", json!({"spec": {"suspend": true}})).await;
    let versions = recording.until("suspended", suspended).await;
    assert_eq!(story(&versions), published(), "a sync does not wait for what is published");
    let resumed = patch(&world, "web", json!({"spec": {"suspend": false}})).await;
    let versions = recording.until("ready", ready_since(&resumed)).await;
    assert_eq!(story(&versions), published(), "resumed");

    patch(&world, "web", json!({"metadata": {"finalizers": ["test.multiarch.dev/hold"]}})).await;
    recording.until("held", |version| !version["metadata"]["finalizers"].is_null()).await;
    world.api::<MultiArchImage>().delete("web", &DeleteParams::default()).await.expect("it is deleted");
    let deleted = |version: &Value| !version["metadata"]["deletionTimestamp"].is_null();
    let versions = recording.until("deleted", deleted).await;
    assert_eq!(story(&versions), tells(&["Terminating"], &["Progressing"]));
    patch(&world, "web", json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test]
async fn a_build_is_in_progress_until_it_is_published_or_has_failed_and_never_anything_else() {
    let world = World::new().await;
    if !world
        .rig
        .has_nodes("a_build_is_in_progress_until_it_is_published_or_has_failed_and_never_anything_else")
    {
        return;
    }
    let _operator = Operator::start(&world);
    let mut recording = record(&world, "built").await;
    let is_building = |version: &Value| version["status"]["platforms"][0]["phase"] == "Building";
    let spec = |commands: &str| {
        let mut spec = builds::inline(&world, "built", &["linux/amd64"], commands);
        spec["build"]["retries"] = json!(0);
        spec
    };

    world.apply("built", spec("RUN false")).await;
    let versions = recording.until("stalled", |version| says(version, "Stalled", "True")).await;
    assert_eq!(story(&versions), failed());

    let edited = world.apply("built", spec("RUN true")).await;
    let versions = recording.until("ready", ready_since(&edited)).await;
    assert!(versions.iter().any(is_building), "it was seen while it was built");
    assert_eq!(story(&versions), published(), "an edit is a new beginning");

    request(&world, "built", ANNOTATION_REBUILD, "1").await;
    let built_again = |version: &Value| version["status"]["lastHandledRebuildAt"] == "1" && ready(version);
    let begun = recording.until("begun again", |version| says(version, "Reconciling", "True")).await;
    let versions = [begun, recording.until("ready", built_again).await].concat();
    let wanted = tells(&["Current", "InProgress", "Current"], &["Healthy", "Progressing", "Healthy"]);
    assert_eq!(story(&versions), wanted, "a build that was asked for is work");
}

#[tokio::test]
async fn waiting_and_being_suspended_before_anything_is_published_are_not_done() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut recording = record(&world, "web").await;
    // The rig has no node of this kind, and none comes.
    let build = json!({"context": {"inline": {"dockerfile": "FROM scratch"}}});
    world.apply("web", builds::spec(&world, "web", &["linux/ppc64le"], build)).await;
    let waiting = |version: &Value| version["status"]["platforms"][0]["phase"] == "Waiting";
    let versions = recording.until("waiting", waiting).await;
    assert_eq!(story(&versions), tells(&["InProgress"], &["Progressing"]));
    patch(&world, "web", json!({"spec": {"suspend": true}})).await;
    let versions = recording.until("suspended", suspended).await;
    assert_eq!(story(&versions), tells(&["InProgress"], &["Progressing", "Suspended"]));
}

#[tokio::test]
async fn kubectl_wait_does_not_take_an_old_ready_for_a_new_one() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let spec = |tags: Value| {
        json!({"target": {"repository": world.repository("web"), "tags": tags},
               "platforms": [{"platform": "linux/s390x", "image": format!("{from}:v1")}]})
    };
    let wait = |timeout: &'static str| {
        let mut kubectl = Command::new(&world.rig.kubectl);
        kubectl.args(["wait", "mai/web", "--for=condition=Ready", "--namespace", &world.namespace, timeout]);
        async move { kubectl.output().await.expect("kubectl").status.success() }
    };
    world.apply("web", spec(json!(["1.0"]))).await;
    let mut operator = Operator::start(&world);
    assert!(wait("--timeout=5m").await);
    operator.kill().await;
    world.apply("web", spec(json!(["1.0", "1.1"]))).await;
    assert!(!wait("--timeout=0").await, "nobody has seen the edit");
    let _operator = Operator::start(&world);
    assert!(wait("--timeout=5m").await);
    assert!(is_ready(&world.until_ready("web").await));
}

#[tokio::test]
async fn a_tag_that_another_image_has_is_a_failure_until_that_one_goes() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let spec = |annotation: &str| {
        json!({"target": {"repository": world.repository("web"), "tags": ["1.0"], "annotations": {"a": annotation}},
               "platforms": [{"platform": "linux/s390x", "image": format!("{from}:v1")}]})
    };
    let _operator = Operator::start(&world);
    let api = world.api::<MultiArchImage>();
    let older = world.apply("older", spec("older")).await;
    world.until_ready("older").await;
    // Ages are whole seconds, and chance decides between two of one age.
    let mut number = 0;
    let (name, mut recording) = loop {
        number += 1;
        let name = format!("younger-{number}");
        let recording = record(&world, &name).await;
        let younger = world.apply(&name, spec("younger")).await;
        if younger.metadata.creation_timestamp != older.metadata.creation_timestamp {
            break (name, recording);
        }
        api.delete(&name, &DeleteParams::default()).await.expect("it is deleted");
    };
    let versions = recording.until("stalled", |version| says(version, "Stalled", "True")).await;
    assert_eq!(story(&versions), failed());
    let conflict = support::recording::condition(versions.last().expect("a version"), "Ready");
    assert_eq!(conflict.map(|ready| &ready["reason"]), Some(&json!("TagConflict")));
    api.delete("older", &DeleteParams::default()).await.expect("it is deleted");
    let versions = recording.until("ready", ready).await;
    assert_eq!(story(&versions).kstatus.last().map(String::as_str), Some("Current"), "{name}");
}

#[tokio::test]
async fn a_platform_that_is_skipped_keeps_nobody_waiting() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let _operator = Operator::start(&world);
    let mut recording = record(&world, "web").await;
    // The rig has no node of the kind that is to be built on.
    let build = json!({"context": {"inline": {"dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}}});
    let mut spec = builds::spec(&world, "web", &["linux/ppc64le"], build);
    spec["platforms"] = json!([
        {"platform": "linux/ppc64le", "whenNoNode": "Skip"},
        {"platform": "linux/s390x", "image": format!("{from}:v1")},
    ]);
    world.apply("web", spec).await;
    let versions = recording.until("ready", ready).await;
    assert_eq!(story(&versions), published());
    assert_eq!(versions.last().expect("a version")["status"]["platforms"][0]["phase"], "Skipped");
}
