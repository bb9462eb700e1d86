//! The GitOps repositories in `examples/`, applied as they are: the operator runs in the cluster, installed by Flux.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use multiarch::build::BuilderSettings;
use serde_json::{Value, json};
use support::examples::{files, kubectl, kubectl_ok, versions, with, write, yaml_blocks};
use support::flux::{Flux, git_repository, kustomization};
use support::git::GitRepository;
use support::nodes::needs_nodes;
use support::operator::Operator;
use support::recording::argo_cd;
use support::{Rig, World, operator_image, root, tools, until_established};

/// Where the examples' images and repositories are on the rig.
fn addresses<'a>(world: &'a World, target: &'a str, web: &'a GitRepository) -> Vec<(&'a str, &'a str)> {
    vec![
        ("registry.example.com/team-a/web", target),
        ("https://git.example.com/team-a/web.git", &web.url),
        ("team-a", &world.namespace),
    ]
}

/// The application's own repository, with the tag that the examples build.
fn application(world: &World) -> GitRepository {
    let repository = GitRepository::create(world, "web");
    let dockerfile =
        format!("FROM {}\nCMD [\"httpd\", \"-f\", \"-p\", \"8080\"]\n", world.rig.images["busybox"]);
    repository.commit("main", &[("Dockerfile", &dockerfile)]);
    repository.git(&["tag", "v1.4.2"]);
    repository.git(&["push", "--quiet", "origin", "v1.4.2"]);
    repository
}

async fn pull_secret(world: &World) {
    let config =
        json!({"auths": {world.rig.registry.as_str(): {"username": "any", "password": "any"}}}).to_string();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "regcred"}, "stringData": {".dockerconfigjson": config},
    });
    kubectl_ok(world, &["create", "--namespace", &world.namespace, "-f", "-"], &secret.to_string());
}

const GOTK_COMPONENTS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: gotk-components}\n";

#[tokio::test]
async fn the_repository_for_flux_brings_the_operator_then_the_image_then_the_application() {
    needs_nodes!("the_repository_for_flux_brings_the_operator_then_the_image_then_the_application");
    let world = World::new().await;
    let flux = Flux::start(&world);
    let web = application(&world);
    pull_secret(&world).await;
    let repository = operator_image::push(&world);
    let system = format!("{}-system", world.namespace);

    let operator = GitRepository::create(&world, "multiarch-operator");
    // Other tests' operators look at their own namespaces as well.
    let arguments = format!(
        "- --builder-image={}\n        - --namespace={}\n        - --plain-http={}",
        world.rig.builder_image,
        world.namespace,
        world.rig.plain_http()
    );
    let builder = format!("- --builder-image={}", BuilderSettings::IMAGE);
    let changes = [("multiarch-system", system.as_str()), (builder.as_str(), &arguments)];
    write(&operator.path("config/default"), &with(files("config/default"), &changes[..1]));
    write(&operator.path("config/operator"), &with(files("config/operator"), &changes));
    write(&operator.path("crds"), &files("crds"));
    operator.commit("main", &[]);

    let target = world.repository("web");
    let fleet = GitRepository::create(&world, "fleet");
    let mut changes = addresses(&world, &target, &web);
    changes.extend([
        ("https://git.example.com/platform/multiarch-operator", operator.url.as_str()),
        ("registry.example.com/platform/multiarch-operator", repository.as_str()),
        ("flux-system", &world.namespace),
    ]);
    // As `flux bootstrap` leaves it: a folder of its own, with the controllers, for which a ConfigMap stands here.
    let name = world.namespace.as_str();
    let bootstrapped = fleet.commit(
        "main",
        &[
            ("clusters/production/flux-system/gotk-components.yaml", GOTK_COMPONENTS),
            (
                "clusters/production/flux-system/kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [gotk-components.yaml]\n",
            ),
        ],
    );
    flux.source(name, &fleet).await;
    flux.kustomization(name, "./clusters/production").await;
    flux.until_applied(name, &bootstrapped).await;
    let components = versions(&world, &["configmap/gotk-components"]);

    write(&fleet.path(""), &with(files("examples/gitops/flux"), &changes));
    let commit = fleet.commit("main", &[]);
    flux.until_applied(name, &commit).await;
    assert_eq!(components, versions(&world, &["configmap/gotk-components"]), "Flux does not prune itself");
    let published = world.until_ready("web").await;
    assert_eq!(published.status.expect("a status").ready_platforms.as_deref(), Some("2/2"));
    kubectl_ok(&world, &["rollout", "status", "deployment/web", "--namespace", name, "--timeout=1s"], "");

    let deployment = format!("--namespace={system}");
    let operators = || kubectl_ok(&world, &["get", "deployment", &deployment, "-o", "yaml"], "");
    let objects =
        ["mai/web", "deployment/web", "clusterrole/multiarch-operator", "crd/multiarchimages.multiarch.dev"];
    let (before, operator_before) = (versions(&world, &objects), operators());
    flux.reconcile(&git_repository(), name, "again").await;
    for kustomization_of in [name, "multiarch-operator", "web-image", "web"] {
        flux.reconcile(&kustomization(), kustomization_of, "again").await;
    }
    assert_eq!(before, versions(&world, &objects), "applying it again writes nothing");
    assert_eq!(operator_before, operators());
}

#[tokio::test]
async fn the_repository_for_argo_cd_applied_twice_changes_nothing_and_is_healthy() {
    needs_nodes!("the_repository_for_argo_cd_applied_twice_changes_nothing_and_is_healthy");
    let world = World::new().await;
    let web = application(&world);
    pull_secret(&world).await;
    let _operator = Operator::start(&world);
    let target = world.repository("web");
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &with(files("examples/gitops/argocd/web"), &addresses(&world, &target, &web)));
    let rendered = kubectl_ok(&world, &["kustomize", &folder.path().to_string_lossy()], "");
    // As with the option ServerSideApply=true.
    let apply = ["apply", "--server-side", "--field-manager=argocd-controller", "-f", "-"];
    kubectl_ok(&world, &apply, &rendered);
    world.until_ready("web").await;
    kubectl_ok(&world, &["rollout", "status", "deployment/web", "--namespace", &world.namespace], "");

    let objects = ["mai/web", "deployment/web"];
    let before = versions(&world, &objects);
    // As with ServerSideDiff=true: what the API server would make of it.
    let diff = kubectl(
        &world,
        &["diff", "--server-side", "--field-manager=argocd-controller", "-f", "-"],
        &rendered,
    );
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    kubectl_ok(&world, &apply, &rendered);
    assert_eq!(before, versions(&world, &objects), "applying it again writes nothing");
    let image = kubectl_ok(&world, &["get", "mai/web", "--namespace", &world.namespace, "-o", "json"], "");
    assert_eq!(argo_cd(&[serde_json::from_str(&image).expect("JSON")]), ["Healthy"]);
}

/// Argo CD's own definition of an Application.
async fn install_applications(world: &World) {
    let module = "github.com/argoproj/argo-cd/v3@v3.2.1";
    let downloaded = tools::run("go".as_ref(), &["mod", "download", "-json", module]);
    let downloaded: Value = serde_json::from_str(&downloaded).expect("JSON");
    let file =
        format!("{}/manifests/crds/application-crd.yaml", downloaded["Dir"].as_str().expect("a folder"));
    kubectl_ok(world, &["apply", "--server-side", "--field-manager=test", "-f", &file], "");
    until_established(&world.client, "applications.argoproj.io").await;
}

/// What the API server says to a document, in the test's namespace.
fn try_out(world: &World, document: &Value) -> Output {
    let mut document = document.clone();
    if document["metadata"]["namespace"].is_string() {
        document["metadata"]["namespace"] = json!(world.namespace);
    }
    let arguments = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--namespace",
        &world.namespace,
        "-f",
        "-",
    ];
    kubectl(world, &arguments, &document.to_string())
}

#[tokio::test]
async fn everything_for_flux_and_argo_cd_on_the_pages_and_in_the_examples_is_accepted_by_the_api_server() {
    let world = World::new().await;
    let _flux = Flux::start(&world);
    install_applications(&world).await;
    let mut documents = vec![];
    for page in ["docs/flux.md", "docs/argocd.md"] {
        let text = std::fs::read_to_string(root().join(page)).expect("the page");
        documents.extend(yaml_blocks(&text).into_iter().map(|document| (page.to_owned(), document)));
    }
    for folder in
        ["examples/gitops", "config/argocd", "config/default", "config/operator", "config/namespaced"]
    {
        for (path, text) in files(folder) {
            if path.ends_with(".yaml") && !path.ends_with("kustomization.yaml") {
                let parsed: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
                documents.extend(parsed.into_iter().map(|document| (format!("{folder}/{path}"), document)));
            }
        }
    }
    let kinds: BTreeSet<&str> =
        documents.iter().filter_map(|(_, document)| document["kind"].as_str()).collect();
    let wanted = ["Application", "ConfigMap", "GitRepository", "Kustomization", "MultiArchImage"];
    assert!(wanted.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    for (from, document) in &documents {
        let answer = try_out(&world, document);
        assert!(answer.status.success(), "{from}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    let unknown = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "x"}, "spec": {"sources": 1}});
    assert!(!try_out(&world, &unknown).status.success(), "what is wrong is refused");
}

#[test]
fn every_kustomization_of_the_examples_builds() {
    let kubectl = &Rig::get().kubectl;
    for folder in ["examples/gitops", "config", "crds"] {
        for (path, _) in files(folder) {
            let below =
                ["kustomization.yaml", "Kustomization"].iter().find_map(|name| path.strip_suffix(name));
            let Some(below) = below else { continue };
            let folder = root().join(folder).join(below);
            let built = tools::run(kubectl, &["kustomize", &folder.to_string_lossy()]);
            assert!(built.contains("kind: "), "{}", folder.display());
        }
    }
}

#[tokio::test]
async fn the_folder_of_the_crd_can_be_applied_as_files_and_by_kustomize() {
    let world = World::new().await;
    let folder = root().join("crds");
    for how in ["-f", "-k"] {
        let arguments = ["apply", "--server-side", "--dry-run=server", "--force-conflicts", how];
        let said = kubectl_ok(&world, &[&arguments[..], &[&folder.to_string_lossy()]].concat(), "");
        assert!(said.contains("multiarchimages.multiarch.dev"), "{how}: {said}");
    }
}

#[test]
fn the_settings_for_argo_cd_carry_the_script_as_it_is() {
    let read = |path: &str| std::fs::read_to_string(root().join("config/argocd").join(path)).expect("a file");
    let settings: Value = serde_saphyr::from_str(&read("argocd-cm.yaml")).expect("YAML");
    assert_eq!(
        settings["data"]["resource.customizations.health.multiarch.dev_MultiArchImage"],
        read("health.lua").as_str()
    );
}

#[test]
fn the_permissions_that_are_installed_are_those_of_the_readme() {
    let role = |documents: Vec<Value>| {
        documents.into_iter().find(|document| document["kind"] == "ClusterRole").expect("a ClusterRole")
    };
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let installed = std::fs::read_to_string(root().join("config/default/rbac.yaml")).expect("the file");
    let installed: Vec<Value> = serde_saphyr::from_multiple(&installed).expect("YAML");
    assert_eq!(role(installed), role(yaml_blocks(&readme)));
}

#[test]
fn the_applications_come_in_order_and_from_folders_that_are_there() {
    let wave = |document: &Value| {
        let wave = document["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"].as_str();
        wave.and_then(|wave| wave.parse::<i32>().ok()).unwrap_or_default()
    };
    let all: BTreeMap<String, Value> = files("examples/gitops/argocd")
        .into_iter()
        .map(|(path, text)| (path, serde_saphyr::from_str(&text).expect("YAML")))
        .collect();
    assert!(wave(&all["applications/multiarch-operator.yaml"]) < wave(&all["applications/web.yaml"]));
    assert!(wave(&all["web/namespace.yaml"]) < wave(&all["web/image.yaml"]));
    assert!(wave(&all["web/image.yaml"]) < wave(&all["web/deployment.yaml"]));
    for (path, document) in all.iter().filter(|(_, document)| document["kind"] == "Application") {
        let folder = document["spec"]["source"]["path"].as_str().expect("a path");
        let here = root().join("examples/gitops/argocd").join(folder);
        assert!(here.is_dir() || root().join(folder).is_dir(), "{path}: {folder}");
    }
}
