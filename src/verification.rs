//! Pure: an image and `spec.verify.run` become the pod that runs it once.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, Container, LocalObjectReference, NodeAffinity, Pod, PodOS, PodSecurityContext, PodSpec, Probe,
    TCPSocketAction, Toleration, WindowsSecurityContextOptions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use crate::api::{
    BuildPod, LABEL_IMAGE, LABEL_PLATFORM, LABEL_VERIFICATION, LocalObjectReferenceRequired, MANAGER,
    VerifyRun,
};
use crate::build::{NAME_LIMIT, hexadecimal, pod};
use crate::platform::Platform;

/// Name of the pod's only container.
pub const CONTAINER: &str = "verify";
/// What the container asks for where the user says nothing.
const MODEST_REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];
/// How much longer than its timeout a container lives, in seconds: with it, times that Kubernetes writes in whole
/// seconds tell whether the container ended by itself or was killed.
const TIMEOUT_SLACK: u64 = 1;
/// Added to the timeout for the pod as a whole: scheduling is not in it, pulling the image is, in seconds.
const PULL_ALLOWANCE: u64 = 1800;
/// Nothing in the pod is worth waiting for once it is obsolete, in seconds.
const TERMINATION_GRACE: i64 = 2;
/// A port that nothing answers on.
const SILENT_PORT: i32 = 1;
/// The user of Windows images that is no administrator.
const WINDOWS_USER: &str = "ContainerUser";

/// Everything that decides one run.
#[derive(Clone, Debug)]
pub struct RunRequest<'a> {
    /// Namespace of the `MultiArchImage`.
    pub namespace: &'a str,
    /// Name of the `MultiArchImage`.
    pub image_name: &'a str,
    /// UID of the `MultiArchImage`: a namesake that comes later shares nothing with it.
    pub image_uid: &'a str,
    /// The platform that the image is for.
    pub platform: &'a Platform,
    /// Where the image is.
    pub repository: &'a str,
    /// The digest of its manifest.
    pub digest: &'a str,
    /// What is run.
    pub run: &'a VerifyRun,
    /// What the platform's build needs of its nodes, if it is built in the cluster.
    pub build_pod: Option<&'a BuildPod>,
    /// Whether a node of another architecture may emulate the platform.
    pub emulated: bool,
    /// `spec.registrySecrets`.
    pub registry_secrets: &'a [LocalObjectReferenceRequired],
    /// The latest request to check now, which gives what has failed another attempt.
    pub reconcile: Option<&'a str>,
}

impl RunRequest<'_> {
    /// Stands for what is run: the image, the command and the user. What has passed passes again.
    pub fn hash(&self) -> String {
        let user = self.run.run_as_user.to_string();
        let parts = [self.image_uid, self.digest, &self.platform.to_string(), &user];
        let mut hash = Sha256::new();
        for part in parts.into_iter().chain(self.run.command.iter().map(String::as_str)) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hexadecimal(&hash.finalize())[..16].to_owned()
    }

    /// What is run, and behind a dot how: for how long, with what and with whose credentials. Nodes that come and go change
    /// nothing about it.
    pub fn fingerprint(&self) -> String {
        let how = (
            (self.run.timeout, &self.run.pod, self.registry_secrets),
            self.build_pod.map(|pod| (&pod.node_selector, &pod.tolerations)),
        );
        // Serialising what came from JSON cannot fail.
        let how = serde_json::to_vec(&how).unwrap_or_default();
        format!("{}.{}", self.hash(), &hexadecimal(&Sha256::digest(&how))[..8])
    }

    /// The fingerprint, and behind another dot the request to check now: it gives what has failed another attempt, and
    /// leaves alone what runs.
    pub fn attempt(&self) -> String {
        let request = hexadecimal(&Sha256::digest(self.reconcile.unwrap_or_default()));
        format!("{}.{}", self.fingerprint(), &request[..8])
    }

    /// `<name>-verify-<os>-<arch>[-variant]-<8 hex of the attempt and of whether it is emulated>`, at most 63 characters.
    pub fn pod_name(&self) -> String {
        let attempt = hexadecimal(&Sha256::digest(format!("{} {}", self.attempt(), self.emulated)));
        let suffix = format!("-verify-{}-{}", self.platform.slug(), &attempt[..8]);
        let room = NAME_LIMIT.saturating_sub(suffix.len());
        let stem: String = self.image_name.replace('.', "-").chars().take(room).collect();
        format!("{}{suffix}", stem.trim_end_matches('-'))
    }

    /// How long the command may take, in whole seconds, at least one.
    pub fn timeout(&self) -> u64 {
        let timeout = Duration::from(self.run.timeout);
        (timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)).max(1)
    }

    /// The command in words.
    pub fn command(&self) -> String {
        self.run.command.join(" ")
    }

    /// The pod, which Pod Security's restricted level admits.
    pub fn pod(&self, owner: OwnerReference) -> Pod {
        let labels = BTreeMap::from([
            ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned()),
            (LABEL_IMAGE.to_owned(), self.image_name.to_owned()),
            (LABEL_PLATFORM.to_owned(), self.platform.slug()),
            (LABEL_VERIFICATION.to_owned(), self.attempt()),
        ]);
        Pod {
            metadata: ObjectMeta {
                name: Some(self.pod_name()),
                namespace: Some(self.namespace.to_owned()),
                labels: Some(labels),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
            status: None,
        }
    }

    fn spec(&self) -> PodSpec {
        let secret =
            |secret: &LocalObjectReferenceRequired| LocalObjectReference { name: secret.name.clone() };
        let tolerations = self.tolerations();
        let deadline = self.timeout().saturating_add(PULL_ALLOWANCE);
        PodSpec {
            active_deadline_seconds: Some(i64::try_from(deadline).unwrap_or(i64::MAX)),
            affinity: self.emulated.then(|| prefer_native(self.platform)),
            automount_service_account_token: Some(false),
            containers: vec![self.container()],
            enable_service_links: Some(false),
            image_pull_secrets: (!self.registry_secrets.is_empty())
                .then(|| self.registry_secrets.iter().map(secret).collect()),
            node_selector: Some(self.node_selector()),
            os: self.is_windows().then(|| PodOS { name: "windows".to_owned() }),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(self.security()),
            termination_grace_period_seconds: Some(TERMINATION_GRACE),
            tolerations: (!tolerations.is_empty()).then_some(tolerations),
            ..PodSpec::default()
        }
    }

    fn container(&self) -> Container {
        let resources = self.run.pod.as_ref().and_then(|pod| pod.resources.as_ref());
        Container {
            name: CONTAINER.to_owned(),
            image: Some(format!("{}@{}", self.repository, self.digest)),
            command: Some(self.run.command.iter().map(|word| pod::literal(word)).collect()),
            resources: Some(pod::resources(resources, &MODEST_REQUESTS)),
            security_context: (!self.is_windows()).then(pod::unprivileged),
            startup_probe: Some(self.deadline()),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }
    }

    /// A pod's own deadline counts from before its image is pulled. A probe counts from the container's start, and the
    /// kubelet kills what fails it, whether or not the operator lives: this one is bound to fail once the time is over.
    fn deadline(&self) -> Probe {
        let delay = self.timeout().saturating_add(TIMEOUT_SLACK);
        Probe {
            initial_delay_seconds: Some(i32::try_from(delay).unwrap_or(i32::MAX)),
            period_seconds: Some(1),
            failure_threshold: Some(1),
            tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(SILENT_PORT), host: None }),
            ..Probe::default()
        }
    }

    /// Of the platform, unless it may be emulated.
    fn node_selector(&self) -> BTreeMap<String, String> {
        let mut selector = self.build_pod.map(|pod| pod.node_selector.clone()).unwrap_or_default();
        selector.extend(self.run.pod.iter().flat_map(|pod| pod.node_selector.clone()));
        let [os, architecture] = self.platform.node_selector().map(|(key, value)| (key.to_owned(), value));
        selector.extend([os]);
        selector.extend((!self.emulated).then_some(architecture));
        selector
    }

    fn tolerations(&self) -> Vec<Toleration> {
        let of_build = self.build_pod.iter().flat_map(|pod| pod.tolerations.clone());
        of_build.chain(self.run.pod.iter().flat_map(|pod| pod.tolerations.clone())).collect()
    }

    fn security(&self) -> PodSecurityContext {
        let user = self.run.run_as_user;
        if self.is_windows() {
            return PodSecurityContext {
                run_as_non_root: Some(true),
                windows_options: Some(WindowsSecurityContextOptions {
                    run_as_user_name: Some(WINDOWS_USER.to_owned()),
                    ..WindowsSecurityContextOptions::default()
                }),
                ..PodSecurityContext::default()
            };
        }
        PodSecurityContext {
            run_as_group: Some(user),
            run_as_non_root: Some(true),
            run_as_user: Some(user),
            ..PodSecurityContext::default()
        }
    }

    fn is_windows(&self) -> bool {
        self.platform.os() == "windows"
    }
}

/// Whether a pod was made for any node, to emulate the platform.
pub fn is_emulated(pod: &Pod) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    selector.is_some_and(|selector| !selector.contains_key(pod::ARCHITECTURE))
}

/// Whether a container that lived this long, by times in whole seconds, was killed because its time was over.
pub fn is_overdue(lived: Duration, timeout: u64) -> bool {
    lived.as_secs() > timeout
}

fn prefer_native(platform: &Platform) -> Affinity {
    let native = pod::prefer_architectures(&pod::running_natively(platform.architecture()));
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![native]),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}
