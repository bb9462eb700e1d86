//! The way to a cluster through a proxy, seen by the whole command.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/tunnel.rs"]
mod tunnel;

use command::{Ran, command, run};
use fault_server::{Answer, FaultServer};
use serde_json::{Value, json};
use tunnel::Tunnel;

/// `multiarch status` in the cluster that this leads to.
async fn status(cluster: Value, environment: &[(&str, &str)]) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("config");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "east",
        "contexts": [{"name": "east", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
    });
    std::fs::write(&kubeconfig, text.to_string()).expect("a kubeconfig");
    let mut command = command(&["status"]);
    command.env("KUBECONFIG", &kubeconfig).envs(environment.iter().copied());
    run(command).await
}

/// An API server without a `MultiArchImage`.
async fn cluster() -> FaultServer {
    let list = json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImageList", "metadata": {}, "items": [],
    });
    FaultServer::start(move |_| {
        Answer::status(200).header("Content-Type", "application/json").body(list.to_string())
    })
    .await
}

#[tokio::test]
async fn a_cluster_is_reached_through_the_proxy_of_its_kubeconfig() {
    let server = cluster().await;
    let tunnel = Tunnel::to(&server.host).await;
    let proxy = tunnel.url.replace("http://", "http://user:p%40ss@");
    let cluster = json!({"server": "http://cluster.test:6443", "proxy-url": proxy});
    status(cluster, &[("NO_PROXY", "*"), ("HTTP_PROXY", "http://127.0.0.1:1")]).await.ok();
    let asked = tunnel.asked();
    assert_eq!(asked[0], "CONNECT cluster.test:6443 HTTP/1.1");
    assert!(asked[1].ends_with("Basic dXNlcjpwQHNz"), "{asked:?}");
}

#[tokio::test]
async fn a_cluster_is_reached_through_the_proxy_of_the_environment() {
    let server = cluster().await;
    let tunnel = Tunnel::to(&server.host).await;
    for variable in ["HTTP_PROXY", "ALL_PROXY"] {
        let cluster = json!({"server": "http://cluster.test:6443"});
        status(cluster, &[(variable, &tunnel.url), ("NO_PROXY", "other.test,")]).await.ok();
    }
    let connections = tunnel.asked().iter().filter(|line| line.starts_with("CONNECT cluster.test")).count();
    assert!(connections >= 2, "{:?}", tunnel.asked());
}

#[tokio::test]
async fn a_cluster_that_is_excepted_or_on_this_machine_is_reached_through_no_proxy() {
    let tunnel = Tunnel::to("127.0.0.1:1").await;
    for excepted in ["cluster.test", ".test", ",<local>,, *"] {
        let cluster = json!({"server": "https://cluster.test:6443"});
        let ran = status(cluster, &[("HTTPS_PROXY", &tunnel.url), ("NO_PROXY", excepted)]).await;
        assert_eq!(ran.code, Some(6), "{excepted}: {ran:?}");
    }
    let server = cluster().await;
    let here = json!({"server": format!("http://{}", server.host)});
    status(here, &[("HTTP_PROXY", &tunnel.url), ("HTTPS_PROXY", &tunnel.url)]).await.ok();
    assert_eq!(tunnel.asked(), [""; 0]);
}

#[tokio::test]
async fn a_proxy_that_leads_to_no_cluster_is_named_without_its_password() {
    let cluster = json!({"server": "https://cluster.test:6443", "proxy-url": "ftp://me:hunter2@proxy.test"});
    let said = status(cluster, &[]).await.failed(2);
    assert!(said.contains("proxy-url") && !said.contains("hunter2"), "{said}");
}
