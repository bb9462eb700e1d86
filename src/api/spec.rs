//! What a user writes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{MultiArchImageStatus, rules};

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
    /// Secrets of type kubernetes.io/dockerconfigjson in this namespace, for every registry that is read
    /// or written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub registry_secrets: Vec<SecretReference>,
    /// While true nothing is done: running builds are stopped, what is published stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// A repository and the tags that the index gets in it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::docker_list_without_annotations())]
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
    /// The format of the index. Unset, it is Docker's only if every image is; images are never converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<IndexFormat>,
    /// Annotations of the index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// What is done about a tag that exists with other content.
    #[serde(default)]
    pub tag_policy: TagPolicy,
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
    #[schemars(length(min = 1, max = 32))]
    pub platform: String,
    /// An existing image, by tag or digest. Of an index the one child for the platform is taken.
    /// Without it the platform is built by spec.build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::image_form())]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

/// How an image is built, once per platform, by a Job on a node of that platform.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// Where the files come from: exactly one of its fields.
    #[x_kube(validation = rules::exactly_one_context())]
    pub context: BuildContext,
    /// Path of the Dockerfile within the context.
    #[serde(default = "default_dockerfile")]
    #[x_kube(validation = rules::relative_path("dockerfile"))]
    #[schemars(length(min = 1, max = 512))]
    pub dockerfile: String,
    /// The stage to build; the last one when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub target: Option<String>,
    /// Build arguments, as by --build-arg.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::argument_names())]
    #[schemars(extend("maxProperties" = 64))]
    pub args: BTreeMap<String, BuildArgument>,
    /// How long the build itself may take, from its container's start.
    #[serde(default = "default_timeout")]
    #[schemars(with = "String", length(max = 32), extend("default" = "1h"))]
    #[x_kube(validation = rules::duration_positive("timeout"))]
    pub timeout: Duration,
    /// How often a build that failed for a passing cause is tried again.
    #[serde(default = "default_retries")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: i32,
    /// What the build's pod needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BuildPod>,
}

fn default_dockerfile() -> String {
    "Dockerfile".to_owned()
}

fn default_timeout() -> Duration {
    Duration::from(std::time::Duration::from_secs(3600))
}

fn default_retries() -> i32 {
    2
}

/// The value of a build argument.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct BuildArgument(#[schemars(length(max = 4096))] pub String);

/// Where a build's files come from: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildContext {
    /// A git repository over http or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitContext>,
    /// A ConfigMap of this namespace; each key is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalObjectReferenceRequired>,
    /// A Dockerfile without any other file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineContext>,
}

/// A git repository. A ref is resolved to a commit once, and every platform builds that commit.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitContext {
    /// http:// or https:// address of the repository, without credentials.
    #[x_kube(validation = rules::git_url_scheme())]
    #[x_kube(validation = rules::git_url_without_credentials())]
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Branch, tag or full ref name; the remote's HEAD when neither this nor `commit` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::git_ref_form())]
    #[schemars(length(min = 1, max = 255))]
    pub r#ref: Option<String>,
    /// The full commit to build, 40 or 64 hexadecimal digits. Wins over `ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::git_commit_form())]
    #[schemars(length(max = 64))]
    pub commit: Option<String>,
    /// The folder of the repository that is the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::relative_path("subPath"))]
    #[x_kube(validation = rules::sub_path_form())]
    #[schemars(length(min = 1, max = 512))]
    pub sub_path: Option<String>,
}

/// A build context that is a single Dockerfile.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InlineContext {
    /// The text of the Dockerfile, at most 64 KiB.
    #[schemars(length(min = 1, max = 65536))]
    pub dockerfile: String,
}

/// The name of an object of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReferenceRequired {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The name of a Secret of the same namespace.
pub type SecretReference = LocalObjectReferenceRequired;

/// What the build's pod needs beyond the platform, which always decides os and architecture.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildPod {
    /// Requests and limits of the builder's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Further node labels. kubernetes.io/os and kubernetes.io/arch are set by the platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::node_selector_free_of_platform())]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
}

/// Compute resources by name: cpu, memory, ephemeral-storage.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Amount>,
    /// What the container may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Amount>,
}

/// An amount of a resource, as a number or as Kubernetes writes it: 2, 500m, 4Gi.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub enum Amount {
    /// 64 bits: an amount of memory in bytes, which Kubernetes' own IntOrString cannot hold.
    Number(i64),
    /// A number with a unit.
    Text(String),
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An amount of a resource, as a number or as Kubernetes writes it: 2, 500m, 4Gi.",
            "x-kubernetes-int-or-string": true,
        })
    }
}
