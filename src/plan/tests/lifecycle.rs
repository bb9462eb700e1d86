//! Edits, restarts, requests and suspension.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::json;

use super::scene::Scene;
use super::{building, builds, created, deleted, published};
use crate::api::{
    ANNOTATION_OUTLINE, ANNOTATION_REBUILD, ANNOTATION_RECONCILE, BuildArgument,
    LocalObjectReferenceRequired, MultiArchImage, Phase, Reason,
};
use crate::plan::Conflict;
use crate::plan::task::Task;

#[test]
fn a_published_image_wants_nothing_and_changes_nothing() {
    let mut scene = published();
    let before = scene.observed.status.clone();
    scene.now = scene.now.saturating_add(SignedDuration::from_hours(24)).expect("a time");
    scene.restart();
    let plan = scene.plan();
    assert_eq!(plan.status, before);
    let looks = plan.tasks.iter().filter(|task| matches!(task, Task::Check { .. })).count();
    assert_eq!((plan.tasks.len(), deleted(&plan).len(), looks), (3, 2, 1), "the finished Jobs go in time");
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
fn a_build_that_is_certainly_not_wanted_any_more_ends_though_its_successor_is_unknown() {
    type Edit = fn(&mut MultiArchImage);
    let edits: [(&str, Edit); 2] = [
        ("another argument", |image| {
            let build = image.spec.build.as_mut().expect("a build");
            build.args.insert("VERSION".to_owned(), BuildArgument("2".to_owned()));
        }),
        ("another branch", |image| {
            let git = image.spec.build.as_mut().and_then(|build| build.context.git.as_mut());
            git.expect("git").r#ref = Some("mian".to_owned());
        }),
    ];
    for (what, edit) in edits {
        let mut scene = building();
        scene.finish("linux-amd64");
        let arm64 = scene.job_name("linux-arm64");
        scene.edit(edit);
        let plan = scene.plan();
        let ended = [arm64.as_str()];
        assert_eq!(deleted(&plan), ended, "{what}: at once, and what has ended costs nothing any more");
        let commit = plan.tasks.iter().find(|task| matches!(task, Task::ResolveCommit { .. })).cloned();
        scene.fail(&commit.expect("it is looked up"), Reason::ContextUnavailable, "git.test is away", true);
        assert_eq!(deleted(&scene.plan()), ended, "{what}: and while it cannot be looked up");
    }
}

#[test]
fn a_job_of_an_earlier_version_is_left_alone_while_the_context_is_unknown() {
    let mut scene = building();
    for job in &mut scene.observed.jobs {
        let annotations = Arc::make_mut(job).metadata.annotations.as_mut().expect("annotations");
        annotations.remove(ANNOTATION_OUTLINE).expect("the outline");
    }
    scene.edit(|image| {
        let build = image.spec.build.as_mut().expect("a build");
        build.args.insert("VERSION".to_owned(), BuildArgument("2".to_owned()));
    });
    assert!(deleted(&scene.plan()).is_empty());
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
    assert!(scene.plan().tasks.iter().all(|task| matches!(task, Task::Check { .. })));
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
fn what_is_stalled_stays_so_while_a_restarted_operator_looks_again() {
    let mut scene =
        Scene::new(json!({"platforms": [{"platform": "linux/amd64", "image": "registry.test/web:1"}]}));
    let look = scene.plan().tasks[0].clone();
    scene.fail(&look, Reason::SourceNotFound, "registry.test/web:1: not found", false);
    scene.plan();
    assert!(scene.has("Stalled"));
    let before = scene.observed.status.conditions.clone();
    scene.restart();
    scene.now = scene.now.saturating_add(SignedDuration::from_hours(1)).expect("a time");
    scene.plan();
    assert_eq!(scene.observed.status.conditions, before, "nothing new is known");
    scene.fail(&look, Reason::SourceNotFound, "registry.test/web:1: not found", false);
    scene.plan();
    assert_eq!(scene.observed.status.conditions, before, "nor now");

    scene.annotate(ANNOTATION_RECONCILE, "now");
    scene.plan();
    assert!(scene.has("Reconciling") && !scene.has("Stalled"), "who asks sees that it is looked at");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
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
fn what_is_suspended_or_refused_is_not_said_to_be_looked_at_and_its_finished_jobs_go_in_time() {
    let suspend = |scene: &mut Scene| scene.edit(|image| image.spec.suspend = true);
    let refuse = |scene: &mut Scene| {
        let tag = "registry.test/team-a/web:latest".parse().expect("a tag");
        scene.observed.conflict = Some(Conflict { tag, holder: "team-b/web".to_owned() });
    };
    for (stop, reason) in
        [(suspend as fn(&mut Scene), "Suspended"), (refuse as fn(&mut Scene), "TagConflict")]
    {
        let mut scene = published();
        scene.annotate(ANNOTATION_RECONCILE, "now");
        scene.plan();
        stop(&mut scene);
        let plan = scene.plan();
        let drifted = scene.observed.status.condition("Drifted").expect("the condition");
        assert_eq!((drifted.status.as_str(), drifted.reason.as_str()), ("Unknown", reason));
        assert!(deleted(&plan).is_empty());
        scene.now += plan.wake_after.expect("the Jobs' time ends");
        assert_eq!(deleted(&scene.plan()).len(), 2, "{reason}");
        scene.observed.conflict = None;
        scene.edit(|image| image.spec.suspend = false);
        scene.run();
        assert!(scene.observed.status.condition("Drifted").is_none());
    }
}
