//! The control loop: observe what the watches and tasks know, plan, write the status, and set the tasks going.

mod jobs;
mod observe;
mod perform;
mod status;
mod tasks;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::runtime::{Controller, Predicate as _, WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::api::{LABEL_IMAGE, MANAGER, MultiArchImage, image_of};
use crate::build::BuilderSettings;
use crate::plan::task::{Epoch, Failure};
use crate::{git, plan, registry};
use perform::Performer;
use status::{Statuses, Written};
use tasks::Tasks;

/// Images reconciled at once; a reconciliation waits only for the API server.
const CONCURRENCY: u16 = 32;
/// Tasks at registries and git servers at once over all images: each is a few requests or one copy.
const TASK_LIMIT: usize = 64;

/// How long reconciliations under way may take to end; nothing is lost with one that is abandoned.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// What an operator works with.
pub struct Settings {
    /// The only namespace to look at; all of them when absent.
    pub namespace: Option<String>,
    /// How builds are run.
    pub builder: BuilderSettings,
    /// The registries.
    pub registry: registry::Client,
    /// The git servers.
    pub git: git::Client,
}

struct Context {
    jobs: Store<Job>,
    pods: Store<Pod>,
    nodes: Store<PartialObjectMeta<Node>>,
    statuses: Arc<Statuses>,
    tasks: Arc<Tasks>,
    performer: Performer,
    builder: BuilderSettings,
    failures: Mutex<HashMap<ObjectRef<MultiArchImage>, u32>>,
    watches_ready: Ready,
}

/// Done when Jobs, pods and nodes have been listed once. Shared, because a store wakes only one of those who wait
/// for it.
type Ready = Shared<BoxFuture<'static, Result<(), ()>>>;

/// Why a reconciliation failed; it is tried again with backoff.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the status cannot be written: {0}")]
    Status(#[source] kube::Error),
    #[error("the watches ended; the operator is stopping")]
    Stopping,
}

/// Runs until `shutdown` is done and the reconciliations under way have ended.
///
/// # Errors
/// When the API server does not have the `MultiArchImage` resource, or cannot be reached.
pub async fn run(
    client: Client,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), kube::Error> {
    let images: Api<MultiArchImage> = scoped(&client, settings.namespace.as_deref());
    // Said at once and plainly, where a watch would try for ever.
    images.list(&kube::api::ListParams::default().limit(1)).await?;
    let (ended, ended_objects) = mpsc::unbounded();
    let tasks = Tasks::new(ended);
    let (image_store, image_writer) = reflector::store();
    let (job_store, job_writer) = reflector::store();
    let (pod_store, pod_writer) = reflector::store();
    let (node_store, node_writer) = reflector::store();
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
    let statuses = Arc::new(Statuses::new(client.clone(), recorder));
    let image_changes = watch_images(images, image_writer, (Arc::clone(&tasks), Arc::clone(&statuses)));
    let job_changes = watch_labelled(scoped::<Job>(&client, settings.namespace.as_deref()), job_writer);
    let pod_changes = watch_labelled(scoped::<Pod>(&client, settings.namespace.as_deref()), pod_writer);
    let node_changes =
        watcher(Api::<PartialObjectMeta<Node>>::all(client.clone()), watcher::Config::default())
            .default_backoff()
            .modify(|node| node.managed_fields_mut().clear())
            .reflect(node_writer)
            .touched_objects();
    let watches_ready = all_ready(job_store.clone(), pod_store.clone(), node_store.clone());
    let context = Arc::new(Context {
        watches_ready,
        statuses,
        performer: Performer {
            cluster: client,
            registry: settings.registry,
            git: settings.git,
            images: image_store.clone(),
            permits: Arc::new(Semaphore::new(TASK_LIMIT)),
        },
        jobs: job_store,
        pods: pod_store,
        nodes: node_store,
        tasks,
        builder: settings.builder,
        failures: Mutex::default(),
    });
    let shutdown = shutdown.shared();
    let deadline = shutdown.clone().then(|()| tokio::time::sleep(SHUTDOWN_GRACE));
    let controller = Controller::for_stream(image_changes, image_store)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(job_changes, |job| image_of(&job))
        .watches_stream(pod_changes, |pod| image_of(&pod))
        .watches_stream(node_changes, |_| None::<ObjectRef<MultiArchImage>>)
        .reconcile_on(ended_objects)
        .graceful_shutdown_on(shutdown)
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            match result {
                // A watch that fails looks like a cluster in which nothing happens.
                Err(controller::Error::QueueError(error)) => tracing::warn!("a watch failed: {error}"),
                Err(error) => tracing::debug!(%error, "reconciliation"),
                Ok(_) => {}
            }
        });
    tokio::select! {
        () = controller => {}
        () = deadline => tracing::warn!("a reconciliation did not end in time and is abandoned"),
    }
    Ok(())
}

fn all_ready(jobs: Store<Job>, pods: Store<Pod>, nodes: Store<PartialObjectMeta<Node>>) -> Ready {
    let ready = async move {
        let stores = (jobs.wait_until_ready(), pods.wait_until_ready(), nodes.wait_until_ready());
        futures::try_join!(stores.0, stores.1, stores.2).map(|_| ()).map_err(|_| ())
    };
    ready.boxed().shared()
}

async fn reconcile(image: Arc<MultiArchImage>, context: Arc<Context>) -> Result<Action, Error> {
    let object = ObjectRef::from_obj(&*image);
    context.watches_ready.clone().await.map_err(|()| Error::Stopping)?;
    if image.is_deleted() {
        // Jobs and pods go with their owner.
        context.forget(&object);
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let observed = observe::observe(&object, &image, &context);
    let plan = plan::plan(&image, &observed, &context.builder, now);
    let notes = plan::notes(&observed.status, &plan.status);
    let written = context.statuses.write(&object, &image, &observed.status, plan.status).await;
    if let Written::Gone = written.map_err(Error::Status)? {
        context.forget(&object);
        return Ok(Action::await_change());
    }
    context.tasks.want(&object, plan.tasks, &Epoch::of(&image), now, &context.performer);
    context.statuses.announce(&image, notes).await;
    context.failures().remove(&object);
    Ok(match plan.wake_after {
        Some(wait) => Action::requeue(wait.unsigned_abs()),
        None => Action::await_change(),
    })
}

fn error_policy(image: Arc<MultiArchImage>, error: &Error, context: Arc<Context>) -> Action {
    let object = ObjectRef::from_obj(&*image);
    let attempts = {
        let mut failures = context.failures();
        let attempts = failures.entry(object.clone()).or_default();
        *attempts += 1;
        *attempts
    };
    tracing::warn!(image = %object, attempts, "{error}");
    Action::requeue(Failure::retry_after(true, attempts, None).unsigned_abs().max(Duration::from_millis(1)))
}

impl Context {
    fn forget(&self, object: &ObjectRef<MultiArchImage>) {
        self.tasks.forget(object);
        self.statuses.forget(object);
        self.failures().remove(object);
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<MultiArchImage>, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Edits of the spec and of annotations; our own writes of the status wake nobody.
fn watch_images(
    api: Api<MultiArchImage>,
    writer: Writer<MultiArchImage>,
    (tasks, statuses): (Arc<Tasks>, Arc<Statuses>),
) -> impl Stream<Item = Result<MultiArchImage, watcher::Error>> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|image| image.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(move |event| {
            if let Event::Delete(image) = event {
                tasks.forget(&ObjectRef::from_obj(image));
                statuses.forget(&ObjectRef::from_obj(image));
            }
        })
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), Default::default())
}

/// Every change of the objects that carry our label, theirs statuses included.
fn watch_labelled<K>(api: Api<K>, writer: Writer<K>) -> impl Stream<Item = Result<K, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default().labels(LABEL_IMAGE))
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
}
