//! Images of many places become one index, against a real registry.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fault_server::{Answer, FaultServer};

use multiarch::image::{
    ComposeError, Composition, DescriptorEdits, Index, PlatformCheck, Publication, PublishError, Source,
    TagChange, TagPolicy, Target, compose, inspect, publish_composition,
};
use multiarch::registry::{Client, Copied, Descriptor, Digest, Keyring, Kind, MediaType, Reference, Session};
use serde_json::json;
use support::{Registry, client, index};

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm64", "linux/s390x"];

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host).parse().unwrap()
}

fn source(registry: &Registry, rest: &str) -> Source {
    Source { reference: reference(registry, rest), platform: None, edits: DescriptorEdits::default() }
}

fn target(registry: &Registry, path: &str, tags: &[&str]) -> Target {
    Target { repository: registry.repository(path), tags: tags.iter().map(|&tag| tag.to_owned()).collect() }
}

/// One image a platform in `path`, under `1-<slug>`, and the sources that name them.
async fn push_platforms(registry: &Registry, path: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for platform in PLATFORMS {
        let tag = format!("1-{}", platform.replace('/', "-"));
        registry.push_image(path, &tag, platform).await;
        sources.push(source(registry, &format!("{path}:{tag}")));
    }
    sources
}

/// A client of its own for each publication, so that nothing is known before.
async fn published(registry: &Registry, composition: &Composition) -> (Publication, u64) {
    let client = client();
    let session = client.session(Arc::new(registry.keyring()));
    let publication = publish_composition(&session, composition).await.unwrap();
    (publication, client.requests())
}

async fn entries(session: &Session, reference: &Reference) -> Vec<Descriptor> {
    let bytes = session.get_manifest(reference).await.unwrap().bytes;
    serde_json::from_slice::<Index>(&bytes).unwrap().manifests
}

#[tokio::test]
async fn images_of_the_same_repository_are_read_and_the_index_is_written() {
    let registry = Registry::anonymous();
    let sources = push_platforms(&registry, "team/web").await;
    let targets = vec![target(&registry, "team/web", &["1", "latest"])];
    let composition = Composition { sources, targets, ..Composition::default() };

    let (publication, requests) = published(&registry, &composition).await;
    assert_eq!(requests, 3 + 3 + 2 + 2, "manifests, configs, two tags looked at and written");
    assert!(publication.tags.iter().all(|(_, change)| *change == TagChange::Created));
    let listed = entries(&registry.session(), &reference(&registry, "team/web:latest")).await;
    let platforms: Vec<String> =
        listed.iter().map(|entry| entry.runnable_platform().unwrap().to_string()).collect();
    assert_eq!(platforms, PLATFORMS, "in the order of the sources");

    let (again, requests) = published(&registry, &composition).await;
    assert_eq!(requests, 3 + 3 + 2, "nothing is written");
    assert!(again.tags.iter().all(|(_, change)| *change == TagChange::Unchanged));
    assert_eq!(again.composed.index, publication.composed.index);
}

#[tokio::test]
async fn images_of_another_repository_are_mounted_and_only_looked_for_the_second_time() {
    let registry = Registry::anonymous();
    let sources = push_platforms(&registry, "team/base").await;
    let targets = vec![target(&registry, "team/web", &["1"])];
    let composition = Composition { sources, targets, ..Composition::default() };

    let (publication, requests) = published(&registry, &composition).await;
    let blobs = publication.copied.mounted;
    assert_eq!(publication.copied, Copied { mounted: blobs, ..Copied::default() });
    assert_eq!(requests as usize, 3 + 1 + 3 + blobs + 3 + 1, "no request that a round trip does not need");
    let (again, requests) = published(&registry, &composition).await;
    assert_eq!((requests, again.copied.mounted), (3 + 1 + 3 + 3, 0));
    assert_eq!(again.tags[0].1, TagChange::Unchanged);
}

#[tokio::test]
async fn an_image_that_the_registry_has_collected_is_brought_again_though_the_tag_holds_the_index() {
    let registry = Registry::anonymous();
    let sources = push_platforms(&registry, "team/base").await;
    let targets = vec![target(&registry, "team/web", &["1"])];
    let composition = Composition { sources, targets, ..Composition::default() };
    let (publication, _) = published(&registry, &composition).await;
    let child = publication.composed.images[1].image.descriptor.digest.clone();
    registry.delete_manifest("team/web", &child).await;

    let (again, _) = published(&registry, &composition).await;
    assert_eq!(again.tags[0].1, TagChange::Unchanged);
    let here = registry.repository("team/web").with_digest(&child);
    assert!(registry.session().head_manifest(&here).await.unwrap().is_some());
}

#[tokio::test]
async fn an_index_goes_to_several_registries_with_the_same_digest() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let sources = push_platforms(&from, "team/web").await;
    let targets = vec![target(&from, "team/web", &["1"]), target(&to, "mirror/web", &["1", "1.4"])];
    let (publication, _) =
        published(&from, &Composition { sources, targets, ..Composition::default() }).await;

    let names: Vec<String> = publication.tags.iter().map(|(tag, _)| tag.to_string()).collect();
    assert_eq!(names[0], format!("{}/team/web:1", from.host), "the first target first");
    for (tag, _) in &publication.tags {
        let found = to.session().get_manifest(tag).await.unwrap();
        assert_eq!(found.bytes, publication.composed.index.bytes);
    }
    // Layers that platforms share go once.
    assert!(publication.copied.uploaded >= 4, "{:?}", publication.copied);
}

#[tokio::test]
async fn all_images_of_an_index_are_taken_with_their_windows_versions() {
    let registry = Registry::anonymous();
    let windows = |version: &str| json!({"platform": {"os": "windows", "architecture": "amd64", "os.version": version}});
    let one = registry.push_image("team/web", "", "windows/amd64").await;
    let config = json!({"os": "windows", "architecture": "amd64", "x": 2});
    let two = registry.push_image_of("team/web", "", &config, &["two".to_owned()]).await;
    let content = index(&[(&one, windows("10.0.17763.1")), (&two, windows("10.0.20348.1"))]);
    registry.push_manifest("team/web", "windows", &content).await;
    registry.push_image("team/web", "linux", "linux/amd64").await;

    let sources = vec![source(&registry, "team/web:windows"), source(&registry, "team/web:linux")];
    let targets = vec![target(&registry, "team/web", &["1"])];
    published(&registry, &Composition { sources, targets, ..Composition::default() }).await;
    let listed = entries(&registry.session(), &reference(&registry, "team/web:1")).await;
    let versions: Vec<Option<String>> =
        listed.into_iter().map(|entry| entry.platform.unwrap().os_version).collect();
    assert_eq!(versions, [Some("10.0.17763.1".to_owned()), Some("10.0.20348.1".to_owned()), None]);
}

#[tokio::test]
async fn an_index_is_amended_and_what_is_not_named_stays() {
    let registry = Registry::anonymous();
    let sources = push_platforms(&registry, "team/web").await;
    let targets = vec![target(&registry, "team/web", &["1"])];
    let base = Some(reference(&registry, "team/web:1"));
    let first = Composition { base, sources: sources[..2].to_vec(), targets, ..Composition::default() };
    published(&registry, &first).await;

    let config = json!({"os": "linux", "architecture": "arm64", "x": 2});
    let newer = registry.push_image_of("team/web", "newer", &config, &["newer".to_owned()]).await;
    let sources = vec![source(&registry, "team/web:newer"), sources[2].clone()];
    published(&registry, &Composition { sources, ..first }).await;
    let listed = entries(&registry.session(), &reference(&registry, "team/web:1")).await;
    let platforms: Vec<String> =
        listed.iter().map(|entry| entry.runnable_platform().unwrap().to_string()).collect();
    assert_eq!(platforms, PLATFORMS);
    assert_eq!(listed[1].digest, newer.digest);
}

#[tokio::test]
async fn an_image_takes_the_place_of_one_whose_variant_goes_without_saying() {
    let registry = Registry::anonymous();
    let spelt = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    registry.push_image_of("team/web", "spelt", &spelt, &["spelt".to_owned()]).await;
    let plain = registry.push_image("team/web", "plain", "linux/arm64").await;
    let [spelt, new] = ["team/web:spelt", "team/web:plain"].map(|name| source(&registry, name));

    let both = Composition { sources: vec![spelt.clone(), new.clone()], ..Composition::default() };
    let error = compose(&registry.session(), &both).await.unwrap_err();
    assert!(error.to_string().starts_with("two images for linux/arm64: sha256:"), "{error}");

    let base = Some(reference(&registry, "team/web:1"));
    let targets = vec![target(&registry, "team/web", &["1"])];
    let first = Composition { base, sources: vec![spelt], targets, ..Composition::default() };
    published(&registry, &first).await;
    let listed = entries(&registry.session(), &reference(&registry, "team/web:1")).await;
    assert_eq!(listed[0].platform.as_ref().unwrap().variant.as_deref(), Some("v8"), "written as it is spelt");
    published(&registry, &Composition { sources: vec![new], ..first }).await;
    let listed = entries(&registry.session(), &reference(&registry, "team/web:1")).await;
    assert_eq!(listed.iter().map(|entry| &entry.digest).collect::<Vec<_>>(), [&plain.digest]);
}

#[tokio::test]
async fn an_image_named_twice_is_listed_once_and_two_for_one_platform_are_refused() {
    let registry = Registry::anonymous();
    let sources = push_platforms(&registry, "team/web").await;
    let mut annotated = sources[0].clone();
    annotated.edits.annotations.insert("team".to_owned(), "web".to_owned());
    let twice = Composition { sources: vec![sources[0].clone(), annotated], ..Composition::default() };
    let images = compose(&registry.session(), &twice).await.unwrap().images;
    assert_eq!((images.len(), images[0].image.descriptor.annotations["team"].as_str()), (1, "web"));

    let config = json!({"os": "linux", "architecture": "amd64", "x": 2});
    registry.push_image_of("team/web", "other", &config, &["other".to_owned()]).await;
    let sources = vec![sources[0].clone(), source(&registry, "team/web:other")];
    let two = Composition { sources, ..Composition::default() };
    let error = compose(&registry.session(), &two).await.unwrap_err();
    assert!(error.to_string().starts_with("two images for linux/amd64: sha256:"), "{error}");
}

#[tokio::test]
async fn an_image_for_another_platform_keeps_everything_from_being_published() {
    let registry = Registry::anonymous();
    let mut sources = push_platforms(&registry, "team/base").await;
    sources[1].platform = Some("linux/riscv64".parse().unwrap());
    let targets = vec![target(&registry, "team/web", &["1"])];
    let composition = Composition { sources, targets, ..Composition::default() };
    let error = publish_composition(&registry.session(), &composition).await.unwrap_err();
    assert!(error.to_string().contains("the image is for linux/arm64, not for linux/riscv64"), "{error}");
    let found = registry.session().get_manifest(&reference(&registry, "team/web:1")).await;
    assert_eq!(found.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn what_the_index_says_of_an_image_can_be_edited() {
    let registry = Registry::anonymous();
    let mut sources = push_platforms(&registry, "team/web").await;
    sources[0].edits = DescriptorEdits {
        os_version: Some("6.1".to_owned()),
        os_features: Some(vec!["sse4".to_owned()]),
        annotations: [("team".to_owned(), "web".to_owned())].into(),
        ..DescriptorEdits::default()
    };
    let composed =
        compose(&registry.session(), &Composition { sources, ..Composition::default() }).await.unwrap();
    let entry = &composed.images[0].image.descriptor;
    let platform = entry.platform.as_ref().unwrap();
    assert_eq!(
        (platform.os_version.as_deref(), platform.os_features.as_slice()),
        (Some("6.1"), &["sse4".to_owned()][..])
    );
    assert_eq!(entry.annotations["team"], "web");
}

#[tokio::test]
async fn a_tag_that_is_not_to_be_moved_is_told_before_a_byte_is_sent() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let sources = push_platforms(&from, "team/web").await;
    to.push_image("team/web", "1", "linux/amd64").await;
    let targets = vec![target(&to, "team/web", &["1"])];
    let composition = Composition { sources, targets, policy: TagPolicy::IfAbsent, ..Composition::default() };
    let client: Client = client();
    let error =
        publish_composition(&client.session(Arc::new(Keyring::default())), &composition).await.unwrap_err();
    assert!(matches!(error, ComposeError::Publish(PublishError::TagExists { .. })), "{error}");
    assert_eq!(
        client.requests(),
        3 + 1 + 3 + 3,
        "manifests, the tag, configs, and whether the images are there"
    );
}

#[tokio::test]
async fn a_tag_that_another_publishes_while_bytes_are_sent_is_not_moved() {
    let from = Registry::anonymous();
    let sources = push_platforms(&from, "team/web").await;
    let others = br#"{"manifests":[]}"#;
    let sent = AtomicBool::new(false);
    // The tag is there as soon as the first blob is.
    let server = FaultServer::start(move |asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("POST", _) => Answer::status(202).header("Location", "/upload?state=1"),
        ("PUT", target) => {
            sent.fetch_or(target.starts_with("/upload"), Ordering::Relaxed);
            Answer::status(201)
        }
        (_, "/v2/team/web/manifests/1") if sent.load(Ordering::Relaxed) => Answer::status(200)
            .header("Content-Type", MediaType::OCI_INDEX.as_str())
            .header("Docker-Content-Digest", Digest::sha256(others).as_str())
            .body(others),
        _ => Answer::status(404),
    })
    .await;
    let targets = vec![Target { repository: server.repository("team/web"), tags: vec!["1".to_owned()] }];
    let policy = TagPolicy::IfAbsent;
    let composition = Composition { sources, targets, policy, ..Composition::default() };
    let error = publish_composition(&from.session(), &composition).await.unwrap_err();
    assert!(matches!(error, ComposeError::Publish(PublishError::TagExists { .. })), "{error}");
    let lines = server.lines();
    let tag = "/v2/team/web/manifests/1";
    let at_tag: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_suffix(tag)).map(str::trim_end).collect();
    assert_eq!(at_tag, ["GET", "HEAD"], "looked at again, and never written");

    let overwriting = Composition { policy: TagPolicy::Overwrite, ..composition };
    publish_composition(&from.session(), &overwriting).await.unwrap();
    let lines = server.lines();
    let at_tag: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_suffix(tag)).map(str::trim_end).collect();
    assert_eq!(at_tag[2..], ["GET", "PUT"], "who may move the tag need not look again");
}

/// An artifact in the way that older tools push it: only its config tells that it is none.
async fn push_artifact(registry: &Registry, path: &str, config: &str) -> Descriptor {
    let blob = registry.push_blob(path, b"{}").await;
    let artifact = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "layers": [],
        "config": {"mediaType": config, "digest": blob, "size": 2},
    });
    registry.push_manifest(path, "", &artifact).await
}

#[tokio::test]
async fn what_is_no_image_is_left_out_of_the_index_with_a_warning() {
    let registry = Registry::anonymous();
    let amd64 = registry.push_image("team/web", "", "linux/amd64").await;
    let artifact = push_artifact(&registry, "team/web", "application/vnd.oci.empty.v1+json").await;
    let chart = push_artifact(&registry, "team/web", "application/vnd.cncf.helm.config.v1+json").await;
    let unknown = registry.push_image("team/web", "", "linux/s390x").await;
    let content = index(&[
        (&artifact, json!({})),
        (&amd64, json!({"platform": {"os": "linux", "architecture": "amd64"}})),
        (&chart, json!({"artifactType": "application/x.chart"})),
        (&unknown, json!({"platform": {"os": "unknown", "architecture": "unknown"}})),
    ]);
    registry.push_manifest("team/web", "mixed", &content).await;

    let base = Some(reference(&registry, "team/web:mixed"));
    let sources = vec![source(&registry, "team/web:mixed")];
    for composition in
        [Composition { sources, ..Composition::default() }, Composition { base, ..Composition::default() }]
    {
        let composed = compose(&registry.session(), &composition).await.unwrap();
        let digests: Vec<&Digest> =
            composed.images.iter().map(|image| &image.image.descriptor.digest).collect();
        assert_eq!(digests, [&amd64.digest]);
        let [first, second, third] = &composed.warnings[..] else { panic!("{:?}", composed.warnings) };
        assert!(first.ends_with(&format!(
            "team/web:mixed: left out: {} ({}) is no image, its config is application/vnd.oci.empty.v1+json",
            artifact.digest, artifact.media_type
        )), "{first}");
        assert!(second.ends_with("is no image but application/x.chart"), "{second}");
        assert!(third.contains(unknown.digest.as_str()), "{third}");
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_makes_no_other_one_unusable() {
    let sha384 = format!("sha384:{}", "0".repeat(96));
    let image = br#"{"schemaVersion":2,"layers":[],"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":36,"digest":"DIGEST"}}"#;
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let image = String::from_utf8_lossy(image)
        .replace("DIGEST", Digest::sha256(config).as_str())
        .replace("36", &config.len().to_string());
    let content = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        {"mediaType": MediaType::OCI_MANIFEST, "digest": sha384, "size": 7, "platform": {"os": "linux", "architecture": "386"}},
        {"mediaType": MediaType::OCI_MANIFEST, "digest": Digest::sha256(b"sizeless")},
        {"mediaType": MediaType::OCI_MANIFEST, "digest": Digest::sha256(image.as_bytes()), "size": image.len(),
         "platform": {"os": "linux", "architecture": "amd64"}},
    ]}).to_string();
    let server = FaultServer::start(move |asked| match asked.target.rsplit('/').next() {
        Some("1") => {
            Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(content.as_bytes())
        }
        Some(digest) if digest == Digest::sha256(image.as_bytes()).as_str() => Answer::status(200)
            .header("Content-Type", MediaType::OCI_MANIFEST.as_str())
            .body(image.as_bytes()),
        Some(digest) if digest == Digest::sha256(config).as_str() => Answer::status(200).body(config),
        _ => Answer::status(404),
    })
    .await;
    let reference: Reference = format!("{}/team/web:1", server.host).parse().unwrap();
    for platform in [None, Some("linux/amd64".parse().unwrap())] {
        let sources =
            vec![Source { reference: reference.clone(), platform, edits: DescriptorEdits::default() }];
        let composition = Composition { sources, ..Composition::default() };
        let composed = compose(&client().session(Arc::new(Keyring::default())), &composition).await.unwrap();
        assert_eq!(composed.images.len(), 1);
        assert_eq!(composed.warnings.len(), 2, "{:?}", composed.warnings);
        assert!(composed.warnings[0].contains(&sha384), "{:?}", composed.warnings);
        assert!(composed.warnings[1].ends_with("missing field `size`"), "{:?}", composed.warnings);
    }
}

#[tokio::test]
async fn an_index_of_too_many_bytes_is_refused_before_they_are_asked_for() {
    let sizes = (0..17).map(|number| {
        let digest = Digest::sha256(&[number]);
        let platform = json!({"os": "linux", "architecture": format!("x{number}")});
        json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 4 << 20, "platform": platform})
    });
    let content = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": sizes.collect::<Vec<_>>()}).to_string();
    let server = FaultServer::start(move |_| {
        Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(content.as_bytes())
    })
    .await;
    let session = client().session(Arc::new(Keyring::default()));
    let reference: Reference = format!("{}/team/web:1", server.host).parse().unwrap();
    let sources =
        vec![Source { reference: reference.clone(), platform: None, edits: DescriptorEdits::default() }];
    let error = compose(&session, &Composition { sources, ..Composition::default() }).await.unwrap_err();
    assert!(error.to_string().contains("lists manifests of 71303168 bytes; 67108864 is the most"), "{error}");
    assert_eq!(server.asked().len(), 1);

    let named = session.get_manifest(&reference).await.unwrap();
    let error = inspect::read_children(&session, &reference, &named).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn an_image_with_a_config_of_its_own_kind_is_listed_as_declared_if_nothing_is_checked() {
    let registry = Registry::anonymous();
    let wasm = push_artifact(&registry, "team/web", "application/vnd.wasm.config.v0+json").await;
    let mut module = source(&registry, &format!("team/web@{}", wasm.digest));
    let composition = |source: &Source, check| Composition {
        sources: vec![source.clone()],
        check,
        ..Composition::default()
    };
    let session = registry.session();
    let undeclared = compose(&session, &composition(&module, PlatformCheck::Off)).await.unwrap_err();
    assert!(
        undeclared.to_string().ends_with("its config is application/vnd.wasm.config.v0+json"),
        "{undeclared}"
    );
    module.platform = Some("wasip1/wasm".parse().unwrap());
    compose(&session, &composition(&module, PlatformCheck::Enforce)).await.unwrap_err();
    let composed = compose(&session, &composition(&module, PlatformCheck::Off)).await.unwrap();
    let entry = &composed.images[0].image.descriptor;
    assert_eq!((&entry.digest, entry.runnable_platform()), (&wasm.digest, module.platform));
}
