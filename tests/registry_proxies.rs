//! Proxies of the environment, seen by the whole command.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::process::Output;

use certificates::{Authority, Folder};
use fault_server::{Answer, FaultServer};
use multiarch::registry::MediaType;
use serde_json::json;
use support::Registry;
use tokio::process::Command;
use tunnel::Tunnel;

const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Runs `multiarch index inspect --raw` with this environment and nothing else of ours.
async fn inspect(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = Folder::new();
    Command::new(env!("CARGO_BIN_EXE_multiarch"))
        .args(["index", "inspect", "--raw"])
        .args(arguments)
        .env_clear()
        .env("HOME", folder.path())
        .envs(environment.iter().copied())
        .output()
        .await
        .unwrap()
}

fn printed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn registry() -> FaultServer {
    let index = || Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(INDEX);
    FaultServer::start(move |_| index()).await
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_of_the_environment() {
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let proxy = registry().await;
        let url = format!("http://user:secret@{}", proxy.host);
        let arguments = ["--plain-http", "registry.test:5000", "registry.test:5000/team/web:1"];
        let output = inspect(&[(variable, &url)], &arguments).await;
        assert_eq!(printed(&output).trim_end(), INDEX, "{variable}");
        assert_eq!(proxy.lines(), ["GET http://registry.test:5000/v2/team/web/manifests/1"]);
        let given = proxy.asked()[0].headers.get("proxy-authorization").cloned();
        assert_eq!(given.as_deref(), Some("Basic dXNlcjpzZWNyZXQ="));
    }
}

#[tokio::test]
async fn tls_goes_through_the_proxy_and_ends_at_the_registry() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.server("registry.test");
    let tls = json!({
        "certificate": folder.write("server.crt", &certificate.certificate),
        "key": folder.write("server.key", &certificate.key),
    });
    let registry = Registry::configured(json!({"http": {"tls": tls}}));
    folder.write("ca.crt", authority.pem());
    let entry = "registries:\n- host: registry.test\n  certificateAuthorityFile: ca.crt\n";
    let settings = folder.write("registries.yaml", entry);
    let settings = settings.to_str().unwrap();
    let tunnel = Tunnel::to(&registry.host).await;
    let proxy = tunnel.url.replace("http://", "http://user:secret@");

    let environment = [("HTTPS_PROXY", proxy.as_str()), ("MULTIARCH_REGISTRIES", settings)];
    let output = inspect(&environment, &["registry.test/team/web:1"]).await;
    assert_eq!(
        said(&output).lines().next(),
        Some(
            "multiarch: registry.test/team/web:1: not found (HTTP 404 MANIFEST_UNKNOWN, fetching the manifest)"
        )
    );
    let asked = tunnel.asked();
    assert_eq!(asked[0], "CONNECT registry.test:443 HTTP/1.1");
    assert!(asked[1].ends_with("Basic dXNlcjpzZWNyZXQ="), "{asked:?}");
}

#[tokio::test]
async fn what_is_excepted_goes_through_no_proxy() {
    let proxy = registry().await;
    let url = format!("http://{}", proxy.host);
    let arguments = ["--plain-http", "registry.test", "registry.test/team/web:1"];
    for exception in ["registry.test", ".test", "*"] {
        let output = inspect(&[("HTTP_PROXY", &url), ("NO_PROXY", exception)], &arguments).await;
        let said = said(&output);
        assert!(said.contains("the host name does not resolve"), "{exception}: {said}");
    }
    assert_eq!(proxy.lines(), [""; 0]);
    printed(&inspect(&[("HTTP_PROXY", &url), ("NO_PROXY", "other.test")], &arguments).await);
    assert_eq!(proxy.lines().len(), 1);
}

#[tokio::test]
async fn this_machine_is_reached_through_no_proxy() {
    let (proxy, registry) = (FaultServer::start(|_| Answer::status(500)).await, registry().await);
    let url = format!("http://{}", proxy.host);
    let reference = format!("{}/team/web:1", registry.host);
    let output = inspect(&[("HTTP_PROXY", &url), ("ALL_PROXY", &url)], &[&reference]).await;
    assert_eq!(printed(&output).trim_end(), INDEX);
    assert_eq!(proxy.lines(), [""; 0]);
}

#[tokio::test]
async fn a_proxy_that_does_not_lead_there_is_named_as_the_cause() {
    let refusing = FaultServer::start(|_| Answer::status(407)).await;
    for (proxy, cause) in
        [(refusing.host.as_str(), "proxy authorization required"), ("127.0.0.1:1", "connection refused")]
    {
        let output =
            inspect(&[("HTTPS_PROXY", &format!("http://{proxy}"))], &["registry.test/team/web:1"]).await;
        let (said, cause) = (said(&output), format!("the proxy (HTTPS_PROXY) does not lead there: {cause}"));
        assert!(said.contains(&cause), "{said}");
    }
}
