//! The registry client and the images against a real registry.

#[path = "support/registry.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use multiarch::image::{
    AssembledIndex, PlatformCheck, PublishError, ResolveError, ResolvedImage, TagPolicy, publish, resolve,
};
use multiarch::registry::{Copied, Digest, Keyring, Kind, MediaType, Reference, Session};
use serde_json::json;
use support::{PASSWORD, Registry, USER, add, client, index};

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host).parse().unwrap()
}

async fn resolved(registry: &Registry, rest: &str, platform: &str) -> Result<ResolvedImage, ResolveError> {
    let platform = platform.parse().unwrap();
    resolve(&registry.session(), &reference(registry, rest), &platform, PlatformCheck::Enforce).await
}

/// An index of two platforms, the first with an attestation.
async fn push_index(registry: &Registry, path: &str, tag: &str) -> Digest {
    let amd64 = registry.push_image(path, "", "linux/amd64").await;
    let arm64 = registry.push_image(path, "", "linux/arm64").await;
    let sbom = registry.push_image_of(path, "", &json!({"about": "amd64"}), &["an SBOM".to_owned()]).await;
    let content = index(&[
        (&amd64, json!({"platform": {"os": "linux", "architecture": "amd64"}})),
        (&arm64, json!({"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}})),
        (
            &sbom,
            json!({
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": amd64.digest,
                },
            }),
        ),
    ]);
    registry.push_manifest(path, tag, &content).await.digest
}

#[tokio::test]
async fn an_image_is_found_in_an_index_with_its_attestations() {
    let registry = Registry::anonymous();
    let digest = push_index(&registry, "team/web", "1").await;

    let amd64 = resolved(&registry, "team/web:1", "linux/amd64").await.unwrap();
    assert_eq!(amd64.source.digest, digest);
    assert_eq!(amd64.attestations.len(), 1);
    assert!(amd64.attestations[0].attests(&amd64.image.descriptor.digest));
    assert!(amd64.image.descriptor.digest.verifies(&amd64.image.bytes));

    let arm64 = resolved(&registry, &format!("team/web@{digest}"), "linux/arm64").await.unwrap();
    assert!(arm64.attestations.is_empty());
    assert_eq!(arm64.image.descriptor.platform.as_ref().unwrap().variant, None, "written as declared");

    let error = resolved(&registry, "team/web:1", "linux/s390x").await.unwrap_err();
    assert!(error.to_string().ends_with("the index has linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn an_image_is_found_in_an_index_within_an_index() {
    let registry = Registry::anonymous();
    let inner = push_index(&registry, "team/web", "inner").await;
    let inner =
        registry.session().get_manifest(&reference(&registry, &format!("team/web@{inner}"))).await.unwrap();
    registry.push_manifest("team/web", "outer", &index(&[(&inner.descriptor, json!({}))])).await;

    let amd64 = resolved(&registry, "team/web:outer", "linux/amd64").await.unwrap();
    assert_eq!(amd64.image.descriptor.media_type, MediaType::OCI_MANIFEST);
    assert_eq!(amd64.attestations.len(), 1);
}

#[tokio::test]
async fn an_image_that_is_alone_under_its_tag_is_found() {
    let registry = Registry::anonymous();
    let pushed = registry.push_image("team/web", "1-amd64", "linux/amd64").await;

    let image = resolved(&registry, "team/web:1-amd64", "linux/amd64").await.unwrap();
    assert_eq!(image.source, pushed);
    assert_eq!(image.image.descriptor.digest, pushed.digest);
}

#[tokio::test]
async fn an_image_for_another_platform_is_refused() {
    let registry = Registry::anonymous();
    let amd64 = registry.push_image("team/web", "1", "linux/amd64").await;
    let lie = index(&[(&amd64, json!({"platform": {"os": "linux", "architecture": "arm64"}}))]);
    registry.push_manifest("team/web", "lie", &lie).await;

    for name in ["team/web:1", "team/web:lie"] {
        let error = resolved(&registry, name, "linux/arm64").await.unwrap_err();
        assert!(matches!(error, ResolveError::PlatformMismatch { .. }), "{error}");
        assert!(error.to_string().contains("the image is for linux/amd64, not for linux/arm64"), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_and_not_an_error_to_who_only_looks() {
    let registry = Registry::anonymous();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let (session, missing) = (registry.session(), reference(&registry, "team/web:2"));

    assert_eq!(session.head_manifest(&missing).await.unwrap(), None);
    let error = session.get_manifest(&missing).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("{missing}: not found (HTTP 404 MANIFEST_UNKNOWN, fetching the manifest)")
    );
    let found = session.head_manifest(&reference(&registry, "team/web:1")).await.unwrap().unwrap();
    assert_eq!(found, session.get_manifest(&reference(&registry, "team/web:1")).await.unwrap().descriptor);
    assert!(!session.has_blob(&registry.repository("team/web"), &Digest::sha256(b"nothing")).await.unwrap());
}

#[tokio::test]
async fn a_copy_within_a_registry_mounts_and_a_second_one_costs_one_request() {
    let registry = Registry::anonymous();
    registry.push_image("team/base", "1", "linux/amd64").await;
    let image = resolved(&registry, "team/base:1", "linux/amd64").await.unwrap().image;
    let (source, target) = (registry.repository("team/base"), registry.repository("team/web"));
    let client = client();
    let session = client.session(Arc::new(Keyring::default()));

    let copied = session.copy(&source, &target, &image).await.unwrap();
    assert_eq!(copied, Copied { mounted: 3, ..Copied::default() });
    let requests = client.requests();
    assert_eq!(requests, 5, "looked, mounted three, wrote the manifest");
    let copied = session.copy(&source, &target, &image).await.unwrap();
    assert_eq!((copied, client.requests()), (Copied { present: 3, ..Copied::default() }, requests + 1));
    assert_eq!(unchanged(&session, &target.with_digest(&image.descriptor.digest)).await, image.bytes);
}

#[tokio::test]
async fn a_copy_across_registries_leaves_every_byte_as_it_is() {
    let (from, to) = (Registry::anonymous(), Registry::with_password());
    let large = "0123456789abcdef".repeat(1 << 17);
    let config = json!({"os": "linux", "architecture": "amd64"});
    from.push_image_of("team/web", "1", &config, &[large.clone(), String::new(), large.clone()]).await;
    let image = resolved(&from, "team/web:1", "linux/amd64").await.unwrap().image;
    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let session = to.session();

    let copied = session.copy(&source, &target, &image).await.unwrap();
    assert_eq!((copied.uploaded, copied.bytes), (3, (large.len() + config.to_string().len()) as u64));
    assert_eq!(unchanged(&session, &target.with_digest(&image.descriptor.digest)).await, image.bytes);
    let layer = multiarch::registry::Descriptor::new(
        MediaType::new("application/vnd.oci.image.layer.v1.tar"),
        Digest::sha256(large.as_bytes()),
        large.len() as u64,
    );
    assert_eq!(session.get_blob_bytes(&target, &layer, 1 << 24).await.unwrap(), large);
}

async fn unchanged(session: &Session, reference: &Reference) -> bytes::Bytes {
    session.get_manifest(reference).await.unwrap().bytes
}

#[tokio::test]
async fn a_copy_to_itself_only_verifies_that_the_image_is_there() {
    let registry = Registry::anonymous();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let image = resolved(&registry, "team/web:1", "linux/amd64").await.unwrap().image;
    let (here, elsewhere) = (registry.repository("team/web"), registry.repository("team/other"));
    let session = registry.session();

    assert_eq!(session.copy(&here, &here, &image).await.unwrap().present, 3);
    assert_eq!(session.copy(&elsewhere, &elsewhere, &image).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn platforms_that_share_a_blob_upload_it_once() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    push_index(&from, "team/web", "1").await;
    let (amd64, arm64) = tokio::join!(
        resolved(&from, "team/web:1", "linux/amd64"),
        resolved(&from, "team/web:1", "linux/arm64")
    );
    let (amd64, arm64) = (amd64.unwrap().image, arm64.unwrap().image);
    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let session = to.session();

    let (one, two) =
        tokio::join!(session.copy(&source, &target, &amd64), session.copy(&source, &target, &arm64));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.uploaded + two.uploaded, one.present + two.present), (5, 1));
}

#[tokio::test]
async fn an_index_is_published_under_all_its_tags_and_again_without_change() {
    let registry = Registry::with_password();
    push_index(&registry, "team/web", "source").await;
    let mut entries = Vec::new();
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = resolved(&registry, "team/web:source", platform).await.unwrap();
        entries.extend(image.descriptors().cloned());
    }
    let annotations = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1.4.2".to_owned())]);
    let index = AssembledIndex::assemble(None, &annotations, &entries).unwrap();
    let (session, repository) = (registry.session(), registry.repository("team/web"));

    for _ in 0..2 {
        publish(&session, &repository, &index, &["1.4.2", "1.4", "latest"], TagPolicy::Overwrite)
            .await
            .unwrap();
        for tag in ["1.4.2", "1.4", "latest"] {
            let found = session.get_manifest(&repository.with_tag(tag).unwrap()).await.unwrap();
            assert_eq!((found.descriptor, found.bytes), (index.descriptor.clone(), index.bytes.clone()));
        }
    }
    let arm64 = resolved(&registry, "team/web:latest", "linux/arm64").await.unwrap();
    assert_eq!(entries[2], arm64.image.descriptor, "what we publish we can read");
}

#[tokio::test]
async fn an_index_of_what_is_not_in_the_repository_is_refused() {
    let registry = Registry::anonymous();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let image = resolved(&registry, "team/web:1", "linux/amd64").await.unwrap();
    let entries: Vec<_> = image.descriptors().cloned().collect();
    let index = AssembledIndex::assemble(None, &BTreeMap::new(), &entries).unwrap();

    let (session, target) = (registry.session(), registry.repository("team/other"));
    match publish(&session, &target, &index, &["1"], TagPolicy::Overwrite).await.unwrap_err() {
        PublishError::Registry(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn credentials_are_wanted_refused_and_accepted() {
    let registry = Registry::with_password();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let reference = reference(&registry, "team/web:1");
    let client = client();
    let with = |passwords: &[&str]| {
        let mut keyring = Keyring::default();
        for (number, password) in passwords.iter().enumerate() {
            let key = if number == 0 { format!("{}/team", registry.host) } else { registry.host.clone() };
            add(&mut keyring, &key, USER, password);
        }
        client.session(Arc::new(keyring))
    };

    let error = with(&[]).get_manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.to_string().contains("authentication required, and no credential matches"), "{error}");
    let error = with(&["wrong"]).get_manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.to_string().contains("authentication failed (HTTP 401 UNAUTHORIZED"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    with(&[PASSWORD]).get_manifest(&reference).await.unwrap();
    with(&["wrong", PASSWORD]).get_manifest(&reference).await.unwrap();
}

#[tokio::test]
async fn a_copy_works_with_the_second_of_two_credentials() {
    let (from, to) = (Registry::anonymous(), Registry::with_password());
    from.push_image("team/web", "1", "linux/amd64").await;
    let image = resolved(&from, "team/web:1", "linux/amd64").await.unwrap().image;
    let mut keyring = Keyring::default();
    add(&mut keyring, &format!("{}/acme", to.host), USER, "wrong");
    add(&mut keyring, &to.host, USER, PASSWORD);
    let session = client().session(Arc::new(keyring));

    let copied =
        session.copy(&from.repository("team/web"), &to.repository("acme/web"), &image).await.unwrap();
    assert_eq!(copied.uploaded, 3);
}

#[tokio::test]
async fn a_registry_that_takes_nothing_says_so() {
    let (from, to) = (Registry::anonymous(), Registry::read_only());
    from.push_image("team/web", "1", "linux/amd64").await;
    let image = resolved(&from, "team/web:1", "linux/amd64").await.unwrap().image;

    let copied = to.session().copy(&from.repository("team/web"), &to.repository("team/web"), &image).await;
    let error = copied.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().starts_with(&format!("{}/team/web", to.host)), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_told_by_its_leaf_cause() {
    let registry = Registry::anonymous();
    let (session, reference) = (registry.session(), reference(&registry, "team/web:1"));
    let host = registry.host.clone();
    drop(registry);

    let error = session.get_manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.is_transient());
    assert_eq!(
        error.to_string(),
        format!("{reference}: connection refused (at {host}, fetching the manifest)")
    );
}
