//! Pods that end before their command does: what is the cluster's fault is repeated, ever more rarely.

use super::*;

/// A kubelet does not take the pod that the scheduler gave it.
fn refuse(scene: &mut Scene) {
    let message =
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 50, used: 990, capacity: 1000";
    set(scene, json!({"phase": "Failed", "reason": "OutOfcpu", "message": message}));
}

/// Killed on the way, and the pod says why.
fn evict(scene: &mut Scene, exit_code: i32, status: &Value) {
    end(scene, exit_code, "Error", 1, "filling /tmp");
    let changed: PodStatus = serde_json::from_value(status.clone()).expect("a status");
    change(scene, |pod| {
        let status = pod.status.as_mut().expect("a status");
        status.phase = Some("Failed".to_owned());
        status.reason = changed.reason;
        status.message = changed.message;
        status.conditions = changed.conditions;
    });
}

/// How long the pod that was lost is left, in seconds.
fn left_for(scene: &mut Scene) -> i64 {
    let plan = scene.run();
    assert_eq!(found(scene), (Phase::Waiting, Some(Reason::VerifyRunning)), "{}", said(scene));
    assert_eq!(pods_deleted(&plan), 0);
    plan.wake_after.expect("it is run again").as_secs()
}

/// Lets so many seconds pass, and the pod be replaced.
fn replaced_after(scene: &mut Scene, seconds: i64) {
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
    assert_eq!(pods_deleted(&scene.plan()), 1);
    scene.run();
    assert_eq!(scene.observed.pods[0].metadata.creation_timestamp, Some(Time(scene.now)));
}

#[test]
fn a_run_that_nodes_keep_refusing_is_repeated_ever_more_rarely_and_a_restart_forgets_nothing() {
    let mut scene = running();
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        refuse(&mut scene);
        assert_eq!(left_for(&mut scene), seconds);
        scene.restart();
        assert_eq!(left_for(&mut scene), seconds, "one pod counts once");
        replaced_after(&mut scene, seconds);
    }
    refuse(&mut scene);
    scene.run();
    assert!(said(&scene).contains("cpu, requested: 50, used: 990"), "{}", said(&scene));
    assert!(
        said(&scene).contains("; it is run again at 2026-01-02T03:24:15Z, after 8 lost pods"),
        "{}",
        said(&scene)
    );
}

#[test]
fn what_was_lost_is_forgotten_when_the_command_has_run_or_shall_not_run() {
    for exit_code in [Some(0), Some(3), None] {
        let mut scene = running();
        refuse(&mut scene);
        scene.run();
        replaced_after(&mut scene, 10);
        assert!(scene.platform(PLATFORM).verification.as_ref().is_some_and(|known| known.lost.is_some()));
        match exit_code {
            Some(exit_code) => end(&mut scene, exit_code, "Completed", 1, ""),
            None => scene.edit(|image| image.spec.verify.as_mut().expect("checks").run = None),
        }
        scene.run();
        assert!(scene.platform(PLATFORM).verification.as_ref().is_some_and(|known| known.lost.is_none()));
    }
}

#[test]
fn who_asks_to_check_or_edits_is_not_kept_waiting_for_what_was_lost_before() {
    for asked in [true, false] {
        let mut scene = running();
        for seconds in [10, 20, 40] {
            refuse(&mut scene);
            assert_eq!(left_for(&mut scene), seconds);
            replaced_after(&mut scene, seconds);
        }
        refuse(&mut scene);
        scene.run();
        let before = pod_names(&scene);
        ask_or_edit(&mut scene, asked);
        scene.run();
        assert_ne!(pod_names(&scene), before, "asked: {asked}");
        refuse(&mut scene);
        assert_eq!(left_for(&mut scene), 10, "asked: {asked}");
    }
}

#[test]
fn what_exceeds_its_own_limits_has_failed_and_is_not_run_again() {
    let mut scene = running();
    let message = "Container verify exceeded its local ephemeral storage limit \"10Mi\". ";
    evict(&mut scene, 137, &json!({"reason": "Evicted", "message": message}));
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert!(
        said(&scene).starts_with(
            "/app --version was evicted: Container verify exceeded its local ephemeral storage limit \"10Mi\"."
        ),
        "{}",
        said(&scene)
    );
    assert_eq!(scene.platform(PLATFORM).log_tail.as_deref(), Some("filling /tmp"));
    scene.observed.pods.clear();
    scene.restart();
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert!(scene.observed.pods.is_empty());
}

#[test]
fn a_node_that_evicts_or_takes_nothing_for_want_of_disk_says_nothing_of_the_image() {
    let disrupted = json!([{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
        "message": "The node was low on resource: ephemeral-storage. "}]);
    let mut scene = running();
    evict(&mut scene, 137, &json!({"reason": "Evicted", "conditions": disrupted}));
    assert_eq!(left_for(&mut scene), 10);
    let mut scene = running();
    let message = "Pod was rejected: The node had condition: [DiskPressure]. ";
    set(&mut scene, json!({"phase": "Failed", "reason": "Evicted", "message": message}));
    assert_eq!(left_for(&mut scene), 10);
}

#[test]
fn a_command_that_ends_well_because_its_node_drains_has_not_passed() {
    let mut scene = running();
    let conditions =
        json!([{"type": "DisruptionTarget", "status": "True", "message": "node-arm64 is being drained"}]);
    evict(&mut scene, 0, &json!({"reason": "Terminated", "conditions": conditions}));
    assert_eq!(left_for(&mut scene), 10);
}
