//! Images that other programs made: found, carried to another registry, and listed there, each with every byte it had.

#[path = "support/builders.rs"]
mod builders;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/registry.rs"]
mod support;
#[path = "support/tools.rs"]
mod tools;

use std::collections::BTreeMap;
use std::io::Write as _;

use builders::{BuildKit, Buildah, can_build};
use bytes::Bytes;
use multiarch::image::{
    ComposeError, Composition, Format, Index, PlatformCheck, Publication, Source, Target, compose,
    publish_composition,
};
use multiarch::registry::{Digest, MediaType};
use peers::MAKES;
use serde_json::{Value, json};
use support::{Registry, index};
use tools::{crane, skopeo};

/// `reference` in full, and the platform to take where it does not say so itself.
fn source(reference: &str, platform: Option<&str>) -> Source {
    let platform = platform.map(|platform| platform.parse().unwrap());
    Source { reference: reference.parse().unwrap(), platform, edits: Default::default() }
}

fn composition(sources: Vec<Source>, to: &Registry) -> Composition {
    let targets = vec![Target { repository: to.repository("acme/web"), tags: vec!["1".to_owned()] }];
    Composition { sources, targets, ..Composition::default() }
}

/// Publishes the sources as `acme/web:1` and holds everything there against where it came from.
async fn published(sources: Vec<Source>, to: &Registry) -> Publication {
    let publication = publish_composition(&to.session(), &composition(sources, to)).await.unwrap();
    for image in &publication.composed.images {
        let (host, path) = (image.repository.registry(), image.repository.path());
        for descriptor in image.descriptors() {
            let digest = &descriptor.digest;
            let original = get(host, &format!("{path}/manifests/{digest}")).await;
            let copy = get(&to.host, &format!("acme/web/manifests/{digest}")).await;
            assert_eq!(copy, original);
            assert_eq!(Digest::sha256(&copy), *digest);
            for blob in blobs(&copy) {
                let copy = get(&to.host, &format!("acme/web/blobs/{blob}")).await;
                assert_eq!(Digest::sha256(&copy), blob);
            }
        }
    }
    publication
}

/// Asks without the code under test.
async fn get(host: &str, rest: &str) -> Bytes {
    let accepted =
        [MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_LIST];
    let mut request = reqwest::Client::new().get(format!("http://{host}/v2/{rest}"));
    for media_type in accepted {
        request = request.header("accept", media_type.as_str());
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{host} {rest}");
    answer.bytes().await.unwrap()
}

/// Config and layers, those left out that are in no registry.
fn blobs(manifest: &[u8]) -> Vec<Digest> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().filter(|layer| layer["urls"].is_null());
    layers
        .chain([&manifest["config"]])
        .map(|blob| blob["digest"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// The platforms of `acme/web:1` in full, as its bytes say; attestations are left out.
async fn platforms(to: &Registry) -> Vec<Value> {
    let index: Value = serde_json::from_slice(&get(&to.host, "acme/web/manifests/1").await).unwrap();
    let platforms = index["manifests"].as_array().unwrap().iter().map(|entry| entry["platform"].clone());
    platforms.filter(|platform| platform["os"] != "unknown").collect()
}

/// What crane makes of it: of everything, or of one platform.
fn validate(to: &Registry, options: &[&str]) {
    let name = format!("{}/acme/web:1", to.host);
    crane(&[&["validate", "--insecure", "--remote", &name], options].concat());
}

#[tokio::test]
async fn images_of_buildah_in_both_formats() {
    if !can_build("images_of_buildah_in_both_formats") {
        return;
    }
    let (from, to) = (Registry::anonymous(), MAKES[2].start());
    let buildah = Buildah::new();
    let name = |tag: &str| format!("{}/team/buildah:{tag}", from.host);
    for (format, arch, options) in [
        ("oci", "amd64", &["--arch", "amd64"][..]),
        ("oci", "arm64", &["--arch", "arm64", "--variant", "v8"]),
        ("docker", "arm", &["--arch", "arm", "--variant", "v7"]),
        ("docker", "s390x", &["--arch", "s390x"]),
    ] {
        buildah.push(format, options, &name(arch));
    }
    buildah.push_list("oci", &[&name("amd64"), &name("arm64")], &name("oci"));
    buildah.push_list("v2s2", &[&name("arm"), &name("s390x")], &name("docker"));

    let all = vec![source(&name("oci"), None), source(&name("docker"), None)];
    let publication = published(all, &to).await;
    assert_eq!(publication.composed.index.descriptor.media_type, MediaType::OCI_INDEX);
    assert_eq!(
        publication.composed.warnings,
        ["Docker images in an OCI index, carried unchanged: linux/arm/v7, linux/s390x"]
    );
    assert_eq!(
        platforms(&to).await,
        [
            json!({"os": "linux", "architecture": "amd64"}),
            json!({"os": "linux", "architecture": "arm64", "variant": "v8"}),
            json!({"os": "linux", "architecture": "arm", "variant": "v7"}),
            json!({"os": "linux", "architecture": "s390x"}),
        ]
    );
    validate(&to, &[]);

    let docker = vec![source(&name("docker"), Some("linux/arm/v7")), source(&name("s390x"), None)];
    let publication = published(docker, &to).await;
    assert_eq!(publication.composed.index.descriptor.media_type, MediaType::DOCKER_LIST);
    validate(&to, &[]);
}

#[tokio::test]
async fn windows_images_that_differ_only_in_their_version() {
    if !can_build("windows_images_that_differ_only_in_their_version") {
        return;
    }
    let (from, to) = (Registry::anonymous(), MAKES[1].start());
    let buildah = Buildah::new();
    let mut sources = Vec::new();
    for version in ["10.0.17763.1", "10.0.20348.2"] {
        let name = format!("{}/team/windows:{version}", from.host);
        let options =
            ["--os", "windows", "--arch", "amd64", "--os-version", version, "--os-feature", "win32k"];
        buildah.push("docker", &options, &name);
        sources.push(source(&name, None));
    }
    let expected = ["10.0.17763.1", "10.0.20348.2"].map(|version| {
        json!({"os": "windows", "architecture": "amd64", "os.version": version, "os.features": ["win32k"]})
    });
    let names: Vec<String> = sources.iter().map(|source| source.reference.to_string()).collect();
    published(sources, &to).await;
    assert_eq!(platforms(&to).await, expected);
    validate(&to, &[]);

    let list = format!("{}/team/windows:list", from.host);
    buildah.push_list("v2s2", &[&names[0], &names[1]], &list);
    published(vec![source(&list, None)], &to).await;
    assert_eq!(platforms(&to).await, expected);
}

#[tokio::test]
async fn images_of_buildkit_with_their_attestations() {
    if !can_build("images_of_buildkit_with_their_attestations") {
        return;
    }
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let buildkit = BuildKit::start(&from);
    let name = |tag: &str| format!("{}/team/buildkit:{tag}", from.host);
    buildkit.push("linux/amd64,linux/arm64", "", &name("many"));
    buildkit.push(
        "linux/arm/v7",
        ",oci-artifact=false,compression=zstd,force-compression=true",
        &name("one"),
    );
    buildkit.push(
        "linux/s390x",
        ",oci-artifact=true,oci-mediatypes=true,compression=uncompressed",
        &name("artifact"),
    );

    let sources = vec![
        source(&name("many"), Some("linux/arm64")),
        source(&name("one"), None),
        source(&name("artifact"), Some("linux/s390x")),
        source(&name("many"), Some("linux/amd64")),
    ];
    let publication = published(sources, &to).await;
    for image in &publication.composed.images {
        assert_eq!(image.attestations.len(), 1);
        assert!(image.attestations[0].attests(&image.image.descriptor.digest));
    }
    let bytes = get(&to.host, "acme/web/manifests/1").await;
    let entries = serde_json::from_slice::<Index>(&bytes).unwrap().manifests;
    let attestations: Vec<bool> = entries.iter().map(|entry| entry.is_attestation()).collect();
    assert_eq!(attestations, [false, true, false, true, false, true, false, true], "each after its image");
    for pair in entries.chunks(2) {
        assert!(pair[1].attests(&pair[0].digest));
    }
    assert_eq!(
        platforms(&to).await,
        [
            json!({"os": "linux", "architecture": "arm64"}),
            json!({"os": "linux", "architecture": "arm", "variant": "v7"}),
            json!({"os": "linux", "architecture": "s390x"}),
            json!({"os": "linux", "architecture": "amd64"}),
        ]
    );
    let tags = to.session().list_tags(&to.repository("acme/web"), 100).await.unwrap();
    assert_eq!(tags, ["1"], "attestations have a subject, and the index is where they are found");
    // crane takes attestations for images that are wrong, and unpacks no zstd.
    for platform in ["linux/arm64", "linux/s390x", "linux/amd64"] {
        validate(&to, &["--platform", platform]);
    }
    validate(&to, &["--platform", "linux/arm/v7", "--fast"]);

    // Published once more from there, nothing is lost.
    let next = Registry::anonymous();
    let again = published(vec![source(&format!("{}/acme/web:1", to.host), None)], &next).await;
    assert_eq!(again.composed.index, publication.composed.index);
}

/// A layer with one file in it, in a directory that goes with the registry.
fn layer() -> (tempdir::Directory, String) {
    let directory = tempdir::Directory::new();
    let file = directory.0.join("layer.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&file).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(7);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, "content", &b"content"[..]).unwrap();
    archive.into_inner().unwrap().flush().unwrap();
    let name = file.to_str().unwrap().to_owned();
    (directory, name)
}

mod tempdir {
    /// Goes with the value.
    pub struct Directory(pub std::path::PathBuf);

    impl Directory {
        pub fn new() -> Self {
            Self(super::Registry::directory())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[tokio::test]
async fn images_of_crane_and_what_skopeo_makes_of_them() {
    let (from, other, to) = (Registry::anonymous(), MAKES[4].start(), MAKES[3].start());
    let (_directory, layer) = layer();
    let name = |tag: &str| format!("{}/team/crane:{tag}", from.host);
    crane(&["append", "--insecure", "--oci-empty-base", "-f", &layer, "-t", &name("bare")]);
    for (platform, tag) in
        [("linux/amd64", "amd64"), ("linux/arm64/v8", "arm64"), ("linux/riscv64", "riscv64")]
    {
        crane(&["mutate", "--insecure", "--set-platform", platform, "-t", &name(tag), &name("bare")]);
    }
    crane(&[
        "mutate",
        "--insecure",
        "--annotation",
        "made.by=crane",
        "-t",
        &name("riscv64"),
        &name("riscv64"),
    ]);
    crane(&[
        "index",
        "append",
        "--insecure",
        "-m",
        &name("amd64"),
        "-m",
        &name("arm64"),
        "-t",
        &name("index"),
    ]);
    // To where no layer is yet, so that it has to be packed anew.
    let copies = |tag: &str| format!("{}/team/skopeo:{tag}", other.host);
    let copy = |options: &[&str], from: String, to: String| {
        let (from, to) = (format!("docker://{from}"), format!("docker://{to}"));
        let start = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
        skopeo(&[&start, options, &[from.as_str(), to.as_str()]].concat());
    };
    crane(&[
        "mutate",
        "--insecure",
        "--set-platform",
        "linux/ppc64le",
        "-t",
        &name("ppc64le"),
        &name("bare"),
    ]);
    crane(&["mutate", "--insecure", "--set-platform", "linux/386", "-t", &name("386"), &name("bare")]);
    copy(&["--format", "oci", "--dest-compress-format", "zstd"], name("ppc64le"), copies("zstd"));
    copy(&["--format", "v2s2"], name("386"), copies("docker"));

    let sources = vec![
        source(&name("index"), None),
        source(&name("riscv64"), None),
        source(&copies("zstd"), Some("linux/ppc64le")),
        source(&copies("docker"), Some("linux/386")),
    ];
    let publication = published(sources, &to).await;
    let zstd = String::from_utf8(publication.composed.images[3].image.bytes.to_vec()).unwrap();
    assert!(zstd.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{zstd}");
    let names: Vec<Value> =
        platforms(&to).await.iter().map(|platform| platform["architecture"].clone()).collect();
    assert_eq!(names, ["amd64", "arm64", "riscv64", "ppc64le", "386"]);
    // crane unpacks no zstd.
    validate(&to, &["--fast"]);

    // crane leaves os and architecture out of what it makes of nothing.
    let bare = || vec![source(&name("bare"), Some("linux/amd64"))];
    let error = compose(&to.session(), &composition(bare(), &to)).await.unwrap_err();
    assert!(error.to_string().contains("its config names no os and architecture"), "{error}");
    let told = Composition { check: PlatformCheck::Warn, ..composition(bare(), &to) };
    let composed = compose(&to.session(), &told).await.unwrap();
    assert!(
        composed.warnings[0].contains("its config names no os and architecture"),
        "{:?}",
        composed.warnings
    );
}

#[tokio::test]
async fn an_image_of_schema_1_is_refused_with_what_to_do() {
    let old = Registry::distribution(
        "docker-registry".as_ref(),
        json!({"compatibility": {"schema1": {"enabled": true}}}),
        None,
    );
    let to = Registry::anonymous();
    let (_directory, layer) = layer();
    let name = |tag: &str| format!("{}/team/old:{tag}", old.host);
    crane(&["append", "--insecure", "-f", &layer, "-t", &name("bare")]);
    crane(&["mutate", "--insecure", "--set-platform", "linux/amd64", "-t", &name("2"), &name("bare")]);
    let (new, schema1) = (format!("docker://{}", name("2")), format!("docker://{}", name("1")));
    let options = ["--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s1"];
    skopeo(&[&["copy", "--quiet"], &options[..], &[&new, &schema1]].concat());
    assert!(String::from_utf8_lossy(&get(&old.host, "team/old/manifests/1").await).contains("fsLayers"));

    let error = compose(&to.session(), &composition(vec![source(&name("1"), None)], &to)).await.unwrap_err();
    assert!(matches!(error, ComposeError::Resolve(_)));
    assert!(
        error.to_string().contains("the image has the old schema 1; push it again with a current tool"),
        "{error}"
    );
}

#[tokio::test]
async fn images_without_layers_and_with_layers_of_no_registry() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let config = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    from.push_image_of("team/web", "none", &config("amd64"), &[]).await;
    from.push_image_of("team/web", "empty", &config("arm64"), &[String::new(), "x".into(), String::new()])
        .await;
    let config = config("s390x").to_string();
    let digest = from.push_blob("team/web", config.as_bytes()).await;
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 1_u64 << 40,
        "digest": Digest::sha256(b"not in any registry"), "urls": ["https://example.invalid/layer"],
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::DOCKER_MANIFEST,
        "config": {"mediaType": MediaType::DOCKER_CONFIG, "digest": digest, "size": config.len()},
        "layers": [foreign],
    });
    // Distribution wants to be told which hosts such layers may be on.
    let foreign = MAKES[4].start();
    foreign.push_blob("team/web", config.as_bytes()).await;
    foreign.push_manifest("team/web", "foreign", &manifest).await;

    let name = |tag: &str| source(&format!("{}/team/web:{tag}", from.host), None);
    let publication = published(vec![name("none"), name("empty")], &to).await;
    assert_eq!(publication.copied.uploaded, 4, "two configs, one layer and the empty one");
    let foreign = source(&format!("{}/team/web:foreign", foreign.host), None);
    let publication = published(vec![foreign], &MAKES[2].start()).await;
    assert_eq!((publication.copied.uploaded, publication.copied.bytes), (1, config.len() as u64));
}

#[tokio::test]
async fn variants_are_kept_where_they_tell_images_apart() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let mut entries = Vec::new();
    for (architecture, variant, in_config) in [
        ("amd64", "", ""),
        ("amd64", "v2", "v2"),
        ("amd64", "v3", "v3"),
        ("arm64", "v8", ""),
        ("arm", "v6", "v6"),
    ] {
        let mut config = json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers"}});
        if !in_config.is_empty() {
            config["variant"] = json!(in_config);
        }
        let layers = [format!("for {architecture} {variant}")];
        let tag = format!("{architecture}{variant}");
        let image = from.push_image_of("team/web", &tag, &config, &layers).await;
        let mut platform = json!({"os": "linux", "architecture": architecture});
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        entries.push((image, json!({"platform": platform})));
    }
    let entries: Vec<_> = entries.iter().map(|(image, more)| (image, more.clone())).collect();
    from.push_manifest("team/web", "all", &index(&entries)).await;

    let all = format!("{}/team/web:all", from.host);
    let publication = published(vec![source(&all, None)], &to).await;
    assert_eq!(publication.composed.images.len(), 5);
    let expected = ["amd64", "amd64 v2", "amd64 v3", "arm64", "arm v6"];
    let found: Vec<String> = platforms(&to)
        .await
        .iter()
        .map(|platform| {
            let text = |name: &str| platform[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("architecture"), text("variant")).trim_end().to_owned()
        })
        .collect();
    assert_eq!(found, expected, "arm64/v8 is what every arm64 is, and its config does not say otherwise");

    let one = published(vec![source(&all, Some("linux/amd64/v3"))], &to).await;
    assert_eq!(one.composed.images[0].image.descriptor.digest, entries[2].0.digest);
    let plain = published(vec![source(&all, Some("linux/amd64"))], &to).await;
    assert_eq!(plain.composed.images[0].image.descriptor.digest, entries[0].0.digest);
    let arm = published(vec![source(&all, Some("linux/arm64"))], &to).await;
    assert_eq!(arm.composed.images[0].image.descriptor.digest, entries[3].0.digest);
}

#[tokio::test]
async fn what_no_index_can_have_is_refused_before_anything_is_written() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    from.push_image("team/web", "1", "linux/amd64").await;
    let composition = Composition {
        format: Some(Format::Docker),
        annotations: BTreeMap::new(),
        ..composition(vec![source(&format!("{}/team/web:1", from.host), None)], &to)
    };
    let error = publish_composition(&to.session(), &composition).await.unwrap_err();
    assert!(error.to_string().contains("which a manifest list cannot have"), "{error}");
    assert_eq!(
        to.session().list_tags(&to.repository("acme/web"), 10).await.unwrap_err().kind(),
        multiarch::registry::Kind::NotFound
    );
}
