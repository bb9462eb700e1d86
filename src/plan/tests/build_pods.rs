//! Pods of builds that do not go the usual way: others' containers beside ours, nodes that die, watches that are behind.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::scene::{Scene, ended};
use super::{building, created, deleted};
use crate::api::{Phase, Reason};
use crate::plan::Plan;
use crate::plan::fact::{Fact, Found};
use crate::plan::task::Task;
use crate::registry::Digest;

const ARM64: &str = "linux/arm64";

/// A container that ended.
fn end(name: &str, exit_code: i32, reason: &str, message: &str) -> Value {
    let end = json!({"exitCode": exit_code, "reason": reason, "message": message});
    container(name, &json!({"terminated": end}))
}

fn container(name: &str, state: &Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

#[test]
fn what_others_put_into_the_pod_does_not_hide_what_the_build_says() {
    let mut scene = building();
    let digest = Digest::sha256(b"arm64");
    let pod = json!({
        "phase": "Succeeded",
        "initContainerStatuses": [end("istio-proxy", 137, "Error", ""), end("context", 0, "Completed", "")],
        "containerStatuses": [
            end("agent", 0, "Completed", ""),
            end("build", 0, "Completed", &format!("{{\"digest\":\"{digest}\"}}")),
        ],
    });
    scene.pod("linux-arm64", "pod", pod);
    let complete = json!({"completionTime": scene.now.to_string(), "conditions": [{"type": "Complete", "status": "True"}]});
    scene.change_job("linux-arm64", complete);
    scene.run();
    assert_eq!(scene.platform(ARM64).built.as_deref(), Some(digest.as_str()));
}

#[test]
fn a_container_of_others_that_keeps_the_build_from_starting_is_named() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "no such tag"}});
    let ours = container("build", &json!({"waiting": {"reason": "PodInitializing"}}));
    for (state, reason, said) in [
        (
            waiting("ImagePullBackOff"),
            Reason::ImagePullFailed,
            "the image of container vault (not the build's) cannot be pulled: no such tag",
        ),
        (
            waiting("CrashLoopBackOff"),
            Reason::ContainerStarting,
            "container vault (not the build's): CrashLoopBackOff: no such tag",
        ),
    ] {
        let mut scene = building();
        let statuses = [container("vault", &state)];
        let pod = json!({"phase": "Pending", "initContainerStatuses": statuses, "containerStatuses": [ours]});
        scene.pod("linux-arm64", "pod", pod);
        scene.run();
        let arm64 = scene.platform(ARM64);
        assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(reason)));
        assert!(arm64.message.as_ref().is_some_and(|message| message.starts_with(said)), "{arm64:?}");
    }

    let mut scene = building();
    let pod = json!({"phase": "Failed", "initContainerStatuses": [end("vault", 3, "Error", "")],
        "containerStatuses": [ours]});
    scene.pod("linux-arm64", "pod", pod);
    scene.change_job("linux-arm64", json!({"conditions": [{"type": "Failed", "status": "True"}]}));
    scene.run();
    let said = scene.platform(ARM64).message.clone().unwrap_or_default();
    assert!(said.starts_with("container vault (not the build's) ended with exit code 3"), "{said}");
}

fn later(scene: &mut Scene, seconds: i64) {
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
}

fn ends_job(scene: &mut Scene, condition: &str) {
    let now = scene.now.to_string();
    let completion = (condition == "Complete").then_some(&now);
    let end = json!({"completionTime": completion,
        "conditions": [{"type": condition, "status": "True", "lastTransitionTime": now}]});
    scene.change_job("linux-arm64", end);
}

fn change_pod(scene: &mut Scene, change: impl FnOnce(&mut Pod)) {
    let pod = scene.observed.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some("pod"));
    change(Arc::make_mut(pod.expect("the pod")));
}

/// The question to the API server that a plan has, if it has one.
fn question(plan: &Plan) -> Option<Task> {
    plan.tasks.iter().find(|task| matches!(task, Task::FindPods { .. })).cloned()
}

/// Lets the API server answer that it has this pod, while the watch goes on showing another state of it.
fn answer(scene: &mut Scene, question: &Task, status: Value) {
    let shown = scene.observed.pods.clone();
    scene.pod("linux-arm64", "pod", status);
    scene.succeed(question);
    scene.observed.pods = shown;
}

#[test]
fn a_build_that_has_succeeded_is_not_lost_though_the_watch_still_shows_it_running() {
    let mut scene = building();
    scene.pod("linux-arm64", "pod", json!({"phase": "Running"}));
    ends_job(&mut scene, "Complete");
    assert!(question(&scene.plan()).is_none(), "watches are a moment apart");
    later(&mut scene, 60);
    let plan = scene.plan();
    assert!(deleted(&plan).is_empty());
    assert_eq!(scene.platform(ARM64).phase, Phase::Building);
    let question = question(&plan).expect("the API server is asked");
    let digest = Digest::sha256(b"arm64");
    answer(&mut scene, &question, ended(0, "Completed", &format!("{{\"digest\":\"{digest}\"}}")));
    let plan = scene.plan();
    assert!(deleted(&plan).is_empty());
    assert_eq!(scene.platform(ARM64).built.as_deref(), Some(digest.as_str()));
}

#[test]
fn a_build_whose_pod_is_really_gone_is_built_again() {
    let mut scene = building();
    scene.pod("linux-arm64", "pod", json!({"phase": "Running"}));
    ends_job(&mut scene, "Complete");
    later(&mut scene, 60);
    let question = question(&scene.plan()).expect("the API server is asked");
    scene.observed.facts.insert(question.key(), Fact::Known(Found::Pods(vec![])));
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [scene.job_name("linux-arm64").as_str()]);
    assert_eq!(scene.platform(ARM64).reason, Some(Reason::BuildResultLost));
}

#[test]
fn a_build_that_has_failed_is_told_with_its_cause_and_not_before_that_is_known() {
    let mut scene = building();
    scene.pod("linux-arm64", "pod", json!({"phase": "Running"}));
    ends_job(&mut scene, "Failed");
    scene.plan();
    assert_eq!(scene.platform(ARM64).phase, Phase::Building, "its last words are on their way");
    scene.pod("linux-arm64", "pod", ended(65, "Error", "error: no"));
    scene.plan();
    let told = scene.platform(ARM64).clone();
    assert_eq!((told.phase, told.reason), (Phase::Failed, Some(Reason::BuildFailed)));
    assert_eq!(told.log_tail.as_deref(), Some("error: no"));

    let mut scene = building();
    ends_job(&mut scene, "Failed");
    later(&mut scene, 60);
    let question = question(&scene.plan()).expect("the API server is asked");
    answer(&mut scene, &question, ended(66, "Error", "error: denied"));
    scene.plan();
    assert_eq!(scene.platform(ARM64).reason, Some(Reason::PushDenied));
    scene.restart();
    scene.plan();
    assert_eq!(scene.platform(ARM64).reason, Some(Reason::PushDenied), "and stays so");
}

/// Builds of which the other one needs nothing.
fn building_both() -> Scene {
    let mut scene = building();
    scene.pod("linux-amd64", "other", json!({"phase": "Running"}));
    scene
}

/// A build whose pod is being taken from its node.
fn evicted() -> Scene {
    let mut scene = building_both();
    let disruption =
        json!({"type": "DisruptionTarget", "status": "True", "message": "Taint manager: deleting"});
    scene.pod("linux-arm64", "pod", json!({"phase": "Running", "conditions": [disruption]}));
    let deletion = Some(Time(scene.now));
    change_pod(&mut scene, |pod| {
        pod.metadata.uid = Some("uid-of-pod".to_owned());
        pod.metadata.deletion_timestamp = deletion;
    });
    scene
}

#[test]
fn a_build_on_a_node_that_has_died_is_built_again_elsewhere() {
    let mut scene = evicted();
    let plan = scene.plan();
    let arm64 = scene.platform(ARM64);
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::BuildEvicted)));
    let said = arm64.message.clone().unwrap_or_default();
    assert!(said.starts_with("its pod is being taken from node-1 (Taint manager: deleting)"), "{said}");
    assert!(deleted(&plan).is_empty());
    assert_eq!(plan.wake_after, Some(SignedDuration::from_secs(60)));

    later(&mut scene, 60);
    let plan = scene.plan();
    let goes =
        |task: &&Task| matches!(task, Task::DeletePod { at_once: true, uid, .. } if uid == "uid-of-pod");
    let delete = plan.tasks.iter().find(goes).expect("the pod goes without its node's word").clone();
    assert!(deleted(&plan).is_empty(), "one after the other");
    let said = scene.platform(ARM64).message.clone().unwrap_or_default();
    assert!(said.starts_with("node-1 does not end the pod that was taken from it"), "{said}");
    // The Job's finalizer keeps the pod until the Job goes.
    scene.observed.facts.insert(delete.key(), Fact::Known(Found::Done));
    let name = scene.job_name("linux-arm64");
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [name.as_str()]);
    scene.observed.jobs.retain(|job| job.metadata.name.as_ref() != Some(&name));
    assert_eq!(created(&scene.plan()), [name.as_str()]);
}

#[test]
fn a_pod_that_its_node_ends_in_time_is_replaced_by_its_job() {
    let mut scene = evicted();
    scene.plan();
    let disruption = json!({"type": "DisruptionTarget", "status": "True", "message": "drained"});
    scene.pod("linux-arm64", "pod", json!({"phase": "Failed", "conditions": [disruption]}));
    later(&mut scene, 120);
    let plan = scene.plan();
    assert!(deleted(&plan).is_empty());
    let said = scene.platform(ARM64).message.clone().unwrap_or_default();
    assert!(said.starts_with("drained; another attempt follows"), "{said}");
}

#[test]
fn a_build_that_its_node_does_not_end_in_time_has_failed_all_the_same() {
    let mut scene = building_both();
    scene.pod("linux-arm64", "pod", json!({"phase": "Running", "startTime": scene.now.to_string()}));
    change_pod(&mut scene, |pod| {
        pod.spec.as_mut().expect("a spec").active_deadline_seconds = Some(3600);
    });
    let plan = scene.plan();
    assert_eq!(plan.wake_after, Some(SignedDuration::from_secs(3600 + 300)));
    later(&mut scene, 3600 + 300);
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [scene.job_name("linux-arm64").as_str()]);
    let arm64 = scene.platform(ARM64);
    assert_eq!((arm64.phase, arm64.reason), (Phase::Failed, Some(Reason::BuildTimeout)));
    assert!(arm64.message.as_ref().is_some_and(|said| said.contains("node-1 has not ended it")), "{arm64:?}");
}

#[test]
fn a_build_that_was_killed_for_want_of_memory_is_not_tried_again_until_it_gets_more() {
    let mut scene = building();
    scene.pod("linux-arm64", "pod", ended(137, "OOMKilled", "#5 compiling"));
    let plan = scene.plan();
    let name = scene.job_name("linux-arm64");
    assert_eq!(deleted(&plan), [name.as_str()], "its Job would try again");
    let told = scene.platform(ARM64).clone();
    assert_eq!((told.phase, told.reason), (Phase::Failed, Some(Reason::BuildOutOfMemory)));
    assert!(told.finished_at.is_some());

    later(&mut scene, 5);
    scene.plan();
    assert_eq!(*scene.platform(ARM64), told, "until the Job is gone");
    scene.pod("linux-arm64", "pod-2", json!({"phase": "Pending"}));
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [name.as_str()], "though it tries again");
    let left = scene.platform(ARM64);
    assert_eq!((left.phase, left.reason, &left.message), (told.phase, told.reason, &told.message));
    scene.observed.pods.retain(|pod| pod.metadata.name.as_deref() != Some("pod-2"));
    scene.plan();
    let job = scene.observed.jobs.iter_mut().find(|job| job.metadata.name.as_ref() == Some(&name));
    Arc::make_mut(job.expect("the Job")).metadata.deletion_timestamp = Some(Time(scene.now));
    scene.plan();
    assert_eq!(*scene.platform(ARM64), told, "while it goes");
    scene.observed.jobs.retain(|job| job.metadata.name.as_ref() != Some(&name));
    scene.observed.pods.clear();
    scene.restart();
    assert!(created(&scene.plan()).is_empty());
    assert_eq!(*scene.platform(ARM64), told, "and after a restart");

    scene.edit(|image| {
        let pod = json!({"resources": {"limits": {"memory": "8Gi"}}});
        image.spec.build.as_mut().expect("a build").pod = Some(serde_json::from_value(pod).expect("a pod"));
    });
    scene.run();
    assert_eq!(scene.platform(ARM64).phase, Phase::Pending);
    assert_eq!(scene.job_name("linux-arm64"), name);
}

#[test]
fn a_builder_that_never_started_for_want_of_its_image_has_not_taken_too_long() {
    let mut scene = building();
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "builder:1: not found"}});
    let pending = json!({"phase": "Pending", "containerStatuses": [container("build", &waiting)]});
    scene.pod("linux-arm64", "pod", pending);
    scene.plan();
    let said = scene.platform(ARM64).message.clone();
    // What the kubelet makes of a container that never was.
    let unknown = end("build", 137, "ContainerStatusUnknown", "The container could not be located");
    let over = json!({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [unknown]});
    scene.pod("linux-arm64", "pod", over);
    let plan = scene.plan();
    let arm64 = scene.platform(ARM64);
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::ImagePullFailed)));
    assert!(deleted(&plan).is_empty(), "another attempt follows");
    ends_job(&mut scene, "Failed");
    for _ in 0..2 {
        scene.plan();
        let arm64 = scene.platform(ARM64);
        assert_eq!((arm64.phase, arm64.reason), (Phase::Failed, Some(Reason::ImagePullFailed)));
        assert_eq!(arm64.message, said);
        scene.restart();
    }
}
