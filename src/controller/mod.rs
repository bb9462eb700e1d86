//! The control loop: observe what the watches and tasks know, plan, write the status, and set the tasks going.

mod admission;
mod announce;
mod budget;
mod ends;
mod objects;
mod observe;
mod perform;
mod pulse;
mod secrets;
mod status;
mod tags;
mod tasks;
mod watches;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::api::{MANAGER, MultiArchImage, Reason, image_of};
use crate::build::BuilderSettings;
use crate::health::{Health, Part};
use crate::metrics::{Levels, Metrics};
use crate::plan::claims::Relisted;
use crate::plan::fact::Failure;
use crate::plan::retry::spread;
use crate::plan::task::Epoch;
use crate::plan::{Observed, Plan};
use crate::policy::Policies;
use crate::{git, plan, registry, telemetry};
use admission::Admission;
use announce::Announcer;
use budget::Budgets;
#[cfg(test)]
pub(crate) use budget::UNPACKING;
use perform::Performer;
use pulse::Pulse;
use status::{Statuses, WriteError, Written};
use tasks::Tasks;
use watches::{
    Everybody, Ready, all_ready, may_see_nodes, scoped, waiting_for_nodes, watch_images, watch_labelled,
    watch_nodes,
};

/// Images reconciled at once; a reconciliation waits only for the API server.
const CONCURRENCY: u16 = 32;

/// How long reconciliations under way may take to end; nothing is lost with one that is abandoned.
const RECONCILIATION_GRACE: Duration = Duration::from_secs(5);
/// How long events may take that tell of what was done.
const EVENTS_GRACE: Duration = Duration::from_secs(2);
/// How long cancelling uploads may take that were given up.
const UPLOADS_GRACE: Duration = Duration::from_secs(2);
/// How often the controller is asked whether it goes on.
const PULSE: Duration = Duration::from_secs(15);

/// What an operator works with.
pub struct Settings {
    /// The only namespace to look at; all of them when absent.
    pub namespace: Option<String>,
    /// How builds are run.
    pub builder: BuilderSettings,
    /// What namespaces may do.
    pub policies: Policies,
    /// The registries.
    pub registry: registry::Client,
    /// The git servers.
    pub git: git::Client,
    /// What counts all this.
    pub metrics: Metrics,
    /// How long a stop waits for writes that are under way.
    pub shutdown_grace: Duration,
}

struct Context {
    jobs: Store<Job>,
    pods: Store<Pod>,
    /// `None` where the operator may not look at nodes.
    nodes: Option<Store<PartialObjectMeta<Node>>>,
    statuses: Statuses,
    announcer: Announcer,
    tasks: Arc<Tasks>,
    admission: Admission,
    performer: Performer,
    settings: plan::Settings,
    failures: Mutex<HashMap<ObjectRef<MultiArchImage>, u32>>,
    watches_ready: Ready,
    stopping: CancellationToken,
    started: Timestamp,
    metrics: Metrics,
}

/// Why a reconciliation failed; it is tried again with backoff.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the status cannot be written: {0}")]
    Status(#[source] WriteError),
    #[error("the operator is stopping")]
    Stopping,
    #[error(
        "{}: the operator made a mistake; please report the lines of its log before this one",
        Reason::InternalError
    )]
    Internal,
}

impl Error {
    fn may_pass(&self) -> bool {
        match self {
            Error::Status(_) | Error::Stopping => true,
            Error::Internal => false,
        }
    }
}

/// Runs until `shutdown` is done and what must not be left half done has ended.
///
/// # Errors
/// When the API server does not have the `MultiArchImage` resource, or cannot be reached.
pub async fn run(
    client: Client,
    settings: Settings,
    health: Arc<Health>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), kube::Error> {
    let namespace = settings.namespace.as_deref();
    let images: Api<DeserializeGuard<MultiArchImage>> = scoped(&client, namespace);
    let (jobs, pods) = (scoped(&client, namespace), scoped(&client, namespace));
    let shutdown = shutdown.boxed().shared();
    let sees_nodes = tokio::select! {
        answer = may_work(&images, &client, namespace) => answer?,
        () = shutdown.clone() => return Ok(()),
    };
    let grace = settings.shutdown_grace;
    let (ended, ended_objects) = mpsc::unbounded();
    let concerned = ended.clone();
    let woken = ended.clone();
    let pulse = Pulse::new(ended.clone());
    let (image_store, image_writer) = reflector::store();
    let (job_store, job_writer) = reflector::store();
    let (pod_store, pod_writer) = reflector::store();
    let (node_store, node_writer) = sees_nodes.then(reflector::store).unzip();
    let everybody = Everybody::new(image_store.clone(), woken);
    let stores = (image_store.clone(), job_store, pod_store, node_store);
    let context = Arc::new(Context::new(&client, settings, stores, ended));
    // A scrape does not keep the controller alive.
    let followed = Arc::downgrade(&context);
    context.metrics.follow(move || followed.upgrade().map(|context| context.levels()).unwrap_or_default());
    let seen = {
        let context = Arc::clone(&context);
        move |event: &Event<MultiArchImage>| {
            // As in a round: the watch is everybody's.
            let see = AssertUnwindSafe(|| context.see(event, &concerned));
            if std::panic::catch_unwind(see).is_err() {
                tracing::error!("{}", Error::Internal);
            }
        }
    };
    let review = {
        let context = Arc::clone(&context);
        move |_: &Job| context.admission.review()
    };
    let drained = drained(shutdown, grace, Arc::clone(&context), Arc::clone(&health)).boxed().shared();
    let deadline = drained.clone().then(|()| tokio::time::sleep(RECONCILIATION_GRACE));
    let never_began = drained.clone().then({
        let ready = context.watches_ready.clone();
        move |()| never_began(ready)
    });
    let waiting = image_store.clone();
    let jobs = watch_labelled(jobs, job_writer, everybody.clone()).inspect_ok(review);
    let pods = watch_labelled(pods, pod_writer, everybody.clone());
    let images = watch_images(images, image_writer, seen, everybody.clone());
    let controller = Controller::for_stream(images, image_store)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(jobs, |job| image_of(&job))
        .watches_stream(pods, |pod| image_of(&pod));
    let controller = match node_writer {
        Some(writer) => controller
            .watches_stream(watch_nodes(Api::all(client), writer, everybody), move |_| {
                waiting_for_nodes(&waiting)
            }),
        None => controller,
    };
    let controller = controller
        .reconcile_on(ended_objects)
        .graceful_shutdown_on(drained)
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each(|result| {
            tell(result, &pulse);
            future::ready(())
        });
    tokio::select! {
        () = controller => {}
        () = never_began => {}
        () = deadline => tracing::warn!("a reconciliation did not end in time and is abandoned"),
        () = watch_progress(&context, &pulse, &health) => {}
    }
    // Whoever comes next may begin when nothing of this one is under way any more.
    context.tasks.stop().await;
    let told = tokio::time::timeout(EVENTS_GRACE, context.announcer.finish());
    let _ = futures::join!(told, context.performer.registry.settle(UPLOADS_GRACE));
    Ok(())
}

/// Whether nodes may be seen. That images may be is said at once and plainly, where a watch would try for ever.
async fn may_work(
    images: &Api<DeserializeGuard<MultiArchImage>>,
    client: &Client,
    namespace: Option<&str>,
) -> Result<bool, kube::Error> {
    images.list(&ListParams::default().limit(1)).await?;
    may_see_nodes(client, namespace).await
}

/// Done when the operator is to stop, and has brought to an end what others would see half done.
async fn drained(
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    context: Arc<Context>,
    health: Arc<Health>,
) {
    shutdown.await;
    health.stops();
    context.stopping.cancel();
    if tokio::time::timeout(grace, context.tasks.finish()).await.is_err() {
        tracing::warn!("what was under way did not end within {} s and is abandoned", grace.as_secs());
    }
}

/// Done at once if the watches have not seen everything once, and otherwise never. Until then no image is looked at, and
/// the controller, which no longer lists any when it is to end, would wait for them for ever.
async fn never_began(ready: Ready) {
    if ready.now_or_never().is_some() {
        future::pending().await
    }
}

/// Gives the health the controller's signs of life. Never done.
async fn watch_progress(context: &Context, pulse: &Pulse, health: &Health) {
    // Before everything has been seen once nothing is expected: an API server that is away is not mended by a new start.
    if context.watches_ready.clone().await.is_err() {
        return future::pending().await;
    }
    health.works();
    loop {
        pulse.beat().await;
        health.sign(Part::Controller);
        tokio::time::sleep(PULSE).await;
    }
}

fn tell<T>(result: Result<T, controller::Error<Error, watcher::Error>>, pulse: &Pulse) {
    match result {
        // A watch that fails looks like a cluster in which nothing happens.
        Err(controller::Error::QueueError(error)) => tracing::warn!("a watch failed: {error}"),
        Err(controller::Error::ObjectNotFound(object)) if pulse.came(&object) => {}
        Err(error) => tracing::debug!(%error, "reconciliation"),
        Ok(_) => {}
    }
}

async fn reconcile(image: Arc<MultiArchImage>, context: Arc<Context>) -> Result<Action, Error> {
    tokio::select! {
        biased;
        ready = context.watches_ready.clone() => ready.map_err(|()| Error::Stopping)?,
        () = context.stopping.cancelled() => return Err(Error::Stopping),
    }
    // At the highest level, so that no filter takes its fields from the lines that it leaves.
    let span = tracing::error_span!(
        parent: None,
        "reconcile",
        image = name(&ObjectRef::from_obj(&*image)),
        generation = image.metadata.generation,
        trace_id = tracing::field::Empty,
    );
    telemetry::identify(&span);
    let begun = Instant::now();
    let result = contained(round(&image, &context)).instrument(span.clone()).await;
    if !context.has(&image) {
        // It went, and was forgotten, before the round had ended.
        context.forget(&ObjectRef::from_obj(&*image));
    }
    if let Err(error) = &result {
        telemetry::fail(&span, error.to_string());
        span.in_scope(|| tracing::warn!("it is tried again: {error}"));
    }
    context.metrics.reconciled(result.is_ok(), begun.elapsed());
    result
}

/// A mistake of ours that one image brings to light must not end the rounds of all others.
async fn contained<T>(round: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(round).catch_unwind().await.unwrap_or(Err(Error::Internal))
}

/// `namespace/name`, as people write it.
fn name(object: &ObjectRef<MultiArchImage>) -> String {
    format!("{}/{}", object.namespace.as_deref().unwrap_or_default(), object.name)
}

/// One round for an image: observe, plan, write the status, set the tasks going.
async fn round(image: &MultiArchImage, context: &Context) -> Result<Action, Error> {
    let object = ObjectRef::from_obj(image);
    let now = Timestamp::now();
    if image.is_deleted() {
        return Ok(delete(&object, image, context, now));
    }
    let (observed, plan) = plan(&object, image, context, now);
    let notes = plan::notes(&observed.status, &plan.status);
    let outcomes = plan::outcomes(&observed.status, &plan.status);
    // Whoever edits or suspends is not kept waiting by an API server that takes no status.
    context.tasks.cancel_unwanted(&object, &plan.tasks);
    let written = context.statuses.write(&object, image, &observed.status, plan.status).await;
    if let Written::Gone = written.map_err(Error::Status)? {
        context.forget(&object);
        return Ok(Action::await_change());
    }
    context.metrics.count(&outcomes);
    context.tasks.want(&object, plan.tasks, &Epoch::of(image, &observed.status), now, &context.performer);
    context.announcer.announce(image, notes);
    context.failures().remove(&object);
    Ok(match plan.wake_after {
        Some(wait) => Action::requeue(wait.unsigned_abs()),
        None => Action::await_change(),
    })
}

/// Removes what is to go with a resource, and lets it go.
fn delete(
    object: &ObjectRef<MultiArchImage>,
    image: &MultiArchImage,
    context: &Context,
    now: Timestamp,
) -> Action {
    if !plan::is_kept(image) {
        // Jobs and pods go with their owner.
        context.forget(object);
        return Action::await_change();
    }
    // It builds no more, however long its tags keep it.
    context.admission.forget(object);
    let observed = observe::observe(object, image, context, now);
    let deletion = plan::deletion(image, &observed, now);
    let epoch = Epoch::of(image, &observed.status);
    context.tasks.want(object, deletion.tasks, &epoch, now, &context.performer);
    context.announcer.announce(image, deletion.notes);
    deletion.wake_after.map_or_else(Action::await_change, |wait| Action::requeue(wait.unsigned_abs()))
}

/// Plans, and where builds are limited asks for the turns of those that are wanted and plans with the answer.
fn plan(
    object: &ObjectRef<MultiArchImage>,
    image: &MultiArchImage,
    context: &Context,
    now: Timestamp,
) -> (Observed, Plan) {
    let mut observed = observe::observe(object, image, context, now);
    let plan = plan::plan(image, &observed, &context.settings, now);
    let reconciling = observed.status.condition("Reconciling");
    let at_work_since = reconciling.map(|condition| condition.last_transition_time.0);
    context.admission.ask(object, &plan.tasks, at_work_since, now);
    let turns = context.admission.turns(object);
    if turns == observed.turns {
        return (observed, plan);
    }
    observed.turns = turns;
    let plan = plan::plan(image, &observed, &context.settings, now);
    (observed, plan)
}

fn error_policy(image: Arc<MultiArchImage>, error: &Error, context: Arc<Context>) -> Action {
    if !context.has(&image) {
        return Action::await_change();
    }
    let object = ObjectRef::from_obj(&*image);
    let attempts = {
        let mut failures = context.failures();
        let attempts = failures.entry(object).or_default();
        *attempts += 1;
        *attempts
    };
    let wait = Failure::retry_after(error.may_pass(), attempts, None);
    Action::requeue(spread(wait, &(&image.metadata.uid, attempts)).unsigned_abs())
}

type Stores = (Store<MultiArchImage>, Store<Job>, Store<Pod>, Option<Store<PartialObjectMeta<Node>>>);

impl Context {
    /// Whenever a task ends or a turn comes, its image is sent to `ended`.
    fn new(
        client: &Client,
        settings: Settings,
        (images, jobs, pods, nodes): Stores,
        ended: mpsc::UnboundedSender<ObjectRef<MultiArchImage>>,
    ) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: None };
        Context {
            watches_ready: all_ready(images.clone(), jobs.clone(), pods.clone(), nodes.clone()),
            statuses: Statuses::new(client.clone()),
            announcer: Announcer::new(Recorder::new(client.clone(), reporter)),
            performer: Performer {
                cluster: client.clone(),
                registry: settings.registry,
                git: settings.git,
                hosts: Arc::clone(&settings.policies.hosts),
                images,
                claims: Arc::default(),
                budgets: Arc::new(Budgets::new(settings.namespace.is_some())),
            },
            admission: Admission::new(&settings.builder, jobs.clone(), pods.clone(), ended.clone()),
            jobs,
            pods,
            nodes,
            tasks: Tasks::new(ended, settings.metrics.clone()),
            settings: plan::Settings { builder: settings.builder, policies: settings.policies },
            failures: Mutex::default(),
            stopping: CancellationToken::new(),
            started: Timestamp::now(),
            metrics: settings.metrics,
        }
    }

    /// Keeps account of who publishes under which tag, and wakes whoever that concerns.
    fn see(
        &self,
        event: &Event<MultiArchImage>,
        concerned: &mpsc::UnboundedSender<ObjectRef<MultiArchImage>>,
    ) {
        let mut claims = self.performer.claims();
        let (gone, others) = match event {
            Event::Init => {
                claims.begin_list();
                Default::default()
            }
            Event::InitApply(image) | Event::Apply(image) => {
                (HashSet::new(), claims.set(image, self.settings.policies.denial(image).is_none()))
            }
            Event::InitDone => {
                let Relisted { gone, concerned } = claims.end_list();
                (gone, concerned)
            }
            Event::Delete(image) => {
                let object = ObjectRef::from_obj(image);
                let concerned = claims.remove(&object);
                (HashSet::from([object]), concerned)
            }
        };
        drop(claims);
        gone.iter().for_each(|object| self.forget(object));
        // The receiver lives as long as the controller; after it nobody publishes.
        others.into_iter().for_each(|other| drop(concerned.unbounded_send(other)));
    }

    /// How things stand, for a scrape.
    fn levels(&self) -> Levels {
        let images = self.performer.images.state();
        let (running, queued) = self.admission.counts();
        Levels::of(images.iter().map(Arc::as_ref), running, queued)
    }

    /// Whether the image is still there, and no other of its name.
    fn has(&self, image: &MultiArchImage) -> bool {
        let found = self.performer.images.get(&ObjectRef::from_obj(image));
        found.is_some_and(|found| found.metadata.uid == image.metadata.uid)
    }

    fn forget(&self, object: &ObjectRef<MultiArchImage>) {
        self.tasks.forget(object);
        self.statuses.forget(object);
        self.admission.forget(object);
        self.failures().remove(object);
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<MultiArchImage>, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
