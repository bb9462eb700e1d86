//! Lets builds begin as the limits allow. Holds the queue, which is empty after a restart: images that still want their
//! builds come again, and the Jobs that run are counted from the watch.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::UnboundedSender;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::api::{MultiArchImage, controller, controller_uid};
use crate::build::BuilderSettings;
use crate::plan::queue::{ImageKey, Queue, Running, Turns};
use crate::plan::task::Task;
use crate::plan::{counts_as_running, queue};

/// A build that waits longer than this for a node, or for a pod that the cluster forbids, does not keep others from
/// theirs. Clusters that scale from zero take a few minutes.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(10);

type Object = ObjectRef<MultiArchImage>;

/// The queue of builds, if there are limits.
pub(super) struct Admission {
    limits: Option<BuilderSettings>,
    queue: Mutex<Queue>,
    jobs: Store<Job>,
    pods: Store<Pod>,
    turn_came: UnboundedSender<Object>,
}

impl Admission {
    /// Whenever the turn of a build comes, its image is sent to `turn_came`.
    pub fn new(
        settings: &BuilderSettings,
        jobs: Store<Job>,
        pods: Store<Pod>,
        turn_came: UnboundedSender<Object>,
    ) -> Self {
        let limits = settings.has_limits().then(|| settings.clone());
        Admission { limits, queue: Mutex::new(Queue::new(Timestamp::now())), jobs, pods, turn_came }
    }

    /// What is said of an image's builds; `None` where nothing is limited.
    pub fn turns(&self, object: &Object) -> Option<Turns> {
        let limits = self.limits.as_ref()?;
        let (image, queue) = (key(object), self.lock());
        // Counting Jobs is for those who wait.
        Some(if queue.has(&image) { queue.turns(&image, limits, &self.running()) } else { Turns::new() })
    }

    /// Makes an image's builds those that its plan wants a Job for.
    pub fn ask(&self, object: &Object, tasks: &[Task], at_work_since: Option<Timestamp>, now: Timestamp) {
        let Some(limits) = &self.limits else { return };
        let wanted: BTreeSet<String> = tasks.iter().filter_map(wants_turn).map(str::to_owned).collect();
        let image = key(object);
        let mut queue = self.lock();
        queue.want(&image, &wanted, at_work_since, now);
        let granted = self.grant(&mut queue, limits);
        // It is being planned, and hears of its own turn there.
        self.wake(granted.into_iter().filter(|other| *other != image));
    }

    /// Grants turns that have become free, as when a Job has ended.
    pub fn review(&self) {
        let Some(limits) = &self.limits else { return };
        let granted = self.grant(&mut self.lock(), limits);
        self.wake(granted);
    }

    /// Forgets an image; what it held goes to others.
    pub fn forget(&self, object: &Object) {
        if self.limits.is_some() {
            self.lock().forget(&key(object));
            self.review();
        }
    }

    /// How many builds run, and how many wait for their turn.
    pub fn counts(&self) -> (usize, usize) {
        let jobs = self.jobs.state();
        let running = jobs.iter().filter(|job| is_ours(job) && counts_as_running(job)).count();
        (running, self.lock().waiting())
    }

    fn grant(&self, queue: &mut Queue, limits: &BuilderSettings) -> BTreeSet<ImageKey> {
        if queue.has_waiting() { queue.grant(limits, &self.running()) } else { BTreeSet::new() }
    }

    fn wake(&self, images: impl IntoIterator<Item = ImageKey>) {
        for ImageKey { namespace, name } in images {
            // The receiver lives as long as the controller; after it nobody builds.
            let _ = self.turn_came.unbounded_send(Object::new(&name).within(&namespace));
        }
    }

    fn running(&self) -> Running {
        let mut running = Running::new();
        let pods = self.pods.state();
        let since = Timestamp::now() - STUCK_AFTER;
        let stuck: HashSet<&str> = pods.iter().filter_map(|pod| waits_for_a_node(pod, since)).collect();
        let with_pod: HashSet<&str> = pods.iter().filter_map(|pod| controller_uid(&pod.metadata)).collect();
        let is_stuck = |job: &Job| {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let is_old = job.metadata.creation_timestamp.as_ref().is_some_and(|created| created.0 <= since);
            stuck.contains(uid) || (is_old && !with_pod.contains(uid))
        };
        for job in
            self.jobs.state().iter().filter(|job| is_ours(job) && counts_as_running(job) && !is_stuck(job))
        {
            running.entry(job.namespace().unwrap_or_default()).or_default().insert(job.name_any());
        }
        running
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code panics while it holds the lock in a half-changed state.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The UID of the Job whose pod no node has taken since a time.
fn waits_for_a_node(pod: &Pod, since: Timestamp) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let at = scheduled.last_transition_time.as_ref()?.0;
    controller_uid(&pod.metadata).filter(|_| scheduled.status == "False" && at <= since)
}

/// A label proves nothing: whoever may create Jobs could take every turn with it.
fn is_ours(job: &Job) -> bool {
    controller(&job.metadata).is_some_and(|owner| owner.kind == "MultiArchImage")
}

fn key(object: &Object) -> queue::ImageKey {
    ImageKey { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() }
}

/// The name of the Job that a task wants to see created, now or as soon as it may be.
fn wants_turn(task: &Task) -> Option<&str> {
    match task {
        Task::CreateJob { job, .. } => job.metadata.name.as_deref(),
        Task::AwaitTurn { job, queued: true } => Some(job),
        _ => None,
    }
}
