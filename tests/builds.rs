//! Images that are built, by real BuildKit in Jobs on real nodes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use multiarch::api::{MultiArchImage, Phase};
use serde_json::json;
use support::builds::{inline, jobs, run_on, until_gone};
use support::git::GitRepository;
use support::images::Push;
use support::nodes::{TemporaryNode, needs_nodes};
use support::operator::{Operator, Start};
use support::{World, entry, has_condition, message};

/// A program that is compiled within the build and says what it runs on.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <sys/utsname.h>
int main(void) { struct utsname u; uname(&u); printf("hello from %s\n", u.machine); return 0; }
"#;

const DOCKERFILE: &str = "ARG BASE
FROM ${BASE} AS build
COPY main.c /src/main.c
RUN cc -O2 -o /hello /src/main.c
FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT [\"/hello\"]
";

#[tokio::test]
async fn a_program_compiled_for_two_platforms_and_an_existing_third_become_one_index_that_runs() {
    needs_nodes!("a_program_compiled_for_two_platforms_and_an_existing_third_become_one_index_that_runs");
    let world = World::new().await;
    let repository = GitRepository::create(&world, "app");
    let commit = repository.commit("main", &[("cmd/Dockerfile", DOCKERFILE), ("cmd/main.c", PROGRAM)]);
    let _operator = Operator::start(&world);
    let target = world.repository("app");
    let spec = json!({
        "target": {"repository": target, "tags": ["1.0", "latest"]},
        "platforms": [
            {"platform": "linux/amd64"},
            {"platform": "linux/arm64"},
            {"platform": "linux/s390x", "image": world.rig.images["uname-s390x"]},
        ],
        "build": {
            "context": {"git": {"url": repository.url, "ref": "main", "subPath": "cmd"}},
            "args": {"BASE": world.rig.images["compiler"]},
        },
    });
    world.apply("app", spec).await;
    let image = world.until_ready("app").await;
    let status = image.status.as_ref().expect("a status");
    assert_eq!(status.source_revision.as_deref(), Some(commit.as_str()));
    assert_eq!(status.published.as_ref().and_then(|it| it.source_revision.clone()), Some(commit));
    for (platform, architecture, machine) in [
        ("linux/amd64", "amd64", "x86_64"),
        ("linux/arm64", "arm64", "aarch64"),
        ("linux/s390x", "amd64", "s390x"),
    ] {
        let digest = entry(&image, platform).and_then(|entry| entry.digest.clone()).expect("a digest");
        let said = run_on(&world, architecture, &format!("{target}@{digest}")).await;
        assert!(said.contains(machine), "{platform} said {said:?}");
    }
    for (platform, node) in [("linux/amd64", "node-amd64"), ("linux/arm64", "node-arm64")] {
        assert_eq!(entry(&image, platform).and_then(|entry| entry.node.as_deref()), Some(node));
    }
    assert_eq!(jobs(&world).await.len(), 2);
}

#[tokio::test]
async fn one_failing_build_of_two_is_told_while_the_other_goes_on_and_nothing_is_tagged() {
    needs_nodes!("one_failing_build_of_two_is_told_while_the_other_goes_on_and_nothing_is_tagged");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let commands = "RUN if [ $(uname -m) = aarch64 ]; then echo 'no such header' >&2; exit 3; fi";
    world.apply("web", inline(&world, "web", &["linux/amd64", "linux/arm64"], commands)).await;
    let failed = world.until_platform("web", "linux/arm64", Phase::Failed, "BuildFailed").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("did not complete successfully: exit code: 3"), "{said}");
    assert!(failed.log_tail.expect("a log").contains("no such header"));
    assert_eq!(failed.attempts, Some(1), "what a retry does not cure is not retried");
    world.until_platform("web", "linux/amd64", Phase::Ready, "Verified").await;
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    assert!(
        message(&image, "Ready").starts_with("linux/arm64: BuildFailed: Dockerfile:2: RUN if "),
        "{}",
        message(&image, "Ready")
    );
    assert_eq!(Push::to(&world.repository("web")).read("1.0").await, None);
}

#[tokio::test]
async fn a_platform_without_a_node_waits_with_the_schedulers_words_and_does_not_fail() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/ppc64le"], "RUN true");
    // The rig's base image has nothing for it, which would be told first.
    spec["verify"] = json!({"baseImages": "Off"});
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", "linux/ppc64le", Phase::Waiting, "NoNodeForPlatform").await;
    let said = waiting.message.expect("a message");
    assert!(said.contains("nodes") && said.contains("(job/web-linux-ppc64le-"), "{said}");
    let image = world.until("web", "reconciling", |image| has_condition(image, "Reconciling", "True")).await;
    assert!(!has_condition(&image, "Stalled", "True"), "waiting is not failing");
}

#[tokio::test]
async fn a_platform_without_a_node_wakes_up_when_the_node_comes() {
    needs_nodes!("a_platform_without_a_node_wakes_up_when_the_node_comes");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    world.apply("web", inline(&world, "web", &["linux/s390x"], "RUN uname -m > /machine")).await;
    world.until_platform("web", "linux/s390x", Phase::Waiting, "NoNodeForPlatform").await;
    let _node = TemporaryNode::add("s390x");
    let image = world.until_ready("web").await;
    assert!(entry(&image, "linux/s390x").is_some_and(|entry| entry.node.as_deref() == Some("node-s390x")));
}

#[tokio::test]
async fn an_edit_in_the_middle_of_a_build_stops_it_and_builds_what_was_meant_last() {
    needs_nodes!("an_edit_in_the_middle_of_a_build_stops_it_and_builds_what_was_meant_last");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    world.apply("web", inline(&world, "web", &["linux/amd64"], "RUN sleep 600")).await;
    let building = world.until_platform("web", "linux/amd64", Phase::Building, "Building").await;
    let old = building.job.expect("a Job");
    world.apply("web", inline(&world, "web", &["linux/amd64"], "RUN echo quick")).await;
    until_gone(world.api::<Job>(), &old).await;
    let image = world.until_ready("web").await;
    assert_ne!(entry(&image, "linux/amd64").and_then(|entry| entry.job.clone()), Some(old));
    assert_eq!(jobs(&world).await.len(), 1);
}

#[tokio::test]
async fn only_the_platform_that_changed_is_built_again() {
    needs_nodes!("only_the_platform_that_changed_is_built_again");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    world.apply("web", inline(&world, "web", &["linux/amd64"], "RUN uname -m > /machine")).await;
    let first = world.until_ready("web").await;
    world
        .apply("web", inline(&world, "web", &["linux/amd64", "linux/arm64"], "RUN uname -m > /machine"))
        .await;
    let second = world.until_ready("web").await;
    let amd64 =
        |image: &MultiArchImage| entry(image, "linux/amd64").map(|it| (it.job.clone(), it.digest.clone()));
    assert_eq!(amd64(&first), amd64(&second));
    assert_eq!(jobs(&world).await.len(), 2);
}

#[tokio::test]
async fn suspending_stops_a_running_build() {
    needs_nodes!("suspending_stops_a_running_build");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN sleep 600");
    world.apply("web", spec.clone()).await;
    let building = world.until_platform("web", "linux/amd64", Phase::Building, "Building").await;
    spec["suspend"] = json!(true);
    world.apply("web", spec).await;
    until_gone(world.api::<Job>(), &building.job.expect("a Job")).await;
    let pods = world.api::<Pod>();
    for pod in pods.list(&ListParams::default()).await.expect("pods") {
        until_gone(pods.clone(), &pod.name_any()).await;
    }
}

#[tokio::test]
async fn deleting_the_image_takes_its_builds_along() {
    needs_nodes!("deleting_the_image_takes_its_builds_along");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    world.apply("web", inline(&world, "web", &["linux/amd64"], "RUN sleep 600")).await;
    let building = world.until_platform("web", "linux/amd64", Phase::Building, "Building").await;
    world.api::<MultiArchImage>().delete("web", &DeleteParams::default()).await.expect("it can be deleted");
    until_gone(world.api::<Job>(), &building.job.expect("a Job")).await;
}

#[tokio::test]
async fn a_config_map_is_a_context_that_is_looked_for_read_once_and_pinned() {
    needs_nodes!("a_config_map_is_a_context_that_is_looked_for_read_once_and_pinned");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "");
    spec["build"]["context"] = json!({"configMap": {"name": "context"}});
    world.apply("web", spec.clone()).await;
    let waiting = world.until_platform("web", "linux/amd64", Phase::Waiting, "ContextNotFound").await;
    let said = waiting.message.expect("a message");
    assert!(said.contains("configmap/context does not exist"), "{said}");

    let files = |names: &[(&str, String)]| -> BTreeMap<String, String> {
        names.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect()
    };
    let mut config_map = ConfigMap {
        metadata: ObjectMeta { name: Some("context".to_owned()), ..ObjectMeta::default() },
        data: Some(files(&[("readme.txt", "hello".to_owned())])),
        ..ConfigMap::default()
    };
    let api = world.api::<ConfigMap>();
    config_map = api.create(&PostParams::default(), &config_map).await.expect("a ConfigMap");
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "ContextNotFound").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("has no key \"Dockerfile\"; it has: readme.txt"), "{said}");

    let base = &world.rig.images["busybox"];
    config_map.data = Some(files(&[
        ("Dockerfile", format!("FROM {base}\nCOPY readme.txt /readme.txt\nCMD [\"cat\", \"/readme.txt\"]\n")),
        ("readme.txt", "hello from a ConfigMap".to_owned()),
    ]));
    api.replace("context", &PostParams::default(), &config_map).await.expect("a ConfigMap");
    let image = world.until_ready("web").await;
    let digest = entry(&image, "linux/amd64").and_then(|entry| entry.digest.clone()).expect("a digest");
    let said = run_on(&world, "amd64", &format!("{}@{digest}", world.repository("web"))).await;
    assert_eq!(said, "hello from a ConfigMap");

    // The build waits for a node while its context is edited under it.
    spec["target"]["repository"] = json!(world.repository("late"));
    spec["build"]["pod"] = json!({"nodeSelector": {"test.multiarch.dev/late": world.namespace}});
    world.apply("late", spec).await;
    world.until_platform("late", "linux/amd64", Phase::Waiting, "Unschedulable").await;
    let edit = json!({"data": {"readme.txt": "something else"}});
    api.patch("context", &PatchParams::default(), &Patch::Merge(edit)).await.expect("it can be edited");
    let nodes: Api<Node> = Api::all(world.client.clone());
    let label = json!({"metadata": {"labels": {"test.multiarch.dev/late": world.namespace}}});
    nodes.patch("node-amd64", &PatchParams::default(), &Patch::Merge(label)).await.expect("a node");
    let failed = world.until_platform("late", "linux/amd64", Phase::Failed, "ContextChanged").await;
    assert!(failed.message.expect("a message").contains("the ConfigMap was edited after it was read"));
}

#[tokio::test]
async fn a_git_ref_that_does_not_exist_is_named_with_the_nearest_one() {
    let world = World::new().await;
    let repository = GitRepository::create(&world, "app");
    repository.commit("release", &[("Dockerfile", "FROM scratch\n")]);
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "");
    spec["build"]["context"] = json!({"git": {"url": repository.url, "ref": "relaese"}});
    world.apply("web", spec.clone()).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "ContextNotFound").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("no branch or tag is named \"relaese\"; did you mean release?"), "{said}");

    spec["build"]["context"] = json!({"git": {"url": format!("{}/nothing.git", world.rig.git.url)}});
    world.apply("web", spec).await;
    let no_repository =
        |image: &MultiArchImage| message(image, "Ready").contains("no git repository is there");
    world.until("web", "told that there is no repository", no_repository).await;
}

#[tokio::test]
async fn a_dockerfile_that_is_not_there_or_does_not_parse_is_told_and_not_retried() {
    needs_nodes!("a_dockerfile_that_is_not_there_or_does_not_parse_is_told_and_not_retried");
    let world = World::new().await;
    let repository = GitRepository::create(&world, "app");
    repository.commit("main", &[("readme.txt", "no Dockerfile here\n")]);
    let _operator = Operator::start(&world);
    let mut absent = inline(&world, "absent", &["linux/amd64"], "");
    absent["build"]["context"] = json!({"git": {"url": repository.url}});
    world.apply("absent", absent).await;
    world.apply("broken", inline(&world, "broken", &["linux/amd64"], "RUM true")).await;
    let failed = world.until_platform("absent", "linux/amd64", Phase::Failed, "ContextNotFound").await;
    assert_eq!(failed.attempts, Some(1));
    assert!(failed.message.expect("a message").contains("failed to read dockerfile"));
    let failed = world.until_platform("broken", "linux/amd64", Phase::Failed, "BuildFailed").await;
    assert_eq!(failed.attempts, Some(1));
    assert!(failed.message.expect("a message").contains("unknown instruction: RUM"));
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_ended() {
    needs_nodes!("a_build_that_takes_too_long_is_ended");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN sleep 600");
    spec["build"]["timeout"] = json!("5s");
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "BuildTimeout").await;
    assert!(failed.message.expect("a message").contains("did not end within 5 s"));
}

#[tokio::test]
async fn a_push_that_is_denied_to_a_build_is_told() {
    needs_nodes!("a_push_that_is_denied_to_a_build_is_told");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &["linux/amd64"], "RUN true");
    let target = format!("{}/{}/web", world.rig.read_only_registry.host, world.namespace);
    spec["target"]["repository"] = json!(target);
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "PushDenied").await;
    assert_eq!(failed.attempts, Some(1));
}

#[tokio::test]
async fn a_private_registry_is_built_for_and_from_with_one_secret_and_with_several() {
    needs_nodes!("a_private_registry_is_built_for_and_from_with_one_secret_and_with_several");
    let world = World::new().await;
    let private = &world.rig.private_registry;
    for (name, host, password) in
        [("right", &private.host, private.password.as_str()), ("other", &world.rig.registry, "x")]
    {
        let document =
            json!({"auths": {host.as_str(): {"username": private.username, "password": password}}});
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some(
                [(".dockerconfigjson".to_owned(), ByteString(document.to_string().into_bytes()))].into(),
            ),
            ..Secret::default()
        };
        world.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
    }
    let _operator = Operator::start(&world);
    for (name, secrets) in
        [("one", json!([{"name": "right"}])), ("two", json!([{"name": "right"}, {"name": "other"}]))]
    {
        let mut spec = inline(&world, name, &["linux/amd64"], "RUN true");
        spec["target"]["repository"] = json!(format!("{}/{}/{name}", private.host, world.namespace));
        spec["registrySecrets"] = secrets;
        if name == "two" {
            // The base image is private too: it is what the first one has published.
            let base = format!("FROM {}/{}/one:1.0\nRUN true\n", private.host, world.namespace);
            spec["build"]["context"]["inline"]["dockerfile"] = json!(base);
        }
        world.apply(name, spec).await;
        let image = world.until_ready(name).await;
        let told = serde_json::to_string(&(image.status, jobs(&world).await)).expect("JSON");
        assert!(!told.contains(&private.password), "a password stands where everybody reads");
    }
}

#[tokio::test]
async fn a_builder_image_that_cannot_be_pulled_is_told() {
    needs_nodes!("a_builder_image_that_cannot_be_pulled_is_told");
    let world = World::new().await;
    let missing = format!("{}/no/builder:1", world.rig.registry);
    let _operator = Start::new(&world).builder_image(&missing).run();
    world.apply("web", inline(&world, "web", &["linux/amd64"], "RUN true")).await;
    let waiting = world.until_platform("web", "linux/amd64", Phase::Waiting, "ImagePullFailed").await;
    assert!(waiting.message.expect("a message").contains("no/builder"));
}
