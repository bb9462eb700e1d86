//! Runs: their pods, what starts them, what stops them and what they leave.

use super::*;

fn pods_created(plan: &Plan) -> usize {
    plan.tasks.iter().filter(|task| matches!(task, Task::CreatePod { .. })).count()
}

#[test]
fn nothing_is_published_before_the_command_has_run_to_a_good_end() {
    let mut scene = running();
    start(&mut scene);
    let plan = scene.run();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    assert_eq!(scene.ready(), ("Unknown", "VerifyRunning"));
    assert!(said(&scene).starts_with("running /app --version on node-arm64 (pod/web-verify-linux-arm64-"));
    assert!(!publishes(&plan));
    end(&mut scene, 0, "Completed", 3, "");
    let plan = scene.plan();
    assert!(publishes(&plan));
    assert_eq!(pods_deleted(&plan), 1, "its result is in the status, which is written before");
    let verification = scene.platform(PLATFORM).verification.clone().expect("a verification");
    assert!(verification.run.expect("a run").passed);
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.observed.pods.is_empty());
}

#[test]
fn the_pod_is_one_that_the_restricted_level_of_pod_security_admits() {
    let scene = running();
    let pod = &scene.observed.pods[0];
    let spec = pod.spec.as_ref().expect("a spec");
    let security = spec.security_context.as_ref().expect("a context");
    assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65532)));
    assert_eq!(spec.automount_service_account_token, Some(false));
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    let container = &spec.containers[0];
    let own = container.security_context.as_ref().expect("a context");
    assert_eq!(own.allow_privilege_escalation, Some(false));
    assert_eq!(own.seccomp_profile.as_ref().expect("a profile").type_, "RuntimeDefault");
    let capabilities = own.capabilities.as_ref().expect("capabilities");
    assert_eq!((capabilities.drop.clone(), capabilities.add.clone()), (Some(vec!["ALL".to_owned()]), None));
    let image = container.image.as_deref().expect("an image");
    assert!(image.starts_with(&format!("{REPOSITORY}@sha256:")), "{image}");
    let selector = spec.node_selector.as_ref().expect("a selector");
    assert_eq!(selector["kubernetes.io/arch"], "arm64");
}

#[test]
fn what_the_build_needs_of_its_nodes_the_run_needs_as_well() {
    let toleration = |key: &str| json!([{"key": key, "operator": "Exists"}]);
    let mut scene = Scene::new(json!({
        "platforms": [{"platform": PLATFORM}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}},
            "pod": {"nodeSelector": {"pool": "builds"}, "tolerations": toleration("builds")}},
        "verify": {"run": {"command": ["/app"], "pod": {
            "tolerations": toleration("runs"), "resources": {"limits": {"memory": "1Gi"}}}}},
        "registrySecrets": [{"name": "regcred"}],
    }));
    scene.has_nodes(&["arm64"]);
    scene.run();
    scene.finish("linux-arm64");
    scene.run();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    let spec = scene.observed.pods.last().expect("a pod").spec.clone().expect("a spec");
    let keys: Vec<_> = spec.tolerations.iter().flatten().filter_map(|found| found.key.as_deref()).collect();
    assert_eq!(keys, ["builds", "runs"]);
    assert_eq!(spec.node_selector.expect("a selector")["pool"], "builds");
    assert_eq!(spec.image_pull_secrets.expect("secrets")[0].name, "regcred");
    let requests = spec.containers[0].resources.as_ref().and_then(|resources| resources.requests.clone());
    let requests = requests.expect("requests");
    assert_eq!((requests["memory"].0.as_str(), requests["cpu"].0.as_str()), ("1Gi", "50m"));
}

#[test]
fn a_command_that_fails_is_told_with_its_last_words_and_stays_failed() {
    let mut scene = running();
    end(&mut scene, 3, "Error", 1, "loading\nno such file: libssl.so.3\n");
    let plan = scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert!(scene.has("Stalled") && !publishes(&plan));
    assert_eq!(scene.platform(PLATFORM).log_tail.as_deref(), Some("loading\nno such file: libssl.so.3"));
    let message = scene.message().to_owned();
    assert!(
        message.starts_with(
            "linux/arm64: VerifyRunFailed: /app --version ended with exit code 3: no such file: libssl.so.3 (pod/"
        ),
        "{message}"
    );
    assert_eq!(pods_deleted(&plan), 0, "whoever wants to look at it can");
    scene.observed.pods.clear();
    scene.restart();
    let plan = scene.run();
    assert_eq!((pods_created(&plan), scene.observed.pods.len()), (0, 0), "it is not run again");
    assert_eq!(scene.message(), message);
    assert!(scene.platform(PLATFORM).log_tail.is_some());
}

#[test]
fn what_has_failed_is_run_again_when_asked_for_or_edited() {
    for asked in [true, false] {
        let mut scene = running();
        end(&mut scene, 3, "Error", 1, "no");
        scene.run();
        let first = pod_names(&scene);
        ask_or_edit(&mut scene, asked);
        scene.run();
        assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)), "asked: {asked}");
        let second = pod_names(&scene);
        assert_eq!(second.len(), 1, "the failed one has gone");
        assert_ne!(first, second);
        assert_eq!(scene.platform(PLATFORM).log_tail, None);
        end(&mut scene, 0, "Completed", 1, "");
        scene.run();
        assert_eq!(scene.ready(), ("True", "Published"));
    }
}

#[test]
fn what_has_passed_is_not_run_again_unless_image_or_command_change() {
    let mut scene = running();
    end(&mut scene, 0, "Completed", 1, "");
    scene.run();
    scene.restart();
    scene.annotate(ANNOTATION_RECONCILE, "now");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.edit(|image| {
        image.spec.target.tags.push("more".to_owned());
        let run = image.spec.verify.as_mut().and_then(|verify| verify.run.as_mut()).expect("a run");
        run.timeout = std::time::Duration::from_secs(90).into();
    });
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.observed.pods.is_empty());
    scene.edit(|image| {
        let run = image.spec.verify.as_mut().and_then(|verify| verify.run.as_mut()).expect("a run");
        run.command.push("--strict".to_owned());
    });
    scene.run();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    assert_eq!(scene.ready().0, "Unknown");
}

#[test]
fn a_request_to_check_leaves_alone_what_runs_and_a_restart_does() {
    let mut scene = running();
    start(&mut scene);
    scene.run();
    let before = pod_names(&scene);
    scene.annotate(ANNOTATION_RECONCILE, "now");
    scene.run();
    scene.restart();
    scene.run();
    assert_eq!(pod_names(&scene), before);
    end(&mut scene, 1, "Error", 1, "");
    scene.run();
    assert_eq!(found(&scene).0, Phase::Failed);
    assert_eq!(pod_names(&scene), before, "the request was made while it ran");
}

#[test]
fn an_edit_of_the_command_suspension_and_its_removal_stop_a_run() {
    for edit in ["command", "suspend", "removed"] {
        let mut scene = running();
        start(&mut scene);
        scene.run();
        let before = pod_names(&scene);
        scene.edit(|image| {
            let run = image.spec.verify.as_mut().expect("checks");
            match edit {
                "command" => run.run.as_mut().expect("a run").command.push("x".to_owned()),
                "suspend" => image.spec.suspend = true,
                _ => run.run = None,
            }
        });
        scene.run();
        let after = pod_names(&scene);
        assert!(before.iter().all(|name| !after.contains(name)), "{edit}: {after:?}");
        assert_eq!(after.len(), usize::from(edit == "command"), "{edit}");
    }
}

#[test]
fn a_run_goes_on_while_its_image_is_looked_up_again() {
    let mut scene = running();
    start(&mut scene);
    scene.run();
    scene.edit(|image| image.spec.target.tags.push("more".to_owned()));
    let plan = scene.plan();
    assert_eq!(found(&scene).0, Phase::Resolving);
    assert_eq!(pods_deleted(&plan), 0);
}

#[test]
fn the_kubelet_kills_what_takes_too_long_by_a_probe_that_must_fail() {
    let scene = running();
    let spec = scene.observed.pods[0].spec.as_ref().expect("a spec");
    let probe = spec.containers[0].startup_probe.as_ref().expect("a probe");
    assert_eq!((probe.initial_delay_seconds, probe.failure_threshold), (Some(61), Some(1)));
    assert_eq!(spec.active_deadline_seconds, Some(60 + 1800));
}

#[test]
fn somebody_elses_pod_with_our_labels_is_not_believed_and_not_deleted() {
    let mut scene = running();
    end(&mut scene, 0, "Completed", 1, "");
    change(&mut scene, |pod| pod.metadata.owner_references = None);
    let plan = scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::JobConflict)));
    assert_eq!(pods_deleted(&plan), 0);
}

#[test]
fn what_is_left_of_a_run_goes_though_the_operator_died_before_it_could_delete_it() {
    let mut scene = running();
    end(&mut scene, 0, "Completed", 1, "");
    let left = scene.observed.pods.clone();
    scene.run();
    scene.observed.pods = left;
    scene.restart();
    assert_eq!(pods_deleted(&scene.plan()), 1);
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn the_pod_of_a_build_is_told_from_the_pod_of_a_run() {
    let mut scene = building();
    scene.edit(|image| {
        let run = serde_json::from_value(json!({"command": ["/app"]})).expect("a run");
        image.spec.verify = Some(Verify { binaries: Enforcement::Off, run: Some(run), ..Verify::default() });
    });
    scene.has_nodes(&["amd64", "arm64"]);
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    let plan = scene.run();
    assert_eq!(pods_deleted(&plan), 0);
    let runs: Vec<_> = scene
        .observed
        .pods
        .iter()
        .filter_map(|pod| pod.metadata.labels.as_ref())
        .filter(|labels| labels.contains_key(LABEL_VERIFICATION))
        .map(|labels| labels[LABEL_PLATFORM].as_str())
        .collect();
    assert_eq!(runs, ["linux-amd64", "linux-arm64"]);
}

#[test]
fn a_source_that_has_moved_is_run_before_its_tags_follow_and_its_failure_ends_when_it_moves_again() {
    let mut scene = running();
    end(&mut scene, 0, "Completed", 1, "");
    scene.run();
    let published = scene.observed.status.digest.clone();
    scene.point("other.test/web:arm64", Some(Digest::sha256(b"broken")));
    scene.wait();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    end(&mut scene, 3, "Error", 1, "no");
    scene.run();
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::VerifyRunFailed)));
    assert_eq!(scene.observed.status.digest, published, "the tags stay where they are");
    scene.point("other.test/web:arm64", Some(Digest::sha256(b"mended")));
    scene.wait();
    assert_eq!(found(&scene), (Phase::Verifying, Some(Reason::VerifyRunning)));
    assert_eq!(scene.observed.pods.len(), 1, "the failed one has gone");
    end(&mut scene, 0, "Completed", 1, "");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert_ne!(scene.observed.status.digest, published);
}

#[test]
fn a_conflict_and_the_end_of_the_resource_stop_a_run() {
    let mut scene = running();
    start(&mut scene);
    scene.run();
    scene.image.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    scene.image.metadata.deletion_timestamp = Some(Time(scene.now));
    let stops = |tasks: &[Task]| tasks.iter().any(|task| matches!(task, Task::DeletePod { .. }));
    assert!(stops(&deletion(&scene.image, &scene.observed, scene.now).tasks));
    scene.image.metadata.deletion_timestamp = None;
    let tag = format!("{REPOSITORY}:latest").parse().expect("a tag");
    scene.observed.conflict = Some(Conflict { tag, holder: "team-b/web".to_owned() });
    assert!(stops(&scene.plan().tasks));
}

#[test]
fn while_a_new_image_is_looked_at_the_status_says_which() {
    for verify in [json!({"run": {"command": ["/app"]}, "binaries": "Off"}), json!({"binaries": "Enforce"})] {
        let mut scene = checked(verify.clone());
        scene.run();
        if !scene.observed.pods.is_empty() {
            end(&mut scene, 0, "Completed", 1, "");
            scene.run();
        }
        let before = scene.platform(PLATFORM).digest.clone();
        let of = |scene: &Scene| scene.platform(PLATFORM).verification.clone().map(|known| known.digest);
        assert_eq!((scene.ready().0, of(&scene)), ("True", before.clone()));
        scene.point("other.test/web:arm64", Some(Digest::sha256(b"new")));
        let wait = scene.run().wake_after.expect("something is due");
        scene.now = scene.now.saturating_add(wait).expect("a time");
        let mut phases = Vec::new();
        for _ in 0..20 {
            let plan = scene.plan();
            let open = plan.tasks.into_iter().find(|task| {
                matches!(task, Task::Check { .. } | Task::ResolveImage { .. } | Task::CopyImage { .. })
                    && (scene.observed.facts.get(task).is_none()
                        || matches!(task, Task::Check { .. } if phases.is_empty()))
            });
            phases.push(found(&scene).0);
            let Some(task) = open else { break };
            scene.succeed(&task);
        }
        assert_eq!(found(&scene).0, Phase::Verifying, "{verify}: {phases:?}");
        assert_eq!(scene.platform(PLATFORM).digest, before, "{verify}");
        assert!(of(&scene).is_some() && of(&scene) != before, "{verify}: {:?}", of(&scene));
    }
}
