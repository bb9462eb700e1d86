//! What a child must pass before its platform is ready: the look at its program, and the run.

mod ends;
mod lost;
mod programs;
mod runs;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::scene::{REPOSITORY, Scene};
use super::{building, publishes};
use crate::api::{
    ANNOTATION_RECONCILE, Enforcement, FINALIZER, LABEL_PLATFORM, LABEL_VERIFICATION, Phase, ProgramResult,
    Reason, Verify, WhenNoNode,
};
use crate::image::{ImageConfig, PlatformCheck, inspect_layers};
use crate::plan::fact::{Fact, Found};
use crate::plan::task::Task;
use crate::plan::{Conflict, Plan, deletion};
use crate::registry::Digest;

const PLATFORM: &str = "linux/arm64";
/// `EM_X86_64` and `EM_AARCH64`.
const AMD64: u16 = 62;
const ARM64: u16 = 183;

/// One source, checked like this, in a cluster that has a node for it.
fn checked(verify: Value) -> Scene {
    let platforms = json!([{"platform": PLATFORM, "image": "other.test/web:arm64"}]);
    let mut scene = Scene::new(json!({"platforms": platforms, "verify": verify}));
    scene.has_nodes(&["arm64"]);
    scene
}

/// The same, with its pod just created.
fn running() -> Scene {
    let mut scene = checked(json!({"run": {"command": ["/app", "--version"]}}));
    scene.run();
    assert_eq!(scene.observed.pods.len(), 1);
    scene
}

/// Somebody asks for a check, or edits how the image is run.
fn ask_or_edit(scene: &mut Scene, asked: bool) {
    match asked {
        true => scene.annotate(ANNOTATION_RECONCILE, "now"),
        false => scene.edit(|image| {
            let run = image.spec.verify.as_mut().and_then(|verify| verify.run.as_mut()).expect("a run");
            run.timeout = std::time::Duration::from_secs(90).into();
        }),
    }
}

fn found(scene: &Scene) -> (Phase, Option<Reason>) {
    let entry = scene.platform(PLATFORM);
    (entry.phase, entry.reason)
}

fn said(scene: &Scene) -> &str {
    scene.platform(PLATFORM).message.as_deref().expect("a message")
}

fn pod_names(scene: &Scene) -> Vec<String> {
    scene.observed.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
}

fn pods_deleted(plan: &Plan) -> usize {
    plan.tasks.iter().filter(|task| matches!(task, Task::DeletePod { .. })).count()
}

/// The latest pod, as its kubelet changes it.
fn change(scene: &mut Scene, change: impl FnOnce(&mut Pod)) {
    change(Arc::make_mut(scene.observed.pods.last_mut().expect("a pod")));
}

fn set(scene: &mut Scene, status: Value) {
    let status: PodStatus = serde_json::from_value(status).expect("a status");
    change(scene, |pod| {
        pod.spec.as_mut().expect("a spec").node_name = Some("node-arm64".to_owned());
        pod.status = Some(status);
    });
}

fn start(scene: &mut Scene) {
    set(scene, json!({"phase": "Running"}));
}

/// The command ended after so many seconds.
fn end(scene: &mut Scene, exit_code: i32, reason: &str, seconds: i64, output: &str) {
    let finished = scene.now.saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    let terminated = json!({
        "exitCode": exit_code, "reason": reason, "message": output,
        "startedAt": scene.now.to_string(), "finishedAt": finished.to_string(),
    });
    set(scene, container(phase, &json!({"terminated": terminated})));
}

fn container(phase: &str, state: &Value) -> Value {
    json!({"phase": phase, "containerStatuses": [{
        "name": "verify", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
}
