//! The pod of a build: where it runs, as whom, and with which containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, AppArmorProfile, Capabilities, Container, EnvVar, NodeAffinity, NodeSelectorRequirement,
    NodeSelectorTerm, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PreferredSchedulingTerm,
    ResourceRequirements, SeccompProfile, SecurityContext, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::inputs::{self, Inputs};
use super::{BuildRequest, BuilderSettings, Profile};
use crate::api::{Amount, BuildPod, LABEL_IMAGE, Resources};

/// uid and gid of the rootless builder's user.
const BUILDER_USER: i64 = 1000;
/// Added to the build's timeout for the pod as a whole: pulling the builder's image, fetching the context and starting
/// the builder, in seconds.
const POD_START_ALLOWANCE: i64 = 1800;
/// Nothing in the pod is worth waiting for once it is obsolete, in seconds.
const TERMINATION_GRACE: i64 = 2;
/// What a build's container asks for where the user says nothing.
const MODEST_REQUESTS: [(&str, &str); 3] =
    [("cpu", "250m"), ("memory", "256Mi"), ("ephemeral-storage", "1Gi")];
pub(crate) const ARCHITECTURE: &str = "kubernetes.io/arch";
/// The container that builds.
pub const BUILD_CONTAINER: &str = "build";
pub(super) const BUILD_SCRIPT: &str = concat!(
    include_str!("common.sh"),
    include_str!("redact.sh"),
    include_str!("builder.sh"),
    include_str!("build.sh")
);
/// The container that fetches a git repository before.
pub const CONTEXT_CONTAINER: &str = "context";
pub(super) const CONTEXT_SCRIPT: &str =
    concat!(include_str!("common.sh"), include_str!("redact.sh"), include_str!("context.sh"));
const PROBE: &str = "probe";
const PROBE_SCRIPT: &str =
    concat!(include_str!("common.sh"), include_str!("builder.sh"), include_str!("probe.sh"));
/// How long a node may take to answer, its pull of the builder's image included, in seconds.
const PROBE_DEADLINE: i64 = 300;

/// Who builds in the pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Builder {
    /// A daemon without privileges.
    Rootless,
    /// A daemon that is root in the pod; whether in a user namespace of the kubelet's.
    Root { in_user_namespace: bool },
    /// A daemon somewhere else.
    Remote,
}

impl Builder {
    fn of(request: &BuildRequest<'_>, settings: &BuilderSettings) -> Self {
        if request.build.remote.is_some() {
            return Builder::Remote;
        }
        Self::of_profile(settings.profile(request.namespace))
    }

    fn of_profile(profile: Profile) -> Self {
        match profile {
            Profile::Rootless => Builder::Rootless,
            Profile::UserNamespace => Builder::Root { in_user_namespace: true },
            Profile::Privileged => Builder::Root { in_user_namespace: false },
        }
    }

    fn is_root(self) -> bool {
        matches!(self, Builder::Root { .. })
    }
}

pub(super) fn spec(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    credentials: Option<&str>,
) -> PodSpec {
    let builder = Builder::of(request, settings);
    let pod = request.build.pod.clone().unwrap_or_default();
    let build = inputs::of_build(request, settings, credentials, builder);
    let context = inputs::of_context(request, settings);
    let volumes = inputs::volumes(&build, context.as_ref());
    let timeout = i64::try_from(request.timeout().as_secs()).unwrap_or(i64::MAX - POD_START_ALLOWANCE);
    PodSpec {
        active_deadline_seconds: Some(timeout.saturating_add(POD_START_ALLOWANCE)),
        affinity: Some(affinity(request, pod.affinity.clone().unwrap_or_default())),
        automount_service_account_token: Some(false),
        containers: vec![build_container(build, settings, &pod, builder)],
        enable_service_links: Some(false),
        host_users: (builder == Builder::Root { in_user_namespace: true }).then_some(false),
        init_containers: context.map(|context| vec![context_container(context, settings, &pod)]),
        node_selector: Some(node_selector(request, &pod)),
        priority_class_name: pod.priority_class_name,
        restart_policy: Some("Never".to_owned()),
        runtime_class_name: pod.runtime_class_name,
        security_context: Some(pod_security(builder)),
        termination_grace_period_seconds: Some(TERMINATION_GRACE),
        tolerations: (!pod.tolerations.is_empty()).then_some(pod.tolerations),
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// A pod that asks a node which platforms' programs it runs, as a builder there finds out. It runs whatever keeps other
/// pods away.
pub(super) fn probe(settings: &BuilderSettings, namespace: &str, node: &str) -> PodSpec {
    let builder = Builder::of_profile(settings.profile(namespace));
    let inputs = inputs::of_probe(builder);
    let everything = Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() };
    PodSpec {
        active_deadline_seconds: Some(PROBE_DEADLINE),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_users: (builder == Builder::Root { in_user_namespace: true }).then_some(false),
        node_name: Some(node.to_owned()),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(builder)),
        termination_grace_period_seconds: Some(TERMINATION_GRACE),
        tolerations: Some(vec![everything]),
        volumes: Some(inputs::volumes(&inputs, None)),
        containers: vec![Container {
            security_context: Some(builder_security(builder)),
            ..container(PROBE, PROBE_SCRIPT, inputs, settings, &BuildPod::default())
        }],
        ..PodSpec::default()
    }
}

/// A node of the platform, unless another one emulates it or a daemon elsewhere builds. The pod's own programs are
/// for Linux.
fn node_selector(request: &BuildRequest<'_>, pod: &BuildPod) -> BTreeMap<String, String> {
    let mut selector = pod.node_selector.clone();
    let platform = request.platform.node_selector().map(|(key, value)| (key.to_owned(), value));
    match request.build.remote.is_some() {
        true => selector.extend([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        false => {
            selector.extend(platform.into_iter().filter(|(key, _)| !request.emulated || key != ARCHITECTURE));
        }
    }
    selector
}

/// The user's rules and two wishes of ours: nodes that need no emulator, and not two builds of one image on one node.
fn affinity(request: &BuildRequest<'_>, mut affinity: Affinity) -> Affinity {
    if request.emulated {
        let nodes = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
        nodes
            .preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .push(prefer_architectures(&running_natively(request.platform.architecture())));
    }
    affinity.pod_anti_affinity.get_or_insert_with(|| PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![apart(request.image_name)]),
        ..PodAntiAffinity::default()
    });
    affinity
}

/// The architectures whose processors run programs of this one.
pub(crate) fn running_natively(architecture: &str) -> Vec<String> {
    let sibling = match architecture {
        "arm" => Some("arm64"),
        "386" => Some("amd64"),
        _ => None,
    };
    [architecture].into_iter().chain(sibling).map(str::to_owned).collect()
}

pub(crate) fn prefer_architectures(architectures: &[String]) -> PreferredSchedulingTerm {
    PreferredSchedulingTerm {
        weight: 100,
        preference: NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: ARCHITECTURE.to_owned(),
                operator: "In".to_owned(),
                values: Some(architectures.to_vec()),
            }]),
            ..NodeSelectorTerm::default()
        },
    }
}

fn apart(image: &str) -> WeightedPodAffinityTerm {
    WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some([(LABEL_IMAGE.to_owned(), image.to_owned())].into()),
                ..LabelSelector::default()
            }),
            topology_key: "kubernetes.io/hostname".to_owned(),
            ..PodAffinityTerm::default()
        },
    }
}

fn pod_security(builder: Builder) -> PodSecurityContext {
    let user = if builder.is_root() { 0 } else { BUILDER_USER };
    PodSecurityContext {
        run_as_group: Some(user),
        run_as_user: Some(user),
        run_as_non_root: (!builder.is_root()).then_some(true),
        fs_group: (!builder.is_root()).then_some(BUILDER_USER),
        // A cache has files of many owners, and giving them all to one group would change the images made of it.
        fs_group_change_policy: (!builder.is_root()).then(|| "OnRootMismatch".to_owned()),
        ..PodSecurityContext::default()
    }
}

fn build_container(
    inputs: Inputs,
    settings: &BuilderSettings,
    pod: &BuildPod,
    builder: Builder,
) -> Container {
    Container {
        security_context: Some(builder_security(builder)),
        ..container(BUILD_CONTAINER, BUILD_SCRIPT, inputs, settings, pod)
    }
}

fn builder_security(builder: Builder) -> SecurityContext {
    match builder {
        Builder::Rootless => rootless(),
        Builder::Root { .. } => SecurityContext { privileged: Some(true), ..SecurityContext::default() },
        Builder::Remote => unprivileged(),
    }
}

fn context_container(inputs: Inputs, settings: &BuilderSettings, pod: &BuildPod) -> Container {
    Container {
        security_context: Some(unprivileged()),
        ..container(CONTEXT_CONTAINER, CONTEXT_SCRIPT, inputs, settings, pod)
    }
}

fn container(
    name: &str,
    script: &str,
    inputs: Inputs,
    settings: &BuilderSettings,
    pod: &BuildPod,
) -> Container {
    let variable = |(name, value): (&str, String)| EnvVar {
        name: name.to_owned(),
        value: Some(literal(&value)),
        value_from: None,
    };
    Container {
        name: name.to_owned(),
        image: Some(settings.image.clone()),
        command: Some(["sh", "-c", &literal(script), name].map(str::to_owned).to_vec()),
        args: Some(inputs.arguments.iter().map(|argument| literal(argument)).collect()),
        env: Some(inputs.environment.into_iter().map(variable).collect()),
        resources: Some(resources(pod.resources.as_ref(), &MODEST_REQUESTS)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(inputs.mounts),
        ..Container::default()
    }
}

/// Rootless BuildKit makes user and mount namespaces of its own, which both profiles forbid, and maps users by
/// programs with file capabilities, which need escalation.
fn rootless() -> SecurityContext {
    let unconfined = "Unconfined".to_owned();
    SecurityContext {
        allow_privilege_escalation: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: unconfined.clone(), ..SeccompProfile::default() }),
        app_armor_profile: Some(AppArmorProfile { type_: unconfined, ..AppArmorProfile::default() }),
        ..SecurityContext::default()
    }
}

/// As the restricted level of Pod Security wants it.
pub(crate) fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}

/// Kubernetes expands `$(NAME)` in commands, arguments and variables; `$$` stands for a plain `$`.
pub(crate) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// The user's requests and limits over modest defaults, so that a node is never filled by builds unseen.
pub(crate) fn resources(given: Option<&Resources>, modest: &[(&str, &str)]) -> ResourceRequirements {
    let quantity = |(name, amount): &(&str, &str)| ((*name).to_owned(), Quantity((*amount).to_owned()));
    let mut requests: BTreeMap<String, Quantity> = modest.iter().map(quantity).collect();
    let given = given.cloned().unwrap_or_default();
    let limits = quantities(given.limits);
    for (name, limit) in &limits {
        // A limit below our default request would make the pod invalid; Kubernetes' own rule is request = limit.
        requests.insert(name.clone(), limit.clone());
    }
    requests.extend(quantities(given.requests));
    ResourceRequirements {
        requests: Some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        ..ResourceRequirements::default()
    }
}

fn quantities(given: BTreeMap<String, Amount>) -> BTreeMap<String, Quantity> {
    let quantity = |value| match value {
        Amount::Number(number) => Quantity(number.to_string()),
        Amount::Text(text) => Quantity(text),
    };
    given.into_iter().map(|(name, value)| (name, quantity(value))).collect()
}
