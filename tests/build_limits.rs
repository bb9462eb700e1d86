//! How many builds run at once, on the real cluster: who waits says so, and begins when its turn has come.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use multiarch::api::{MultiArchImage, Phase};
use serde_json::{Value, json};
use support::builds::jobs;
use support::nodes::needs_nodes;
use support::operator::Start;
use support::{PATIENCE, World, entry, has_condition};

const PLATFORM: &str = "linux/amd64";
const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// A build that begins once a node of its platform has the label of this test.
fn held(world: &World, name: &str) -> Value {
    let mut spec = free(world, name);
    spec["build"]["pod"] = json!({"nodeSelector": {"multiarch-test/may-build": world.namespace}});
    spec
}

fn free(world: &World, name: &str) -> Value {
    let dockerfile = format!("FROM {}\nRUN echo {name} > /name\n", world.rig.images["busybox"]);
    json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]},
        "platforms": [{"platform": PLATFORM}],
        "build": {"context": {"inline": {"dockerfile": dockerfile}}},
    })
}

/// Gives the builds that are held a node, or takes it away again.
async fn let_build(world: &World, may: bool) {
    let node = world.rig.nodes.iter().find(|node| node.arch == "amd64").expect("a node");
    let label = may.then_some(&world.namespace);
    let patch = json!({"metadata": {"labels": {"multiarch-test/may-build": label}}});
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a labelled node");
}

async fn until_queued(world: &World, name: &str, message: &str) -> MultiArchImage {
    let image = world
        .until(name, message, |image| {
            entry(image, PLATFORM).is_some_and(|entry| {
                entry.phase == Phase::Waiting && entry.message.as_deref().is_some_and(|told| told == message)
            })
        })
        .await;
    assert_eq!(entry(&image, PLATFORM).and_then(|entry| entry.reason).map(|r| r.as_str()), Some("Queued"));
    assert!(has_condition(&image, "Ready", "Unknown") && has_condition(&image, "Reconciling", "True"));
    image
}

#[tokio::test]
async fn a_second_build_waits_with_its_place_and_starts_when_the_first_has_ended() {
    needs_nodes!("a_second_build_waits_with_its_place_and_starts_when_the_first_has_ended");
    let world = World::new().await;
    let start = Start::new(&world).builds("maxRunning: 1\n");
    let mut operator = start.run();
    world.apply("first", held(&world, "first")).await;
    world.until_platform("first", PLATFORM, Phase::Waiting, "Unschedulable").await;
    world.apply("second", free(&world, "second")).await;
    until_queued(&world, "second", "place 1 of 1: 1 of 1 builds of this operator run").await;
    world.apply("third", free(&world, "third")).await;
    until_queued(&world, "third", "place 2 of 2: 1 of 1 builds of this operator run").await;

    // Whoever comes after a crash counts the Jobs and finds the same order.
    operator.kill().await;
    let _operator = start.run();
    let request = json!({"metadata": {"annotations": {"multiarch.dev/reconcile-requested-at": "now"}}});
    let api = world.api::<MultiArchImage>();
    api.patch("third", &PatchParams::default(), &Patch::Merge(request)).await.expect("a request");
    world
        .until("third", "seen by the second operator", |image| {
            image.status.as_ref().is_some_and(|status| status.last_handled_reconcile_at.is_some())
        })
        .await;
    until_queued(&world, "third", "place 2 of 2: 1 of 1 builds of this operator run").await;
    let names: Vec<String> = jobs(&world).await.iter().map(ResourceExt::name_any).collect();
    assert!(names.len() == 1 && names[0].starts_with("first-"), "{names:?}");

    let_build(&world, true).await;
    for name in ["first", "second", "third"] {
        world.until_ready(name).await;
    }
    let_build(&world, false).await;
    // One by one, in the order in which they came: each began when the one before had ended.
    let mut jobs = jobs(&world).await;
    jobs.sort_by_key(ResourceExt::creation_timestamp);
    assert_eq!(jobs.len(), 3);
    for (pair, names) in jobs.windows(2).zip([["first-", "second-"], ["second-", "third-"]]) {
        assert!(pair[0].name_any().starts_with(names[0]) && pair[1].name_any().starts_with(names[1]));
        let ended = pair[0].status.as_ref().and_then(|status| status.completion_time.clone());
        assert!(ended <= pair[1].creation_timestamp(), "{pair:#?}");
    }
}

#[tokio::test]
async fn a_namespace_has_a_limit_of_its_own_and_an_image_without_builds_is_published_past_it() {
    needs_nodes!("a_namespace_has_a_limit_of_its_own_and_an_image_without_builds_is_published_past_it");
    let world = World::new().await;
    let namespace = &world.namespace;
    let settings = format!("maxRunning: 10\nnamespaces:\n- namespace: {namespace}\n  maxRunning: 1\n");
    let _operator = Start::new(&world).builds(&settings).run();
    world.apply("first", held(&world, "first")).await;
    world.until_platform("first", PLATFORM, Phase::Waiting, "Unschedulable").await;
    world.apply("second", free(&world, "second")).await;
    let told = format!("place 1 of 1: 1 of 1 builds of namespace {namespace} run");
    until_queued(&world, "second", &told).await;

    let source = json!({
        "target": {"repository": world.repository("source"), "tags": ["1.0"]},
        "platforms": [{"platform": PLATFORM, "image": world.rig.images["busybox"]}],
    });
    world.apply("source", source).await;
    world.until_ready("source").await;

    // Who goes makes room.
    world.api::<MultiArchImage>().delete("first", &Default::default()).await.expect("deleted");
    world.until_ready("second").await;
}

/// As Kueue's webhook: every new Job of the namespace is suspended and in a queue.
async fn suspend_new_jobs(world: &World) {
    let namespace = &world.namespace;
    let objects = [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": namespace},
            "spec": {
                "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"],
                }]},
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": format!(
                    "Object{{metadata: Object.metadata{{labels: {{\"{QUEUE}\": \"builds\"}}}}, spec: Object.spec{{suspend: true}}}}"
                )}}],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": namespace},
            "spec": {
                "policyName": namespace,
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
            },
        }),
    ];
    for object in objects {
        let kind = object["kind"].as_str().expect("a kind");
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
        let resource = ApiResource {
            plural: format!("{}s", kind.to_lowercase()).replace("policys", "policies"),
            ..resource
        };
        let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &resource);
        let parameters = PatchParams::apply("test").force();
        api.patch(namespace, &parameters, &Patch::Apply(&object)).await.expect("a policy");
    }
    // A policy counts when the API server's own watch has seen it.
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": "probe"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "probe"}]}}},
    }))
    .expect("a Job");
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let suspended = async {
        loop {
            let created = world.api::<Job>().create(&dry_run, &job).await.expect("a Job");
            if created.spec.and_then(|spec| spec.suspend) == Some(true) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, suspended).await.expect("the policy counts in time");
}

#[tokio::test]
async fn a_job_that_kueue_suspends_is_left_to_it_and_takes_nobodys_turn() {
    needs_nodes!("a_job_that_kueue_suspends_is_left_to_it_and_takes_nobodys_turn");
    let world = World::new().await;
    suspend_new_jobs(&world).await;
    let start = Start::new(&world).builds("maxRunning: 1\n");
    let mut operator = start.run();
    for name in ["first", "second"] {
        world.apply(name, free(&world, name)).await;
    }
    for name in ["first", "second"] {
        let entry = world.until_platform(name, PLATFORM, Phase::Waiting, "Queued").await;
        let job = entry.job.expect("a Job");
        let told = format!("suspended: its queue ({QUEUE}: builds) will start it (job/{job})");
        until_queued(&world, name, &told).await;
    }
    let before = jobs(&world).await;
    assert_eq!(before.len(), 2);

    operator.kill().await;
    let _operator = start.run();
    for job in &before {
        let start = json!({"spec": {"suspend": false}});
        let api = world.api::<Job>();
        api.patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(start)).await.expect("started");
    }
    for name in ["first", "second"] {
        world.until_ready(name).await;
    }
    let uids = |jobs: &[Job]| jobs.iter().map(ResourceExt::uid).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&jobs(&world).await), "no Job was made again");
}
