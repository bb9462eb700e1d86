//! The registry client against servers that mean harm, or that are broken as if they did.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/raw_server.rs"]
mod raw_server;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fault_server::{Answer, Asked, BLOB, FaultServer, bearer, blob, uploads};
use multiarch::image::{PlatformCheck, resolve};
use multiarch::registry::{
    BlobReader, Client, Descriptor, Digest, Error, Keyring, Kind, MediaType, Session, Settings,
};
use raw_server::Raw;
use serde_json::json;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
/// What must end at all ends within this.
const PATIENCE: Duration = Duration::from_secs(60);

fn ok(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.retry.pause = Duration::from_millis(1);
    settings
}

fn anonymous() -> Session {
    Client::new(&settings()).unwrap().session(Arc::new(Keyring::default()))
}

fn with_password(host: &str) -> Session {
    let mut keyring = Keyring::default();
    let document = json!({"auths": {host: {"username": "user", "password": "hunter2"}}}).to_string();
    keyring.add("secret test", document.as_bytes()).unwrap();
    Client::new(&settings()).unwrap().session(Arc::new(keyring))
}

/// Whatever a server does, an answer comes to an end.
async fn ends<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it ends")
}

async fn refused(server: &Raw) -> Error {
    let error = ends(anonymous().get_manifest(&server.tag("1"))).await.unwrap_err();
    assert!(error.to_string().len() < 1000, "{error}");
    error
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let server = Raw::start(|_, mut peer| async move {
        let head = peer.asked().await?.to_ascii_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
        let answer = match range.and_then(|start| start.parse::<u64>().ok()) {
            None => "HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n".to_owned(),
            Some(start) => {
                let (range, length) = (format!("bytes {start}-3999999/4000000"), 4_000_000 - start);
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: {range}\r\nContent-Length: {length}\r\n\r\n")
            }
        };
        peer.say(answer).await?;
        loop {
            peer.say(" ").await?;
            // Less than silence is given up after, more than nothing.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut settings = Settings { read_timeout: Duration::from_millis(200), ..settings() };
    settings.retry.attempts = 1;
    let session = Client::new(&settings).unwrap().session(Arc::new(Keyring::default()));
    let error = ends(session.get_manifest(&server.tag("1"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no answer in time"), "{error}");

    let blob = Descriptor::new(MediaType::new("x/y"), Digest::sha256(b""), 4_000_000);
    let mut reader = BlobReader::new(Arc::new(session.blobs_of(&server.repository())), &blob);
    let error = ends(async {
        loop {
            if let Err(error) = reader.next().await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_head_that_trickles_is_given_up() {
    let server = Raw::start(|_, mut peer| async move {
        peer.asked().await?;
        peer.say("HTTP/1.1 200 OK\r\nX-Slow: ").await?;
        loop {
            peer.say("x").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut settings = Settings { read_timeout: Duration::from_millis(200), ..settings() };
    settings.retry.attempts = 1;
    let session = Client::new(&settings).unwrap().session(Arc::new(Keyring::default()));
    let error = ends(session.get_manifest(&server.tag("1"))).await.unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn a_flood_of_headers_is_cut() {
    for endless in ["X-Flood: again and again\r\n".repeat(1000), "x".repeat(10_000)] {
        let server = Raw::start(move |_, mut peer| {
            let endless = endless.clone();
            async move {
                peer.asked().await?;
                peer.say("HTTP/1.1 200 OK\r\nX-Flood: ").await?;
                loop {
                    peer.say(&endless).await?;
                }
            }
        })
        .await;
        assert_eq!(refused(&server).await.kind(), Kind::Unavailable);
    }
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_given_up() {
    let server = Raw::start(|_, mut peer| async move {
        peer.asked().await?;
        loop {
            peer.say("HTTP/1.1 103 Early Hints\r\n\r\n").await?;
        }
    })
    .await;
    let mut settings = Settings { read_timeout: Duration::from_millis(200), ..settings() };
    settings.retry.attempts = 1;
    let session = Client::new(&settings).unwrap().session(Arc::new(Keyring::default()));
    let error = ends(session.get_manifest(&server.tag("1"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_not_taken_for_the_next() {
    let server = Raw::start(|_, mut peer| async move {
        loop {
            let head = peer.asked().await?;
            let tag =
                head.split([' ', '/']).find(|word| word.starts_with("tag-")).unwrap_or_default().to_owned();
            let body = |tag: &str| MANIFEST.replace("{}", &format!(r#"{{"of":"{tag}"}}"#));
            let forged = ok("", &body("forged"));
            peer.say(ok("", &body(&tag)) + &forged).await?;
        }
    })
    .await;
    let session = anonymous();
    for number in 0..20 {
        let tag = format!("tag-{number}");
        let manifest = ends(session.get_manifest(&server.tag(&tag))).await.unwrap();
        let text = String::from_utf8(manifest.bytes.to_vec()).unwrap();
        assert!(text.contains(&format!(r#""of":"{tag}""#)), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_an_error_and_no_panic() {
    for (bytes, what) in [
        ("", "nothing"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "another protocol"),
        ("HTTP/1.1 99999 Many\r\n\r\n", "a status of five digits"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "a negative length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", "two lengths"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", "no number"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", "an endless chunk"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "a chunk of no size"),
        ("HTTP/1.1 307 Go\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", "a redirect to nowhere"),
        (
            "HTTP/1.1 307 Go\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
            "a redirect to a file",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "no manifest"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "an empty manifest"),
    ] {
        let server = Raw::saying(bytes).await;
        let error = refused(&server).await;
        assert!(
            matches!(error.kind(), Kind::Unavailable | Kind::Malformed | Kind::Unsupported),
            "{what}: {error}"
        );
        assert!(server.connections() <= 4, "{what}");
    }
}

#[tokio::test]
async fn a_length_that_lies_is_found_out() {
    let by_tag = Raw::saying(ok("", MANIFEST).replace("Content-Length: 43", "Content-Length: 20")).await;
    assert!(MANIFEST.len() == 43);
    assert_eq!(refused(&by_tag).await.kind(), Kind::Malformed, "it is cut, so it is no JSON");

    let digest = Digest::sha256(MANIFEST.as_bytes());
    let by_digest = by_tag.repository().with_digest(&digest);
    let error = ends(anonymous().get_manifest(&by_digest)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DigestMismatch);

    let small = Descriptor { size: 3, ..blob() };
    let server = FaultServer::start(|_| Answer::status(200).body(BLOB)).await;
    let repository = server.repository("team/web");
    let error = anonymous().get_blob_bytes(&repository, &small, 100).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DigestMismatch);
}

#[tokio::test]
async fn a_packed_answer_is_never_unpacked() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(MANIFEST.as_bytes()).unwrap();
    // A hundred MiB of spaces are a hundred KiB here, and JSON all the same.
    for _ in 0..100 {
        packer.write_all(&[b' '; 1 << 20]).unwrap();
    }
    let packed = packer.finish().unwrap();
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let packed = packed.clone();
        let server = FaultServer::start(move |_| {
            Answer::status(200).header("Content-Encoding", encoding).body(packed.clone())
        })
        .await;
        let session = anonymous();
        let tag = server.repository("team/web").with_tag("1").unwrap();
        assert_eq!(session.get_manifest(&tag).await.unwrap_err().kind(), Kind::Malformed);
        let found = session.get_blob_bytes(&server.repository("team/web"), &blob(), 1 << 20).await;
        assert_eq!(found.unwrap_err().kind(), Kind::DigestMismatch);
        assert!(server.asked().iter().all(|asked| !asked.headers.contains_key("accept-encoding")));
    }
}

#[tokio::test]
async fn what_is_nested_without_end_is_refused() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!(
            r#"{{"schemaVersion":2,"config":{{}},"layers":{}1{}}}"#,
            open.repeat(50_000),
            close.repeat(50_000)
        );
        let server = FaultServer::start(move |_| Answer::status(200).body(deep.clone())).await;
        let tag = server.repository("team/web").with_tag("1").unwrap();
        let (session, platform) = (anonymous(), "linux/amd64".parse().unwrap());
        let resolved = resolve(&session, &tag, &platform, PlatformCheck::Enforce).await;
        let error = resolved.map(drop).unwrap_err().to_string();
        assert!(error.len() < 1000 && error.contains("cannot be read"), "{error}");
    }
}

/// Serves the blob, and resets the connection in its middle the first `resets` times.
async fn resetting(resets: usize) -> Raw {
    Raw::start(move |number, mut peer| async move {
        let head = peer.asked().await?;
        let start = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let rest = &BLOB[start.unwrap_or(0)..];
        let (status, range) = match start {
            None => ("200 OK", String::new()),
            Some(start) => {
                let range = format!("Content-Range: bytes {start}-{}/{}\r\n", BLOB.len() - 1, BLOB.len());
                ("206 Partial Content", range)
            }
        };
        peer.say(format!("HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\n\r\n", rest.len())).await?;
        if number >= resets {
            return peer.say(rest).await;
        }
        peer.say(&rest[..rest.len() / 2]).await?;
        // What is on its way would be lost with the connection, and nothing gained.
        tokio::time::sleep(Duration::from_millis(50)).await;
        peer.reset()
    })
    .await
}

#[tokio::test]
async fn a_connection_that_is_reset_in_the_middle_of_a_blob_is_no_harm() {
    let server = resetting(3).await;
    let store = Arc::new(anonymous().blobs_of(&server.repository()));
    let mut reader = BlobReader::new(store, &blob());
    let mut read = Vec::new();
    while let Some(chunk) = ends(reader.next()).await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert_eq!((read.as_slice(), server.connections()), (BLOB, 4));

    let server = resetting(2).await;
    let whole = ends(anonymous().get_blob_bytes(&server.repository(), &blob(), 100)).await.unwrap();
    assert_eq!((whole, server.connections()), (bytes::Bytes::from_static(BLOB), 3));

    let server = resetting(usize::MAX).await;
    let error = ends(anonymous().get_blob_bytes(&server.repository(), &blob(), 100)).await.unwrap_err();
    assert_eq!((error.kind(), server.connections()), (Kind::Unavailable, 4));
}

#[tokio::test]
async fn a_connection_that_is_reset_in_the_middle_of_an_upload_is_no_harm() {
    let source = FaultServer::start(|asked| uploads(asked, || Answer::status(404))).await;
    let target = Raw::start(|_, mut peer| async move {
        loop {
            let head = peer.asked().await?;
            if head.starts_with("HEAD") || head.starts_with("GET") {
                peer.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
            } else if head.starts_with("POST") {
                let opened = "HTTP/1.1 202 Accepted\r\nLocation: /upload?first\r\nContent-Length: 0\r\n\r\n";
                peer.say(opened).await?;
            } else if head.starts_with("PUT") {
                return peer.reset();
            } else {
                peer.say("HTTP/1.1 204 No Content\r\n\r\n").await?;
            }
        }
    })
    .await;
    let session = anonymous();
    let (from, to) = (source.repository("team/base"), target.repository());
    let error = ends(session.copy_blob(&from, &to, &blob())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "tried again, and given up in the end: {error}");
}

#[tokio::test]
async fn a_token_without_an_end_is_cut() {
    let server = FaultServer::start(|asked| match asked.target.starts_with("/token") {
        true => Answer::status(200).endless(),
        false => bearer(asked),
    })
    .await;
    let tag = server.repository("team/web").with_tag("1").unwrap();
    let error = ends(with_password(&server.host).get_manifest(&tag)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_and_not_repeated() {
    for token in [r#"{"token":"secret\u000a"}"#, r#"{"token":7}"#, r#"{"token":""}"#, "secret", "[]", ""] {
        let server = FaultServer::start(move |asked| match asked.target.starts_with("/token") {
            true => Answer::status(200).body(token),
            false => bearer(asked),
        })
        .await;
        let tag = server.repository("team/web").with_tag("1").unwrap();
        let error = ends(with_password(&server.host).get_manifest(&tag)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed, "{token}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn no_password_follows_a_token_realm_that_redirects() {
    let thief = FaultServer::start(|_| Answer::status(200).body(r#"{"token":"t"}"#)).await;
    let elsewhere = format!("http://{}/token", thief.host);
    let server = FaultServer::start(move |asked| match asked.target.starts_with("/token") {
        true => Answer::status(307).header("Location", elsewhere.clone()),
        false => bearer(asked),
    })
    .await;
    let tag = server.repository("team/web").with_tag("1").unwrap();
    let _ = ends(with_password(&server.host).get_manifest(&tag)).await;
    assert!(server.asked()[1].authorization().is_some(), "the realm itself gets it");
    assert!(thief.asked().iter().all(|asked| asked.authorization().is_none()));
}

#[tokio::test]
async fn a_realm_that_is_no_address_is_refused() {
    for realm in
        ["", "/token", "file:///etc/passwd", "http://[::1", "https://", "javascript:alert(1)", "\u{e9}"]
    {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        let server =
            FaultServer::start(move |_| Answer::status(401).header("WWW-Authenticate", challenge.clone()))
                .await;
        let tag = server.repository("team/web").with_tag("1").unwrap();
        let error = ends(with_password(&server.host).get_manifest(&tag)).await.unwrap_err();
        let kinds = [Kind::Malformed, Kind::Unsupported, Kind::Unauthorized];
        assert!(kinds.contains(&error.kind()), "{realm}: {error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_flood_of_challenges_is_read_to_its_end() {
    let flood = "Nonsense a=\"b\", ".repeat(20_000) + "Basic realm=x";
    let server = FaultServer::start(move |asked| match asked.authorization() {
        None => Answer::status(401).header("WWW-Authenticate", flood.clone()),
        Some(_) => Answer::status(200).body(MANIFEST),
    })
    .await;
    let tag = server.repository("team/web").with_tag("1").unwrap();
    ends(with_password(&server.host).get_manifest(&tag)).await.unwrap();
}

#[tokio::test]
async fn headers_about_content_are_hints_and_no_more() {
    let server = FaultServer::start(|asked| {
        let answer = Answer::status(200)
            .header("Docker-Content-Digest", Digest::sha256(b"a lie").as_str())
            .header("Content-Type", MediaType::OCI_INDEX.as_str());
        match asked.method.as_str() {
            "PUT" => Answer::status(201).header("Docker-Content-Digest", "sha256:short"),
            _ if asked.target.ends_with("/lie") => answer.body(MANIFEST),
            _ => answer.header("Docker-Content-Digest", "not a digest").body(r#"{"manifests":[]}"#),
        }
    })
    .await;
    let (session, repository) = (anonymous(), server.repository("team/web"));
    let error = session.get_manifest(&repository.with_tag("lie").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed, "an image that is served as an index");
    let index = session.get_manifest(&repository.with_tag("1").unwrap()).await.unwrap();
    assert_eq!(index.descriptor.digest, Digest::sha256(&index.bytes));
    let tag = repository.with_tag("1").unwrap();
    session.put_manifest(&tag, &MediaType::OCI_INDEX, &index.bytes).await.unwrap();
}

#[tokio::test]
async fn a_storm_of_rate_limits_passes_or_is_given_up() {
    let asked = AtomicUsize::new(0);
    // Some of the requests are too many, whatever they ask for.
    let stormy = FaultServer::start(move |request: &Asked| match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 2 | 4 | 7 | 8 => Answer::status(429).header("Retry-After", "0"),
        _ => uploads(request, || Answer::status(202).header("Location", "/upload?state=m")),
    })
    .await;
    let session = anonymous();
    let (source, target) = (stormy.repository("team/base"), stormy.repository("team/web"));
    let copied = ends(session.copy_blob(&source, &target, &blob())).await;
    copied.unwrap_or_else(|error| panic!("{error}: {:#?}", stormy.lines()));

    let hurricane = FaultServer::start(|_| Answer::status(429).header("Retry-After", "0")).await;
    let reference = hurricane.repository("team/web").with_tag("1").unwrap();
    let error = ends(session.get_manifest(&reference)).await.unwrap_err();
    assert_eq!((error.kind(), hurricane.asked().len()), (Kind::RateLimited, 4));
    for absurd in ["99999999999999999999", "-1", "Thu, 01 Jan 2099 00:00:00 GMT", "soon"] {
        let server = FaultServer::start(move |_| Answer::status(429).header("Retry-After", absurd)).await;
        let reference = server.repository("team/web").with_tag("1").unwrap();
        let error = ends(session.get_manifest(&reference)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::RateLimited, "{absurd}");
    }
}
