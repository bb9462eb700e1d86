//! `multiarch index apply`, as people type it.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/layouts.rs"]
mod layouts;
#[path = "support/program.rs"]
mod program;
#[path = "support/registry.rs"]
mod support;

use std::path::Path;

use layouts::{children_of, push_real_image, raw, temporary};
use program::Multiarch;
use serde_json::{Value, json};
use support::{PASSWORD, Registry, USER};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn index(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn a_sample_of_sources_alone_is_published_without_a_cluster() {
    let registry = Registry::anonymous();
    let mut images = Vec::new();
    for (tag, platform) in
        [("1.4.2-amd64", "linux/amd64"), ("1.4.2-arm64", "linux/arm64"), ("arm", "linux/arm")]
    {
        images.push(push_real_image(&registry, "team-a/proxy", tag, platform).await.digest.to_string());
    }
    let sample = std::fs::read_to_string(root().join("config/samples/sources.yaml")).unwrap();
    let placeholder =
        "ghcr.io/acme/proxy@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    assert!(sample.contains(placeholder));
    let sample = sample
        .replace(placeholder, &format!("{}/team-a/proxy@{}", registry.host, images[2]))
        .replace("registry.example.com", &registry.host);

    let command = Multiarch::new(&registry);
    let planned = command.with_input(&sample).run(&["index", "apply", "--dry-run", "-o", "json", "-f", "-"]);
    assert_eq!(planned.code, 0, "{}", planned.errors);
    let tags = registry.session().head_manifest(&layouts::reference(&registry, "team-a/proxy:latest")).await;
    assert_eq!(tags.unwrap(), None, "nothing was written");

    let applied = command.with_input(&sample).run(&["index", "apply", "-f", "-"]);
    assert_eq!(applied.code, 0, "{}", applied.errors);
    assert!(applied.errors.contains("registrySecrets are those of a cluster"), "{}", applied.errors);
    for tag in ["1.4.2", "1.4", "latest"] {
        assert_eq!(raw(&registry, "team-a/proxy", tag).await, planned.output.as_bytes(), "{tag}");
        assert!(
            applied.output.contains(&format!("{}/team-a/proxy:{tag}@sha256:", registry.host)),
            "{}",
            applied.output
        );
    }
    assert_eq!(children_of(planned.output.as_bytes()), images);
    let platforms: Vec<Value> = index(planned.output.as_bytes())["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"].clone())
        .collect();
    assert_eq!(platforms[2], json!({"os": "linux", "architecture": "arm", "variant": "v7"}));

    let again = command.with_input(&sample).run(&["index", "apply", "-f", "-"]);
    assert!(again.code == 0 && again.errors.contains("unchanged "), "{}", again.errors);
}

#[tokio::test]
async fn a_sample_with_builds_is_told_to_need_the_operator() {
    let registry = Registry::anonymous();
    let command = Multiarch::new(&registry);
    let mut built = 0;
    for file in std::fs::read_dir(root().join("config/samples")).unwrap() {
        let file = file.unwrap().path();
        if !std::fs::read_to_string(&file).unwrap().contains("\n  build:") {
            continue;
        }
        built += 1;
        let refused = command.run(&["index", "apply", "-f", file.to_str().unwrap()]);
        assert_eq!(refused.code, 2, "{}", refused.errors);
        let reason =
            "spec.platforms[0]: linux/amd64 has no image and would be built, which only the operator";
        assert!(refused.errors.contains(reason), "{}", refused.errors);
    }
    assert!(built > 1, "no sample has a build");
}

#[tokio::test]
async fn the_example_of_manifest_tool_is_published() {
    let registry = Registry::anonymous();
    for architecture in ["arm64", "amd64"] {
        push_real_image(&registry, "someimage", architecture, &format!("linux/{architecture}")).await;
    }
    let example = "\
image: myprivreg:5000/someimage:latest
tags: [\"1.0.0\", \"1.0\", \"1\"]
manifests:
  -
    image: myprivreg:5000/someimage:arm64
    platform:
      architecture: arm64
      os: linux
  -
    image: myprivreg:5000/someimage:amd64
    platform:
      architecture: amd64
      os: linux
"
    .replace("myprivreg:5000", &registry.host);
    let folder = temporary();
    let file = folder.path().join("someimage.yaml");
    std::fs::write(&file, example).unwrap();
    let applied = Multiarch::new(&registry).run(&["index", "apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{}", applied.errors);
    let bytes = raw(&registry, "someimage", "latest").await;
    let architectures: Vec<Value> = index(&bytes)["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"]["architecture"].clone())
        .collect();
    assert_eq!(architectures, ["arm64", "amd64"]);
    for tag in ["1.0.0", "1.0", "1"] {
        assert_eq!(raw(&registry, "someimage", tag).await, bytes);
    }
}

#[tokio::test]
async fn nothing_is_published_where_one_of_several_documents_is_wrong() {
    let registry = Registry::anonymous();
    push_real_image(&registry, "web", "amd64", "linux/amd64").await;
    let good = format!("image: {0}/web:1\nmanifests: [{{image: '{0}/web:amd64'}}]\n", registry.host);
    let command = Multiarch::new(&registry);
    let both = format!("{good}---\nimage: {}/web:2\nmanifest: []\n", registry.host);
    let refused = command.with_input(&both).run(&["index", "apply", "-f", "-"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused
            .errors
            .contains("standard input:\n  document 2: manifest: unknown field; did you mean manifests?"),
        "{}",
        refused.errors
    );
    let web = layouts::reference(&registry, "web:1");
    assert_eq!(registry.session().head_manifest(&web).await.unwrap(), None);

    let missing = good.replace("web:amd64", "web:s390x");
    let refused = command.with_input(format!("{missing}---\n{good}")).run(&["index", "apply", "-f", "-"]);
    assert_eq!(refused.code, 3, "{}", refused.errors);

    assert_eq!(command.with_input(&good).run(&["index", "apply", "-f", "-"]).code, 0);
    let suspended = format!(
        "apiVersion: multiarch.dev/v1alpha1\nkind: MultiArchImage\nmetadata: {{name: web}}\nspec:\n  suspend: true\n  \
         target: {{repository: {0}/web, tags: ['3']}}\n  platforms: [{{platform: linux/amd64, image: '{0}/web:amd64'}}]\n",
        registry.host
    );
    let left = command.with_input(&suspended).run(&["index", "apply", "-f", "-"]);
    assert!(left.code == 0 && left.errors.contains("MultiArchImage web: suspended"), "{}", left.errors);
    let third = layouts::reference(&registry, "web:3");
    assert_eq!(registry.session().head_manifest(&third).await.unwrap(), None);
}

#[tokio::test]
async fn the_example_in_the_documentation_is_published() {
    let registry = Registry::anonymous();
    for (tag, platform) in
        [("1.4.2-arm64", "linux/arm64"), ("1.4.2-windows", "windows/amd64"), ("1.4.2-amd64", "linux/amd64")]
    {
        push_real_image(&registry, "web", tag, platform).await;
    }
    let document = std::fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let example = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let example = example.replace("registry.example.com", &registry.host);
    let applied = Multiarch::new(&registry).with_input(example).run(&["index", "apply", "-f", "-"]);
    assert_eq!(applied.code, 0, "{}", applied.errors);
    let published = index(&raw(&registry, "web", "latest").await);
    assert_eq!(published["annotations"]["org.opencontainers.image.version"], "1.4.2");
    let platforms: Vec<&Value> =
        published["manifests"].as_array().unwrap().iter().map(|entry| &entry["platform"]).collect();
    let windows = json!({
        "os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1", "os.features": ["win32k"],
    });
    assert_eq!(platforms[1], &windows);
    assert_eq!(platforms[2], &json!({"os": "linux", "architecture": "amd64"}));
}

#[tokio::test]
async fn one_password_is_for_all_documents() {
    let registry = Registry::with_password();
    push_real_image(&registry, "web", "amd64", "linux/amd64").await;
    let document =
        |tag: &str| format!("image: {0}/web:{tag}\nmanifests: [{{image: '{0}/web:amd64'}}]\n", registry.host);
    let folder = temporary();
    let file = folder.path().join("web.yaml");
    std::fs::write(&file, format!("{}---\n{}", document("1"), document("2"))).unwrap();
    let arguments = ["index", "apply", "--username", USER, "--password-stdin", "-f", file.to_str().unwrap()];
    let applied = Multiarch::new(&registry).with_input(PASSWORD).run(&arguments);
    assert_eq!(applied.code, 0, "{}", applied.errors);
    for tag in ["web:1", "web:2"] {
        let tag = layouts::reference(&registry, tag);
        assert!(registry.session().head_manifest(&tag).await.unwrap().is_some(), "{tag}");
    }
}

#[tokio::test]
async fn what_is_done_when_a_document_fails_is_told() {
    let registry = Registry::anonymous();
    push_real_image(&registry, "web", "amd64", "linux/amd64").await;
    let document = |tag: &str, image: &str| {
        format!("image: {0}/web:{tag}\nmanifests: [{{image: '{0}/web:{image}'}}]\n", registry.host)
    };
    let documents = [document("1", "amd64"), document("2", "s390x"), document("3", "amd64")].join("---\n");
    let failed = Multiarch::new(&registry).with_input(documents).run(&["index", "apply", "-f", "-"]);
    assert_eq!(failed.code, 3);
    let told = "of 3 documents, the 1 before it are done, those after it not";
    assert!(failed.errors.contains(told), "{}", failed.errors);
}
