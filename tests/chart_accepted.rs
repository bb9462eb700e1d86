//! What the Helm chart and the kustomizations render, held against a real API server and its schemas.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::chart::{CASES, NAME, case, object, objects, try_render};
use support::examples::{kubectl, kubectl_ok};
use support::{World, devcluster, json_schemas, root, tools, until_established};

/// Prometheus Operator's own definitions.
async fn install_monitors(world: &World) {
    let module = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
    let downloaded = tools::run("go".as_ref(), &["mod", "download", "-json", module]);
    let downloaded: Value = serde_json::from_str(&downloaded).expect("JSON");
    let folder = downloaded["Dir"].as_str().expect("a folder");
    for kind in ["servicemonitors", "prometheusrules"] {
        let file = format!("{folder}/example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml");
        kubectl_ok(world, &["apply", "--server-side", "--field-manager=test", "-f", &file], "");
        until_established(&world.client, &format!("{kind}.monitoring.coreos.com")).await;
    }
}

/// What the API server would make of it; nothing is stored.
fn try_out(world: &World, yaml: &str) -> Output {
    let arguments =
        ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"];
    kubectl(world, &arguments, yaml)
}

/// Pods are not accepted, not even for a try, without their service account.
fn account(world: &World, name: &str) {
    kubectl_ok(world, &["create", "serviceaccount", name, "--namespace", &world.namespace], "");
}

/// A case with the namespace of the test in the place of the reader's.
fn rendered(world: &World, name: &str) -> String {
    let values = case(name).replace("team-a", &world.namespace);
    try_render(NAME, &world.namespace, &values).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[tokio::test]
async fn whatever_the_chart_renders_the_api_server_accepts_in_strict_mode() {
    let world = World::new().await;
    install_monitors(&world).await;
    for name in [NAME, "builder"] {
        account(&world, name);
    }
    for (name, _) in CASES {
        let answer = try_out(&world, &rendered(&world, name));
        let said = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{name}: {said}");
        assert!(!said.contains("Warning: "), "{name}: {said}");
    }
    let typo =
        rendered(&world, "no-crd").replace("terminationGracePeriodSeconds:", "terminationGracePeriod:");
    assert!(!try_out(&world, &typo).status.success(), "what is wrong is refused");
}

#[tokio::test]
async fn what_kustomize_makes_is_accepted_too() {
    let world = World::new().await;
    install_monitors(&world).await;
    for folder in ["default", "namespaced", "prometheus", "argocd", "samples", "admission"] {
        let folder = root().join("config").join(folder);
        let built = kubectl_ok(&world, &["kustomize", &folder.to_string_lossy()], "");
        let here = ["multiarch-system", "team-a", "argocd"];
        let built = here.iter().fold(built, |text, namespace| {
            text.replace(&format!("namespace: {namespace}\n"), &format!("namespace: {}\n", world.namespace))
        });
        let answer = try_out(&world, &built);
        assert!(answer.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&answer.stderr));
    }
}

/// The verdict of kubeconform, which knows nothing but these schemas.
fn kubeconform(schemas: &str, yaml: &str) -> Output {
    let program = devcluster::run(&["tool", "kubeconform"]);
    let mut child = Command::new(program.trim())
        .args(["-strict", "-summary", "-schema-location", schemas])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubeconform starts");
    child.stdin.take().expect("standard input").write_all(yaml.as_bytes()).expect("it reads");
    child.wait_with_output().expect("kubeconform ends")
}

#[tokio::test]
async fn whatever_the_chart_renders_kubeconform_finds_valid() {
    let world = World::new().await;
    install_monitors(&world).await;
    let folder = tempfile::tempdir().expect("a folder");
    let schemas = json_schemas::location(folder.path());
    // The document follows a new definition after a moment.
    let complete = async {
        loop {
            let openapi = kubectl_ok(&world, &["get", "--raw", "/openapi/v2"], "");
            if openapi.contains("PrometheusRule") && openapi.contains("MultiArchImage") {
                break serde_json::from_str(&openapi).expect("JSON");
            }
        }
    };
    let openapi = tokio::time::timeout(support::PATIENCE, complete).await.expect("in time");
    json_schemas::write(&openapi, folder.path());
    for (name, _) in CASES {
        let verdict = kubeconform(&schemas, &rendered(&world, name));
        let said = String::from_utf8_lossy(&verdict.stdout);
        assert!(verdict.status.success(), "{name}: {said}");
        assert!(said.contains("Errors: 0, Skipped: 0"), "{name}: {said}");
    }
    for (right, wrong) in
        [("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: often"), ("replicas: 1", "replica: 1")]
    {
        let changed = rendered(&world, "no-crd").replace(right, wrong);
        assert!(!kubeconform(&schemas, &changed).status.success(), "{wrong} is found");
    }
}

#[tokio::test]
async fn the_operator_and_its_test_run_where_pods_must_be_restricted() {
    let world = World::new().await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let restricted = namespaces.patch(&world.namespace, &PatchParams::default(), &Patch::Merge(label)).await;
    restricted.expect("the namespace is labelled");
    let all = objects(&rendered(&world, "no-crd"));
    account(&world, NAME);
    let template = &object(&all, "Deployment", NAME)["spec"]["template"];
    let operator = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "operator", "namespace": world.namespace}, "spec": template["spec"],
    });
    let mut test = object(&all, "Pod", "multiarch-operator-test").clone();
    for pod in [&operator, &test] {
        let answer = try_out(&world, &pod.to_string());
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    }
    test["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    assert!(!try_out(&world, &test.to_string()).status.success(), "the namespace is restricted");
}
