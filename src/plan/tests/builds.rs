//! Builds: what their Jobs and pods say, and what is made of it.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::scene::{COMMIT, Scene, ended};
use super::{building, builds, created, deleted, publishes};
use crate::api::{ANNOTATION_REBUILD, Phase, Reason};
use crate::plan::build_state;
use crate::plan::fact::{Fact, Found};
use crate::plan::task::Task;

#[test]
fn every_platform_is_built_from_the_same_commit() {
    let scene = building();
    assert_eq!(scene.observed.jobs.len(), 2);
    assert_eq!(scene.observed.status.source_revision.as_deref(), Some(COMMIT));
    for job in &scene.observed.jobs {
        let job = serde_json::to_string(&**job).expect("JSON");
        assert!(job.contains("https://git.test/web.git") && job.contains(COMMIT), "{job}");
    }
}

#[test]
fn a_build_that_fails_is_told_with_its_cause_while_the_others_go_on() {
    let mut scene = building();
    scene.break_build(
        "linux-arm64",
        65,
        "#5 ...\nerror: failed to solve: process \"make\" did not complete successfully: exit code: 2",
    );
    let plan = scene.run();
    let arm64 = scene.platform("linux/arm64");
    assert_eq!((arm64.phase, arm64.reason), (Phase::Failed, Some(Reason::BuildFailed)));
    assert!(arm64.log_tail.as_ref().expect("a log").contains("exit code: 2"));
    assert!(
        scene.message().starts_with("linux/arm64: BuildFailed: process \"make\" did not complete"),
        "{}",
        scene.message()
    );
    assert!(scene.has("Stalled") && !scene.has("Reconciling"));
    assert_eq!(scene.ready().0, "False");
    assert!(deleted(&plan).is_empty(), "the other build goes on");
    scene.finish("linux-amd64");
    let plan = scene.run();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    assert!(!publishes(&plan));
}

#[test]
fn a_failed_build_stays_failed_when_its_job_is_gone_until_something_changes() {
    let mut scene = building();
    scene.break_build("linux-arm64", 65, "error: no");
    scene.run();
    scene
        .observed
        .jobs
        .retain(|job| build_state::platform_slug(job).is_none_or(|slug| slug != "linux-arm64"));
    scene.restart();
    assert!(created(&scene.plan()).is_empty());
    assert_eq!(scene.platform("linux/arm64").phase, Phase::Failed);
    scene.annotate(ANNOTATION_REBUILD, "now");
    scene.run();
    assert_ne!(scene.platform("linux/arm64").phase, Phase::Failed);
}

#[test]
fn a_failed_build_is_told_as_it_was_when_its_pod_is_gone() {
    let mut scene = building();
    scene.break_build("linux-arm64", 65, "error: no");
    scene.run();
    let told = scene.platform("linux/arm64").clone();
    scene.observed.pods.clear();
    scene.restart();
    scene.run();
    let left = scene.platform("linux/arm64");
    assert_eq!((left.phase, left.reason, &left.message), (told.phase, told.reason, &told.message));
    assert_eq!(left.log_tail.as_deref(), Some("error: no"));
}

#[test]
fn exit_codes_of_the_build_script_become_reasons() {
    for (code, reason) in [
        (65, Reason::BuildFailed),
        (66, Reason::PushDenied),
        (67, Reason::BuildTimeout),
        (68, Reason::ContextNotFound),
        (69, Reason::ContextChanged),
        (1, Reason::BuildFailed),
    ] {
        let mut scene = building();
        scene.break_build("linux-arm64", code, "error: something");
        scene.run();
        assert_eq!(scene.platform("linux/arm64").reason, Some(reason), "exit code {code}");
    }
}

#[test]
fn another_attempt_is_announced_only_where_one_follows() {
    for (code, phase) in [(1, Phase::Waiting), (65, Phase::Building)] {
        let mut scene = building();
        scene.pod("linux-arm64", "pod", ended(code, "Error", "error: something"));
        scene.run();
        let arm64 = scene.platform("linux/arm64");
        assert_eq!(arm64.phase, phase, "exit code {code}");
        let announced =
            arm64.message.as_ref().is_some_and(|message| message.contains("another attempt follows"));
        assert_eq!(announced, phase == Phase::Waiting);
    }
}

#[test]
fn when_git_fails_the_message_has_gits_own_words() {
    let mut scene = building();
    let log = "#1 ERROR: x\nerror: failed to solve: failed to fetch remote https://git.test/web.git: git stderr:\n\
        error: unable to find the commit\nfatal: the remote end hung up\n: exit status 128";
    scene.break_build("linux-arm64", 1, log);
    scene.run();
    let message = scene.platform("linux/arm64").message.clone().expect("a message");
    assert!(
        message.starts_with(
            "failed to fetch remote https://git.test/web.git: error: unable to find the commit \
             fatal: the remote end hung up : exit status 128"
        ),
        "{message}"
    );
}

#[test]
fn what_the_kubelet_says_of_a_dead_pod_goes_before_its_exit_code() {
    let cases = [
        (ended(137, "OOMKilled", ""), Reason::BuildOutOfMemory),
        (json!({"phase": "Failed", "reason": "NodeAffinity"}), Reason::BuildEvicted),
        (json!({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}), Reason::BuildEvicted),
        (
            json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"}),
            Reason::BuildTimeout,
        ),
        (
            json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "message": "drained"}]}),
            Reason::BuildEvicted,
        ),
    ];
    for (status, reason) in cases {
        let mut scene = building();
        scene.pod("linux-arm64", "pod", status);
        scene.change_job("linux-arm64", json!({"conditions": [{"type": "Failed", "status": "True"}]}));
        scene.run();
        assert_eq!(scene.platform("linux/arm64").reason, Some(reason));
    }
}

#[test]
fn a_platform_without_a_node_waits_with_the_schedulers_words_and_does_not_fail() {
    let mut scene = building();
    let unschedulable = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/6 nodes are available"}]});
    scene.pod("linux-arm64", "pod", unschedulable.clone());
    scene.run();
    let arm64 = scene.platform("linux/arm64");
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::NoNodeForPlatform)));
    let job = scene.job_name("linux-arm64");
    assert_eq!(
        scene.message(),
        format!("linux/arm64: NoNodeForPlatform: 0/6 nodes are available (job/{job})")
    );
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));

    scene.has_nodes(&["arm64"]);
    scene.run();
    assert_eq!(scene.platform("linux/arm64").reason, Some(Reason::Unschedulable));

    scene.pod("linux-arm64", "pod", json!({"phase": "Running"}));
    scene.run();
    assert_eq!(scene.platform("linux/arm64").phase, Phase::Building);
}

#[test]
fn an_image_of_the_builder_that_cannot_be_pulled_is_said() {
    let mut scene = building();
    scene.pod(
        "linux-arm64",
        "pod",
        json!({"phase": "Pending", "containerStatuses": [
        {"name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "builder:1: not found"}}}]}),
    );
    scene.run();
    let arm64 = scene.platform("linux/arm64");
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::ImagePullFailed)));
    assert!(arm64.message.as_ref().expect("a message").contains("builder:1: not found"));
}

#[test]
fn a_secret_that_cannot_be_merged_is_said_and_merged_again_in_time() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
        "registrySecrets": [{"name": "a"}, {"name": "b"}],
    }));
    let plan = scene.run();
    let merge = plan.tasks.iter().find(|task| matches!(task, Task::MergeSecrets { .. })).expect("a merge");
    scene.fail(merge, Reason::ClusterError, "secrets is forbidden", false);
    assert_eq!(scene.plan().wake_after, Some(SignedDuration::from_secs(7)));
    assert_eq!(scene.message(), "linux/amd64: ClusterError: secrets is forbidden");
}

#[test]
fn a_missing_secret_holds_everything_and_is_named() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64", "image": "other.test/web:amd64"}, {"platform": "linux/arm64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
        "registrySecrets": [{"name": "regcred"}],
    }));
    let plan = scene.plan();
    assert!(created(&plan).is_empty());
    let check =
        plan.tasks.iter().find(|task| matches!(task, Task::CheckSecrets { .. })).expect("a check").clone();
    scene.fail(&check, Reason::SecretNotFound, "secret/regcred does not exist", true);
    let plan = scene.plan();
    assert!(created(&plan).is_empty());
    assert_eq!(scene.ready(), ("Unknown", "SecretNotFound"));
    assert!(scene.message().contains("secret/regcred does not exist"));
    scene.succeed(&check);
    assert_eq!(created(&scene.plan()).len(), 1);
}

#[test]
fn the_registry_secrets_are_merged_into_the_one_file_that_the_builder_reads() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
        "registrySecrets": [{"name": "a"}],
    }));
    let plan = scene.run();
    assert!(plan.tasks.iter().any(|task| matches!(task, Task::MergeSecrets { .. })));
    let job = serde_json::to_string(&*scene.observed.jobs[0]).expect("JSON");
    assert!(job.contains(&format!("\"secretName\":\"{}\"", scene.job_name("linux-amd64"))), "{job}");
}

#[test]
fn credentials_that_are_good_for_an_hour_do_not_run_out_while_a_build_waits() {
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
        "registrySecrets": [{"name": "a"}],
    }));
    scene.run();
    scene.pod("linux-amd64", "pod", json!({"phase": "Running"}));
    assert_eq!(scene.run().wake_after, Some(SignedDuration::from_mins(5)));
    let merge = scene.plan().tasks.into_iter().find(|task| matches!(task, Task::MergeSecrets { .. }));
    let again = merge.and_then(|merge| merge.repeat_at(scene.now)).expect("it is merged again");
    assert_eq!(again.duration_since(scene.now), SignedDuration::from_mins(5));
    scene.finish("linux-amd64");
    let plan = scene.run();
    assert!(!plan.tasks.iter().any(|task| matches!(task, Task::MergeSecrets { .. })));
}

#[test]
fn a_job_that_gets_no_pod_is_told_after_a_while() {
    let mut scene = building();
    let created = Time(scene.now);
    for job in &mut scene.observed.jobs {
        Arc::make_mut(job).metadata.creation_timestamp = Some(created.clone());
    }
    let plan = scene.plan();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Pending);
    assert_eq!(plan.wake_after, Some(SignedDuration::from_secs(15)));
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(15)).expect("a time");
    scene.plan();
    let amd64 = scene.platform("linux/amd64");
    assert_eq!((amd64.phase, amd64.reason), (Phase::Waiting, Some(Reason::PodNotCreated)));
    assert!(amd64.message.as_ref().expect("a message").contains("kubectl describe job web-linux-amd64-"));
}

#[test]
fn a_job_that_was_created_and_is_never_seen_is_looked_after() {
    let mut scene = building();
    let mut unseen = builds();
    unseen.observed.status = scene.plan().status;
    for task in unseen.plan().tasks {
        unseen.succeed(&task);
    }
    let plan = unseen.plan();
    assert_eq!(created(&plan).len(), 2);
    for task in &plan.tasks {
        unseen.observed.facts.insert(task.key(), Fact::Known(Found::Done));
    }
    assert_eq!(unseen.plan().wake_after, Some(SignedDuration::from_secs(30)));
}

#[test]
fn a_job_of_somebody_else_is_neither_used_nor_deleted() {
    let mut scene = building();
    scene.finish("linux-amd64");
    let job = scene
        .observed
        .jobs
        .iter_mut()
        .find(|job| build_state::platform_slug(job).is_some_and(|slug| slug == "linux-amd64"));
    Arc::make_mut(job.expect("a Job")).metadata.owner_references = None;
    let plan = scene.run();
    let amd64 = scene.platform("linux/amd64");
    assert_eq!((amd64.phase, amd64.reason), (Phase::Failed, Some(Reason::JobConflict)));
    assert!(deleted(&plan).is_empty());
}

#[test]
fn a_result_whose_pod_is_gone_is_built_again_but_not_before_the_watches_agree() {
    let mut scene = building();
    scene.change_job("linux-amd64", json!({"completionTime": scene.now.to_string(), "conditions": [{"type": "Complete", "status": "True"}]}));
    let plan = scene.plan();
    assert!(deleted(&plan).is_empty());
    assert!(plan.wake_after.is_some());
    let name = scene.job_name("linux-amd64");
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(11)).expect("a time");
    let find = scene.open().into_iter().find(|task| matches!(task, Task::FindPods { .. }));
    assert!(deleted(&scene.plan()).is_empty(), "the API server is asked first");
    scene.succeed(&find.expect("a question"));
    assert_eq!(deleted(&scene.plan()), [name.as_str()]);
    scene.run();
    assert_eq!(scene.job_name("linux-amd64"), name);
}

#[test]
fn a_job_that_is_on_its_way_out_is_waited_for() {
    let mut scene = building();
    for job in &mut scene.observed.jobs {
        Arc::make_mut(job).metadata.deletion_timestamp = Some(Time(scene.now));
    }
    let plan = scene.plan();
    assert!(created(&plan).is_empty() && deleted(&plan).is_empty());
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Pending);
}

#[test]
fn a_long_log_keeps_its_end_in_whole_lines() {
    let mut scene = building();
    let log: String = (0..500).map(|number| format!("line number {number}\n")).collect();
    scene.break_build("linux-arm64", 65, &log);
    scene.run();
    let tail = scene.platform("linux/arm64").log_tail.clone().expect("a log");
    assert!(
        tail.len() <= 2048 && tail.ends_with("line number 499") && tail.starts_with("line number"),
        "{tail}"
    );
}
