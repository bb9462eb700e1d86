//! The Job that asks a node which platforms' programs it runs.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;

use super::{BuilderSettings, pod};

/// Label on the Jobs that ask nodes and on their pods: the run of the command that made them.
pub const LABEL_PROBE: &str = "multiarch.dev/probe";
/// How long a Job stays that nobody has deleted, in seconds: whoever made it was interrupted.
const TIME_TO_LIVE: i32 = 60;

/// The Job that asks `node`; it is one of those of `run`, and called `name`. Its pod ends with the platforms in its
/// termination message, separated by commas as BuildKit names them.
pub fn probe(settings: &BuilderSettings, namespace: &str, run: &str, name: &str, node: &str) -> Job {
    let labels = Some([(LABEL_PROBE.to_owned(), run.to_owned())].into());
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: labels.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(TIME_TO_LIVE),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(pod::probe(settings, namespace, node)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}
