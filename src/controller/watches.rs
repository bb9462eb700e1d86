//! The watches: what each sees, keeps and wakes.

use std::fmt::Debug;

use futures::channel::mpsc::UnboundedSender;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, Stream, TryStreamExt as _, future};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{PartialObjectMeta, PostParams};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::runtime::{Predicate as _, WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api::{LABEL_IMAGE, MultiArchImage, PlatformStatus, Reason};

/// Done when images, Jobs, pods and nodes have been listed once. Shared, because a store wakes only one of those who wait
/// for it.
pub(super) type Ready = Shared<BoxFuture<'static, Result<(), ()>>>;

pub(super) fn all_ready(
    images: Store<MultiArchImage>,
    jobs: Store<Job>,
    pods: Store<Pod>,
    nodes: Option<Store<PartialObjectMeta<Node>>>,
) -> Ready {
    let ready = async move {
        let nodes = async {
            match &nodes {
                Some(nodes) => nodes.wait_until_ready().await,
                None => Ok(()),
            }
        };
        let work = (jobs.wait_until_ready(), pods.wait_until_ready(), nodes);
        futures::try_join!(images.wait_until_ready(), work.0, work.1, work.2).map(|_| ()).map_err(|_| ())
    };
    ready.boxed().shared()
}

pub(super) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// All images, to be woken when a watch has had to list anew: what went meanwhile has no event of its own, and what is
/// told while a list is read is in no store before its end.
#[derive(Clone)]
pub(super) struct Everybody {
    images: Store<MultiArchImage>,
    queue: UnboundedSender<ObjectRef<MultiArchImage>>,
    /// The first list wakes everybody by itself: nobody's turn comes before its end.
    has_list: bool,
}

impl Everybody {
    pub fn new(images: Store<MultiArchImage>, queue: UnboundedSender<ObjectRef<MultiArchImage>>) -> Self {
        Everybody { images, queue, has_list: false }
    }

    fn hear<K>(&mut self, event: &Event<K>) {
        if !matches!(event, Event::InitDone) || !std::mem::replace(&mut self.has_list, true) {
            return;
        }
        for image in self.images.state() {
            // The receiver lives as long as the controller.
            let _ = self.queue.unbounded_send(ObjectRef::from_obj(&*image));
        }
    }
}

/// Edits of the spec, of annotations and finalizers; our own writes of the status wake nobody. `seen` hears of everything.
pub(super) fn watch_images(
    api: Api<DeserializeGuard<MultiArchImage>>,
    writer: Writer<MultiArchImage>,
    seen: impl Fn(&Event<MultiArchImage>) + Send + 'static,
    mut everybody: Everybody,
) -> impl Stream<Item = Result<MultiArchImage, watcher::Error>> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .try_filter_map(|event| future::ok(readable(event)))
        .modify(|image| image.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(seen)
        .inspect_ok(move |event| everybody.hear(event))
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations).combine(predicates::finalizers),
            Default::default(),
        )
}

/// One image that this operator cannot read, such as one that a newer version knows fields' values of, must not keep it
/// from all others. It is left alone, as if it were not there: what was read of it before is true no more.
fn readable(event: Event<DeserializeGuard<MultiArchImage>>) -> Option<Event<MultiArchImage>> {
    Some(match event {
        Event::Apply(DeserializeGuard(Ok(image))) => Event::Apply(image),
        Event::InitApply(DeserializeGuard(Ok(image))) => Event::InitApply(image),
        Event::Delete(DeserializeGuard(Ok(image))) => Event::Delete(image),
        Event::Apply(DeserializeGuard(Err(unreadable)))
        | Event::Delete(DeserializeGuard(Err(unreadable))) => Event::Delete(by_name(unreadable)?),
        Event::InitApply(DeserializeGuard(Err(unreadable))) => {
            by_name(unreadable)?;
            return None;
        }
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

/// What cannot be read, with nothing but its name.
fn by_name(unreadable: InvalidObject) -> Option<MultiArchImage> {
    let nothing = json!({"target": {"repository": "", "tags": []}, "platforms": []});
    let InvalidObject { error, metadata } = unreadable;
    let image = MultiArchImage { metadata, spec: serde_json::from_value(nothing).ok()?, status: None };
    let object = ObjectRef::from_obj(&image);
    tracing::error!(image = %object, "it cannot be read and is left alone: {error}");
    Some(image)
}

/// Every change of the objects that carry our label, theirs statuses included.
pub(super) fn watch_labelled<K>(
    api: Api<K>,
    writer: Writer<K>,
    mut everybody: Everybody,
) -> impl Stream<Item = Result<K, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default().labels(LABEL_IMAGE))
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(move |event| everybody.hear(event))
        .touched_objects()
}

/// Nodes by their labels alone: whether a platform has any.
pub(super) fn watch_nodes(
    api: Api<PartialObjectMeta<Node>>,
    writer: Writer<PartialObjectMeta<Node>>,
    mut everybody: Everybody,
) -> impl Stream<Item = Result<PartialObjectMeta<Node>, watcher::Error>> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|node| node.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(move |event| everybody.hear(event))
        .touched_objects()
        // Kubelets report every few minutes; what counts is a node that comes, and its labels.
        .predicate_filter(predicates::labels, Default::default())
}

/// Whether the operator's account may watch nodes. One that works for a single namespace may do without.
///
/// # Errors
/// When the API server does not answer: a wrong guess would last as long as the process.
pub(super) async fn may_see_nodes(client: &Client, namespace: Option<&str>) -> Result<bool, kube::Error> {
    let review = |verb: &str| SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                resource: Some("nodes".to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for verb in ["list", "watch"] {
        let is_allowed = match reviews.create(&PostParams::default(), &review(verb)).await {
            Ok(answer) => answer.status.is_some_and(|status| status.allowed),
            // Who may not even ask may look if it is there for the whole cluster; otherwise it hardly may.
            Err(kube::Error::Api(status)) if status.code == 403 => namespace.is_none(),
            Err(error) => return Err(error),
        };
        if !is_allowed {
            tracing::info!(
                "nodes may not be seen (verb {verb}): only the scheduler tells which platforms have one"
            );
            return Ok(false);
        }
    }
    Ok(true)
}

/// The images with a platform that only a node can help.
pub(super) fn waiting_for_nodes(images: &Store<MultiArchImage>) -> Vec<ObjectRef<MultiArchImage>> {
    let waits = |image: &MultiArchImage| {
        image.status.iter().flat_map(|status| &status.platforms).any(waits_for_a_node)
    };
    images.state().iter().filter(|image| waits(image)).map(|image| ObjectRef::from_obj(&**image)).collect()
}

fn waits_for_a_node(platform: &PlatformStatus) -> bool {
    let reasons = [Reason::NoNodeForPlatform, Reason::Unschedulable, Reason::EmulationUnavailable];
    let run = platform.verification.as_ref().and_then(|known| known.run.as_ref());
    platform.reason.is_some_and(|reason| reasons.contains(&reason))
        // What failed under emulation a node of the platform may run.
        || run.is_some_and(|run| run.emulated && !run.passed)
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::unbounded;
    use kube::runtime::reflector;

    use super::*;

    #[test]
    fn what_went_while_nobody_watched_is_noticed_when_the_list_has_been_read_anew() {
        let (images, mut writer) = reflector::store();
        let image: MultiArchImage = serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "web"},
            "spec": {"target": {"repository": "registry.test/web", "tags": ["1"]}, "platforms": []},
        }))
        .expect("an image");
        writer.apply_watcher_event(&Event::Apply(image.clone()));
        let (queue, mut woken) = unbounded();
        let mut everybody = Everybody::new(images, queue);
        let mut list = |of: &[Job]| {
            everybody.hear::<Job>(&Event::Init);
            of.iter().for_each(|job| everybody.hear(&Event::InitApply(job.clone())));
            everybody.hear::<Job>(&Event::InitDone);
        };
        list(&[Job::default()]);
        assert!(woken.try_recv().is_err(), "a start is no gap");
        list(&[]);
        assert_eq!(woken.try_recv(), Ok(ObjectRef::from_obj(&image)));
        assert!(woken.try_recv().is_err(), "once is enough");
    }

    #[test]
    fn an_image_that_cannot_be_read_does_not_keep_the_others_from_being_seen() {
        let image = |when_no_node: &str| -> DeserializeGuard<MultiArchImage> {
            serde_json::from_value(json!({
                "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "web"},
                "spec": {
                    "target": {"repository": "registry.test/web", "tags": ["1"]},
                    "platforms": [{"platform": "linux/amd64", "whenNoNode": when_no_node}],
                },
            }))
            .expect("its metadata")
        };
        assert!(matches!(readable(Event::Apply(image("Wait"))), Some(Event::Apply(_))));
        let gone = readable(Event::Apply(image("Teleport")));
        assert!(matches!(gone, Some(Event::Delete(image)) if image.metadata.name.as_deref() == Some("web")));
        assert!(matches!(readable(Event::Delete(image("Teleport"))), Some(Event::Delete(_))));
        assert!(readable(Event::InitApply(image("Teleport"))).is_none());
        assert!(matches!(readable(Event::InitDone), Some(Event::InitDone)));
    }
}
