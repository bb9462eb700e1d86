//! What the documentation says is tried: every YAML is accepted, and the permissions it names are enough.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use multiarch::api::MultiArchImage;
use serde_json::{Value, json};
use support::images::Push;
use support::operator::Start;
use support::{World, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The YAML blocks of a Markdown file.
fn yaml_blocks(markdown: &str) -> Vec<Value> {
    let fenced = markdown.split("```yaml\n").skip(1);
    fenced
        .filter_map(|rest| rest.split("```").next())
        .map(|block| serde_saphyr::from_str(block).unwrap_or_else(|error| panic!("{error} in\n{block}")))
        .collect()
}

fn of_kind(kind: &str, documents: Vec<Value>) -> Vec<Value> {
    documents.into_iter().filter(|document| document["kind"] == kind).collect()
}

#[tokio::test]
async fn every_sample_and_the_readme_are_accepted_by_the_api_server() {
    let world = World::new().await;
    let mut images = of_kind("MultiArchImage", yaml_blocks(&read("README.md")));
    for file in std::fs::read_dir(root().join("config/samples")).expect("the samples") {
        let file = file.expect("a sample").path();
        let text = std::fs::read_to_string(&file).expect("a sample");
        images.push(
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
        );
    }
    assert!(images.len() > 3, "only {} were found", images.len());
    let parameters = PatchParams { dry_run: true, ..PatchParams::apply("test").force() };
    for mut image in images {
        let name = image["metadata"]["name"].as_str().expect("a name").to_owned();
        image["metadata"] = json!({"name": name});
        let applied = world.api::<MultiArchImage>().patch(&name, &parameters, &Patch::Apply(&image)).await;
        applied.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
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
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("operator".to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let accounts = world.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &account).await.expect("a ServiceAccount");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": world.namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": world.namespace}],
    }))
    .expect("a binding");
    let bindings: Api<ClusterRoleBinding> = Api::all(world.client.clone());
    bindings.create(&PostParams::default(), &binding).await.expect("a ClusterRoleBinding");
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token =
        accounts.create_token_request("operator", &PostParams::default(), &request).await.expect("a token");

    let mut kubeconfig: Value =
        serde_saphyr::from_str(&read_file(&world.rig.kubeconfig)).expect("a kubeconfig");
    kubeconfig["users"][0]["user"] = json!({"token": token.status.expect("a token").token});
    let path = root().join("target/test-logs").join(format!("kubeconfig-{}", world.namespace));
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig");
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
    });
    world.apply("web", spec).await;
    world.until_ready("web").await;
    world.api::<MultiArchImage>().delete("web", &DeleteParams::default()).await.expect("it can be deleted");
    assert!(!operator.log().contains("forbidden"), "{}", operator.log());
    roles.delete(&world.namespace, &DeleteParams::default()).await.expect("it can be deleted");
    bindings.delete(&world.namespace, &DeleteParams::default()).await.expect("it can be deleted");
}

fn read_file(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
