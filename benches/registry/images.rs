//! The images of the scenes: pushed once, then put where a scene wants them; and whether what a tool has published is
//! what was asked for.

use std::collections::BTreeSet;

use multiarch::registry::{Descriptor, Digest, MediaType};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::registry::{Registry, index};

/// Where the images are from the beginning.
pub const SEED: &str = "seed";

/// The platforms of the images, each with its tag.
pub const PLATFORMS: [&str; 16] = [
    "linux/amd64",
    "linux/arm64",
    "linux/s390x",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/386",
    "linux/loong64",
    "linux/mips64le",
    "linux/mips64",
    "linux/mipsle",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/arm/v5",
    "freebsd/amd64",
    "freebsd/arm64",
    "solaris/amd64",
];

/// The size of one of the two layers of an image, in bytes.
const LAYER: usize = 4096;

/// A small image that is in the seed repository.
pub struct Image {
    pub tag: String,
    platform: Value,
    descriptor: Descriptor,
    manifest: Value,
}

impl Image {
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    pub fn config(&self) -> &str {
        self.manifest["config"]["digest"].as_str().unwrap_or_default()
    }

    pub fn blobs(&self) -> impl Iterator<Item = &str> {
        let layers = self.manifest["layers"].as_array().into_iter().flatten();
        layers.chain([&self.manifest["config"]]).filter_map(|blob| blob["digest"].as_str())
    }

    fn entry(&self) -> (&Descriptor, Value) {
        (&self.descriptor, json!({"platform": self.platform}))
    }
}

/// An index of these images.
pub fn entries_of(images: &[Image]) -> Value {
    let entries: Vec<_> = images.iter().map(Image::entry).collect();
    index(&entries)
}

/// The tag of an index of the first so many images.
pub fn index_tag(platforms: usize) -> String {
    format!("index-{platforms}")
}

/// Pushes one image for each platform, and an index of the first 2, 4, 8 and 16 of them.
pub async fn seed(registry: &Registry, http: &reqwest::Client) -> Vec<Image> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut images = Vec::new();
    for platform in PLATFORMS {
        let layers: Vec<String> =
            (0..2).map(|_| (0..LAYER).map(|_| random.alphanumeric()).collect()).collect();
        let tag = platform.replace('/', "-");
        let platform = platform_value(platform);
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer.as_bytes())).collect();
        let mut config = platform.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let descriptor = registry.push_image_of(SEED, &tag, &config, &layers).await;
        let manifest = get_manifest(registry, http, SEED, &tag).await.expect("the image just pushed");
        images.push(Image { tag, platform, descriptor, manifest });
    }
    for count in [2, 4, 8, 16] {
        registry.push_manifest(SEED, &index_tag(count), &entries_of(&images[..count])).await;
    }
    images
}

fn platform_value(platform: &str) -> Value {
    let mut parts = platform.split('/');
    let mut value = json!({"os": parts.next(), "architecture": parts.next()});
    if let Some(variant) = parts.next() {
        value["variant"] = variant.into();
    }
    value
}

/// Puts images under their tags into another repository of their registry.
pub async fn place(registry: &Registry, http: &reqwest::Client, images: &[Image], repository: &str) {
    for image in images {
        for digest in image.blobs() {
            let address = format!("http://{}/v2/{repository}/blobs/uploads/", registry.host);
            let mount = http.post(format!("{address}?mount={digest}&from={SEED}")).send().await;
            assert_eq!(mount.expect("an answer").status(), StatusCode::CREATED);
        }
        let placed = registry.push_manifest(repository, &image.tag, &image.manifest).await;
        assert_eq!(placed.digest, image.descriptor.digest);
    }
}

/// Whether each tag is the same index of exactly these images with their platforms, and all that they are made of is
/// in the repository.
pub async fn check(
    registry: &Registry,
    http: &reqwest::Client,
    repository: &str,
    tags: &[String],
    images: &[Image],
) -> Result<(), String> {
    let expected: BTreeSet<(String, String)> =
        images.iter().map(|image| child(image.descriptor.digest.as_str(), &image.platform)).collect();
    let mut indexes = BTreeSet::new();
    for tag in tags {
        let found = get_manifest(registry, http, repository, tag).await;
        let found = found.ok_or_else(|| format!("the tag {tag} is missing"))?;
        let entries = found["manifests"].as_array().ok_or_else(|| format!("{tag} is no index"))?;
        let children: BTreeSet<_> = entries
            .iter()
            .map(|entry| child(entry["digest"].as_str().unwrap_or_default(), &entry["platform"]))
            .collect();
        if children != expected || entries.len() != expected.len() {
            let (found, wanted) =
                (children.difference(&expected).next(), expected.difference(&children).next());
            return Err(format!("the index has other children, so {found:?} and not {wanted:?}"));
        }
        indexes.insert(found.to_string());
    }
    if indexes.len() > 1 {
        return Err("the tags are not the same index".to_owned());
    }
    for image in images {
        if get_manifest(registry, http, repository, image.descriptor.digest.as_str()).await.is_none() {
            return Err(format!("the image {} is missing", image.tag));
        }
        for digest in image.blobs() {
            if !has_blob(registry, http, repository, digest).await {
                return Err(format!("a blob of {} is missing", image.tag));
            }
        }
    }
    Ok(())
}

/// Digest and platform as texts that compare.
fn child(digest: &str, platform: &Value) -> (String, String) {
    let part = |name: &str| platform[name].as_str().unwrap_or_default().to_owned();
    (digest.to_owned(), format!("{}/{}/{}", part("os"), part("architecture"), part("variant")))
}

/// Whether the repository has the blob.
pub async fn has_blob(registry: &Registry, http: &reqwest::Client, repository: &str, digest: &str) -> bool {
    let address = format!("http://{}/v2/{repository}/blobs/{digest}", registry.host);
    http.head(address).send().await.expect("an answer").status() == StatusCode::OK
}

/// The manifest under a tag or digest, if it is there.
pub async fn get_manifest(
    registry: &Registry,
    http: &reqwest::Client,
    repository: &str,
    name: &str,
) -> Option<Value> {
    let address = format!("http://{}/v2/{repository}/manifests/{name}", registry.host);
    let accepted = [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, MediaType::DOCKER_LIST];
    let accepted: Vec<&str> = accepted.iter().map(MediaType::as_str).collect();
    let answer = http.get(address).header("accept", accepted.join(", ")).send().await.expect("an answer");
    if answer.status() != StatusCode::OK {
        return None;
    }
    let bytes = answer.bytes().await.expect("a manifest");
    Some(serde_json::from_slice(&bytes).expect("JSON"))
}
