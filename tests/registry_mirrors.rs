//! What is read comes from mirrors where they have it, and is right whatever they do.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use certificates::Folder;
use fault_server::{Answer, Asked, FaultServer};
use multiarch::image::{AssembledIndex, TagPolicy, publish};
use multiarch::registry::{
    Client, Delivery, Descriptor, DescriptorPlatform, Digest, Keyring, Kind, MediaType, Mirror, Reference,
    RegistrySettings, Session, Settings,
};
use serde_json::json;
use support::Registry;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const BLOB: &[u8] = b"all the bytes of a layer";

fn blob() -> Descriptor {
    Descriptor::new(MediaType::new("x/y"), Digest::sha256(BLOB), BLOB.len() as u64)
}

fn manifest(bytes: &str) -> Answer {
    Answer::status(200)
        .header("Content-Type", MediaType::OCI_MANIFEST.as_str())
        .header("Docker-Content-Digest", Digest::sha256(bytes.as_bytes()).to_string())
        .body(bytes)
}

/// Answers as a registry does that has one manifest and one blob.
fn good(asked: &Asked) -> Answer {
    match asked.target.contains("/blobs/") {
        true => Answer::status(200).body(BLOB),
        false => manifest(MANIFEST),
    }
}

async fn always(status: u16) -> FaultServer {
    FaultServer::start(move |_| Answer::status(status)).await
}

fn client(host: &str, mirrors: &[&str]) -> Client {
    let mirrors: Vec<Mirror> = mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect();
    let registries = vec![RegistrySettings { host: host.to_owned(), mirrors, ..RegistrySettings::default() }];
    let mut settings = Settings { registries, ..Settings::default() };
    settings.retry.pause = Duration::from_millis(1);
    Client::new(&settings).unwrap()
}

fn session(host: &str, mirrors: &[&str]) -> Session {
    client(host, mirrors).session(Arc::new(Keyring::default()))
}

fn reference(host: &str) -> Reference {
    format!("{host}/team/web:1").parse().unwrap()
}

/// Reads everything that can be read of the registry, and finds it right.
async fn read_all(session: &Session, host: &str) {
    let tag = reference(host);
    let by_digest = tag.repository().with_digest(&Digest::sha256(MANIFEST.as_bytes()));
    for reference in [&tag, &by_digest] {
        let found = session.get_manifest(reference).await.unwrap();
        assert_eq!(found.bytes, MANIFEST);
        let head = session.head_manifest(reference).await.unwrap().unwrap();
        assert_eq!(head.digest, found.descriptor.digest);
    }
    let bytes = session.get_blob_bytes(tag.repository(), &blob(), 1000).await.unwrap();
    assert_eq!(bytes, BLOB);
}

#[tokio::test]
async fn what_a_mirror_has_is_not_asked_of_the_registry() {
    let registry = always(500).await;
    let mirror = FaultServer::start(good).await;
    let session = session(&registry.host, &[&format!("{}/hub", mirror.host)]);

    read_all(&session, &registry.host).await;
    assert_eq!(registry.lines(), [""; 0]);
    assert_eq!(mirror.lines()[0], "GET /v2/hub/team/web/manifests/1");
}

#[tokio::test]
async fn a_mirror_that_fails_is_asked_once_and_passed_over() {
    let registry = FaultServer::start(good).await;
    let mut mirrors = Vec::new();
    for status in [401, 403, 404, 429, 500] {
        mirrors.push(always(status).await);
    }
    let unreachable = "127.0.0.1:1";
    let hosts: Vec<&str> = mirrors.iter().map(|mirror| mirror.host.as_str()).chain([unreachable]).collect();
    let session = session(&registry.host, &hosts);

    let found = session.get_manifest(&reference(&registry.host)).await.unwrap();
    assert_eq!(found.bytes, MANIFEST);
    for mirror in &mirrors {
        assert_eq!(mirror.lines(), ["GET /v2/team/web/manifests/1"]);
    }
    read_all(&session, &registry.host).await;
}

#[tokio::test]
async fn the_first_mirror_that_has_it_is_the_last_that_is_asked() {
    let [registry, first, third] = [always(500).await, always(404).await, always(500).await];
    let second = FaultServer::start(good).await;
    let session = session(&registry.host, &[&first.host, &second.host, &third.host]);
    read_all(&session, &registry.host).await;
    assert_eq!([first.lines().len(), third.lines().len(), registry.lines().len()], [5, 0, 0]);
}

#[tokio::test]
async fn other_bytes_than_those_of_the_digest_are_not_taken_from_a_mirror() {
    let registry = FaultServer::start(good).await;
    let mirror = FaultServer::start(|asked| match asked.target.contains("/blobs/") {
        true => Answer::status(200).body(BLOB.to_ascii_uppercase()),
        false => manifest(r#"{"schemaVersion":2,"config":{},"layers":[],"other":1}"#),
    })
    .await;
    let session = session(&registry.host, &[&mirror.host]);
    let repository = reference(&registry.host).repository().clone();
    let by_digest = repository.with_digest(&Digest::sha256(MANIFEST.as_bytes()));

    assert_eq!(session.get_manifest(&by_digest).await.unwrap().bytes, MANIFEST);
    let head = session.head_manifest(&by_digest).await.unwrap().unwrap();
    assert_eq!(head.digest, Digest::sha256(MANIFEST.as_bytes()));
    assert_eq!(session.get_blob_bytes(&repository, &blob(), 1000).await.unwrap(), BLOB);
    assert!(mirror.lines().len() >= 3, "the mirror was asked: {:?}", mirror.lines());
}

#[tokio::test]
async fn an_error_is_the_registrys_own() {
    let [registry, mirror] = [always(404).await, always(403).await];
    let session = session(&registry.host, &[&mirror.host]);
    let wanted = reference(&registry.host);
    assert_eq!(session.head_manifest(&wanted).await.unwrap(), None);
    let error = session.get_manifest(&wanted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().starts_with(&format!("{wanted}: not found")), "{error}");
}

#[tokio::test]
async fn a_mirror_gets_its_own_credentials_and_never_the_registrys() {
    let registry = FaultServer::start(good).await;
    let basic = |asked: &Asked| match asked.authorization() {
        Some(_) => good(asked),
        None => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"mirror\""),
    };
    let (strange, known) = (FaultServer::start(basic).await, FaultServer::start(basic).await);
    let client = client(&registry.host, &[&strange.host, &known.host]);
    let mut keyring = Keyring::default();
    support::add(&mut keyring, &registry.host, "registry", "registry");
    support::add(&mut keyring, &known.host, "mirror", "mirror");

    let session = client.session(Arc::new(keyring));
    session.get_manifest(&reference(&registry.host)).await.unwrap();
    assert_eq!(strange.asked().iter().find_map(Asked::authorization), None);
    let given: Vec<_> =
        known.asked().iter().filter_map(|asked| asked.authorization().map(str::to_owned)).collect();
    assert_eq!(given, ["Basic bWlycm9yOm1pcnJvcg=="]);
    assert_eq!(registry.lines(), [""; 0]);
}

/// How a blob comes from the registry, or its mirror, to another registry.
async fn copied(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Vec<String> {
    let (source, mirror) = (FaultServer::start(good).await, FaultServer::start(answer).await);
    let target = Registry::anonymous();
    let session = session(&source.host, &[&mirror.host]);
    let (from, to) = (reference(&source.host).repository().clone(), target.repository("team/web"));
    assert_eq!(session.copy_blob(&from, &to, &blob()).await.unwrap(), Delivery::Uploaded);
    assert_eq!(session.get_blob_bytes(&to, &blob(), 1000).await.unwrap(), BLOB);
    assert!(!mirror.lines().is_empty(), "the mirror was asked");
    source.lines()
}

#[tokio::test]
async fn a_blob_is_copied_from_a_mirror() {
    assert_eq!(copied(good).await, [""; 0]);
}

#[tokio::test]
async fn a_blob_that_a_mirror_has_wrong_is_copied_from_the_registry() {
    let line = format!("GET /v2/team/web/blobs/{}", blob().digest);
    // As long as it should be, longer, and shorter.
    let other = |body: Vec<u8>| move |_: &Asked| Answer::status(200).body(body.clone());
    for answer in [other(BLOB.to_ascii_uppercase()), other([BLOB, BLOB].concat()), other(BLOB[..5].to_vec())]
    {
        assert_eq!(copied(answer).await, [line.as_str()]);
    }
    assert_eq!(copied(|_| Answer::status(404)).await, [line]);
}

#[tokio::test]
async fn a_blob_that_a_mirror_breaks_off_is_read_on_at_the_registry() {
    let line = format!("GET /v2/team/web/blobs/{}", blob().digest);
    // The registry serves no parts, so it is all of it that is asked for a second time.
    let lines = copied(|_| Answer::status(200).cut_off(&BLOB[..5])).await;
    assert!(lines.iter().all(|asked| *asked == line) && !lines.is_empty(), "{lines:?}");
    let lines = copied(|_| Answer::status(200).cut_off(BLOB[..5].to_ascii_uppercase())).await;
    assert!(lines.iter().all(|asked| *asked == line) && !lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn what_is_written_to_is_not_asked_of_mirrors() {
    let (target, source) = (Registry::anonymous(), Registry::anonymous());
    let mut image = source.push_image("team/web", "1", "linux/amd64").await;
    let (os, architecture) = ("linux".to_owned(), "amd64".to_owned());
    image.platform = Some(DescriptorPlatform { os, architecture, ..DescriptorPlatform::default() });
    let mirror = FaultServer::start(good).await;
    let session = session(&target.host, &[&mirror.host]);
    let (from, to) = (source.repository("team/web"), target.repository("team/web"));

    let manifest = session.get_manifest(&from.with_digest(&image.digest)).await.unwrap();
    session.copy(&from, &to, &manifest).await.unwrap();
    let index = AssembledIndex::assemble(None, &Default::default(), &[image.clone()]).unwrap();
    publish(&session, &to, &index, &["1", "2"], TagPolicy::Overwrite).await.unwrap();
    assert_eq!(mirror.lines(), [""; 0]);

    let direct = session.without_mirrors().get_manifest(&to.with_tag("1").unwrap()).await.unwrap();
    assert_eq!(direct.bytes, index.bytes);
    assert_eq!(session.get_manifest(&to.with_tag("1").unwrap()).await.unwrap().bytes, MANIFEST);
}

#[tokio::test]
async fn what_is_changed_or_inspected_is_read_from_the_registry_itself() {
    let (registry, mirror) = (Registry::anonymous(), FaultServer::start(good).await);
    let image = registry.push_image("team/web", "1-amd64", "linux/amd64").await;
    let platform = json!({"platform": {"os": "linux", "architecture": "amd64"}});
    registry.push_manifest("team/web", "1", &support::index(&[(&image, platform)])).await;
    let folder = Folder::new();
    let entry = json!({"registries": [{"host": registry.host, "mirrors": [mirror.host]}]});
    let settings = folder.write("registries.yaml", entry.to_string());
    let (target, source) =
        (format!("{}/team/web:1", registry.host), format!("{}/team/web:1-amd64", registry.host));
    let run = async |arguments: &[&str]| {
        let command = env!("CARGO_BIN_EXE_multiarch");
        let mut command = tokio::process::Command::new(command);
        command.arg("index").args(arguments).arg("--registries").arg(&settings);
        let output = command.env("HOME", folder.path()).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };

    run(&["annotate", &target, "--annotation", "a=b"]).await;
    run(&["create", &target, "--amend", "--image", &source, "--annotation", "c=d"]).await;
    run(&["inspect", "--raw", &target]).await;
    assert_eq!(mirror.lines(), [""; 0]);
}
