//! The CRD: what the real API server refuses, and with which words.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::World;

fn valid() -> Value {
    json!({
        "target": {"repository": "registry.test/team-a/web", "tags": ["1.4.2", "latest"]},
        "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64", "image": "registry.test/web:arm64"}],
        "build": {"context": {"git": {"url": "https://git.test/web.git", "ref": "main"}}},
    })
}

/// The valid spec with one place changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = valid();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = spec.pointer_mut(parent).expect("the parent is there");
    match parent {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        parent => parent[key] = value,
    }
    spec
}

fn platforms(names: &[&str]) -> Value {
    let entries: Vec<Value> = names.iter().map(|name| json!({"platform": name})).collect();
    with("/platforms", json!(entries))
}

#[test]
fn the_crd_in_the_repository_is_the_one_the_code_means() {
    let path = support::root().join("crds/multiarch.dev_multiarchimages.yaml");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let rendered = multiarch::cli::crd::render().expect("it renders");
    assert!(written == rendered, "{} is out of date: run `make crds` and commit it", path.display());
}

#[test]
fn the_crd_is_small_enough_to_be_applied_on_the_client_side() {
    let rendered = multiarch::cli::crd::render().expect("it renders");
    assert!(rendered.len() < 256 * 1024, "{} bytes", rendered.len());
}

#[tokio::test]
async fn what_is_valid_is_accepted() {
    let world = World::new().await;
    let config_map = json!({"configMap": {"name": "context"}});
    let inline = json!({"inline": {"dockerfile": "FROM scratch"}});
    let accepted = [
        valid(),
        platforms(&[
            "linux/amd64",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/amd64/v3",
            "windows/amd64",
            "linux/s390x",
        ]),
        platforms(&["linux/x86_64", "Linux/ARM64"]),
        with("/build/context", config_map),
        with("/build/context", inline),
        with(
            "/build/context/git",
            json!({"url": "http://10.0.0.1:3080/web.git", "commit": "a".repeat(40), "subPath": "cmd/web"}),
        ),
        with("/build/timeout", json!("1h30m")),
        with(
            "/build/pod",
            json!({"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}, "nodeSelector": {"disk": "fast"}}),
        ),
        with("/target/repository", json!("localhost:5000/web")),
        with("/target/repository", json!("registry.test:5000/a/b/c")),
        with("/target/repository", json!("docker.io/library/web")),
        with("/target/format", json!("Docker")),
        with("/target/annotations", json!({"org.opencontainers.image.source": "https://git.test/web"})),
        with("/target/tagPolicy", json!("IfAbsent")),
    ];
    for (number, spec) in accepted.into_iter().enumerate() {
        world.apply(&format!("ok-{number}"), spec).await;
    }
}

#[tokio::test]
async fn defaults_are_written_into_the_object() {
    let world = World::new().await;
    let image = world.apply("defaults", valid()).await;
    let build = serde_json::to_value(image.spec.build.expect("a build")).expect("JSON");
    assert_eq!(build["dockerfile"], "Dockerfile");
    assert_eq!(build["retries"], 2);
    assert_eq!(build["timeout"], "3600s");
    assert_eq!(serde_json::to_value(image.spec.target).expect("JSON")["tagPolicy"], "Overwrite");
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_what_to_write_instead() {
    let world = World::new().await;
    let git = |change: Value| {
        let mut git = json!({"url": "https://git.test/web.git"});
        git.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        with("/build/context/git", git)
    };
    let refused: Vec<(Value, &str)> = vec![
        (platforms(&["linux/amd46"]), "unknown architecture in linux/amd46; did you mean amd64?"),
        (platforms(&["linux/x64"]), "unknown architecture in linux/x64; did you mean amd64?"),
        (platforms(&["linux/armv7"]), "unknown architecture in linux/armv7; did you mean arm/v7?"),
        (platforms(&["linux/qqq"]), "unknown architecture in linux/qqq; known: amd64, arm64"),
        (platforms(&["linx/amd64"]), "unknown os in linx/amd64; did you mean linux?"),
        (platforms(&["q/amd64"]), "unknown os in q/amd64; known: linux"),
        (platforms(&["amd64"]), "a platform is os/architecture"),
        (platforms(&["linux/amd64/v2/x"]), "a platform is os/architecture"),
        (platforms(&["linux/amd64", "linux/amd64"]), "duplicate entries"),
        (platforms(&["linux/arm64", "linux/arm64/v8"]), "two entries are for the same platform"),
        (platforms(&["linux/arm", "linux/arm/v7"]), "two entries are for the same platform"),
        (platforms(&["linux/amd64", "linux/x86_64"]), "two entries are for the same platform"),
        (platforms(&["linux/arm64", "linux/aarch64"]), "two entries are for the same platform"),
        (platforms(&[]), "should have at least 1 items"),
        (with("/build", Value::Null), "write spec.build, or give every platform an image"),
        (
            with("/target/repository", json!("registry.test/web:1.0")),
            "write the repository without tag and digest",
        ),
        (
            with("/target/repository", json!("registry.test/web@sha256:00")),
            "write the repository without tag and digest",
        ),
        (with("/target/repository", json!("registry.test/Web")), "write registry/repository in lower case"),
        (with("/target/repository", json!("web")), "write registry/repository in lower case"),
        (with("/target/format", json!("docker")), "supported values: \"OCI\", \"Docker\""),
        (
            with(
                "/target",
                json!({"repository": "registry.test/web", "tags": ["1"], "format": "Docker", "annotations": {"a": "b"}}),
            ),
            "a Docker manifest list cannot have annotations; write format: OCI",
        ),
        (with("/target/tagPolicy", json!("Never")), "supported values: \"Overwrite\", \"IfAbsent\""),
        (with("/target/tags", json!([])), "should have at least 1 items"),
        (with("/target/tags", json!(["-x"])), "a tag has letters, digits"),
        (with("/target/tags", json!(["a/b"])), "a tag has letters, digits"),
        (with("/target/tags", json!(["a", "a"])), "duplicate entries"),
        (with("/platforms/1/image", json!("web 1.0")), "write an image reference such as"),
        (with("/platforms/1/image", json!("--help")), "write an image reference such as"),
        (with("/build/context", json!({})), "give exactly one of git, configMap and inline"),
        (
            with(
                "/build/context",
                json!({"inline": {"dockerfile": "FROM scratch"}, "configMap": {"name": "x"}}),
            ),
            "give exactly one of git, configMap and inline",
        ),
        (with("/build/dockerfile", json!("../Dockerfile")), "dockerfile is a path within the context"),
        (with("/build/dockerfile", json!("/Dockerfile")), "dockerfile is a path within the context"),
        (with("/build/args", json!({"1X": "y"})), "a build argument's name has letters"),
        (with("/build/timeout", json!("soon")), "timeout is a duration of at least one second"),
        (with("/build/timeout", json!("0s")), "timeout is a duration of at least one second"),
        (with("/build/retries", json!(11)), "should be less than or equal to 10"),
        (
            with("/build/pod", json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}})),
            "remove kubernetes.io/arch and kubernetes.io/os",
        ),
        (git(json!({"url": "git@git.test:web.git"})), "write an http:// or https:// address"),
        (
            git(json!({"url": "https://git.test/web.git#main"})),
            "ref, commit and subPath have fields of their own",
        ),
        (git(json!({"url": "https://user:word@git.test/web.git"})), "the address holds credentials"),
        (git(json!({"ref": "--upload-pack=x"})), "ref is a branch, a tag or a full name"),
        (git(json!({"ref": "a..b"})), "ref is a branch, a tag or a full name"),
        (git(json!({"commit": "abc123"})), "commit is the full commit hash"),
        (git(json!({"subPath": "../x"})), "subPath is a path within the context"),
        (git(json!({"subPath": "a:b"})), "subPath may not hold"),
    ];
    let mut wrong = Vec::new();
    for (number, (spec, expected)) in refused.into_iter().enumerate() {
        match world.try_apply(&format!("bad-{number}"), spec.clone()).await {
            Ok(_) => wrong.push(format!("accepted: {spec}")),
            Err(error) if !error.to_string().contains(expected) => {
                wrong.push(format!("said\n    {error}\n  instead of\n    {expected}"));
            }
            Err(_) => {}
        }
    }
    let long =
        world.try_apply(&"x".repeat(64), valid()).await.expect_err("a long name is refused").to_string();
    assert!(long.contains("metadata.name may have at most 63 characters"), "{long}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
