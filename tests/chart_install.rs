//! The operator in a pod, as the Helm chart installs it on real nodes: from the first image to the end.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::net::SocketAddr;

use certificates::Authority;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt as _};
use multiarch::api::{MultiArchImage, Phase};
use serde_json::json;
use support::builds::{inline, jobs, jobs_ever_created, open_gate, secret, until_gate_opens};
use support::chart::NAME;
use support::examples::kubectl_ok;
use support::nodes::needs_nodes;
use support::release::{Release, values};
use support::{World, is_ready, operator_image, root, tools};

/// The first sample, with nothing changed but its repository.
fn sample(world: &World) -> String {
    let text = std::fs::read_to_string(root().join("config/samples/hello.yaml")).expect("the sample");
    text.replace("registry.example.com/team-a/hello", &world.repository("hello"))
}

/// What the sample is built on, where Docker Hub is looked for; and credentials, which the rig's registry asks nobody for.
fn prepare(world: &World) {
    let hub = format!("{}/library/busybox:stable", world.repository("hub"));
    tools::crane(&["copy", "--insecure", &world.rig.images["busybox"], &hub]);
    let create = ["create", "secret", "docker-registry", "regcred", "--namespace", &world.namespace];
    let server = format!("--docker-server={}", world.rig.registry);
    let login = [server.as_str(), "--docker-username=any", "--docker-password=any"];
    kubectl_ok(world, &[create.as_slice(), &login].concat(), "");
}

fn apply(world: &World, yaml: &str) {
    kubectl_ok(world, &["apply", "--server-side", "--namespace", &world.namespace, "-f", "-"], yaml);
}

async fn image(world: &World, name: &str) -> MultiArchImage {
    world.api::<MultiArchImage>().get(name).await.expect("the image")
}

#[tokio::test]
async fn from_helm_install_to_helm_uninstall_no_image_and_no_running_build_is_lost() {
    needs_nodes!("from_helm_install_to_helm_uninstall_no_image_and_no_running_build_is_lost");
    let world = World::new().await;
    prepare(&world);
    let mut values = values(&world, &operator_image::push(&world), "amd64");
    // Other tests' namespaces are not its business.
    values["extraArgs"] = json!([format!("--namespace={}", world.namespace)]);
    let release = Release { namespace: format!("{}-system", world.namespace), world: &world, user: None };
    // The tests before have made the definition; on a new cluster there is none.
    let said = release.apply(&values, &["--create-namespace", "--take-ownership", "--force-conflicts"]);
    assert!(said.contains("A first image"), "{said}");

    apply(&world, &sample(&world));
    let published = world.until_ready("hello").await;
    assert_eq!(published.status.expect("a status").ready_platforms.as_deref(), Some("2/2"));
    let tested = release.ok(&["test", NAME, "--logs", "--timeout", "2m"]);
    assert!(tested.contains("linux/arm64"), "it tells what the cluster can build: {tested}");

    let gate = until_gate_opens(&world);
    world.apply("slow", inline(&world, "slow", &["linux/amd64"], &gate)).await;
    world.until_platform("slow", "linux/amd64", Phase::Building, "Building").await;
    let (before, operator) = (jobs(&world).await, release.operator().await.name_any());
    // What the log tells is another matter than what the operator does: its pod stays.
    values["logging"]["filter"] = json!("info");
    release.apply(&values, &[]);
    assert_eq!(release.operator().await.name_any(), operator);
    values["builds"] = json!({"maxRunning": 7});
    release.apply(&values, &[]);
    let upgraded = release.operator().await;
    assert_ne!(upgraded.name_any(), operator, "settings come with a new pod");
    let uids = |jobs: &[k8s_openapi::api::batch::v1::Job]| {
        jobs.iter().filter_map(|job| job.uid()).collect::<Vec<_>>()
    };
    assert_eq!(uids(&before), uids(&jobs(&world).await), "every Job is still there");
    open_gate(&world).await;
    world.until_ready("slow").await;
    assert_eq!(jobs_ever_created(&world), 3, "nothing was built twice");
    let restarts = upgraded.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    assert_eq!(restarts.map(|container| container.restart_count).sum::<i32>(), 0);
    assert_eq!(release.refused(), Vec::<String>::new(), "its permissions are enough");

    let uid = image(&world, "hello").await.uid();
    release.ok(&["uninstall", NAME, "--wait", "--timeout", "2m"]);
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &release.namespace);
    assert!(deployments.get_opt(NAME).await.expect("an answer").is_none());
    assert_eq!(image(&world, "hello").await.uid(), uid, "images stay, and so does their definition");
    release.apply(&values, &[]);
    world.apply("again", inline(&world, "again", &["linux/amd64"], "RUN true")).await;
    world.until_ready("again").await;
    assert!(is_ready(&image(&world, "hello").await));
    assert_eq!(image(&world, "hello").await.uid(), uid);
}

/// Somebody who administers one namespace, and may work with images there.
fn tenant(world: &World) -> String {
    let user = format!("tenant-of-{}", world.namespace);
    let subjects = json!([{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]);
    let everything = json!(["get", "list", "watch", "create", "update", "patch", "delete"]);
    let role_of =
        |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let metadata = |name: &str| json!({"name": name, "namespace": world.namespace});
    let api = "rbac.authorization.k8s.io/v1";
    let objects = [
        json!({"apiVersion": api, "kind": "Role", "metadata": metadata("tenant"), "rules": [
            {"apiGroups": ["multiarch.dev"], "resources": ["multiarchimages", "multiarchimages/status"], "verbs": everything},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ]}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": metadata("tenant"), "subjects": subjects, "roleRef": role_of("Role", "tenant")}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": metadata("admin"), "subjects": subjects, "roleRef": role_of("ClusterRole", "admin")}),
    ];
    objects.iter().for_each(|object| apply(world, &object.to_string()));
    user
}

#[tokio::test]
async fn who_administers_one_namespace_installs_an_operator_for_it_that_needs_no_right_elsewhere() {
    needs_nodes!("who_administers_one_namespace_installs_an_operator_for_it_that_needs_no_right_elsewhere");
    let world = World::new().await;
    prepare(&world);
    let mut values = values(&world, &operator_image::push(&world), "amd64");
    values["watchNamespace"] = json!(world.namespace);
    values["crds"] = json!({"enabled": false});
    let user = tenant(&world);
    let release = Release { namespace: world.namespace.clone(), world: &world, user: Some(&user) };
    release.apply(&values, &[]);
    apply(&world, &sample(&world));
    world.until_ready("hello").await;
    let tested = release.ok(&["test", NAME, "--logs", "--timeout", "2m"]);
    assert!(tested.contains("hello"), "it tells how the images stand: {tested}");
    let refused = release.refused();
    assert!(refused.iter().all(|call| call.contains("/api/v1/nodes")), "{refused:?}");
}

#[tokio::test]
async fn metrics_are_read_over_tls_by_whom_the_cluster_lets_and_by_nobody_else() {
    needs_nodes!("metrics_are_read_over_tls_by_whom_the_cluster_lets_and_by_nobody_else");
    let world = World::new().await;
    let authority = Authority::new();
    let certificate = authority.server("operator.test");
    secret(&world, "metrics-tls", &[("tls.crt", &certificate.certificate), ("tls.key", &certificate.key)])
        .await;
    let mut values = values(&world, &operator_image::push(&world), "amd64");
    // Names of its own, as there is another release of the whole cluster, and a namespace to look after.
    values["fullnameOverride"] = json!(world.namespace);
    values["extraArgs"] = json!([format!("--namespace={}", world.namespace)]);
    values["crds"] = json!({"enabled": false});
    values["metrics"] = json!({
        "authorization": "Kubernetes", "tls": {"secretName": "metrics-tls"},
        "readers": [{"name": "reader", "namespace": world.namespace}],
    });
    let release = Release { namespace: world.namespace.clone(), world: &world, user: None };
    // It waits for probes, which speak TLS then.
    release.apply(&values, &[]);
    let address = release.operator().await.status.and_then(|status| status.pod_ip).expect("its address");
    let address = SocketAddr::new(address.parse().expect("an address"), 8080);
    let trusted = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([trusted]).resolve("operator.test", address);
    let client = client.build().expect("a client");
    let token = |name: &str| {
        kubectl_ok(&world, &["create", "serviceaccount", name, "--namespace", &world.namespace], "");
        kubectl_ok(&world, &["create", "token", name, "--namespace", &world.namespace], "").trim().to_owned()
    };
    let metrics = || client.get("https://operator.test:8080/metrics");
    assert_eq!(metrics().send().await.expect("an answer").status(), 401, "without a token");
    assert_eq!(metrics().bearer_auth(token("stranger")).send().await.expect("an answer").status(), 403);
    let answer = metrics().bearer_auth(token("reader")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.expect("text").contains("multiarch_build_info"));
}
