//! What a cluster builds, from its nodes, its images and what probes have found: pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::api::{MultiArchImage, Phase, PlatformStatus, Reason};
use crate::build::for_platform;
use crate::platform::Platform;

/// What a node answered, or why it did not: by the name of the node.
pub(super) type Probes = BTreeMap<String, Result<Vec<Platform>, String>>;

/// How a platform is built. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Built {
    /// On nodes of the platform.
    Native,
    /// On nodes that emulate it, for images that say whenNoNode: Emulate.
    Emulated,
    /// By a daemon elsewhere, for images that name it.
    Remote,
    /// Nobody has tried whether a node emulates it.
    Unknown,
    /// Not at all.
    Lacking,
}

/// What a cluster builds. The names of the fields are stable.
#[derive(Debug, Serialize)]
pub(super) struct Survey {
    pub platforms: Vec<PlatformSurvey>,
    pub nodes: Vec<NodeSurvey>,
}

/// A platform, and who builds it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlatformSurvey {
    pub platform: Platform,
    pub built: Built,
    /// The nodes of the platform, or those that are known to emulate it.
    pub nodes: Vec<String>,
    /// How many nodes of the platform take pods now.
    pub ready_nodes: usize,
    /// The daemons elsewhere that images name for it.
    pub remotes: Vec<String>,
    /// The images that have it built: `namespace/name`.
    pub wanted_by: Vec<String>,
    /// What else is to be known.
    pub message: String,
}

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeSurvey {
    pub name: String,
    pub platform: Option<Platform>,
    pub ready: bool,
    pub schedulable: bool,
    pub taints: Vec<String>,
    pub os_image: String,
    pub kernel: String,
    /// What it runs, its own platform included, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<Platform>>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl NodeSurvey {
    fn new(node: &Node, probes: &Probes) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let information = status.node_info.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let taints = spec.taints.unwrap_or_default().into_iter();
        let answer = probes.get(&node.name_any());
        Self {
            name: node.name_any(),
            platform: platform_of(node),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            schedulable: spec.unschedulable != Some(true),
            taints: taints
                .map(|taint| match taint.value {
                    Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
                    None => format!("{}:{}", taint.key, taint.effect),
                })
                .collect(),
            os_image: information.os_image,
            kernel: information.kernel_version,
            runs: answer.and_then(|answer| answer.clone().ok()),
            problem: answer.and_then(|answer| answer.clone().err()),
        }
    }

    /// Whether pods come here, taints aside.
    pub(super) fn takes_pods(&self) -> bool {
        self.ready && self.schedulable
    }
}

/// What the labels of a node say, which are what builds go by.
pub(super) fn platform_of(node: &Node) -> Option<Platform> {
    let label = |name: &str| node.labels().get(name);
    format!("{}/{}", label("kubernetes.io/os")?, label("kubernetes.io/arch")?).parse().ok()
}

/// Who builds which platform.
pub(super) fn survey(nodes: &[Node], images: &[MultiArchImage], probes: &Probes) -> Survey {
    let mut nodes: Vec<NodeSurvey> = nodes.iter().map(|node| NodeSurvey::new(node, probes)).collect();
    nodes.sort_by(|a, b| (&a.platform, &a.name).cmp(&(&b.platform, &b.name)));
    let wishes: Vec<Wish<'_>> = images.iter().flat_map(Wish::all).collect();
    let mut platforms: BTreeSet<Platform> = nodes.iter().filter_map(|node| node.platform.clone()).collect();
    for node in &nodes {
        platforms.extend(node.runs.iter().flatten().filter(|platform| is_news(platform, node)).cloned());
    }
    platforms.extend(wishes.iter().map(|wish| wish.platform.clone()));
    let mut platforms: Vec<PlatformSurvey> =
        platforms.into_iter().map(|platform| of_platform(platform, &nodes, &wishes)).collect();
    platforms.sort_by_key(|platform| platform.built as u8);
    Survey { platforms, nodes }
}

/// A node runs the variants of its own architecture; that is nothing to tell.
fn is_news(platform: &Platform, node: &NodeSurvey) -> bool {
    node.platform.as_ref().is_none_or(|own| own.architecture() != platform.architecture())
}

/// A platform that an image has built.
struct Wish<'a> {
    image: String,
    platform: Platform,
    remote: Option<String>,
    status: Option<&'a PlatformStatus>,
}

impl<'a> Wish<'a> {
    fn all(image: &'a MultiArchImage) -> Vec<Self> {
        let name = match image.namespace() {
            Some(namespace) => format!("{namespace}/{}", image.name_any()),
            None => image.name_any(),
        };
        let Some(build) = &image.spec.build else { return Vec::new() };
        let built = image.spec.platforms.iter().filter(|entry| entry.image.is_none());
        built
            .filter_map(|entry| {
                let remote = for_platform(build, entry.build.as_ref()).remote;
                Some(Self {
                    image: name.clone(),
                    platform: entry.platform.parse().ok()?,
                    remote: remote.map(|remote| remote.endpoint),
                    status: image.status.as_ref().and_then(|status| status.platform(&entry.platform)),
                })
            })
            .collect()
    }

    /// Whether a build of it has succeeded under emulation.
    fn was_emulated(&self) -> bool {
        self.status.is_some_and(|status| {
            status.emulated
                && (status.built.is_some() || status.digest.is_some() || status.phase == Phase::Ready)
        })
    }

    fn could_not_be_emulated(&self) -> bool {
        self.status.is_some_and(|status| status.reason == Some(Reason::EmulationUnavailable))
    }

    fn node(&self) -> Option<&str> {
        self.status?.node.as_deref()
    }
}

fn of_platform(platform: Platform, nodes: &[NodeSurvey], wishes: &[Wish<'_>]) -> PlatformSurvey {
    let wishes: Vec<&Wish<'_>> = wishes.iter().filter(|wish| wish.platform == platform).collect();
    let native: Vec<&NodeSurvey> = nodes.iter().filter(|node| is_native(node, &platform)).collect();
    let emulating: Vec<&NodeSurvey> = nodes.iter().filter(|node| runs(node, &platform)).collect();
    let distinct = |texts: Vec<String>| texts.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let remotes: Vec<String> = distinct(wishes.iter().filter_map(|wish| wish.remote.clone()).collect());
    let emulated = wishes.iter().find(|wish| wish.was_emulated());
    let names = |nodes: &[&NodeSurvey]| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let (built, known, message) = if platform.os() != "linux" {
        let built = if remotes.is_empty() { Built::Lacking } else { Built::Remote };
        (built, Vec::new(), "builders are for Linux".to_owned())
    } else if !native.is_empty() {
        let idle = native.iter().any(|node| node.takes_pods());
        let message = if idle { "" } else { "none of its nodes takes pods now" };
        (Built::Native, names(&native), message.to_owned())
    } else if !emulating.is_empty() {
        (Built::Emulated, names(&emulating), String::new())
    } else if let Some(wish) = emulated {
        let node = wish.node().map(|node| format!(" on {node}")).unwrap_or_default();
        (
            Built::Emulated,
            wish.node().map(str::to_owned).into_iter().collect(),
            format!("{} was built so{node}", wish.image),
        )
    } else if !remotes.is_empty() {
        (Built::Remote, Vec::new(), String::new())
    } else {
        without(&platform, nodes, &wishes)
    };
    PlatformSurvey {
        built,
        nodes: known,
        ready_nodes: native.iter().filter(|node| node.takes_pods()).count(),
        remotes,
        wanted_by: distinct(wishes.iter().map(|wish| wish.image.clone()).collect()),
        message,
        platform,
    }
}

fn without(platform: &Platform, nodes: &[NodeSurvey], wishes: &[&Wish<'_>]) -> (Built, Vec<String>, String) {
    let answered = nodes.iter().any(|node| node.runs.is_some());
    let failed = wishes.iter().find(|wish| wish.could_not_be_emulated());
    match (answered, failed) {
        (true, _) => (
            Built::Lacking,
            Vec::new(),
            format!(
                "no node that was asked runs {}; install emulation (tonistiigi/binfmt) or name a remote builder",
                platform.architecture()
            ),
        ),
        (false, Some(wish)) => {
            let node = wish.node().map(|node| format!(" on {node}")).unwrap_or_default();
            (Built::Lacking, Vec::new(), format!("EmulationUnavailable for {}{node}", wish.image))
        }
        (false, None) => (
            Built::Unknown,
            Vec::new(),
            "no node has it, and whether one emulates it nobody has tried; --probe asks".to_owned(),
        ),
    }
}

/// Builds go to nodes of the os and architecture, whatever the variant.
fn is_native(node: &NodeSurvey, platform: &Platform) -> bool {
    node.platform
        .as_ref()
        .is_some_and(|own| own.os() == platform.os() && own.architecture() == platform.architecture())
}

/// Emulators run every variant of an architecture that they run at all, except that each is asked for by its name.
fn runs(node: &NodeSurvey, platform: &Platform) -> bool {
    node.runs.iter().flatten().any(|found| found == platform)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, architecture: &str, more: serde_json::Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture}},
            "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (key, value) in more.as_object().unwrap() {
            node[key] = value.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    fn image(platforms: serde_json::Value, status: serde_json::Value) -> MultiArchImage {
        serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "namespace": "team-a"},
            "spec": {
                "target": {"repository": "a.io/web", "tags": ["1"]}, "platforms": platforms,
                "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
            },
            "status": {"platforms": status},
        }))
        .unwrap()
    }

    fn rows(survey: &Survey) -> Vec<(String, Built, String)> {
        let rows = survey.platforms.iter();
        rows.map(|row| (row.platform.to_string(), row.built, row.nodes.join(","))).collect()
    }

    fn row(platform: &str, built: Built, nodes: &str) -> (String, Built, String) {
        (platform.to_owned(), built, nodes.to_owned())
    }

    #[test]
    fn nodes_build_their_own_platform_and_its_variants() {
        let nodes = [
            node("b", "amd64", json!({})),
            node("a", "amd64", json!({"spec": {"unschedulable": true}})),
            node("c", "arm64", json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})),
        ];
        let wanted = image(json!([{"platform": "linux/amd64/v3"}, {"platform": "linux/arm/v7"}]), json!([]));
        let survey = survey(&nodes, &[wanted], &Probes::new());
        assert_eq!(
            rows(&survey),
            [
                row("linux/amd64", Built::Native, "a,b"),
                row("linux/amd64/v3", Built::Native, "a,b"),
                row("linux/arm64", Built::Native, "c"),
                row("linux/arm/v7", Built::Unknown, ""),
            ]
        );
        assert_eq!(survey.platforms[0].ready_nodes, 1);
        assert_eq!(survey.platforms[2].message, "none of its nodes takes pods now");
        assert_eq!(survey.platforms[1].wanted_by, ["team-a/web"]);
    }

    #[test]
    fn what_earlier_builds_have_shown_is_known() {
        let nodes = [node("a", "amd64", json!({}))];
        let platforms = json!([
            {"platform": "linux/s390x", "whenNoNode": "Emulate"},
            {"platform": "linux/ppc64le", "whenNoNode": "Emulate"},
            {"platform": "linux/riscv64", "build": {"remote": {"endpoint": "tcp://riscv.test:1234"}}},
            {"platform": "linux/arm64", "image": "a.io/web:arm64"},
        ]);
        let status = json!([
            {"platform": "linux/s390x", "phase": "Ready", "emulated": true, "node": "a", "digest": "sha256:0"},
            {"platform": "linux/ppc64le", "phase": "Failed", "emulated": true, "reason": "EmulationUnavailable", "node": "a"},
        ]);
        let survey = survey(&nodes, &[image(platforms, status)], &Probes::new());
        assert_eq!(
            rows(&survey),
            [
                row("linux/amd64", Built::Native, "a"),
                row("linux/s390x", Built::Emulated, "a"),
                row("linux/riscv64", Built::Remote, ""),
                row("linux/ppc64le", Built::Lacking, ""),
            ]
        );
        assert_eq!(survey.platforms[1].message, "team-a/web was built so on a");
        assert_eq!(survey.platforms[2].remotes, ["tcp://riscv.test:1234"]);
        assert_eq!(survey.platforms[3].message, "EmulationUnavailable for team-a/web on a");
    }

    #[test]
    fn what_a_node_answers_is_what_it_runs() {
        let nodes = [node("a", "amd64", json!({})), node("b", "amd64", json!({}))];
        let answer =
            ["linux/amd64", "linux/amd64/v2", "linux/386", "linux/arm64"].map(|name| name.parse().unwrap());
        let probes =
            [("a".to_owned(), Ok(answer.to_vec())), ("b".to_owned(), Err("no room".to_owned()))].into();
        let survey = survey(&nodes, &[image(json!([{"platform": "linux/s390x"}]), json!([]))], &probes);
        assert_eq!(
            rows(&survey),
            [
                row("linux/amd64", Built::Native, "a,b"),
                row("linux/386", Built::Emulated, "a"),
                row("linux/arm64", Built::Emulated, "a"),
                row("linux/s390x", Built::Lacking, ""),
            ]
        );
        assert_eq!(survey.nodes[1].problem.as_deref(), Some("no room"));
    }

    #[test]
    fn builders_are_for_linux() {
        let labels =
            json!({"name": "w", "labels": {"kubernetes.io/os": "windows", "kubernetes.io/arch": "amd64"}});
        let survey = survey(&[node("w", "amd64", json!({"metadata": labels}))], &[], &Probes::new());
        assert_eq!(rows(&survey), [row("windows/amd64", Built::Lacking, "")]);
    }
}
