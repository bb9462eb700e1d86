//! Images made for tests: real manifests and configs with a layer that nothing runs.

use std::io::Write as _;

use multiarch::registry::Digest;
use serde_json::{Value, json};

use super::PrivateRegistry;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes to a registry of the rig, with the plainest client there is.
pub struct Push {
    base: String,
    credentials: Option<PrivateRegistry>,
    http: reqwest::Client,
}

impl Push {
    /// To `host/path`.
    pub fn to(repository: &str) -> Push {
        let (host, path) = repository.split_once('/').expect("host/path");
        Push { base: format!("http://{host}/v2/{path}"), credentials: None, http: reqwest::Client::new() }
    }

    pub fn credentials(mut self, credentials: &PrivateRegistry) -> Push {
        self.credentials = Some(credentials.clone());
        self
    }

    fn request(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.credentials {
            Some(credentials) => request.basic_auth(&credentials.username, Some(&credentials.password)),
            None => request,
        }
    }

    /// Pushes a blob and gives its digest and size.
    pub async fn blob(&self, content: Vec<u8>) -> (String, usize) {
        let digest = Digest::sha256(&content).to_string();
        let size = content.len();
        let begun =
            self.request(reqwest::Method::POST, &format!("{}/blobs/uploads/", self.base)).send().await;
        let begun = begun.expect("a registry").error_for_status().expect("an upload");
        let location = begun.headers()["location"].to_str().expect("a location").to_owned();
        let location = match location.strip_prefix('/') {
            Some(path) => format!("{}/{path}", self.base.split("/v2/").next().expect("a host")),
            None => location,
        };
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let ended = self.request(reqwest::Method::PUT, &url).body(content).send().await.expect("a registry");
        ended.error_for_status().expect("the blob is accepted");
        (digest, size)
    }

    /// Puts a manifest under a tag and gives its digest.
    pub async fn manifest(&self, tag: &str, media_type: &str, manifest: &Value) -> String {
        let bytes = serde_json::to_vec(manifest).expect("JSON");
        let digest = Digest::sha256(&bytes).to_string();
        let url = format!("{}/manifests/{tag}", self.base);
        let request = self.request(reqwest::Method::PUT, &url).header("Content-Type", media_type).body(bytes);
        request.send().await.expect("a registry").error_for_status().expect("the manifest is accepted");
        digest
    }

    /// Points a tag at what another reference leads to.
    pub async fn point(&self, tag: &str, at: &str) {
        let bytes = self.read(at).await.expect("the manifest");
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        let media_type = manifest["mediaType"].as_str().expect("a media type").to_owned();
        let url = format!("{}/manifests/{tag}", self.base);
        let request = self.request(reqwest::Method::PUT, &url).header("Content-Type", media_type).body(bytes);
        request.send().await.expect("a registry").error_for_status().expect("the tag is accepted");
    }

    /// Removes a tag, or by its digest a manifest.
    pub async fn remove(&self, reference: &str) {
        let url = format!("{}/manifests/{reference}", self.base);
        let answer = self.request(reqwest::Method::DELETE, &url).send().await.expect("a registry");
        answer.error_for_status().expect("it is removed");
    }

    /// Pushes an image for one platform under a tag; `content` makes it differ from others.
    pub async fn image(&self, tag: &str, platform: &str, content: &str) -> Child {
        let mut words = platform.split('/');
        let (os, architecture, variant) = (words.next(), words.next(), words.next());
        let archive = tar("content", content.as_bytes());
        let diff_id = Digest::sha256(&archive).to_string();
        let (layer, layer_size) = self.blob(gzip(&archive)).await;
        let mut config = json!({
            "os": os, "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        if let Some(variant) = variant {
            config["variant"] = json!(variant);
        }
        let (config, config_size) = self.blob(serde_json::to_vec(&config).expect("JSON")).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size}],
        });
        let digest = self.manifest(tag, OCI_MANIFEST, &manifest).await;
        let size = serde_json::to_vec(&manifest).expect("JSON").len();
        Child { digest, size, platform: platform.to_owned() }
    }

    /// Pushes an index of children that are in this repository.
    pub async fn index(&self, tag: &str, children: &[&Child]) -> String {
        let manifests: Vec<Value> = children.iter().map(|child| child.descriptor()).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        self.manifest(tag, OCI_INDEX, &index).await
    }

    /// The manifest under a tag or digest, byte for byte; `None` where there is none.
    pub async fn read(&self, reference: &str) -> Option<Vec<u8>> {
        let url = format!("{}/manifests/{reference}", self.base);
        let request =
            self.request(reqwest::Method::GET, &url).header("Accept", format!("{OCI_INDEX}, {OCI_MANIFEST}"));
        let response = request.send().await.expect("a registry");
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return None;
        }
        Some(response.error_for_status().expect("a manifest").bytes().await.expect("a body").to_vec())
    }
}

/// An image that was pushed.
pub struct Child {
    pub digest: String,
    pub size: usize,
    pub platform: String,
}

impl Child {
    fn descriptor(&self) -> Value {
        let mut words = self.platform.split('/');
        let mut platform = json!({"os": words.next(), "architecture": words.next()});
        if let Some(variant) = words.next() {
            platform["variant"] = json!(variant);
        }
        json!({"mediaType": OCI_MANIFEST, "digest": self.digest, "size": self.size, "platform": platform})
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

/// A tar archive of one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", content.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    // Content is padded to whole blocks, and two empty blocks end the archive.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
