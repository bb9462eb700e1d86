//! The control loop: observe what the watches and tasks know, plan, write the status, and set the tasks going.

mod jobs;
mod observe;
mod perform;
mod secrets;
mod status;
mod tasks;
mod watches;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::api::{MANAGER, MultiArchImage, image_of};
use crate::build::BuilderSettings;
use crate::plan::task::{Epoch, Failure};
use crate::{git, plan, registry};
use perform::Performer;
use status::{Statuses, Written};
use tasks::Tasks;
use watches::{Ready, all_ready, scoped, watch_images, watch_labelled, watch_nodes};

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
    statuses: Statuses,
    tasks: Arc<Tasks>,
    performer: Performer,
    builder: BuilderSettings,
    failures: Mutex<HashMap<ObjectRef<MultiArchImage>, u32>>,
    watches_ready: Ready,
}

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
    let namespace = settings.namespace.as_deref();
    let images: Api<MultiArchImage> = scoped(&client, namespace);
    let (jobs, pods) = (scoped(&client, namespace), scoped(&client, namespace));
    // Said at once and plainly, where a watch would try for ever.
    images.list(&kube::api::ListParams::default().limit(1)).await?;
    let (ended, ended_objects) = mpsc::unbounded();
    let tasks = Tasks::new(ended);
    let (image_store, image_writer) = reflector::store();
    let (job_store, job_writer) = reflector::store();
    let (pod_store, pod_writer) = reflector::store();
    let (node_store, node_writer) = reflector::store();
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
    let watches_ready = all_ready(job_store.clone(), pod_store.clone(), node_store.clone());
    let context = Arc::new(Context {
        watches_ready,
        statuses: Statuses::new(client.clone(), recorder),
        performer: Performer {
            cluster: client.clone(),
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
    let forget = {
        let context = Arc::clone(&context);
        move |object: &ObjectRef<MultiArchImage>| context.forget(object)
    };
    let shutdown = shutdown.shared();
    let deadline = shutdown.clone().then(|()| tokio::time::sleep(SHUTDOWN_GRACE));
    let controller = Controller::for_stream(watch_images(images, image_writer, forget), image_store)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(watch_labelled(jobs, job_writer), |job| image_of(&job))
        .watches_stream(watch_labelled(pods, pod_writer), |pod| image_of(&pod))
        .watches_stream(watch_nodes(Api::all(client), node_writer), |_| None::<ObjectRef<MultiArchImage>>)
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
