//! One story of publishing at registries of several makes.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/registry.rs"]
mod support;

use std::collections::BTreeMap;

use fault_server::{Answer, FaultServer, blob, uploads};
use multiarch::image::{AssembledIndex, Format, PlatformCheck, ResolvedImage, TagPolicy, publish, resolve};
use multiarch::registry::{
    Delivery, Descriptor, Digest, Kind, Manifest, MediaType, Reference, Repository, Session,
};
use peers::{MAKES, Make};
use serde_json::{Value, json};
use support::Registry;

/// Tells the story at each make, all of them at once.
async fn everywhere<Story: Future<Output = ()>>(story: impl Fn(Make, Registry) -> Story) {
    futures::future::join_all(MAKES.map(|make| story(make, make.start()))).await;
}

async fn image(registry: &Registry, name: &str, platform: &str) -> ResolvedImage {
    let reference: Reference = format!("{}/{name}", registry.host).parse().unwrap();
    let platform = platform.parse().unwrap();
    resolve(&registry.session(), &reference, &platform, PlatformCheck::Enforce).await.unwrap()
}

fn assembled(images: &[ResolvedImage]) -> AssembledIndex {
    let entries: Vec<Descriptor> = images.iter().flat_map(ResolvedImage::descriptors).cloned().collect();
    let annotations = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1".to_owned())]);
    AssembledIndex::assemble(Some(Format::Oci), &annotations, &entries).unwrap()
}

/// Two platforms in `team/base`, each under its tag.
async fn two_platforms(registry: &Registry) -> Vec<ResolvedImage> {
    let mut images = Vec::new();
    for (tag, platform) in [("amd64", "linux/amd64"), ("arm64", "linux/arm64")] {
        registry.push_image("team/base", tag, platform).await;
        images.push(image(registry, &format!("team/base:{tag}"), platform).await);
    }
    images
}

async fn bytes_of(session: &Session, reference: &Reference) -> bytes::Bytes {
    session.get_manifest(reference).await.unwrap().bytes
}

#[tokio::test]
async fn an_index_is_published_from_a_neighbour_and_again_without_change() {
    everywhere(|make, registry| async move {
        let images = two_platforms(&registry).await;
        let (source, target) = (registry.repository("team/base"), registry.repository("team/web"));
        let session = registry.session();
        for image in &images {
            let copied = session.copy(&source, &target, &image.image).await.unwrap();
            let expected = if make.mounts { copied.uploaded == 0 } else { copied.mounted == 0 };
            assert!(expected, "{make:?}: {copied:?}");
        }
        let index = assembled(&images);
        for _ in 0..2 {
            publish(&session, &target, &index, &["1.4.2", "1.4", "latest"], TagPolicy::Overwrite)
                .await
                .unwrap();
        }
        for tag in ["1.4.2", "1.4", "latest"] {
            let tag = target.with_tag(tag).unwrap();
            assert_eq!(session.head_manifest(&tag).await.unwrap().unwrap(), index.descriptor, "{make:?}");
            assert_eq!(bytes_of(&session, &tag).await, index.bytes, "{make:?}");
        }
        for image in &images {
            let child = target.with_digest(&image.image.descriptor.digest);
            assert_eq!(bytes_of(&session, &child).await, image.image.bytes, "{make:?}");
        }
        assert_eq!(session.list_tags(&target, 100).await.unwrap(), ["1.4", "1.4.2", "latest"], "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn images_of_every_make_make_one_index_at_every_other() {
    let registries: Vec<(Make, Registry)> = MAKES.iter().map(|&make| (make, make.start())).collect();
    let mut images = Vec::new();
    for ((_, registry), architecture) in
        registries.iter().zip(["amd64", "arm64", "s390x", "ppc64le", "riscv64"])
    {
        let platform = format!("linux/{architecture}");
        registry.push_image("team/part", "1", &platform).await;
        images.push(image(registry, "team/part:1", &platform).await);
    }
    let index = assembled(&images);
    for (make, registry) in &registries {
        let (session, target) = (registry.session(), registry.repository("team/web"));
        for image in &images {
            session.copy(&image.repository, &target, &image.image).await.unwrap();
        }
        publish(&session, &target, &index, &["1"], TagPolicy::Overwrite).await.unwrap();
        for image in &images {
            let child = target.with_digest(&image.image.descriptor.digest);
            assert_eq!(bytes_of(&session, &child).await, image.image.bytes, "{make:?}");
        }
        assert_eq!(bytes_of(&session, &target.with_tag("1").unwrap()).await, index.bytes, "{make:?}");
    }
}

#[tokio::test]
async fn a_large_blob_and_an_empty_one_arrive_whole() {
    let from = Registry::anonymous();
    let large: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).step_by(4).collect();
    everywhere(|make, registry| {
        let (from, large) = (&from, &large);
        async move {
            let (source, target) = (from.repository("team/base"), registry.repository("team/web"));
            for content in [large.as_slice(), b""] {
                let digest = from.push_blob("team/base", content).await;
                let blob = Descriptor::new(MediaType::new("x/y"), digest, content.len() as u64);
                let session = registry.session();
                let delivery = session.copy_blob(&source, &target, &blob).await;
                assert_eq!(delivery.unwrap(), Delivery::Uploaded, "{make:?}");
                let found = session.get_blob_bytes(&target, &blob, 1 << 26).await.unwrap();
                assert!(found == content, "{make:?}");
                assert!(session.has_blob(&target, &blob.digest).await.unwrap(), "{make:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    everywhere(|make, registry| async move {
        registry.push_image("team/web", "1", "linux/amd64").await;
        let (session, repository) = (registry.session(), registry.repository("team/web"));
        let nothing = Digest::sha256(b"nothing");
        for repository in [&repository, &registry.repository("team/none")] {
            let missing = repository.with_tag("none").unwrap();
            assert_eq!(session.head_manifest(&missing).await.unwrap(), None, "{make:?}");
            assert_eq!(session.get_manifest(&missing).await.unwrap_err().kind(), Kind::NotFound, "{make:?}");
            assert!(!session.has_blob(repository, &nothing).await.unwrap(), "{make:?}");
            assert_eq!(session.referrers(repository, &nothing, None).await.unwrap(), [], "{make:?}");
            assert!(!session.delete_manifest(repository, &nothing).await.unwrap(), "{make:?}");
        }
        let tags = session.list_tags(&registry.repository("team/none"), 10).await;
        assert_eq!(tags.unwrap_err().kind(), Kind::NotFound, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn all_tags_are_listed_once_and_no_more_than_wanted() {
    everywhere(|make, registry| async move {
        let mut expected: Vec<String> = (0..25).map(|number| format!("v{number}")).collect();
        registry.push_image("team/web", "v0", "linux/amd64").await;
        let (session, repository) = (registry.session(), registry.repository("team/web"));
        let first = session.get_manifest(&repository.with_tag("v0").unwrap()).await.unwrap();
        for tag in &expected {
            let tag = repository.with_tag(tag).unwrap();
            session.put_manifest(&tag, &first.descriptor.media_type, &first.bytes).await.unwrap();
        }
        expected.sort();
        assert_eq!(session.list_tags(&repository, 1000).await.unwrap(), expected, "{make:?}");
        assert_eq!(session.list_tags(&repository, 7).await.unwrap(), expected[..7], "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn a_tag_goes_without_the_manifest_that_another_tag_has() {
    everywhere(|make, registry| async move {
        let image = registry.push_image("team/web", "old", "linux/amd64").await;
        registry.push_image("team/web", "kept", "linux/amd64").await;
        let (session, repository) = (registry.session(), registry.repository("team/web"));
        let (old, kept) = (repository.with_tag("old").unwrap(), repository.with_tag("kept").unwrap());
        match session.delete_tag(&old).await {
            Ok(deleted) => {
                assert!(deleted && make.deletes_tags, "{make:?}");
                assert_eq!(session.head_manifest(&old).await.unwrap(), None, "{make:?}");
                assert!(!session.delete_tag(&old).await.unwrap(), "{make:?}: it is gone");
            }
            Err(error) => {
                assert!(!make.deletes_tags && error.kind() == Kind::Unsupported, "{make:?}: {error}");
            }
        }
        let found = session.get_manifest(&kept).await.unwrap().descriptor;
        assert_eq!(found.digest, image.digest, "{make:?}");
        let by_digest = repository.with_digest(&image.digest);
        assert!(session.head_manifest(&by_digest).await.unwrap().is_some(), "{make:?}");

        assert!(session.delete_manifest(&repository, &image.digest).await.unwrap(), "{make:?}");
        assert_eq!(session.head_manifest(&by_digest).await.unwrap(), None, "{make:?}");
    })
    .await;
}

/// An artifact about `subject`, as signers and scanners make them: nothing in its config, its type beside it.
async fn artifact(registry: &Registry, repository: &Repository, kind: &str, subject: Value) -> Descriptor {
    let path = repository.path();
    let empty = registry.push_blob(path, b"{}").await;
    let payload = registry.push_blob(path, kind.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": format!("application/vnd.example.{kind}"),
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": payload, "size": kind.len()}],
        "annotations": {"example.kind": kind},
        "subject": subject,
    });
    let bytes = bytes::Bytes::from(manifest.to_string());
    let descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    let manifest = Manifest { descriptor, bytes };
    registry.session().put_referrer(repository, &manifest).await.unwrap();
    manifest.descriptor
}

#[tokio::test]
async fn what_is_pushed_with_a_subject_is_found_by_it() {
    everywhere(|make, registry| async move {
        let image = registry.push_image("team/web", "1", "linux/amd64").await;
        let (session, repository) = (registry.session(), registry.repository("team/web"));
        let mut pushed = Vec::new();
        for kind in ["signature", "sbom", "signature"] {
            pushed.push(artifact(&registry, &repository, kind, json!(image)).await.digest);
        }
        pushed.pop();
        pushed.sort();
        let mut found: Vec<Digest> = session
            .referrers(&repository, &image.digest, None)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.digest)
            .collect();
        found.sort();
        assert_eq!(found, pushed, "{make:?}");
        let tag = repository.with_tag(&image.digest.as_str().replace(':', "-")).unwrap();
        let stood_in = session.head_manifest(&tag).await.unwrap().is_some();
        // Who does not confirm the subject gets the tag, whether it has the API or not.
        assert_eq!(stood_in, !make.referrers_api || make.name == "ggcr", "{make:?}");
        if make.name != "ggcr" {
            let only = session.referrers(&repository, &image.digest, Some("application/vnd.example.sbom"));
            let only = only.await.unwrap();
            assert_eq!((only.len(), only[0].annotations["example.kind"].as_str()), (1, "sbom"), "{make:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_written_by_many_at_once_has_them_all() {
    let registry = Registry::anonymous();
    let image = registry.push_image("team/web", "1", "linux/amd64").await;
    let (session, repository) = (registry.session(), registry.repository("team/web"));
    let mut manifests = Vec::new();
    for number in 0..8 {
        // Made elsewhere, so that only the pushes below are about the image here.
        let elsewhere = registry.repository("team/scans");
        let made = artifact(&registry, &elsewhere, &format!("scan-{number}"), json!(image)).await;
        let manifest = session.get_manifest(&elsewhere.with_digest(&made.digest)).await.unwrap();
        session.copy(&elsewhere, &repository, &manifest).await.unwrap();
        manifests.push(manifest);
    }
    assert_eq!(session.referrers(&repository, &image.digest, None).await.unwrap(), [], "nobody said so");
    let pushes = manifests.iter().map(|manifest| session.put_referrer(&repository, manifest));
    futures::future::try_join_all(pushes).await.unwrap();
    let found = session.referrers(&repository, &image.digest, None).await.unwrap();
    assert_eq!(found.len(), manifests.len());
}

#[tokio::test]
async fn what_may_not_be_seen_is_taken_for_missing() {
    // Artifactory says 403 to who asks for what is not there.
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "HEAD" => Answer::status(403),
        "PUT" if asked.target.contains("/manifests/") => Answer::status(201),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let from = Registry::anonymous();
    from.push_image("team/base", "1", "linux/amd64").await;
    let image = image(&from, "team/base:1", "linux/amd64").await.image;
    let (session, target) = (from.session(), server.repository("team/web"));
    assert!(!session.has_blob(&target, &blob().digest).await.unwrap());
    let copied = session.copy(&from.repository("team/base"), &target, &image).await.unwrap();
    assert_eq!(copied.uploaded, 3);
}

#[tokio::test]
async fn nothing_is_mounted_across_registries() {
    let [from, to] = [(); 2].map(|()| FaultServer::start(|asked| uploads(asked, || Answer::status(404))));
    let (from, to) = (from.await, to.await);
    let (source, target) = (from.repository("team/base"), to.repository("team/web"));
    let session = support::client().session(std::sync::Arc::default());
    assert_eq!(session.copy_blob(&source, &target, &blob()).await.unwrap(), Delivery::Uploaded);
    assert!(to.lines().iter().all(|line| !line.contains("mount=")), "{:?}", to.lines());
}
