//! `multiarch index` as people and scripts run it, against real registries.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;
#[path = "support/tools.rs"]
mod tools;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use command::multiarch;
use fault_server::{Answer, FaultServer};
use multiarch::registry::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};
use support::{Registry, index};
use tools::{crane, skopeo};

/// An index with two images, the first with a provenance attestation.
struct Pushed {
    name: String,
    digest: Digest,
    amd64: Descriptor,
    arm64: Descriptor,
    attestation: Descriptor,
}

async fn push_index(registry: &Registry, path: &str, tag: &str) -> Pushed {
    let amd64 = push_app(registry, path, "amd64").await;
    let arm64 = push_app(registry, path, "arm64").await;
    let attestation = push_attestation(registry, path).await;
    let mut content = index(&[
        (&amd64, json!({"platform": {"os": "linux", "architecture": "amd64"}})),
        (&arm64, json!({"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}})),
        (
            &attestation,
            json!({
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": amd64.digest,
                },
            }),
        ),
    ]);
    content["annotations"] = json!({"org.opencontainers.image.version": "1.4.2"});
    let digest = registry.push_manifest(path, tag, &content).await.digest;
    Pushed { name: format!("{}/{path}:{tag}", registry.host), digest, amd64, arm64, attestation }
}

async fn push_app(registry: &Registry, path: &str, architecture: &str) -> Descriptor {
    let config = json!({
        "os": "linux", "architecture": architecture, "created": "2026-01-02T03:04:05Z",
        "config": {"Entrypoint": ["/app"], "Cmd": ["--serve"]}, "rootfs": {"type": "layers", "diff_ids": []},
    });
    let layers = [format!("a layer for {architecture}"), "a layer that all platforms share".to_owned()];
    registry.push_image_of(path, "", &config, &layers).await
}

async fn push_attestation(registry: &Registry, path: &str) -> Descriptor {
    let config = json!({"os": "unknown", "architecture": "unknown"}).to_string();
    let statement = r#"{"predicateType":"https://slsa.dev/provenance/v1"}"#;
    let config_digest = registry.push_blob(path, config.as_bytes()).await;
    let statement_digest = registry.push_blob(path, statement.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{
            "mediaType": "application/vnd.in-toto+json", "digest": statement_digest, "size": statement.len(),
            "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
        }],
    });
    registry.push_manifest(path, "", &manifest).await
}

/// What is under a name, asked without the code under test.
fn raw(name: &str) -> String {
    skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
}

fn digest_of(name: &str) -> Digest {
    Digest::sha256(raw(name).as_bytes())
}

/// Pulls everything, attestations included; skopeo holds all of it against its digests.
fn pull(name: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("multiarch-pulled-{}-{number}", std::process::id()));
    let (from, to) = (format!("docker://{name}"), format!("dir:{}", folder.display()));
    skopeo(&["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]);
    std::fs::remove_dir_all(folder).unwrap();
}

// ---- create

#[tokio::test]
async fn an_index_is_created_under_every_tag_of_every_repository() {
    let registry = Registry::anonymous();
    let host = &registry.host;
    registry.push_image("team/web", "amd64", "linux/amd64").await;
    registry.push_image("team/web", "arm64", "linux/arm64").await;
    let targets = ["web:1.4.2", "web:latest", "mirror/web:1.4.2"].map(|name| format!("{host}/{name}"));
    let images = ["amd64", "arm64"].map(|tag| format!("{host}/team/web:{tag}"));
    let ran = multiarch(&[
        "index",
        "create",
        &targets[0],
        &targets[1],
        &targets[2],
        "--image",
        &images[0],
        "--image",
        &images[1],
        "--annotation",
        "org.opencontainers.image.version=1.4.2",
    ])
    .await
    .ok();

    let digest = digest_of(&targets[0]);
    let expected: Vec<String> = targets.iter().map(|target| format!("{target}@{digest}")).collect();
    assert_eq!(ran.lines(), expected);
    for target in &targets {
        assert_eq!(digest_of(target), digest);
        pull(target);
    }
    let published: Value = serde_json::from_str(&raw(&targets[0])).unwrap();
    assert_eq!(published["annotations"]["org.opencontainers.image.version"], "1.4.2");
    let platforms: Vec<&Value> =
        (0..2).map(|at| &published["manifests"][at]["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
}

#[tokio::test]
async fn creating_again_changes_nothing_and_says_so() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let target = format!("{}/web:1", registry.host);
    let arguments = ["index", "create", &target, "--image", &pushed.name, "-o", "json"];
    let first = multiarch(&arguments).await.json();
    let again = multiarch(&arguments).await.json();
    assert_eq!(first["tags"][0]["change"], "Created");
    assert_eq!(again["tags"][0]["change"], "Unchanged");
    assert_eq!(first["digest"], again["digest"]);
    assert_eq!(again["tags"][0]["reference"], format!("{target}@{}", digest_of(&target)));
    assert_eq!(first["copied"]["mounted"], 7, "every blob once, the shared layer too");
    let moved = ["uploaded", "mounted", "bytes"].map(|how| &again["copied"][how]);
    assert_eq!(moved, [0, 0, 0]);
}

#[tokio::test]
async fn a_dry_run_shows_the_exact_bytes_and_writes_nothing() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let target = format!("{}/web:1", registry.host);
    let create = ["index", "create", &target, "--image", &pushed.name];
    let shown = multiarch(&[&create[..], &["--dry-run", "--output", "json"]].concat()).await.ok();
    assert!(multiarch(&["index", "inspect", &target]).await.failed(3).contains("not found"));
    let table = multiarch(&[&create[..], &["--dry-run"]].concat()).await.ok().stdout;
    assert!(
        table.contains("linux/arm64") && table.contains(Digest::sha256(&shown.bytes).as_str()),
        "{table}"
    );

    multiarch(&create).await.ok();
    assert_eq!(raw(&target).as_bytes(), shown.bytes);
}

#[tokio::test]
async fn two_images_for_one_platform_are_refused_and_both_are_named() {
    let registry = Registry::anonymous();
    let (one, two) = (format!("{}/a:1", registry.host), format!("{}/b:1", registry.host));
    let first = registry.push_image_of("a", "1", &json!({"os": "linux", "architecture": "amd64"}), &[]).await;
    let second = registry.push_image("b", "1", "linux/amd64").await;
    let target = format!("{}/web:1", registry.host);
    let message = multiarch(&["index", "create", &target, "--image", &one, "--image", &two]).await.failed(2);
    let expected = format!("two images for linux/amd64: {} and {}", first.digest, second.digest);
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test]
async fn a_tag_that_is_there_stays_if_it_must_and_is_a_conflict() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let other = registry.push_image("web", "1", "linux/s390x").await;
    let target = format!("{}/web:1", registry.host);
    let create = ["index", "create", &target, "--image", &pushed.name, "--tag-policy", "if-absent"];
    let message = multiarch(&create).await.failed(7);
    assert!(message.contains("the tag exists with other content"), "{message}");
    assert_eq!(digest_of(&target), other.digest);

    multiarch(&["index", "create", &target, "--image", &pushed.name]).await.ok();
    multiarch(&create).await.ok();
}

#[tokio::test]
async fn amending_replaces_the_image_of_a_platform_and_keeps_the_rest() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let newer = registry.push_image("web", "newer", "linux/arm64").await;
    registry.push_image("web", "s390x", "linux/s390x").await;
    let images = ["newer", "s390x"].map(|tag| format!("{}/web:{tag}", registry.host));
    multiarch(&[
        "index",
        "create",
        "--amend",
        &pushed.name,
        "--image",
        &images[0],
        "--image",
        &images[1],
        "--annotation",
        "a=b",
    ])
    .await
    .ok();

    let amended: Value = serde_json::from_str(&raw(&pushed.name)).unwrap();
    let digests: Vec<&str> =
        amended["manifests"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap()).collect();
    assert_eq!(digests[..3], [&pushed.amd64, &pushed.attestation, &newer].map(|d| d.digest.as_str()));
    assert_eq!(digests.len(), 4);
    let annotations = json!({"org.opencontainers.image.version": "1.4.2", "a": "b"});
    assert_eq!(amended["annotations"], annotations);
    pull(&pushed.name);
}

#[tokio::test]
async fn an_image_that_lies_about_its_platform_is_refused_unless_that_is_asked_for() {
    let registry = Registry::anonymous();
    registry.push_image("web", "amd64", "linux/amd64").await;
    let target = format!("{}/web:1", registry.host);
    let image = format!("{}/web:amd64,platform=linux/arm64", registry.host);
    let create = ["index", "create", &target, "--image", &image];
    let message = multiarch(&create).await.failed(5);
    assert!(message.contains("the image is for linux/amd64, not for linux/arm64"), "{message}");

    let warned = multiarch(&[&create[..], &["--verify-platform", "warn"]].concat()).await.ok();
    assert!(
        warned.stderr.contains("warning: ") && warned.stderr.contains("linux/amd64"),
        "{}",
        warned.stderr
    );
    let silent = multiarch(&[&create[..], &["--no-verify-platform"]].concat()).await.ok();
    assert!(!silent.stderr.contains("warning"), "{}", silent.stderr);
}

#[tokio::test]
async fn fields_of_an_image_reach_its_entry() {
    let registry = Registry::anonymous();
    registry.push_image("web", "windows", "windows/amd64").await;
    let target = format!("{}/web:1", registry.host);
    let image = format!(
        "{}/web:windows,platform=windows/amd64,os.version=10.0.17763.1,os.features=win32k,annotation.a=b",
        registry.host
    );
    multiarch(&["index", "create", &target, "--image", &image]).await.ok();
    let published: Value = serde_json::from_str(&raw(&target)).unwrap();
    let platform = json!({
        "os": "windows", "architecture": "amd64", "os.version": "10.0.17763.1", "os.features": ["win32k"],
    });
    assert_eq!(published["manifests"][0]["platform"], platform);
    assert_eq!(published["manifests"][0]["annotations"], json!({"a": "b"}));
}

#[tokio::test]
async fn a_docker_list_of_oci_images_is_a_usage_error() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let target = format!("{}/web:docker", registry.host);
    let create = ["index", "create", &target, "--image", &pushed.name, "--format", "docker"];
    assert!(multiarch(&create).await.failed(2).contains("format Docker"));
}

/// An image with a layer that can be unpacked, as crane makes it.
fn append(name: &str, platform: &str) {
    let layer = std::env::temp_dir().join(format!(
        "multiarch-layer-{}-{}.tar",
        std::process::id(),
        platform.replace('/', "-")
    ));
    let mut archive = tar::Builder::new(std::fs::File::create(&layer).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(platform.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "platform", platform.as_bytes()).unwrap();
    archive.finish().unwrap();
    crane(&["append", "--insecure", "--oci-empty-base", "-f", layer.to_str().unwrap(), "-t", name]);
    crane(&["mutate", "--insecure", "--set-platform", platform, "-t", name, name]);
    std::fs::remove_file(layer).unwrap();
}

#[tokio::test]
async fn crane_finds_nothing_wrong_with_what_is_created_and_copied() {
    let (one, two) = (Registry::anonymous(), Registry::anonymous());
    let platforms = ["linux/amd64", "linux/arm64/v8"];
    let images = platforms.map(|platform| format!("{}/app:{}", one.host, platform.replace('/', "-")));
    images.iter().zip(platforms).for_each(|(image, platform)| append(image, platform));
    let (created, copied) = (format!("{}/web:1", one.host), format!("{}/web:1", two.host));
    multiarch(&["index", "create", &created, "-i", &images[0], "-i", &images[1]]).await.ok();
    multiarch(&["index", "copy", &created, &copied]).await.ok();
    for name in [&created, &copied] {
        let said = crane(&["validate", "--insecure", "--remote", name]);
        assert!(said.contains("PASS"), "{said}");
        let verified = multiarch(&["index", "verify", "--deep", "-o", "json", name]).await.json();
        assert_eq!(verified["verified"], true);
    }
    let filtered = format!("{}/web:theirs", two.host);
    crane(&["index", "filter", "--insecure", &copied, "--platform", "linux/arm64/v8", "-t", &filtered]);
    let ours = format!("{}/web:ours", two.host);
    multiarch(&["index", "copy", &copied, &ours, "--platform", "linux/arm64"]).await.ok();
    let [ours, theirs] = [ours, filtered].map(|name| serde_json::from_str::<Value>(&raw(&name)).unwrap());
    assert_eq!(ours, theirs, "crane index filter makes the same");
}

// ---- inspect

#[tokio::test]
async fn raw_is_what_skopeo_and_crane_give() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let ours = multiarch(&["index", "inspect", "--raw", &pushed.name]).await.ok();
    assert_eq!(ours.stdout, raw(&pushed.name));
    assert_eq!(ours.stdout.trim_end(), crane(&["manifest", "--insecure", &pushed.name]).trim_end());
    assert_eq!(Digest::sha256(&ours.bytes), pushed.digest);

    let child =
        multiarch(&["index", "inspect", "--raw", "--platform", "linux/arm64", &pushed.name]).await.ok();
    assert_eq!(Digest::sha256(&child.bytes), pushed.arm64.digest);
}

#[tokio::test]
async fn an_index_is_shown_to_people() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let ran = multiarch(&["index", "inspect", &pushed.name]).await.ok();
    let amd64 = ran.lines().into_iter().find(|line| line.starts_with("linux/amd64")).unwrap();
    for shown in [pushed.amd64.digest.as_str(), " 2 ", "2026-01-02 03:04:05", "/app", "provenance"] {
        assert!(amd64.contains(shown), "{shown} in {amd64}");
    }
    for shown in [&pushed.name, pushed.digest.as_str(), "org.opencontainers.image.version=1.4.2"] {
        assert!(ran.stdout.contains(shown), "{}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\x1b') && !ran.stdout.contains("PROBLEM"), "{}", ran.stdout);
}

#[tokio::test]
async fn an_index_is_shown_to_programs() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let shown = multiarch(&["index", "inspect", "-o", "json", &pushed.name]).await.json();
    let layers = ["a layer for amd64".len(), "a layer that all platforms share".len()];
    assert_eq!(shown["reference"], pushed.name);
    assert_eq!(shown["digest"], pushed.digest.as_str());
    assert_eq!(shown["mediaType"], MediaType::OCI_INDEX.as_str());
    let amd64 = &shown["platforms"][0];
    assert_eq!(amd64["platform"], "linux/amd64");
    assert_eq!(amd64["digest"], pushed.amd64.digest.as_str());
    assert_eq!(amd64["compressedSize"], layers[0] + layers[1]);
    assert_eq!(amd64["layers"].as_array().unwrap().len(), 2);
    assert_eq!((&amd64["entrypoint"], &amd64["command"]), (&json!(["/app"]), &json!(["--serve"])));
    let attestations = json!([{
        "digest": pushed.attestation.digest, "predicateTypes": ["https://slsa.dev/provenance/v1"], "problems": [],
    }]);
    assert_eq!(amd64["attestations"], attestations);
    assert_eq!(amd64["problems"], json!([]));
    assert_eq!(shown["platforms"].as_array().unwrap().len(), 2);

    let yaml = multiarch(&["index", "inspect", "-o", "yaml", &pushed.name]).await.ok().stdout;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), shown);
}

#[tokio::test]
async fn one_platform_is_shown_alone_with_its_config() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "team/web", "1").await;
    let inspect = ["index", "inspect", &pushed.name, "--platform"];
    let shown = multiarch(&[&inspect[..], &["linux/aarch64", "-o", "json"]].concat()).await.json();
    assert_eq!(shown["platforms"].as_array().unwrap().len(), 1);
    assert_eq!(shown["platforms"][0]["digest"], pushed.arm64.digest.as_str());

    let config = multiarch(&[&inspect[..], &["linux/arm64", "--config"]].concat()).await.json();
    assert_eq!(config["architecture"], "arm64");
    let configs = multiarch(&["index", "inspect", &pushed.name, "--config"]).await.json();
    assert_eq!(configs["linux/amd64"]["architecture"], "amd64");
    assert_eq!(configs["linux/arm64"], config);

    let message = multiarch(&[&inspect[..], &["linux/s390x"]].concat()).await.failed(3);
    assert!(message.contains("no image for linux/s390x; it has linux/amd64, linux/arm64"), "{message}");
}

#[tokio::test]
async fn an_image_alone_is_shown_with_its_own_platform() {
    let registry = Registry::anonymous();
    let image = registry.push_image("web", "1", "linux/s390x").await;
    let name = format!("{}/web:1", registry.host);
    let shown = multiarch(&["index", "inspect", "-o", "json", &name]).await.json();
    assert_eq!(shown["digest"], image.digest.as_str());
    assert_eq!(shown["platforms"][0]["platform"], "linux/s390x");
    assert_eq!(shown["platforms"][0]["problems"], json!([]));
}

#[tokio::test]
async fn what_is_missing_or_lies_is_shown() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let lie = index(&[
        (&pushed.amd64, json!({"platform": {"os": "linux", "architecture": "s390x"}})),
        (&pushed.arm64, json!({"platform": {"os": "linux", "architecture": "arm64"}, "size": 7})),
    ]);
    registry.push_manifest("web", "lie", &lie).await;
    let name = format!("{}/web:lie", registry.host);
    let shown = multiarch(&["index", "inspect", "-o", "json", &name]).await.json();
    let reasons: Vec<&Value> = (0..2).map(|at| &shown["platforms"][at]["problems"][0]["reason"]).collect();
    assert_eq!(reasons, ["PlatformMismatch", "SizeMismatch"]);

    registry.delete_manifest("web", &pushed.arm64.digest).await;
    let shown = multiarch(&["index", "inspect", "-o", "json", &pushed.name]).await.json();
    assert_eq!(shown["platforms"][1]["problems"][0]["reason"], "ManifestMissing");
    let table = multiarch(&["index", "inspect", &pushed.name]).await.ok().stdout;
    assert!(table.contains("PROBLEM") && table.contains("the manifest is not in the repository"), "{table}");
}

// ---- annotate

#[tokio::test]
async fn annotations_and_platforms_change_and_images_do_not() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let before: Value = serde_json::from_str(&raw(&pushed.name)).unwrap();
    let annotate = ["index", "annotate", &pushed.name];
    let version = "org.opencontainers.image.version";
    multiarch(&[&annotate[..], &["-a", "a=b=c", "--remove-annotation", version]].concat()).await.ok();
    let entry =
        ["--platform", "linux/arm64", "--variant", "v9", "--os-version", "6.1", "--os-features", "x,y"];
    let ran = multiarch(&[&annotate[..], &entry, &["-a", "who=me"]].concat()).await.ok();

    let after: Value = serde_json::from_str(&raw(&pushed.name)).unwrap();
    assert_eq!(ran.stdout, format!("{}@{}\n", pushed.name, digest_of(&pushed.name)));
    assert!(ran.stderr.contains("moved "), "{}", ran.stderr);
    assert_eq!(after["annotations"], json!({"a": "b=c"}));
    assert_eq!(after["manifests"][0], before["manifests"][0]);
    assert_eq!(after["manifests"][2], before["manifests"][2]);
    let platform = json!({
        "os": "linux", "architecture": "arm64", "variant": "v9", "os.version": "6.1", "os.features": ["x", "y"],
    });
    assert_eq!(after["manifests"][1]["platform"], platform);
    assert_eq!(after["manifests"][1]["annotations"], json!({"who": "me"}));
    assert_eq!(after["manifests"][1]["digest"], before["manifests"][1]["digest"]);
}

#[tokio::test]
async fn an_index_is_published_under_other_tags() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let ran = multiarch(&["index", "annotate", &pushed.name, "--tag", "2", "--tag", "3"]).await.ok();
    assert_eq!(ran.lines().len(), 2);
    let by_digest = format!("{}/web@{}", registry.host, pushed.digest);
    multiarch(&["index", "annotate", &by_digest, "--tag", "4", "-a", "x=y"]).await.ok();
    let named = |tag: &str| format!("{}/web:{tag}", registry.host);
    assert_eq!(digest_of(&named("2")), pushed.digest);
    assert_eq!(digest_of(&named("3")), pushed.digest);
    assert_eq!(digest_of(&pushed.name), pushed.digest);
    assert_ne!(digest_of(&named("4")), pushed.digest);
}

#[tokio::test]
async fn what_somebody_else_has_moved_is_not_overwritten() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let theirs = registry.push_image("web", "1", "linux/amd64").await;
    let seen = format!("{}@{}", pushed.name, pushed.digest);
    let message = multiarch(&["index", "annotate", &seen, "-a", "x=y"]).await.failed(7);
    assert!(message.contains(&format!("is {} by now", theirs.digest)), "{message}");
    assert_eq!(digest_of(&pushed.name), theirs.digest);
}

#[tokio::test]
async fn what_cannot_be_annotated_is_refused() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let image = registry.push_image("web", "image", "linux/amd64").await;
    let by_digest = format!("{}/web@{}", registry.host, pushed.digest);
    let by_tag = format!("{}/web:image", registry.host);
    for (arguments, code, message) in [
        (vec![by_digest.as_str(), "-a", "x=y"], 2, "has no tag to publish under"),
        (vec![pushed.name.as_str()], 2, "nothing to change"),
        (vec![pushed.name.as_str(), "--variant", "v9"], 2, "--platform"),
        (vec![pushed.name.as_str(), "-a", "x"], 2, "write key=value"),
        (vec![pushed.name.as_str(), "-a", "x=y", "-p", "linux/s390x"], 3, "no image for linux/s390x"),
        (vec![by_tag.as_str(), "-a", "x=y"], 2, "and no index"),
        (vec![pushed.name.as_str(), "-a", "x=y", "-t", "bad tag"], 2, "not a tag"),
    ] {
        let ran = multiarch(&[&["index", "annotate"], &arguments[..]].concat()).await;
        assert!(ran.stderr.contains(message), "{message}: {ran:#?}");
        ran.failed(code);
    }
    assert_eq!(digest_of(&by_tag), image.digest);
}

// ---- verify

#[tokio::test]
async fn an_index_that_is_whole_is_verified() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    for depth in [&[][..], &["--deep"]] {
        let verified =
            multiarch(&[&["index", "verify", "-o", "json", &pushed.name], depth].concat()).await.json();
        assert_eq!(verified["verified"], true);
        assert_eq!(verified["digest"], pushed.digest.as_str());
        let checks = verified["platforms"][0]["checks"].as_array().unwrap();
        // Its layers are no archives, so there is no program to look at.
        let results: Vec<&Value> = checks.iter().map(|check| &check["result"]).collect();
        assert_eq!(results, ["Passed", "Passed", "Passed", "Passed", "Skipped"]);
        assert_eq!(verified["platforms"].as_array().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_missing_blob_is_found() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let layer = Digest::sha256(b"a layer for arm64");
    std::fs::remove_file(registry.file_of(&layer)).unwrap();
    let ran = multiarch(&["index", "verify", &pushed.name]).await;
    assert!(
        ran.stdout.contains(&format!("linux/arm64: blobs: {layer} is not in the repository")),
        "{ran:#?}"
    );
    assert!(ran.failed(5).contains("1 check failed"));
}

#[tokio::test]
async fn a_blob_with_other_bytes_is_found_by_reading_it() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let layer = Digest::sha256(b"a layer for arm64");
    std::fs::write(registry.file_of(&layer), b"a layer for ARM64").unwrap();
    multiarch(&["index", "verify", &pushed.name]).await.ok();
    let ran = multiarch(&["index", "verify", "--deep", "-o", "json", &pushed.name]).await;
    let verified: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(verified["verified"], false);
    let blobs = &verified["platforms"][1]["checks"][3];
    assert_eq!((&blobs["name"], &blobs["result"]), (&json!("blobs"), &json!("Failed")));
    assert!(blobs["message"].as_str().unwrap().contains("the content has digest"), "{blobs}");
    ran.failed(5);
}

#[tokio::test]
async fn a_platform_that_is_not_the_configs_is_found() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let lie = index(&[(&pushed.amd64, json!({"platform": {"os": "linux", "architecture": "s390x"}}))]);
    registry.push_manifest("web", "lie", &lie).await;
    let ran = multiarch(&["index", "verify", &format!("{}/web:lie", registry.host)]).await;
    assert!(ran.stdout.contains("the index says linux/s390x, the config linux/amd64"), "{ran:#?}");
    ran.failed(5);
}

/// An image for `architecture` that starts a program with this ELF machine number.
async fn push_program(registry: &Registry, tag: &str, architecture: &str, machine: u16) -> Descriptor {
    let mut elf = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0].to_vec();
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    elf.resize(52, 0);
    elf.extend([64, 0, 56, 0, 0, 0, 64, 0, 0, 0, 0, 0]);
    let mut header = tar::Header::new_gnu();
    header.set_size(elf.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "app", &elf[..]).unwrap();
    let layer = String::from_utf8(archive.into_inner().unwrap()).unwrap();
    let config = json!({"os": "linux", "architecture": architecture, "config": {"Entrypoint": ["/app"]}});
    registry.push_image_of("web", tag, &config, &[layer]).await
}

#[tokio::test]
async fn a_program_for_another_platform_is_found() {
    const X86_64: u16 = 62;
    let registry = Registry::anonymous();
    push_program(&registry, "right", "amd64", X86_64).await;
    push_program(&registry, "wrong", "arm64", X86_64).await;
    let [right, wrong] = ["right", "wrong"].map(|tag| format!("{}/web:{tag}", registry.host));
    let result = |verified: &Value| verified["platforms"][0]["checks"][4]["result"].clone();

    let verify = ["index", "verify", "-o", "json"];
    let verified = multiarch(&[&verify[..], &[&right, "--binaries", "enforce"]].concat()).await.json();
    assert_eq!(result(&verified), "Passed");
    let warned = multiarch(&[&verify[..], &[&wrong]].concat()).await.json();
    assert_eq!((result(&warned), &warned["verified"]), (json!("Warned"), &json!(true)));
    let off = multiarch(&[&verify[..], &[&wrong, "--binaries", "off"]].concat()).await.json();
    assert_eq!(result(&off), "Skipped");
    let failed = multiarch(&["index", "verify", &wrong, "--binaries", "enforce"]).await;
    let told = "linux/arm64: binary: /app is for x86-64 (ELF), the platform is linux/arm64";
    assert!(failed.stdout.contains(told), "{}", failed.stdout);
    failed.failed(5);
}

// ---- copy

#[tokio::test]
async fn a_copy_is_the_same_byte_for_byte_attestations_included() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "team/web", "1").await;
    let targets = ["web:1", "web:2", "other/web:1"].map(|name| format!("{}/{name}", to.host));
    let copy = ["index", "copy", &pushed.name, &targets[0], &targets[1], &targets[2]];
    let ran = multiarch(&copy).await.ok();
    let expected: Vec<String> = targets.iter().map(|target| format!("{target}@{}", pushed.digest)).collect();
    assert_eq!(ran.lines(), expected);
    for target in &targets {
        assert_eq!(raw(target), raw(&pushed.name));
        pull(target);
    }
    let attestation = format!("{}/web@{}", to.host, pushed.attestation.digest);
    assert_eq!(digest_of(&attestation), pushed.attestation.digest);
    let layer = Digest::sha256(b"a layer for arm64");
    assert!(ran.stderr.contains(&format!("copied {layer}  17 B\n")), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("copied {layer}  17 B (mounted)\n")), "{}", ran.stderr);

    let again = multiarch(&[&copy[..], &["-o", "json"]].concat()).await.json();
    assert_eq!(again["copied"]["uploaded"], 0);
    assert!((0..3).all(|at| again["tags"][at]["change"] == "Unchanged"), "{again}");
}

#[tokio::test]
async fn an_index_within_an_index_is_copied_too() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "inner").await;
    let inner = Descriptor::new(MediaType::OCI_INDEX, pushed.digest.clone(), raw(&pushed.name).len() as u64);
    let outer = from.push_manifest("web", "outer", &index(&[(&inner, json!({}))])).await;
    let target = format!("{}/web:outer", to.host);
    multiarch(&["index", "copy", &format!("{}/web:outer", from.host), &target]).await.ok();
    assert_eq!(digest_of(&target), outer.digest);
    let inner = format!("{}/web@{}", to.host, inner.digest);
    assert_eq!(raw(&inner), raw(&pushed.name));
    pull(&inner);
}

#[tokio::test]
async fn one_platform_is_copied_with_its_attestations_under_a_new_digest() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "1").await;
    let target = format!("{}/web:1", to.host);
    let ran = multiarch(&["index", "copy", &pushed.name, &target, "--platform", "linux/amd64"]).await.ok();
    let copied: Value = serde_json::from_str(&raw(&target)).unwrap();
    let digests: Vec<&Value> = copied["manifests"].as_array().unwrap().iter().map(|m| &m["digest"]).collect();
    assert_eq!(digests, [pushed.amd64.digest.as_str(), pushed.attestation.digest.as_str()]);
    let told = format!("the index gets the digest {} instead of {}", digest_of(&target), pushed.digest);
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    pull(&target);
}

#[tokio::test]
async fn signatures_follow_their_images_when_asked_to() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "1").await;
    let signature = push_referrer(&from, "web", &pushed.arm64).await;
    let cosign = format!("sha256-{}.sig", pushed.digest.hex());
    let tagged = from.push_image("web", &cosign, "linux/amd64").await;
    let target = format!("{}/web:1", to.host);
    multiarch(&["index", "copy", &pushed.name, &target]).await.ok();
    let there = to.session().referrers(&to.repository("web"), &pushed.arm64.digest, None).await.unwrap();
    assert!(there.is_empty(), "{there:?}");

    let ran = multiarch(&["index", "copy", "--referrers", &pushed.name, &target]).await.ok();
    assert!(ran.stderr.contains("referrers: 1 manifests, 1 tags"), "{}", ran.stderr);
    let there = to.session().referrers(&to.repository("web"), &pushed.arm64.digest, None).await.unwrap();
    assert_eq!(there[0].digest, signature.digest);
    assert_eq!(digest_of(&format!("{}/web:{cosign}", to.host)), tagged.digest);
}

/// A signature as the distribution specification has it: an artifact about an image, under the tag that stands in for
/// the referrers API, which this registry does not have.
async fn push_referrer(registry: &Registry, path: &str, subject: &Descriptor) -> Descriptor {
    let blob = registry.push_blob(path, b"{}").await;
    let artifact = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": "example/signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob, "size": 2},
        "layers": [], "subject": subject,
    });
    let artifact = registry.push_manifest(path, "", &artifact).await;
    let list = index(&[(&artifact, json!({"artifactType": "example/signature"}))]);
    registry.push_manifest(path, &format!("sha256-{}", subject.digest.hex()), &list).await;
    artifact
}

#[tokio::test]
async fn an_index_with_an_image_missing_is_not_copied_by_half() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "1").await;
    from.delete_manifest("web", &pushed.arm64.digest).await;
    let target = format!("{}/web:1", to.host);
    let message = multiarch(&["index", "copy", &pushed.name, &target]).await.failed(3);
    assert!(message.contains("linux/arm64") && message.contains("nothing was published"), "{message}");
    multiarch(&["index", "inspect", &target]).await.failed(3);
    multiarch(&["index", "copy", &pushed.name, &target, "--platform", "linux/amd64"]).await.ok();
}

#[tokio::test]
async fn quiet_says_nothing_but_the_result() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "1").await;
    let target = format!("{}/web:1", to.host);
    let ran = multiarch(&["index", "copy", "--quiet", &pushed.name, &target]).await.ok();
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout, format!("{target}@{}\n", pushed.digest));
}

// ---- what goes wrong elsewhere

#[tokio::test]
async fn an_image_that_a_registry_has_collected_is_copied_again_and_nothing_else_is_written() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "inner").await;
    let inner = Descriptor::new(MediaType::OCI_INDEX, pushed.digest.clone(), raw(&pushed.name).len() as u64);
    let outer = index(&[(&pushed.amd64, json!({})), (&inner, json!({}))]);
    from.push_manifest("web", "1", &outer).await;
    let source = format!("{}/web:1", from.host);
    let view = to.read_only_view();
    let [target, read_only] = [&to, &view].map(|to| format!("{}/web:1", to.host));
    multiarch(&["index", "copy", &source, &read_only]).await.failed(1);
    multiarch(&["index", "copy", &source, &target]).await.ok();
    multiarch(&["index", "copy", &source, &read_only]).await.ok();

    to.delete_manifest("web", &pushed.arm64.digest).await;
    let again = multiarch(&["index", "copy", &source, &target]).await.ok();
    assert!(again.stderr.contains("unchanged "), "{}", again.stderr);
    pull(&format!("{}/web@{}", to.host, inner.digest));
}

#[tokio::test]
async fn an_index_that_lies_about_its_content_is_not_copied() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&from, "web", "1").await;
    from.push_manifest("web", "lie", &index(&[(&pushed.amd64, json!({"size": 7}))])).await;
    let (lie, target) = (format!("{}/web:lie", from.host), format!("{}/web:1", to.host));
    let message = multiarch(&["index", "copy", &lie, &target]).await.failed(5);
    assert!(message.contains("the index says 7 bytes") && message.contains("nothing was published"));
    multiarch(&["index", "export", &lie, "-"]).await.failed(5);

    // The registry gives other bytes than the digest says.
    let manifest = from.file_of(&pushed.amd64.digest);
    std::fs::write(manifest, r#"{"schemaVersion":2}"#).unwrap();
    multiarch(&["index", "copy", &pushed.name, &target]).await.failed(5);
}

#[tokio::test]
async fn an_index_without_images_is_not_verified() {
    let registry = Registry::anonymous();
    registry.push_manifest("web", "1", &index(&[])).await;
    let name = format!("{}/web:1", registry.host);
    let ran = multiarch(&["index", "verify", "-o", "json", &name]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["verified"], false);
    assert!(ran.failed(5).contains("the index lists no image"));
}

#[tokio::test]
async fn what_an_index_says_neither_forges_lines_nor_commands_the_terminal() {
    let registry = Registry::anonymous();
    let pushed = push_index(&registry, "web", "1").await;
    let mut hostile = index(&[(
        &pushed.amd64,
        json!({"platform": {"os": "linux", "architecture": "s390x\nlinux/amd64: ok\u{1b}]0;owned\u{7}"}}),
    )]);
    hostile["annotations"] = json!({"a\nForged:\u{1b}[2J": "b\u{1b}[2J"});
    registry.push_manifest("web", "hostile", &hostile).await;
    let name = format!("{}/web:hostile", registry.host);
    let target = format!("{}/web:2", registry.host);
    let image = format!("{name},platform=linux/arm64");
    for arguments in [
        vec!["verify", &name],
        vec!["inspect", &name],
        vec!["inspect", &name, "-p", "linux/arm64"],
        vec!["create", &target, "-i", &image],
    ] {
        let ran = multiarch(&[&["index"], &arguments[..]].concat()).await;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("s390x") || said.contains("arm64"), "{said:?}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{arguments:?} {said:?}");
        let forged = |line: &&str| line.starts_with("linux/amd64: ok") || line.starts_with("Forged:");
        assert_eq!(said.lines().find(forged), None, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_registry_is_verified_and_not_its_mirror() {
    let (registry, mirror) = (Registry::anonymous(), Registry::anonymous());
    let pushed = push_index(&registry, "web", "1").await;
    push_index(&mirror, "web", "1").await;
    registry.delete_manifest("web", &pushed.arm64.digest).await;
    let settings = std::env::temp_dir().join(format!("multiarch-mirror-{}.yaml", std::process::id()));
    let text = json!({"registries": [{"host": registry.host, "mirrors": [mirror.host]}]}).to_string();
    std::fs::write(&settings, text).unwrap();
    let registries = ["--registries", settings.to_str().unwrap()];
    // The mirror is asked where that is right.
    let target = format!("{}/copy:1", mirror.host);
    multiarch(&[&["index", "copy", &pushed.name, &target], &registries[..]].concat()).await.ok();

    let ran = multiarch(&[&["index", "verify", &pushed.name], &registries[..]].concat()).await;
    assert!(ran.stdout.contains("the manifest is not in the repository"), "{ran:#?}");
    ran.failed(5);
    let table = multiarch(&[&["index", "inspect", &pushed.name], &registries[..]].concat()).await.ok();
    assert!(table.stdout.contains("the manifest is not in the repository"), "{}", table.stdout);
    std::fs::remove_file(settings).unwrap();
}

/// A manifest as a registry gives it.
fn answer(media_type: MediaType, content: &Value) -> Answer {
    let bytes = content.to_string();
    Answer::status(200)
        .header("Content-Type", media_type.as_str())
        .header("Docker-Content-Digest", Digest::sha256(bytes.as_bytes()).to_string())
        .body(bytes)
}

fn described(media_type: MediaType, content: &Value) -> Descriptor {
    let bytes = content.to_string();
    Descriptor::new(media_type, Digest::sha256(bytes.as_bytes()), bytes.len() as u64)
}

#[tokio::test]
async fn what_somebody_else_amends_meanwhile_is_not_lost() {
    let config = |architecture| json!({"os": "linux", "architecture": architecture});
    let image = |config: &Value| {
        let config = described(MediaType::OCI_CONFIG, config);
        json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config, "layers": []})
    };
    let configs = ["amd64", "arm64"].map(config);
    let images = configs.each_ref().map(image);
    let entry = |image: &Value| index(&[(&described(MediaType::OCI_MANIFEST, image), json!({}))]);
    let (base, theirs) = (entry(&images[0]), index(&[]));
    let ours_has_come = AtomicBool::new(false);
    let server = FaultServer::start(move |asked| {
        let named = asked.target.rsplit('/').next().unwrap();
        let is = |content: &&Value| Digest::sha256(content.to_string().as_bytes()).as_str() == named;
        match asked.method.as_str() {
            "PUT" => {
                ours_has_come.store(true, Ordering::SeqCst);
                Answer::status(201)
            }
            "GET" | "HEAD" if named == "1" && ours_has_come.load(Ordering::SeqCst) => {
                answer(MediaType::OCI_INDEX, &theirs)
            }
            "GET" | "HEAD" if named == "1" || is(&&base) => answer(MediaType::OCI_INDEX, &base),
            "GET" | "HEAD" if named == "arm64" => answer(MediaType::OCI_MANIFEST, &images[1]),
            "GET" | "HEAD" => match (images.iter().find(is), configs.iter().find(is)) {
                (Some(image), _) => answer(MediaType::OCI_MANIFEST, image),
                (_, Some(config)) => Answer::status(200).body(config.to_string()),
                _ => Answer::status(404),
            },
            _ => Answer::status(404),
        }
    })
    .await;
    let [target, arm64] = ["1", "arm64"].map(|tag| format!("{}/web:{tag}", server.host));
    let message = multiarch(&["index", "create", "--amend", &target, "-i", &arm64]).await.failed(7);
    assert!(message.contains("by now, and was sha256:"), "{message}");
    let lines = server.lines();
    assert!(lines.iter().any(|line| line.starts_with("PUT /v2/web/manifests/sha256:")), "{lines:?}");
    assert!(!lines.iter().any(|line| line == "PUT /v2/web/manifests/1"), "{lines:?}");
}
