//! Runs what the plan wants: starts each task once, remembers how it ended, tries failures again when they are
//! due, and stops at once what is wanted no more.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::channel::mpsc::UnboundedSender;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span};

use super::ends::Ends;
use crate::api::{MultiArchImage, Reason};
use crate::metrics::{Metrics, RunningTask};
use crate::plan::fact::{Fact, Facts, Failure, Found};
use crate::plan::retry::Attempt;
use crate::plan::task::{Epoch, Task};
use crate::telemetry;

type Object = ObjectRef<MultiArchImage>;

/// How a task failed, before it is known how often.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The machine-readable cause.
    pub reason: Reason,
    /// The leaf cause, the place and what to do.
    pub message: String,
    /// Whether it may pass by itself.
    pub transient: bool,
    /// How long the other side asked to be left alone.
    pub retry_after: Option<SignedDuration>,
}

impl Problem {
    /// A mistake of ours: it must not leave the task running for ever.
    fn internal() -> Self {
        Problem {
            reason: Reason::InternalError,
            message: "the operator made a mistake; its log has the details, please report them".to_owned(),
            transient: false,
            retry_after: None,
        }
    }
}

/// Performs tasks. The operator has one; tests have their own.
pub trait Perform: Send + Sync + 'static {
    /// Does one task for an object. Dropping the future stops the work and leaves nothing half done.
    fn perform(
        &self,
        object: &Object,
        task: Task,
    ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static;
}

/// The tasks of every object.
pub struct Tasks {
    objects: Mutex<HashMap<Object, HashMap<String, Entry>>>,
    ended: UnboundedSender<Object>,
    metrics: Metrics,
    /// Everything that runs, and of that what changes something others see.
    running: TaskTracker,
    writing: TaskTracker,
    /// Nothing is begun any more.
    is_closed: AtomicBool,
    ends: Ends,
}

#[derive(Default)]
struct Entry {
    running: Option<AbortHandle>,
    fact: Option<Fact>,
    attempts: u32,
    /// Since when every end has left something open.
    failing_since: Option<Timestamp>,
    /// How long it is left alone after its last failure.
    wait: SignedDuration,
    /// What was started last, which knows when to do it once more.
    started: Option<Task>,
    repeat_at: Option<Timestamp>,
    /// When it was started last. Who edits or asks anew has perhaps mended what failed: the failure of an earlier
    /// epoch is forgotten, while what is done or under way stays.
    epoch: Epoch,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Tasks {
    /// No tasks yet. Whenever one ends, its object is sent to `ended`.
    pub fn new(ended: UnboundedSender<Object>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Tasks {
            objects: Mutex::default(),
            ended,
            metrics,
            running: TaskTracker::new(),
            writing: TaskTracker::new(),
            is_closed: AtomicBool::new(false),
            ends: Ends::default(),
        })
    }

    /// How the object's tasks have ended, as far as it counts in an epoch.
    pub fn facts(&self, object: &Object, epoch: &Epoch, now: Timestamp) -> Facts {
        self.ends.plan(object);
        let mut facts = Facts::default();
        for (key, entry) in self.lock().get_mut(object).into_iter().flatten() {
            entry.bound_waits(now);
            if let Some(fact) = entry.fact.as_ref().filter(|_| !entry.is_outdated(epoch)) {
                facts.insert(key.clone(), fact.clone());
                entry.failing_since.into_iter().for_each(|since| facts.insert_failing(key.clone(), since));
            }
        }
        facts
    }

    /// Cancels what runs for the object and is not wanted. How tasks have ended stays known until a status tells of it.
    pub fn cancel_unwanted(&self, object: &Object, wanted: &[Task]) {
        let keys: HashSet<String> = wanted.iter().map(Task::key).collect();
        let mut objects = self.lock();
        let entries = objects.get_mut(object).into_iter().flatten();
        entries.filter(|(key, _)| !keys.contains(*key)).for_each(|(_, entry)| entry.cancel());
    }

    /// Makes the object's tasks those that are wanted: others are cancelled and forgotten, new ones and due
    /// failures are started. What the plan makes of the facts stands in the status by now.
    pub fn want<P: Perform>(
        self: &Arc<Self>,
        object: &Object,
        wanted: Vec<Task>,
        epoch: &Epoch,
        now: Timestamp,
        performer: &P,
    ) {
        self.ends.record(object);
        let mut objects = self.lock();
        if wanted.is_empty() {
            objects.remove(object);
            return;
        }
        let entries = objects.entry(object.clone()).or_default();
        let keys: HashSet<String> = wanted.iter().map(Task::key).collect();
        entries.retain(|key, _| keys.contains(key));
        for task in wanted {
            let key = task.key();
            let entry = entries.entry(key.clone()).or_default();
            if entry.is_outdated(epoch) {
                (entry.fact, entry.attempts, entry.failing_since) = (None, 0, None);
            }
            let is_open = !self.is_closed.load(Ordering::Acquire);
            if is_open && entry.is_due(now) && !matches!(task, Task::AwaitTurn { .. }) {
                entry.epoch = epoch.clone();
                entry.started = Some(task.clone());
                let running = self.metrics.task(task.kind());
                // At the highest level, so that no filter takes its fields from the lines that it leaves.
                let span = tracing::error_span!("task", task = task.kind(), task_id = identifier(&key));
                let writing = task.writes().then(|| self.writing.token());
                let work = performer.perform(object, task);
                entry.running = Some(self.start(object.clone(), key, work, (running, writing), span));
            }
        }
    }

    /// The publications of an object that are under way.
    pub fn publications(&self, object: &Object) -> Vec<Task> {
        let objects = self.lock();
        let running = objects.get(object).into_iter().flat_map(HashMap::values);
        let running =
            running.filter(|entry| entry.running.is_some()).filter_map(|entry| entry.started.as_ref());
        let writes_tags = |task: &&Task| matches!(task, Task::Publish { .. } | Task::PutBack { .. });
        running.filter(writes_tags).cloned().collect()
    }

    /// Begins nothing more, stops what only reads or copies, and waits for what is changing something others see and until
    /// what came of that is written.
    pub async fn finish(&self) {
        self.is_closed.store(true, Ordering::Release);
        let is_stopped = |entry: &&Entry| !entry.started.as_ref().is_some_and(Task::writes);
        self.lock().values().flat_map(HashMap::values).filter(is_stopped).for_each(Entry::abort);
        self.writing.close();
        self.writing.wait().await;
        self.ends.all_recorded().await;
    }

    /// Stops everything, and waits until nothing runs any more.
    pub async fn stop(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.lock().clear();
        self.running.close();
        self.running.wait().await;
    }

    /// Stops and forgets everything of an object.
    pub fn forget(&self, object: &Object) {
        self.lock().remove(object);
        self.ends.forget(object);
    }

    /// How many tasks of the object are under way.
    #[cfg(test)]
    pub fn running(&self, object: &Object) -> usize {
        self.lock().get(object).into_iter().flatten().filter(|(_, entry)| entry.running.is_some()).count()
    }

    fn start(
        self: &Arc<Self>,
        object: Object,
        key: String,
        work: impl Future<Output = Result<Found, Problem>> + Send + 'static,
        (running, writing): (RunningTask, Option<TaskTrackerToken>),
        span: Span,
    ) -> AbortHandle {
        let tasks = Arc::clone(self);
        let around = span.clone();
        let work = async move {
            let result =
                AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(Problem::internal()));
            match &result {
                Ok(_) => tracing::debug!("done"),
                Err(problem) => {
                    telemetry::fail(&span, problem.reason.as_str());
                    tracing::debug!(reason = problem.reason.as_str(), "{}", problem.message);
                }
            }
            running.end(result.as_ref().err().map(|problem| problem.reason));
            tasks.end(&object, &key, result);
            // The receiver lives as long as the controller; after it nobody needs to know.
            let _ = tasks.ended.unbounded_send(object);
            drop(writing);
        };
        self.running.spawn(work.instrument(around)).abort_handle()
    }

    fn end(&self, object: &Object, key: &str, result: Result<Found, Problem>) {
        let mut objects = self.lock();
        let Some(entry) = objects.get_mut(object).and_then(|entries| entries.get_mut(key)) else { return };
        // A task that was stopped between its end and this line belongs to nobody.
        if entry.running.as_ref().is_none_or(|running| Some(running.id()) != tokio::task::try_id()) {
            return;
        }
        entry.running = None;
        let writes = entry.started.as_ref().is_some_and(Task::writes);
        match result {
            Ok(found) => {
                entry.fact = Some(Fact::Known(found));
                entry.repeat_at = entry.started.as_ref().and_then(|task| task.repeat_at(Timestamp::now()));
            }
            Err(problem) => {
                entry.attempts += 1;
                let Problem { reason, message, transient, retry_after: asked } = problem;
                let attempt = Attempt { count: entry.attempts, transient, asked };
                let (now, seed) = (Timestamp::now(), object.extra.uid.as_deref().unwrap_or_default());
                let retry_at = entry.started.as_ref().map_or(now, |task| task.retry_at(now, attempt, seed));
                entry.wait = retry_at.duration_since(now);
                entry.fact = Some(Fact::Failed(Failure { reason, message, transient, retry_at }));
            }
        }
        let is_incomplete = entry.fact.as_ref().is_some_and(Fact::is_incomplete);
        entry.failing_since = is_incomplete.then(|| entry.failing_since.unwrap_or_else(Timestamp::now));
        if writes {
            self.ends.add(object);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Object, HashMap<String, Entry>>> {
        // No code panics while it holds the lock in a half-changed state.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one task from another in the log; its key is long.
fn identifier(key: &str) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!("{:08x}", hasher.finish() & u64::from(u32::MAX))
}

impl Entry {
    fn cancel(&mut self) {
        self.abort();
        self.running = None;
    }

    fn abort(&self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }

    /// Where the clock was put back, nothing is due later than it would be if it had ended now.
    fn bound_waits(&mut self, now: Timestamp) {
        if let Some(Fact::Failed(failure)) = &mut self.fact {
            let latest = now.saturating_add(self.wait).unwrap_or(Timestamp::MAX);
            failure.retry_at = failure.retry_at.min(latest);
        }
        let latest = self.started.as_ref().and_then(|task| task.repeat_at(now));
        self.repeat_at = self.repeat_at.map(|at| latest.map_or(at, |latest| at.min(latest)));
    }

    fn is_outdated(&self, epoch: &Epoch) -> bool {
        matches!(self.fact, Some(Fact::Failed(_))) && self.epoch != *epoch
    }

    fn is_due(&self, now: Timestamp) -> bool {
        match (&self.running, &self.fact) {
            (Some(_), _) => false,
            (None, Some(Fact::Known(_))) => self.repeat_at.is_some_and(|at| at <= now),
            (None, Some(Fact::Failed(failure))) => failure.retry_at <= now,
            (None, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::channel::mpsc::unbounded;

    use super::*;

    struct Refuse;

    impl Perform for Refuse {
        fn perform(
            &self,
            _: &Object,
            _: Task,
        ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static {
            std::future::ready(Err(Problem::lasting(Reason::PushDenied, "denied")))
        }
    }

    struct Succeed;

    impl Perform for Succeed {
        fn perform(
            &self,
            _: &Object,
            _: Task,
        ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static {
            std::future::ready(Ok(Found::Done))
        }
    }

    #[tokio::test]
    async fn a_write_whose_effect_is_never_seen_is_done_again_in_time_and_not_before() {
        let (ended, mut ends) = unbounded();
        let (tasks, object, epoch) =
            (Tasks::new(ended, Metrics::new()), Object::new("web"), Epoch::default());
        let wanted = vec![Task::DeleteJob { name: "web".into(), uid: "uid".into() }];
        let now = Timestamp::now();
        tasks.want(&object, wanted.clone(), &epoch, now, &Succeed);
        ends.next().await;
        tasks.want(&object, wanted.clone(), &epoch, now, &Succeed);
        assert!(ends.try_recv().is_err(), "it was done once");
        tasks.want(&object, wanted, &epoch, now + SignedDuration::from_secs(60), &Succeed);
        assert!(ends.next().await.is_some());
    }

    /// Begins, and never ends.
    struct Hang;

    impl Perform for Hang {
        fn perform(
            &self,
            _: &Object,
            _: Task,
        ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static {
            std::future::pending()
        }
    }

    #[tokio::test]
    async fn what_is_wanted_no_more_is_cancelled_before_a_status_tells_and_what_has_ended_stays_known() {
        let (ended, mut ends) = unbounded();
        let (tasks, object, epoch) =
            (Tasks::new(ended, Metrics::new()), Object::new("web"), Epoch::default());
        let task = |name: &str| Task::DeleteJob { name: name.into(), uid: "uid".into() };
        let now = Timestamp::now();
        tasks.want(&object, vec![task("done")], &epoch, now, &Succeed);
        ends.next().await;
        tasks.want(&object, vec![task("done"), task("runs")], &epoch, now, &Hang);
        tasks.cancel_unwanted(&object, &[]);
        tasks.running.close();
        tasks.running.wait().await;
        let facts = tasks.facts(&object, &epoch, now);
        assert!(facts.get(&task("done")).is_some() && facts.get(&task("runs")).is_none());
        // The status could not be written, and the next plan wants it after all.
        tasks.want(&object, vec![task("done"), task("runs")], &epoch, now, &Succeed);
        ends.next().await;
        assert!(tasks.facts(&object, &epoch, now).get(&task("runs")).is_some());
    }

    #[tokio::test]
    async fn the_failure_of_an_earlier_epoch_is_forgotten_and_tried_again_at_once() {
        let (ended, mut ends) = unbounded();
        let (tasks, object, now) = (Tasks::new(ended, Metrics::new()), Object::new("web"), Timestamp::now());
        let wanted = vec![Task::DeleteJob { name: "web".into(), uid: "uid".into() }];
        let first = Epoch { generation: 1, ..Epoch::default() };
        tasks.want(&object, wanted.clone(), &first, now, &Refuse);
        ends.next().await;
        assert!(tasks.facts(&object, &first, now).get(&wanted[0]).is_some());
        let second = Epoch { generation: 2, ..Epoch::default() };
        assert!(tasks.facts(&object, &second, now).get(&wanted[0]).is_none());
        tasks.want(&object, wanted.clone(), &second, now, &Refuse);
        ends.next().await;
        let facts = tasks.facts(&object, &second, now);
        let Some(Fact::Failed(failure)) = facts.get(&wanted[0]) else { panic!("it did not run again") };
        assert!(failure.retry_at < now + SignedDuration::from_secs(15), "the attempts are counted anew");
    }

    #[tokio::test]
    async fn a_clock_that_is_put_back_delays_no_further_attempt_and_no_look() {
        let (ended, mut ends) = unbounded();
        let (tasks, object, epoch) =
            (Tasks::new(ended, Metrics::new()), Object::new("web"), Epoch::default());
        let wanted = vec![Task::DeleteJob { name: "web".into(), uid: "uid".into() }];
        tasks.want(&object, wanted.clone(), &epoch, Timestamp::now(), &Refuse);
        ends.next().await;
        let earlier = Timestamp::now() - SignedDuration::from_hours(1);
        let retry_at = |now: Timestamp| match tasks.facts(&object, &epoch, now).get(&wanted[0]) {
            Some(Fact::Failed(failure)) => failure.retry_at,
            other => panic!("{other:?}"),
        };
        let wait = SignedDuration::from_secs(15);
        assert!(retry_at(earlier) <= earlier + wait);
        tasks.want(&object, wanted.clone(), &epoch, earlier + wait, &Succeed);
        ends.next().await;
        // What was done is done once more as soon as the new clock says so.
        let grace = SignedDuration::from_secs(30);
        tasks.facts(&object, &epoch, earlier);
        tasks.want(&object, wanted.clone(), &epoch, earlier + grace, &Refuse);
        ends.next().await;
        assert!(matches!(tasks.facts(&object, &epoch, earlier).get(&wanted[0]), Some(Fact::Failed(_))));
    }
}
