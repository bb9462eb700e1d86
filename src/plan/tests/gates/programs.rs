//! The look at the program that an image starts.

use super::*;

fn looks_at_programs(plan: &Plan) -> bool {
    plan.tasks.iter().any(|task| matches!(task, Task::InspectProgram { .. }))
}

/// What is found in an image that starts a program for this machine (`e_machine` of its ELF header).
fn finding(machine: u16) -> Found {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0]);
    elf.extend(machine.to_le_bytes());
    elf.resize(64, 0);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(elf.len() as u64);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, "app", elf.as_slice()).expect("memory");
    let layer = layer.into_inner().expect("memory");
    let config = json!({"config": {"Entrypoint": ["/app"]}});
    let config: ImageConfig = serde_json::from_value(config).expect("a config");
    Found::Program(inspect_layers(&[&layer], &config, &PLATFORM.parse().expect("a platform"), 1 << 20))
}

/// Lets everything end well, and every look at a program find this.
fn run_with_program(scene: &mut Scene, found: &Found) -> Plan {
    for _ in 0..20 {
        let plan = scene.plan();
        let open: Vec<Task> =
            plan.tasks.iter().filter(|task| scene.observed.facts.get(task).is_none()).cloned().collect();
        if open.is_empty() {
            return plan;
        }
        for task in open {
            match task {
                Task::InspectProgram { .. } => {
                    scene.observed.facts.insert(task.key(), Fact::Known(found.clone()));
                }
                task => scene.succeed(&task),
            }
        }
    }
    panic!("the plan never comes to rest");
}

#[test]
fn how_strict_the_look_at_a_config_is_goes_to_the_registry() {
    for (verify, check) in [
        (json!({}), PlatformCheck::Enforce),
        (json!({"platform": "Warn"}), PlatformCheck::Warn),
        (json!({"platform": "Off"}), PlatformCheck::Off),
    ] {
        let plan = checked(verify).plan();
        let Some(Task::ResolveImage { check: found, .. }) = plan.tasks.first() else { panic!("no look") };
        assert_eq!(*found, check);
    }
}

#[test]
fn unless_told_otherwise_a_wrong_program_is_told_and_published() {
    let mut scene = checked(json!({}));
    run_with_program(&mut scene, &finding(AMD64));
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(
        said(&scene).contains("/app is for x86-64 (ELF), the platform is linux/arm64"),
        "{}",
        said(&scene)
    );
    let known = scene.platform(PLATFORM).verification.as_ref().and_then(|known| known.program.as_ref());
    assert_eq!(known.expect("a program").result, ProgramResult::Mismatch);
}

#[test]
fn a_wrong_program_moves_no_tag_where_that_is_enforced() {
    let mut scene = checked(json!({"binaries": "Enforce", "run": {"command": ["/app"]}}));
    let plan = run_with_program(&mut scene, &finding(AMD64));
    assert_eq!(found(&scene), (Phase::Failed, Some(Reason::BinaryMismatch)));
    assert!(scene.has("Stalled") && !publishes(&plan));
    assert!(scene.observed.pods.is_empty(), "what is known to be wrong is not run");
}

#[test]
fn a_program_that_nobody_can_tell_anything_about_is_no_failure() {
    let mut scene = checked(json!({"binaries": "Enforce"}));
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(!said(&scene).contains("starts nothing"), "{}", said(&scene));
}

#[test]
fn a_program_is_looked_at_once_for_a_digest_and_not_at_all_when_off() {
    let mut scene = checked(json!({"binaries": "Enforce"}));
    run_with_program(&mut scene, &finding(ARM64));
    assert_eq!(scene.ready(), ("True", "Published"));
    scene.restart();
    scene.annotate(ANNOTATION_RECONCILE, "now");
    while scene.observed.status.last_handled_reconcile_at.is_none() || found(&scene).0 != Phase::Ready {
        let plan = scene.plan();
        assert!(!looks_at_programs(&plan));
        plan.tasks.iter().for_each(|task| scene.succeed(task));
    }
    let mut scene = checked(json!({"binaries": "Off"}));
    for _ in 0..5 {
        let plan = scene.plan();
        assert!(!looks_at_programs(&plan));
        plan.tasks.iter().for_each(|task| scene.succeed(task));
    }
    assert_eq!(scene.ready(), ("True", "Published"));
    assert!(scene.platform(PLATFORM).verification.is_none());
}

#[test]
fn a_look_that_fails_stops_an_image_only_where_it_is_enforced_or_may_succeed_later() {
    for (binaries, transient, phase) in [
        ("Warn", false, Phase::Ready),
        ("Warn", true, Phase::Waiting),
        ("Enforce", false, Phase::Failed),
        ("Enforce", true, Phase::Waiting),
    ] {
        let mut scene = checked(json!({"binaries": binaries}));
        let look = loop {
            let plan = scene.plan();
            match plan.tasks.iter().find(|task| matches!(task, Task::InspectProgram { .. })) {
                Some(look) => break look.clone(),
                None => plan.tasks.iter().for_each(|task| scene.succeed(task)),
            }
        };
        scene.fail(&look, Reason::SourceNotFound, "a layer is missing", transient);
        scene.plan();
        assert_eq!(found(&scene).0, phase, "{binaries} {transient}");
        assert!(said(&scene).contains("a layer is missing"), "{}", said(&scene));
    }
}
