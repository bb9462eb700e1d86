//! What all commands have in common: arguments, exit codes, pipes, signals.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;

use std::process::Stdio;

use command::{command, multiarch, run};
use fault_server::{Answer, BLOB, FaultServer, blob, uploads};
use serde_json::json;
use support::{PASSWORD, Registry, USER};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[tokio::test]
async fn the_version_and_the_completions_need_nothing() {
    let version = multiarch(&["--version"]).await.ok().stdout;
    assert_eq!(version, format!("multiarch {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = multiarch(&["completions", shell]).await.ok().stdout;
        for word in ["inspect", "annotate", "dry-run"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
}

#[tokio::test]
async fn help_tells_the_exit_codes() {
    let help = multiarch(&["index", "--help"]).await.ok().stdout;
    for line in ["3    not found", "5    verification failed", "7    conflict", "130  interrupted"] {
        assert!(help.contains(line), "{line}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_explained() {
    let digest = format!("a.io/web@sha256:{}", "0".repeat(64));
    for (arguments, message) in [
        (vec!["create", "a.io/web:1"], "--image"),
        (vec!["create", "a.io/web", "-i", "a.io/web:amd64"], "it has no tag; write a.io/web:1.4.2"),
        (vec!["create", &digest, "-i", "a.io/web:amd64"], "nothing can be published under a digest"),
        (vec!["create", "a.io/web:1", "-i", "a.io/web:a,platform=linux/amd46"], "did you mean amd64?"),
        (vec!["create", "a.io/web:1", "-i", "a.io/web:a,plattform=linux/amd64"], "known are platform"),
        (vec!["inspect", "docker://a.io/web:1"], "without docker://"),
        (vec!["inspect", "https://a.io/web:1"], "without https://"),
        (vec!["inspect", "a.io/WEB:1"], "not an image reference"),
        (vec!["inspect", "a.io/web:1", "--platform", "linus/amd64"], "did you mean linux?"),
        (vec!["copy", "a.io/web:1"], "<DST>"),
        (vec!["annotate", "a.io/web:1", "-a", "x"], "write key=value"),
    ] {
        let ran = multiarch(&[&["index"], &arguments[..]].concat()).await;
        assert!(ran.stderr.contains(message), "{message}: {ran:#?}");
        ran.failed(2);
    }
}

#[tokio::test]
async fn what_is_not_there_is_3() {
    let registry = Registry::anonymous();
    let name = format!("{}/web:1", registry.host);
    for arguments in [vec!["inspect", &name], vec!["verify", &name], vec!["annotate", &name, "-a", "x=y"]] {
        let message = multiarch(&[&["index"], &arguments[..]].concat()).await.failed(3);
        assert!(message.starts_with(&format!("multiarch: {name}: not found")), "{message}");
    }
    let implied = format!("{}/web", registry.host);
    let message = multiarch(&["index", "inspect", &implied]).await.failed(3);
    assert!(message.contains("hint: a reference without a tag means :latest"), "{message}");
}

#[tokio::test]
async fn who_may_not_is_4_and_a_password_opens() {
    let registry = Registry::with_password();
    let image = registry.push_image("web", "1", "linux/amd64").await;
    let name = format!("{}/web:1", registry.host);
    let message = multiarch(&["index", "inspect", &name]).await.failed(4);
    assert!(
        message.contains("authentication required") && message.contains("hint: credentials"),
        "{message}"
    );

    let mut inspect = command(&["index", "inspect", &name, "--username", USER, "--password-stdin"]);
    let mut child = inspect.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(image.digest.as_str()));
}

#[tokio::test]
async fn a_registry_that_takes_nothing_fails_a_copy() {
    let (from, to) = (Registry::anonymous(), Registry::read_only());
    from.push_image("web", "1", "linux/amd64").await;
    let (source, target) = (format!("{}/web:1", from.host), format!("{}/web:1", to.host));
    let ran = multiarch(&["index", "copy", &source, &target]).await;
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains(&to.host), "{}", ran.stderr);
    ran.failed(1);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_6() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let message = multiarch(&["index", "inspect", &format!("127.0.0.1:{port}/web:1")]).await.failed(6);
    assert!(message.contains("connection refused"), "{message}");
}

#[tokio::test]
async fn an_interrupt_ends_a_command_with_130() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("{}/web:1", silent.local_addr().unwrap());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut inspect = command(&["index", "inspect", &name]);
        let child = inspect.stderr(Stdio::piped()).spawn().unwrap();
        let _connection = silent.accept().await.unwrap();
        let id = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[tokio::test]
async fn an_interrupted_copy_cancels_its_upload() {
    let blob = json!({"mediaType": "x/y", "digest": blob().digest, "size": BLOB.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": blob, "layers": [],
    });
    let (sent, mut uploading) = mpsc::unbounded_channel();
    let server = FaultServer::start(move |asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", "/v2/team/base/manifests/1") => Answer::status(200).body(manifest.to_string()),
        ("PUT", _) => {
            sent.send(()).unwrap();
            Answer::never()
        }
        _ => uploads(asked, || Answer::status(404)),
    })
    .await;
    let [from, to] = ["base", "web"].map(|name| format!("{}/team/{name}:1", server.host));
    let child = command(&["index", "copy", &from, &to]).stderr(Stdio::piped()).spawn().unwrap();
    uploading.recv().await.unwrap();
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(server.lines().iter().any(|line| line.starts_with("DELETE /upload")), "{:?}", server.lines());
}

#[tokio::test]
async fn a_rate_limit_is_6_and_waits_no_longer_than_people_do() {
    let server =
        FaultServer::start(|_| Answer::status(429).header("Retry-After", "3600").body("slow down")).await;
    let name = format!("{}/web:1", server.host);
    let message = multiarch(&["index", "inspect", &name]).await.failed(6);
    assert!(message.contains("rate limited"), "{message}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn bytes_that_are_not_those_named_are_5() {
    let server = FaultServer::start(|_| Answer::status(200).body("{}")).await;
    let name = format!("{}/web@sha256:{}", server.host, "0".repeat(64));
    let message = multiarch(&["index", "inspect", &name]).await.failed(5);
    assert!(message.contains("the content has digest"), "{message}");
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure() {
    let registry = Registry::anonymous();
    registry.push_image("web", "1", "linux/amd64").await;
    let name = format!("{}/web:1", registry.host);
    for arguments in [vec!["index", "inspect", &name], vec!["crd"], vec!["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(&arguments).stdout(writer).stderr(Stdio::piped()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?} {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[tokio::test]
async fn requests_are_logged_when_asked_for_and_secrets_never() {
    let registry = Registry::anonymous();
    registry.push_image("web", "1", "linux/amd64").await;
    let name = format!("{}/web:1", registry.host);
    assert_eq!(multiarch(&["index", "inspect", &name]).await.ok().stderr, "");
    let mut verbose = command(&["index", "inspect", &name]);
    verbose.env("RUST_LOG", "trace");
    assert!(run(verbose).await.ok().stderr.contains(&registry.host));
}

#[tokio::test]
async fn what_is_asked_of_registries_is_told_when_it_is_wanted_and_no_password_with_it() {
    let registry = Registry::with_password();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let name = format!("{}/team/web:1", registry.host);
    let mut inspect = command(&["index", "inspect", &name, "-v", "--username", USER, "--password-stdin"]);
    let mut child = inspect
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("standard input");
    stdin.write_all(PASSWORD.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&format!("GET {}/v2/team/web/manifests/1: 401", registry.host)), "{told}");
    assert!(told.contains(&format!("GET {}/v2/team/web/manifests/1: 200", registry.host)), "{told}");
    assert!(!told.contains(PASSWORD), "{told}");
}
