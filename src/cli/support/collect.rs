//! Reads what goes into the bundle.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::kept;
use crate::api::LABEL_IMAGE;
use crate::cli::Error;
use crate::cli::cluster::{Cluster, explain};
use crate::cli::image::logs::started;

/// How many lines of each log are kept.
const LOG_LINES: i64 = 5_000;
/// What the operator's objects are labelled with, whatever a chart's values name them.
const OPERATOR: &str = "app.kubernetes.io/part-of=multiarch-operator";

/// The files of a bundle, and what could not be read.
#[derive(Default)]
pub struct Bundle {
    pub files: BTreeMap<String, String>,
    pub problems: Vec<String>,
    /// Whether what builds and runs have printed is wanted.
    printed: bool,
}

/// Collects everything.
///
/// # Errors
/// When the `MultiArchImage`s cannot be read.
pub async fn collect(cluster: &Cluster, operator_namespace: &str, build_logs: bool) -> Result<Bundle, Error> {
    let images = cluster.images().list(&ListParams::default()).await.map_err(explain)?.items;
    let mut bundle = Bundle { printed: build_logs, ..Bundle::default() };
    let mut namespaces: BTreeSet<String> = images.iter().filter_map(|image| image.namespace()).collect();
    if !cluster.is_all_namespaces() {
        namespaces.insert(cluster.namespace.clone());
    }
    for image in &images {
        let namespace = image.namespace().unwrap_or_default();
        bundle.add(
            &format!("images/{namespace}/{}.yaml", image.name_any()),
            &kept::image(json(image), bundle.printed),
        );
    }
    for namespace in &namespaces {
        let of_namespace = images.iter().filter(|image| image.namespace().as_ref() == Some(namespace));
        let names: Vec<String> = of_namespace.map(|image| format!("{}-", image.name_any())).collect();
        bundle.builds(&cluster.client, namespace, &names).await;
    }
    bundle.operator(&cluster.client, operator_namespace).await;
    bundle.cluster(&cluster.client).await;
    if !bundle.problems.is_empty() {
        bundle.files.insert("problems.txt".to_owned(), bundle.problems.join("\n") + "\n");
    }
    Ok(bundle)
}

impl Bundle {
    fn add(&mut self, path: &str, value: &Value) {
        match serde_saphyr::to_string(value) {
            Ok(text) => drop(self.files.insert(path.to_owned(), text)),
            Err(error) => self.problems.push(format!("{path}: {error}")),
        }
    }

    /// The objects of a list, or none and a note why.
    async fn list<K>(&mut self, api: &Api<K>, parameters: &ListParams, what: &str) -> Vec<K>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        match api.list(parameters).await {
            Ok(list) => list.items,
            Err(error) => {
                self.problems.push(format!("{what}: {}", explain(error)));
                Vec::new()
            }
        }
    }

    /// Jobs, pods and events of a namespace's images.
    async fn builds(&mut self, client: &Client, namespace: &str, names: &[String]) {
        let printed = self.printed;
        let of_images = ListParams::default().labels(LABEL_IMAGE);
        let (jobs, pods): (Api<Job>, Api<Pod>) =
            (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
        for job in self.list(&jobs, &of_images, &format!("Jobs of {namespace}")).await {
            self.add(
                &format!("builds/{namespace}/job-{}.yaml", job.name_any()),
                &kept::workload(json(&job), printed),
            );
        }
        for pod in self.list(&pods, &of_images, &format!("pods of {namespace}")).await {
            let name = pod.name_any();
            self.add(&format!("builds/{namespace}/pod-{name}.yaml"), &kept::workload(json(&pod), printed));
            if printed {
                self.logs(&pods, &pod, &format!("builds/{namespace}/pod-{name}")).await;
            }
        }
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        let events = self.list(&events, &ListParams::default(), &format!("events of {namespace}")).await;
        let told: Vec<Value> = events
            .iter()
            .filter(|event| concerns_us(event, names))
            .map(|event| kept::event(&json(event), printed))
            .collect();
        self.add(&format!("events/{namespace}.yaml"), &json!(told));
    }

    /// The operator itself.
    async fn operator(&mut self, client: &Client, namespace: &str) {
        let ours = ListParams::default().labels(OPERATOR);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        for deployment in self.list(&deployments, &ours, &format!("Deployments of {namespace}")).await {
            let whole = json(&deployment);
            let arguments = whole["spec"]["template"]["spec"]["containers"][0]["args"].clone();
            self.lease(client, namespace, lease_of(&arguments)).await;
            let mut kept = kept::workload(whole, true);
            kept["args"] = kept::arguments(arguments);
            self.add(&format!("operator/deployment-{}.yaml", deployment.name_any()), &kept);
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        for pod in self.list(&pods, &ours, &format!("pods of {namespace}")).await {
            let name = pod.name_any();
            // What it has printed last is in its log, too, and tells there what others have printed.
            self.add(&format!("operator/pod-{name}.yaml"), &kept::workload(json(&pod), self.printed));
            self.logs(&pods, &pod, &format!("operator/pod-{name}")).await;
        }
    }

    /// Which operator works.
    async fn lease(&mut self, client: &Client, namespace: &str, name: &str) {
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        match leases.get_opt(name).await {
            Ok(Some(lease)) => self.add(&format!("operator/lease-{name}.yaml"), &json(&lease.spec)),
            Ok(None) => {}
            Err(error) => self.problems.push(format!("lease {name}: {}", explain(error))),
        }
    }

    /// What the operator runs on.
    async fn cluster(&mut self, client: &Client) {
        let nodes = self.list(&Api::<Node>::all(client.clone()), &ListParams::default(), "nodes").await;
        let nodes: Vec<Value> = nodes.iter().map(|node| kept::node(&json(node))).collect();
        self.add("cluster/nodes.yaml", &json!(nodes));
        let server = match client.apiserver_version().await {
            Ok(version) => json(&version),
            Err(error) => {
                self.problems.push(format!("the API server's version: {}", explain(error)));
                Value::Null
            }
        };
        self.add("cluster/version.yaml", &json!({"command": env!("CARGO_PKG_VERSION"), "server": server}));
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        match definitions.get("multiarchimages.multiarch.dev").await {
            Ok(definition) => {
                let mut definition = json(&definition);
                definition["metadata"] = json!({"labels": definition["metadata"]["labels"]});
                self.add("cluster/crd.yaml", &definition);
            }
            Err(error) => self.problems.push(format!("the CustomResourceDefinition: {}", explain(error))),
        }
    }

    /// The logs of a pod's containers, a file each, and what was printed before the latest restart.
    async fn logs(&mut self, pods: &Api<Pod>, pod: &Pod, path: &str) {
        for container in started(pod) {
            self.log(pods, pod, &container, &format!("{path}.{container}.log"), false).await;
            if has_restarted(pod, &container) {
                self.log(pods, pod, &container, &format!("{path}.{container}.previous.log"), true).await;
            }
        }
    }

    async fn log(&mut self, pods: &Api<Pod>, pod: &Pod, container: &str, path: &str, previous: bool) {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(LOG_LINES),
            previous,
            timestamps: true,
            ..LogParams::default()
        };
        let name = pod.name_any();
        match pods.logs(&name, &parameters).await {
            Ok(text) => drop(self.files.insert(path.to_owned(), kept::text(&text, self.printed))),
            Err(error) => {
                self.problems.push(format!("log of pod/{name}, container {container}: {}", explain(error)));
            }
        }
    }
}

fn has_restarted(pod: &Pod, container: &str) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    statuses.filter(|status| status.name == container).any(|status| status.restart_count > 0)
}

/// The lease that an operator with these arguments waits for.
fn lease_of(arguments: &Value) -> &str {
    let mut arguments = arguments.as_array().into_iter().flatten().filter_map(Value::as_str);
    arguments.find_map(|argument| argument.strip_prefix("--lease-name=")).unwrap_or("multiarch-operator")
}

/// Of images, of the Jobs and pods that were made for them, and of what was made for those.
fn concerns_us(event: &Event, names: &[String]) -> bool {
    let Some(regarding) = &event.regarding else { return false };
    let name = regarding.name.as_deref().unwrap_or_default();
    match regarding.kind.as_deref() {
        Some("MultiArchImage") => true,
        Some("Job" | "Pod" | "PersistentVolumeClaim") => {
            names.iter().any(|ours| name.starts_with(ours.as_str()))
        }
        _ => false,
    }
}

fn json<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
