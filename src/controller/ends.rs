//! Writes that have ended and of whose end the status does not tell yet. A stop waits for those.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

use crate::api::MultiArchImage;

type Object = ObjectRef<MultiArchImage>;

/// The objects of such writes.
#[derive(Default)]
pub(super) struct Ends {
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Default)]
struct Open {
    /// No plan has been made since.
    new: HashSet<Object>,
    /// A plan knows, and what it says is not written yet.
    planned: HashSet<Object>,
}

impl Ends {
    /// A write of the object's has ended, and its end is known to whoever plans from now on.
    pub fn add(&self, object: &Object) {
        self.open().new.insert(object.clone());
    }

    /// A plan is about to be made for the object.
    pub fn plan(&self, object: &Object) {
        let open = &mut *self.open();
        open.planned.extend(open.new.take(object));
    }

    /// What that plan says is written.
    pub fn record(&self, object: &Object) {
        self.close(|open| {
            open.planned.remove(object);
        });
    }

    /// The object is gone.
    pub fn forget(&self, object: &Object) {
        self.close(|open| {
            open.planned.remove(object);
            open.new.remove(object);
        });
    }

    /// Done when every end is written.
    pub async fn all_recorded(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open().is_empty() {
                return;
            }
            closed.await;
        }
    }

    fn close(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.open();
        change(&mut open);
        if open.is_empty() {
            self.closed.notify_waiters();
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.planned.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn an_end_that_comes_while_an_earlier_plan_is_written_is_open_until_the_next_one_is() {
        let (ends, web) = (Ends::default(), Object::new("web"));
        let is_done = || ends.all_recorded().now_or_never().is_some();
        assert!(is_done());
        ends.plan(&web);
        ends.add(&web);
        ends.record(&web);
        assert!(!is_done(), "the plan knew nothing of it");
        ends.plan(&web);
        assert!(!is_done(), "nothing is written yet");
        ends.record(&web);
        assert!(is_done());
        ends.add(&web);
        ends.forget(&web);
        assert!(is_done());
    }
}
