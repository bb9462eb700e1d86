//! The registry client against registries that misbehave.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fault_server::{Answer, Asked, FaultServer};
use multiarch::registry::{
    Client, Descriptor, Digest, Keyring, Kind, Manifest, MediaType, Reference, Repository, Session, Settings,
};
use serde_json::json;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const BLOB: &[u8] = b"all the bytes of a layer";

fn manifest() -> Answer {
    Answer::status(200).header("Content-Type", MediaType::OCI_MANIFEST.as_str()).body(MANIFEST)
}

fn blob() -> Descriptor {
    Descriptor::new(MediaType::new("x/y"), Digest::sha256(BLOB), BLOB.len() as u64)
}

fn reference(server: &FaultServer) -> Reference {
    format!("{}/team/web:1", server.host).parse().unwrap()
}

fn repository(server: &FaultServer, path: &str) -> Repository {
    format!("{}/{path}", server.host).parse().unwrap()
}

fn client() -> Client {
    let mut settings = Settings::default();
    settings.retry.pause = Duration::from_millis(1);
    Client::new(&settings).unwrap()
}

fn anonymous() -> Session {
    client().session(Arc::new(Keyring::default()))
}

/// A session with one entry for the server.
fn with(server: &FaultServer, entry: serde_json::Value) -> Session {
    let mut keyring = Keyring::default();
    let document = json!({"auths": {server.host.as_str(): entry}}).to_string();
    keyring.add("secret test", document.as_bytes()).unwrap();
    client().session(Arc::new(keyring))
}

fn user() -> serde_json::Value {
    json!({"username": "user", "password": "hunter2"})
}

/// `user:hunter2`
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// Answers the first request with `first`, all others with `then`.
async fn first_then(first: fn() -> Answer, then: fn() -> Answer) -> FaultServer {
    let count = AtomicUsize::new(0);
    FaultServer::start(move |_| if count.fetch_add(1, Ordering::SeqCst) == 0 { first() } else { then() })
        .await
}

/// A challenge that leads to `/token` of the server itself.
fn bearer(asked: &Asked) -> Answer {
    let host = &asked.headers["host"];
    let challenge = format!(r#"Bearer realm="http://{host}/token",service="registry""#);
    Answer::status(401).header("WWW-Authenticate", challenge)
}

#[tokio::test]
async fn a_short_rate_limit_is_waited_for() {
    let server = first_then(|| Answer::status(429).header("Retry-After", "0"), manifest).await;
    anonymous().get_manifest(&reference(&server)).await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_long_rate_limit_is_left_to_the_caller() {
    let server = FaultServer::start(|_| Answer::status(429).header("Retry-After", "120")).await;
    let error = anonymous().get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (Kind::RateLimited, Some(Duration::from_secs(120))));
    assert!(error.is_transient());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_registry_that_keeps_failing_is_given_up() {
    let server = FaultServer::start(|_| Answer::status(503).body("<html>busy</html>")).await;
    let error = anonymous().get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().ends_with("the registry failed (HTTP 503, fetching the manifest)"), "{error}");
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_refused() {
    let server =
        FaultServer::start(|_| manifest().header("Docker-Content-Digest", Digest::sha256(b"x").as_str()))
            .await;
    let pinned = repository(&server, "team/web").with_digest(&Digest::sha256(b"x"));
    assert_eq!(anonymous().get_manifest(&pinned).await.unwrap_err().kind(), Kind::DigestMismatch);
    let by_tag = anonymous().get_manifest(&reference(&server)).await.unwrap();
    assert_eq!(by_tag.descriptor.digest, Digest::sha256(MANIFEST.as_bytes()), "never the header's");
}

#[tokio::test]
async fn an_endless_manifest_is_cut() {
    let server = FaultServer::start(|_| manifest().endless()).await;
    let error = anonymous().get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let server = first_then(|| manifest().cut_off("{"), manifest).await;
    anonymous().get_manifest(&reference(&server)).await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn no_password_follows_a_redirect_to_another_host() {
    let storage = FaultServer::start(|_| Answer::status(200).body(BLOB)).await;
    let target = format!("http://{}/signed?signature=s", storage.host);
    let server = FaultServer::start(move |asked| match asked.authorization() {
        Some(_) => Answer::status(307).header("Location", target.clone()),
        None => Answer::status(401).header("WWW-Authenticate", "Basic realm=x"),
    })
    .await;
    let session = with(&server, user());
    assert_eq!(session.get_blob_bytes(&repository(&server, "team/web"), &blob(), 100).await.unwrap(), BLOB);
    assert_eq!(server.asked()[1].authorization(), Some(BASIC));
    assert_eq!(storage.lines(), ["GET /signed?signature=s"]);
    assert_eq!(storage.asked()[0].authorization(), None);
}

#[tokio::test]
async fn a_password_stays_with_a_redirect_within_the_host() {
    let server = FaultServer::start(|asked| match (asked.authorization(), asked.target.as_str()) {
        (None, _) => Answer::status(401).header("WWW-Authenticate", "Basic realm=x"),
        (_, "/elsewhere") => manifest(),
        _ => Answer::status(302).header("Location", "/elsewhere"),
    })
    .await;
    with(&server, user()).get_manifest(&reference(&server)).await.unwrap();
    assert_eq!(server.asked()[2].authorization(), Some(BASIC));
}

#[tokio::test]
async fn another_host_cannot_ask_for_the_password() {
    let storage =
        FaultServer::start(|_| Answer::status(401).header("WWW-Authenticate", "Basic realm=x")).await;
    let target = format!("http://{}/", storage.host);
    let server = FaultServer::start(move |_| Answer::status(307).header("Location", target.clone())).await;
    let error = with(&server, user()).get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(storage.asked().iter().all(|asked| asked.authorization().is_none()));
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server =
        FaultServer::start(|asked| Answer::status(302).header("Location", asked.target.clone())).await;
    let error = anonymous().get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn no_password_goes_to_a_token_realm_without_tls() {
    let realm = r#"Bearer realm="http://tokens.invalid/token",service="s""#;
    let server = FaultServer::start(move |_| Answer::status(401).header("WWW-Authenticate", realm)).await;
    let error = with(&server, user()).get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("leads to tokens.invalid, which is not https"), "{error}");
    assert!(!error.to_string().contains("hunter2"));
}

#[tokio::test]
async fn a_token_that_has_ended_is_renewed_once() {
    let issued = AtomicUsize::new(0);
    let server =
        FaultServer::start(move |asked| match (asked.target.starts_with("/token"), asked.authorization()) {
            (true, _) => {
                let number = issued.fetch_add(1, Ordering::SeqCst);
                Answer::status(200)
                    .body(json!({"token": format!("t{number}"), "expires_in": 300}).to_string())
            }
            (_, Some("Bearer t0")) if asked.method == "HEAD" => Answer::status(404),
            (_, Some("Bearer t1")) => manifest(),
            _ => bearer(asked),
        })
        .await;
    let session = with(&server, user());
    assert_eq!(session.head_manifest(&reference(&server)).await.unwrap(), None);
    session.get_manifest(&reference(&server)).await.unwrap();
    session.get_manifest(&reference(&server)).await.unwrap();

    let token = "GET /token?service=registry&scope=repository%3Ateam%2Fweb%3Apull";
    let (head, get) = ("HEAD /v2/team/web/manifests/1", "GET /v2/team/web/manifests/1");
    assert_eq!(server.lines(), [head, token, head, get, token, get, get]);
    assert_eq!(server.asked()[1].authorization(), Some(BASIC), "the realm gets the password");
}

#[tokio::test]
async fn a_token_that_is_never_good_is_not_asked_for_forever() {
    let server = FaultServer::start(|asked| match asked.target.starts_with("/token") {
        true => Answer::status(200).body(r#"{"access_token":"t"}"#),
        false => bearer(asked),
    })
    .await;
    let error = with(&server, user()).get_manifest(&reference(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_good_token_that_may_not_push_is_denied_and_an_anonymous_one_wants_a_credential() {
    let server = FaultServer::start(|asked| match asked.target.starts_with("/token") {
        true => Answer::status(200).body(r#"{"token":"t"}"#),
        false => {
            let realm = format!("http://{}/token", asked.headers["host"]);
            let challenge = format!(r#"Bearer realm="{realm}",error="insufficient_scope""#);
            Answer::status(401).header("WWW-Authenticate", challenge)
        }
    })
    .await;
    let push = async |session: Session| {
        session.put_manifest(&reference(&server), &MediaType::OCI_MANIFEST, &image().bytes).await.unwrap_err()
    };
    assert_eq!(push(with(&server, user())).await.kind(), Kind::Denied);
    assert_eq!(push(anonymous()).await.kind(), Kind::Unauthorized);
}

#[tokio::test]
async fn requests_at_once_share_one_token() {
    let server = FaultServer::start(|asked| match asked.target.starts_with("/token") {
        true => Answer::status(200).body(r#"{"token":"t"}"#),
        false if asked.authorization() == Some("Bearer t") => manifest(),
        false => bearer(asked),
    })
    .await;
    let (session, reference) = (with(&server, user()), reference(&server));
    let get = || session.get_manifest(&reference);
    for result in futures::future::join_all([get(), get(), get(), get()]).await {
        result.unwrap();
    }
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 1);
}

#[tokio::test]
async fn a_rotated_password_is_used_at_once() {
    let server =
        FaultServer::start(|asked| match (asked.target.starts_with("/token"), asked.authorization()) {
            (true, Some(BASIC)) => Answer::status(200).body(r#"{"token":"old"}"#),
            (true, _) => Answer::status(200).body(r#"{"token":"new"}"#),
            (_, Some(_)) => manifest(),
            _ => bearer(asked),
        })
        .await;
    let client = client();
    for password in ["hunter2", "rotated"] {
        let mut keyring = Keyring::default();
        let document = json!({"auths": {server.host.as_str(): {"username": "user", "password": password}}});
        keyring.add("secret test", document.to_string().as_bytes()).unwrap();
        client.session(Arc::new(keyring)).get_manifest(&reference(&server)).await.unwrap();
    }
    assert_eq!(server.asked().last().unwrap().authorization(), Some("Bearer new"));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_or_else_used_as_a_password() {
    for exchanges in [true, false] {
        let server = FaultServer::start(move |asked| match (asked.method.as_str(), asked.authorization()) {
            ("POST", _) if exchanges => Answer::status(200).body(r#"{"access_token":"t"}"#),
            ("POST", _) => Answer::status(404),
            (_, Some("Bearer t")) => manifest(),
            _ if asked.target.starts_with("/token") => Answer::status(200).body(r#"{"token":"t"}"#),
            _ => bearer(asked),
        })
        .await;
        let session = with(&server, json!({"auth": "dTo=", "identitytoken": "refresh me"}));
        session.get_manifest(&reference(&server)).await.unwrap();
        let asked = server.asked();
        let form = String::from_utf8(asked[1].body.clone()).unwrap();
        assert!(form.starts_with("grant_type=refresh_token&client_id="), "{form}");
        assert!(form.ends_with("&scope=repository%3Ateam%2Fweb%3Apull&refresh_token=refresh+me"), "{form}");
        assert_eq!(asked[2].authorization().is_some_and(|header| header.starts_with("Basic ")), !exchanges);
    }
}

/// A registry that has the blob in `team/base` and opens uploads in `team/web`.
fn uploads(asked: &Asked, mount: fn() -> Answer) -> Answer {
    let opened = || Answer::status(202).header("Location", "/upload?state=a%2Bb");
    match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", target) if target.starts_with("/v2/team/base/blobs/") => Answer::status(200).body(BLOB),
        ("POST", target) if target.contains("mount=") => mount(),
        ("POST", _) => opened(),
        ("PUT", _) if asked.complete => Answer::status(201),
        ("DELETE", _) => Answer::status(204),
        _ => Answer::status(404),
    }
}

async fn copy_blob(
    server: &FaultServer,
) -> Result<multiarch::registry::Delivery, multiarch::registry::Error> {
    let (client, source, target) =
        (client(), repository(server, "team/base"), repository(server, "team/web"));
    let session = client.session(Arc::new(Keyring::default()));
    let result = session.copy_blob(&source, &target, &blob()).await;
    client.settle(Duration::from_secs(10)).await;
    result
}

#[tokio::test]
async fn an_upload_that_a_mount_opened_is_used() {
    let server = FaultServer::start(|asked| {
        uploads(asked, || Answer::status(202).header("Location", "/mounted?state=m"))
    })
    .await;
    copy_blob(&server).await.unwrap();
    let digest = blob().digest.to_string().replace(':', "%3A");
    assert_eq!(
        server.lines()[0],
        format!("POST /v2/team/web/blobs/uploads/?mount={digest}&from=team%2Fbase")
    );
    assert_eq!(server.lines()[3], format!("PUT /mounted?state=m&digest={digest}"));
    assert_eq!(server.asked()[3].body, BLOB);
}

#[tokio::test]
async fn a_mount_that_is_refused_leads_to_an_upload() {
    for mount in
        [|| Answer::status(403), || Answer::status(405), || Answer::status(500), || Answer::status(202)]
    {
        let server = FaultServer::start(move |asked| uploads(asked, mount)).await;
        copy_blob(&server).await.unwrap();
        let put = server.asked().into_iter().find(|asked| asked.method == "PUT").unwrap();
        assert!(put.target.starts_with("/upload?state=a%2Bb&digest=sha256%3A"), "{}", put.target);
    }
}

#[tokio::test]
async fn an_upload_that_a_mount_opened_in_vain_is_cancelled() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "HEAD" => Answer::status(200),
        _ => uploads(asked, || Answer::status(202).header("Location", "/mounted?state=m")),
    })
    .await;
    assert_eq!(copy_blob(&server).await.unwrap(), multiarch::registry::Delivery::Present);
    assert_eq!(server.lines().last().unwrap(), "DELETE /mounted?state=m");
}

#[tokio::test]
async fn an_upload_without_a_location_is_an_error_and_no_panic() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "POST" => Answer::status(202),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let error = copy_blob(&server).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.to_string().contains("did not say where (no Location)"), "{error}");
}

#[tokio::test]
async fn a_wrong_blob_is_never_sent_whole_and_its_upload_is_cancelled() {
    let wrong: [fn() -> Answer; 3] = [
        || Answer::status(200).body(BLOB.to_ascii_uppercase()),
        || Answer::status(200).body([BLOB, b"!"].concat()),
        || Answer::status(200).body(&BLOB[1..]),
    ];
    for wrong in wrong {
        let server = FaultServer::start(move |asked| match asked.method.as_str() {
            "GET" => wrong(),
            _ => uploads(asked, || Answer::status(404)),
        })
        .await;
        assert_eq!(copy_blob(&server).await.unwrap_err().kind(), Kind::DigestMismatch);
        let asked = server.asked();
        assert!(asked.iter().all(|asked| asked.method != "PUT" || !asked.complete));
        assert_eq!(asked.iter().filter(|asked| asked.method == "DELETE").count(), 1);
    }
}

/// Serves the rest of the blob, and breaks off the first time.
fn breaking_off(asked: &Asked, first: bool) -> Answer {
    match asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')) {
        _ if first => Answer::status(200).cut_off(&BLOB[..10]),
        None => Answer::status(200).body(BLOB),
        Some(start) => {
            let start: usize = start.parse().unwrap();
            let range = format!("bytes {start}-{}/{}", BLOB.len() - 1, BLOB.len());
            Answer::status(206).header("Content-Range", range).body(&BLOB[start..])
        }
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_read_on_where_it_broke_off() {
    let count = AtomicUsize::new(0);
    let server = FaultServer::start(move |asked| match asked.method.as_str() {
        "GET" => breaking_off(asked, count.fetch_add(1, Ordering::SeqCst) == 0),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    copy_blob(&server).await.unwrap();
    let (gets, puts): (Vec<Asked>, Vec<Asked>) = server
        .asked()
        .into_iter()
        .filter(|a| matches!(a.method.as_str(), "GET" | "PUT"))
        .partition(|a| a.method == "GET");
    assert_eq!(
        gets.iter().map(|get| get.headers.get("range").cloned()).collect::<Vec<_>>(),
        [None, Some("bytes=10-".into())]
    );
    assert_eq!((puts.len(), puts[0].body.as_slice()), (1, BLOB), "one upload, unbroken");
}

/// A registry that keeps what it got of an upload that broke off, and wants no part larger than `limit`.
struct PartialUploads {
    kept: std::sync::Mutex<Vec<u8>>,
    limit: usize,
}

impl PartialUploads {
    fn answer(&self, asked: &Asked) -> Answer {
        let mut kept = self.kept.lock().unwrap();
        let opened = |kept: &[u8]| {
            let range = format!("0-{}", kept.len().saturating_sub(1));
            Answer::status(204)
                .header("Location", format!("/upload?at={}", kept.len()))
                .header("Range", range)
        };
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", "/upload?at=0") => opened(&kept),
            ("PATCH" | "PUT", _) if asked.body.len() > self.limit => {
                // What is too much is lost on the way.
                kept.extend_from_slice(&asked.body[..self.limit]);
                Answer::status(502)
            }
            ("PATCH", _) => {
                let range = asked.headers["content-range"].clone();
                assert_eq!(range, format!("{}-{}", kept.len(), kept.len() + asked.body.len() - 1));
                kept.extend_from_slice(&asked.body);
                let location = format!("/upload?at={}", kept.len());
                Answer::status(202).header("Location", location)
            }
            ("PUT", _) => {
                kept.extend_from_slice(&asked.body);
                Answer::status(if kept.as_slice() == BLOB { 201 } else { 400 })
            }
            _ => uploads(asked, || Answer::status(404)),
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_where_the_registry_has_it() {
    let registry = PartialUploads { kept: Default::default(), limit: 20 };
    let server = FaultServer::start(move |asked| match asked.method.as_str() {
        "POST" if !asked.target.contains("mount") => Answer::status(202).header("Location", "/upload?at=0"),
        "GET" if asked.target.contains("/blobs/") => breaking_off(asked, false),
        _ => registry.answer(asked),
    })
    .await;
    copy_blob(&server).await.unwrap();
    let writes: Vec<String> = server.lines().into_iter().filter(|line| line.contains("/upload?")).collect();
    let digest = blob().digest.to_string().replace(':', "%3A");
    assert_eq!(
        writes,
        [
            format!("PUT /upload?at=0&digest={digest}"),
            "GET /upload?at=0".to_owned(),
            "PATCH /upload?at=20".to_owned(),
            format!("PUT /upload?at=24&digest={digest}"),
        ]
    );
}

#[tokio::test]
async fn a_blob_that_cannot_be_read_on_is_copied_again_from_the_start() {
    let count = AtomicUsize::new(0);
    let server = FaultServer::start(move |asked| match asked.method.as_str() {
        "GET" if count.fetch_add(1, Ordering::SeqCst) == 0 => Answer::status(200).cut_off(&BLOB[1..]),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    copy_blob(&server).await.unwrap();
    let uploaded = server.asked().into_iter().rfind(|asked| asked.method == "PUT").unwrap();
    assert_eq!(uploaded.body, BLOB);
}

#[tokio::test]
async fn an_upload_led_to_another_host_gets_no_password() {
    let storage = FaultServer::start(|_| Answer::status(201)).await;
    let location = format!("http://{}/put?signature=s", storage.host);
    let server = FaultServer::start(move |asked| match (asked.authorization(), asked.method.as_str()) {
        (None, _) => Answer::status(401).header("WWW-Authenticate", "Basic realm=x"),
        (_, "POST") => Answer::status(202).header("Location", location.clone()),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let session = with(&server, user());
    session
        .copy_blob(&repository(&server, "team/base"), &repository(&server, "team/web"), &blob())
        .await
        .unwrap();
    let put = &storage.asked()[0];
    assert_eq!((put.authorization(), put.body.as_slice()), (None, BLOB));
}

#[tokio::test]
async fn a_token_that_ends_in_an_upload_starts_the_upload_over() {
    let (issued, puts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = FaultServer::start(move |asked| match (asked.method.as_str(), asked.authorization()) {
        _ if asked.target.starts_with("/token") => {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            Answer::status(200).body(json!({"token": format!("t{number}"), "expires_in": 300}).to_string())
        }
        (_, None) => bearer(asked),
        ("PUT", _) if puts.fetch_add(1, Ordering::SeqCst) == 0 => bearer(asked),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let session = with(&server, user());
    session
        .copy_blob(&repository(&server, "team/base"), &repository(&server, "team/web"), &blob())
        .await
        .unwrap();
    let asked = server.asked();
    let puts: Vec<&Asked> = asked.iter().filter(|asked| asked.method == "PUT").collect();
    assert_eq!(puts.len(), 2);
    assert_ne!(puts[0].authorization(), puts[1].authorization());
}

fn image() -> Manifest {
    let descriptor =
        json!({"mediaType": MediaType::OCI_CONFIG, "digest": blob().digest, "size": blob().size});
    let bytes =
        bytes::Bytes::from(json!({"schemaVersion": 2, "config": descriptor, "layers": []}).to_string());
    let descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    Manifest { descriptor, bytes }
}

#[tokio::test]
async fn a_push_that_is_denied_is_told_with_the_registrys_words() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "HEAD" => Answer::status(404),
        "GET" => uploads(asked, || Answer::status(404)),
        _ => Answer::status(403).body(r#"{"errors":[{"code":"DENIED","message":"you may not push"}]}"#),
    })
    .await;
    let target = repository(&server, "team/web");
    let error = anonymous().copy(&repository(&server, "team/base"), &target, &image()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let place = format!("{target}@{}", blob().digest);
    assert_eq!(
        error.to_string(),
        format!(
            "{place}: access denied: you may not push (HTTP 403 DENIED, starting the upload of the blob)"
        )
    );
    assert!(server.lines().iter().all(|line| !line.contains("PUT")), "no manifest without its blobs");
}

#[tokio::test]
async fn a_registry_that_keeps_other_bytes_than_it_was_given_is_found_out() {
    let server = FaultServer::start(|_| {
        Answer::status(201).header("Docker-Content-Digest", Digest::sha256(b"converted").as_str())
    })
    .await;
    let image = image();
    let put = anonymous().put_manifest(&reference(&server), &MediaType::OCI_MANIFEST, &image.bytes).await;
    assert_eq!(put.unwrap_err().kind(), Kind::DigestMismatch);
}
