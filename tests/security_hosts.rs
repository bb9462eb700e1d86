//! Servers that lead the operator elsewhere: to its own machine, to the metadata of its cloud, to what is denied.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/fault_server.rs"]
mod fault_server;

use std::sync::Arc;
use std::time::Duration;

use fault_server::{Answer, FaultServer, blob};
use multiarch::network::{Access, HostPolicy, HostRule};
use multiarch::registry::{Client, Error, Keyring, Kind, Session, Settings};
use multiarch::{git, registry};
use serde_json::json;

/// What the operator may speak to whose settings name this one server.
fn named(server: &FaultServer) -> HostPolicy {
    HostPolicy { named: vec![server.host.parse().expect("a host")], ..HostPolicy::default() }
}

fn access(policy: HostPolicy) -> Access {
    Arc::new(policy).access("team-a")
}

fn session(access: Access) -> Session {
    let mut settings = Settings::default();
    settings.retry.pause = Duration::from_millis(1);
    Client::new(&settings).expect("a client").limited_to(access).session(Arc::new(Keyring::default()))
}

/// Answers whatever it is asked, which nobody should.
async fn elsewhere() -> FaultServer {
    FaultServer::start(|_| Answer::status(200).body(r#"{"token":"t","tags":[]}"#)).await
}

fn denied(error: &Error, host: &str) {
    assert_eq!(error.kind(), Kind::HostDenied, "{error}");
    assert!(error.to_string().contains(host) && !error.is_transient(), "{error}");
}

/// Where servers lead: every one is refused.
fn targets(elsewhere: &FaultServer) -> [String; 6] {
    [
        format!("http://{}/latest", elsewhere.host),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[::ffff:169.254.169.254]/latest".to_owned(),
        "https://2852039166/latest".to_owned(),
        "https://[fd00:ec2::254]/latest".to_owned(),
        "https://localhost:6443/api".to_owned(),
    ]
}

#[tokio::test]
async fn a_redirect_to_an_address_that_is_refused_is_not_followed() {
    let elsewhere = elsewhere().await;
    for target in targets(&elsewhere) {
        let location = target.clone();
        let server = FaultServer::start(move |_| Answer::status(307).header("Location", &*location)).await;
        let session = session(access(named(&server)));
        let tag = server.repository("team/web").with_tag("1").expect("a tag");
        denied(&session.get_manifest(&tag).await.expect_err(&target), "");
        let blobs = session.get_blob_bytes(&server.repository("team/web"), &blob(), 1024).await;
        denied(&blobs.expect_err(&target), "");
    }
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.lines());
}

#[tokio::test]
async fn a_token_realm_at_an_address_that_is_refused_is_not_asked() {
    let elsewhere = elsewhere().await;
    for target in targets(&elsewhere) {
        let realm = format!(r#"Bearer realm="{target}",service="registry""#);
        let server =
            FaultServer::start(move |_| Answer::status(401).header("WWW-Authenticate", &*realm)).await;
        let tag = server.repository("team/web").with_tag("1").expect("a tag");
        let error = session(access(named(&server))).get_manifest(&tag).await.expect_err(&target);
        denied(&error, "");
        assert!(error.to_string().contains("asking for a token"), "{error}");
    }
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.lines());
}

#[tokio::test]
async fn an_upload_led_to_an_address_that_is_refused_sends_nothing_there() {
    let elsewhere = elsewhere().await;
    for target in targets(&elsewhere) {
        let location = target.clone();
        let server = FaultServer::start(move |asked| match asked.method.as_str() {
            "POST" => Answer::status(202).header("Location", &*location),
            "GET" => Answer::status(200).body(fault_server::BLOB),
            _ => Answer::status(404),
        })
        .await;
        let session = session(access(named(&server)));
        let (from, to) = (server.repository("team/base"), server.repository("team/web"));
        denied(&session.copy_blob(&from, &to, &blob()).await.expect_err(&target), "");
    }
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.lines());
}

#[tokio::test]
async fn the_next_page_at_an_address_that_is_refused_is_not_read() {
    let elsewhere = elsewhere().await;
    let link = format!(r#"<http://{}/v2/team/web/tags/list?last=a>; rel="next""#, elsewhere.host);
    let page = json!({"name": "team/web", "tags": ["a"]}).to_string();
    let server =
        FaultServer::start(move |_| Answer::status(200).header("Link", &*link).body(page.clone())).await;
    let listed = session(access(named(&server))).list_tags(&server.repository("team/web"), 10).await;
    denied(&listed.expect_err("denied"), &elsewhere.host);
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.lines());
}

#[tokio::test]
async fn this_machine_is_not_asked_unless_the_settings_name_it_and_no_rule_denies_it() {
    let server = elsewhere().await;
    let tag = server.repository("team/web").with_tag("1").expect("a tag");
    let told = session(Access::default()).get_manifest(&tag).await.expect_err("denied").to_string();
    assert!(told.contains("--plain-http") && told.contains("the operator itself"), "{told}");
    let deny = vec!["127.0.0.0/8".parse().expect("a network")];
    let rule = HostRule { namespaces: vec!["*".to_owned()], allow: vec![], deny };
    let policy = HostPolicy { rules: vec![rule], ..named(&server) };
    let told = session(access(policy)).get_manifest(&tag).await.expect_err("denied").to_string();
    assert!(told.contains("hosts[0].deny of the operator's policies has 127.0.0.0/8"), "{told}");
    assert!(server.asked().is_empty());
    let error = session(access(named(&server))).get_manifest(&tag).await.expect_err("no manifest");
    assert!(error.kind() != Kind::HostDenied && !server.asked().is_empty(), "{error}");
}

#[tokio::test]
async fn a_git_server_leads_nobody_to_an_address_that_is_refused() {
    let elsewhere = elsewhere().await;
    for target in targets(&elsewhere) {
        let location = format!("{target}/web.git/info/refs?service=git-upload-pack");
        let server = FaultServer::start(move |_| Answer::status(302).header("Location", &*location)).await;
        let client = git::Client::new([]).limited_to(access(named(&server)));
        let url = format!("http://{}/web.git", server.host);
        let error = client.resolve(&url, None, None).await.expect_err(&target);
        assert!(
            matches!(error, git::Error::HostDenied { .. }) || error.to_string().contains("no TLS"),
            "{error}"
        );
        assert_eq!(server.asked().len(), 1);
    }
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.lines());
    let unnamed = git::Client::new([]).limited_to(Access::default());
    for url in [format!("http://{}/web.git", elsewhere.host), "https://[::ffff:a9fe:a9fe]/web.git".to_owned()]
    {
        let error = unnamed.resolve(&url, None, None).await.expect_err(&url);
        assert!(matches!(error, git::Error::HostDenied { .. }), "{error}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn a_name_that_resolves_to_an_address_that_is_denied_is_not_connected_to() {
    let server = elsewhere().await;
    let host = server.host.replace("127.0.0.1", "localhost");
    // The name itself may be spoken to, so only what it resolves to can tell.
    let deny = ["127.0.0.0/8", "::1/128"].map(|network| network.parse().expect("a network")).to_vec();
    let rule = HostRule { namespaces: vec!["*".to_owned()], allow: Vec::new(), deny };
    let named = vec![host.parse().expect("a host")];
    let access = access(HostPolicy { rules: vec![rule], named, ..HostPolicy::default() });
    let git = git::Client::new([]).limited_to(access.clone());
    let error = git.resolve(&format!("http://{host}/web.git"), None, None).await.expect_err("denied");
    assert!(matches!(error, git::Error::HostDenied { .. }), "{error}");
    let tag = format!("{host}/team/web:1").parse().expect("a reference");
    denied(&session(access).get_manifest(&tag).await.expect_err("denied"), "localhost");
    assert!(server.asked().is_empty(), "{:?}", server.lines());
}

#[tokio::test]
async fn who_is_limited_shares_connections_with_nobody_who_is_not() {
    let server = FaultServer::start(|_| Answer::status(404)).await;
    let client = registry::Client::new(&Settings::default()).expect("a client");
    let tag = server.repository("team/web").with_tag("1").expect("a tag");
    let everybody = client.session(Arc::new(Keyring::default()));
    let nobody = client.limited_to(Access::default()).session(Arc::new(Keyring::default()));
    for _ in 0..2 {
        assert!(everybody.get_manifest(&tag).await.is_err_and(|error| error.kind() == Kind::NotFound));
        assert!(nobody.get_manifest(&tag).await.is_err_and(|error| error.kind() == Kind::HostDenied));
    }
}
