//! The Helm chart of this checkout: what it renders, for the values that people set.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use super::{devcluster, root};

/// The name of the release, and so of most objects.
pub const NAME: &str = "multiarch-operator";
/// The namespace of the release.
pub const NAMESPACE: &str = "multiarch-system";

/// Values that people set, each with a name; the defaults are among them.
pub const CASES: [(&str, &str); 24] = [
    ("defaults", "{}"),
    ("one-namespace", "watchNamespace: team-a"),
    ("one-namespace-without-crd", "{watchNamespace: team-a, crds: {enabled: false}}"),
    ("three-replicas", "{replicaCount: 3, podDisruptionBudget: {enabled: true}}"),
    (
        "disruptions-in-percent",
        "podDisruptionBudget: {enabled: true, minAvailable: null, maxUnavailable: 50%}",
    ),
    ("without-leader-election", "leaderElection: {enabled: false}"),
    (
        "an-image-by-digest",
        "image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}",
    ),
    (
        "an-image-of-ones-own",
        "{image: {repository: registry.example.com/tools/multiarch, tag: mine, pullPolicy: Always}, imagePullSecrets: [{name: regcred}]}",
    ),
    (
        "settings",
        "{builds: {profile: Rootless, maxRunning: 20, maxRunningPerNamespace: 5, namespaces: [{namespace: team-*, profile: Privileged, maxRunning: 2}]}, \
          policies: {publish: [{namespaces: [team-a, team-a-*], repositories: [registry.example.com/team-a]}], hosts: [{namespaces: ['*'], deny: [10.96.0.1, '*.internal.example.com']}]}, \
          registries: [{host: 'registry.example.com:5000', plainHTTP: true}, {host: docker.io, mirrors: [mirror.example.com/hub], maxConcurrentRequests: 8}]}",
    ),
    (
        "certificates",
        "{certificates: [{name: corp, configMap: corp-ca}, {name: client, secret: client-tls}], \
          registries: [{host: '*.corp.example.com', certificateAuthorityFile: ../certificates/corp/ca.crt, clientCertificateFile: ../certificates/client/tls.crt, clientKeyFile: ../certificates/client/tls.key}]}",
    ),
    ("a-proxy", "proxy: {httpsProxy: 'http://proxy.example.com:3128', noProxy: '.svc,10.0.0.0/8'}"),
    (
        "logs-and-traces",
        "{logging: {format: text, filter: 'info,multiarch=debug'}, tracing: {endpoint: 'http://collector.observability:4318'}}",
    ),
    ("metrics-with-tls", "metrics: {tls: {secretName: metrics-tls}, serviceMonitor: {enabled: true}}"),
    (
        "metrics-for-some",
        "metrics: {authorization: Kubernetes, readers: [{name: prometheus-k8s, namespace: monitoring}], serviceMonitor: {enabled: true, labels: {release: prometheus}}}",
    ),
    (
        "monitoring",
        "metrics: {service: {annotations: {a: b}, port: 9090}, serviceMonitor: {enabled: true, relabelings: [{action: labeldrop, regex: pod}], metricRelabelings: [{action: labeldrop, regex: le}]}, \
          prometheusRule: {enabled: true, labels: {release: prometheus}, alertLabels: {team: platform}}, dashboard: {enabled: true, annotations: {grafana_folder: Builds}}}",
    ),
    ("a-crd-that-goes", "crds: {keep: false}"),
    ("no-crd", "crds: {enabled: false}"),
    ("roles-of-ones-own", "{rbac: {create: false}, serviceAccount: {create: false, name: builder}}"),
    (
        "aggregated-roles",
        "{rbac: {aggregateToView: true, aggregateToEdit: true}, serviceAccount: {annotations: {a: b}}}",
    ),
    (
        "admission",
        "{admission: {advice: {enabled: true}, repositories: {enabled: true}}, policies: {publish: [{namespaces: ['*'], repositories: [registry.example.com/shared]}]}}",
    ),
    (
        "everything-extra",
        "{commonLabels: {team: platform}, deploymentLabels: {a: b}, deploymentAnnotations: {a: b}, podLabels: {a: b}, podAnnotations: {a: b}, \
          priorityClassName: system-cluster-critical, runtimeClassName: runc, extraArgs: ['--plain-http=registry.example.com:5000'], \
          extraEnv: [{name: A, value: b}], extraEnvFrom: [{configMapRef: {name: a}}], extraVolumes: [{name: a, emptyDir: {}}], \
          extraVolumeMounts: [{name: a, mountPath: /a}], extraContainers: [{name: b, image: registry.example.com/b}], \
          topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]}",
    ),
    (
        "a-closed-network",
        "networkPolicy: {enabled: true, from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], egress: [{ports: [{port: 443}, {port: 53, protocol: UDP}]}]}",
    ),
    ("an-open-network-policy", "networkPolicy: {enabled: true}"),
    (
        "emulation",
        "emulation: {enabled: true, namespace: kube-system, architectures: [arm64, s390x], podLabels: {a: b}, priorityClassName: system-node-critical}",
    ),
];

/// The folder of the chart.
pub fn folder() -> PathBuf {
    root().join("charts/multiarch-operator")
}

/// The values of a case.
pub fn case(name: &str) -> &'static str {
    CASES.iter().find(|(known, _)| *known == name).expect("a case").1
}

/// Helm, with this file of values.
pub fn helm(arguments: &[&str], values: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).expect("a file");
    let program = devcluster::run(&["tool", "helm"]);
    Command::new(program.trim())
        .args(arguments)
        .arg("--values")
        .arg(&file)
        .env("HELM_CACHE_HOME", folder.path().join("cache"))
        .output()
        .expect("helm runs")
}

/// What Helm renders, or says.
pub fn try_render(release: &str, namespace: &str, values: &str) -> Result<String, String> {
    let chart = folder();
    let output = helm(&["template", release, &chart.to_string_lossy(), "--namespace", namespace], values);
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("UTF-8")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The objects of the chart, as the release that the documentation installs.
pub fn render(values: &str) -> Vec<Value> {
    let rendered = try_render(NAME, NAMESPACE, values).unwrap_or_else(|error| panic!("{values}: {error}"));
    objects(&rendered)
}

/// The objects of a stream of YAML.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The one object of a kind and name.
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind}/{name}"))
}

/// The objects of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// What kustomize makes of a folder of the checkout.
pub fn kustomize(folder: &str) -> Vec<Value> {
    objects(&kustomized(&root().join(folder)))
}

/// What kustomize prints for a folder.
pub fn kustomized(folder: &Path) -> String {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        devcluster::run(&["build", "--tier", "control-plane"]);
    });
    let kubernetes = root().join("target/devcluster/bin/kubernetes");
    super::tools::run(&kubernetes, &["kubectl", "kustomize", &folder.to_string_lossy()])
}

/// Objects by kind and name, without what each way of installing writes in its own words: labels, and what is chosen by
/// them.
pub fn comparable(objects: &[Value]) -> BTreeMap<String, Value> {
    let named = |object: &Value| {
        let mut object = object.clone();
        strip(&mut object);
        let name = format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', "");
        (name, object)
    };
    objects.iter().map(named).collect()
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(keys) => {
            for key in ["labels", "matchLabels"] {
                keys.remove(key);
            }
            if let Some(Value::Object(annotations)) = keys.get_mut("annotations") {
                annotations.retain(|key, _| !key.starts_with("helm.sh/"));
            }
            keys.retain(|key, value| {
                key != "annotations" || value.as_object().is_some_and(|all| !all.is_empty())
            });
            // Of a Service.
            if keys.contains_key("ports") {
                keys.remove("selector");
            }
            keys.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// A file of the checkout.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same, which is YAML.
pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The values with their defaults.
pub fn values() -> Value {
    yaml("charts/multiarch-operator/values.yaml")
}

/// Strings of a list.
pub fn words(list: &Value) -> Vec<&str> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_str).collect()
}

/// The operator's container.
pub fn container(objects: &[Value]) -> &Value {
    &object(objects, "Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]
}
