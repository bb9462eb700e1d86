//! Where builds run, on the real nodes of the rig: nodes that are missing, full, cordoned, emulating, and nodes that
//! come and go.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use multiarch::api::{MultiArchImage, Phase};
use serde_json::{Value, json};
use support::builds::{inline, jobs, jobs_ever_created, open_gate, until_gate_opens, until_gone};
use support::images::Push;
use support::nodes::{RESERVED_FOR, TemporaryNode, needs_nodes, reserved, tolerations};
use support::operator::Operator;
use support::{World, entry, has_condition, message};

/// A Dockerfile that needs neither a base image nor a step that runs: it can be built for every platform anywhere.
const NOTHING_RUNS: &str = "FROM scratch\nCOPY <<EOF /hello\nhello\nEOF\n";

/// A program that starts nowhere: the header of an executable for mips64le, which nothing on the rig runs.
const UNKNOWN_PROGRAM: &str = r"printf '\177ELF\002\001\001\000\000\000\000\000\000\000\000\000\002\000\010\000\001\000\000\000' > /program; \
    dd if=/dev/zero bs=1k count=4 >> /program; chmod 755 /program";

fn spec(world: &World, name: &str, platforms: Value, dockerfile: &str) -> Value {
    let mut spec = inline(world, name, &[], "");
    spec["platforms"] = platforms;
    spec["build"]["context"]["inline"]["dockerfile"] = json!(dockerfile);
    spec
}

/// The platforms in the published index.
async fn published(world: &World, name: &str) -> Vec<String> {
    let index = Push::to(&world.repository(name)).read("1.0").await.expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let children = index["manifests"].as_array().cloned().unwrap_or_default();
    children
        .iter()
        .map(|child| child["platform"]["architecture"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn node_of(image: &MultiArchImage, platform: &str) -> String {
    entry(image, platform).and_then(|entry| entry.node.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_platform_without_a_node_is_emulated_on_another_and_its_steps_really_run() {
    needs_nodes!("a_platform_without_a_node_is_emulated_on_another_and_its_steps_really_run");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let platforms =
        json!([{"platform": "linux/amd64"}, {"platform": "linux/s390x", "whenNoNode": "Emulate"}]);
    let dockerfile = format!(
        "FROM {}\nARG TARGETARCH\nRUN machine=$(uname -m); test $TARGETARCH-$machine = s390x-s390x || test $TARGETARCH-$machine = amd64-x86_64\n",
        world.rig.images["busybox"]
    );
    world.apply("web", spec(&world, "web", platforms, &dockerfile)).await;
    let image = world.until_ready("web").await;
    let of = |platform| entry(&image, platform).map(|entry| entry.emulated);
    assert_eq!((of("linux/amd64"), of("linux/s390x")), (Some(false), Some(true)));
    assert!(["node-amd64", "node-arm64"].contains(&node_of(&image, "linux/s390x").as_str()));
    assert_eq!(published(&world, "web").await, ["amd64", "s390x"]);
}

#[tokio::test]
async fn a_node_that_cannot_emulate_is_told_and_does_where_nothing_has_to_run() {
    needs_nodes!("a_node_that_cannot_emulate_is_told_and_does_where_nothing_has_to_run");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let platforms = json!([{"platform": "linux/mips64le", "whenNoNode": "Emulate"}]);
    world.apply("copies", spec(&world, "copies", platforms.clone(), NOTHING_RUNS)).await;
    let base = &world.rig.images["busybox"];
    let dockerfile = format!(
        "FROM --platform=$BUILDPLATFORM {base} AS tools\nRUN {UNKNOWN_PROGRAM}\nFROM scratch\n\
         COPY --from=tools /program /program\nRUN [\"/program\"]\n"
    );
    let mut runs = spec(&world, "runs", platforms, &dockerfile);
    runs["build"]["retries"] = json!(0);
    world.apply("runs", runs).await;
    let failed = world.until_platform("runs", "linux/mips64le", Phase::Failed, "EmulationUnavailable").await;
    let said = failed.message.expect("a message");
    assert!(said.starts_with("Dockerfile:6: RUN [\"/program\"]: "), "{said}");
    assert!(said.contains("and not linux/mips64le; install emulation on it"), "{said}");
    let image = world.until_ready("copies").await;
    assert!(entry(&image, "linux/mips64le").is_some_and(|entry| entry.emulated));
}

#[tokio::test]
async fn an_index_does_without_a_platform_that_may_be_skipped_until_its_node_comes() {
    needs_nodes!("an_index_does_without_a_platform_that_may_be_skipped_until_its_node_comes");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let platforms = json!([{"platform": "linux/amd64"}, {"platform": "linux/riscv64", "whenNoNode": "Skip"}]);
    world.apply("web", spec(&world, "web", platforms, NOTHING_RUNS)).await;
    let image = world.until_ready("web").await;
    let skipped = entry(&image, "linux/riscv64").expect("its entry");
    assert_eq!(
        (skipped.phase, skipped.reason.map(|it| it.as_str())),
        (Phase::Skipped, Some("NoNodeForPlatform"))
    );
    assert_eq!(
        skipped.message.as_deref(),
        Some("the index goes without it until a node comes: the cluster has no node of linux/riscv64")
    );
    assert_eq!(published(&world, "web").await, ["amd64"]);
    let _node = TemporaryNode::add("riscv64");
    let image = world
        .until("web", "joined", |image| {
            has_condition(image, "Ready", "True")
                && entry(image, "linux/riscv64").is_some_and(|entry| entry.phase == Phase::Ready)
        })
        .await;
    assert_eq!(node_of(&image, "linux/riscv64"), "node-riscv64");
    assert_eq!(published(&world, "web").await, ["amd64", "riscv64"]);
    assert_eq!(jobs_ever_created(&world), 2);
}

#[tokio::test]
async fn a_platform_that_shall_fail_without_a_node_fails_at_once_and_recovers_when_the_node_comes() {
    needs_nodes!("a_platform_that_shall_fail_without_a_node_fails_at_once_and_recovers_when_the_node_comes");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let platforms = json!([{"platform": "linux/ppc64le", "whenNoNode": "Fail"}]);
    world.apply("web", spec(&world, "web", platforms, NOTHING_RUNS)).await;
    let failed = world.until_platform("web", "linux/ppc64le", Phase::Failed, "NoNodeForPlatform").await;
    assert_eq!(
        failed.message.as_deref(),
        Some("the cluster has no node of linux/ppc64le, and whenNoNode is Fail")
    );
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    assert!(message(&image, "Ready").starts_with("linux/ppc64le: NoNodeForPlatform: "));
    assert_eq!(jobs_ever_created(&world), 0);
    let _node = TemporaryNode::add("ppc64le");
    let image = world.until_ready("web").await;
    assert_eq!(node_of(&image, "linux/ppc64le"), "node-ppc64le");
}

#[tokio::test]
async fn waiting_for_a_node_ends_with_the_schedulers_words_when_its_time_is_over() {
    needs_nodes!("waiting_for_a_node_ends_with_the_schedulers_words_when_its_time_is_over");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN true");
    spec["build"]["schedulingTimeout"] = json!("3s");
    spec["build"]["pod"] = json!({"nodeSelector": {"test.multiarch.dev/disk": "none"}});
    world.apply("web", spec).await;
    world.until_platform("web", "linux/amd64", Phase::Waiting, "Unschedulable").await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "Unschedulable").await;
    let said = failed.message.expect("a message");
    assert!(said.starts_with("not within the schedulingTimeout of 3s: 0/"), "{said}");
    assert!(said.contains("didn't match Pod's node affinity/selector"), "{said}");
    world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    until_gone(world.api::<Job>(), &failed.job.expect("a Job")).await;
}

#[tokio::test]
async fn a_build_waits_for_a_cordoned_node_and_goes_on_when_it_is_free_again() {
    needs_nodes!("a_build_waits_for_a_cordoned_node_and_goes_on_when_it_is_free_again");
    let world = World::new().await;
    let node = TemporaryNode::reserved(&world, "amd64");
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.cordon(&node.name).await.expect("a cordoned node");
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN true");
    spec["build"]["pod"] = reserved(&world);
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", "linux/amd64", Phase::Waiting, "Unschedulable").await;
    let said = waiting.message.expect("a message");
    assert!(said.contains("were unschedulable"), "{said}");
    nodes.uncordon(&node.name).await.expect("a free node");
    let image = world.until_ready("web").await;
    assert_eq!(node_of(&image, "linux/amd64"), node.name);
    assert_eq!(jobs_ever_created(&world), 1);
}

#[tokio::test]
async fn an_edit_of_what_a_waiting_build_asks_of_nodes_lets_it_go_on() {
    needs_nodes!("an_edit_of_what_a_waiting_build_asks_of_nodes_lets_it_go_on");
    let world = World::new().await;
    let node = TemporaryNode::reserved(&world, "amd64");
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN true");
    let waits_with = async |words: &str| {
        let image = world
            .until("web", words, |image| {
                entry(image, "linux/amd64").is_some_and(|entry| {
                    entry.phase == Phase::Waiting
                        && entry.message.as_deref().is_some_and(|said| said.contains(words))
                })
            })
            .await;
        entry(&image, "linux/amd64").and_then(|entry| entry.job.clone())
    };
    spec["build"]["pod"] = json!({"nodeSelector": {RESERVED_FOR: world.namespace}});
    world.apply("web", spec.clone()).await;
    let first = waits_with("untolerated taint").await;
    spec["build"]["pod"] = reserved(&world);
    spec["build"]["pod"]["nodeSelector"]["test.multiarch.dev/disk"] = json!("none");
    world.apply("web", spec.clone()).await;
    let second = waits_with("didn't match Pod's node affinity/selector").await;
    spec["build"]["pod"] = reserved(&world);
    world.apply("web", spec).await;
    let image = world.until_ready("web").await;
    let last = entry(&image, "linux/amd64").and_then(|entry| entry.job.clone());
    assert!(first.is_some() && first == second && second == last, "what is built is the same");
    assert_eq!(node_of(&image, "linux/amd64"), node.name);
    assert_eq!(jobs_ever_created(&world), 3);
}

#[tokio::test]
async fn a_build_whose_node_disappears_goes_on_on_another_and_that_is_no_failure_of_its_own() {
    needs_nodes!("a_build_whose_node_disappears_goes_on_on_another_and_that_is_no_failure_of_its_own");
    let world = World::new().await;
    let first = TemporaryNode::reserved(&world, "amd64");
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], &until_gate_opens(&world));
    spec["build"]["retries"] = json!(0);
    spec["build"]["pod"] = reserved(&world);
    world.apply("web", spec).await;
    let building = world.until_platform("web", "linux/amd64", Phase::Building, "Building").await;
    assert_eq!(building.node.as_ref(), Some(&first.name));
    let second = TemporaryNode::reserved(&world, "amd64");
    first.remove();
    open_gate(&world).await;
    let image = world.until_ready("web").await;
    assert_eq!(node_of(&image, "linux/amd64"), second.name);
    let job = &jobs(&world).await[0];
    assert_eq!(job.status.as_ref().and_then(|status| status.failed), None);
    assert_eq!(jobs_ever_created(&world), 1);
}

#[tokio::test]
async fn what_a_build_asks_of_the_cluster_reaches_its_pod() {
    needs_nodes!("what_a_build_asks_of_the_cluster_reaches_its_pod");
    let world = World::new().await;
    let class = PriorityClass {
        metadata: ObjectMeta { name: Some(world.namespace.clone()), ..ObjectMeta::default() },
        value: 1000,
        preemption_policy: Some("Never".to_owned()),
        ..PriorityClass::default()
    };
    let classes: Api<PriorityClass> = Api::all(world.client.clone());
    classes.create(&PostParams::default(), &class).await.expect("a PriorityClass");
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN true");
    let hosts = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-amd64"]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [hosts]}],
    }}});
    spec["build"]["pod"] = json!({
        "affinity": affinity,
        "priorityClassName": world.namespace,
        "labels": {"team": "a"},
        "annotations": {"example.com/note": "a \"b\" $(HOME)"},
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "2Gi"}},
    });
    world.apply("web", spec).await;
    world.until_ready("web").await;
    let pods = world.api::<Pod>().list(&ListParams::default().labels("team=a")).await.expect("pods");
    let pod = pods.iter().next().expect("a pod");
    assert_eq!(pod.annotations().get("example.com/note").map(String::as_str), Some("a \"b\" $(HOME)"));
    let found = pod.spec.as_ref().expect("a spec");
    assert_eq!((found.priority_class_name.as_ref(), found.priority), (Some(&world.namespace), Some(1000)));
    let found = serde_json::to_value(found).expect("JSON");
    assert_eq!(found["affinity"]["nodeAffinity"], affinity["nodeAffinity"]);
    assert_eq!(found["containers"][0]["resources"]["requests"]["cpu"], "10m");
    assert_eq!(found["containers"][0]["resources"]["limits"]["memory"], "2Gi");
}

#[tokio::test]
async fn two_builds_of_an_image_run_on_two_nodes_where_there_are_two_and_on_one_where_there_is_one() {
    needs_nodes!("two_builds_of_an_image_run_on_two_nodes_where_there_are_two_and_on_one_where_there_is_one");
    let world = World::new().await;
    let mine = TemporaryNode::reserved(&world, "amd64");
    let _operator = Operator::start(&world);
    let platforms = ["linux/amd64", "linux/amd64/v2"];
    let mut one = inline(&world, "one", &platforms, "RUN true");
    one["build"]["pod"] = reserved(&world);
    world.apply("one", one).await;
    let image = world.until_ready("one").await;
    assert_eq!(platforms.map(|platform| node_of(&image, platform)), [mine.name.clone(), mine.name.clone()]);

    let mut two = inline(&world, "two", &platforms, "RUN true");
    let hosts =
        json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-amd64", mine.name]});
    two["build"]["pod"] = json!({
        "tolerations": tolerations(&world),
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [hosts]}],
        }}},
    });
    world.apply("two", two).await;
    let image = world.until_ready("two").await;
    let mut nodes = platforms.map(|platform| node_of(&image, platform));
    nodes.sort();
    assert_eq!(nodes, ["node-amd64".to_owned(), mine.name.clone()]);
}

#[tokio::test]
async fn a_node_that_takes_no_build_is_waited_for_and_then_done_without() {
    needs_nodes!("a_node_that_takes_no_build_is_waited_for_and_then_done_without");
    let world = World::new().await;
    let node = TemporaryNode::add("386");
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.cordon(&node.name).await.expect("a cordoned node");
    let _operator = Operator::start(&world);
    for (name, policy) in [("emulated", "Emulate"), ("skipped", "Skip")] {
        let platforms = json!([{"platform": "linux/amd64"}, {"platform": "linux/386", "whenNoNode": policy}]);
        let mut spec = spec(&world, name, platforms, NOTHING_RUNS);
        spec["build"]["schedulingTimeout"] = json!("2s");
        world.apply(name, spec).await;
        world.until_platform(name, "linux/386", Phase::Waiting, "Unschedulable").await;
    }
    let image = world.until_ready("emulated").await;
    assert!(entry(&image, "linux/386").is_some_and(|entry| entry.emulated));
    assert_ne!(node_of(&image, "linux/386"), node.name);
    let image = world.until_ready("skipped").await;
    let skipped = entry(&image, "linux/386").expect("its entry");
    let said = skipped.message.clone().unwrap_or_default();
    assert_eq!(skipped.phase, Phase::Skipped);
    assert!(said.starts_with("the index goes without it until a node comes: 0/"), "{said}");
    assert_eq!(published(&world, "skipped").await, ["amd64"]);
    nodes.uncordon(&node.name).await.expect("a free node");
    let joined = |image: &MultiArchImage| {
        has_condition(image, "Ready", "True")
            && entry(image, "linux/386").is_some_and(|entry| entry.phase == Phase::Ready)
    };
    let image = world.until("skipped", "joined", joined).await;
    assert_eq!(node_of(&image, "linux/386"), node.name);
    assert_eq!(published(&world, "skipped").await, ["amd64", "386"]);
}

#[tokio::test]
async fn a_build_that_a_replaced_machine_has_lost_is_told_so() {
    needs_nodes!("a_build_that_a_replaced_machine_has_lost_is_told_so");
    let world = World::new().await;
    let first = TemporaryNode::reserved(&world, "arm");
    let name = first.name.clone();
    let _operator = Operator::start(&world);
    let dockerfile = format!(
        "FROM --platform=linux/amd64 {} AS gate\n{}\nFROM scratch\nCOPY --from=gate /etc/passwd /passwd\n",
        world.rig.images["busybox"],
        until_gate_opens(&world)
    );
    let mut spec = spec(&world, "web", json!([{"platform": "linux/arm"}]), &dockerfile);
    spec["build"]["retries"] = json!(0);
    spec["build"]["pod"] = reserved(&world);
    world.apply("web", spec.clone()).await;
    world.until_platform("web", "linux/arm", Phase::Building, "Building").await;
    first.remove();
    let second = TemporaryNode::in_place_of(&name, &world, "arm");
    assert_eq!(second.name, name);
    // The cluster counts this one: nothing tells it from a build that was killed.
    let failed = world.until_platform("web", "linux/arm", Phase::Failed, "BuildEvicted").await;
    let said = failed.message.expect("a message");
    assert!(
        said.starts_with(&format!(
            "{name} was restarted or replaced, and the build's container with it (job/"
        )),
        "{said}"
    );
    open_gate(&world).await;
    spec["build"]["retries"] = json!(1);
    world.apply("web", spec).await;
    world.until_ready("web").await;
}
