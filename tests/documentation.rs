//! What the documentation says is tried: every YAML is accepted, and the permissions it names are enough.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/markdown.rs"]
mod markdown;
mod support;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use kube::runtime::wait::await_condition;
use kube::{Api, CustomResourceExt as _};
use multiarch::api::{LABEL_VERIFICATION, MultiArchImage};
use multiarch::build::BuilderSettings;
use multiarch::policy::Policies;
use multiarch::registry::RegistrySettings;
use serde_json::{Value, json};
use support::accounts::{kubeconfig_of, verbs};
use support::builds::until_gone;
use support::examples::yaml_blocks;
use support::images::Push;
use support::operator::Start;
use support::{PATIENCE, World, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn of_kind(kind: &str, documents: Vec<Value>) -> Vec<Value> {
    documents.into_iter().filter(|document| document["kind"] == kind).collect()
}

/// The YAML of every page, with the page's path.
fn examples() -> Vec<(String, Value)> {
    let mut found = vec![];
    for page in markdown::pages() {
        for block in page.blocks_of("yaml") {
            let documents: Vec<Value> = serde_saphyr::from_multiple(block)
                .unwrap_or_else(|error| panic!("{}: {error} in\n{block}", page.path));
            found.extend(documents.into_iter().map(|document| (page.path.clone(), document)));
        }
    }
    found
}

/// The samples that users start from, with their paths.
fn samples() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(root().join("config/samples")).expect("the samples");
    let paths = files.map(|file| file.expect("a sample").path());
    let sample = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a sample");
        let path = path.display().to_string();
        serde_saphyr::from_str(&text)
            .map(|sample| (path.clone(), sample))
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let is_sample = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|ending| ending == "yaml") && !path.ends_with("kustomization.yaml")
    };
    paths.filter(is_sample).map(sample).collect()
}

/// The fields of `spec`.
fn fields_of_spec() -> Vec<String> {
    let definition = MultiArchImage::crd();
    let schema =
        definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let spec = schema.and_then(|schema| schema.properties.as_ref()?.get("spec")?.properties.clone());
    spec.expect("the schema of spec").into_keys().collect()
}

/// A piece of a spec within a spec that is whole.
fn spec_around(piece: &Value) -> Value {
    let mut spec = json!({
        "target": {"repository": "registry.example.com/team-a/web", "tags": ["1.4.2"]},
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
    });
    for (field, value) in piece.as_object().into_iter().flatten() {
        match (spec.get_mut(field).and_then(Value::as_object_mut), value.as_object()) {
            (Some(given), Some(value)) => given.extend(value.clone()),
            _ => spec[field] = value.clone(),
        }
    }
    spec
}

/// Kinds that pages show and that only others bring along; no API server of ours knows them. All others it must know.
const FOREIGN: [(&str, &str); 7] = [
    ("argoproj.io/v1alpha1", "Application"),
    ("external-secrets.io/v1", "ExternalSecret"),
    ("generators.external-secrets.io/v1alpha1", "ECRAuthorizationToken"),
    ("generators.external-secrets.io/v1alpha1", "GCRAccessToken"),
    ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
    ("kustomize.toolkit.fluxcd.io/v1", "Kustomization"),
    ("shipwright.io/v1beta1", "Build"),
];

fn is_foreign(object: &Value) -> bool {
    FOREIGN.iter().any(|(version, kind)| object["apiVersion"] == *version && object["kind"] == *kind)
}

/// Tries an object out on the API server, in a namespace of the test's own; whether the server knows such objects.
async fn try_out(world: &World, known: &Discovery, object: &Value) -> Result<bool, kube::Error> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let Some((resource, capabilities)) = known.resolve_gvk(&kind) else { return Ok(false) };
    let mut object = object.clone();
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(world.client.clone(), &resource),
        Scope::Namespaced => {
            object["metadata"]["namespace"] = json!(world.namespace);
            Api::namespaced_with(world.client.clone(), &world.namespace, &resource)
        }
    };
    let parameters = PatchParams { dry_run: true, ..PatchParams::apply("test").force() };
    api.patch(&name, &parameters, &Patch::Apply(&object)).await.map(|_| true)
}

#[tokio::test]
async fn every_yaml_of_every_page_and_every_sample_is_accepted_by_the_api_server() {
    let world = World::new().await;
    let known = Discovery::new(world.client.clone()).run().await.expect("what the API server knows");
    let fields = fields_of_spec();
    let (mut wrong, mut images, mut pieces, mut others) = (vec![], 0, 0, 0);
    for (path, document) in examples().into_iter().chain(samples()) {
        let keys: Vec<&String> =
            document.as_object().into_iter().flat_map(|document| document.keys()).collect();
        let answer = if document["kind"].is_string() {
            images += usize::from(document["kind"] == "MultiArchImage");
            let answer = try_out(&world, &known, &document).await;
            others += usize::from(document["kind"] != "MultiArchImage" && matches!(answer, Ok(true)));
            if matches!(answer, Ok(false)) && !is_foreign(&document) {
                wrong.push(format!("{path}: nobody knows this kind\n{document:#}"));
            }
            answer.map(|_| ())
        } else if !keys.is_empty() && keys.iter().all(|key| fields.contains(key)) {
            pieces += 1;
            world.dry_run(spec_around(&document)).await.map(|_| ())
        } else {
            Ok(())
        };
        wrong.extend(answer.err().map(|error| format!("{path}: {error}\n{document:#}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is not found is not tried.
    assert!(
        images > 30 && pieces > 5 && others > 5,
        "{images} images, {pieces} pieces of one, {others} others"
    );
}

#[test]
fn every_file_of_settings_on_the_pages_is_read_by_the_operator() {
    let mut read = [0; 3];
    let folder = tempfile::tempdir().expect("a folder");
    for (path, document) in examples() {
        let keys: Vec<&str> =
            document.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let file = folder.path().join("settings.yaml");
        std::fs::write(&file, document.to_string()).expect("a file");
        let (which, error) = match keys.as_slice() {
            ["registries"] => (0, RegistrySettings::read_file(&file).err().map(|error| error.to_string())),
            [key, ..] if ["profile", "sbomScanner", "maxRunning", "namespaces"].contains(key) => {
                (1, BuilderSettings::read_file(&file).err().map(|error| error.to_string()))
            }
            keys if keys.contains(&"publish") && !keys.contains(&"kind") => {
                (2, Policies::read_file(&file).err().map(|error| error.to_string()))
            }
            _ => continue,
        };
        assert!(error.is_none(), "{path}: {error:?}\n{document:#}");
        read[which] += 1;
    }
    assert!(read.iter().all(|count| *count > 0), "{read:?}");
}

#[tokio::test]
async fn the_permissions_that_the_readme_names_are_all_that_the_operator_needs() {
    let world = World::new().await;
    let named =
        of_kind("ClusterRole", yaml_blocks(&read("README.md"))).pop().expect("a ClusterRole in the README");
    let mut role: ClusterRole = serde_json::from_value(named).expect("a ClusterRole");
    role.metadata.name = Some(world.namespace.clone());
    let roles: Api<ClusterRole> = Api::all(world.client.clone());
    roles.create(&PostParams::default(), &role).await.expect("a ClusterRole");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": world.namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": world.namespace}],
    }))
    .expect("a binding");
    let bindings: Api<ClusterRoleBinding> = Api::all(world.client.clone());
    bindings.create(&PostParams::default(), &binding).await.expect("a ClusterRoleBinding");
    let path = kubeconfig_of(&world, "operator").await;
    let operator = Start::new(&world).kubeconfig(&path).run();

    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let mut platforms = vec![json!({"platform": "linux/s390x", "image": format!("{from}:v1")})];
    if world
        .rig
        .has_nodes("the build in the_permissions_that_the_readme_names_are_all_that_the_operator_needs")
    {
        platforms.push(json!({"platform": "linux/amd64"}));
    }
    let dockerfile = format!("FROM {}\nRUN true\n", world.rig.images["busybox"]);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": platforms,
        "build": {"context": {"inline": {"dockerfile": dockerfile}}},
        "deletionPolicy": "Delete",
    });
    world.apply("web", spec).await;
    world.until_ready("web").await;
    if world.rig.has_nodes("the run in the_permissions_that_the_readme_names_are_all_that_the_operator_needs")
    {
        let verifying = ListParams::default().labels(LABEL_VERIFICATION);
        world.apply("checked", spec_of_checked(&world)).await;
        world.until_ready("checked").await;
        let nothing_is_left = async {
            while !world.api::<Pod>().list(&verifying).await.expect("pods").items.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, nothing_is_left).await.expect("its pod goes");
    }
    let mut cached = spec_of_cached(&world);
    cached["build"]["cache"] = json!({"type": "Volume", "volume": {"size": "1Gi"}});
    world.apply("cached", cached).await;
    let claims = world.api::<PersistentVolumeClaim>();
    let claimed =
        await_condition(claims, "cached-buildcache-linux-amd64", |claim: Option<&_>| claim.is_some());
    tokio::time::timeout(PATIENCE, claimed).await.expect("in time").expect("the volume of a cache");
    let images = world.api::<MultiArchImage>();
    images.delete("web", &DeleteParams::default()).await.expect("it can be deleted");
    until_gone(images, "web").await;
    assert!(!operator.log().contains("forbidden"), "{}", operator.log());
    let mut asked_of_secrets = verbs(&world, "operator", "secrets");
    asked_of_secrets.retain(|verb| !matches!(verb.as_str(), "get" | "create" | "patch"));
    assert!(asked_of_secrets.is_empty(), "Secrets are read one by one: {asked_of_secrets:?}");
    assert!(verbs(&world, "operator", "pods").contains("watch"), "what is asked is noted");
    roles.delete(&world.namespace, &DeleteParams::default()).await.expect("it can be deleted");
    bindings.delete(&world.namespace, &DeleteParams::default()).await.expect("it can be deleted");
}

fn spec_of_checked(world: &World) -> Value {
    json!({
        "target": {"repository": world.repository("checked"), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/amd64", "image": world.rig.images["busybox"]}],
        "verify": {"run": {"command": ["true"]}},
    })
}

fn spec_of_cached(world: &World) -> Value {
    json!({
        "target": {"repository": world.repository("cached"), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/amd64"}],
        "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
    })
}
