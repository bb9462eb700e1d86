//! The Job of one platform's build.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{BuildRequest, BuilderSettings, ExitCause, pod};
use crate::api::{
    ANNOTATION_ATTEMPT, ANNOTATION_BUILD_HASH, ANNOTATION_EMULATED, ANNOTATION_OUTLINE, LABEL_IMAGE,
    LABEL_PLATFORM, MANAGER,
};

/// The Job that builds the request. `credentials` is the Secret of type kubernetes.io/dockerconfigjson with
/// what the build may pull and push with. It is written once: whether it is suspended is Kueue's to say.
pub fn job(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    credentials: Option<&str>,
    owner: OwnerReference,
) -> Job {
    let labels = labels(request);
    let users = request.build.pod.as_ref().map(|pod| pod.annotations.clone()).unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(request.job_name()),
            namespace: Some(request.namespace.to_owned()),
            labels: Some(labels.clone()),
            annotations: Some(annotations(request, settings, users.clone())),
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
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: (!users.is_empty()).then_some(users),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::spec(request, settings, credentials)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn labels(request: &BuildRequest<'_>) -> BTreeMap<String, String> {
    let mut labels = request.build.pod.as_ref().map(|pod| pod.labels.clone()).unwrap_or_default();
    labels.extend([
        ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned()),
        (LABEL_IMAGE.to_owned(), request.image_name.to_owned()),
        (LABEL_PLATFORM.to_owned(), request.platform.slug()),
    ]);
    labels
}

fn annotations(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    mut annotations: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    annotations.extend([
        (ANNOTATION_BUILD_HASH.to_owned(), request.hash()),
        (ANNOTATION_OUTLINE.to_owned(), request.outline().hash()),
        (ANNOTATION_ATTEMPT.to_owned(), request.fingerprint(settings)),
    ]);
    if request.emulated {
        annotations.insert(ANNOTATION_EMULATED.to_owned(), "true".to_owned());
    }
    annotations
}

/// A drained or vanished node is nobody's failure; what a retry does not cure is not retried (KEP-3329), whichever
/// container says so.
fn pod_failure_policy() -> PodFailurePolicy {
    let lasting = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".to_owned(),
            values: ExitCause::lasting().map(|cause| cause as i32).collect(),
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
