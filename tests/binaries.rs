//! The programs of images in a real registry: made by the Go compiler for several architectures.

#[path = "support/registry.rs"]
mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use multiarch::image::{ImageConfig, ImageManifest, ProgramFinding, inspect_program, resolve};
use multiarch::image::{PlatformCheck, ResolvedImage};
use multiarch::registry::{
    BlobReader, Descriptor, Digest, Kind, LARGEST_MANIFEST, MediaType, Reference, Session,
};
use serde_json::{Value, json};
use support::{Registry, client};
use tar::{Builder, EntryType, Header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A program for `os/architecture` that does nothing.
fn program(os: &str, architecture: &str) -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("multiarch-program-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("main.go"), "package main\n\nfunc main() {}\n").unwrap();
    let built = Command::new("go")
        .args(["build", "-ldflags=-s -w", "-o", "app", "main.go"])
        .current_dir(&folder)
        .envs([("GOOS", os), ("GOARCH", architecture), ("CGO_ENABLED", "0"), ("GO111MODULE", "off")])
        .status()
        .expect("go is installed");
    assert!(built.success(), "no program for {os}/{architecture}");
    let content = std::fs::read(folder.join("app")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    content
}

/// A layer of files and of links, which have a target instead of content.
fn layer(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    for (path, target) in links {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, path, target).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(archive: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(archive, flate2::Compression::fast());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
    packed
}

/// Pushes an image that claims to be for `platform`.
async fn push(
    registry: &Registry,
    tag: &str,
    platform: &str,
    config: Value,
    layers: &[Vec<u8>],
) -> Descriptor {
    let (os, architecture) = platform.split_once('/').unwrap();
    let mut descriptors = Vec::new();
    for layer in layers {
        let digest = registry.push_blob("team/web", layer).await;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": layer.len()}));
    }
    let config = json!({
        "os": os, "architecture": architecture, "config": config,
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = config.to_string();
    let digest = registry.push_blob("team/web", config.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": digest, "size": config.len()},
        "layers": descriptors,
    });
    registry.push_manifest("team/web", tag, &manifest).await
}

/// What a user of the library does: finds the image, then looks at its program.
async fn inspect(session: &Session, host: &str, tag: &str, platform: &str) -> ProgramFinding {
    let reference: Reference = format!("{host}/team/web:{tag}").parse().unwrap();
    let platform = platform.parse().unwrap();
    let image = resolve(session, &reference, &platform, PlatformCheck::Enforce).await.unwrap();
    let (manifest, config) = parts(session, &image).await;
    let store = Arc::new(session.blobs_of(&image.repository));
    inspect_program(store, &manifest, &config, &platform).await.unwrap()
}

async fn parts(session: &Session, image: &ResolvedImage) -> (ImageManifest, ImageConfig) {
    let manifest: ImageManifest = serde_json::from_slice(&image.image.bytes).unwrap();
    let config = session.get_blob_bytes(&image.repository, &manifest.config, LARGEST_MANIFEST).await.unwrap();
    (manifest, serde_json::from_slice(&config).unwrap())
}

#[tokio::test]
async fn compiled_programs_are_for_the_platform_they_were_compiled_for() {
    let registry = Registry::anonymous();
    let platforms =
        ["linux/amd64", "linux/arm64", "linux/arm", "linux/s390x", "linux/ppc64le", "linux/mips64le"];
    for platform in platforms.into_iter().chain(["windows/amd64"]) {
        let (os, architecture) = platform.split_once('/').unwrap();
        let (path, name) = if os == "windows" { ("Files/app.exe", r"C:\app.exe") } else { ("app", "/app") };
        let layers = [gzip(&layer(&[(path, &program(os, architecture))], &[]))];
        let tag = platform.replace('/', "-");
        push(&registry, &tag, platform, json!({"Entrypoint": [name]}), &layers).await;
        let finding = inspect(&registry.session(), &registry.host, &tag, platform).await;
        assert!(matches!(finding, ProgramFinding::Matches { .. }), "{finding}");
    }
}

#[tokio::test]
async fn an_image_whose_config_is_right_and_whose_program_is_not_is_found_out() {
    let registry = Registry::anonymous();
    let layers = [
        gzip(&layer(
            &[("usr/bin/dash", &program("linux", "amd64"))],
            &[("bin", "usr/bin"), ("usr/bin/sh", "dash")],
        )),
        gzip(&layer(&[("usr/local/bin/entrypoint.sh", b"#!/bin/sh\nexec \"$@\"\n")], &[])),
        gzip(&layer(&[("app", b"data")], &[])),
    ];
    let config = json!({"Entrypoint": ["entrypoint.sh"], "Cmd": ["/app"]});
    push(&registry, "lie", "linux/arm64", config, &layers).await;
    let finding = inspect(&registry.session(), &registry.host, "lie", "linux/arm64").await;
    assert_eq!(
        finding.to_string(),
        format!(
            "entrypoint.sh → /usr/local/bin/entrypoint.sh → /bin/sh → /usr/bin/dash is for x86-64 (ELF), \
             the platform is linux/arm64 (in layer {})",
            Digest::sha256(&layers[0])
        )
    );
}

#[tokio::test]
async fn a_large_layer_is_fetched_no_further_than_its_program() {
    let registry = Registry::anonymous();
    // What gzip cannot make smaller.
    let mut seed = 1_u64;
    let ballast: Vec<u8> = (0..64 << 20)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 56) as u8
        })
        .collect();
    let layers = [layer(&[("app", &program("linux", "arm64")), ("ballast", &ballast)], &[])];
    push(&registry, "large", "linux/arm64", json!({"Cmd": ["/app"]}), &layers).await;
    let front = CountingFront::of(&registry.host).await;

    let session = client().session(Arc::default());
    let finding = inspect(&session, &front.host, "large", "linux/arm64").await;
    assert!(matches!(finding, ProgramFinding::Matches { .. }), "{finding}");
    let sent = front.sent.load(Ordering::SeqCst);
    // What had not been read when the program was found is in the buffers of sockets.
    assert!(sent < layers[0].len() as u64 / 2, "{sent} of {} bytes were sent", layers[0].len());

    // The front counts all there is when all is read.
    let repository = format!("{}/team/web", front.host).parse().unwrap();
    let descriptor =
        Descriptor::new(MediaType::new("x/y"), Digest::sha256(&layers[0]), layers[0].len() as u64);
    let mut reader = BlobReader::new(Arc::new(session.blobs_of(&repository)), &descriptor);
    while reader.next().await.unwrap().is_some() {}
    assert!(front.sent.load(Ordering::SeqCst) - sent > layers[0].len() as u64);
}

#[tokio::test]
async fn a_layer_that_is_not_there_is_an_error_of_the_registry() {
    let registry = Registry::anonymous();
    let layers = [gzip(&layer(&[("app", &program("linux", "arm64"))], &[]))];
    push(&registry, "1", "linux/arm64", json!({"Cmd": ["/app"]}), &layers).await;
    let (session, platform) = (registry.session(), "linux/arm64".parse().unwrap());
    let reference = format!("{}/team/web:1", registry.host).parse().unwrap();
    let image = resolve(&session, &reference, &platform, PlatformCheck::Enforce).await.unwrap();
    let (mut manifest, config) = parts(&session, &image).await;
    manifest.layers[0].digest = Digest::sha256(b"nothing");
    let store = Arc::new(session.blobs_of(&image.repository));
    let error = inspect_program(store, &manifest, &config, &platform).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

/// Passes TCP connections on, and counts the bytes that the server sends.
struct CountingFront {
    host: String,
    sent: Arc<AtomicU64>,
}

impl CountingFront {
    async fn of(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (upstream, sent) = (upstream.to_owned(), Arc::new(AtomicU64::new(0)));
        let count = sent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(pass_on(client, server, count.clone()));
            }
        });
        Self { host, sent }
    }
}

async fn pass_on(client: TcpStream, server: TcpStream, count: Arc<AtomicU64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        count.fetch_add(length as u64, Ordering::SeqCst);
        if to_client.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
