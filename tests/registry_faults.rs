//! The registry client against registries that misbehave.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fault_server::{Answer, BLOB, FaultServer, bearer, blob, uploads};
use multiarch::registry::{
    Client, Descriptor, Digest, Keyring, Kind, Manifest, MediaType, Reference, Session, Settings,
};
use serde_json::json;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn manifest() -> Answer {
    Answer::status(200).header("Content-Type", MediaType::OCI_MANIFEST.as_str()).body(MANIFEST)
}

fn reference(server: &FaultServer) -> Reference {
    format!("{}/team/web:1", server.host).parse().unwrap()
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
    let pinned = server.repository("team/web").with_digest(&Digest::sha256(b"x"));
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
    assert_eq!(session.get_blob_bytes(&server.repository("team/web"), &blob(), 100).await.unwrap(), BLOB);
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
    let target = server.repository("team/web");
    let error = anonymous().copy(&server.repository("team/base"), &target, &image()).await.unwrap_err();
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

#[tokio::test]
async fn a_token_that_has_ended_is_renewed_though_the_registry_says_so_otherwise() {
    // Private ECR and public ECR.
    for (status, message) in [
        (403, "Your authorization token has expired. Reauthenticate and try again."),
        (400, "Your Authorization Token is invalid."),
    ] {
        let (issued, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let server = FaultServer::start(move |asked| match asked.authorization() {
            _ if asked.target.starts_with("/token") => {
                let token = format!("t{}", issued.fetch_add(1, Ordering::SeqCst));
                Answer::status(200).body(json!({"token": token, "expires_in": 300}).to_string())
            }
            None => bearer(asked),
            Some("Bearer t0") if used.fetch_add(1, Ordering::SeqCst) > 0 => {
                let refusal = json!({"errors": [{"code": "DENIED", "message": message}]});
                Answer::status(status).body(refusal.to_string())
            }
            Some(_) => manifest(),
        })
        .await;
        let session = anonymous();
        session.get_manifest(&reference(&server)).await.unwrap();
        session.get_manifest(&reference(&server)).await.unwrap();
        assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 2);
    }
}
