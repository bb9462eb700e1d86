//! The chart as a release on the rig: the operator in a pod, from an image.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::chart::{NAME, folder};
use super::examples::kubectl;
use super::{World, devcluster};

/// A release of the chart, which goes with the test.
pub struct Release<'a> {
    pub world: &'a World,
    pub namespace: String,
    /// Who installs it; the administrator where nobody is named.
    pub user: Option<&'a str>,
}

impl Release<'_> {
    fn helm(&self, arguments: &[&str]) -> Output {
        let program = devcluster::run(&["tool", "helm"]);
        let user = self.user.iter().flat_map(|user| ["--kube-as-user", user]);
        let folder = tempfile::tempdir().expect("a folder");
        Command::new(program.trim())
            .args(arguments)
            .args(["--namespace", &self.namespace])
            .args(user)
            .env("KUBECONFIG", &self.world.rig.kubeconfig)
            .env("HELM_CACHE_HOME", folder.path())
            .output()
            .expect("helm runs")
    }

    /// What helm prints when it succeeds.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.helm(arguments);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "helm {arguments:?}: {said}\n{}", self.pods());
        said
    }

    /// Installs or upgrades, and waits until the operator is ready.
    pub fn apply(&self, values: &Value, more: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), values.to_string()).expect("a file");
        let chart = folder();
        let file = path(file.path());
        let arguments =
            ["upgrade", "--install", NAME, &path(&chart), "--values", &file, "--wait", "--timeout", "4m"];
        self.ok(&[arguments.as_slice(), more].concat())
    }

    /// How its pods stand, for a test that fails.
    fn pods(&self) -> String {
        let namespace = ["--namespace", &self.namespace];
        let describe = [["describe", "pods"], namespace].concat();
        let logs = [
            ["logs", "--ignore-errors", "--selector=app.kubernetes.io/component=operator"].as_slice(),
            &namespace,
        ]
        .concat();
        [describe, logs]
            .map(|arguments| {
                let output = kubectl(self.world, &arguments, "");
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
            .concat()
    }

    /// The one pod of the operator.
    pub async fn operator(&self) -> Pod {
        let pods: Api<Pod> = Api::namespaced(self.world.client.clone(), &self.namespace);
        let ours = ListParams::default().labels("app.kubernetes.io/component=operator");
        let pods = pods.list(&ours).await.expect("pods").items;
        let running = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut running: Vec<Pod> = running.collect();
        assert_eq!(running.len(), 1, "{}", self.pods());
        running.remove(0)
    }

    /// What the API server has refused to the operator.
    pub fn refused(&self) -> Vec<String> {
        let log = self.world.rig.kubeconfig.with_file_name("audit.log");
        let text = std::fs::read_to_string(log).expect("the audit log");
        let user = format!("\"system:serviceaccount:{}:{NAME}\"", self.namespace);
        let events = text.lines().filter(|line| line.contains(&user));
        let events = events.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refused = events.filter(|event| event["responseStatus"]["code"] == 403);
        refused.map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect()
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.helm(&["uninstall", NAME, "--ignore-not-found"]);
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The values for the rig: its registries without TLS, its mirror of Docker Hub, its builder; on a node of
/// this architecture.
pub fn values(world: &World, repository: &str, architecture: &str) -> Value {
    let plain = world.rig.plain_http();
    let mut registries: Vec<Value> =
        plain.split(',').map(|host| json!({"host": host, "plainHTTP": true})).collect();
    registries.push(json!({"host": "docker.io", "mirrors": [world.repository("hub")]}));
    json!({
        "image": {"repository": repository},
        "builder": {"image": world.rig.builder_image},
        "registries": registries,
        "logging": {"filter": "info,multiarch=debug"},
        "nodeSelector": {"kubernetes.io/arch": architecture},
    })
}
