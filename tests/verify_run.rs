//! What `spec.verify` lets through: images are run by their digests in pods on the real nodes of the rig, and looked
//! into, before a tag moves.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use multiarch::api::{ANNOTATION_RECONCILE, LABEL_VERIFICATION, MultiArchImage, Phase, RunStatus};
use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::builds::{ever_created, inline, open_gate, until_gone};
use support::images::{OCI_MANIFEST, Push};
use support::nodes::{RESERVED_FOR, TemporaryNode, needs_nodes, tolerations};
use support::operator::{Operator, Start};
use support::proxy::{Counts, Proxy};
use support::{PATIENCE, World, entry, has_condition, is_ready, message};

const PLATFORM: &str = "linux/amd64";
/// More writes than one image takes from its creation to Ready.
const MORE_THAN_ENOUGH: u64 = 100;

/// busybox for these platforms, published when this command has run in each.
fn busybox(world: &World, name: &str, platforms: &[&str], command: &[&str]) -> Value {
    let image = &world.rig.images["busybox"];
    let platforms: Vec<Value> =
        platforms.iter().map(|platform| json!({"platform": platform, "image": image})).collect();
    json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]},
        "platforms": platforms,
        "verify": {"run": {"command": command}},
    })
}

fn shell(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

/// A script that ends when the gate of the test opens.
fn until_gate_opens(world: &World) -> String {
    support::builds::until_gate_opens(world).trim_start_matches("RUN ").to_owned()
}

fn run(image: &MultiArchImage, platform: &str) -> Option<RunStatus> {
    entry(image, platform)?.verification.clone()?.run
}

/// The pods that run images now.
async fn pods(world: &World) -> Vec<Pod> {
    let labelled = ListParams::default().labels(LABEL_VERIFICATION);
    world.api::<Pod>().list(&labelled).await.expect("pods").items
}

async fn tag(world: &World, name: &str) -> Option<Vec<u8>> {
    Push::to(&world.repository(name)).read("1.0").await
}

/// Until the container of the only pod runs; its name.
async fn until_running(world: &World, name: &str) -> String {
    let running = |image: &MultiArchImage| {
        let message = entry(image, PLATFORM).and_then(|entry| entry.message.clone());
        message.is_some_and(|message| message.starts_with("running "))
    };
    world.until(name, "running", running).await;
    pods(world).await.pop().expect("a pod").name_any()
}

#[tokio::test]
async fn every_platform_runs_on_its_node_as_nobody_in_a_restricted_namespace_and_leaves_no_pod() {
    needs_nodes!("every_platform_runs_on_its_node_as_nobody_in_a_restricted_namespace_and_leaves_no_pod");
    let world = World::new().await;
    let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let patch = Patch::Merge(restricted);
    namespaces.patch(&world.namespace, &PatchParams::default(), &patch).await.expect("a label");
    let _operator = Operator::start(&world);
    let script = "test $(id -u):$(id -g) = 65532:65532 && test ! -e /var/run/secrets/kubernetes.io";
    let platforms = ["linux/amd64", "linux/arm64"];
    world.apply("web", busybox(&world, "web", &platforms, &shell(script))).await;
    let ready = world.until_ready("web").await;
    for (platform, arch) in platforms.into_iter().zip(["amd64", "arm64"]) {
        let run = run(&ready, platform).expect("a run");
        let node = world.rig.nodes.iter().find(|node| Some(&node.name) == run.node.as_ref());
        assert!(run.passed && !run.emulated);
        assert_eq!(node.expect("a node of the rig").arch, arch);
        until_gone(world.api::<Pod>(), &run.pod).await;
    }
    assert_eq!(ever_created(&world, "pods"), 2);
}

#[tokio::test]
async fn a_command_that_fails_moves_no_tag_and_its_output_is_in_the_status_until_it_is_mended() {
    needs_nodes!("a_command_that_fails_moves_no_tag_and_its_output_is_in_the_status_until_it_is_mended");
    let world = World::new().await;
    let operator = Operator::start(&world);
    let spec = busybox(&world, "web", &[PLATFORM], &shell("echo loading >&2; echo no libssl >&2; exit 3"));
    world.apply("web", spec).await;
    let failed = world.until_platform("web", PLATFORM, Phase::Failed, "VerifyRunFailed").await;
    assert_eq!(failed.log_tail.as_deref(), Some("loading\nno libssl"));
    let stalled = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    let said = message(&stalled, "Ready");
    assert!(said.starts_with("linux/amd64: VerifyRunFailed: /bin/sh -c echo loading"), "{said}");
    assert!(said.contains("ended with exit code 3: no libssl (pod/web-verify-linux-amd64-"), "{said}");
    assert!(tag(&world, "web").await.is_none());
    // Neither a restart nor a look at it runs it again.
    drop(operator);
    let _operator = Operator::start(&world);
    world.until_platform("web", PLATFORM, Phase::Failed, "VerifyRunFailed").await;
    assert_eq!(ever_created(&world, "pods"), 1);
    let request = json!({"metadata": {"annotations": {ANNOTATION_RECONCILE: "once more"}}});
    let api = world.api::<MultiArchImage>();
    api.patch("web", &PatchParams::default(), &Patch::Merge(request)).await.expect("it can be asked");
    let first = run(&stalled, PLATFORM).expect("a run").pod;
    let ran_again = |image: &MultiArchImage| run(image, PLATFORM).is_some_and(|run| run.pod != first);
    world.until("web", "run again", ran_again).await;
    world.apply("web", busybox(&world, "web", &[PLATFORM], &shell("exit 0"))).await;
    let ready = world.until_ready("web").await;
    assert_eq!(entry(&ready, PLATFORM).expect("an entry").log_tail, None);
    assert!(tag(&world, "web").await.is_some());
}

#[tokio::test]
async fn a_command_that_does_not_end_is_killed_and_what_it_said_is_told() {
    needs_nodes!("a_command_that_does_not_end_is_killed_and_what_it_said_is_told");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = busybox(&world, "web", &[PLATFORM], &shell("echo listening; exec sleep 3600"));
    spec["verify"]["run"]["timeout"] = json!("2s");
    world.apply("web", spec).await;
    let failed = world.until_platform("web", PLATFORM, Phase::Failed, "VerifyRunFailed").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("had not ended after 2 s: listening (pod/"), "{said}");
    assert_eq!(failed.log_tail.as_deref(), Some("listening"));
    assert!(tag(&world, "web").await.is_none());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_in_the_runtimes_words() {
    needs_nodes!("a_program_that_is_not_there_is_told_in_the_runtimes_words");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    world.apply("web", busybox(&world, "web", &[PLATFORM], &["/no/such", "$(x) $$"])).await;
    let failed = world.until_platform("web", PLATFORM, Phase::Failed, "VerifyRunFailed").await;
    let said = failed.message.expect("a message");
    assert!(said.starts_with("/no/such $(x) $$ cannot be started: "), "{said}");
    assert!(said.contains("no such file or directory"), "{said}");
}

#[tokio::test]
async fn an_image_that_no_node_can_pull_waits_with_the_kubelets_words() {
    needs_nodes!("an_image_that_no_node_can_pull_waits_with_the_kubelets_words");
    let world = World::new().await;
    // The operator is told that it speaks plain HTTP, the nodes are not.
    let registry = Proxy::of_registry(world.rig, &Arc::new(Counts::default())).await.address.to_string();
    let _operator = Start::new(&world).plain_http(&registry).run();
    let mut spec = busybox(&world, "web", &[PLATFORM], &["true"]);
    spec["target"]["repository"] = json!(format!("{registry}/{}/web", world.namespace));
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", PLATFORM, Phase::Waiting, "ImagePullFailed").await;
    let said = waiting.message.expect("a message");
    assert!(said.contains("cannot pull the image: ") && said.contains("HTTPS"), "{said}");
    assert!(tag(&world, "web").await.is_none());
}

#[tokio::test]
async fn an_edit_suspension_and_deletion_each_stop_what_runs() {
    needs_nodes!("an_edit_suspension_and_deletion_each_stop_what_runs");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let forever = ["sleep", "3600"];
    world.apply("web", busybox(&world, "web", &[PLATFORM], &forever)).await;
    let first = until_running(&world, "web").await;
    let mut spec = busybox(&world, "web", &[PLATFORM], &["sleep", "3601"]);
    world.apply("web", spec.clone()).await;
    until_gone(world.api::<Pod>(), &first).await;
    let second = until_running(&world, "web").await;
    assert_ne!(first, second);
    spec["suspend"] = json!(true);
    world.apply("web", spec.clone()).await;
    until_gone(world.api::<Pod>(), &second).await;
    spec["suspend"] = json!(false);
    world.apply("web", spec).await;
    let third = until_running(&world, "web").await;
    world.api::<MultiArchImage>().delete("web", &DeleteParams::default()).await.expect("deleted");
    until_gone(world.api::<Pod>(), &third).await;
}

#[tokio::test]
async fn what_is_built_is_run_where_it_was_built_before_it_is_published() {
    needs_nodes!("what_is_built_is_run_where_it_was_built_before_it_is_published");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let platforms = ["linux/amd64", "linux/s390x"];
    let mut spec = inline(&world, "web", &platforms, "RUN uname -m > /machine");
    spec["platforms"][1]["whenNoNode"] = json!("Emulate");
    spec["verify"] = json!({"run": {"command": shell("test $(cat /machine) = $(uname -m)")}});
    world.apply("web", spec).await;
    let ready = world.until_ready("web").await;
    assert!(!run(&ready, platforms[0]).expect("a run").emulated);
    assert!(run(&ready, platforms[1]).expect("a run").emulated);
}

#[tokio::test]
async fn a_node_is_waited_for_and_one_that_goes_away_is_no_failure_of_the_image() {
    needs_nodes!("a_node_is_waited_for_and_one_that_goes_away_is_no_failure_of_the_image");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = busybox(&world, "web", &[PLATFORM], &shell(&until_gate_opens(&world)));
    spec["verify"]["run"]["timeout"] = json!("10m");
    spec["verify"]["run"]["pod"] =
        json!({"nodeSelector": {RESERVED_FOR: world.namespace}, "tolerations": tolerations(&world)});
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", PLATFORM, Phase::Waiting, "Unschedulable").await;
    assert!(waiting.message.expect("a message").contains("nodes are available"));
    let node = TemporaryNode::reserved(&world, "amd64");
    let first = until_running(&world, "web").await;
    node.remove();
    until_gone(world.api::<Pod>(), &first).await;
    let _other = TemporaryNode::reserved(&world, "amd64");
    until_running(&world, "web").await;
    open_gate(&world).await;
    world.until_ready("web").await;
}

#[tokio::test]
async fn what_writes_more_than_it_may_is_evicted_once_and_that_is_its_own_failure() {
    needs_nodes!("what_writes_more_than_it_may_is_evicted_once_and_that_is_its_own_failure");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let script = "dd if=/dev/zero of=/tmp/much bs=1M count=40 && exec sleep 3600";
    let mut spec = busybox(&world, "web", &[PLATFORM], &shell(script));
    spec["verify"]["run"]["timeout"] = json!("10m");
    spec["verify"]["run"]["pod"] = json!({"resources": {"limits": {"ephemeral-storage": "10Mi"}}});
    world.apply("web", spec).await;
    let failed = world.until_platform("web", PLATFORM, Phase::Failed, "VerifyRunFailed").await;
    let said = failed.message.expect("a message");
    assert!(said.contains(" was evicted: ") && said.contains("ephemeral"), "{said}");
    assert_eq!(ever_created(&world, "pods"), 1);
    assert!(tag(&world, "web").await.is_none());
}

/// An image for `platform` with one file, which it starts.
async fn starting(push: &Push, tag: &str, platform: &str, program: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, "app", program).expect("memory");
    let layer = layer.into_inner().expect("memory");
    let diff_id = Digest::sha256(&layer).to_string();
    let (os, architecture) = platform.split_once('/').expect("a platform");
    let config = json!({
        "os": os, "architecture": architecture, "config": {"Entrypoint": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let (config, config_size) = push.blob(config.to_string().into_bytes()).await;
    let (layer, layer_size) = push.blob(layer).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}],
    });
    push.manifest(tag, OCI_MANIFEST, &manifest).await;
}

/// As much of a program for amd64 as tells that it is one.
fn amd64_program() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([62, 0]);
    elf.resize(64, 0);
    elf
}

#[tokio::test]
async fn an_amd64_program_in_an_image_for_arm64_never_moves_the_tag_where_that_is_enforced() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let from = world.repository("from");
    starting(&Push::to(&from), "v1", "linux/arm64", &amd64_program()).await;
    let spec = |name: &str, binaries: &str| {
        json!({
            "target": {"repository": world.repository(name), "tags": ["1.0"]},
            "platforms": [{"platform": "linux/arm64", "image": format!("{from}:v1")}],
            "verify": {"binaries": binaries},
        })
    };
    world.apply("enforced", spec("enforced", "Enforce")).await;
    let failed = world.until_platform("enforced", "linux/arm64", Phase::Failed, "BinaryMismatch").await;
    let said = failed.message.expect("a message");
    assert!(said.starts_with("/app is for x86-64 (ELF), the platform is linux/arm64"), "{said}");
    assert!(tag(&world, "enforced").await.is_none());
    for (name, told) in [("Warn", true), ("Off", false)] {
        let object = name.to_lowercase();
        world.apply(&object, spec(&object, name)).await;
        let ready = world.until_ready(&object).await;
        let said = entry(&ready, "linux/arm64").and_then(|entry| entry.message.clone()).expect("a message");
        assert_eq!(said.contains("/app is for x86-64 (ELF)"), told, "{said}");
    }
}

#[tokio::test]
async fn an_image_whose_config_names_another_platform_is_taken_only_where_that_is_allowed() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let spec = |name: &str, check: &str| {
        json!({
            "target": {"repository": world.repository(name), "tags": ["1.0"]},
            "platforms": [{"platform": "linux/arm64", "image": format!("{from}:v1")}],
            "verify": {"platform": check},
        })
    };
    world.apply("web", spec("web", "Enforce")).await;
    world.until_platform("web", "linux/arm64", Phase::Failed, "PlatformMismatch").await;
    world.apply("web", spec("web", "Warn")).await;
    let ready = world.until_ready("web").await;
    let said = entry(&ready, "linux/arm64").and_then(|entry| entry.message.clone()).expect("a message");
    assert!(said.contains("the image is for linux/amd64, not for linux/arm64"), "{said}");
    world.apply("off", spec("off", "Off")).await;
    let ready = world.until_ready("off").await;
    let said = entry(&ready, "linux/arm64").and_then(|entry| entry.message.clone()).expect("a message");
    assert!(!said.contains("amd64"), "{said}");
}

/// Kills the operator right after its nth write to the API server and starts another one; tells whether there was an nth
/// write.
async fn killed_after(writes: u64) -> bool {
    let world = World::new().await;
    let counts = Arc::new(Counts::default());
    let api = Proxy::of_api_server(world.rig, &counts).await;
    counts.cut_after(writes);
    let start = Start::new(&world).kubeconfig(&api.kubeconfig(&support::root().join("target/test-logs")));
    let mut operator = start.run();
    world.apply("web", busybox(&world, "web", &[PLATFORM], &["true"])).await;
    let all_done = async {
        let ready = world.until("web", "ready", is_ready).await;
        until_gone(world.api::<Pod>(), &run(&ready, PLATFORM).expect("a run").pod).await;
    };
    let was_cut = tokio::select! {
        () = counts.until_cut() => true,
        () = all_done => false,
    };
    operator.kill().await;
    counts.open();
    let _operator: Operator = start.run();
    let ready = world.until_ready("web").await;
    until_gone(world.api::<Pod>(), &run(&ready, PLATFORM).expect("a run").pod).await;
    assert_eq!(ever_created(&world, "pods"), 1, "after write {writes}: it was run once");
    was_cut
}

#[tokio::test]
async fn killed_after_any_write_an_image_is_run_once_and_nothing_of_it_is_left() {
    needs_nodes!("killed_after_any_write_an_image_is_run_once_and_nothing_of_it_is_left");
    let mut runs = futures::stream::iter(1..MORE_THAN_ENOUGH)
        .map(|writes| async move { (writes, killed_after(writes).await) })
        .buffered(3);
    while let Some((writes, was_cut)) = runs.next().await {
        if !was_cut {
            assert!(writes > 5, "only {writes} writes were seen; is the proxy in use?");
            return;
        }
    }
    panic!("one image takes {MORE_THAN_ENOUGH} writes?");
}

#[tokio::test]
async fn a_result_that_came_while_no_operator_lived_is_read_by_the_next() {
    needs_nodes!("a_result_that_came_while_no_operator_lived_is_read_by_the_next");
    let world = World::new().await;
    let mut operator = Operator::start(&world);
    world.apply("web", busybox(&world, "web", &[PLATFORM], &shell(&until_gate_opens(&world)))).await;
    let name = until_running(&world, "web").await;
    operator.kill().await;
    open_gate(&world).await;
    let ended = await_condition(world.api::<Pod>(), &name, |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
    });
    tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("it ends");
    let _operator = Operator::start(&world);
    world.until_ready("web").await;
    assert_eq!(ever_created(&world, "pods"), 1);
}
