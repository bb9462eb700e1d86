//! How much may be under way at once, over all and in one namespace: whoever is slow or wants much keeps others from nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Tasks of a few requests to registries and git servers.
const REQUESTS: usize = 64;
/// Copies of images, which may take minutes. What they hold in memory is bounded by blobs, not by copies.
const COPIES: usize = 32;
/// Images that are unpacked; each may take [`crate::image::MOST_MEMORY`].
pub(crate) const UNPACKING: usize = 2;
/// A namespace gets the fourth part of each, and never everything.
const fn share(limit: usize) -> usize {
    if limit / 4 > 1 { limit / 4 } else { 1 }
}

/// The budgets of what leaves the cluster: the quick does not wait for the slow.
pub struct Budgets {
    /// Of tasks of a few requests.
    pub requests: Budget,
    /// Of copies.
    pub copies: Budget,
    /// Of images that are unpacked.
    pub unpacking: Budget,
}

impl Budgets {
    /// Those of an operator. If it works for one namespace alone, that one gets everything.
    pub fn new(is_for_one_namespace: bool) -> Self {
        let of = |limit| Budget::new(limit, if is_for_one_namespace { limit } else { share(limit) });
        Budgets { requests: of(REQUESTS), copies: of(COPIES), unpacking: of(UNPACKING) }
    }
}

/// Permits for one sort of work.
pub struct Budget {
    all: Arc<Semaphore>,
    share: usize,
    namespaces: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// What is under way holds one, of the namespace and of all.
pub struct Permit {
    _of_namespace: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `limit`, of which a namespace gets `share` at most.
    pub fn new(limit: usize, share: usize) -> Self {
        Budget { all: Arc::new(Semaphore::new(limit)), share, namespaces: Mutex::default() }
    }

    /// Waits for a place. Whoever has waited longest is next, of those whose namespace has not got its share already.
    pub async fn acquire(&self, namespace: &str) -> Result<Permit, AcquireError> {
        let of_namespace = self.of(namespace).acquire_owned().await?;
        let of_all = Arc::clone(&self.all).acquire_owned().await?;
        Ok(Permit { _of_namespace: of_namespace, _of_all: of_all })
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = namespaces.get(namespace) {
            return Arc::clone(known);
        }
        // Those who hold or await a permit hold their semaphore as well.
        namespaces.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        Arc::clone(
            namespaces.entry(namespace.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.share))),
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_namespace_that_wants_everything_keeps_no_other_from_its_turn() {
        let budget = Budget::new(4, 2);
        let get = |namespace: &str| budget.acquire(namespace).now_or_never().and_then(Result::ok);
        let flood: Vec<Permit> = (0..100).map_while(|_| get("greedy")).collect();
        assert_eq!(flood.len(), 2, "its share and no more");
        // More of the same that waits stands in nobody's way.
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(budget.acquire("greedy"))).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let other = get("modest").expect("a place");
        drop(other);
        assert!(get("modest").is_some());
        drop(waiting);
        drop(flood);
        assert!(get("greedy").is_some(), "what was given back is there");
    }

    #[test]
    fn whoever_waits_gets_the_next_place_whatever_namespaces_share_all() {
        let budget = Budget::new(2, 1);
        let get = |namespace: &str| budget.acquire(namespace).now_or_never().and_then(Result::ok);
        let (first, _second) = (get("a").expect("a place"), get("b").expect("a place"));
        let mut third = Box::pin(budget.acquire("c"));
        assert!((&mut third).now_or_never().is_none());
        let mut again = Box::pin(budget.acquire("a"));
        assert!((&mut again).now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn namespaces_that_want_nothing_are_forgotten() {
        let budget = Budget::new(2, 1);
        let get = |namespace: &str| budget.acquire(namespace).now_or_never().and_then(Result::ok);
        let held = get("a");
        drop(get("b"));
        drop(get("c"));
        let known = budget.namespaces.lock().expect("a lock").len();
        assert_eq!(known, 2, "a holds a permit, and c came last");
        drop(held);
    }
}
