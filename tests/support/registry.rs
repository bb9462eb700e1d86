//! A real registry for the tests, and images to put into it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "devcluster.rs"]
mod devcluster;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use multiarch::registry::{Client, Descriptor, Digest, Keyring, MediaType, Repository, Session, Settings};
use serde_json::{Value, json};

pub const USER: &str = "ali-baba";
pub const PASSWORD: &str = "open-sesame";
/// `htpasswd -Bb` of the two.
const HTPASSWD: &str = "ali-baba:$2b$04$sD7yufPCPGRcB7hP.aPr6ewsoiqgbi47S8iXWYOAvUTIgRDhvbQYS\n";

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A registry on a free port of this machine; ends with the value.
pub struct Registry {
    pub host: String,
    /// Name and password of who may push.
    pub credentials: Option<(&'static str, &'static str)>,
    process: Child,
    directory: PathBuf,
}

impl Registry {
    /// One that lets everyone push.
    pub fn anonymous() -> Self {
        Self::spawn(json!({}), None)
    }

    /// One that wants a name and a password.
    pub fn with_password() -> Self {
        Self::spawn(json!({"auth": {"htpasswd": {"realm": "cave"}}}), Some((USER, PASSWORD)))
    }

    /// One that takes nothing.
    pub fn read_only() -> Self {
        Self::spawn(json!({"storage": {"maintenance": {"readonly": {"enabled": true}}}}), None)
    }

    /// Another with the same content, which takes nothing.
    pub fn read_only_view(&self) -> Self {
        let data = self.directory.join("data");
        let read_only = json!({"readonly": {"enabled": true}});
        Self::configured(
            json!({"storage": {"filesystem": {"rootdirectory": data}, "maintenance": read_only}}),
        )
    }

    /// One that lets everyone push and keeps what it has below `folder` as long as it runs; with the cache that
    /// distribution's own image has.
    pub fn storing_in(folder: &Path) -> Self {
        let cache = json!({"storage": {"cache": {"blobdescriptor": "inmemory"}}});
        let mut command = Command::new(devcluster_program("registry"));
        // It takes 4 MiB for every blob that is read. On a machine of its own it collects its garbage beside the work.
        command.env("GOGC", "800");
        Self::serve(command, cache, None, Self::directory_in(folder))
    }

    /// One that differs in its configuration.
    pub fn configured(changes: Value) -> Self {
        Self::spawn(changes, None)
    }

    fn spawn(changes: Value, credentials: Option<(&'static str, &'static str)>) -> Self {
        Self::distribution(&devcluster_program("registry"), changes, credentials)
    }

    /// Distribution's registry, of the version that `program` is.
    pub fn distribution(
        program: &Path,
        changes: Value,
        credentials: Option<(&'static str, &'static str)>,
    ) -> Self {
        Self::serve(Command::new(program), changes, credentials, Self::directory())
    }

    fn serve(
        mut command: Command,
        changes: Value,
        credentials: Option<(&'static str, &'static str)>,
        directory: PathBuf,
    ) -> Self {
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory.join("data")}, "delete": {"enabled": true}},
            "http": {"addr": "127.0.0.1:0"},
        });
        merge(&mut config, changes);
        if let Some(auth) = config.pointer_mut("/auth/htpasswd") {
            let file = directory.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            auth["path"] = json!(file);
        }
        // YAML includes JSON.
        let file = directory.join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        // Nobody collects its traces.
        command.env("OTEL_TRACES_EXPORTER", "none");
        let mut registry = Self::launch(command, &["serve", file.to_str().unwrap()], directory);
        registry.credentials = credentials;
        registry
    }

    /// Any program that says on standard error what it is "listening on".
    pub fn launch(mut command: Command, arguments: &[&str], directory: PathBuf) -> Self {
        let mut process = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let host = listening_on(&mut process);
        Self { host, credentials: None, process, directory }
    }

    /// A new directory, which goes with the registry.
    pub fn directory() -> PathBuf {
        Self::directory_in(&std::env::temp_dir())
    }

    fn directory_in(folder: &Path) -> PathBuf {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = folder.join(format!("multiarch-registry-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host).parse().unwrap()
    }

    /// A keyring with the registry's credentials, if it has any.
    pub fn keyring(&self) -> Keyring {
        let mut keyring = Keyring::default();
        if let Some((username, password)) = self.credentials {
            add(&mut keyring, &self.host, username, password);
        }
        keyring
    }

    pub fn session(&self) -> Session {
        client().session(Arc::new(self.keyring()))
    }

    /// The file in which the registry keeps a blob or a manifest.
    pub fn file_of(&self, digest: &Digest) -> PathBuf {
        let (prefix, hex) = (&digest.hex()[..2], digest.hex());
        self.directory.join(format!("data/docker/registry/v2/blobs/sha256/{prefix}/{hex}/data"))
    }

    /// Deletes a manifest without the code under test.
    pub async fn delete_manifest(&self, path: &str, digest: &Digest) {
        let url = format!("http://{}/v2/{path}/manifests/{digest}", self.host);
        let deleted = self.authorised(reqwest::Client::new().delete(url)).send().await.unwrap();
        assert_eq!(deleted.status(), 202);
    }

    /// Pushes without the code under test.
    pub async fn push_blob(&self, path: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let url = format!("http://{}/v2/{path}/blobs/uploads/", self.host);
        let opened = self.authorised(reqwest::Client::new().post(url)).send().await.unwrap();
        // Relative at some registries, with a query of its own at others.
        let location = opened.headers()["location"].to_str().unwrap();
        let mut url = opened.url().join(location).unwrap();
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let put = self.authorised(reqwest::Client::new().put(url)).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(put.status(), 201);
        digest
    }

    /// Pushes without the code under test.
    pub async fn push_manifest(&self, path: &str, tag: &str, manifest: &Value) -> Descriptor {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let media_type = MediaType::new(manifest["mediaType"].as_str().unwrap());
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        let name = if tag.is_empty() { descriptor.digest.as_str() } else { tag };
        let url = format!("http://{}/v2/{path}/manifests/{name}", self.host);
        let put = self
            .authorised(reqwest::Client::new().put(url))
            .header("content-type", descriptor.media_type.as_str());
        let put = put.body(bytes).send().await.unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        descriptor
    }

    /// Pushes an image of one small layer for `os/architecture`.
    pub async fn push_image(&self, path: &str, tag: &str, platform: &str) -> Descriptor {
        let (os, architecture) = platform.split_once('/').unwrap();
        let config =
            json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
        let layers = [format!("a layer of {platform}"), "a layer that all platforms share".to_owned()];
        self.push_image_of(path, tag, &config, &layers).await
    }

    /// Pushes an image with this config and these layers.
    pub async fn push_image_of(
        &self,
        path: &str,
        tag: &str,
        config: &Value,
        layers: &[String],
    ) -> Descriptor {
        let mut descriptors = Vec::new();
        for layer in layers {
            let digest = self.push_blob(path, layer.as_bytes()).await;
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": layer.len()}));
        }
        let config = config.to_string();
        let digest = self.push_blob(path, config.as_bytes()).await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": {"mediaType": MediaType::OCI_CONFIG, "digest": digest, "size": config.len()},
            "layers": descriptors,
        });
        self.push_manifest(path, tag, &manifest).await
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.credentials {
            Some((username, password)) => request.basic_auth(username, Some(password)),
            None => request,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A client that does not wait long before it tries again.
pub fn client() -> Client {
    let mut settings = Settings::default();
    settings.retry.pause = std::time::Duration::from_millis(1);
    Client::new(&settings).unwrap()
}

/// Adds a credential for `registry`.
pub fn add(keyring: &mut Keyring, registry: &str, username: &str, password: &str) {
    let document = json!({"auths": {registry: {"username": username, "password": password}}});
    keyring.add("secret test", document.to_string().as_bytes()).unwrap();
}

/// An index with these entries, each with its platform.
pub fn index(entries: &[(&Descriptor, Value)]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(descriptor, more)| {
            let mut entry = serde_json::to_value(descriptor).unwrap();
            merge(&mut entry, more.clone());
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries})
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            changes.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, changes) => *into = changes,
    }
}

/// A program of the development cluster; `$REGISTRY_BINARY` stands in for its registry.
pub fn devcluster_program(name: &str) -> PathBuf {
    if let Some(binary) = std::env::var_os("REGISTRY_BINARY").filter(|_| name == "registry") {
        return binary.into();
    }
    let built = devcluster::root().join("target/devcluster/bin").join(name);
    if !built.is_file() {
        devcluster::run(&["build"]);
    }
    built
}

/// The address from the registry's log, which is read on so that the registry is never held up.
fn listening_on(process: &mut Child) -> String {
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut seen = String::new();
    let host = loop {
        let start = seen.len();
        assert_ne!(log.read_line(&mut seen).unwrap(), 0, "the registry ended: {seen}");
        if let Some((_, rest)) = seen[start..].split_once("listening on ") {
            break rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
        }
    };
    thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    host
}
