//! An image with much in it from one registry to another, both on this machine and without a front between.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt as _;
use multiarch::registry::{Algorithm, Digest, Hasher, MediaType};
use reqwest::{Body, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::images::{SEED, get_manifest, has_blob};
use crate::measure::{Home, Usage, Words};
use crate::registry::{Registry, index};
use crate::settings::Settings;
use crate::tools::{Tool, shell};

const MEBIBYTE: u64 = 1024 * 1024;

/// What is run: a tool, and for ours by which of its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    name: &'static str,
    tool: Tool,
    creates: bool,
}

const WAYS: [Way; 7] = [
    Way { name: "multiarch index copy", tool: Tool::Multiarch, creates: false },
    Way { name: "multiarch index create", tool: Tool::Multiarch, creates: true },
    Way { name: "crane copy", tool: Tool::Crane, creates: false },
    Way { name: "regctl image copy", tool: Tool::Regctl, creates: false },
    Way { name: "buildx imagetools create", tool: Tool::Buildx, creates: false },
    Way { name: "skopeo copy", tool: Tool::Skopeo, creates: false },
    Way { name: "curl into curl", tool: Tool::Curl, creates: false },
];

/// One image's row of ways.
#[derive(Debug, Serialize)]
pub struct Table {
    pub layers: u64,
    pub layer_mebibytes: u64,
    pub ways: Vec<Line>,
}

/// What one way took: the run in the middle by time, or why there is none.
#[derive(Debug, Serialize)]
pub struct Line {
    pub name: &'static str,
    pub tool: Tool,
    pub usage: Result<Usage, String>,
}

/// An image that is in the source registry.
struct Large {
    layers: Vec<Digest>,
}

pub async fn measure(settings: &Settings, tools: &[Tool]) -> Vec<Table> {
    let mut tables = Vec::new();
    for layers in [1, 4] {
        tables.push(measure_image(settings, tools, layers, settings.layer_mebibytes / layers).await);
    }
    tables
}

async fn measure_image(settings: &Settings, tools: &[Tool], layers: u64, layer_mebibytes: u64) -> Table {
    let http = reqwest::Client::new();
    let home = Home::new(settings.home());
    let source = Registry::storing_in(&settings.storage);
    let image = push(&source, &http, layers, layer_mebibytes * MEBIBYTE).await;
    let ways: Vec<Way> = WAYS.into_iter().filter(|way| tools.contains(&way.tool)).collect();
    let mut usages: BTreeMap<&str, Result<Vec<Usage>, String>> = BTreeMap::new();
    for _ in 0..settings.runs {
        for way in &ways {
            let all = usages.entry(way.name).or_insert_with(|| Ok(Vec::new()));
            let Ok(known) = all else { continue };
            match run(settings, &http, &home, &source, &image, way).await {
                Ok(usage) => known.push(usage),
                Err(cause) => *all = Err(cause),
            }
        }
    }
    let line = |way: &Way| Line {
        name: way.name,
        tool: way.tool,
        usage: usages.remove(way.name).expect("each way was run").map(middle),
    };
    Table { layers, layer_mebibytes, ways: ways.iter().map(line).collect() }
}

/// To a registry that is new, so that nothing is there and no tool has heard of it.
async fn run(
    settings: &Settings,
    http: &reqwest::Client,
    home: &Home,
    source: &Registry,
    image: &Large,
    way: &Way,
) -> Result<Usage, String> {
    let target = Registry::storing_in(&settings.storage);
    home.configure(&[&source.host, &target.host], None);
    let usage = home.measure(&[command(way, source, &target, image)]).await?;
    for layer in &image.layers {
        if !has_blob(&target, http, "copy", layer.as_str()).await {
            return Err("a layer is missing".to_owned());
        }
    }
    if way.tool != Tool::Curl && get_manifest(&target, http, "copy", "1").await.is_none() {
        return Err("the tag is missing".to_owned());
    }
    Ok(usage)
}

fn command(way: &Way, source: &Registry, target: &Registry, image: &Large) -> Words {
    let from = format!("{}/{SEED}:index", source.host);
    let to = format!("{}/copy:1", target.host);
    match way.tool {
        Tool::Curl => shell(&curl(source, target, image)),
        Tool::Multiarch if way.creates => {
            [way.tool.program().as_str(), "index", "create", &to, "--image", &from]
                .map(str::to_owned)
                .to_vec()
        }
        tool => tool.copy(&from, &to).expect("each of the others copies"),
    }
}

/// All layers at once, each from one curl into another, which asks where to before.
fn curl(source: &Registry, target: &Registry, image: &Large) -> String {
    let mut script = String::new();
    for digest in &image.layers {
        let (from, to) = (&source.host, &target.host);
        script.push_str(&format!(
            "{{ to=$(curl --silent --request POST --output /dev/null --write-out '%header{{location}}' http://{to}/v2/copy/blobs/uploads/); \
             curl --silent --fail http://{from}/v2/{SEED}/blobs/{digest} | \
             curl --silent --fail --output /dev/null --header 'Content-Type: application/octet-stream' --upload-file - \"$to&digest={digest}\"; }} & ",
        ));
    }
    script + "wait"
}

fn middle(mut usages: Vec<Usage>) -> Usage {
    usages.sort_by(|one, other| one.wall_seconds.total_cmp(&other.wall_seconds));
    let largest = usages.iter().map(|usage| usage.rss_bytes).max().unwrap_or_default();
    // Of memory the most counts, not the usual.
    Usage { rss_bytes: largest, ..usages[usages.len() / 2] }
}

/// Pushes an image of layers that nothing compresses, and an index of it under the tag `index`.
async fn push(registry: &Registry, http: &reqwest::Client, layers: u64, size: u64) -> Large {
    let mut descriptors = Vec::new();
    let mut digests = Vec::new();
    for number in 0..layers {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        noise(number, size).for_each(|piece| hasher.update(&piece));
        let digest = hasher.finish();
        push_noise(registry, http, &digest, number, size).await;
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
        digests.push(digest);
    }
    let platform = json!({"os": "linux", "architecture": "amd64"});
    let mut config = platform.clone();
    config["rootfs"] = json!({"type": "layers", "diff_ids": digests});
    let config = config.to_string();
    let digest = registry.push_blob(SEED, config.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": digest, "size": config.len()},
        "layers": descriptors,
    });
    let descriptor = registry.push_manifest(SEED, "image", &manifest).await;
    registry.push_manifest(SEED, "index", &index(&[(&descriptor, json!({"platform": platform}))])).await;
    Large { layers: digests }
}

/// The same for the same number, piece by piece.
fn noise(number: u64, size: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut random = fastrand::Rng::with_seed(number);
    (0..size / MEBIBYTE).map(move |_| {
        let mut piece = vec![0; MEBIBYTE as usize];
        random.fill(&mut piece);
        Bytes::from(piece)
    })
}

async fn push_noise(registry: &Registry, http: &reqwest::Client, digest: &Digest, number: u64, size: u64) {
    let address = format!("http://{}/v2/{SEED}/blobs/uploads/", registry.host);
    let opened = http.post(address).send().await.expect("an answer");
    let location = opened.headers()["location"].to_str().expect("an address").to_owned();
    let pieces = futures::stream::iter(noise(number, size)).map(Ok::<_, std::io::Error>);
    let put = http.put(format!("{location}&digest={digest}")).body(Body::wrap_stream(pieces));
    let answer = put.header("content-length", size).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::CREATED);
}
