//! Whether the images that a Dockerfile needs are there, asked of a real registry.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;

use std::collections::BTreeMap;

use fault_server::{Answer, FaultServer};
use multiarch::dockerfile::{BaseImage, BuildParameters, base_images};
use multiarch::image::{BaseImageError, check_base_images};
use multiarch::platform::Platform;
use multiarch::registry::{Client, Keyring, Kind, Session, Settings};
use serde_json::json;
use support::{Registry, client, index};

/// What a build of this Dockerfile for `platform` needs, on a builder for `linux/amd64`.
fn needed(dockerfile: &str, platform: &str) -> Vec<BaseImage> {
    let nothing = BTreeMap::new();
    let (target, builder): (Platform, Platform) = (platform.parse().unwrap(), "linux/amd64".parse().unwrap());
    let build = BuildParameters {
        arguments: &nothing,
        target: None,
        target_platform: &target,
        build_platform: Some(&builder),
        contexts: &nothing,
    };
    base_images(dockerfile.as_bytes(), &build).unwrap()
}

async fn check(session: &Session, dockerfile: &str, platform: &str) -> Result<Vec<String>, BaseImageError> {
    check_base_images(session, &needed(dockerfile, platform)).await
}

/// Pushes an index of images for these platforms, and an attestation, as `path:1`.
async fn push_index(registry: &Registry, path: &str, platforms: &[&str]) {
    let mut entries = Vec::new();
    for platform in platforms {
        let mut parts = platform.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next().unwrap(), parts.next());
        let image = registry.push_image(path, "", &format!("linux/{architecture}")).await;
        let mut written = json!({"os": os, "architecture": architecture});
        if let Some(variant) = variant {
            written["variant"] = json!(variant);
        }
        entries.push((image, json!({"platform": written})));
    }
    let attestation = registry.push_image(path, "", "unknown/unknown").await;
    let about = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    entries.push((attestation, json!({"platform": unknown, "annotations": about})));
    let entries: Vec<_> = entries.iter().map(|(image, more)| (image, more.clone())).collect();
    registry.push_manifest(path, "1", &index(&entries)).await;
}

#[tokio::test]
async fn images_that_offer_the_platform_are_enough_to_build() {
    let registry = Registry::anonymous();
    push_index(&registry, "base", &["linux/amd64", "linux/arm64/v8", "linux/arm/v6"]).await;
    push_index(&registry, "tools", &["linux/amd64"]).await;
    let host = &registry.host;
    let dockerfile = format!(
        "FROM --platform=$BUILDPLATFORM {host}/tools:1 AS build\nFROM {host}/base:1\nCOPY --from=build a b\n"
    );
    // The last one is served with what was made for v6, as BuildKit does.
    for platform in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        assert_eq!(check(&registry.session(), &dockerfile, platform).await.unwrap(), [""; 0], "{platform}");
    }
    let client = client();
    let session = client.session(Keyring::default().into());
    let both = [needed(&dockerfile, "linux/amd64"), needed(&dockerfile, "linux/arm64")].concat();
    assert_eq!(both.len(), 4);
    check_base_images(&session, &both).await.unwrap();
    assert_eq!(client.requests(), 2, "each image is asked for once");
}

#[tokio::test]
async fn a_platform_that_an_image_does_not_have_is_told_with_the_line_and_those_it_has() {
    let registry = Registry::anonymous();
    push_index(&registry, "base", &["linux/arm64", "linux/amd64"]).await;
    let reference = format!("{}/base:1", registry.host);
    let dockerfile = format!("# for everyone\n\nFROM scratch\nCOPY --from={reference} a b\n");
    let error = check(&registry.session(), &dockerfile, "linux/riscv64").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Dockerfile line 4: {reference} has no image for linux/riscv64; it has linux/amd64, linux/arm64; \
             use an image that has linux/riscv64, or leave the platform out"
        )
    );
    assert!(matches!(error, BaseImageError::PlatformMissing { .. }));
    assert!(!error.is_transient() && error.registry().is_none());
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_told_with_its_line() {
    let registry = Registry::anonymous();
    let dockerfile = format!("FROM scratch AS a\nFROM {}/nothing:1\n", registry.host);
    let error = check(&registry.session(), &dockerfile, "linux/amd64").await.unwrap_err();
    assert!(matches!(error, BaseImageError::NotFound { line: 2, .. }), "{error}");
    let told = format!("Dockerfile line 2: there is no image {}/nothing:1; correct its name", registry.host);
    assert!(error.to_string().starts_with(&told), "{error}");
    assert_eq!(error.registry().unwrap().kind(), Kind::NotFound);
    assert!(!error.is_transient());
}

#[tokio::test]
async fn an_image_that_is_no_index_is_used_all_the_same_with_a_warning() {
    let registry = Registry::anonymous();
    registry.push_image("one", "1", "linux/amd64").await;
    let dockerfile = format!("FROM {}/one:1\n", registry.host);
    assert_eq!(check(&registry.session(), &dockerfile, "linux/amd64").await.unwrap(), [""; 0]);
    assert_eq!(
        check(&registry.session(), &dockerfile, "linux/arm64").await.unwrap(),
        [format!(
            "Dockerfile line 1: {}/one:1 is an image for linux/amd64 alone; it is used for linux/arm64 all the same",
            registry.host
        )]
    );
}

#[tokio::test]
async fn what_may_have_the_platform_is_left_to_the_builder() {
    let registry = Registry::anonymous();
    let image = registry.push_image("base", "", "linux/amd64").await;
    // An entry without a platform: its config would tell.
    registry.push_manifest("base", "silent", &index(&[(&image, json!({}))])).await;
    let inner = index(&[(&image, json!({"platform": {"os": "linux", "architecture": "amd64"}}))]);
    let inner = registry.push_manifest("base", "", &inner).await;
    registry.push_manifest("base", "nested", &index(&[(&inner, json!({}))])).await;
    for tag in ["silent", "nested"] {
        let dockerfile = format!("FROM {}/base:{tag}\n", registry.host);
        check(&registry.session(), &dockerfile, "linux/arm64").await.unwrap();
    }
    let warnings = check(&registry.session(), "FROM Not/A/Reference\n", "linux/arm64").await.unwrap();
    assert!(warnings[0].starts_with("Dockerfile line 1: not checked: "), "{warnings:?}");
}

#[tokio::test]
async fn credentials_that_are_missing_are_told_as_the_registry_tells() {
    let registry = Registry::with_password();
    push_index(&registry, "base", &["linux/amd64"]).await;
    let dockerfile = format!("\nFROM {}/base:1\n", registry.host);
    check(&registry.session(), &dockerfile, "linux/amd64").await.unwrap();
    let nobody = client().session(Keyring::default().into());
    let error = check(&nobody, &dockerfile, "linux/amd64").await.unwrap_err();
    assert!(matches!(&error, BaseImageError::Registry { line: 2, .. }), "{error}");
    assert_eq!(error.registry().unwrap().kind(), Kind::Unauthorized);
    assert!(error.to_string().starts_with("Dockerfile line 2: "), "{error}");
}

#[tokio::test]
async fn what_will_not_go_away_is_told_before_what_may() {
    let registry = Registry::anonymous();
    push_index(&registry, "base", &["linux/amd64"]).await;
    let failing = FaultServer::start(|_| Answer::status(503)).await;
    let mut settings = Settings::default();
    settings.retry.attempts = 1;
    let session = Client::new(&settings).unwrap().session(Keyring::default().into());
    let (host, failing) = (&registry.host, &failing.host);
    let failing = format!("FROM {failing}/x:1 AS a\n");
    let error = check(&session, &failing, "linux/s390x").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(error.registry().unwrap().kind(), Kind::Unavailable);

    let both = format!("{failing}FROM {host}/base:1\nCOPY --from=a x y\n");
    let error = check(&session, &both, "linux/s390x").await.unwrap_err();
    assert!(matches!(error, BaseImageError::PlatformMissing { line: 2, .. }), "{error}");
}
