//! Uploads and mounts at registries that misbehave.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fault_server::{Answer, Asked, BLOB, FaultServer, bearer, blob, uploads};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use multiarch::registry::{
    BlobStore, ByteStream, Client, Delivery, Descriptor, Digest, Error, Keyring, Kind, MediaType,
    RegistrySettings, Session, Settings,
};
use serde_json::json;

fn client() -> Client {
    let mut settings = Settings::default();
    settings.retry.pause = Duration::from_millis(1);
    Client::new(&settings).unwrap()
}

/// A session with a password for the server.
fn with_password(server: &FaultServer) -> Session {
    let mut keyring = Keyring::default();
    let document = json!({"auths": {server.host.as_str(): {"username": "user", "password": "hunter2"}}});
    keyring.add("secret test", document.to_string().as_bytes()).unwrap();
    client().session(Arc::new(keyring))
}

async fn copy_with(session: &Session, server: &FaultServer) -> Result<Delivery, Error> {
    session.copy_blob(&server.repository("team/base"), &server.repository("team/web"), &blob()).await
}

async fn copy_blob(server: &FaultServer) -> Result<Delivery, Error> {
    let (client, source, target) = (client(), server.repository("team/base"), server.repository("team/web"));
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
    assert_eq!(copy_blob(&server).await.unwrap(), Delivery::Present);
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
    copy_with(&with_password(&server), &server).await.unwrap();
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
    copy_with(&with_password(&server), &server).await.unwrap();
    let asked = server.asked();
    let puts: Vec<&Asked> = asked.iter().filter(|asked| asked.method == "PUT").collect();
    assert_eq!(puts.len(), 2);
    assert_ne!(puts[0].authorization(), puts[1].authorization());
}

#[tokio::test]
async fn a_registry_that_names_a_smallest_part_gets_parts() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "POST" if !asked.target.contains("mount") => {
            Answer::status(202).header("Location", "/upload?at=0").header("OCI-Chunk-Min-Length", "5000000")
        }
        "PATCH" => {
            let end: u64 = asked.headers["content-range"].split('-').nth(1).unwrap().parse().unwrap();
            Answer::status(202).header("Location", format!("/upload?at={}", end + 1))
        }
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let large = vec![7_u8; 12_000_000];
    push(&server, &large).await.unwrap();
    let parts: Vec<Asked> = server.asked().into_iter().filter(|asked| asked.method == "PATCH").collect();
    let ranges: Vec<&str> = parts.iter().map(|part| part.headers["content-range"].as_str()).collect();
    assert_eq!(ranges, ["0-4999999", "5000000-9999999", "10000000-11999999"]);
    assert_eq!(parts.iter().map(|part| part.body.len()).sum::<usize>(), large.len());
    let put = server.asked().into_iter().find(|asked| asked.method == "PUT").unwrap();
    assert!(put.target.starts_with("/upload?at=12000000&digest="), "{}", put.target);
    assert!(put.body.is_empty());
}

/// A registry that forgets the first upload after so many requests to it, and says `not found` of it then.
async fn forgetful(requests: usize, parts: bool) -> FaultServer {
    let (opened, asked_of_first) = (AtomicUsize::new(0), AtomicUsize::new(0));
    FaultServer::start(move |asked| match asked.method.as_str() {
        "POST" => {
            let number = opened.fetch_add(1, Ordering::SeqCst);
            let answer = Answer::status(202).header("Location", format!("/upload?number={number}"));
            if parts { answer.header("OCI-Chunk-Min-Length", "1") } else { answer }
        }
        _ if asked.target.contains("number=0")
            && asked_of_first.fetch_add(1, Ordering::SeqCst) >= requests =>
        {
            Answer::status(404).body(r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)
        }
        "PATCH" => Answer::status(202).header("Location", asked.target.clone()),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await
}

#[tokio::test]
async fn an_upload_that_the_registry_has_forgotten_is_begun_anew() {
    for (requests, parts, content) in [(0, false, BLOB.to_vec()), (1, true, vec![7_u8; 9 << 20])] {
        let server = forgetful(requests, parts).await;
        assert_eq!(push(&server, &content).await.unwrap(), Delivery::Uploaded);
        let second = |asked: &Asked| asked.target.contains("number=1");
        let sent: usize = server.asked().into_iter().filter(second).map(|asked| asked.body.len()).sum();
        assert_eq!(sent, content.len(), "the whole blob, to the second upload");
        assert!(!server.lines().iter().any(|line| line.starts_with("DELETE")), "{:?}", server.lines());
    }
    // A mount has opened the first, and it was gone when its turn came.
    let server = forgetful(0, false).await;
    assert_eq!(copy_with(&client().session(Arc::default()), &server).await.unwrap(), Delivery::Uploaded);
}

#[tokio::test]
async fn a_registry_that_forgets_every_upload_is_given_up_and_that_may_pass() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "PUT" => Answer::status(404),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let error = push(&server, BLOB).await.unwrap_err();
    assert!(error.is_transient() && error.kind() == Kind::Unavailable, "{error}");
}

/// A client that sends a registry one request at a time.
fn one_at_a_time(server: &FaultServer) -> Client {
    let entry =
        RegistrySettings { max_concurrent_requests: 1.try_into().ok(), ..RegistrySettings::default() };
    let registries = vec![RegistrySettings { host: server.host.clone(), ..entry }];
    let mut settings = Settings { registries, ..Settings::default() };
    settings.retry.pause = Duration::from_millis(1);
    Client::new(&settings).unwrap()
}

#[tokio::test]
async fn uploads_count_among_the_requests_that_a_registry_gets_at_once() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "PUT" => Answer::never(),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let session = one_at_a_time(&server).session(Arc::default());
    let other = server.repository("team/other");
    let (base, web) = (server.repository("team/base"), server.repository("team/web"));
    let blob = blob();
    let mut both = Box::pin(async {
        tokio::join!(session.copy_blob(&base, &web, &blob), session.copy_blob(&base, &other, &blob))
    });
    let puts = || server.lines().iter().filter(|line| line.starts_with("PUT")).count();
    while puts() == 0 {
        assert!(futures::poll!(&mut both).is_pending());
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        assert!(futures::poll!(&mut both).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(puts(), 1);
}

#[tokio::test]
async fn a_source_that_breaks_off_is_read_on_though_its_registry_takes_one_request_at_a_time() {
    let count = AtomicUsize::new(0);
    let server = FaultServer::start(move |asked| match asked.method.as_str() {
        "GET" => breaking_off(asked, count.fetch_add(1, Ordering::SeqCst) == 0),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let session = one_at_a_time(&server).session(Arc::default());
    assert_eq!(copy_with(&session, &server).await.unwrap(), Delivery::Uploaded);
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 1);
}

#[tokio::test]
async fn a_proxy_that_takes_no_large_bodies_gets_parts_from_then_on() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        "PUT" | "PATCH" if asked.body.len() > 4 << 20 => Answer::status(413),
        "PATCH" => Answer::status(202).header("Location", "/upload?state=a%2Bb"),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    push(&server, &vec![7_u8; 9 << 20]).await.unwrap();
    let count = |method: &str| server.asked().iter().filter(|asked| asked.method == method).count();
    assert_eq!((count("PATCH"), count("PUT")), (3, 2));
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_any_more_is_given_up() {
    let server = FaultServer::start(|asked| match asked.method.as_str() {
        // The registry never says that it has the blob.
        "PUT" => Answer::never(),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let client = client();
    let session = client.session(Arc::default());
    let mut copy = Box::pin(copy_with(&session, &server));
    while !server.lines().iter().any(|line| line.starts_with("PUT")) {
        assert!(futures::poll!(&mut copy).is_pending());
        tokio::task::yield_now().await;
    }
    drop(copy);
    client.settle(Duration::from_secs(10)).await;
    assert_eq!(server.lines().last().unwrap(), "DELETE /upload?state=a%2Bb");
}

#[tokio::test]
async fn a_registry_that_does_not_know_mounts_is_asked_once() {
    let server = FaultServer::start(|asked| uploads(asked, || Answer::status(405))).await;
    let client = client();
    let session = client.session(Arc::default());
    for _ in 0..2 {
        copy_with(&session, &server).await.unwrap();
    }
    assert_eq!(server.lines().iter().filter(|line| line.contains("mount=")).count(), 1);
}

#[tokio::test]
async fn what_one_repository_needed_is_not_asked_for_another() {
    let server = FaultServer::start(|asked| match asked.authorization() {
        _ if asked.target.starts_with("/token") => Answer::status(200).body(r#"{"token":"t"}"#),
        None => {
            let path = asked.target.split("/blobs/").next().unwrap().trim_start_matches("/v2/");
            let realm = format!("http://{}/token", asked.headers["host"]);
            let challenge = format!(r#"Bearer realm="{realm}",scope="repository:{path}:pull""#);
            Answer::status(401).header("WWW-Authenticate", challenge)
        }
        Some(_) => Answer::status(404),
    })
    .await;
    let session = with_password(&server);
    for _ in 0..2 {
        for path in ["team/base", "team/web"] {
            assert!(!session.has_blob(&server.repository(path), &blob().digest).await.unwrap());
        }
    }
    let tokens: Vec<String> = server.lines().into_iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(tokens.len(), 2, "{tokens:?}");
}

#[tokio::test]
async fn one_token_serves_reading_mounting_and_writing() {
    let server = FaultServer::start(|asked| match asked.authorization() {
        _ if asked.target.starts_with("/token") => Answer::status(200).body(r#"{"token":"t"}"#),
        None => bearer(asked),
        Some(_) => uploads(asked, || Answer::status(201)),
    })
    .await;
    let (base, web) = (server.repository("team/base"), server.repository("team/web"));
    let session = with_password(&server).writing_to([&web], [&base]);
    let tag = web.with_tag("1").unwrap();
    assert_eq!(session.head_manifest(&tag).await.unwrap(), None);
    session.copy_blob(&base, &web, &blob()).await.unwrap();
    assert!(!session.has_blob(&web, &blob().digest).await.unwrap());
    let tokens: Vec<String> = server.lines().into_iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let (target, source) = ("repository%3Ateam%2Fweb%3Apull%2Cpush", "repository%3Ateam%2Fbase%3Apull");
    assert!(tokens[0].ends_with(&format!("scope={target}&scope={source}")), "{}", tokens[0]);
}

struct Memory(Vec<u8>);

impl BlobStore for Memory {
    fn place(&self, _: &Descriptor) -> String {
        "memory".to_owned()
    }

    fn open(&self, _: &Descriptor, offset: u64) -> BoxFuture<'static, Result<ByteStream, Error>> {
        let bytes = bytes::Bytes::copy_from_slice(&self.0[offset as usize..]);
        async move { Ok(stream::iter([Ok(bytes)]).boxed()) }.boxed()
    }
}

async fn push(server: &FaultServer, content: &[u8]) -> Result<Delivery, Error> {
    let blob = Descriptor::new(MediaType::new("x/y"), Digest::sha256(content), content.len() as u64);
    let store = Arc::new(Memory(content.to_vec()));
    client().session(Arc::default()).push_blob(&server.repository("team/web"), &blob, store).await
}

#[tokio::test]
async fn a_token_server_that_refuses_to_mount_gives_one_to_push() {
    let server = FaultServer::start(|asked| match asked.authorization() {
        _ if asked.target.contains("team%2Fbase") && asked.target.contains("team%2Fweb") => {
            Answer::status(403)
        }
        _ if asked.target.starts_with("/token") => Answer::status(200).body(r#"{"token":"t"}"#),
        None => bearer(asked),
        Some(_) => uploads(asked, || Answer::status(202).header("Location", "/upload?state=a%2Bb")),
    })
    .await;
    let (base, web) = (server.repository("team/base"), server.repository("team/web"));
    let session = with_password(&server).writing_to([&web], [&base]);
    assert!(!session.has_blob(&web, &blob().digest).await.unwrap());
    assert_eq!(session.copy_blob(&base, &web, &blob()).await.unwrap(), Delivery::Uploaded);
}

#[tokio::test]
async fn a_realm_that_has_moved_is_found() {
    let moved = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let has_moved = moved.clone();
    let server = FaultServer::start(move |asked| {
        let realm = if has_moved.load(Ordering::SeqCst) { "/new" } else { "/token" };
        match asked.authorization() {
            // Tokens end at once, so each request needs another.
            _ if asked.target.starts_with(realm) => {
                Answer::status(200).body(r#"{"token":"t","expires_in":0}"#)
            }
            None if !asked.target.starts_with("/v2/") => Answer::status(404),
            None => {
                let challenge = format!(r#"Bearer realm="http://{}{realm}""#, asked.headers["host"]);
                Answer::status(401).header("WWW-Authenticate", challenge)
            }
            Some(_) => Answer::status(200),
        }
    })
    .await;
    let session = client().session(Arc::default());
    assert!(session.has_blob(&server.repository("team/web"), &blob().digest).await.unwrap());
    moved.store(true, Ordering::SeqCst);
    assert!(session.has_blob(&server.repository("team/web"), &blob().digest).await.unwrap());
}

#[tokio::test]
async fn a_blob_that_arrived_is_not_sent_again_because_its_answer_was_lost() {
    let (puts, arrived) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let has_arrived = arrived.clone();
    let server = FaultServer::start(move |asked| match asked.method.as_str() {
        "PUT" => {
            has_arrived.store(1, Ordering::SeqCst);
            Answer::status(if puts.fetch_add(1, Ordering::SeqCst) == 0 { 502 } else { 201 })
        }
        "HEAD" if has_arrived.load(Ordering::SeqCst) > 0 => Answer::status(200),
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    assert_eq!(copy_blob(&server).await.unwrap(), Delivery::Uploaded);
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 1);
}
