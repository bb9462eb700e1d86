//! Images made of images: what is resolved, copied, published, and what is refused. Needs no nodes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use multiarch::api::{MultiArchImage, Phase};
use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::images::Push;
use support::operator::{Operator, Start};
use support::{World, entry, has_condition, is_ready, message};

fn source(platform: &str, image: &str) -> Value {
    json!({"platform": platform, "image": image})
}

fn docker_config(host: &str, username: &str, password: &str) -> ByteString {
    let document = json!({"auths": {host: {"username": username, "password": password}}});
    ByteString(document.to_string().into_bytes())
}

async fn create_secret(world: &World, name: &str, document: ByteString) {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), document)].into()),
        ..Secret::default()
    };
    world.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
}

#[tokio::test]
async fn three_sources_from_three_repositories_become_one_index_with_their_bytes_unchanged() {
    let world = World::new().await;
    let private = &world.rig.private_registry;
    create_secret(&world, "regcred", docker_config(&private.host, &private.username, &private.password))
        .await;
    let (one, two) = (world.repository("one"), world.repository("two"));
    let three = format!("{}/{}/three", private.host, world.namespace);
    let amd64 = Push::to(&one).image("v1", "linux/amd64", "amd64").await;
    let arm64 = Push::to(&two).image("v1", "linux/arm64/v8", "arm64").await;
    let other = Push::to(&two).image("other", "linux/amd64", "other").await;
    Push::to(&two).index("both", &[&arm64, &other]).await;
    let s390x = Push::to(&three).credentials(private).image("v1", "linux/s390x", "s390x").await;
    let _operator = Operator::start(&world);

    let target = world.repository("web");
    let spec = json!({
        "target": {"repository": target, "tags": ["1.0", "latest"]},
        "platforms": [
            source("linux/amd64", &format!("{one}:v1")),
            source("linux/arm64", &format!("{two}:both")),
            source("linux/s390x", &format!("{three}@{}", s390x.digest)),
        ],
        "registrySecrets": [{"name": "regcred"}],
    });
    world.apply("web", spec).await;
    let image = world.until_ready("web").await;

    let status = image.status.expect("a status");
    let digests: Vec<&str> = status.platforms.iter().filter_map(|entry| entry.digest.as_deref()).collect();
    assert_eq!(digests, [&amd64.digest, &arm64.digest, &s390x.digest]);
    assert_eq!(status.ready_platforms.as_deref(), Some("3/3"));
    for tag in ["1.0", "latest"] {
        let bytes = Push::to(&target).read(tag).await.expect("the tag");
        assert_eq!(Some(Digest::sha256(&bytes).to_string()), status.digest);
    }
    for (from, child) in [(&one, &amd64), (&two, &arm64)] {
        let here = Push::to(&target).read(&child.digest).await.expect("the child");
        assert_eq!(Some(here), Push::to(from).read(&child.digest).await, "byte for byte");
    }
    let raw = support::skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{target}:1.0")]);
    let index: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(
        Some(Digest::sha256(raw.as_bytes()).to_string()),
        status.digest,
        "skopeo reads the same bytes"
    );
    let platforms: Vec<&str> = index["manifests"]
        .as_array()
        .expect("manifests")
        .iter()
        .filter_map(|m| m["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "s390x"], "in the order of the spec");
    let crane = support::crane(&["validate", "--insecure", "--remote", &format!("{target}:latest")]);
    assert!(crane.contains("PASS"), "{crane}");
}

#[tokio::test]
async fn publishing_again_gives_the_same_digest_and_a_restart_writes_nothing() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let mut operator = Operator::start(&world);
    let spec = |tags: Value| {
        json!({"target": {"repository": world.repository("web"), "tags": tags},
               "platforms": [source("linux/amd64", &format!("{from}:v1"))]})
    };
    world.apply("web", spec(json!(["a"]))).await;
    let first = world.until_ready("web").await;
    world.apply("web", spec(json!(["a", "b"]))).await;
    let second = world.until_ready("web").await;
    let digest = |image: &MultiArchImage| image.status.as_ref().and_then(|status| status.digest.clone());
    assert_eq!(digest(&first), digest(&second));

    operator.kill().await;
    let operator = Operator::start(&world);
    // A second image that becomes ready shows that the operator has been through the first.
    world.apply("witness", spec(json!(["c"]))).await;
    world.until_ready("witness").await;
    let third = world.until_ready("web").await;
    assert_eq!(second.metadata.resource_version, third.metadata.resource_version, "{}", operator.log());
}

#[tokio::test]
async fn a_wrong_platform_in_a_source_is_refused_with_nothing_tagged() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("amd64", "linux/amd64", "right").await;
    Push::to(&from).image("arm64", "linux/amd64", "a lie").await;
    let _operator = Operator::start(&world);
    let target = world.repository("web");
    let spec = json!({
        "target": {"repository": target, "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{from}:amd64")), source("linux/arm64", &format!("{from}:arm64"))],
    });
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/arm64", Phase::Failed, "PlatformMismatch").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("linux/amd64") && said.contains("linux/arm64"), "{said}");
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    world.until_platform("web", "linux/amd64", Phase::Ready, "Verified").await;
    assert!(
        message(&image, "Ready").starts_with("linux/arm64: PlatformMismatch: "),
        "{}",
        message(&image, "Ready")
    );
    assert_eq!(Push::to(&target).read("1.0").await, None);
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named_and_found_when_it_comes() {
    let world = World::new().await;
    let from = world.repository("from");
    let _operator = Operator::start(&world);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{from}:v1"))],
    });
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "SourceNotFound").await;
    let said = failed.message.expect("a message");
    assert!(said.starts_with(&format!("{from}:v1: not found")), "{said}");
    Push::to(&from).image("v1", "linux/amd64", "late").await;
    world.until_ready("web").await;
}

#[tokio::test]
async fn an_index_without_the_platform_says_which_it_has() {
    let world = World::new().await;
    let from = world.repository("from");
    let amd64 = Push::to(&from).image("amd64", "linux/amd64", "amd64").await;
    let armv7 = Push::to(&from).image("armv7", "linux/arm/v7", "armv7").await;
    Push::to(&from).index("both", &[&amd64, &armv7]).await;
    let _operator = Operator::start(&world);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/arm64", &format!("{from}:both"))],
    });
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/arm64", Phase::Failed, "SourceNotFound").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("no image for linux/arm64") && said.contains("linux/amd64"), "{said}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_waited_for() {
    let world = World::new().await;
    // A port that was free a moment ago, on which nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let down = listener.local_addr().expect("an address");
    drop(listener);
    let _operator = Start::new(&world).plain_http(&down.to_string()).run();
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{down}/web:1.0"))],
    });
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", "linux/amd64", Phase::Waiting, "RegistryUnavailable").await;
    let said = waiting.message.expect("a message");
    assert!(said.to_lowercase().contains("connection refused") && said.contains(&down.to_string()), "{said}");
    let image = world.until("web", "reconciling", |image| has_condition(image, "Reconciling", "True")).await;
    assert!(!has_condition(&image, "Stalled", "True"));
}

#[tokio::test]
async fn a_denied_push_is_told_and_tags_nothing() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let _operator = Operator::start(&world);
    let target = format!("{}/{}/web", world.rig.read_only_registry.host, world.namespace);
    let spec = json!({
        "target": {"repository": target, "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{from}:v1"))],
    });
    world.apply("web", spec).await;
    let failed = world.until_platform("web", "linux/amd64", Phase::Failed, "PushDenied").await;
    let said = failed.message.expect("a message");
    assert!(said.contains(&world.rig.read_only_registry.host), "{said}");
    assert_eq!(Push::to(&target).read("1.0").await, None);
}

#[tokio::test]
async fn wrong_credentials_are_told_without_telling_them() {
    let world = World::new().await;
    let private = &world.rig.private_registry;
    create_secret(&world, "regcred", docker_config(&private.host, "somebody", "hunter2secret")).await;
    let operator = Operator::start(&world);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{}/web:1.0", private.host))],
        "registrySecrets": [{"name": "regcred"}],
    });
    world.apply("web", spec).await;
    world.until_platform("web", "linux/amd64", Phase::Failed, "AuthenticationFailed").await;
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    let told = format!("{}{}", serde_json::to_string(&image.status).expect("JSON"), operator.log());
    assert!(!told.contains("hunter2secret"));
}

#[tokio::test]
async fn a_password_that_is_corrected_in_its_secret_is_used_without_anything_else() {
    let world = World::new().await;
    let private = &world.rig.private_registry;
    let from = format!("{}/{}/from", private.host, world.namespace);
    Push::to(&from).credentials(private).image("v1", "linux/amd64", "content").await;
    create_secret(&world, "regcred", docker_config(&private.host, &private.username, "withdrawn")).await;
    let _operator = Operator::start(&world);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{from}:v1"))],
        "registrySecrets": [{"name": "regcred"}],
    });
    world.apply("web", spec).await;
    world.until_platform("web", "linux/amd64", Phase::Failed, "AuthenticationFailed").await;
    let right = docker_config(&private.host, &private.username, &private.password);
    let patch = json!({"data": {".dockerconfigjson": right}});
    world
        .api::<Secret>()
        .patch("regcred", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("a Secret");
    world.until_ready("web").await;
}

#[tokio::test]
async fn a_secret_that_is_missing_is_waited_for_and_used_when_it_appears() {
    let world = World::new().await;
    let private = &world.rig.private_registry;
    let from = format!("{}/{}/from", private.host, world.namespace);
    Push::to(&from).credentials(private).image("v1", "linux/amd64", "content").await;
    let _operator = Operator::start(&world);
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [source("linux/amd64", &format!("{from}:v1"))],
        "registrySecrets": [{"name": "regcred"}],
    });
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", "linux/amd64", Phase::Waiting, "SecretNotFound").await;
    assert_eq!(
        waiting.message,
        Some(format!("secret/regcred does not exist in namespace {}; create it", world.namespace))
    );
    create_secret(&world, "regcred", docker_config(&private.host, &private.username, &private.password))
        .await;
    world.until_ready("web").await;
}

#[tokio::test]
async fn an_edit_in_the_middle_publishes_what_was_meant_last() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "old").await;
    let new = Push::to(&from).image("v2", "linux/amd64", "new").await;
    let _operator = Operator::start(&world);
    let spec = |tag: &str| {
        json!({"target": {"repository": world.repository("web"), "tags": ["1.0"]},
               "platforms": [source("linux/amd64", &format!("{from}:{tag}"))]})
    };
    // The second edit meets the first one wherever it is.
    world.apply("web", spec("v1")).await;
    world.apply("web", spec("v2")).await;
    let image = world.until_ready("web").await;
    assert_eq!(entry(&image, "linux/amd64").and_then(|entry| entry.digest.clone()), Some(new.digest));
}

#[tokio::test]
async fn suspending_holds_everything_and_resuming_goes_on() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let _operator = Start::new(&world).run();
    let target = world.repository("web");
    let spec = |suspend: bool| {
        json!({"target": {"repository": target, "tags": ["1.0"]}, "suspend": suspend,
               "platforms": [source("linux/amd64", &format!("{from}:v1"))]})
    };
    world.apply("web", spec(true)).await;
    world
        .until("web", "suspended", |image| {
            image
                .status
                .as_ref()
                .and_then(|s| s.condition("Ready"))
                .is_some_and(|ready| ready.reason == "Suspended")
        })
        .await;
    assert_eq!(Push::to(&target).read("1.0").await, None);
    world.apply("web", spec(false)).await;
    let image = world.until_ready("web").await;
    assert!(is_ready(&image));
}
