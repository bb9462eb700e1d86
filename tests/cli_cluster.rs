//! What people ask of the operator, and what a cluster builds: `multiarch suspend`, `resume`, `reconcile`, `rebuild` and
//! `platforms` on the real API server.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use command::{Ran, command, run};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use multiarch::api::{ANNOTATION_REBUILD, ANNOTATION_RECONCILE, MultiArchImage, Phase};
use multiarch::cli::request::FIELD_MANAGER;
use serde_json::{Value, json};
use support::World;
use support::builds::inline;
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::Operator;

async fn multiarch(world: &World, arguments: &[&str]) -> Ran {
    let mut command = command(&[arguments, &["--namespace", &world.namespace]].concat());
    command.env("KUBECONFIG", &world.rig.kubeconfig);
    run(command).await
}

fn spec(world: &World) -> Value {
    json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/amd64", "image": format!("{}:1.0-amd64", world.repository("web"))}],
    })
}

async fn get(world: &World, name: &str) -> MultiArchImage {
    world.api::<MultiArchImage>().get(name).await.expect("the image")
}

fn annotation(image: &MultiArchImage, name: &str) -> Option<String> {
    image.metadata.annotations.as_ref()?.get(name).cloned()
}

/// What our own field manager has set.
fn ours(image: &MultiArchImage) -> Vec<Value> {
    let entries = image.metadata.managed_fields.iter().flatten();
    let ours = entries.filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
    ours.filter_map(|entry| entry.fields_v1.as_ref().map(|fields| fields.0.clone())).collect()
}

#[tokio::test]
async fn what_is_suspended_stays_so_when_git_says_nothing_of_it() {
    let world = World::new().await;
    world.apply("web", spec(&world)).await;
    let ran = multiarch(&world, &["suspend", "web"]).await.ok();
    assert_eq!(ran.stdout, "web: suspended\n");
    let image = get(&world, "web").await;
    assert!(image.spec.suspend);
    assert_eq!(ours(&image), [json!({"f:spec": {"f:suspend": {}}})]);
    assert_eq!(multiarch(&world, &["suspend", "mai/web"]).await.ok().stdout, "web: is suspended already\n");

    // The same YAML once more, as Flux and Argo CD apply it.
    assert!(world.apply("web", spec(&world)).await.spec.suspend);
    let mut written = spec(&world);
    written["suspend"] = json!(false);
    assert!(!world.apply("web", written.clone()).await.spec.suspend, "what git says counts");
    written["suspend"] = json!(true);
    world.apply("web", written).await;

    assert_eq!(multiarch(&world, &["resume", "web"]).await.ok().stdout, "web: resumed\n");
    let image = get(&world, "web").await;
    assert!(!image.spec.suspend && ours(&image).is_empty(), "{:#?}", image.metadata.managed_fields);
    assert_eq!(multiarch(&world, &["resume", "web"]).await.ok().stdout, "web: is not suspended\n");
}

#[test]
fn flux_does_not_take_our_changes_for_those_of_kubectl() {
    // fluxcd/pkg/ssa compares the beginning of the name.
    assert!(!FIELD_MANAGER.starts_with("kubectl") && !FIELD_MANAGER.starts_with("before-first-apply"));
}

#[tokio::test]
async fn a_request_is_a_new_annotation_each_time_and_nothing_else() {
    let world = World::new().await;
    world.apply("web", spec(&world)).await;
    world.apply("other", spec(&world)).await;
    assert_eq!(multiarch(&world, &["rebuild", "web"]).await.ok().stdout, "web: rebuild requested\n");
    let first = get(&world, "web").await;
    let requested = annotation(&first, ANNOTATION_REBUILD).expect("the request");
    requested.parse::<jiff::Timestamp>().expect("a time");
    assert_eq!(annotation(&first, ANNOTATION_RECONCILE), None);
    assert_eq!(first.metadata.generation, Some(1), "the spec is as it was");
    multiarch(&world, &["rebuild", "web"]).await.ok();
    assert_ne!(annotation(&get(&world, "web").await, ANNOTATION_REBUILD), Some(requested));
    assert_eq!(annotation(&get(&world, "other").await, ANNOTATION_REBUILD), None);

    let ran = multiarch(&world, &["reconcile", "--all"]).await.ok();
    assert_eq!(ran.stdout, "other: reconcile requested\nweb: reconcile requested\n");
    assert!(annotation(&get(&world, "other").await, ANNOTATION_RECONCILE).is_some());
    multiarch(&world, &["suspend", "web"]).await.ok();
    let said = multiarch(&world, &["reconcile", "web"]).await.ok().stdout;
    assert!(said.contains("it is suspended, so nothing happens until `multiarch resume web -"), "{said}");
}

#[tokio::test]
async fn images_with_labels_are_asked_alone_and_printed_as_kubectl_does() {
    let world = World::new().await;
    for name in ["web", "api"] {
        world.apply(name, spec(&world)).await;
    }
    let label = json!({"metadata": {"labels": {"test": world.namespace}}});
    let images = world.api::<MultiArchImage>();
    images.patch("web", &PatchParams::default(), &Patch::Merge(label)).await.expect("a label");
    let labelled = format!("test={}", world.namespace);
    // Of all namespaces.
    let mut everywhere = command(&["suspend", "-A", "-l", &labelled]);
    everywhere.env("KUBECONFIG", &world.rig.kubeconfig);
    assert_eq!(run(everywhere).await.ok().stdout, format!("{}/web: suspended\n", world.namespace));
    assert!(get(&world, "web").await.spec.suspend && !get(&world, "api").await.spec.suspend);

    let one = multiarch(&world, &["resume", "web", "-o", "json"]).await.json();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("MultiArchImage"), &json!("web")));
    assert_eq!((&one["spec"]["suspend"], &one["metadata"]["managedFields"]), (&Value::Null, &Value::Null));
    let list = multiarch(&world, &["reconcile", "-l", &labelled, "-o", "json"]).await.json();
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(1)));
    assert!(list["items"][0]["metadata"]["annotations"][ANNOTATION_RECONCILE].is_string(), "{list:#}");
    let yaml = multiarch(&world, &["rebuild", "web", "-o", "yaml"]).await.ok().stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert!(yaml["metadata"]["annotations"][ANNOTATION_REBUILD].is_string(), "{yaml:#}");
    multiarch(&world, &["reconcile", "web", "-l", &labelled]).await.failed(2);
    multiarch(&world, &["wait", "-l", "test=nothing"]).await.failed(3);
}

#[tokio::test]
async fn what_is_asked_of_nothing_is_told() {
    let world = World::new().await;
    let ran = multiarch(&world, &["suspend", "--all"]).await.ok();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr),
        ("", format!("no MultiArchImages in namespace {}\n", world.namespace))
    );
    let said = multiarch(&world, &["rebuild", "web"]).await.failed(3);
    assert!(
        said.contains(&format!("multiarchimage/web: not found in namespace {}", world.namespace)),
        "{said}"
    );
    // Nothing is asked of the one that is there.
    world.apply("web", spec(&world)).await;
    multiarch(&world, &["rebuild", "web", "missing"]).await.failed(3);
    assert_eq!(annotation(&get(&world, "web").await, ANNOTATION_REBUILD), None);
    multiarch(&world, &["suspend"]).await.failed(2);
    multiarch(&world, &["suspend", "web", "--all"]).await.failed(2);
    multiarch(&world, &["rebuild", "web", "--timeout", "1m"]).await.failed(2);
}

#[tokio::test]
async fn what_comes_of_a_request_can_be_waited_for() {
    let world = World::new().await;
    Push::to(&world.repository("web")).image("1.0-amd64", "linux/amd64", "content").await;
    let _operator = Operator::start(&world);
    world.apply("web", spec(&world)).await;
    let ran = multiarch(&world, &["reconcile", "web", "--wait", "--timeout", "3m"]).await.ok();
    let lines = ran.lines();
    assert!(lines[0] == "web: reconcile requested" && lines[1].starts_with("web: Ready: "), "{lines:?}");
    let waited = multiarch(&world, &["wait", "--all", "-o", "json"]).await.json();
    assert!(waited["items"][0]["status"]["digest"].is_string(), "{waited:#}");
    let image = get(&world, "web").await;
    let handled = image.status.as_ref().and_then(|status| status.last_handled_reconcile_at.clone());
    assert_eq!(handled, annotation(&image, ANNOTATION_RECONCILE));

    multiarch(&world, &["suspend", "web"]).await.ok();
    let missing =
        json!({"spec": {"platforms": [{"platform": "linux/amd64", "image": world.repository("missing")}]}});
    let api = world.api::<MultiArchImage>();
    api.patch("web", &PatchParams::default(), &Patch::Merge(missing)).await.expect("an edit");
    let said = multiarch(&world, &["resume", "web", "--wait"]).await.failed(8);
    assert!(said.contains("Stalled: ") && said.contains("SourceNotFound"), "{said}");
}

fn row<'a>(survey: &'a Value, platform: &str) -> &'a Value {
    let rows = survey["platforms"].as_array().expect("platforms");
    rows.iter().find(|row| row["platform"] == platform).unwrap_or_else(|| panic!("{platform}: {survey:#}"))
}

#[tokio::test]
async fn a_platform_without_a_node_is_reached_elsewhere_or_nobody_knows() {
    let world = World::new().await;
    world
        .apply(
            "web",
            json!({
                "target": {"repository": world.repository("web"), "tags": ["1.0"]},
                "platforms": [
                    {"platform": "linux/mips64le"},
                    {"platform": "linux/loong64", "build": {"remote": {"endpoint": "tcp://builder.test:1234"}}},
                ],
                "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
            }),
        )
        .await;
    let survey = multiarch(&world, &["platforms", "-o", "json"]).await.json();
    let remote = row(&survey, "linux/loong64");
    assert_eq!(
        (&remote["built"], &remote["remotes"]),
        (&json!("Remote"), &json!(["tcp://builder.test:1234"]))
    );
    let unknown = row(&survey, "linux/mips64le");
    assert_eq!(unknown["built"], "Unknown");
    assert_eq!(unknown["wantedBy"], json!([format!("{}/web", world.namespace)]));
    let wide = multiarch(&world, &["platforms", "-o", "wide"]).await.ok().stdout;
    assert!(wide.starts_with("PLATFORM") && wide.contains("WANTED BY") && wide.contains("\nNODE"), "{wide}");
    let table = multiarch(&world, &["platforms"]).await.ok().stdout;
    assert!(table.contains("--probe asks") && !table.contains("WANTED BY"), "{table}");
}

#[tokio::test]
async fn nodes_are_asked_what_they_run_and_nothing_is_left_of_it() {
    needs_nodes!("nodes_are_asked_what_they_run_and_nothing_is_left_of_it");
    let world = World::new().await;
    let builder = ["--builder-image", &world.rig.builder_image];
    let ran =
        multiarch(&world, &[&["platforms", "--probe", "-o", "json"], builder.as_slice()].concat()).await;
    let survey = ran.json();
    let native = row(&survey, "linux/amd64");
    assert_eq!(native["built"], "Native");
    assert!(native["readyNodes"].as_u64().is_some_and(|ready| ready > 0), "{survey:#}");
    // The rig registers it with the kernel.
    let emulated = row(&survey, "linux/s390x");
    assert!(emulated["built"] == "Emulated" || emulated["built"] == "Native", "{survey:#}");
    let nodes = survey["nodes"].as_array().expect("nodes");
    let asked: Vec<&Value> = nodes.iter().filter(|node| node["runs"].is_array()).collect();
    assert!(!asked.is_empty(), "{survey:#}");
    for node in asked {
        assert!(node["runs"].as_array().is_some_and(|runs| runs.contains(&json!("linux/s390x"))), "{node:#}");
    }
    let jobs = world.api::<Job>().list(&ListParams::default()).await.expect("Jobs").items;
    assert!(jobs.is_empty(), "{jobs:#?}");
}

#[tokio::test]
async fn a_node_that_cannot_answer_says_why() {
    needs_nodes!("a_node_that_cannot_answer_says_why");
    let world = World::new().await;
    let builder = ["--builder-image", &format!("{}:none", world.repository("missing"))];
    let ran = multiarch(&world, &[&["platforms", "--probe"], builder.as_slice()].concat()).await.ok();
    assert!(ran.stderr.contains("ErrImagePull") || ran.stderr.contains("ImagePullBackOff"), "{ran:#?}");
    assert!(ran.stdout.contains("Native"), "{ran:#?}");
}

#[tokio::test]
async fn a_support_bundle_has_what_helps_and_nothing_that_is_secret() {
    let world = World::new().await;
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    let secret = json!({"metadata": {"name": "hunter"}, "stringData": {"password": "hunter2"}});
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    world.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
    let mut spec = spec(&world);
    spec["platforms"] = json!([
        {"platform": "linux/s390x", "image": format!("{}:v1", world.repository("from"))},
        {"platform": "linux/riscv64"},
    ]);
    let dockerfile = "FROM scratch\nENV PASSWORD=hunter2\n";
    spec["build"] = json!({"context": {"inline": {"dockerfile": dockerfile}}, "args": {"TOKEN": "hunter2"}});
    world.apply("web", spec).await;
    let _operator = Operator::start(&world);
    world.until_platform("web", "linux/riscv64", Phase::Waiting, "NoNodeForPlatform").await;

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bundle.tar.gz");
    let (told, files) = bundle(&world, &file, &["--build-logs"]).await;
    for (name, text) in &files {
        assert!(!text.contains("hunter2"), "{name}: {text}");
    }
    let image = &files[&format!("images/{}/web.yaml", world.namespace)];
    assert!(image.contains("NoNodeForPlatform") && image.contains("TOKEN: (left out)"), "{image}");
    assert!(files[&format!("events/{}.yaml", world.namespace)].contains("NoNodeForPlatform"), "{files:#?}");
    assert!(files["cluster/crd.yaml"].contains("MultiArchImage"));
    for name in files.keys() {
        assert!(told.contains(name.as_str()), "{name} is not told of: {told}");
    }
    assert!(files.keys().any(|name| name.contains("/job-web-linux-riscv64-")), "{told}");
    assert!(!files.contains_key("problems.txt"), "{told}");

    let again = multiarch(&world, &[&BUNDLE[..], &[file.to_str().expect("text")]].concat()).await;
    assert!(again.code != Some(0) && again.stderr.contains("exists"), "{again:?}");
}

const BUNDLE: [&str; 2] = ["support-bundle", "--output"];

/// What the command says of a support bundle, and what is in it.
async fn bundle(world: &World, file: &Path, arguments: &[&str]) -> (String, BTreeMap<String, String>) {
    let path = [file.to_str().expect("text"), "--operator-namespace", &world.namespace];
    let told = multiarch(world, &[&BUNDLE[..], &path, arguments].concat()).await.ok().stdout;
    let mut archive =
        tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(file).expect("a file")));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").components().skip(1).collect::<PathBuf>();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
        files.insert(name.display().to_string(), text);
    }
    (told, files)
}

#[tokio::test]
async fn the_line_of_a_dockerfile_that_failed_is_in_a_support_bundle_only_where_it_is_asked_for() {
    needs_nodes!("the_line_of_a_dockerfile_that_failed_is_in_a_support_bundle_only_where_it_is_asked_for");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let failing = "RUN echo curl -u admin:hunter2 && false";
    world.apply("web", inline(&world, "web", &["linux/amd64"], failing)).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "BuildFailed").await;
    assert!(failed.message.is_some_and(|message| message.contains("hunter2")), "BuildKit repeats the line");

    let folder = tempfile::tempdir().expect("a folder");
    let (_, files) = bundle(&world, &folder.path().join("plain.tar.gz"), &[]).await;
    for (name, text) in &files {
        assert!(!text.contains("hunter2"), "{name}: {text}");
    }
    let of_image = &files[&format!("images/{}/web.yaml", world.namespace)];
    assert!(of_image.contains("BuildFailed"), "{of_image}");
    assert!(files[&format!("events/{}.yaml", world.namespace)].contains("BuildFailed"), "{files:#?}");
    let (_, files) = bundle(&world, &folder.path().join("whole.tar.gz"), &["--build-logs"]).await;
    let log = files.iter().find(|(name, _)| name.ends_with(".build.log")).expect("the build's log").1;
    assert!(log.contains("admin:hunter2"), "{log}");
}
