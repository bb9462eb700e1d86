//! Runs what the plan wants: starts each task once, remembers how it ended, tries failures again when they are
//! due, and stops at once what is wanted no more.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::channel::mpsc::UnboundedSender;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::task::AbortHandle;

use crate::api::{MultiArchImage, Reason};
use crate::plan::task::{Epoch, Fact, Facts, Failure, Found, Task};

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
}

#[derive(Default)]
struct Entry {
    running: Option<AbortHandle>,
    fact: Option<Fact>,
    attempts: u32,
    /// How long after a good end it is done once more, if it is still wanted.
    repeat_after: Option<SignedDuration>,
    repeat_at: Option<Timestamp>,
    /// When it was started last. Who edits or asks anew has perhaps mended what failed: the failure of an earlier
    /// epoch is forgotten, while what is done or under way stays.
    epoch: Epoch,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Tasks {
    /// No tasks yet. Whenever one ends, its object is sent to `ended`.
    pub fn new(ended: UnboundedSender<Object>) -> Arc<Self> {
        Arc::new(Tasks { objects: Mutex::default(), ended })
    }

    /// How the object's tasks have ended, as far as it counts in an epoch.
    pub fn facts(&self, object: &Object, epoch: &Epoch) -> Facts {
        let mut facts = Facts::default();
        for (key, entry) in self.lock().get(object).into_iter().flatten() {
            if let Some(fact) = entry.fact.as_ref().filter(|_| !entry.is_outdated(epoch)) {
                facts.insert(key.clone(), fact.clone());
            }
        }
        facts
    }

    /// Makes the object's tasks those that are wanted: others are stopped and forgotten, new ones and due
    /// failures are started.
    pub fn want<P: Perform>(
        self: &Arc<Self>,
        object: &Object,
        wanted: Vec<Task>,
        epoch: &Epoch,
        now: Timestamp,
        performer: &P,
    ) {
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
                (entry.fact, entry.attempts) = (None, 0);
            }
            if entry.is_due(now) {
                entry.epoch = epoch.clone();
                entry.repeat_after = task.repeat_after();
                let work = performer.perform(object, task);
                entry.running = Some(self.start(object.clone(), key, work));
            }
        }
    }

    /// Stops and forgets everything of an object.
    pub fn forget(&self, object: &Object) {
        self.lock().remove(object);
    }

    fn start(
        self: &Arc<Self>,
        object: Object,
        key: String,
        work: impl Future<Output = Result<Found, Problem>> + Send + 'static,
    ) -> AbortHandle {
        let tasks = Arc::clone(self);
        let work = tokio::spawn(async move {
            let result =
                AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(Problem::internal()));
            tasks.end(&object, &key, result);
            // The receiver lives as long as the controller; after it nobody needs to know.
            let _ = tasks.ended.unbounded_send(object);
        });
        work.abort_handle()
    }

    fn end(&self, object: &Object, key: &str, result: Result<Found, Problem>) {
        let mut objects = self.lock();
        let Some(entry) = objects.get_mut(object).and_then(|entries| entries.get_mut(key)) else { return };
        // A task that was stopped between its end and this line belongs to nobody.
        if entry.running.as_ref().is_none_or(|running| Some(running.id()) != tokio::task::try_id()) {
            return;
        }
        entry.running = None;
        match result {
            Ok(found) => {
                entry.fact = Some(Fact::Known(found));
                entry.repeat_at = entry.repeat_after.and_then(|wait| Timestamp::now().checked_add(wait).ok());
            }
            Err(problem) => {
                entry.attempts += 1;
                let wait = Failure::retry_after(problem.transient, entry.attempts, problem.retry_after);
                let retry_at = Timestamp::now().saturating_add(wait).unwrap_or(Timestamp::MAX);
                let Problem { reason, message, transient, .. } = problem;
                entry.fact = Some(Fact::Failed(Failure { reason, message, transient, retry_at }));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Object, HashMap<String, Entry>>> {
        // No code panics while it holds the lock in a half-changed state.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
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
        let (tasks, object, epoch) = (Tasks::new(ended), Object::new("web"), Epoch::default());
        let wanted = vec![Task::DeleteJob { name: "web".into(), uid: "uid".into() }];
        let now = Timestamp::now();
        tasks.want(&object, wanted.clone(), &epoch, now, &Succeed);
        ends.next().await;
        tasks.want(&object, wanted.clone(), &epoch, now, &Succeed);
        assert!(ends.try_recv().is_err(), "it was done once");
        tasks.want(&object, wanted, &epoch, now + SignedDuration::from_secs(60), &Succeed);
        assert!(ends.next().await.is_some());
    }

    #[tokio::test]
    async fn the_failure_of_an_earlier_epoch_is_forgotten_and_tried_again_at_once() {
        let (ended, mut ends) = unbounded();
        let (tasks, object, now) = (Tasks::new(ended), Object::new("web"), Timestamp::now());
        let wanted = vec![Task::DeleteJob { name: "web".into(), uid: "uid".into() }];
        let first = Epoch { generation: 1, ..Epoch::default() };
        tasks.want(&object, wanted.clone(), &first, now, &Refuse);
        ends.next().await;
        assert!(tasks.facts(&object, &first).get(&wanted[0]).is_some());
        let second = Epoch { generation: 2, ..Epoch::default() };
        assert!(tasks.facts(&object, &second).get(&wanted[0]).is_none());
        tasks.want(&object, wanted.clone(), &second, now, &Refuse);
        ends.next().await;
        let facts = tasks.facts(&object, &second);
        let Some(Fact::Failed(failure)) = facts.get(&wanted[0]) else { panic!("it did not run again") };
        assert!(failure.retry_at < now + SignedDuration::from_secs(12), "the attempts are counted anew");
    }
}
