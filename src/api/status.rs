//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Reason;

/// The state of a `MultiArchImage`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MultiArchImageStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled, as kstatus reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Digest of the published index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What was published last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// Platforms ready of platforms wanted: 2/3
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_platforms: Option<String>,
    /// One entry per platform, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["platform".into()]))]
    pub platforms: Vec<PlatformStatus>,
    /// The git commit that every platform is built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    /// The last five indexes published, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// The value of the reconcile-requested-at annotation that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// The value of the rebuild-requested-at annotation that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_rebuild_at: Option<String>,
}

/// A published index.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Media type of the index.
    pub media_type: String,
    /// Its size in bytes.
    pub size: i64,
    /// Every tag that points at it.
    pub tags: Vec<PublishedTag>,
    /// The git commit that the built platforms come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    /// When it was published.
    pub published_at: Time,
}

/// A tag in a repository.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PublishedTag {
    /// The tag.
    pub name: String,
    /// The repository it stands in.
    pub repository: String,
}

/// One earlier publication.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Digest of the index.
    pub digest: String,
    /// The git commit that the built platforms came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    /// When it was published.
    pub published_at: Time,
}

/// How far one platform is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Its source is being looked up.
    Resolving,
    /// Something that may change by itself stands in the way: no node, a registry that is down.
    Waiting,
    /// Its Job is running.
    Building,
    /// Its child is being copied or checked.
    Verifying,
    /// Its child is in the target repository and verified.
    Ready,
    /// It cannot become ready without somebody's help.
    Failed,
    /// It is left out of the index.
    Skipped,
    /// Seen, nothing begun. What a newer operator has written reads as this too.
    #[default]
    #[serde(other)]
    Pending,
}

/// The state of one platform.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// The platform as the spec writes it.
    pub platform: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it is in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The existing image it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// Digest of its child in the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Media type of its child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Size of its child's manifest in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The Job that builds or built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The Job's latest pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node that pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many pods the build has had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// When the build's Job started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the build's Job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The last lines of a failed build, at most 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
}

/// An existing image as it was resolved.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The reference in the spec.
    pub image: String,
    /// What it pointed at when it was resolved: the tag's own digest, of an index the index's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl MultiArchImageStatus {
    /// The condition of a type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// The entry of a platform as the spec writes it.
    pub fn platform(&self, platform: &str) -> Option<&PlatformStatus> {
        self.platforms.iter().find(|entry| entry.platform == platform)
    }
}
