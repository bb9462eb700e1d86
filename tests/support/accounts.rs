//! Service accounts of a test's own, which may do only what they are allowed to.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

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

/// What the API server has refused to a service account, as it noted.
pub fn refused(world: &World, name: &str) -> Vec<String> {
    let log = world.rig.kubeconfig.with_file_name("audit.log");
    let text = std::fs::read_to_string(log).expect("the audit log");
    let user = format!("system:serviceaccount:{}:{name}", world.namespace);
    let events =
        text.lines().filter(|line| line.contains(&user)).filter_map(|line| serde_json::from_str(line).ok());
    let is_refused = |event: &Value| event["responseStatus"]["code"] == 403;
    events
        .filter(is_refused)
        .map(|event: Value| format!("{} {}", event["verb"], event["requestURI"]))
        .collect()
}
