//! Builds of a test: their spec, what holds them back, their Jobs and pods, and what they pushed.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Read as _;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, LogParams, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use multiarch::api::{LABEL_IMAGE, LABEL_PLATFORM, MultiArchImage};
use serde_json::{Value, json};

use super::images::Push;
use super::{PATIENCE, World, entry};

/// A spec that builds this for these platforms.
pub fn spec(world: &World, name: &str, platforms: &[&str], build: Value) -> Value {
    let platforms: Vec<Value> = platforms.iter().map(|platform| json!({"platform": platform})).collect();
    let target = json!({"repository": world.repository(name), "tags": ["1.0"]});
    json!({"target": target, "platforms": platforms, "build": build})
}

/// Creates a Secret.
pub async fn secret(world: &World, name: &str, data: &[(&str, &str)]) {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        string_data: Some(data),
        ..Secret::default()
    };
    world.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
}

/// The pods of a platform's builds.
pub async fn pods(world: &World, image: &str, platform: &str) -> Vec<Pod> {
    let platform = platform.replace('/', "-");
    let selector = format!("{LABEL_IMAGE}={image},{LABEL_PLATFORM}={platform}");
    let mut pods =
        world.api::<Pod>().list(&ListParams::default().labels(&selector)).await.expect("pods").items;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    pods
}

/// What the containers of a platform's latest pod printed.
pub async fn log(world: &World, image: &str, platform: &str) -> String {
    let pods = pods(world, image, platform).await;
    let pod = pods.last().expect("a pod");
    let spec = pod.spec.as_ref().expect("a spec");
    let mut log = String::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let parameters = LogParams { container: Some(container.name.clone()), ..LogParams::default() };
        log += &world.api::<Pod>().logs(&pod.name_any(), &parameters).await.unwrap_or_default();
    }
    log
}

/// The digest of a platform that is ready.
pub fn digest(image: &MultiArchImage, platform: &str) -> String {
    entry(image, platform).and_then(|entry| entry.digest.clone()).expect("a digest")
}

/// A manifest and its config.
pub async fn image(repository: &str, digest: &str) -> (Value, Value) {
    let manifest = fetch(repository, "manifests", digest).await;
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    let config = manifest["config"]["digest"].as_str().expect("a config");
    let config = blob(repository, config).await;
    (manifest, serde_json::from_slice(&config).expect("a config"))
}

/// The layers of an image, unpacked.
pub async fn layers(repository: &str, manifest: &Value) -> Vec<Vec<u8>> {
    let mut layers = vec![];
    for layer in manifest["layers"].as_array().expect("layers") {
        let blob = blob(repository, layer["digest"].as_str().expect("a digest")).await;
        let mut unpacked = vec![];
        flate2::read::GzDecoder::new(blob.as_slice()).read_to_end(&mut unpacked).expect("gzip");
        layers.push(unpacked);
    }
    layers
}

/// A blob as it is stored.
pub async fn blob(repository: &str, digest: &str) -> Vec<u8> {
    fetch(repository, "blobs", digest).await
}

async fn fetch(repository: &str, kind: &str, digest: &str) -> Vec<u8> {
    let (host, path) = repository.split_once('/').expect("host/path");
    let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let request = reqwest::Client::new().get(format!("http://{host}/v2/{path}/{kind}/{digest}"));
    let response = request.header("Accept", accept).send().await.expect("a registry");
    response.error_for_status().expect("content").bytes().await.expect("a body").to_vec()
}

/// Runs an image on a node of an architecture and gives what it prints.
pub async fn run_on(world: &World, architecture: &str, image: &str) -> String {
    let pods = world.api::<Pod>();
    let selector = BTreeMap::from([("kubernetes.io/arch", architecture)]);
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "run-"},
        "spec": {
            "restartPolicy": "Never", "nodeSelector": selector,
            "containers": [{"name": "run", "image": image}],
        },
    }))
    .expect("a pod");
    let name = pods.create(&PostParams::default(), &pod).await.expect("a pod").name_any();
    let ended = await_condition(pods.clone(), &name, |pod: Option<&Pod>| {
        let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    });
    tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("the pod ends");
    pods.logs(&name, &LogParams::default()).await.expect("its output")
}

/// A spec that builds busybox and these commands for these platforms.
pub fn inline(world: &World, name: &str, platforms: &[&str], commands: &str) -> Value {
    let dockerfile = format!("FROM {}\n{commands}\n", world.rig.images["busybox"]);
    spec(world, name, platforms, json!({"context": {"inline": {"dockerfile": dockerfile}}}))
}

/// A command that ends when the gate of the test opens.
pub fn until_gate_opens(world: &World) -> String {
    let gate = world.repository("gate");
    let (host, path) = gate.split_once('/').expect("a host and a path");
    format!("RUN until wget -qO /dev/null http://{host}/v2/{path}/tags/list; do sleep 0.2; done")
}

/// Lets the builds go on that wait for the gate of the test.
pub async fn open_gate(world: &World) {
    Push::to(&world.repository("gate")).image("open", "linux/amd64", "the gate").await;
}

pub async fn jobs(world: &World) -> Vec<Job> {
    world.api::<Job>().list(&ListParams::default()).await.expect("Jobs").items
}

/// How many Jobs were ever created in the namespace of the test, as the API server noted.
pub fn jobs_ever_created(world: &World) -> usize {
    ever_created(world, "jobs")
}

/// The same for objects of any kind.
pub fn ever_created(world: &World, resource: &str) -> usize {
    let log = world.rig.kubeconfig.with_file_name("audit.log");
    let text = std::fs::read_to_string(log).expect("the audit log");
    let created = |event: &Value| {
        event["verb"] == "create"
            && event["objectRef"]["resource"] == resource
            && event["objectRef"]["subresource"].is_null()
            && event["objectRef"]["namespace"] == world.namespace.as_str()
            && event["responseStatus"]["code"] == 201
    };
    let lines = text.lines().filter(|line| line.contains(&world.namespace));
    lines.filter(|line| serde_json::from_str(line).is_ok_and(|event| created(&event))).count()
}

pub async fn until_gone<K>(api: Api<K>, name: &str)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let gone = await_condition(api, name, |object: Option<&K>| object.is_none());
    tokio::time::timeout(PATIENCE, gone).await.expect("it goes in time").expect("it is watched");
}
