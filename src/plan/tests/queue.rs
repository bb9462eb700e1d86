//! Builds that wait for their turn: what the plan makes of the queue's word, and of Jobs that others keep back.

use serde_json::json;

use super::scene::Scene;
use super::{building, builds, created, deleted, publishes, sources};
use crate::api::{Phase, Reason};
use crate::plan::Plan;
use crate::plan::queue::{Turn, Turns};
use crate::plan::task::Task;

fn waits_at(place: usize) -> Turn {
    Turn::Queued { place, waiting: 7, limit: "20 of 20 builds of this operator run".to_owned() }
}

/// The Jobs that the plan wants a turn for, and those that it only remembers.
fn awaited(plan: &Plan, queued_now: bool) -> Vec<&str> {
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::AwaitTurn { job, queued } if *queued == queued_now => Some(job.as_str()),
            _ => None,
        })
        .collect()
}

/// Builds whose context is known and that have asked for their turns; the names of their Jobs.
fn asking() -> (Scene, Vec<String>) {
    let mut scene = builds();
    scene.observed.turns = Some(Turns::new());
    let plan = scene.run();
    let jobs = awaited(&plan, true).into_iter().map(str::to_owned).collect();
    (scene, jobs)
}

#[test]
fn a_build_asks_before_its_job_is_created() {
    let (scene, jobs) = asking();
    assert_eq!(jobs.len(), 2);
    assert!(scene.observed.jobs.is_empty());
    assert_eq!(scene.platform("linux/arm64").phase, Phase::Pending);
}

#[test]
fn a_build_that_waits_says_its_place_and_has_not_failed() {
    let (mut scene, jobs) = asking();
    scene.observed.turns = Some([(jobs[0].clone(), Turn::Granted), (jobs[1].clone(), waits_at(3))].into());
    let plan = scene.plan();
    assert_eq!((created(&plan), awaited(&plan, true)), (vec![jobs[0].as_str()], vec![jobs[1].as_str()]));
    let arm64 = scene.platform("linux/arm64");
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::Queued)));
    assert_eq!(scene.message(), "linux/arm64: Queued: place 3 of 7: 20 of 20 builds of this operator run");
    assert_eq!(scene.ready(), ("Unknown", "Queued"));
    assert!(scene.has("Reconciling") && !scene.has("Stalled"));
    assert!(deleted(&plan).is_empty());
}

#[test]
fn a_place_further_back_is_told_again_later() {
    let wake_after = |place| {
        let (mut scene, jobs) = asking();
        scene.observed.turns =
            Some([(jobs[0].clone(), waits_at(place)), (jobs[1].clone(), waits_at(100))].into());
        scene.plan().wake_after.expect("a time").as_secs()
    };
    assert_eq!((wake_after(1), wake_after(20)), (15, 300));
}

#[test]
fn a_job_that_cannot_be_created_gives_its_turn_to_others_until_it_is_due() {
    let (mut scene, jobs) = asking();
    scene.observed.turns = Some(jobs.iter().map(|job| (job.clone(), Turn::Granted)).collect());
    let plan = scene.plan();
    let create = plan.tasks.iter().find(|task| matches!(task, Task::CreateJob { .. })).expect("a creation");
    scene.fail(create, Reason::ClusterError, "exceeded quota", false);

    let plan = scene.plan();
    assert_eq!((created(&plan), awaited(&plan, false)), (vec![jobs[1].as_str()], vec![jobs[0].as_str()]));
    assert_eq!(scene.platform("linux/amd64").message.as_deref(), Some("exceeded quota"));
    let retry = plan.wake_after.expect("the time of the next attempt");

    // It is due, and others are first: why it failed is still told.
    scene.now += retry;
    scene.observed.turns = Some([(jobs[0].clone(), waits_at(1)), (jobs[1].clone(), Turn::Granted)].into());
    let plan = scene.plan();
    assert_eq!(awaited(&plan, true), [jobs[0].as_str()]);
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Failed);

    scene.observed.turns = Some(jobs.iter().map(|job| (job.clone(), Turn::Granted)).collect());
    assert_eq!(created(&scene.plan()).len(), 2);
}

#[test]
fn a_job_that_exists_needs_no_turn_whatever_the_limits() {
    let mut scene = building();
    scene.restart();
    scene.observed.turns = Some(Turns::new());
    let plan = scene.run();
    assert!(awaited(&plan, true).is_empty() && created(&plan).is_empty() && deleted(&plan).is_empty());
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    scene.run();
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn images_without_builds_are_published_past_the_queue() {
    let mut scene = sources();
    scene.observed.turns = Some(Turns::new());
    assert!(publishes(&scene.run()));
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_suspended_image_wants_no_turn() {
    let (mut scene, _) = asking();
    scene.edit(|image| image.spec.suspend = true);
    let plan = scene.plan();
    assert!(awaited(&plan, true).is_empty() && created(&plan).is_empty());
}

#[test]
fn a_job_that_kueue_suspends_is_left_to_it() {
    let mut scene = building();
    let name = scene.job_name("linux-arm64");
    let change = |scene: &mut Scene, suspend: bool| {
        let jobs = scene.observed.jobs.iter_mut();
        let job = jobs.map(std::sync::Arc::make_mut).find(|job| job.metadata.name.as_ref() == Some(&name));
        let job = job.expect("the Job");
        job.spec.as_mut().expect("its spec").suspend = Some(suspend);
        let labels = job.metadata.labels.get_or_insert_default();
        labels.insert("kueue.x-k8s.io/queue-name".to_owned(), "builds".to_owned());
    };
    change(&mut scene, true);
    scene.now += jiff::SignedDuration::from_hours(5);
    let plan = scene.run();
    let arm64 = scene.platform("linux/arm64");
    assert_eq!((arm64.phase, arm64.reason), (Phase::Waiting, Some(Reason::Queued)));
    let message = arm64.message.clone().expect("a message");
    let told = "suspended: its queue (kueue.x-k8s.io/queue-name: builds) will start it (job/web-linux-arm64-";
    assert!(message.starts_with(told), "{message}");
    assert!(deleted(&plan).is_empty() && created(&plan).is_empty());

    change(&mut scene, false);
    scene.pod("linux-arm64", "pod", json!({"phase": "Running"}));
    scene.run();
    assert_eq!(scene.platform("linux/arm64").phase, Phase::Building);
}
