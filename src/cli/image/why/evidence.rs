//! What is asked of the cluster beside the image itself: which pods and Jobs there are, and what was said of them.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, ResourceExt as _};

use super::advice::{self, Place};
use super::explanation::{Evidence, objects_of, telling};
use super::place::Present;
use crate::api::{LABEL_IMAGE, MultiArchImage};
use crate::cli::cluster::Cluster;

/// How many requests are under way at once.
const AT_ONCE: usize = 8;
/// How much of what was said of an object is told.
const WARNINGS: usize = 2;
/// What is said of every Job that fails, and explains nothing.
const SAYS_NOTHING: [&str; 2] = ["PodFailurePolicy", "BackoffLimitExceeded"];

/// Looks up what the cluster knows of an image's builds. Who may not ask is told less.
pub(super) async fn gather(cluster: &Cluster, image: &MultiArchImage) -> Evidence {
    let parameters = ListParams::default().labels(&format!("{LABEL_IMAGE}={}", image.name_any()));
    let namespace = image.namespace().unwrap_or_default();
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(cluster.client.clone(), &namespace);
    let jobs: Api<PartialObjectMeta<Job>> = Api::namespaced(cluster.client.clone(), &namespace);
    let (pods, jobs) = tokio::join!(pods.list(&parameters), jobs.list(&parameters));
    let objects = pods.ok().zip(jobs.ok()).map(|(pods, jobs)| {
        let pods = pods.items.iter().map(|pod| format!("pod/{}", pod.name_any()));
        pods.chain(jobs.items.iter().map(|job| format!("job/{}", job.name_any()))).collect()
    });
    let present = Present { objects };
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), &namespace);
    // What happens within a build's container its own words tell best.
    let is_outside = |reason| matches!(advice::place(reason), Place::Pod | Place::Job | Place::Nodes);
    let platforms = telling(image).filter(|platform| platform.reason.is_some_and(is_outside));
    let wanted: BTreeSet<String> =
        platforms.flat_map(objects_of).filter(|object| present.has(object)).collect();
    let warnings = stream::iter(wanted)
        .map(|object| warnings(&events, object))
        .buffered(AT_ONCE)
        .map(stream::iter)
        .flatten()
        .collect()
        .await;
    Evidence { present, warnings }
}

/// The latest warnings about an object.
async fn warnings(api: &Api<Event>, object: String) -> Vec<(String, String)> {
    let name = object.split_once('/').map(|(_, name)| name).unwrap_or_default();
    let kind = if object.starts_with("pod/") { "Pod" } else { "Job" };
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
    let Ok(events) = api.list(&ListParams::default().fields(&fields)).await else { return vec![] };
    let says_nothing =
        |event: &Event| event.reason.as_deref().is_some_and(|reason| SAYS_NOTHING.contains(&reason));
    let mut events: Vec<Event> = events.items.into_iter().filter(|event| !says_nothing(event)).collect();
    events.sort_by_key(|event| {
        let series =
            event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        series
            .max(event.last_timestamp.as_ref().map(|time| time.0))
            .max(event.event_time.as_ref().map(|time| time.0))
    });
    let mut told: Vec<(String, String)> = vec![];
    for event in events.iter().rev() {
        let said = format!(
            "{}: {}",
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default()
        );
        if told.len() < WARNINGS && told.iter().all(|(_, told)| *told != said) {
            told.push((object.clone(), said));
        }
    }
    told
}
