//! Service accounts of a test's own, which may do only what they are allowed to.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};

use super::{World, root};

/// Creates a service account in the namespace of the test and gives a kubeconfig with its token.
pub async fn kubeconfig_of(world: &World, name: &str) -> PathBuf {
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let accounts = world.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &account).await.expect("a ServiceAccount");
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token = accounts.create_token_request(name, &PostParams::default(), &request).await.expect("a token");

    let text = std::fs::read_to_string(&world.rig.kubeconfig).expect("a kubeconfig");
    let mut kubeconfig: Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
    kubeconfig["users"][0]["user"] = json!({"token": token.status.expect("a token").token});
    let path = root().join("target/test-logs").join(format!("kubeconfig-{}", world.namespace));
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig");
    path
}

/// What the API server has noted of a service account's requests.
fn noted(world: &World, name: &str) -> Vec<Value> {
    let log = world.rig.kubeconfig.with_file_name("audit.log");
    let text = std::fs::read_to_string(log).expect("the audit log");
    let user = format!("system:serviceaccount:{}:{name}", world.namespace);
    let lines = text.lines().filter(|line| line.contains(&user));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What the API server has refused to a service account.
pub fn refused(world: &World, name: &str) -> Vec<String> {
    let is_refused = |event: &Value| event["responseStatus"]["code"] == 403;
    let events = noted(world, name).into_iter().filter(is_refused);
    events.map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect()
}

/// In which ways a service account has asked for objects of a kind, allowed or not.
pub fn verbs(world: &World, name: &str, resource: &str) -> BTreeSet<String> {
    let events = noted(world, name).into_iter().filter(|event| event["objectRef"]["resource"] == resource);
    events.filter_map(|event| event["verb"].as_str().map(str::to_owned)).collect()
}
