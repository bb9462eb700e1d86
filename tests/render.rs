//! `multiarch render`: what would be built, told without a cluster.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;

use command::multiarch;
use serde_json::{Value, json};

const FILE: &str = r#"
apiVersion: multiarch.dev/v1alpha1
kind: MultiArchImage
metadata: {name: web, namespace: team-a}
spec:
  target: {repository: registry.example.com/team-a/web, tags: ["1.4"]}
  platforms:
  - {platform: linux/amd64, image: "ghcr.io/acme/web:1.4-amd64"}
  - platform: linux/aarch64
    build: {args: {FAST: "yes"}, dockerfile: Dockerfile.arm}
  - platform: linux/s390x
  build:
    context: {git: {url: "https://git.example.com/web.git", ref: main}}
    args: {VERSION: "1.4", FAST: "no"}
---
apiVersion: multiarch.dev/v1alpha1
kind: MultiArchImage
metadata: {name: hello, uid: 0b5a1c52-0a43-4c6c-8f0c-0c3b5d0f2a11}
spec:
  target: {repository: registry.example.com/hello, tags: ["1"]}
  platforms: [{platform: linux/amd64}]
  build: {context: {inline: {dockerfile: FROM scratch}}}
"#;

async fn render(file: &str, arguments: &[&str]) -> command::Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.yaml");
    std::fs::write(&path, file).expect("a file");
    multiarch(&[&["render", path.to_str().expect("a path")], arguments].concat()).await
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("YAML")
}

#[tokio::test]
async fn every_platform_is_shown_with_what_differs_for_it() {
    let found = documents(&render(FILE, &["--sources"]).await.ok().stdout);
    let platforms: Vec<String> = found
        .iter()
        .map(|found| format!("{} {}", found["name"], found["platform"]).replace('"', ""))
        .collect();
    assert_eq!(platforms, ["web linux/amd64", "web linux/arm64", "web linux/s390x", "hello linux/amd64"]);
    assert_eq!(found[0]["image"], "ghcr.io/acme/web:1.4-amd64");
    assert_eq!(found[1]["build"]["args"], json!({"VERSION": "1.4", "FAST": "yes"}));
    assert_eq!(found[1]["build"]["dockerfile"], "Dockerfile.arm");
    assert_eq!(found[2]["build"]["args"], json!({"VERSION": "1.4", "FAST": "no"}));
    assert_eq!(found[2]["build"]["timeout"], "3600s");
    let one = render(FILE, &["--sources", "--platform", "linux/arm64/v8", "-o", "json"]).await.ok().stdout;
    let one: Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!((one.as_array().map(Vec::len), &one[0]["platform"]), (Some(1), &json!("linux/arm64")));
}

#[tokio::test]
async fn jobs_are_those_of_the_operator_and_say_what_only_it_knows() {
    let ran = render(FILE, &["--builder-image", "builder:1", "-o", "json"]).await.ok();
    let list: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(3)));
    let job = &list["items"][0];
    assert_eq!((&job["kind"], &job["metadata"]["namespace"]), (&json!("Job"), &json!("team-a")));
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], "builder:1");
    assert_eq!(job["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/arch"], "arm64");
    assert!(job.to_string().contains("<commit of main>"), "{job}");
    assert!(ran.stderr.contains("web: the commit of main is looked up by the operator"), "{}", ran.stderr);
    assert!(ran.stderr.contains("web: without metadata.uid"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("hello:"), "{}", ran.stderr);
    assert_eq!(list["items"][2]["metadata"]["namespace"], Value::Null);
    let said = render(FILE, &["--platform", "linux/amd64"]).await.ok().stdout;
    assert_eq!(said, render(FILE, &["--jobs", "--platform", "linux/amd64"]).await.ok().stdout);
    assert!(documents(&said).iter().all(|job| job["kind"] == "Job"), "{said}");
    let (copied, _) = FILE.split_once("  - platform: linux/aarch64").expect("what is built");
    let said = render(copied, &[]).await.failed(3);
    assert!(said.contains("nothing is built of it; --sources"), "{said}");
}

#[tokio::test]
async fn what_the_operator_would_refuse_is_refused_with_its_place() {
    let refused = FILE.replace("linux/s390x", "linux/s390").replace("args: {VERSION", "arg: {VERSION");
    let ran = render(&refused, &[]).await;
    assert!(ran.stderr.contains("document 1: spec.build.arg: unknown field; did you mean args?"), "{ran:#?}");
    ran.failed(2);
    let ran = render(&FILE.replace("linux/s390x", "linux/s390"), &[]).await;
    assert!(ran.stderr.contains("document 1: spec.platforms[2].platform: "), "{ran:#?}");
    ran.failed(2);
    let ran = render(&FILE.replace("ref: main", "ref: a..b"), &[]).await;
    assert!(ran.stderr.contains("document 1: spec.build.context.git.ref: ref is a branch"), "{ran:#?}");
    ran.failed(2);
    render(FILE, &["--platform", "windows/amd64"]).await.failed(3);
    render("", &[]).await.failed(2);
}

#[tokio::test]
async fn a_mistake_in_the_build_settings_is_told_by_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("builds.yaml");
    std::fs::write(&path, "maxRunning: 3\nprofil: Rootless\n").expect("a file");
    let path = path.to_str().expect("a path");
    let ran = render(FILE, &["--builds", path]).await;
    assert!(
        ran.stderr.contains(&format!("{path}:2: unknown key \"profil\"; did you mean profile?")),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn the_file_is_named_as_for_kubectl_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.yaml");
    std::fs::write(&path, FILE).expect("a file");
    let path = path.to_str().expect("a path");
    let named = multiarch(&["render", "-f", path]).await.ok().stdout;
    assert_eq!(named, multiarch(&["render", path]).await.ok().stdout);
    multiarch(&["render"]).await.failed(2);
    multiarch(&["render", "-f", path, path]).await.failed(2);
}
