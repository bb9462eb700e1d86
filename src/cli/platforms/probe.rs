//! Asks nodes which platforms' programs they run, by a small pod on each kind of node.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, future};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::time::{Instant, timeout_at};

use super::survey::{Probes, platform_of};
use crate::build::{self, BuilderSettings, LABEL_PROBE};
use crate::cli::cluster::{self, Cluster};
use crate::cli::{Error, progress};
use crate::platform::Platform;

/// How long answers are waited for, the pull of the builder's image included.
const PATIENCE: Duration = Duration::from_secs(180);
/// What keeps a container from starting and does not pass by itself.
const HOPELESS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// Asks one node of each kind that takes pods. What was made for it is deleted again.
///
/// # Errors
/// When the cluster does not let us make such pods.
pub(super) async fn probe(
    cluster: &Cluster,
    settings: &BuilderSettings,
    nodes: &[Node],
) -> Result<Probes, Error> {
    let nodes = one_of_each_kind(nodes);
    let run = format!("{:08x}", fastrand::u32(..));
    let jobs: BTreeMap<String, Job> = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let name = format!("multiarch-probe-{run}-{number}");
            (node.clone(), build::probe(settings, &cluster.namespace, &run, &name, node))
        })
        .collect();
    let Some(job) = jobs.values().next() else { return Ok(Probes::new()) };
    check_admission(cluster, job).await?;
    progress::say(&format!("asking {}, in namespace {}", nodes.join(", "), cluster.namespace));
    let api = cluster.namespaced::<Job>();
    let created = future::try_join_all(
        jobs.values()
            .map(|job| async { api.create(&PostParams::default(), job).await.map_err(cluster::explain) }),
    )
    .await;
    let answers = match created {
        Ok(_) => answers(cluster, &run, &nodes).await,
        Err(error) => Err(error),
    };
    for job in jobs.values() {
        // One that stays is deleted by Kubernetes a minute after its end.
        let _ = api.delete(&job.name_any(), &DeleteParams::background()).await;
    }
    answers
}

/// A Job whose pods nobody admits waits without a word; of a pod the API server says why.
async fn check_admission(cluster: &Cluster, job: &Job) -> Result<(), Error> {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    pod.metadata.name = Some(job.name_any());
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    cluster.namespaced::<Pod>().create(&dry_run, &pod).await.map(drop).map_err(cluster::explain)
}

/// Nodes of the same system are taken for alike: the first by name of those that take pods.
fn one_of_each_kind(nodes: &[Node]) -> Vec<String> {
    let mut kinds: BTreeMap<(Platform, String, String), String> = BTreeMap::new();
    for node in nodes {
        let Some(platform) = platform_of(node).filter(|platform| platform.os() == "linux") else { continue };
        let status = node.status.as_ref();
        let ready = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready =
            ready.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        if !is_ready || is_cordoned {
            continue;
        }
        let system = status.and_then(|status| status.node_info.clone()).unwrap_or_default();
        let name = kinds.entry((platform, system.os_image, system.kernel_version)).or_insert(node.name_any());
        if node.name_any() < *name {
            *name = node.name_any();
        }
    }
    kinds.into_values().collect()
}

async fn answers(cluster: &Cluster, run: &str, nodes: &[String]) -> Result<Probes, Error> {
    let deadline = Instant::now() + PATIENCE;
    let ours = watcher::Config::default().labels(&format!("{LABEL_PROBE}={run}"));
    let mut pods = watcher(cluster.namespaced::<Pod>(), ours).default_backoff().applied_objects().boxed();
    let (mut answers, mut last) = (Probes::new(), BTreeMap::new());
    while answers.len() < nodes.len() {
        let pod = match timeout_at(deadline, pods.next()).await {
            Ok(Some(Ok(pod))) => pod,
            // It is asked again by itself, until the time is over.
            Ok(Some(Err(_))) => continue,
            Ok(None) | Err(_) => break,
        };
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        match answer(&pod) {
            Some(answer) => {
                answers.insert(node, answer);
            }
            None => {
                last.insert(node, waiting(&pod));
            }
        }
    }
    for node in nodes {
        let what = last.get(node).cloned().unwrap_or_else(|| "it has no pod".to_owned());
        let silent = || Err(format!("no answer within {} s: {what}", PATIENCE.as_secs()));
        answers.entry(node.clone()).or_insert_with(silent);
    }
    Ok(answers)
}

/// What a pod that has ended, or never will begin, says.
fn answer(pod: &Pod) -> Option<Result<Vec<Platform>, String>> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().next();
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        let said = ended.message.clone().unwrap_or_default();
        return Some(match ended.exit_code {
            // Names that are unknown here are of no use to anybody here.
            0 => Ok(said.trim().split(',').filter_map(|name| name.parse().ok()).collect()),
            code => Err(format!("the builder ended with exit code {code}: {}", last_line(&said))),
        });
    }
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.clone().unwrap_or_default();
        if HOPELESS.contains(&reason.as_str()) {
            return Some(Err(format!("{reason}: {}", waiting.message.clone().unwrap_or_default())));
        }
    }
    // The kubelet did not take it.
    (status.phase.as_deref() == Some("Failed")).then(|| {
        let reason = status.reason.clone().unwrap_or_else(|| "Failed".to_owned());
        Err(format!("{reason}: {}", status.message.clone().unwrap_or_default()))
    })
}

fn waiting(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let container = status.and_then(|status| status.container_statuses.as_ref()?.first());
    let reason = container.and_then(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    reason.or_else(|| status?.phase.clone()).unwrap_or_else(|| "Pending".to_owned())
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "status": status})).unwrap()
    }

    fn ended(code: i32, message: &str) -> Pod {
        let terminated = json!({"exitCode": code, "message": message});
        let status = json!({"name": "probe", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": terminated}});
        pod(json!({"phase": "Succeeded", "containerStatuses": [status]}))
    }

    #[test]
    fn a_pod_that_has_ended_tells_what_its_node_runs() {
        let platforms =
            answer(&ended(0, "linux/amd64,linux/amd64/v2,linux/arm64,linux/mips64,x/y\n")).unwrap().unwrap();
        let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        assert_eq!(names, ["linux/amd64", "linux/amd64/v2", "linux/arm64", "linux/mips64"]);
        let failed = answer(&ended(70, "a\nerror: the builder did not start\n")).unwrap().unwrap_err();
        assert_eq!(failed, "the builder ended with exit code 70: error: the builder did not start");
    }

    #[test]
    fn a_pod_that_never_begins_tells_why() {
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "no such image"}});
            pod(
                json!({"phase": "Pending", "containerStatuses": [{"name": "probe", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}),
            )
        };
        assert_eq!(
            answer(&waiting("ImagePullBackOff")),
            Some(Err("ImagePullBackOff: no such image".to_owned()))
        );
        assert_eq!(answer(&waiting("ContainerCreating")), None);
        let refused = pod(json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}));
        assert_eq!(answer(&refused), Some(Err("OutOfcpu: no room".to_owned())));
    }

    #[test]
    fn nodes_of_one_system_are_asked_once() {
        let node = |name: &str, kernel: &str, more: serde_json::Value| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
                "spec": more,
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "nodeInfo": {
                        "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": kernel, "kubeProxyVersion": "",
                        "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "Linux", "systemUUID": "",
                    },
                },
            }))
            .unwrap()
        };
        let nodes = [
            node("c", "6.1", json!({})),
            node("b", "6.1", json!({})),
            node("a", "6.1", json!({"unschedulable": true})),
            node("d", "6.6", json!({})),
        ];
        assert_eq!(one_of_each_kind(&nodes), ["b", "d"]);
    }
}
