//! How a platform without an image is built.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BuildContext, BuildPod, rules};

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
    #[x_kube(validation = rules::stage_name())]
    #[schemars(length(min = 1, max = 128))]
    pub target: Option<String>,
    /// Build arguments, as by --build-arg. SOURCE_DATE_EPOCH makes the build reproducible: seconds, or `context` for
    /// the time of the git commit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::argument_names())]
    #[x_kube(validation = rules::epoch_form())]
    #[schemars(extend("maxProperties" = 64))]
    pub args: BTreeMap<String, BuildArgument>,
    /// Further contexts by name, as by --build-context: docker-image://…, a git repository at a full commit
    /// (https://….git#<commit>), or the address of a file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::named_contexts())]
    #[schemars(extend("maxProperties" = 16))]
    pub contexts: BTreeMap<String, NamedContext>,
    /// Secrets for `RUN --mount=type=secret`. They never stand in a layer, an argument or a log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["id".into()]))]
    #[schemars(length(max = 16))]
    pub secrets: Vec<BuildSecret>,
    /// A key for `RUN --mount=type=ssh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<BuildSsh>,
    /// Labels of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::image_label_keys())]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the platform's manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::annotation_keys())]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Statements about the build, which the index carries along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestations: Option<Attestations>,
    /// What a build keeps for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// A BuildKit daemon outside the cluster that builds instead of one in the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteBuilder>,
    /// How long the build itself may take, from its container's start.
    #[serde(default = "default_timeout", deserialize_with = "super::duration::deserialize")]
    #[schemars(with = "String", length(max = 32), extend("default" = "1h"))]
    #[x_kube(validation = rules::duration_positive("timeout"))]
    pub timeout: Duration,
    /// The same for an emulated build; three times `timeout` when unset.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::duration::optional"
    )]
    #[schemars(with = "Option<String>", length(max = 32))]
    #[x_kube(validation = rules::duration_positive("emulatedTimeout"))]
    pub emulated_timeout: Option<Duration>,
    /// How long to wait for a node before `whenNoNode` applies. Unset, a platform without any node does not wait
    /// (unless `whenNoNode` is Wait), and one whose nodes are taken waits.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::duration::optional"
    )]
    #[schemars(with = "Option<String>", length(max = 32))]
    #[x_kube(validation = rules::duration_positive("schedulingTimeout"))]
    pub scheduling_timeout: Option<Duration>,
    /// How often a build that failed for a passing cause is tried again.
    #[serde(default = "default_retries")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: i32,
    /// What the build's pod needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BuildPod>,
    /// How long a finished Job stays for whoever wants to look at it, and in any case until its result is recorded.
    #[serde(default = "default_ttl", deserialize_with = "super::duration::deserialize")]
    #[schemars(with = "String", length(max = 32), extend("default" = "1h"))]
    #[x_kube(validation = rules::duration("ttlAfterFinished"))]
    pub ttl_after_finished: Duration,
}

/// What is different about one platform's build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlatformBuild {
    /// Path of the Dockerfile within the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::relative_path("dockerfile"))]
    #[schemars(length(min = 1, max = 512))]
    pub dockerfile: Option<String>,
    /// The stage to build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::stage_name())]
    #[schemars(length(min = 1, max = 128))]
    pub target: Option<String>,
    /// Build arguments, added to those of spec.build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::argument_names())]
    #[x_kube(validation = rules::epoch_form())]
    #[schemars(extend("maxProperties" = 64))]
    pub args: BTreeMap<String, BuildArgument>,
    /// Further contexts, added to those of spec.build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = rules::named_contexts())]
    #[schemars(extend("maxProperties" = 16))]
    pub contexts: BTreeMap<String, NamedContext>,
    /// What this platform's build keeps for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// A BuildKit daemon outside the cluster, for a platform that the cluster has no nodes for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteBuilder>,
    /// How long the build itself may take.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::duration::optional"
    )]
    #[schemars(with = "Option<String>", length(max = 32))]
    #[x_kube(validation = rules::duration_positive("timeout"))]
    pub timeout: Option<Duration>,
    /// How long to wait for a node before `whenNoNode` applies.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::duration::optional"
    )]
    #[schemars(with = "Option<String>", length(max = 32))]
    #[x_kube(validation = rules::duration_positive("schedulingTimeout"))]
    pub scheduling_timeout: Option<Duration>,
    /// What the build's pod needs: maps are merged key by key, all else as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BuildPod>,
}

fn default_dockerfile() -> String {
    "Dockerfile".to_owned()
}

fn default_timeout() -> Duration {
    Duration::from(std::time::Duration::from_secs(3600))
}

fn default_ttl() -> Duration {
    default_timeout()
}

fn default_retries() -> i32 {
    2
}

/// The value of a build argument.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct BuildArgument(#[schemars(length(max = 4096))] pub String);

/// The address of a named context.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct NamedContext(#[schemars(length(max = 1024))] pub String);

/// A secret that a build may mount.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildSecret {
    /// The id in `RUN --mount=type=secret,id=…`.
    #[x_kube(validation = rules::secret_id())]
    #[schemars(length(min = 1, max = 63))]
    pub id: String,
    /// The Secret of this namespace, and the key in it.
    pub secret_ref: SecretKeyReference,
}

/// A key of a Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// The Secret's name.
    #[x_kube(validation = rules::object_name())]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[x_kube(validation = rules::secret_key())]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A key for `RUN --mount=type=ssh`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildSsh {
    /// A Secret with a private key under `identity` or `ssh-privatekey`, without a passphrase.
    pub secret_ref: SecretReference,
}

/// Statements about a build (in-toto), made by BuildKit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attestations {
    /// What the image was built from and how.
    #[serde(default)]
    pub provenance: Provenance,
    /// A list of the software in the image, made by the operator's SBOM scanner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sbom: bool,
}

/// How much the provenance tells.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provenance {
    /// There is none.
    #[default]
    Off,
    /// Sources and times.
    Min,
    /// The build's arguments and steps as well.
    Max,
}

/// What a build keeps for the next one of the same resource and platform. Nobody else writes to it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::cache_fields())]
pub struct Cache {
    /// Where it is kept.
    pub r#type: CacheType,
    /// With Registry: the repository of the cache; the target's when unset. The tag names resource and platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::cache_repository())]
    #[schemars(length(min = 1, max = 255))]
    pub repository: Option<String>,
    /// With Registry: whether the steps of every stage are kept, or only those of the result.
    #[serde(default)]
    pub mode: CacheMode,
    /// With Volume: how large the PersistentVolumeClaim of each platform is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<CacheVolume>,
    /// Caches of others, by reference, which are read and never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = rules::cache_references())]
    #[schemars(length(max = 8), inner(length(min = 1, max = 512)))]
    pub from: Vec<String>,
}

/// Where a build's cache is kept.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// In a registry, under a tag of its own per platform.
    Registry,
    /// In the image itself.
    Inline,
    /// On a PersistentVolumeClaim per platform, made and owned by the resource.
    Volume,
    /// Nowhere.
    None,
}

/// How much of a build a cache in a registry keeps.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// The layers of the result.
    Min,
    /// Those of every stage.
    #[default]
    Max,
}

/// The PersistentVolumeClaim of a cache.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheVolume {
    /// Its size, as Kubernetes writes amounts: 20Gi
    #[x_kube(validation = rules::amount_form())]
    #[schemars(length(min = 1, max = 32))]
    pub size: String,
    /// Its StorageClass; the cluster's default when unset, and with "" a volume that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::storage_class())]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// A BuildKit daemon outside the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RemoteBuilder {
    /// Its address: tcp://builder.example.com:1234
    #[x_kube(validation = rules::remote_endpoint())]
    #[schemars(length(min = 1, max = 253))]
    pub endpoint: String,
    /// How the two know each other. Without it anybody can listen and build: for trusted networks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RemoteTls>,
}

/// Certificates for a remote builder.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RemoteTls {
    /// A Secret with `ca.crt`, `tls.crt` and `tls.key`.
    pub secret_ref: SecretReference,
}

/// The name of an object of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReferenceRequired {
    /// Its name.
    #[x_kube(validation = rules::object_name())]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The name of a Secret of the same namespace.
pub type SecretReference = LocalObjectReferenceRequired;
