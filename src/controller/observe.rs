//! Observe: what the watches and the tasks know, without a call to anyone.

use kube::runtime::reflector::ObjectRef;

use super::Context;
use crate::api::{MultiArchImage, image_of};
use crate::plan::Observed;
use crate::plan::task::Epoch;

pub(super) fn observe(
    object: &ObjectRef<MultiArchImage>,
    image: &MultiArchImage,
    context: &Context,
) -> Observed {
    let mut nodes: Vec<(String, String)> = context
        .nodes
        .state()
        .iter()
        .filter_map(|node| {
            let labels = node.metadata.labels.as_ref()?;
            Some((labels.get("kubernetes.io/os")?.clone(), labels.get("kubernetes.io/arch")?.clone()))
        })
        .collect();
    nodes.sort();
    nodes.dedup();
    Observed {
        status: context.statuses.latest(object, image),
        jobs: context.jobs.state_filter(|job| image_of(job).as_ref() == Some(object)),
        pods: context.pods.state_filter(|pod| image_of(pod).as_ref() == Some(object)),
        nodes,
        facts: context.tasks.facts(object, &Epoch::of(image)),
    }
}
