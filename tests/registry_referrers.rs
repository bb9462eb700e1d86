//! What refers to an image: found, listed, and copied with it.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/registry.rs"]
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fault_server::{Answer, Asked, FaultServer};
use multiarch::image::{Followed, Referrers, copy_referrers};
use multiarch::registry::{Descriptor, Digest, Keyring, Kind, Manifest, MediaType, Repository, Session};
use peers::MAKES;
use serde_json::{Value, json};
use support::{Registry, client, index};

const ALL: Referrers = Referrers { oci: true, cosign: true };

fn anonymous() -> Session {
    client().session(Keyring::default().into())
}

fn web(server: &FaultServer) -> Repository {
    format!("{}/team/web", server.host).parse().unwrap()
}

fn entry(kind: &str) -> Value {
    let digest = Digest::sha256(kind.as_bytes());
    json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": kind.len(), "artifactType": kind})
}

fn list(kinds: &[&str]) -> Answer {
    let entries: Vec<Value> = kinds.iter().map(|kind| entry(kind)).collect();
    let list = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries});
    Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(list.to_string())
}

async fn kinds(server: &FaultServer, artifact_type: Option<&str>) -> Vec<String> {
    let found = anonymous().referrers(&web(server), &Digest::sha256(b"image"), artifact_type).await.unwrap();
    found.into_iter().map(|entry| entry.artifact_type.unwrap()).collect()
}

#[tokio::test]
async fn all_pages_of_a_list_are_read() {
    let server = FaultServer::start(|asked| match asked.target.split_once("page=").map(|(_, page)| page) {
        None => list(&["a/1"]).header("Link", r#"<?page=2>; rel="next""#),
        Some("2") => list(&["a/2", "a/1"]).header("Link", r#"</v2/elsewhere?page=3>; rel="next""#),
        _ => list(&["a/3"]),
    })
    .await;
    assert_eq!(kinds(&server, None).await, ["a/1", "a/2", "a/3"]);
    let digest = Digest::sha256(b"image");
    let first = format!("GET /v2/team/web/referrers/{digest}");
    assert_eq!(server.lines(), [first.clone(), format!("{first}?page=2"), "GET /v2/elsewhere?page=3".into()]);
}

#[tokio::test]
async fn pages_in_a_circle_and_without_an_end_are_given_up() {
    let circle = FaultServer::start(|asked| {
        let other = if asked.target.contains("page=1") { "?page=2" } else { "?page=1" };
        list(&["a/1"]).header("Link", format!("<{other}>; rel=next"))
    })
    .await;
    let session = anonymous();
    let error = session.referrers(&web(&circle), &Digest::sha256(b"image"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.to_string().contains("the pages of the list lead in a circle"), "{error}");
    assert_eq!(circle.asked().len(), 3);

    let count = AtomicUsize::new(0);
    let endless = FaultServer::start(move |_| {
        let next = count.fetch_add(1, Ordering::SeqCst);
        let link = format!("<?page={next}>; rel=next");
        Answer::status(200).header("Link", link).body(r#"{"name":"team/web","tags":["same"]}"#)
    })
    .await;
    let error = session.list_tags(&web(&endless), 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.to_string().contains("a list of more than 1000 pages"), "{error}");
}

#[tokio::test]
async fn a_flood_of_tags_ends_where_enough_are_known() {
    let count = AtomicUsize::new(0);
    let server = FaultServer::start(move |_| {
        let page = count.fetch_add(1, Ordering::SeqCst);
        let tags: Vec<String> = (0..10).map(|tag| format!("v{page}-{tag}")).collect();
        let page = json!({"tags": tags}).to_string();
        Answer::status(200).header("Link", format!("<?last={}>; rel=next", tags[9])).body(page)
    })
    .await;
    let tags = anonymous().list_tags(&web(&server), 25).await.unwrap();
    assert_eq!((tags.len(), server.asked().len()), (25, 3));
}

#[tokio::test]
async fn what_is_no_tag_is_left_out_of_the_list() {
    let server = FaultServer::start(|_| {
        Answer::status(200).body(r#"{"name":"x","tags":["1","../up","a b","\u001b[31m","2","1",""]}"#)
    })
    .await;
    assert_eq!(anonymous().list_tags(&web(&server), 10).await.unwrap(), ["1", "2"]);
    let null = FaultServer::start(|_| Answer::status(200).body(r#"{"name":"x","tags":null}"#)).await;
    assert!(anonymous().list_tags(&web(&null), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn no_password_follows_a_page_on_another_host() {
    let other = FaultServer::start(|_| Answer::status(200).body(r#"{"tags":["2"]}"#)).await;
    let next = format!("<http://{}/tags?last=1>; rel=\"next\"", other.host);
    let server = FaultServer::start(move |asked| match asked.authorization() {
        None => Answer::status(401).header("WWW-Authenticate", "Basic realm=x"),
        Some(_) => Answer::status(200).header("Link", next.clone()).body(r#"{"tags":["1"]}"#),
    })
    .await;
    let mut keyring = Keyring::default();
    support::add(&mut keyring, &server.host, "user", "hunter2");
    let session = client().session(keyring.into());
    assert_eq!(session.list_tags(&web(&server), 10).await.unwrap(), ["1", "2"]);
    assert_eq!(other.asked()[0].authorization(), None);
}

#[tokio::test]
async fn a_filter_that_the_registry_left_out_is_applied_here() {
    for applied in [false, true] {
        let server = FaultServer::start(move |asked| {
            assert!(asked.target.ends_with("?artifactType=a%2F1"), "{}", asked.target);
            match applied {
                true => list(&["a/1"]).header("OCI-Filters-Applied", "artifactType"),
                false => list(&["a/1", "a/2"]),
            }
        })
        .await;
        assert_eq!(kinds(&server, Some("a/1")).await, ["a/1"]);
    }
}

#[tokio::test]
async fn a_registry_without_the_api_is_asked_for_the_tag() {
    let digest = Digest::sha256(b"image");
    let tag = format!("/v2/team/web/manifests/sha256-{}", digest.hex());
    let without: [fn() -> Answer; 4] = [
        || Answer::status(404),
        || Answer::status(405),
        || Answer::status(400).body(r#"{"errors":[{"code":"UNSUPPORTED"}]}"#),
        || Answer::status(200).header("Content-Type", "text/html").body("<html>welcome</html>"),
    ];
    for answer in without {
        let tag = tag.clone();
        let server = FaultServer::start(move |asked| match asked.target == tag {
            true => list(&["a/1", "a/2"]),
            false => answer(),
        })
        .await;
        assert_eq!(kinds(&server, Some("a/2")).await, ["a/2"]);
    }
}

#[tokio::test]
async fn a_failure_is_not_taken_for_an_empty_list() {
    for (status, kind) in [(500, Kind::Unavailable), (403, Kind::Denied), (401, Kind::Unauthorized)] {
        let server = FaultServer::start(move |_| Answer::status(status)).await;
        let error = anonymous().referrers(&web(&server), &Digest::sha256(b"image"), None).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
    let malformed = FaultServer::start(|_| list(&[]).body("[1]")).await;
    let error = anonymous().referrers(&web(&malformed), &Digest::sha256(b"image"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
}

#[tokio::test]
async fn a_flood_of_referrers_is_refused() {
    let kinds: Vec<String> = (0..1001).map(|number| format!("a/{number}")).collect();
    let server =
        FaultServer::start(move |_| list(&kinds.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let error = anonymous().referrers(&web(&server), &Digest::sha256(b"image"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

/// The manifest of an artifact of `kind` about `subject`, whose only blob is the empty one.
fn artifact(kind: &str, subject: &Digest) -> Manifest {
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::sha256(b"{}"), "size": 2,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": kind,
        "config": empty, "layers": [empty],
        "subject": {"mediaType": MediaType::OCI_MANIFEST, "digest": subject, "size": 1},
    });
    let bytes = Bytes::from(manifest.to_string());
    let descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    Manifest { descriptor, bytes }
}

/// A registry of one tag, without the referrers API. A write that `loses` is undone by another writer at once.
async fn one_tag(loses: impl Fn(usize) -> bool + Send + Sync + 'static) -> FaultServer {
    let (kept, writes) = (Mutex::new(None::<Vec<u8>>), AtomicUsize::new(0));
    let others =
        json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [entry("other/one")]});
    FaultServer::start(move |asked: &Asked| match asked.method.as_str() {
        "PUT" if asked.target.contains("/sha256-") => {
            let number = writes.fetch_add(1, Ordering::SeqCst);
            let lost = others.to_string().into_bytes();
            *kept.lock().unwrap() = Some(if loses(number) { lost } else { asked.body.clone() });
            Answer::status(201)
        }
        "PUT" => Answer::status(201),
        _ if asked.target.contains("/sha256-") => match kept.lock().unwrap().clone() {
            Some(list) => {
                Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(list)
            }
            None => Answer::status(404),
        },
        _ => Answer::status(404),
    })
    .await
}

async fn push(server: &FaultServer, manifest: &Manifest) -> Result<(), multiarch::registry::Error> {
    anonymous().put_referrer(&web(server), manifest).await
}

#[tokio::test]
async fn an_entry_that_another_writer_undid_is_written_again() {
    let server = one_tag(|write| write == 0).await;
    push(&server, &artifact("a/1", &Digest::sha256(b"image"))).await.unwrap();
    assert_eq!(kinds(&server, None).await, ["other/one", "a/1"], "and the other's is kept");

    push(&server, &artifact("a/1", &Digest::sha256(b"image"))).await.unwrap();
    assert_eq!(kinds(&server, None).await.len(), 2, "each once");
}

#[tokio::test]
async fn who_never_gets_his_entry_in_is_told() {
    let server = one_tag(|_| true).await;
    let error = push(&server, &artifact("a/1", &Digest::sha256(b"image"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(error.to_string().contains("pushed, but others keep it out of the list under"), "{error}");
}

#[tokio::test]
async fn a_registry_that_confirms_the_subject_is_asked_nothing_more() {
    let server =
        FaultServer::start(|_| Answer::status(201).header("OCI-Subject", Digest::sha256(b"image").as_str()))
            .await;
    push(&server, &artifact("a/1", &Digest::sha256(b"image"))).await.unwrap();
    assert_eq!(server.asked().len(), 1);
    let image = Manifest { bytes: Bytes::from_static(b"{}"), ..artifact("", &Digest::sha256(b"")) };
    let image =
        Manifest { descriptor: Descriptor { digest: Digest::sha256(b"{}"), ..image.descriptor }, ..image };
    push(&one_tag(|_| panic!("an image without a subject is listed nowhere")).await, &image).await.unwrap();
}

/// Pushes the artifact with its blob.
async fn attach(registry: &Registry, path: &str, kind: &str, subject: &Digest) -> Descriptor {
    registry.push_blob(path, b"{}").await;
    let manifest = artifact(kind, subject);
    registry.session().put_referrer(&registry.repository(path), &manifest).await.unwrap();
    manifest.descriptor
}

/// Pushes what cosign writes: an image whose layers are signatures, under a tag made of the digest.
async fn cosign(
    registry: &Registry,
    path: &str,
    image: &Digest,
    suffix: &str,
    signatures: &[&str],
) -> Digest {
    let tag = format!("sha256-{}.{suffix}", image.hex());
    let layers: Vec<String> = signatures.iter().map(|&signature| signature.to_owned()).collect();
    registry.push_image_of(path, &tag, &json!({}), &layers).await.digest
}

async fn followed(from: &Registry, to: &Registry, image: &Descriptor, what: Referrers) -> Followed {
    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let followed = copy_referrers(&to.session(), &source, &target, image, what).await.unwrap();
    // Whatever is there now has the bytes that it had.
    for digest in &followed.referrers {
        let copy = to.session().get_manifest(&target.with_digest(digest)).await.unwrap();
        let original = from.session().get_manifest(&source.with_digest(digest)).await.unwrap();
        assert_eq!(copy.bytes, original.bytes);
    }
    followed
}

#[tokio::test]
async fn referrers_follow_their_image_from_every_make_to_every_other() {
    let registries = MAKES.map(|make| (make, make.start()));
    let images: Vec<Descriptor> = futures::future::join_all(registries.iter().map(|(_, registry)| async {
        let image = registry.push_image("team/web", "1", "linux/amd64").await;
        let sbom = attach(registry, "team/web", "example/sbom", &image.digest).await;
        attach(registry, "team/web", "example/signature", &sbom.digest).await;
        cosign(registry, "team/web", &image.digest, "sig", &["a signature"]).await;
        image
    }))
    .await;
    for (number, (make, from)) in registries.iter().enumerate() {
        let (other, to) = &registries[(number + 1) % registries.len()];
        let image = &images[number];
        let first = followed(from, to, image, ALL).await;
        assert_eq!((first.referrers.len(), first.tags.len()), (2, 1), "{make:?} to {other:?}");
        assert_eq!(first.warnings, [""; 0]);
        let target = to.repository("acme/web");
        let found = to.session().referrers(&target, &image.digest, None).await.unwrap();
        assert_eq!(found.len(), 1, "{make:?} to {other:?}");
        let signatures = to.session().referrers(&target, &found[0].digest, None).await.unwrap();
        assert_eq!(signatures.len(), 1, "{make:?} to {other:?}");

        let again = followed(from, to, image, ALL).await;
        assert_eq!((again.copied.uploaded, again.copied.mounted), (0, 0), "{make:?} to {other:?}");
        assert_eq!(again.referrers, first.referrers);
    }
}

#[tokio::test]
async fn what_has_followed_already_is_only_looked_at() {
    let (from, to) = (MAKES[2].start(), MAKES[2].start());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    attach(&from, "team/web", "example/sbom", &image.digest).await;
    followed(&from, &to, &image, ALL).await;

    let client = client();
    let session = client.session(Keyring::default().into());
    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let what = Referrers { oci: true, cosign: false };
    copy_referrers(&session, &source, &target, &image, what).await.unwrap();
    assert_eq!(
        client.requests(),
        6,
        "both lists, the manifest, whether it is there, and both lists about it"
    );
}

#[tokio::test]
async fn only_what_is_asked_for_follows() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    attach(&from, "team/web", "example/sbom", &image.digest).await;
    for suffix in ["sig", "att", "sbom"] {
        cosign(&from, "team/web", &image.digest, suffix, &[suffix]).await;
    }
    let nothing = followed(&from, &to, &image, Referrers::default()).await;
    assert_eq!(nothing, Followed::default());
    let oci = followed(&from, &to, &image, Referrers { oci: true, cosign: false }).await;
    assert_eq!((oci.referrers.len(), oci.tags.len()), (1, 0));
    let cosign = followed(&from, &to, &image, Referrers { oci: false, cosign: true }).await;
    assert_eq!((cosign.referrers.len(), cosign.tags.len()), (0, 3));
    let tag = format!("sha256-{}.att", image.digest.hex());
    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let [original, copy] = [source, target].map(|repository| repository.with_tag(&tag).unwrap());
    let original = from.session().get_manifest(&original).await.unwrap();
    assert_eq!(to.session().get_manifest(&copy).await.unwrap(), original);
}

#[tokio::test]
async fn signatures_that_only_the_target_has_are_not_lost() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    let what = Referrers { oci: false, cosign: true };

    cosign(&from, "team/web", &image.digest, "sig", &["theirs"]).await;
    cosign(&to, "acme/web", &image.digest, "sig", &["ours"]).await;
    let kept = followed(&from, &to, &image, what).await;
    assert!(kept.tags.is_empty());
    assert!(kept.warnings[0].contains("left as it is, since it has signatures"), "{:?}", kept.warnings);

    let newer = cosign(&from, "team/web", &image.digest, "sig", &["theirs", "ours"]).await;
    let moved = followed(&from, &to, &image, what).await;
    assert!(moved.warnings.is_empty());
    assert_eq!(to.session().head_manifest(&moved.tags[0]).await.unwrap().unwrap().digest, newer);
}

#[tokio::test]
async fn an_index_that_refers_to_an_image_brings_what_it_lists() {
    let (from, to) = (Registry::anonymous(), MAKES[2].start());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    let part = from.push_image("team/web", "part", "linux/arm64").await;
    let mut about = index(&[(&part, json!({}))]);
    about["subject"] = json!(image);
    about["artifactType"] = json!("example/collection");
    from.push_manifest("team/web", "collection", &about).await;
    // Pushed by hand, so nobody has listed it.
    let collection = from.repository("team/web").with_tag("collection").unwrap();
    let entry = from.session().get_manifest(&collection).await.unwrap();
    let fallback = format!("sha256-{}", image.digest.hex());
    from.push_manifest("team/web", &fallback, &index(&[(&entry.descriptor, json!({}))])).await;

    let followed = followed(&from, &to, &image, ALL).await;
    assert_eq!(followed.referrers, [entry.descriptor.digest]);
    assert!(
        to.session()
            .head_manifest(&to.repository("acme/web").with_digest(&part.digest))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn what_is_listed_and_is_no_referrer_is_left_behind() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    let stranger = from.push_image("team/web", "2", "linux/arm64").await;
    let gone = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"gone"), 4);
    // A registry does not take a list of what it does not have, so that is deleted afterwards.
    let removed = attach(&from, "team/web", "example/gone", &gone.digest).await;
    let fallback = format!("sha256-{}", image.digest.hex());
    let listed = index(&[(&stranger, json!({})), (&removed, json!({}))]);
    from.push_manifest("team/web", &fallback, &listed).await;
    from.session().delete_manifest(&from.repository("team/web"), &removed.digest).await.unwrap();

    let followed = followed(&from, &to, &image, ALL).await;
    assert!(followed.referrers.is_empty());
    assert!(followed.warnings[0].contains("left behind, as it does not refer to"), "{:?}", followed.warnings);
    assert!(followed.warnings[1].contains("left behind: "), "{:?}", followed.warnings);
    let target = to.repository("acme/web").with_digest(&stranger.digest);
    assert_eq!(to.session().head_manifest(&target).await.unwrap(), None);
}

#[tokio::test]
async fn referrers_of_referrers_end_somewhere() {
    let (from, to) = (MAKES[2].start(), MAKES[2].start());
    let image = from.push_image("team/web", "1", "linux/amd64").await;
    let mut subject = image.digest.clone();
    for number in 0..8 {
        subject = attach(&from, "team/web", &format!("example/{number}"), &subject).await.digest;
    }
    assert_eq!(followed(&from, &to, &image, ALL).await.referrers.len(), 4);

    let (source, target) = (from.repository("team/web"), to.repository("acme/web"));
    let session = from.session();
    for number in 0..256 {
        let manifest = artifact(&format!("flood/{number}"), &image.digest);
        session.put_referrer(&source, &manifest).await.unwrap();
    }
    let error = copy_referrers(&to.session(), &source, &target, &image, ALL).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}
