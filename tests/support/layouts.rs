//! Layouts for tests, good and evil, and what is in registries byte for byte.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use multiarch::layout::{self, Exported, Imported, Layout, LayoutError, export_to_directory};
use multiarch::registry::{Descriptor, Digest, MediaType, Reference};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fault_server::{Answer, Asked, FaultServer};
use crate::support::{self, Registry, index};

/// A directory of its own; goes with the value.
pub fn temporary() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host).parse().unwrap()
}

/// An image as programs want it: layers that are compressed archives, and a config that names them.
pub async fn push_real_image(registry: &Registry, path: &str, tag: &str, platform: &str) -> Descriptor {
    push_layers(registry, path, tag, platform, &[platform, "all platforms"]).await
}

async fn push_layers(
    registry: &Registry,
    path: &str,
    tag: &str,
    platform: &str,
    contents: &[&str],
) -> Descriptor {
    let (os, architecture) = platform.split_once('/').unwrap();
    let (mut layers, mut ids) = (Vec::new(), Vec::new());
    for content in contents {
        let layer = Tar::default().file("content", content.as_bytes()).end();
        ids.push(Digest::sha256(&layer));
        let layer = gzip(&layer);
        let digest = registry.push_blob(path, &layer).await;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(json!({"mediaType": media_type, "digest": digest, "size": layer.len()}));
    }
    let config = json!({
        "os": os, "architecture": architecture, "config": {"Cmd": ["/content"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = config.to_string();
    let digest = registry.push_blob(path, config.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": digest, "size": config.len()},
        "layers": layers,
    });
    registry.push_manifest(path, tag, &manifest).await
}

/// An index of two platforms, the first with an attestation.
pub async fn push_web(registry: &Registry, path: &str, tag: &str) -> Digest {
    let amd64 = push_real_image(registry, path, "", "linux/amd64").await;
    let arm64 = push_real_image(registry, path, "", "linux/arm64").await;
    let sbom = push_layers(registry, path, "", "unknown/unknown", &["an SBOM"]).await;
    let content = index(&[
        (&amd64, json!({"platform": {"os": "linux", "architecture": "amd64"}})),
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
        (&arm64, json!({"platform": {"os": "linux", "architecture": "arm64"}})),
    ]);
    registry.push_manifest(path, tag, &content).await.digest
}

/// The bytes of a manifest, read without the code under test.
pub async fn raw(registry: &Registry, path: &str, name: &str) -> Vec<u8> {
    let url = format!("http://{}/v2/{path}/manifests/{name}", registry.host);
    let accept =
        [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, MediaType::DOCKER_LIST, MediaType::DOCKER_MANIFEST]
            .map(|media_type| media_type.to_string())
            .join(", ");
    let response = reqwest::Client::new().get(url).header("Accept", accept).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path} {name}");
    response.bytes().await.unwrap().to_vec()
}

/// The digests that an index lists.
pub fn children_of(index: &[u8]) -> Vec<String> {
    let index: Value = serde_json::from_slice(index).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    entries.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

pub async fn manifests_of(registry: &Registry, path: &str, index: &[u8]) -> Vec<Value> {
    let mut manifests = Vec::new();
    for child in children_of(index) {
        manifests.push(serde_json::from_slice(&raw(registry, path, &child).await).unwrap());
    }
    manifests
}

pub async fn export(registry: &Registry, from: &str, to: &Path) -> Result<Exported, LayoutError> {
    export_some(registry, from, &[], to).await
}

pub async fn export_some(
    registry: &Registry,
    from: &str,
    platforms: &[&str],
    to: &Path,
) -> Result<Exported, LayoutError> {
    let platforms: Vec<_> = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
    export_to_directory(&registry.session(), &reference(registry, from), &platforms, to).await
}

pub async fn import(registry: &Registry, from: &Path, to: &[&str]) -> Result<Imported, LayoutError> {
    import_into(&registry.host, from, to).await
}

/// Imports the only entry.
pub async fn import_into(host: &str, from: &Path, to: &[&str]) -> Result<Imported, LayoutError> {
    let layout = Layout::open(from).await?;
    let entry = layout.choose(None)?.clone();
    let targets: Vec<Reference> = to.iter().map(|rest| format!("{host}/{rest}").parse().unwrap()).collect();
    let session = support::client().session(Arc::default());
    layout::import(&session, Arc::new(layout), &entry, &[], &targets).await
}

/// Every blob of a layout in a directory, temporary files included.
pub fn blob_files(layout: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// An `index.json` that lists one more manifest.
pub fn listing(mut index: Value, digest: &Digest, size: usize) -> String {
    let entry = json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": size});
    index["manifests"].as_array_mut().unwrap().push(entry);
    index.to_string()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A registry of which no request is expected.
pub async fn refusing() -> FaultServer {
    FaultServer::start(|_| Answer::status(418)).await
}

/// A registry with an image of which one layer has other bytes than it should.
pub async fn serving_a_wrong_blob() -> FaultServer {
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let (config_digest, layer) = (Digest::sha256(config), Digest::sha256(b"right"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 5}],
    });
    FaultServer::start(move |asked: &Asked| match asked.target.rsplit('/').next().unwrap() {
        name if name == layer.as_str() => Answer::status(200).body("wrong"),
        name if name == config_digest.as_str() => Answer::status(200).body(config),
        _ => Answer::status(200)
            .header("Content-Type", MediaType::OCI_MANIFEST.as_str())
            .body(manifest.to_string()),
    })
    .await
}

/// A tar archive, as one likes.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(name, content)
    }

    /// A file with a name that no writer would let pass.
    pub fn raw(self, name: &str, content: &[u8]) -> Self {
        self.member(name, None, tar::EntryType::Regular, content)
    }

    pub fn link(self, name: &str, to: &Path, kind: tar::EntryType) -> Self {
        self.member(name, Some(to), kind, b"")
    }

    /// What precedes a member and says more about it.
    pub fn extension(self, kind: tar::EntryType, content: &[u8]) -> Self {
        self.member("extension", None, kind, content)
    }

    fn member(mut self, name: &str, link: Option<&Path>, kind: tar::EntryType, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        if let Some(to) = link {
            header.set_link_name(to).unwrap();
        }
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        io::Write::write_all(&mut self.0, &[0; 1024]).unwrap();
        self.0
    }
}
