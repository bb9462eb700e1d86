//! Where platforms are built: nodes that are not there, that are taken, that come and go.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::scene::Scene;
use super::{created, deleted, publishes};
use crate::api::{Phase, Reason};
use crate::plan::{Nodes, build_state};

/// amd64 has a node; s390x has none, and `policy` says what is done about it.
fn without_node(policy: &str, build: Value) -> Scene {
    let mut whole = json!({"context": {"inline": {"dockerfile": "FROM scratch"}}});
    whole.as_object_mut().expect("an object").extend(build.as_object().expect("an object").clone());
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/s390x", "whenNoNode": policy}],
        "build": whole,
    }));
    scene.has_nodes(&["amd64"]);
    scene
}

fn unschedulable(scene: &mut Scene, slug: &str) {
    let status = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."}]});
    scene.pod(slug, "pending", status);
    let pod = scene.observed.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some("pending"));
    Arc::make_mut(pod.expect("the pod")).spec.as_mut().expect("a spec").node_name = None;
}

fn later(scene: &mut Scene, seconds: i64) {
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
}

fn s390x(scene: &Scene) -> (Phase, Option<Reason>) {
    let entry = scene.platform("linux/s390x");
    (entry.phase, entry.reason)
}

#[test]
fn a_platform_that_is_skipped_is_left_out_of_the_index_and_joins_when_its_node_comes() {
    let mut scene = without_node("Skip", json!({}));
    scene.run();
    assert_eq!(s390x(&scene), (Phase::Skipped, Some(Reason::NoNodeForPlatform)));
    assert_eq!(scene.observed.jobs.len(), 1);
    scene.finish("linux-amd64");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.message().ends_with(", without linux/s390x (NoNodeForPlatform)"), "{}", scene.message());
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("1/2"));
    let without = scene.observed.status.digest.clone();

    scene.gets_node("s390x");
    scene.run();
    scene.finish("linux-s390x");
    scene.run();
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("2/2"));
    assert_ne!(scene.observed.status.digest, without);
}

#[test]
fn what_is_published_without_a_platform_is_at_rest() {
    let mut scene = without_node("Skip", json!({}));
    scene.run();
    scene.finish("linux-amd64");
    let before = scene.run().status;
    scene.restart();
    let plan = scene.run();
    assert!(!publishes(&plan), "it is published already");
    assert_eq!(plan.status, before);
}

#[test]
fn an_image_of_skipped_platforms_alone_is_not_published() {
    let mut scene = without_node("Skip", json!({}));
    scene.has_nodes(&[]);
    scene.edit(|image| {
        image.spec.platforms.remove(0);
    });
    let plan = scene.run();
    assert!(!publishes(&plan));
    assert_eq!(scene.ready(), ("Unknown", "NoNodeForPlatform"));
}

#[test]
fn a_platform_that_must_have_a_node_fails_at_once_and_recovers_when_one_comes() {
    let mut scene = without_node("Fail", json!({}));
    scene.run();
    assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::NoNodeForPlatform)));
    assert!(scene.message().contains("the cluster has no node of linux/s390x"), "{}", scene.message());
    assert!(scene.has("Stalled"));
    scene.gets_node("s390x");
    scene.run();
    assert_eq!(scene.observed.jobs.len(), 2);
    assert!(!scene.has("Stalled"));
}

#[test]
fn a_platform_without_a_node_is_emulated_on_any_and_stays_there() {
    let mut scene = without_node("Emulate", json!({}));
    scene.run();
    assert!(scene.platform("linux/s390x").emulated);
    let name = scene.job_name("linux-s390x");
    // A node that comes while the build is under way does not start it again.
    scene.gets_node("s390x");
    let plan = scene.run();
    assert!(created(&plan).is_empty() && deleted(&plan).is_empty());
    scene.finish("linux-s390x");
    scene.run();
    assert_eq!(s390x(&scene).0, Phase::Ready);
    assert!(scene.platform("linux/s390x").emulated);
    assert_eq!(scene.platform("linux/s390x").job.as_ref(), Some(&name));
}

#[test]
fn what_emulation_could_not_build_is_built_by_a_node_of_the_platform_when_one_comes() {
    let mut scene = without_node("Emulate", json!({}));
    scene.run();
    scene.break_build(
        "linux-s390x",
        76,
        "error: Dockerfile:2: RUN true: the node runs linux/amd64 and not linux/s390x",
    );
    scene.run();
    assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::EmulationUnavailable)));
    scene.gets_node("s390x");
    scene.run();
    assert!(!scene.platform("linux/s390x").emulated);
    assert_eq!(scene.observed.jobs.len(), 2, "the emulated Job has gone");
}

#[test]
fn a_platform_whose_nodes_take_nothing_is_not_sent_back_and_forth_when_its_emulated_build_fails() {
    let mut scene = without_node("Emulate", json!({"schedulingTimeout": "10m"}));
    scene.gets_node("s390x");
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    later(&mut scene, 601);
    scene.run();
    assert!(scene.platform("linux/s390x").emulated);
    scene.break_build("linux-s390x", 65, "error: Dockerfile:2: RUN false: did not complete successfully");
    let plan = scene.run();
    assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::BuildFailed)));
    assert!(created(&plan).is_empty() && deleted(&plan).is_empty());
    assert!(scene.platform("linux/s390x").emulated);
}

#[test]
fn a_node_that_took_the_build_while_the_operator_was_away_keeps_it_though_the_time_is_over() {
    let mut scene = without_node("Wait", json!({"schedulingTimeout": "10m"}));
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    scene.restart();
    later(&mut scene, 660);
    scene.pod("linux-s390x", "pending", json!({"phase": "Running"}));
    let plan = scene.run();
    assert!(deleted(&plan).is_empty());
    assert_eq!(s390x(&scene).0, Phase::Building);
}

#[test]
fn a_request_to_look_again_leaves_alone_what_waits_for_a_node() {
    let mut scene = without_node("Wait", json!({}));
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    scene.annotate(crate::api::ANNOTATION_RECONCILE, "again");
    assert!(deleted(&scene.run()).is_empty());
}

#[test]
fn a_request_that_is_taken_away_again_builds_nothing() {
    let mut scene = without_node("Skip", json!({}));
    scene.annotate(crate::api::ANNOTATION_REBUILD, "today");
    scene.run();
    scene.finish("linux-amd64");
    scene.run();
    scene.image.metadata.annotations = None;
    let plan = scene.run();
    assert!(created(&plan).is_empty(), "the same inputs are not built twice");
}

#[test]
fn what_only_linux_can_build_is_not_tried_for_windows() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "windows/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
    }));
    scene.run();
    let windows = scene.platform("windows/amd64");
    assert_eq!((windows.phase, windows.reason), (Phase::Failed, Some(Reason::InvalidSpec)));
}

#[test]
fn with_a_scheduling_timeout_a_node_is_waited_for_before_the_platform_is_emulated() {
    let mut scene = without_node("Emulate", json!({"schedulingTimeout": "10m"}));
    scene.run();
    let native = scene.job_name("linux-s390x");
    scene.pod("linux-amd64", "running", json!({"phase": "Running"}));
    unschedulable(&mut scene, "linux-s390x");
    let plan = scene.plan();
    assert_eq!(s390x(&scene), (Phase::Waiting, Some(Reason::NoNodeForPlatform)));
    assert_eq!(plan.wake_after, Some(SignedDuration::from_mins(10)));
    later(&mut scene, 600);
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [native.as_str()]);
    scene.run();
    assert!(scene.platform("linux/s390x").emulated);
    assert_ne!(scene.job_name("linux-s390x"), native);
}

#[test]
fn a_platform_that_waits_fails_after_its_scheduling_timeout_with_the_schedulers_words_and_stays_failed() {
    let mut scene = without_node("Wait", json!({"schedulingTimeout": "10m"}));
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    later(&mut scene, 601);
    let plan = scene.run();
    assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::NoNodeForPlatform)));
    let said = scene.platform("linux/s390x").message.clone();
    assert!(said.as_ref().is_some_and(|said| said.contains("schedulingTimeout")), "{said:?}");
    assert!(created(&plan).is_empty());
    later(&mut scene, 60);
    let plan = scene.run();
    assert!(created(&plan).is_empty(), "it is not tried again by itself");
    assert_eq!(scene.platform("linux/s390x").message, said, "and says the same");
    scene.annotate(crate::api::ANNOTATION_RECONCILE, "again");
    scene.run();
    assert!(
        scene
            .observed
            .jobs
            .iter()
            .any(|job| build_state::platform_slug(job).is_some_and(|s| s == "linux-s390x"))
    );
}

#[test]
fn a_platform_that_has_waited_too_long_for_a_node_recovers_when_one_comes() {
    for policy in ["Wait", "Fail"] {
        let mut scene = without_node(policy, json!({"schedulingTimeout": "10m"}));
        scene.run();
        unschedulable(&mut scene, "linux-s390x");
        scene.plan();
        later(&mut scene, 601);
        scene.run();
        assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::NoNodeForPlatform)));
        scene.observed.pods.clear();
        scene.gets_node("s390x");
        scene.run();
        assert_eq!(s390x(&scene).0, Phase::Pending, "{policy}");
        // One that takes nothing is not waited for anew again and again.
        unschedulable(&mut scene, "linux-s390x");
        scene.plan();
        assert_eq!(s390x(&scene), (Phase::Waiting, Some(Reason::Unschedulable)));
        later(&mut scene, 601);
        scene.run();
        assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::Unschedulable)));
        assert!(created(&scene.run()).is_empty());
    }
}

#[test]
fn what_is_published_without_a_platform_that_has_waited_long_enough_stays_ready_when_it_is_looked_at_again() {
    let mut scene = without_node("Skip", json!({"schedulingTimeout": "10m"}));
    scene.gets_node("s390x");
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    scene.finish("linux-amd64");
    later(&mut scene, 601);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.annotate(crate::api::ANNOTATION_RECONCILE, "again");
    for _ in 0..10 {
        let plan = scene.plan();
        assert_eq!(scene.ready(), ("True", "Published"));
        assert!(deleted(&plan).is_empty());
        let open: Vec<_> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(s390x(&scene), (Phase::Skipped, Some(Reason::Unschedulable)));
}

#[test]
fn a_job_that_waits_for_a_node_makes_way_for_one_with_the_edited_tolerations() {
    let mut scene = without_node("Wait", json!({}));
    scene.run();
    let name = scene.job_name("linux-s390x");
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    let pod = json!({"tolerations": [{"key": "arch", "operator": "Exists"}]});
    scene.edit(|image| {
        let build = image.spec.build.as_mut().expect("a build");
        build.pod = Some(serde_json::from_value(pod).expect("a pod"));
    });
    let plan = scene.plan();
    assert!(deleted(&plan).contains(&name.as_str()));
    scene.observed.pods.clear();
    scene.run();
    let job = serde_json::to_string(
        &scene.observed.jobs.iter().map(AsRef::as_ref).collect::<Vec<&k8s_openapi::api::batch::v1::Job>>(),
    )
    .expect("JSON");
    assert!(job.contains("tolerations"), "{job}");
    assert_eq!(scene.job_name("linux-s390x"), name, "the same is built");
}

#[test]
fn a_running_build_is_left_alone_when_only_what_it_needs_is_edited() {
    let mut scene = without_node("Wait", json!({}));
    scene.run();
    scene.pod("linux-amd64", "running", json!({"phase": "Running"}));
    scene.plan();
    scene.edit(|image| image.spec.build.as_mut().expect("a build").retries = 5);
    let plan = scene.plan();
    let name = scene.job_name("linux-amd64");
    assert!(!deleted(&plan).contains(&name.as_str()));
}

#[test]
fn a_failed_build_is_tried_again_when_it_gets_more_memory_or_when_it_is_asked_for() {
    let mut scene = without_node("Skip", json!({}));
    scene.run();
    scene.break_build("linux-amd64", 1, "Killed");
    scene.run();
    let name = scene.job_name("linux-amd64");
    scene.edit(|image| {
        let pod = json!({"resources": {"limits": {"memory": "8Gi"}}});
        image.spec.build.as_mut().expect("a build").pod = Some(serde_json::from_value(pod).expect("a pod"));
    });
    assert_eq!(deleted(&scene.plan()), [name.as_str()]);
    scene.observed.pods.clear();
    scene.run();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Pending);
    scene.break_build("linux-amd64", 1, "Killed");
    scene.run();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Failed);
    scene.annotate(crate::api::ANNOTATION_RECONCILE, "again");
    assert_eq!(deleted(&scene.plan()), [name.as_str()]);
}

#[test]
fn a_job_whose_success_was_seen_before_its_end_goes_in_time_too() {
    let mut scene = without_node("Skip", json!({}));
    scene.run();
    scene.finish("linux-amd64");
    scene
        .change_job("linux-amd64", json!({"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}));
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    let end = json!({"completionTime": scene.now.to_string(), "conditions": [{"type": "Complete", "status": "True"}]});
    scene.change_job("linux-amd64", end);
    later(&mut scene, 3600);
    assert_eq!(deleted(&scene.plan()).len(), 1);
}

#[test]
fn a_finished_job_goes_after_its_time_and_not_before_its_result_is_in_the_status() {
    let mut scene = without_node("Skip", json!({"ttlAfterFinished": "1h"}));
    scene.run();
    scene.finish("linux-amd64");
    later(&mut scene, 2 * 3600);
    assert!(deleted(&scene.plan()).is_empty(), "its result has not been recorded");
    let plan = scene.run();
    assert!(plan.tasks.is_empty() || scene.observed.jobs.is_empty());
    let image = scene.observed.status.digest.clone();
    scene.restart();
    scene.run();
    assert!(scene.observed.jobs.is_empty());
    assert_eq!(scene.observed.status.digest, image, "what was published stays");
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
}

#[test]
fn a_finished_job_that_nobody_has_seen_the_end_of_stays_as_long_from_when_somebody_has() {
    let mut scene = without_node("Skip", json!({"ttlAfterFinished": "1h"}));
    scene.run();
    scene.break_build("linux-amd64", 65, "error: no");
    later(&mut scene, 5 * 3600);
    scene.restart();
    scene.observed.started = scene.now;
    assert!(deleted(&scene.run()).is_empty(), "its log can still be read");
    later(&mut scene, 3600);
    assert_eq!(deleted(&scene.plan()).len(), 1);
}

#[test]
fn where_nodes_are_not_seen_the_scheduler_decides_and_a_policy_counts_after_a_minute() {
    for (policy, outcome) in [("Skip", Phase::Skipped), ("Fail", Phase::Failed), ("Wait", Phase::Waiting)] {
        let mut scene = without_node(policy, json!({}));
        scene.observed.nodes = Nodes::Unseen;
        scene.run();
        assert_eq!(scene.observed.jobs.len(), 2, "{policy}: what cannot be known is tried");
        unschedulable(&mut scene, "linux-s390x");
        scene.plan();
        assert_eq!(s390x(&scene), (Phase::Waiting, Some(Reason::Unschedulable)), "{policy}");
        later(&mut scene, 61);
        scene.plan();
        assert_eq!(s390x(&scene), (outcome, Some(Reason::Unschedulable)), "{policy}");
    }
}

#[test]
fn where_nodes_are_not_seen_a_platform_that_no_node_takes_is_emulated_once_and_stays_there() {
    let mut scene = without_node("Emulate", json!({}));
    scene.observed.nodes = Nodes::Unseen;
    scene.run();
    unschedulable(&mut scene, "linux-s390x");
    scene.plan();
    later(&mut scene, 61);
    scene.run();
    assert!(scene.platform("linux/s390x").emulated);
    let error = "error: Dockerfile:2: RUN true: the node runs linux/amd64 and not linux/s390x";
    scene.break_build("linux-s390x", 76, error);
    scene.run();
    assert_eq!(s390x(&scene), (Phase::Failed, Some(Reason::EmulationUnavailable)));
    assert!(scene.platform("linux/s390x").emulated, "it is not sent back and forth");
}
