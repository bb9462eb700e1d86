//! The CRD: what the real API server refuses, and with which words.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
mod support;

use futures::StreamExt as _;
use multiarch::platform::Platform;
use multiarch::registry::{Reference, Repository};
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

/// The numbers of the specs that `multiarch lint` refuses, which asks no API server.
async fn refused_by_lint(specs: impl Iterator<Item = &Value>) -> Vec<usize> {
    let resource = |(number, spec): (usize, &Value)| {
        let resource = json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": format!("spec-{number}")}, "spec": spec,
        });
        resource.to_string()
    };
    let documents: Vec<String> = specs.enumerate().map(resource).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("specs.yaml");
    std::fs::write(&path, documents.join("\n---\n")).expect("a file");
    let ran = command::multiarch(&["lint", path.to_str().expect("a path"), "-o", "json"]).await;
    let report: Value =
        serde_json::from_slice(&ran.bytes).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    let findings = report["findings"].as_array().expect("findings");
    let refused = findings.iter().filter(|finding| finding["rule"] == "schema");
    let number = |finding: &Value| finding["resource"].as_str()?.strip_prefix("spec-")?.parse().ok();
    let mut refused: Vec<usize> = refused.filter_map(number).collect();
    refused.sort_unstable();
    refused.dedup();
    refused
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
            "linux/arm64/v8.2",
            "linux/s390x",
            "linux/s390x/z15",
        ]),
        with("/platforms", json!([{"platform": "windows/amd64", "image": "registry.test/web:windows"}])),
        with(
            "/platforms",
            json!([{"platform": "windows/amd64", "build": {"remote": {"endpoint": "tcp://10.0.0.1:1234"}}}]),
        ),
        with("/build/args", json!({"SOURCE_DATE_EPOCH": "context"})),
        with("/build/target", json!("Runtime-1")),
        with("/build/labels", json!({"org.opencontainers.image.title": "a = b"})),
        platforms(&["linux/x86_64", "Linux/ARM64"]),
        with("/build/context", config_map),
        with("/build/context", inline),
        with(
            "/build/context/git",
            json!({"url": "http://10.0.0.1:3080/web.git", "commit": "a".repeat(40), "subPath": "cmd/web"}),
        ),
        with("/build/timeout", json!("1h30m")),
        with(
            "/build/context/git",
            json!({"url": "ssh://git@git.test:2222/web.git", "secretRef": {"name": "key"}}),
        ),
        with(
            "/build/context",
            json!({"http": {"url": "https://x.test/a.tar.gz?v=1", "sha256": "0".repeat(64)}}),
        ),
        with("/build/context", json!({"oci": {"image": "registry.test/source:main"}})),
        with(
            "/build/contexts",
            json!({
                "base": "docker-image://registry.test/base:1", "docker.io/library/alpine:3": "docker-image://r.test/alpine",
                "lib": format!("https://git.test/lib.git#{}:src", "a".repeat(40)), "file": "https://raw.githubusercontent.com/acme/web/main/a.txt",
            }),
        ),
        with("/build/secrets", json!([{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}])),
        with("/build/attestations", json!({"provenance": "Max", "sbom": true})),
        with(
            "/build/cache",
            json!({"type": "Registry", "mode": "Min", "from": ["registry.test/cache:main"]}),
        ),
        with("/build/cache", json!({"type": "Volume", "volume": {"size": "20Gi"}})),
        with(
            "/build/remote",
            json!({"endpoint": "tcp://10.0.0.1:1234", "tls": {"secretRef": {"name": "certs"}}}),
        ),
        with("/build/ttlAfterFinished", json!("0s")),
        with("/build/schedulingTimeout", json!("10m")),
        with("/verify", json!({"baseImages": "Warn"})),
        with("/interval", json!("10s")),
        with("/build/cache", json!({"type": "Volume", "volume": {"size": "1Gi", "storageClassName": ""}})),
        with("/target/platformTag", json!("{tag}-{os}-{arch}{-variant}")),
        with("/target/mirrors", json!([{"repository": "ghcr.io/acme/web"}])),
        with("/platforms/0/optional", json!(true)),
        with("/verify", json!({"platform": "Off", "binaries": "Enforce"})),
        with("/verify", json!({"run": {"command": ["/app", "--version", ""]}})),
        with(
            "/verify",
            json!({"run": {
                "command": ["/app"], "timeout": "5m", "runAsUser": 1001,
                "pod": {"nodeSelector": {"pool": "any"}, "resources": {"limits": {"memory": "1Gi"}},
                    "tolerations": [{"key": "arch", "operator": "Exists"}]},
            }}),
        ),
        with(
            "/platforms/0",
            json!({
                "platform": "linux/amd64", "whenNoNode": "Emulate",
                "build": {"args": {"A": "b"}, "pod": {"priorityClassName": "high"}},
            }),
        ),
        with(
            "/build/pod",
            json!({
                "resources": {
                    "requests": {"cpu": "500m", "memory": 1073741824, "example.com/fast": 1}, "limits": {"cpu": 2, "memory": "1Gi"},
                },
                "nodeSelector": {"disk": "fast", "example.com/pool": ""}, "labels": {"team": "a"}, "annotations": {"example.com/note": "x y"},
                "tolerations": [
                    {"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"},
                    {"key": "c", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
                ],
                "priorityClassName": "system-node-critical", "runtimeClassName": "gvisor",
            }),
        ),
        with("/target/repository", json!("localhost:5000/web")),
        with("/target/repository", json!("registry.test:5000/a/b/c")),
        with("/target/repository", json!("docker.io/library/web")),
        with("/target/format", json!("Docker")),
        with("/target/annotations", json!({"org.opencontainers.image.source": "https://git.test/web"})),
        with("/target/tagPolicy", json!("IfAbsent")),
    ];
    assert_eq!(refused_by_lint(accepted.iter()).await, [0; 0], "nor does lint refuse any");
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
    let mut refused: Vec<(Value, &str)> = vec![
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
        (with("/build/context", json!({})), "give exactly one of git, http, oci, configMap and inline"),
        (
            with(
                "/build/context",
                json!({"inline": {"dockerfile": "FROM scratch"}, "configMap": {"name": "x"}}),
            ),
            "give exactly one of git, http, oci, configMap and inline",
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
        (git(json!({"url": "git@git.test:web.git"})), "write an https:// or ssh:// address of a repository"),
        (
            git(json!({"url": "https://git.test/web.git#main"})),
            "ref, commit and subPath have fields of their own",
        ),
        (git(json!({"url": "https://user:word@git.test/web.git"})), "the address holds credentials"),
        (git(json!({"ref": "--upload-pack=x"})), "ref is a branch, a tag or a full name"),
        (git(json!({"ref": "a..b"})), "ref is a branch, a tag or a full name"),
        (git(json!({"commit": "abc123"})), "commit is the full commit hash"),
        (git(json!({"subPath": "../x"})), "subPath is a path within the context"),
        (git(json!({"url": "ssh://git@git.test/web.git"})), "ssh needs secretRef"),
        (git(json!({"url": "ssh://git:word@git.test/web.git"})), "the address holds credentials"),
        (
            with("/build/context", json!({"http": {"url": "https://x.test/a.tgz", "sha256": "abc"}})),
            "sha256 has 64",
        ),
        (
            with("/build/context", json!({"http": {"url": "ftp://x.test/a.tgz", "sha256": "0".repeat(64)}})),
            "write the http:// or https:// address of a tar archive",
        ),
        (with("/build/context", json!({"oci": {"image": "--help"}})), "write an image reference such as"),
        (with("/build/contexts", json!({"base": "./folder"})), "a named context is docker-image://"),
        (with("/build/contexts", json!({"lib": "https://git.test/lib.git#main"})), "at a full commit"),
        (
            with(
                "/build/secrets",
                json!([{"id": "a,src=/etc/passwd", "secretRef": {"name": "x", "key": "y"}}]),
            ),
            "an id has letters",
        ),
        (
            with("/build/annotations", json!({"com.example.Key": "x"})),
            "write keys of annotations in lower case",
        ),
        (with("/build/cache", json!({"type": "Volume"})), "volume.size to type: Volume, which needs it"),
        (
            with("/build/cache", json!({"type": "Inline", "repository": "r.test/a/b"})),
            "repository belongs to",
        ),
        (
            with("/build/cache", json!({"type": "Volume", "volume": {"size": "much"}})),
            "write an amount such as 20Gi",
        ),
        (with("/build/cache", json!({"type": "None", "from": ["-x"]})), "write references such as"),
        (with("/build/remote", json!({"endpoint": "unix:///run/x.sock"})), "write tcp://host:port"),
        (
            with("/build/schedulingTimeout", json!("0s")),
            "schedulingTimeout is a duration of at least one second",
        ),
        (with("/build/ttlAfterFinished", json!("later")), "ttlAfterFinished is a duration"),
        (with("/build/pod", json!({"labels": {"multiarch.dev/image": "other"}})), "are set by the operator"),
        (with("/platforms/0", json!({"platform": "linux/amd64", "whenNoNode": "Panic"})), "supported values"),
        (with("/verify", json!({"binaries": "Yes"})), "supported values: \"Enforce\", \"Warn\", \"Off\""),
        (with("/verify", json!({"platform": "Yes"})), "supported values: \"Enforce\", \"Warn\", \"Off\""),
        (with("/interval", json!("9s")), "interval is a duration of at least 10s"),
        (with("/interval", json!("99999999999999999999h")), "interval is a duration of at least 10s"),
        (with("/target/platformTag", json!("{tag}-{os}")), "has {arch} in it"),
        (with("/target/platformTag", json!("{tag}/{arch}")), "a platform's tag is made of"),
        (with("/target/platformTag", json!("{tag}-{arch}-{flavour}")), "a platform's tag is made of"),
        (
            with("/target/mirrors", json!([{"repository": "ghcr.io/acme/web:1"}])),
            "write the repository without tag",
        ),
        (with("/target/mirrors", json!([{"repository": "web"}])), "write registry/repository"),
        (
            with("/target/mirrors", json!([{"repository": "registry.test/team-a/web"}])),
            "a mirror is a further repository; take the target itself out of the mirrors",
        ),
        (with("/target/driftPolicy", json!("Ignore")), "supported values: \"Correct\", \"Report\""),
        (with("/deletionPolicy", json!("Orphan")), "supported values: \"Retain\", \"Delete\""),
        (with("/platforms/0/optional", json!("yes")), "expected boolean"),
        (
            with("/verify", json!({"run": {"command": ["/app"], "pod": {"nodeSelector": {"a b": "c"}}}})),
            "nodeSelector: write keys such as disk",
        ),
        (
            with(
                "/verify",
                json!({"run": {"command": ["/app"], "pod": {"tolerations": [{"operator": "Equal"}]}}}),
            ),
            "a toleration has operator Equal",
        ),
        (with("/verify", json!({"run": {}})), "spec.verify.run.command: Required value"),
        (with("/verify", json!({"run": {"command": []}})), "should have at least 1 items"),
        (with("/verify", json!({"run": {"command": [""]}})), "write the program first, then its arguments"),
        (
            with("/verify", json!({"run": {"command": ["/app"], "timeout": "0s"}})),
            "timeout is a duration of at least one second",
        ),
        (
            with("/verify", json!({"run": {"command": ["/app"], "runAsUser": 0}})),
            "runAsUser is a number above 0",
        ),
        (
            with(
                "/verify",
                json!({"run": {"command": ["/app"], "pod": {"nodeSelector": {"kubernetes.io/arch": "arm64"}}}}),
            ),
            "remove kubernetes.io/arch and kubernetes.io/os",
        ),
        (
            with("/platforms/0", json!({"platform": "linux/amd64", "build": {"dockerfile": "../x"}})),
            "dockerfile is a path within the context",
        ),
    ];
    let pod = |pod: Value| with("/build/pod", pod);
    let platform_build =
        |change: Value| with("/platforms/0", json!({"platform": "linux/amd64", "build": change}));
    let secret = |name: &str, key: &str| {
        with("/build/secrets", json!([{"id": "npmrc", "secretRef": {"name": name, "key": key}}]))
    };
    refused.extend([
        (platforms(&["linux/amd64/v5"]), "unknown variant; known are amd64/v1 to v4"),
        (platforms(&["linux/arm64/8"]), "unknown variant; known are"),
        (platforms(&["linux/s390x/15"]), "unknown variant; known are"),
        (platforms(&["linux/arm64", "linux/arm64/v8.0"]), "two entries are for the same platform"),
        (platforms(&["windows/amd64"]), "only linux can be built in the cluster"),
        (with("/target/repository", json!("https://registry.test/web")), "in lower case and without https://"),
        (with("/target/repository", json!("registry.test:65536/web")), "write registry/repository in lower case"),
        (with("/target/repository", json!("registry..test/web")), "write registry/repository in lower case"),
        (with("/target/repository", json!("Team/web")), "write registry/repository in lower case"),
        (with("/target/repository", json!("registry.test/a/../b")), "write registry/repository in lower case"),
        (with("/target/annotations", json!({"": "x"})), "an annotation has a key"),
        (with("/platforms/1/image", json!("registry.test/Web:1")), "in lower case and without https://"),
        (with("/platforms/1/image", json!("https://registry.test/web:1")), "in lower case and without https://"),
        (with("/platforms/1/image", json!("registry.test/web@sha256:12")), "write an image reference such as"),
        (with("/platforms/1/image", json!("me@registry.test/web")), "write an image reference such as"),
        (with("/build/cache", json!({"type": "None", "from": ["r.test/A"]})), "write references such as"),
        (with("/build/cache", json!({"type": "Registry", "repository": "r.test:99999/a"})), "without a tag"),
        (with("/build/cache", json!({"type": "Volume", "volume": {"size": "1Gi", "storageClassName": "A B"}})), "write the name of a StorageClass"),
        (with("/build/remote", json!({"endpoint": "tcp://builder.test:123456"})), "write tcp://host:port"),
        (with("/build/target", json!("--help")), "target is the name of a stage"),
        (platform_build(json!({"target": "a b"})), "target is the name of a stage"),
        (with("/build/dockerfile", json!("Docker\nfile")), "dockerfile is a path within the context"),
        (with("/build/args", json!({"SOURCE_DATE_EPOCH": "today"})), "seconds since 1970, or context"),
        (platform_build(json!({"args": {"SOURCE_DATE_EPOCH": "today"}})), "seconds since 1970, or context"),
        (
            with("/build", json!({"context": {"inline": {"dockerfile": "FROM scratch"}}, "args": {"SOURCE_DATE_EPOCH": "context"}})),
            "SOURCE_DATE_EPOCH: context is the time of a git commit",
        ),
        (with("/build/labels", json!({"a=b": "c"})), "a label's key has neither blanks nor '='"),
        (secret("team-a/npm", "x"), "write the name of an object of this namespace"),
        (secret("Npm", "x"), "write the name of an object of this namespace"),
        (secret("npm", "a/b"), "a key of a Secret has letters"),
        (secret("npm", ".."), "a key of a Secret has letters"),
        (with("/registrySecrets", json!([{"name": "../x"}])), "write the name of an object of this namespace"),
        (with("/build/context", json!({"configMap": {"name": "A"}})), "write the name of an object of this namespace"),
        (with("/build/timeout", json!("99999999999999999999h")), "timeout is a duration"),
        (with("/build/timeout", json!("100000h")), "timeout is a duration"),
        (with("/build/ttlAfterFinished", json!("99999999999999999999h")), "ttlAfterFinished is a duration"),
        (with("/build/emulatedTimeout", json!("0s")), "emulatedTimeout is a duration of at least one second"),
        (platform_build(json!({"timeout": "9999999h"})), "timeout is a duration"),
        (platform_build(json!({"schedulingTimeout": "soon"})), "schedulingTimeout is a duration"),
        (pod(json!({"priorityClassName": "High"})), "write the name of an object"),
        (pod(json!({"runtimeClassName": "a_b"})), "write the name of an object"),
        (pod(json!({"nodeSelector": {"a b": "c"}})), "nodeSelector: write keys such as disk"),
        (pod(json!({"nodeSelector": {"disk": "a b"}})), "nodeSelector: write keys such as disk"),
        (pod(json!({"labels": {"team": "-a"}})), "labels: write keys such as disk"),
        (pod(json!({"labels": {"team": "a".repeat(64)}})), "may not be more than 63 bytes"),
        (pod(json!({"annotations": {"a b": "c"}})), "annotations: write keys such as example.com/note"),
        (pod(json!({"tolerations": [{"key": "a", "effect": "Never"}]})), "a toleration has operator Equal"),
        (pod(json!({"tolerations": [{"operator": "Equal"}]})), "a toleration has operator Equal"),
        (pod(json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]})), "a toleration has operator Equal"),
        (pod(json!({"tolerations": [{"key": "a", "tolerationSeconds": 1}]})), "a toleration has operator Equal"),
        (pod(json!({"resources": {"limits": {"mem": "1Gi"}}})), "write amounts of cpu, memory"),
        (pod(json!({"resources": {"limits": {"memory": "much"}}})), "write amounts of cpu, memory"),
        (pod(json!({"resources": {"limits": {"memory": -1}}})), "write amounts of cpu, memory"),
        (pod(json!({"resources": {"requests": {"cpu": "-1"}}})), "write amounts of cpu, memory"),
        (pod(json!({"resources": {"limits": {"cpu": 1.5}}})), "must be of type"),
        (pod(json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}})), "requests may not be more than limits"),
    ]);
    refused.push((
        with("/build/cache", json!({"type": "Registry", "repository": "evil.io/a:t,ref=reg.io/b:c,x=/y"})),
        "write registry/repository in lower case and without a tag",
    ));
    let mut wrong = Vec::new();
    let by_lint = refused_by_lint(refused.iter().map(|(spec, _)| spec)).await;
    let missed = (0..refused.len()).filter(|number| !by_lint.contains(number));
    wrong.extend(missed.map(|number| format!("not refused by lint: {}", refused[number].0)));
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

/// Every text of up to `length` of these pieces.
fn texts(pieces: &[&str], length: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..length {
        last =
            last.iter().flat_map(|text| pieces.iter().map(move |piece| format!("{text}{piece}"))).collect();
        all.extend(last.clone());
    }
    all
}

/// What the schema lets through the operator reads, and what names something in lower case gets through.
#[tokio::test]
async fn the_schema_and_the_operator_agree_on_names() {
    let world = World::new().await;
    let digest = format!("@sha256:{}", "0".repeat(64));
    let names = texts(&["a", "A", "9", "/", ":", ".", "-", "r.test:5000/", digest.as_str()], 3);
    let architectures = ["amd64", "arm", "arm64", "s390x"].map(|architecture| {
        [
            "", "/", "/v1", "/v2", "/v5", "/v7", "/v8", "/v8.0", "/v8.2", "/v9", "/v10", "/7", "/z15", "/V8",
            "/v8.x",
        ]
        .map(|variant| format!("linux/{architecture}{variant}"))
    });
    let images = names.iter().map(|name| {
        (format!("image {name}"), with("/platforms/1/image", json!(name)), name.parse::<Reference>().is_ok())
    });
    let repositories = names.iter().filter(|name| name.contains('/')).map(|name| {
        (
            format!("repository {name}"),
            with("/target/repository", json!(name)),
            name.parse::<Repository>().is_ok(),
        )
    });
    let all_platforms = architectures
        .iter()
        .flatten()
        .map(|name| (format!("platform {name}"), platforms(&[name]), name.parse::<Platform>().is_ok()));
    let cases: Vec<(String, Value, bool)> = images.chain(repositories).chain(all_platforms).collect();
    let tried = futures::stream::iter(cases).map(|(name, spec, expected)| {
        let world = &world;
        async move { (world.dry_run(spec).await.is_ok(), name, expected) }
    });
    let tried: Vec<(bool, String, bool)> = tried.buffer_unordered(8).collect().await;
    // 7 is v7 to the operator, and refused so that no platform has two names.
    let wrong: Vec<&String> = tried
        .iter()
        .filter(|(accepted, name, expected)| accepted != expected && !(name.ends_with("/7") && *expected))
        .map(|(_, name, _)| name)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried.iter().filter(|(accepted, ..)| *accepted).count() > 80);
}
