//! Observe: what the watches and the tasks know, without a call to anyone.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;

use super::Context;
use crate::api::{MultiArchImage, image_of};
use crate::plan::task::Epoch;
use crate::plan::{Nodes, Observed};

pub(super) fn observe(
    object: &ObjectRef<MultiArchImage>,
    image: &MultiArchImage,
    context: &Context,
    now: Timestamp,
) -> Observed {
    let status = context.statuses.latest(object, image);
    Observed {
        facts: context.tasks.facts(object, &Epoch::of(image, &status), now),
        status,
        jobs: context.jobs.state_filter(|job| image_of(job).as_ref() == Some(object)),
        pods: context.pods.state_filter(|pod| image_of(pod).as_ref() == Some(object)),
        nodes: nodes(context),
        turns: context.admission.turns(object),
        publications: context.tasks.publications(object),
        conflict: context.performer.claims().conflict(object),
        started: context.started,
    }
}

fn nodes(context: &Context) -> Nodes {
    let Some(store) = &context.nodes else { return Nodes::Unseen };
    let platform = |node: &PartialObjectMeta<Node>| {
        let labels = node.metadata.labels.as_ref()?;
        Some((labels.get("kubernetes.io/os")?.clone(), labels.get("kubernetes.io/arch")?.clone()))
    };
    let platforms: BTreeSet<_> = store.state().iter().filter_map(|node| platform(node)).collect();
    Nodes::Seen(platforms.into_iter().collect())
}
