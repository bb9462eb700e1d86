//! The Job of one platform's build.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, KeyToPath,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{BuildRequest, BuilderSettings, ExitCause, PinnedContext};
use crate::api::{ANNOTATION_BUILD_HASH, Amount, BuildPod, LABEL_IMAGE, LABEL_PLATFORM, MANAGER};

/// uid and gid of the rootless builder's user.
const BUILDER_USER: i64 = 1000;
/// Added to `spec.build.timeout` for the pod as a whole: pulling the builder's image and starting it, in seconds.
const POD_START_ALLOWANCE: i64 = 1800;
/// Nothing in the pod is worth waiting for once it is obsolete, in seconds.
const TERMINATION_GRACE: i64 = 2;
const CONTAINER: &str = "build";
const SCRIPT: &str = include_str!("build.sh");
const DOCKER_CONFIG: &str = "/registry";

/// The Job that builds the request. `credentials` is the Secret of type kubernetes.io/dockerconfigjson with
/// what the build may pull and push with.
pub fn job(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    credentials: Option<&str>,
    owner: OwnerReference,
) -> Job {
    let labels = labels(request);
    Job {
        metadata: ObjectMeta {
            name: Some(request.job_name()),
            namespace: Some(request.namespace.to_owned()),
            labels: Some(labels.clone()),
            annotations: Some([(ANNOTATION_BUILD_HASH.to_owned(), request.hash())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(request.build.retries),
            completions: Some(1),
            parallelism: Some(1),
            pod_failure_policy: Some(pod_failure_policy()),
            pod_replacement_policy: Some("Failed".to_owned()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod_spec(request, settings, credentials)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn labels(request: &BuildRequest<'_>) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned()),
        (LABEL_IMAGE.to_owned(), request.image_name.to_owned()),
        (LABEL_PLATFORM.to_owned(), request.platform.slug()),
    ])
}

/// A drained or vanished node is nobody's failure; what a retry does not cure is not retried (KEP-3329).
fn pod_failure_policy() -> PodFailurePolicy {
    let lasting = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(CONTAINER.to_owned()),
            operator: "In".to_owned(),
            values: ExitCause::LASTING.map(|cause| cause as i32).to_vec(),
        }),
        on_pod_conditions: None,
    };
    let disruption = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
        }]),
    };
    PodFailurePolicy { rules: vec![disruption, lasting] }
}

fn pod_spec(request: &BuildRequest<'_>, settings: &BuilderSettings, credentials: Option<&str>) -> PodSpec {
    let pod = request.build.pod.clone().unwrap_or_default();
    let mut node_selector = pod.node_selector.clone();
    node_selector
        .extend(request.platform.node_selector().into_iter().map(|(key, value)| (key.to_owned(), value)));
    let timeout = i64::try_from(timeout_seconds(request)).unwrap_or(i64::MAX - POD_START_ALLOWANCE);
    PodSpec {
        active_deadline_seconds: Some(timeout.saturating_add(POD_START_ALLOWANCE)),
        automount_service_account_token: Some(false),
        containers: vec![container(request, settings, &pod, credentials)],
        enable_service_links: Some(false),
        node_selector: Some(node_selector),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(PodSecurityContext {
            fs_group: Some(BUILDER_USER),
            run_as_group: Some(BUILDER_USER),
            run_as_user: Some(BUILDER_USER),
            run_as_non_root: Some(true),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(TERMINATION_GRACE),
        tolerations: (!pod.tolerations.is_empty()).then_some(pod.tolerations),
        volumes: Some(volumes(request, credentials)),
        ..PodSpec::default()
    }
}

fn container(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    pod: &BuildPod,
    credentials: Option<&str>,
) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        command: Some(["sh", "-c", &literal(SCRIPT), CONTAINER].map(str::to_owned).to_vec()),
        args: Some(buildctl_arguments(request).iter().map(|argument| literal(argument)).collect()),
        env: Some(environment(request, settings, credentials)),
        resources: Some(resources(pod)),
        security_context: Some(SecurityContext {
            // Rootless BuildKit makes user and mount namespaces of its own, which both profiles forbid.
            seccomp_profile: Some(SeccompProfile {
                type_: "Unconfined".to_owned(),
                ..SeccompProfile::default()
            }),
            app_armor_profile: Some(AppArmorProfile {
                type_: "Unconfined".to_owned(),
                ..AppArmorProfile::default()
            }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volume_mounts(request, credentials)),
        ..Container::default()
    }
}

/// What `buildctl build` is called with.
fn buildctl_arguments(request: &BuildRequest<'_>) -> Vec<String> {
    let build = request.build;
    let mut arguments = vec!["--frontend=dockerfile.v0".to_owned()];
    let mut option = |key: &str, value: &str| arguments.push(format!("--opt={key}={value}"));
    option("platform", &request.platform.to_string());
    let filename = match request.context {
        PinnedContext::Inline { .. } => "Dockerfile",
        _ => &build.dockerfile,
    };
    option("filename", filename);
    if let PinnedContext::Git { url, commit, sub_path } = request.context {
        let sub_path = sub_path.as_ref().map(|path| format!(":{path}")).unwrap_or_default();
        option("context", &format!("{}#{commit}{sub_path}", git_address(url)));
    }
    if let Some(target) = &build.target {
        option("target", target);
    }
    for (name, value) in &build.args {
        option(&format!("build-arg:{name}"), &value.0);
    }
    arguments.push(format!(
        "--output=type=image,name={},push=true,push-by-digest=true,oci-mediatypes=true",
        request.repository
    ));
    arguments
}

/// BuildKit takes an http(s) address for git only when it ends in `.git`.
fn git_address(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with(".git") { url.to_owned() } else { format!("{url}.git") }
}

fn environment(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    credentials: Option<&str>,
) -> Vec<EnvVar> {
    let kind = match request.context {
        PinnedContext::Git { .. } => "git",
        PinnedContext::ConfigMap { .. } => "configmap",
        PinnedContext::Inline { .. } => "inline",
    };
    let mut environment = vec![
        ("BUILD_TIMEOUT", timeout_seconds(request).to_string()),
        ("BUILDKITD_CONFIG", buildkitd_config(settings)),
        ("CONTEXT_KIND", kind.to_owned()),
        ("HOME", "/home/user".to_owned()),
        ("USER", "user".to_owned()),
        ("XDG_RUNTIME_DIR", "/run/user/1000".to_owned()),
    ];
    match request.context {
        PinnedContext::Git { .. } => {}
        PinnedContext::ConfigMap { files, .. } => {
            let sums = files.iter().map(|(file, sum)| format!("{sum}  {file}\n")).collect();
            environment.push(("CONTEXT_FILES", sums));
        }
        PinnedContext::Inline { dockerfile } => environment.push(("INLINE_DOCKERFILE", dockerfile.clone())),
    }
    if credentials.is_some() {
        environment.push(("DOCKER_CONFIG", DOCKER_CONFIG.to_owned()));
    }
    environment
        .into_iter()
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(literal(&value)), value_from: None })
        .collect()
}

/// buildkitd.toml: the registries that speak plain HTTP.
fn buildkitd_config(settings: &BuilderSettings) -> String {
    settings.plain_http.iter().map(|host| format!("[registry.\"{host}\"]\n  http = true\n")).collect()
}

/// Kubernetes expands `$(NAME)` in commands, arguments and variables; `$$` stands for a plain `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn timeout_seconds(request: &BuildRequest<'_>) -> u64 {
    std::time::Duration::from(request.build.timeout).as_secs().max(1)
}

/// The user's requests and limits over modest defaults, so that a node is never filled by builds unseen.
fn resources(pod: &BuildPod) -> ResourceRequirements {
    let mut requests = BTreeMap::from([
        ("cpu".to_owned(), Quantity("250m".to_owned())),
        ("memory".to_owned(), Quantity("256Mi".to_owned())),
        ("ephemeral-storage".to_owned(), Quantity("1Gi".to_owned())),
    ]);
    let given = pod.resources.clone().unwrap_or_default();
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

fn volumes(request: &BuildRequest<'_>, credentials: Option<&str>) -> Vec<Volume> {
    let mut volumes = vec![Volume {
        name: "state".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }];
    if let PinnedContext::ConfigMap { name, .. } = request.context {
        volumes.push(Volume {
            name: "context".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: name.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if let Some(secret) = credentials {
        volumes.push(Volume {
            name: "registry".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                items: Some(vec![KeyToPath {
                    key: ".dockerconfigjson".to_owned(),
                    path: "config.json".to_owned(),
                    mode: None,
                }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn volume_mounts(request: &BuildRequest<'_>, credentials: Option<&str>) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("state", "/home/user/.local/share/buildkit", false)];
    if matches!(request.context, PinnedContext::ConfigMap { .. }) {
        mounts.push(mount("context", "/context", true));
    }
    if credentials.is_some() {
        mounts.push(mount("registry", DOCKER_CONFIG, true));
    }
    mounts
}
