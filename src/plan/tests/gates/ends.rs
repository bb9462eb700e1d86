//! How runs end, and what nodes have to do with it.

use super::*;

/// A source without a node of its own, which another node has just begun to run.
fn emulating() -> Scene {
    let mut scene = checked(json!({"run": {"command": ["/app"]}}));
    scene.image.spec.platforms[0].when_no_node = WhenNoNode::Emulate;
    scene.has_nodes(&["amd64"]);
    scene.run();
    start(&mut scene);
    scene.run();
    scene
}

/// An emulated build, whose run has been created, in a cluster that has no node of the platform.
fn built_emulated(build: Value) -> Scene {
    let mut whole = json!({"context": {"inline": {"dockerfile": "FROM scratch"}}});
    whole.as_object_mut().expect("an object").extend(build.as_object().expect("an object").clone());
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": PLATFORM, "whenNoNode": "Emulate"}],
        "build": whole,
        "verify": {"run": {"command": ["/app"]}},
    }));
    scene.has_nodes(&["amd64"]);
    scene.run();
    if !scene.platform(PLATFORM).emulated {
        give_up_waiting(&mut scene);
    }
    assert!(scene.platform(PLATFORM).emulated);
    scene.finish("linux-arm64");
    scene.run();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    scene
}

/// The schedulingTimeout passes without a node that takes the build.
fn give_up_waiting(scene: &mut Scene) {
    let conditions =
        json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]);
    scene.pod("linux-arm64", "pending", json!({"phase": "Pending", "conditions": conditions}));
    change(scene, |pod| pod.spec.as_mut().expect("a spec").node_name = None);
    scene.plan();
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(601)).expect("a time");
    scene.run();
    scene.observed.pods.clear();
}

#[test]
fn a_command_that_takes_too_long_has_failed_however_it_ended() {
    for (exit_code, seconds, phase) in
        [(137, 61, Phase::Failed), (0, 62, Phase::Failed), (0, 60, Phase::Ready)]
    {
        let mut scene = running();
        end(&mut scene, exit_code, "Error", seconds, "listening on :8080");
        scene.run();
        assert_eq!(found(&scene).0, phase, "exit code {exit_code} after {seconds} s");
        let overdue = said(&scene).contains("had not ended after 60 s: listening on :8080");
        assert_eq!(overdue, phase == Phase::Failed, "{}", said(&scene));
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_waited_for_with_the_same_words_between_two_attempts() {
    let mut scene = running();
    let cause = "failed to pull and unpack image \"x\": 401 Unauthorized";
    let waits = |reason: &str, message: &str| {
        container("Pending", &json!({"waiting": {"reason": reason, "message": message}}))
    };
    set(&mut scene, waits("ErrImagePull", cause));
    scene.run();
    assert_eq!(found(&scene), (Phase::Waiting, Some(Reason::ImagePullFailed)));
    let first = said(&scene).to_owned();
    assert!(first.starts_with(&format!("node-arm64 cannot pull the image: {cause} (pod/")), "{first}");
    let message = format!("Back-off pulling image \"x\": ErrImagePull: {cause}");
    set(&mut scene, waits("ImagePullBackOff", &message));
    scene.run();
    assert_eq!(said(&scene), first);
}

#[test]
fn a_program_that_cannot_be_started_is_told_in_the_runtimes_words() {
    let mut scene = running();
    let words = "exec: \"/app\": stat /app: no such file or directory";
    let terminated = json!({
        "exitCode": 128, "reason": "StartError", "message": words,
        "startedAt": "1970-01-01T00:00:00Z", "finishedAt": scene.now.to_string(),
    });
    set(&mut scene, container("Failed", &json!({"terminated": terminated})));
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert!(
        said(&scene).starts_with("/app --version cannot be started: exec: \"/app\": stat"),
        "{}",
        said(&scene)
    );
}

#[test]
fn a_node_that_goes_away_is_no_failure_of_the_image() {
    let mut scene = running();
    let mut status = container("Failed", &json!({"terminated": {"exitCode": 137, "reason": "Error"}}));
    status["conditions"] =
        json!([{"type": "DisruptionTarget", "status": "True", "message": "node-arm64 is being drained"}]);
    set(&mut scene, status);
    let plan = scene.plan();
    assert_eq!(found(&scene), (Phase::Waiting, Some(Reason::VerifyRunning)));
    assert!(
        said(&scene).starts_with("node-arm64 is being drained; it is run again (pod/"),
        "{}",
        said(&scene)
    );
    assert!(plan.wake_after.is_some(), "it is replaced after a moment");
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(11)).expect("a time");
    assert_eq!(pods_deleted(&scene.plan()), 1);
    scene.run();
    assert_eq!(scene.observed.pods.len(), 1);
    assert_eq!(scene.observed.pods[0].metadata.creation_timestamp, Some(Time(scene.now)));
    end(&mut scene, 0, "Completed", 1, "");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_pod_that_was_removed_by_hand_is_made_again_and_one_that_leaves_is_not_believed() {
    let mut scene = running();
    end(&mut scene, 0, "Completed", 1, "");
    let deletion = Some(Time(scene.now));
    change(&mut scene, |pod| pod.metadata.deletion_timestamp = deletion);
    scene.run();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    scene.observed.pods.clear();
    scene.run();
    assert_eq!(scene.observed.pods.len(), 1);
}

#[test]
fn a_run_on_a_node_that_has_died_is_run_again_elsewhere() {
    let mut scene = running();
    start(&mut scene);
    let deletion = Some(Time(scene.now));
    change(&mut scene, |pod| pod.metadata.deletion_timestamp = deletion);
    let plan = scene.run();
    assert_eq!((pods_deleted(&plan), plan.wake_after), (0, Some(SignedDuration::from_secs(60))));
    scene.now = scene.now.saturating_add(SignedDuration::from_secs(60)).expect("a time");
    let goes = |task: &Task| matches!(task, Task::DeletePod { at_once: true, .. });
    assert!(scene.plan().tasks.iter().any(goes), "its node does not end it");
    scene.run();
    assert!(scene.observed.pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none()));
    assert_eq!(scene.observed.pods.len(), 1);
}

#[test]
fn without_a_node_the_policy_of_the_platform_says_what_is_done() {
    for (policy, phase) in [
        ("Wait", Phase::Waiting),
        ("Fail", Phase::Failed),
        ("Skip", Phase::Skipped),
        ("Emulate", Phase::Verifying),
    ] {
        let mut scene = checked(json!({"run": {"command": ["/app"]}}));
        scene.image.spec.platforms[0].when_no_node = serde_json::from_value(json!(policy)).expect("a policy");
        scene.has_nodes(&["amd64"]);
        scene.run();
        if policy == "Wait" {
            let conditions =
                json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]);
            let status = serde_json::from_value(json!({"phase": "Pending", "conditions": conditions}));
            change(&mut scene, |pod| pod.status = Some(status.expect("a status")));
            scene.run();
            assert!(said(&scene).starts_with("0/1 nodes are available (pod/"), "{}", said(&scene));
        }
        assert_eq!(found(&scene).0, phase, "{policy}");
        if policy == "Emulate" {
            let spec = scene.observed.pods[0].spec.as_ref().expect("a spec");
            assert!(!spec.node_selector.as_ref().expect("a selector").contains_key("kubernetes.io/arch"));
            continue;
        }
        assert_eq!(found(&scene).1, Some(Reason::NoNodeForPlatform), "{policy}");
        scene.gets_node("arm64");
        scene.run();
        assert_eq!(scene.observed.pods.len(), 1, "{policy}");
        end(&mut scene, 0, "Completed", 1, "");
        scene.run();
        assert_eq!(scene.ready(), ("True", "Published"), "{policy}");
    }
}

#[test]
fn where_the_build_was_emulated_the_run_may_be_and_a_missing_emulator_is_told() {
    let mut scene = built_emulated(json!({}));
    end(&mut scene, 255, "Error", 1, "exec /app: exec format error");
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::EmulationUnavailable)));
    assert!(said(&scene).starts_with("node-arm64 does not emulate linux/arm64"), "{}", said(&scene));
}

#[test]
fn what_was_built_emulated_and_no_node_emulated_a_node_of_the_platform_that_comes_runs_as_it_is() {
    for build in [json!({}), json!({"schedulingTimeout": "10m"})] {
        let mut scene = built_emulated(build.clone());
        end(&mut scene, 255, "Error", 1, "exec /app: exec format error");
        scene.run();
        let job = scene.job_name("linux-arm64");
        scene.gets_node("arm64");
        scene.run();
        assert_eq!(
            found(&scene),
            (Phase::Verifying, Some(Reason::VerifyRunning)),
            "{build}: {}",
            said(&scene)
        );
        assert_eq!(scene.job_name("linux-arm64"), job, "{build}: it is not built again");
        let spec = scene.observed.pods.last().and_then(|pod| pod.spec.clone()).expect("a spec");
        assert_eq!(spec.node_selector.expect("a selector")["kubernetes.io/arch"], "arm64", "{build}");
        start(&mut scene);
        scene.run();
        end(&mut scene, 0, "Completed", 1, "");
        scene.run();
        assert_eq!(scene.ready(), ("True", "Published"), "{build}");
    }
}

#[test]
fn what_emulation_could_not_run_and_its_node_could_not_either_stays_failed() {
    let mut scene = built_emulated(json!({}));
    scene.gets_node("arm64");
    end(&mut scene, 255, "Error", 1, "exec /app: exec format error");
    scene.run();
    assert_eq!(found(&scene).0, Phase::Verifying);
    end(&mut scene, 255, "Error", 1, "exec /app: exec format error");
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    let pods = pod_names(&scene);
    scene.restart();
    scene.run();
    assert_eq!((found(&scene).0, pod_names(&scene)), (Phase::Failed, pods));
}

#[test]
fn a_node_that_comes_just_before_it_is_written_that_there_is_none_is_noticed_soon() {
    for policy in ["Fail", "Skip"] {
        let mut scene = checked(json!({"run": {"command": ["/app"]}}));
        scene.image.spec.platforms[0].when_no_node = serde_json::from_value(json!(policy)).expect("a policy");
        scene.has_nodes(&["amd64"]);
        assert_eq!(scene.run().wake_after, Some(SignedDuration::from_mins(1)), "{policy}");
    }
    let mut scene = emulating();
    end(&mut scene, 255, "Error", 1, "exec /app: exec format error");
    assert_eq!(scene.run().wake_after, Some(SignedDuration::from_mins(1)));
    scene.restart();
    assert_eq!(scene.run().wake_after, Some(SignedDuration::from_mins(1)));
}

#[test]
fn who_put_another_container_beside_it_does_not_keep_its_result_from_us() {
    let mut scene = running();
    let container = |name: &str, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let now = scene.now.to_string();
    let ended = json!({"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}});
    let containers = [container("mesh", json!({"running": {"startedAt": now}})), container("verify", ended)];
    set(&mut scene, json!({"phase": "Running", "containerStatuses": containers}));
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn the_deadline_of_the_pod_counts_against_the_image_only_if_the_command_took_the_time() {
    for (seconds, phase) in [(1800, Phase::Failed), (0, Phase::Waiting)] {
        let mut scene = running();
        end(&mut scene, 137, "Error", seconds, "");
        change(&mut scene, |pod| {
            pod.status.as_mut().expect("a status").reason = Some("DeadlineExceeded".to_owned());
        });
        scene.run();
        assert_eq!(found(&scene).0, phase, "after {seconds} s");
    }
}

#[test]
fn a_command_that_is_killed_for_want_of_memory_is_told_what_to_raise() {
    let mut scene = running();
    end(&mut scene, 137, "OOMKilled", 1, "");
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert!(said(&scene).contains("raise spec.verify.run.pod.resources.limits.memory"), "{}", said(&scene));
}

#[test]
fn a_run_that_has_begun_goes_on_where_it_is_when_a_node_of_the_platform_comes() {
    let mut scene = emulating();
    let before = pod_names(&scene);
    scene.gets_node("arm64");
    scene.run();
    assert_eq!(pod_names(&scene), before);
    end(&mut scene, 0, "Completed", 1, "");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn what_emulation_could_not_run_is_run_by_a_node_of_the_platform_and_its_failure_lasts_when_that_goes() {
    let mut scene = emulating();
    end(&mut scene, 139, "Error", 1, "qemu: uncaught target signal 11");
    scene.run();
    assert_eq!(found(&scene).0, Phase::Failed);
    scene.gets_node("arm64");
    scene.run();
    assert_eq!(found(&scene).0, Phase::Verifying);
    end(&mut scene, 3, "Error", 1, "no");
    scene.run();
    let failed = scene.platform(PLATFORM).verification.clone();
    assert_eq!(found(&scene).0, Phase::Failed);
    scene.has_nodes(&["amd64"]);
    scene.run();
    assert_eq!(found(&scene).0, Phase::Failed);
    assert_eq!(scene.platform(PLATFORM).verification, failed);
}

#[test]
fn what_fails_emulated_is_run_at_once_by_the_node_that_came_while_it_ran() {
    let mut scene = emulating();
    scene.gets_node("arm64");
    scene.run();
    end(&mut scene, 139, "Error", 1, "qemu: uncaught target signal 11");
    let plan = scene.plan();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)), "{}", said(&scene));
    assert_eq!(pods_deleted(&plan), 1);
    let run = scene.platform(PLATFORM).verification.as_ref().and_then(|known| known.run.clone());
    assert!(run.is_some_and(|run| run.emulated && !run.passed), "how it ended stays known");
}

#[test]
fn a_run_that_waits_for_a_node_that_has_gone_is_emulated_instead() {
    let mut scene = checked(json!({"run": {"command": ["/app"]}}));
    scene.image.spec.platforms[0].when_no_node = WhenNoNode::Emulate;
    scene.run();
    let native = pod_names(&scene);
    scene.has_nodes(&["amd64"]);
    scene.run();
    assert_eq!(scene.observed.pods.len(), 1);
    assert_ne!(pod_names(&scene), native);
}
