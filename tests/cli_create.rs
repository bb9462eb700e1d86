//! `multiarch create`: resources made of flags.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;

use command::{Ran, command, multiarch, run};
use serde_json::{Value, json};

const BUILT: [&str; 8] = [
    "web",
    "--tag",
    "registry.example.com/web:1.4.2",
    "--platform",
    "linux/amd64,linux/arm64/v8",
    "--git",
    "https://github.com/acme/web",
    "--ref=v1.4.2",
];

async fn create(arguments: &[&str]) -> Ran {
    multiarch(&[&["create"], arguments].concat()).await
}

async fn built(more: &[&str]) -> Ran {
    create(&[&BUILT, more].concat()).await
}

async fn spec(more: &[&str]) -> Value {
    let resource: Value = serde_saphyr::from_str(&built(more).await.ok().stdout).expect("YAML");
    resource["spec"].clone()
}

#[tokio::test]
async fn what_is_printed_is_what_one_would_write_by_hand() {
    let ran = built(&[
        "-t",
        "latest",
        "--build-arg",
        "VERSION=1.4.2",
        "-n",
        "team-a",
        "--registry-secret",
        "regcred",
    ]);
    let ran = ran.await.ok();
    assert_eq!(
        ran.stdout,
        "\
apiVersion: multiarch.dev/v1alpha1
kind: MultiArchImage
metadata:
  name: web
  namespace: team-a
spec:
  target:
    repository: registry.example.com/web
    tags:
    - \"1.4.2\"
    - latest
  platforms:
  - platform: linux/amd64
  - platform: linux/arm64
  build:
    context:
      git:
        url: https://github.com/acme/web
        ref: v1.4.2
    args:
      VERSION: \"1.4.2\"
  registrySecrets:
  - name: regcred
"
    );
    assert_eq!(ran.stderr, "");
    let json: Value = built(&["-o", "json"]).await.json();
    assert_eq!(json["spec"]["target"]["tags"], json!(["1.4.2"]));
}

#[tokio::test]
async fn flags_of_buildx_become_fields() {
    let spec = spec(&[
        "--file=build/Dockerfile",
        "--target=runtime",
        "--secret=id=npmrc,secret=npm,key=.npmrc",
        "--ssh=deploy-key",
        "--label=a=b",
        "--build-context=base=docker-image://alpine:3.22",
        "--provenance=mode=max",
        "--sbom=true",
        "--cache-to=type=registry,ref=registry.example.com/cache,mode=min",
        "--cache-from=type=registry,ref=registry.example.com/cache:main",
        "--annotation=org.opencontainers.image.source=https://github.com/acme/web",
        "--tag-policy=if-absent",
        "--format=oci",
        "--timeout=45m",
        "--scheduling-timeout=10m",
        "--git-secret=github",
        "--sub-path=services/web",
        "--when-no-node=linux/arm64=emulate",
    ])
    .await;
    assert_eq!(
        spec,
        json!({
            "target": {
                "repository": "registry.example.com/web", "tags": ["1.4.2"], "format": "OCI", "tagPolicy": "IfAbsent",
                "annotations": {"org.opencontainers.image.source": "https://github.com/acme/web"},
            },
            "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64", "whenNoNode": "Emulate"}],
            "build": {
                "context": {"git": {
                    "url": "https://github.com/acme/web", "ref": "v1.4.2", "subPath": "services/web",
                    "secretRef": {"name": "github"},
                }},
                "dockerfile": "build/Dockerfile", "target": "runtime",
                "contexts": {"base": "docker-image://alpine:3.22"},
                "secrets": [{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}],
                "ssh": {"secretRef": {"name": "deploy-key"}},
                "labels": {"a": "b"},
                "attestations": {"provenance": "Max", "sbom": true},
                "cache": {
                    "type": "Registry", "repository": "registry.example.com/cache", "mode": "Min",
                    "from": ["registry.example.com/cache:main"],
                },
                "timeout": "45m", "schedulingTimeout": "10m",
            },
        })
    );
}

#[tokio::test]
async fn what_is_the_default_is_left_out() {
    let spec = spec(&[
        "--file=Dockerfile",
        "--provenance=false",
        "--sbom=false",
        "--tag-policy=overwrite",
        "--when-no-node=Wait",
        "--cache-to=type=registry,mode=max",
    ])
    .await;
    let git = json!({"url": "https://github.com/acme/web", "ref": "v1.4.2"});
    assert_eq!(spec["build"], json!({"context": {"git": git}, "cache": {"type": "Registry"}}));
    assert_eq!(spec["platforms"], json!([{"platform": "linux/amd64"}, {"platform": "linux/arm64"}]));
    assert_eq!(spec["target"].as_object().map(serde_json::Map::len), Some(2));
}

#[tokio::test]
async fn images_that_exist_stand_beside_those_that_are_built() {
    let mixed = spec(&["--image", "linux/s390x=ghcr.io/acme/web:1.4.2-s390x"]).await;
    assert_eq!(
        mixed["platforms"],
        json!([
            {"platform": "linux/amd64"}, {"platform": "linux/arm64"},
            {"platform": "linux/s390x", "image": "ghcr.io/acme/web:1.4.2-s390x"},
        ])
    );
    let of_index = create(&[
        "web",
        "--repository",
        "registry.example.com/web",
        "--tag",
        "1",
        "--platform",
        "linux/amd64,linux/arm64",
        "-i",
        "ghcr.io/acme/web:1",
        "-o",
        "json",
    ]);
    assert_eq!(
        of_index.await.json()["spec"],
        json!({
            "target": {"repository": "registry.example.com/web", "tags": ["1"]},
            "platforms": [
                {"platform": "linux/amd64", "image": "ghcr.io/acme/web:1"},
                {"platform": "linux/arm64", "image": "ghcr.io/acme/web:1"},
            ],
        })
    );
}

#[tokio::test]
async fn a_dockerfile_of_this_machine_stands_in_the_resource_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("Dockerfile");
    let text = "# syntax=docker/dockerfile:1\nFROM alpine:3.22\n\nRUN printf 'a: \"b\"\\n' \\\n  > /x\n";
    std::fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("a path");
    let ran =
        create(&["web", "-t", "a.io/web:1.0", "--platform=linux/amd64", "--dockerfile", path]).await.ok();
    let resource: Value = serde_saphyr::from_str(&ran.stdout).expect("YAML");
    assert_eq!(resource["spec"]["build"]["context"]["inline"]["dockerfile"], text);
    assert!(
        ran.stdout.contains("        dockerfile: |\n          # syntax=docker/dockerfile:1\n"),
        "{}",
        ran.stdout
    );
}

#[tokio::test]
async fn a_build_argument_without_a_value_is_that_of_the_environment() {
    let mut command =
        command(&[&["create"], BUILT.as_slice(), &["--build-arg", "VERSION", "-o", "json"]].concat());
    command.env("VERSION", "1.4.2");
    assert_eq!(run(command).await.json()["spec"]["build"]["args"], json!({"VERSION": "1.4.2"}));
    let said = built(&["--build-arg", "VERSION"]).await.failed(2);
    assert!(said.contains("the environment has no VERSION"), "{said}");
}

#[tokio::test]
async fn what_the_api_server_would_refuse_is_not_printed() {
    for (more, words) in [
        (vec!["--timeout", "soon"], "spec.build.timeout: timeout is a duration"),
        (vec!["-t", "-x"], "unexpected argument"),
        (vec!["-t", ".x"], "spec.target.tags: a tag has letters"),
        (vec!["-t", "1.4.2"], "spec.target.tags[1]: \"1.4.2\" is there twice"),
        (vec!["--commit", "abc"], "commit is the full commit hash"),
        (vec!["--cache-to", "type=volume"], "volume.size to type: Volume, which needs it"),
        (vec!["--platform", "linux/amd46"], "did you mean amd64?"),
        (
            vec!["--repository", "registry.example.com/other"],
            "one MultiArchImage publishes to one repository",
        ),
        (vec!["--config-map", "files"], "cannot be used with"),
        (vec!["--image", "ghcr.io/acme/web:1"], "every platform has an image, so nothing is built"),
        (vec!["--secret", "id=npmrc,src=/x"], "put the value into a Secret"),
        (
            vec!["--image", "linux/arm64=a.io/b:1", "--when-no-node", "linux/arm64=Emulate"],
            "--when-no-node: linux/arm64 has an image",
        ),
        (
            vec!["--when-no-node", "linux/s390x=Emulate"],
            "--when-no-node: linux/s390x is none of the platforms",
        ),
        (
            vec!["--image", "linux/s390x=a.io/b:1", "--image", "linux/s390x=a.io/c:1"],
            "--image: linux/s390x has one image; a.io/b:1 and a.io/c:1 are two",
        ),
        (vec!["-n", "Team"], "a namespace has small letters"),
    ] {
        let ran = built(&more).await;
        assert_eq!(ran.stdout, "", "{more:?}");
        let said = ran.failed(2);
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let said =
        create(&["Web", "-t", "a.io/b:1.0", "--platform=linux/amd64", "-i", "a.io/c:1"]).await.failed(2);
    assert!(said.contains("metadata.name: \"Web\": a name has small letters"), "{said}");
    let copied =
        ["web", "-t", "a.io/b:1.0", "--platform=linux/amd64", "-i", "a.io/c:1", "--when-no-node=Skip"];
    let said = create(&copied).await.failed(2);
    assert!(said.contains("--when-no-node: every platform has an image"), "{said}");
}

#[tokio::test]
async fn what_is_missing_is_told_with_the_flags_that_give_it() {
    let said =
        create(&["web", "-t", "1.0", "--platform", "linux/amd64", "--oci", "a.io/b:1"]).await.failed(2);
    assert!(said.contains("say where it goes: --repository"), "{said}");
    let said = create(&["web", "-t", "a.io/b:1.0", "--platform", "linux/amd64"]).await.failed(2);
    assert!(said.contains("linux/amd64 is to be built, and nothing says from what: give --git"), "{said}");
    let said = create(&["web", "-t", "a.io/b:1.0"]).await.failed(2);
    assert!(said.contains("name the platforms"), "{said}");
    let said = create(&["web", "-t", "a.io/b:1.0", "--timeout", "1h"]).await.failed(2);
    assert!(said.contains("--git"), "{said}");
}

#[tokio::test]
async fn what_is_unwise_is_told_beside_it() {
    let ran = built(&["--build-arg", "NPM_TOKEN=abc"]).await.ok();
    assert!(
        ran.stderr.contains("warning: spec.build.args.NPM_TOKEN: ")
            && ran.stderr.contains("[secret-in-args]"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("NPM_TOKEN"));
}
