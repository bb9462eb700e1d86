//! The watches: what each sees, keeps and wakes.

use std::fmt::Debug;

use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, Stream, TryStreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::runtime::{Predicate as _, WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::api::{LABEL_IMAGE, MultiArchImage};

/// Done when Jobs, pods and nodes have been listed once. Shared, because a store wakes only one of those who wait
/// for it.
pub(super) type Ready = Shared<BoxFuture<'static, Result<(), ()>>>;

pub(super) fn all_ready(jobs: Store<Job>, pods: Store<Pod>, nodes: Store<PartialObjectMeta<Node>>) -> Ready {
    let ready = async move {
        let stores = (jobs.wait_until_ready(), pods.wait_until_ready(), nodes.wait_until_ready());
        futures::try_join!(stores.0, stores.1, stores.2).map(|_| ()).map_err(|_| ())
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

/// Edits of the spec and of annotations; our own writes of the status wake nobody. `forget` hears of what was deleted.
pub(super) fn watch_images(
    api: Api<MultiArchImage>,
    writer: Writer<MultiArchImage>,
    forget: impl Fn(&ObjectRef<MultiArchImage>) + Send + 'static,
) -> impl Stream<Item = Result<MultiArchImage, watcher::Error>> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|image| image.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(move |event| {
            if let Event::Delete(image) = event {
                forget(&ObjectRef::from_obj(image));
            }
        })
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), Default::default())
}

/// Every change of the objects that carry our label, theirs statuses included.
pub(super) fn watch_labelled<K>(
    api: Api<K>,
    writer: Writer<K>,
) -> impl Stream<Item = Result<K, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default().labels(LABEL_IMAGE))
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
}

/// Nodes by their labels alone: whether a platform has any.
pub(super) fn watch_nodes(
    api: Api<PartialObjectMeta<Node>>,
    writer: Writer<PartialObjectMeta<Node>>,
) -> impl Stream<Item = Result<PartialObjectMeta<Node>, watcher::Error>> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|node| node.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
}
