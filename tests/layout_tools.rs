//! Image layouts and other people's tools: skopeo, crane and BuildKit read what we write, and we what they write.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/layouts.rs"]
mod layouts;
#[path = "support/registry.rs"]
mod support;
#[path = "support/tools.rs"]
mod tools;

use std::path::Path;

use layouts::{children_of, export, export_some, import, push_web, raw, reference, temporary};
use multiarch::layout::{Layout, export_to_file};
use multiarch::registry::Digest;
use support::Registry;
use tools::{BuildKit, crane, skopeo};

/// Copies all images with skopeo, between what it calls transports.
fn skopeo_copy(from: &str, to: &str) {
    skopeo(&["copy", "--all", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
}

fn docker(registry: &Registry, rest: &str) -> String {
    format!("docker://{}/{rest}", registry.host)
}

/// Whether crane finds every blob of the images in it, with the digest and the size that it should have. (It takes
/// BuildKit's attestations for broken images.)
fn is_whole(registry: &Registry, rest: &str) {
    for platform in ["linux/amd64", "linux/arm64"] {
        let reference = format!("{}/{rest}", registry.host);
        crane(&["validate", "--insecure", "--platform", platform, "--remote", &reference]);
    }
}

#[tokio::test]
async fn skopeo_reads_what_we_write() {
    if !tools::has("skopeo", "skopeo_reads_what_we_write") {
        return;
    }
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let (directory, file) = (folder.path().join("web"), folder.path().join("web.tar"));
    export(&from, "team/web:1", &directory).await.unwrap();
    export_to_file(&from.session(), &reference(&from, "team/web:1"), &[], &file).await.unwrap();

    skopeo_copy(&format!("oci:{}:1", directory.display()), &docker(&to, "directory/web:1"));
    skopeo_copy(&format!("oci-archive:{}:1", file.display()), &docker(&to, "archive/web:1"));
    let source = raw(&from, "team/web", "1").await;
    assert_eq!(raw(&to, "directory/web", "1").await, source);
    assert_eq!(raw(&to, "archive/web", "1").await, source);
    is_whole(&to, "archive/web:1");
}

#[tokio::test]
async fn an_archive_of_one_image_is_one_of_docker_save_as_well() {
    if !tools::has("skopeo", "an_archive_of_one_image_is_one_of_docker_save_as_well") {
        return;
    }
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let file = folder.path().join("web.tar");
    let platforms = ["linux/arm64".parse().unwrap()];
    export_to_file(&from.session(), &reference(&from, "team/web:1"), &platforms, &file).await.unwrap();

    // What it makes of it has other bytes, as archives of Docker have no manifest; the image is the same.
    let name = format!("{}/team/web:1", from.host);
    skopeo_copy(&format!("docker-archive:{}:{name}", file.display()), &docker(&to, "team/web:1"));
    crane(&["validate", "--insecure", "--remote", &format!("{}/team/web:1", to.host)]);
    let config =
        |registry: &Registry| crane(&["config", "--insecure", &format!("{}/team/web:1", registry.host)]);
    assert!(config(&to).contains("arm64"));
}

#[tokio::test]
async fn what_skopeo_writes_is_read() {
    if !tools::has("skopeo", "what_skopeo_writes_is_read") {
        return;
    }
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let (directory, file) = (folder.path().join("web"), folder.path().join("web.tar"));
    skopeo_copy(&docker(&from, "team/web:1"), &format!("oci:{}:1.4", directory.display()));
    skopeo_copy(
        &docker(&from, "team/web:1"),
        &format!("oci-archive:{}:docker.io/acme/web:1", file.display()),
    );

    let layout = Layout::open(&file).await.unwrap();
    assert_eq!(layout.choose(Some("acme/web:1")).unwrap().descriptor.digest, digest);
    assert_eq!(import(&to, &directory, &["directory/web:1"]).await.unwrap().root.digest, digest);
    assert_eq!(import(&to, &file, &["archive/web:1"]).await.unwrap().root.digest, digest);
    assert_eq!(raw(&to, "archive/web", "1").await, raw(&from, "team/web", "1").await);
    is_whole(&to, "directory/web:1");

    // Ours goes beside what is there.
    let both = export(&from, "team/web:1", &directory).await.unwrap();
    assert_eq!(both.fetched, 0, "skopeo has written all blobs");
    skopeo_copy(&format!("oci:{}:1.4", directory.display()), &docker(&to, "again/web:1"));
}

#[tokio::test]
async fn crane_pushes_what_we_write_and_we_what_crane_pulls() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    export(&from, "team/web:1", &ours).await.unwrap();
    let host = |registry: &Registry, rest: &str| format!("{}/{rest}", registry.host);
    crane(&["push", "--insecure", ours.to_str().unwrap(), &host(&to, "ours/web:1")]);
    assert_eq!(raw(&to, "ours/web", "1").await, raw(&from, "team/web", "1").await);
    is_whole(&to, "ours/web:1");

    crane(&["pull", "--insecure", "--format=oci", &host(&from, "team/web:1"), theirs.to_str().unwrap()]);
    assert_eq!(import(&to, &theirs, &["theirs/web:1"]).await.unwrap().root.digest, digest);
    is_whole(&to, "theirs/web:1");

    // The same index as crane filters it has the same images.
    let filtered = host(&to, "filtered/web:1");
    let platform = ["--platform", "linux/arm64"];
    crane(
        &[&["index", "filter", "--insecure", &host(&from, "team/web:1"), "-t", &filtered][..], &platform]
            .concat(),
    );
    let own =
        export_some(&from, "team/web:1", &["linux/arm64"], &folder.path().join("filtered")).await.unwrap();
    let own =
        std::fs::read(folder.path().join("filtered/blobs/sha256").join(own.entry.digest.hex())).unwrap();
    assert_eq!(children_of(&own), children_of(&raw(&to, "filtered/web", "1").await));
}

fn context(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /\nLABEL architecture=$TARGETARCH\n";
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
}

#[tokio::test]
async fn what_buildkit_writes_is_read() {
    let Some(buildkit) = BuildKit::start("what_buildkit_writes_is_read") else { return };
    let to = Registry::anonymous();
    let folder = temporary();
    let (sources, file) = (folder.path().join("context"), folder.path().join("web.tar"));
    let directory = folder.path().join("web");
    context(&sources);
    buildkit.build(&sources, &format!("type=oci,name=acme/web:1,dest={}", file.display()));
    buildkit.build(&sources, &format!("type=oci,name=acme/web:1,tar=false,dest={}", directory.display()));

    let layout = Layout::open(&file).await.unwrap();
    let entry = layout.choose(Some("acme/web:1")).unwrap();
    let imported = import(&to, &file, &["team/web:1"]).await.unwrap();
    assert_eq!(
        imported.root,
        multiarch::registry::Descriptor { annotations: Default::default(), ..entry.descriptor.clone() }
    );
    assert_eq!(imported.manifests, 5, "two images, each with its provenance, and the index");
    let index = raw(&to, "team/web", "1").await;
    assert_eq!(Digest::sha256(&index), entry.descriptor.digest);
    is_whole(&to, "team/web:1");

    let unpacked = import(&to, &directory, &["directory/web:1"]).await.unwrap();
    assert_eq!(unpacked.manifests, 5);
    is_whole(&to, "directory/web:1");

    // And on, and back again.
    let own = folder.path().join("own.tar");
    export_to_file(&to.session(), &reference(&to, "team/web:1"), &[], &own).await.unwrap();
    assert_eq!(import(&to, &own, &["again/web:1"]).await.unwrap().root.digest, entry.descriptor.digest);
}
