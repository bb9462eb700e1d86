//! The plan, with no I/O and a clock of the tests' own.

mod scene;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::task::Task;
use super::{Plan, build_state, notes};
use crate::api::{
    ANNOTATION_REBUILD, ANNOTATION_RECONCILE, LocalObjectReferenceRequired, Phase, PlatformStatus, Reason,
};
use scene::{COMMIT, REPOSITORY, Scene, ended};

fn sources() -> Scene {
    Scene::new(json!({"platforms": [
        {"platform": "linux/amd64", "image": "other.test/web:amd64"},
        {"platform": "linux/arm64", "image": "other.test/web:arm64"},
    ]}))
}

fn builds() -> Scene {
    Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64"}],
        "build": {"context": {"git": {"url": "https://git.test/web.git", "ref": "main"}}},
    }))
}

/// Builds whose Jobs have been created.
fn building() -> Scene {
    let mut scene = builds();
    scene.run();
    scene
}

/// Both builds done and published.
fn published() -> Scene {
    let mut scene = building();
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    scene.run();
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene
}

fn created(plan: &Plan) -> Vec<&str> {
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::CreateJob { job } => job.metadata.name.as_deref(),
            _ => None,
        })
        .collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::DeleteJob { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

fn publishes(plan: &Plan) -> bool {
    plan.tasks.iter().any(|task| matches!(task, Task::Publish { .. }))
}

#[test]
fn conditions_are_there_on_first_sight_before_any_work() {
    let mut scene = sources();
    scene.plan();
    assert_eq!(scene.ready(), ("Unknown", "Resolving"));
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(scene.observed.status.observed_generation, Some(1));
    assert!(
        scene.observed.status.conditions.iter().all(|condition| condition.observed_generation == Some(1))
    );
}

#[test]
fn sources_are_resolved_copied_and_published() {
    let mut scene = sources();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(!scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("2/2"));
    assert!(scene.observed.status.digest.is_some());
    let tags = &scene.observed.status.published.as_ref().expect("published").tags;
    assert_eq!(tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["1.4.2", "latest"]);
}

#[test]
fn a_source_in_the_target_repository_is_not_copied() {
    let mut scene = Scene::new(
        json!({"platforms": [{"platform": "linux/amd64", "image": format!("{REPOSITORY}:amd64")}]}),
    );
    scene.plan();
    let resolve = scene.plan().tasks[0].clone();
    scene.succeed(&resolve);
    let plan = scene.plan();
    assert!(!plan.tasks.iter().any(|task| matches!(task, Task::CopyImage { .. })));
    assert!(publishes(&plan));
}

#[test]
fn nothing_is_published_while_a_platform_is_missing() {
    let mut scene = building();
    scene.finish("linux-amd64");
    let plan = scene.run();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    assert!(!publishes(&plan));
    assert_eq!(scene.observed.status.ready_platforms.as_deref(), Some("1/2"));
}

#[test]
fn a_published_image_wants_nothing_and_changes_nothing() {
    let mut scene = published();
    let before = scene.observed.status.clone();
    scene.now = scene.now.saturating_add(SignedDuration::from_hours(24)).expect("a time");
    scene.restart();
    let plan = scene.plan();
    assert_eq!(plan.status, before);
    assert!(plan.tasks.is_empty() && plan.wake_after.is_none());
}

#[test]
fn every_platform_is_built_from_the_same_commit() {
    let scene = building();
    assert_eq!(scene.observed.jobs.len(), 2);
    assert_eq!(scene.observed.status.source_revision.as_deref(), Some(COMMIT));
    for job in &scene.observed.jobs {
        let job = serde_json::to_string(&**job).expect("JSON");
        assert!(job.contains(&format!("https://git.test/web.git#{COMMIT}")), "{job}");
    }
}

#[test]
fn a_restart_makes_no_second_job_and_keeps_the_commit_though_the_branch_moved() {
    let mut scene = building();
    scene.restart();
    let plan = scene.plan();
    assert!(created(&plan).is_empty() && deleted(&plan).is_empty());
    assert!(!plan.tasks.iter().any(|task| matches!(task, Task::ResolveCommit { .. })));
}

#[test]
fn a_restart_at_any_point_comes_to_the_same_end() {
    let expected = published().observed.status.digest;
    for stop in 0..12 {
        let mut scene = builds();
        let mut jobs_seen = std::collections::BTreeSet::new();
        for step in 0..40 {
            if step == stop {
                scene.restart();
            }
            let plan = scene.plan();
            jobs_seen.extend(created(&plan).into_iter().map(str::to_owned));
            let open = plan.tasks.iter().find(|task| scene.observed.facts.get(task).is_none()).cloned();
            match open {
                Some(task) => scene.succeed(&task),
                None if scene.observed.jobs.len() == 2 && scene.observed.pods.is_empty() => {
                    scene.finish("linux-amd64");
                    scene.finish("linux-arm64");
                }
                None => {}
            }
        }
        assert_eq!(scene.observed.status.digest, expected, "stopped before step {stop}");
        assert_eq!(jobs_seen.len(), 2, "stopped before step {stop}");
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

    scene.observed.nodes = vec![("linux".to_owned(), "arm64".to_owned())];
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
fn an_edit_of_one_argument_builds_again_and_removes_what_it_made_obsolete() {
    let mut scene = building();
    let old: Vec<String> = scene.observed.jobs.iter().filter_map(|job| job.metadata.name.clone()).collect();
    scene.edit(|image| {
        let build = image.spec.build.as_mut().expect("a build");
        build.args.insert("VERSION".to_owned(), crate::api::BuildArgument("2".to_owned()));
    });
    scene.plan();
    let commit = scene.plan().tasks.iter().find(|task| matches!(task, Task::ResolveCommit { .. })).cloned();
    scene.succeed(&commit.expect("the ref is resolved again"));
    let plan = scene.plan();
    assert_eq!(created(&plan).len(), 2);
    assert_eq!(deleted(&plan), old.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn while_the_context_is_unknown_no_build_is_thought_obsolete() {
    let mut scene = building();
    scene.edit(|image| image.spec.target.tags = vec!["other".to_owned()]);
    let plan = scene.plan();
    assert!(deleted(&plan).is_empty() && created(&plan).is_empty());
}

#[test]
fn while_the_registry_secrets_are_read_or_missing_no_build_is_thought_obsolete() {
    let mut scene = builds();
    scene.edit(|image| {
        image.spec.registry_secrets.push(LocalObjectReferenceRequired { name: "regcred".into() })
    });
    scene.run();
    scene.finish("linux-amd64");
    scene.restart();
    let plan = scene.plan();
    assert_eq!(deleted(&plan), Vec::<&str>::new());
    scene.fail(&plan.tasks[0], Reason::SecretNotFound, "secret/regcred does not exist", true);
    assert_eq!(deleted(&scene.plan()), Vec::<&str>::new());
}

#[test]
fn a_platform_that_is_built_no_more_loses_its_job_at_once() {
    let mut scene = building();
    let arm64 = scene.job_name("linux-arm64");
    scene.edit(|image| {
        image.spec.platforms.pop();
    });
    assert_eq!(deleted(&scene.plan()), [arm64.as_str()]);
}

#[test]
fn a_new_tag_publishes_the_same_index_and_builds_nothing() {
    let mut scene = published();
    let digest = scene.observed.status.digest.clone();
    scene.edit(|image| image.spec.target.tags.push("edge".to_owned()));
    let mut made = 0;
    for _ in 0..10 {
        let plan = scene.plan();
        made += created(&plan).len();
        let open: Vec<Task> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(made, 0);
    assert_eq!(scene.observed.status.digest, digest);
    assert_eq!(scene.observed.status.published.as_ref().expect("published").tags.len(), 3);
    assert_eq!(scene.observed.status.history.len(), 1, "the same index is one publication");
}

#[test]
fn ready_platforms_keep_their_digests_when_their_jobs_are_gone() {
    let mut scene = published();
    scene.observed.jobs.clear();
    scene.observed.pods.clear();
    scene.edit(|image| image.spec.target.tags.push("edge".to_owned()));
    scene.restart();
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.observed.jobs.is_empty());
}

#[test]
fn a_request_to_check_keeps_ready_true_all_the_way() {
    let mut scene = published();
    scene.restart();
    scene.annotate(ANNOTATION_RECONCILE, "2026-01-02T00:00:00Z");
    for _ in 0..10 {
        let plan = scene.plan();
        assert_eq!(scene.ready(), ("True", "Published"));
        assert!(!scene.has("Reconciling"));
        let open: Vec<Task> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(scene.observed.status.last_handled_reconcile_at.as_deref(), Some("2026-01-02T00:00:00Z"));
    assert!(scene.plan().tasks.is_empty());
}

#[test]
fn a_request_to_rebuild_makes_new_jobs() {
    let mut scene = published();
    let old: Vec<String> = scene.observed.jobs.iter().filter_map(|job| job.metadata.name.clone()).collect();
    scene.annotate(ANNOTATION_REBUILD, "now");
    scene.run();
    assert!(scene.observed.jobs.iter().all(|job| !old.contains(job.metadata.name.as_ref().expect("a name"))));
    assert_eq!(scene.ready().0, "Unknown");
    assert!(scene.has("Reconciling"));
}

#[test]
fn suspending_stops_running_builds_and_keeps_what_is_published() {
    let mut scene = building();
    scene.finish("linux-amd64");
    scene.run();
    let running = scene.job_name("linux-arm64");
    scene.edit(|image| image.spec.suspend = true);
    let plan = scene.plan();
    assert_eq!(deleted(&plan), [running.as_str()]);
    assert_eq!(plan.tasks.len(), 1, "nothing else runs");
    assert_eq!(scene.ready(), ("Unknown", "Suspended"));
    assert!(!scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    scene.edit(|image| image.spec.suspend = false);
    scene.run();
    assert_eq!(scene.platform("linux/arm64").reason, Some(Reason::Pending));
}

#[test]
fn a_registry_that_is_down_is_waited_for_and_asked_again_in_time() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: connection refused", true);
    let plan = scene.plan();
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Waiting);
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));
    assert_eq!(plan.wake_after, Some(SignedDuration::from_secs(7)));
    assert!(plan.tasks.iter().any(|task| task.key() == resolve.key()), "it is tried again");
}

#[test]
fn while_a_failed_task_runs_again_its_end_is_awaited_and_nothing_polls() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::RegistryUnavailable, "other.test: connection refused", true);
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(7)).expect("a time");
    assert_eq!(scene.plan().wake_after, None);
}

#[test]
fn a_job_that_shows_up_after_everything_is_published_is_removed() {
    let mut scene = published();
    let mut stray = (*scene.observed.jobs[0]).clone();
    stray.metadata.name = Some("web-linux-amd64-0ld".to_owned());
    scene.observed.jobs.push(Arc::new(stray));
    assert_eq!(deleted(&scene.plan()), ["web-linux-amd64-0ld"]);
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_job_that_could_not_be_deleted_is_deleted_again_in_time() {
    let mut scene = building();
    scene.edit(|image| image.spec.suspend = true);
    let delete = scene.plan().tasks[0].clone();
    scene.fail(&delete, Reason::ClusterError, "etcdserver: request timed out", true);
    assert_eq!(scene.plan().wake_after, Some(SignedDuration::from_secs(7)));
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
fn a_source_that_does_not_exist_stalls_the_image_and_is_still_looked_for() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::SourceNotFound, "other.test/web:amd64: not found", false);
    let plan = scene.plan();
    assert_eq!(scene.ready(), ("False", "SourceNotFound"));
    assert!(scene.has("Stalled"));
    assert_eq!(scene.message(), "linux/amd64: SourceNotFound: other.test/web:amd64: not found");
    assert!(plan.wake_after.is_some());
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
fn suspending_what_is_published_keeps_it_ready_and_suspending_what_is_not_does_not() {
    let mut scene = published();
    scene.edit(|image| image.spec.suspend = true);
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Suspended"));
    scene.edit(|image| image.spec.target.tags.push("edge".to_owned()));
    scene.plan();
    assert_eq!(scene.ready(), ("Unknown", "Suspended"));
}

#[test]
fn a_status_that_a_newer_operator_wrote_can_be_read() {
    let status: PlatformStatus = serde_json::from_value(json!({
        "platform": "linux/amd64", "phase": "Teleporting", "reason": "WarpCoreCold", "somethingNew": 1,
    }))
    .expect("it is read");
    assert_eq!((status.phase, status.reason), (Phase::Pending, Some(Reason::Pending)));
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
fn a_publication_that_is_refused_stalls_and_nothing_counts_as_published() {
    let mut scene = sources();
    for _ in 0..3 {
        let plan = scene.plan();
        let open: Vec<Task> = plan
            .tasks
            .iter()
            .filter(|task| scene.observed.facts.get(task).is_none() && !matches!(task, Task::Publish { .. }))
            .cloned()
            .collect();
        open.iter().for_each(|task| scene.succeed(task));
    }
    let publish = scene
        .plan()
        .tasks
        .iter()
        .find(|task| matches!(task, Task::Publish { .. }))
        .expect("it is published")
        .clone();
    scene.fail(&publish, Reason::PushDenied, "registry.test: denied", false);
    scene.plan();
    assert_eq!(scene.ready(), ("False", "PushDenied"));
    assert!(scene.observed.status.digest.is_none());
    scene.succeed(&publish);
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_spec_that_the_schema_let_through_is_refused_in_the_status() {
    let mut scene =
        Scene::new(json!({"platforms": [{"platform": "linux/potato", "image": "other.test/web:1"}]}));
    scene.plan();
    assert_eq!(scene.ready(), ("False", "InvalidSpec"));
    let mut scene =
        Scene::new(json!({"target": {"repository": "no spaces please", "tags": ["x"]}, "platforms": []}));
    scene.plan();
    assert_eq!(scene.ready(), ("False", "InvalidSpec"));
}

#[test]
fn history_keeps_the_last_five_publications() {
    let mut scene = sources();
    scene.run();
    for number in 0..7 {
        // Another platform, another index.
        scene.edit(|image| {
            image.spec.platforms[1].platform = format!("linux/{}", ["arm64", "s390x", "ppc64le"][number % 3]);
        });
        scene.run();
        scene.plan();
    }
    assert_eq!(scene.observed.status.history.len(), 5);
    assert_eq!(Some(&scene.observed.status.history[0].digest), scene.observed.status.digest.as_ref());
}

#[test]
fn each_change_is_one_event_and_what_stays_is_none() {
    let mut scene = building();
    let before = scene.observed.status.clone();
    assert!(notes(&before, &before).is_empty());
    scene.break_build("linux-arm64", 65, "error: no");
    scene.run();
    let told = notes(&before, &scene.observed.status);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].warning && told[0].reason == "BuildFailed");
    assert!(told[0].message.starts_with("linux/arm64: no"));
}

#[test]
fn a_message_longer_than_anyone_reads_is_cut_at_a_character() {
    let mut scene = sources();
    let resolve = scene.plan().tasks[0].clone();
    scene.fail(&resolve, Reason::SourceNotFound, &"ä".repeat(2000), false);
    scene.plan();
    assert!(scene.message().len() <= 1024);
    assert!(scene.message().ends_with('…'));
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
