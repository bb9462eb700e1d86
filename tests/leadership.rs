//! Several operators of which one works, and how an operator stops.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use multiarch::api::MultiArchImage;
use serde_json::{Value, json};
use support::accounts::{kubeconfig_of, refused};
use support::images::Push;
use support::operator::{Operator, Start};
use support::proxy::{Counts, Proxy};
use support::{PATIENCE, World, has_condition};

const LEASE: &str = "multiarch-operator";

async fn source(world: &World) -> Value {
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    json!([{"platform": "linux/s390x", "image": format!("{}:v1", world.repository("from"))}])
}

async fn publishes(world: &World, name: &str, platforms: &Value) {
    let spec = json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]}, "platforms": platforms,
    });
    world.apply(name, spec).await;
    world.until_ready(name).await;
}

/// Who holds the lease.
async fn holder(world: &World) -> String {
    let lease = world.api::<Lease>().get(LEASE).await.expect("the lease");
    lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
}

async fn ask(operator: &Operator, path: &str) -> (u16, String) {
    let address = operator.address().await;
    let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text").trim().to_owned())
}

#[tokio::test]
async fn of_two_operators_one_works_and_the_other_takes_over_when_it_stops_or_dies() {
    let world = World::new().await;
    let platforms = source(&world).await;
    let start = Start::new(&world).elected().with(&["--listen", "127.0.0.1:0"]);
    let mut first = start.run();
    publishes(&world, "first", &platforms).await;
    let held = holder(&world).await;
    let second = start.run();
    second.until_log("standing by").await;
    assert_eq!(ask(&second, "/readyz").await, (200, format!("standing by for {held}")));
    assert_eq!(ask(&first, "/readyz").await, (200, "working".to_owned()));
    assert_eq!(ask(&second, "/healthz").await.0, 200);

    first.terminate();
    assert!(first.ended().await.success(), "{}", first.log());
    assert!(first.log().contains("the lease is given back"), "{}", first.log());
    publishes(&world, "second", &platforms).await;
    assert!(second.log().contains("second"), "{}", second.log());
    assert_ne!(holder(&world).await, held);

    // Nobody gives back the lease of one that is killed: it runs out.
    let third = start.run();
    third.until_log("standing by").await;
    let mut second = second;
    second.kill().await;
    publishes(&world, "third", &platforms).await;
    third.until_log("leading").await;
}

#[tokio::test]
async fn an_operator_whose_lease_somebody_else_has_taken_ends_at_once_and_says_so() {
    let world = World::new().await;
    let mut operator = Start::new(&world).elected().run();
    operator.until_log("leading").await;
    let taken = json!({"spec": {"holderIdentity": "somebody else"}});
    let leases = world.api::<Lease>();
    leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(taken)).await.expect("it can be taken");
    assert!(!operator.ended().await.success());
    let log = operator.log();
    let said = format!("lease {}/{LEASE} is lost: somebody else has taken it", world.namespace);
    assert!(log.contains(&said), "{log}");
    assert_eq!(holder(&world).await, "somebody else", "it is not given back by who has it no more");
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_stays_with_whoever_works() {
    let world = World::new().await;
    let start = Start::new(&world).elected();
    let first = start.run();
    first.until_log("leading").await;
    let second = start.run();
    second.until_log("standing by").await;
    let held = holder(&world).await;
    let leases = world.api::<Lease>();
    leases.delete(LEASE, &DeleteParams::default()).await.expect("it can be deleted");
    let is_there = await_condition(leases, LEASE, |lease: Option<&Lease>| lease.is_some());
    tokio::time::timeout(PATIENCE, is_there).await.expect("in time").expect("a watch");
    assert_eq!(holder(&world).await, held, "{}", second.log());
    assert!(!second.log().contains("leading"), "{}", second.log());
}

#[tokio::test]
async fn an_operator_that_is_still_listing_stops_at_once_and_gives_the_lease_back() {
    let world = World::new().await;
    let images = format!("/apis/multiarch.dev/v1alpha1/namespaces/{}/multiarchimages", world.namespace);
    let pods = format!("/api/v1/namespaces/{}/pods", world.namespace);
    // Whether the resource is there is asked for before the images are listed to be kept.
    for held in [vec![&images], vec![&images, &images], vec![&pods]] {
        stops_while_held(&world, &held).await;
    }
}

/// Holds one request after the other, and stops the operator at the last of them.
async fn stops_while_held(world: &World, held: &[&String]) {
    let counts = Arc::new(Counts::default());
    let api = Proxy::of_api_server(world.rig, &counts).await;
    let kubeconfig = api.kubeconfig(&support::root().join("target/test-logs"));
    let start = Start::new(world).elected().kubeconfig(&kubeconfig).with(&["--shutdown-grace", "250"]);
    counts.hold(&format!("GET {}", held[0]));
    let mut operator = start.run();
    counts.until_held().await;
    for next in &held[1..] {
        counts.hold(&format!("GET {next}"));
        counts.release();
        counts.until_held().await;
    }
    operator.terminate();
    assert!(operator.ended().await.success(), "{held:?}: {}", operator.log());
    assert!(operator.log().contains("the lease is given back"), "{held:?}: {}", operator.log());
    assert!(!operator.log().contains("abandoned"), "{held:?}: {}", operator.log());
}

#[tokio::test]
async fn an_operator_that_may_not_take_the_lease_says_what_it_needs() {
    let world = World::new().await;
    let path = kubeconfig_of(&world, "operator").await;
    let mut operator = Start::new(&world).elected().kubeconfig(&path).run();
    assert!(!operator.ended().await.success());
    let log = operator.log();
    assert!(log.contains("needs get, create and update of leases.coordination.k8s.io"), "{log}");
}

#[tokio::test]
async fn an_operator_that_stops_brings_a_publication_to_its_end_and_writes_it_down() {
    let world = World::new().await;
    let platforms = source(&world).await;
    let counts = Arc::new(Counts::default());
    let registry = Proxy::of_registry(world.rig, &counts).await;
    let host = registry.address.to_string();
    let mut operator = Start::new(&world).plain_http(&host).with(&["--shutdown-grace", "60"]).run();
    counts.hold(
        "PUT /v2/REPOSITORY/manifests/1.0"
            .replace("REPOSITORY", &format!("{}/web", world.namespace))
            .as_str(),
    );
    let target = format!("{host}/{}/web", world.namespace);
    let spec = json!({"target": {"repository": target, "tags": ["1.0", "latest"]}, "platforms": platforms});
    world.apply("web", spec).await;
    counts.until_held().await;
    operator.terminate();
    operator.until_log("stopping").await;
    counts.release();
    assert!(operator.ended().await.success(), "{}", operator.log());
    let image = world.api::<MultiArchImage>().get("web").await.expect("the image");
    assert!(has_condition(&image, "Ready", "True"), "{image:#?}\n{}", operator.log());
    for tag in ["1.0", "latest"] {
        assert!(Push::to(&target).read(tag).await.is_some(), "{tag}");
    }
}

#[tokio::test]
async fn an_operator_of_one_namespace_needs_roles_only_and_builds_without_seeing_nodes() {
    let world = World::new().await;
    let rules = json!([
        {"apiGroups": ["multiarch.dev"], "resources": ["multiarchimages"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["multiarch.dev"], "resources": ["multiarchimages/status"], "verbs": ["patch"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ]);
    let role = json!({"metadata": {"name": "operator"}, "rules": rules});
    let role: Role = serde_json::from_value(role).expect("a Role");
    world.api::<Role>().create(&PostParams::default(), &role).await.expect("a Role");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": world.namespace}],
    }))
    .expect("a RoleBinding");
    world.api::<RoleBinding>().create(&PostParams::default(), &binding).await.expect("a RoleBinding");
    let path = kubeconfig_of(&world, "operator").await;
    let operator = Start::new(&world).elected().kubeconfig(&path).run();

    let mut platforms = source(&world).await;
    let has_nodes = world.rig.has_nodes(
        "the build in an_operator_of_one_namespace_needs_roles_only_and_builds_without_seeing_nodes",
    );
    if has_nodes {
        platforms.as_array_mut().expect("a list").push(json!({"platform": "linux/arm64"}));
    }
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]}, "platforms": platforms,
        "build": {"context": {"inline": {"dockerfile": format!("FROM {}\nRUN true", world.rig.images["busybox"])}}},
    });
    world.apply("web", spec).await;
    world.until_ready("web").await;
    assert!(operator.log().contains("nodes may not be seen"), "{}", operator.log());
    assert_eq!(refused(&world, "operator"), Vec::<String>::new());
}
