//! What a user writes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Build, MultiArchImageStatus, PlatformBuild, Resources, SecretReference, rules};

/// One image for many platforms: where each platform comes from and where the index is published.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "multiarch.dev",
    version = "v1alpha1",
    kind = "MultiArchImage",
    plural = "multiarchimages",
    shortname = "mai",
    category = "multiarch",
    namespaced,
    status = "MultiArchImageStatus",
    derive = "PartialEq",
    validation = rules::name_fits_a_label(),
    doc = "One image for many platforms: where each platform comes from and where the index is published.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Platforms", type_ = "string", json_path = ".status.readyPlatforms"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Tag", type_ = "string", json_path = ".spec.target.tags[0]", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::build_where_no_image())]
#[x_kube(validation = rules::other_systems_not_built_here())]
#[x_kube(validation = rules::epoch_of_git())]
pub struct MultiArchImageSpec {
    /// Where the index is published.
    pub target: Target,
    /// The platforms of the index, in the order in which they stand in it.
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["platform".into()]))]
    #[x_kube(validation = rules::platforms_distinct())]
    #[schemars(length(min = 1, max = 32))]
    pub platforms: Vec<PlatformSource>,
    /// How the platforms without an `image` are built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// What is checked before anything is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Secrets of type kubernetes.io/dockerconfigjson in this namespace, for every registry that is read
    /// or written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub registry_secrets: Vec<SecretReference>,
    /// How often source tags and git refs are looked up again and the published tags are checked. Each image has its
    /// own moment within the interval.
    #[serde(default = "default_interval", deserialize_with = "super::duration::deserialize")]
    #[schemars(with = "String", length(max = 32), extend("default" = "10m"))]
    #[x_kube(validation = rules::interval())]
    pub interval: Duration,
    /// While true nothing is done: running builds are stopped, what is published stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// What becomes of the published tags when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl MultiArchImageSpec {
    /// `build`, if any platform is built by it.
    pub fn build_in_use(&self) -> Option<&Build> {
        self.build.as_ref().filter(|_| self.platforms.iter().any(|entry| entry.image.is_none()))
    }

    /// The entry of a platform as the spec writes it.
    pub fn platform(&self, platform: &str) -> Option<&PlatformSource> {
        self.platforms.iter().find(|entry| entry.platform == platform)
    }
}

fn default_interval() -> Duration {
    std::time::Duration::from_secs(600).into()
}

/// What becomes of the published tags when the resource is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
    /// Those that still point at what was published are removed. Images stay, for others may use them.
    Delete,
}

/// A repository and the tags that the index gets in it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::docker_list_without_annotations())]
#[x_kube(validation = rules::mirrors_elsewhere())]
pub struct Target {
    /// Registry and repository, without tag and digest: registry.example.com/team-a/web
    #[x_kube(validation = rules::repository_without_tag())]
    #[x_kube(validation = rules::repository_form())]
    #[schemars(length(min = 1, max = 255))]
    pub repository: String,
    /// The tags that point at the index.
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    #[x_kube(validation = rules::tags_form())]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub tags: Vec<String>,
    /// Also tags every platform's image, which keeps it from a registry's garbage collection: a template with {tag}, {os},
    /// {arch} and {variant}, for example "{tag}-{os}-{arch}{-variant}". {-variant} is the variant with a dash before
    /// it, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::platform_tag_form())]
    #[schemars(length(min = 1, max = 128))]
    pub platform_tag: Option<String>,
    /// The format of the index. Unset, it is Docker's only if every image is; images are never converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<IndexFormat>,
    /// Annotations of the index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::annotation_keys_not_empty())]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// What is done about a tag that exists with other content.
    #[serde(default)]
    pub tag_policy: TagPolicy,
    /// What is done when somebody else has moved or removed a published tag.
    #[serde(default)]
    pub drift_policy: DriftPolicy,
    /// Further repositories that get the same index under the same tags, after this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["repository".into()]))]
    #[schemars(length(max = 8))]
    pub mirrors: Vec<Mirror>,
}

/// A further repository with the same index.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Registry and repository, without tag and digest.
    #[x_kube(validation = rules::repository_without_tag())]
    #[x_kube(validation = rules::repository_form())]
    #[schemars(length(min = 1, max = 255))]
    pub repository: String,
}

/// What is done when somebody else has moved or removed a published tag.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriftPolicy {
    /// It is published again.
    #[default]
    Correct,
    /// The condition Drifted says so, and an event.
    Report,
}

/// The format of an index.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFormat {
    /// An OCI image index.
    #[serde(rename = "OCI")]
    Oci,
    /// A Docker manifest list, which has Docker images only and no annotations.
    Docker,
}

/// What is done about a tag that exists with other content.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagPolicy {
    /// It is moved.
    #[default]
    Overwrite,
    /// It is never moved; nothing is published.
    IfAbsent,
}

/// One platform of the index and where it comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlatformSource {
    /// os/architecture[/variant]: linux/arm64, linux/arm/v7
    #[x_kube(validation = rules::platform_form())]
    #[x_kube(validation = rules::platform_os())]
    #[x_kube(validation = rules::platform_architecture())]
    #[x_kube(validation = rules::platform_variant())]
    #[schemars(length(min = 1, max = 32))]
    pub platform: String,
    /// An existing image, by tag or digest. Of an index the one child for the platform is taken.
    /// Without it the platform is built by spec.build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::image_form())]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// What is done while no node can build the platform. Emulate, Fail and Skip apply at once where the cluster has
    /// no node of the platform, or after `schedulingTimeout` where one is set.
    #[serde(default)]
    pub when_no_node: WhenNoNode,
    /// The index may be published without this platform, which joins it when it is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// What is different about this platform's build, merged over spec.build: maps key by key, all else as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<PlatformBuild>,
}

/// What is done while no node can build a platform.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenNoNode {
    /// It waits: clusters scale from zero. After `schedulingTimeout`, if one is set, the platform has failed.
    #[default]
    Wait,
    /// It is built on any node, whose kernel emulates the platform (QEMU, registered with binfmt_misc).
    Emulate,
    /// The platform has failed.
    Fail,
    /// The index is published without the platform, which joins it when a node has come.
    Skip,
}

/// What is checked before anything is published.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// Whether every base image of a Dockerfile offers the platform, asked before a build begins.
    #[serde(default)]
    pub base_images: Enforcement,
    /// Whether the os, architecture and variant in an image's config are those of the platform.
    #[serde(default)]
    pub platform: Enforcement,
    /// Whether the program that an image starts was made for the platform: by the header of its file, ELF or PE. What
    /// nobody can tell is no mistake.
    #[serde(default = "Enforcement::warn")]
    #[schemars(extend("default" = "Warn"))]
    pub binaries: Enforcement,
    /// A command that every platform's image must run to a good end before it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<VerifyRun>,
}

impl Default for Verify {
    fn default() -> Self {
        Verify {
            base_images: Enforcement::default(),
            platform: Enforcement::default(),
            binaries: Enforcement::warn(),
            run: None,
        }
    }
}

/// A command that is run in each platform's image, in a pod on a node of that platform. It must end with exit code 0.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRun {
    /// The program and its arguments, in place of the image's entrypoint. No shell reads it, unless it is one:
    /// ["/bin/sh", "-c", "…"]
    #[x_kube(validation = rules::command_has_program())]
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// How long it may take, from the start of its container: what the image takes to be pulled does not count.
    #[serde(default = "default_run_timeout", deserialize_with = "super::duration::deserialize")]
    #[schemars(with = "String", length(max = 32), extend("default" = "1m"))]
    #[x_kube(validation = rules::duration_positive("timeout"))]
    pub timeout: Duration,
    /// The user and group that it runs as, whatever the image says; never root.
    #[serde(default = "default_run_user")]
    #[x_kube(validation = rules::user_is_not_root())]
    #[schemars(range(max = 2_147_483_647), extend("default" = 65532))]
    pub run_as_user: i64,
    /// What its pod needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<VerifyPod>,
}

fn default_run_timeout() -> Duration {
    Duration::from(std::time::Duration::from_secs(60))
}

/// What images without a user of their own call `nonroot`.
fn default_run_user() -> i64 {
    65532
}

/// What the pod of a run needs beyond the platform, which always decides os and architecture. Node labels and
/// tolerations are added to those of the platform's build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerifyPod {
    /// Requests and limits of the container: cpu, memory, ephemeral-storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Further node labels. kubernetes.io/os and kubernetes.io/arch are set by the platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::node_selector_free_of_platform())]
    #[x_kube(validation = rules::label_form("nodeSelector"))]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = rules::tolerations_form())]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
}

/// How strict a check is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// What does not hold fails the platform.
    #[default]
    Enforce,
    /// What does not hold is said in the platform's message.
    Warn,
    /// It is not checked.
    Off,
}

impl Enforcement {
    /// What is said and stops nothing.
    fn warn() -> Self {
        Enforcement::Warn
    }
}
