//! Flux's own controllers apply images from a git repository: what they make of them, and whether anybody overwrites
//! what the other has written.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use multiarch::api::{MANAGER, MultiArchImage};
use serde_json::{Value, json};
use support::builds::until_gone;
use support::flux::{Flux, git_repository, kustomization};
use support::git::GitRepository;
use support::images::Push;
use support::operator::Operator;
use support::recording::{Recording, condition, says};
use support::{World, has_condition, is_ready};

/// The file of an image of one source.
fn manifest(world: &World, tag: &str, tags: &[&str]) -> String {
    let image = json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "web"},
        "spec": {
            "target": {"repository": world.repository("web"), "tags": tags},
            "platforms": [{"platform": "linux/s390x", "image": format!("{}:{tag}", world.repository("from"))}],
        },
    });
    serde_saphyr::to_string(&image).expect("YAML")
}

async fn image(world: &World) -> MultiArchImage {
    world.api::<MultiArchImage>().get("web").await.expect("the image")
}

#[tokio::test]
async fn a_kustomization_that_waits_is_ready_exactly_when_the_image_is() {
    let world = World::new().await;
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    let flux = Flux::start(&world);
    let repository = GitRepository::create(&world, "fleet");
    let commit = repository.commit("main", &[("image.yaml", &manifest(&world, "v1", &["1.0"]))]);
    let mut recording = Recording::start(&world, &kustomization(), "fleet").await;
    flux.source("fleet", &repository).await;
    flux.kustomization("fleet", "./").await;
    world.until("web", "applied", |_| true).await;
    // Its health is being looked at before there is an operator.
    let checks = |object: &Value| {
        let message = condition(object, "Reconciling").map(|condition| condition["message"].to_string());
        message.is_some_and(|message| message.contains("health check"))
    };
    let versions = recording.until("looked at", checks).await;
    assert!(!versions.iter().any(|version| says(version, "Ready", "True")), "{versions:#?}");

    let operator = Operator::start(&world);
    recording.until("ready", |object| says(object, "Ready", "True")).await;
    let published = image(&world).await;
    assert!(is_ready(&published), "{published:#?}");

    // Again, by request and by a commit that changes nothing in it: nobody writes anything.
    flux.reconcile(&git_repository(), "fleet", "again").await;
    flux.reconcile(&kustomization(), "fleet", "again").await;
    let next = repository.commit("main", &[("README.md", "nothing in it changes")]);
    assert_ne!(commit, next);
    let applied = flux.until_applied("fleet", &next).await;
    assert!(says(&applied, "Ready", "True"));
    let after = image(&world).await;
    assert_eq!(published.metadata.resource_version, after.metadata.resource_version, "{}", operator.log());

    let fields = after.metadata.managed_fields.expect("managers of fields");
    for field in fields {
        let manager = field.manager.expect("a manager");
        let owned = field.fields_v1.expect("fields").0;
        assert_eq!(manager == MANAGER, owned.get("f:status").is_some(), "{manager}: {owned}");
        assert_eq!(manager != MANAGER, owned.get("f:spec").is_some(), "{manager}: {owned}");
    }
}

#[tokio::test]
async fn a_kustomization_fails_as_soon_as_the_image_is_stalled_and_recovers_with_the_next_commit() {
    let world = World::new().await;
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    let flux = Flux::start(&world);
    let _operator = Operator::start(&world);
    let repository = GitRepository::create(&world, "fleet");
    repository.commit("main", &[("image.yaml", &manifest(&world, "missing", &["1.0"]))]);
    flux.source("fleet", &repository).await;
    // It would wait for an hour, this test does not.
    flux.kustomization("fleet", "./").await;
    let failed = flux
        .until(&kustomization(), "fleet", "failed", |object| {
            condition(object, "Ready").is_some_and(|ready| ready["reason"] == "HealthCheckFailed")
        })
        .await;
    let message = condition(&failed, "Ready").expect("a condition")["message"].to_string();
    assert!(message.contains(&format!("MultiArchImage/{}/web", world.namespace)), "{message}");
    assert!(has_condition(&image(&world).await, "Stalled", "True"));

    let repaired = repository.commit("main", &[("image.yaml", &manifest(&world, "v1", &["1.0"]))]);
    flux.until_applied("fleet", &repaired).await;
    assert!(is_ready(&image(&world).await), "Flux says that it is");

    let edited = repository.commit("main", &[("image.yaml", &manifest(&world, "v1", &["1.0", "1.1"]))]);
    flux.until_applied("fleet", &edited).await;
    let image = image(&world).await;
    let tags = image.status.as_ref().and_then(|status| status.published.as_ref());
    assert_eq!(
        tags.map(|published| published.tags.len()),
        Some(2),
        "Flux did not take the old Ready for the new"
    );
    assert!(is_ready(&image));

    repository.git(&["rm", "--quiet", "image.yaml"]);
    let removed = repository.commit("main", &[]);
    flux.until_applied("fleet", &removed).await;
    until_gone(world.api::<MultiArchImage>(), "web").await;
}
