//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Reason;

/// The state of a `MultiArchImage`.
// The default counts until the operator has written for the first time: for kstatus, what has no observedGeneration and
// no conditions is done.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct MultiArchImageStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled, as kstatus reads them; Drifted while a published tag is not as it was published.
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
    /// What every platform is built from: the git commit, or the digest of the image that is the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    /// Tags that are being written, each with its digest: what a publication that has not come to its end may have left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publishing: Vec<PublishedTag>,
    /// Images of platforms that are not in a repository where they were, until they are seen there again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingImage>,
    /// The last five indexes published, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// What events have told of since the last request, so that no retry tells it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<String>,
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
    /// Every tag of it and of its platforms' images, mirrors included.
    pub tags: Vec<PublishedTag>,
    /// Digests of its platforms' images, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// The git commit that the built platforms come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    /// When it was published, or a tag was last taken back, to the microsecond.
    pub published_at: MicroTime,
}

/// A tag in a repository.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PublishedTag {
    /// The tag.
    pub name: String,
    /// The repository it stands in.
    pub repository: String,
    /// The platform whose image it points at; without one, at the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The digest of that image; of an index only where the tag still points at an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The image of a platform that a repository has lost, or may have.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MissingImage {
    /// The repository.
    pub repository: String,
    /// Digest of the image.
    pub digest: String,
    /// When it was first not to be seen.
    pub since: Time,
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

/// The condition of published tags that are not as they were published. kstatus passes over it.
pub const DRIFTED: &str = "Drifted";

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

impl Phase {
    /// What is not ready, the most telling first: one that failed, one that waits, one that works.
    pub const TELLING: [Phase; 7] = [
        Phase::Failed,
        Phase::Waiting,
        Phase::Building,
        Phase::Verifying,
        Phase::Resolving,
        Phase::Pending,
        Phase::Skipped,
    ];

    /// Its name, as the status has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Resolving => "Resolving",
            Phase::Waiting => "Waiting",
            Phase::Building => "Building",
            Phase::Verifying => "Verifying",
            Phase::Ready => "Ready",
            Phase::Failed => "Failed",
            Phase::Skipped => "Skipped",
            Phase::Pending => "Pending",
        }
    }
}

/// The state of one platform.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// The platform as the spec writes it.
    pub platform: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it is in this phase, in one word.
    // Not an enumeration in the schema: a status must not be refused where the CRD is older than the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
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
    /// Digest of what its build pushed: the child, or the index of the child and its attestations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<String>,
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
    /// Whether a node of another architecture emulates the platform for its build.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
    /// Fingerprint of how the Job was to run. A build that failed is tried again when it would run otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// Since when no node takes the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// How many pods the build has had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// When the build's Job started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the build's Job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The last lines of a failed build, or of a failed run, at most 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
    /// What `spec.verify` has found out about its child, so that nothing is looked at twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
}

/// What is known about one image. Another digest is another image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerificationStatus {
    /// Digest of the image.
    pub digest: String,
    /// The program that the image starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramStatus>,
    /// The latest run of `spec.verify.run` that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// The pods that the cluster has lost one after the other, before the command of `spec.verify.run` had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostPods>,
}

/// Pods that ended without their image's fault: refused by a node, evicted from it or gone with it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LostPods {
    /// Fingerprint of what they were to run, and how. Another one is counted anew.
    pub attempt: String,
    /// How many there have been. Each is left longer than the one before, from 10 seconds to 5 minutes.
    pub count: i32,
    /// UID of the latest, which counts once.
    pub uid: String,
}

/// Whether the program that an image starts was made for the platform.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    /// What was found.
    pub result: ProgramResult,
    /// The same for people: the program, its machine and the layer it is in.
    pub message: String,
}

/// What was found about a program.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramResult {
    /// It is for the platform.
    Matches,
    /// It runs on some machines of the platform.
    Compatible,
    /// It does not run on the platform.
    Mismatch,
    /// Nobody can tell. What a newer operator has written reads as this too.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How a run ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Fingerprint of what was run, and behind the dot of how. What has passed is not run again for another how.
    pub attempt: String,
    /// Whether the command ended with exit code 0 in time.
    pub passed: bool,
    /// Why it failed.
    // Not an enumeration in the schema, as that of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The pod it ran in.
    pub pod: String,
    /// The node of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether any node of the os was good enough, to emulate the platform.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
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

    /// Whether a condition is there and true, of whichever spec.
    pub fn is_true(&self, type_: &str) -> bool {
        self.condition(type_).is_some_and(|condition| condition.status == "True")
    }

    /// The entry of a platform as the spec writes it.
    pub fn platform(&self, platform: &str) -> Option<&PlatformStatus> {
        self.platforms.iter().find(|entry| entry.platform == platform)
    }
}
