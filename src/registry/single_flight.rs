//! One upload of a blob to a repository at a time: registries fail when two sessions write one digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::digest::Digest;
use super::reference::Repository;

type Flight = tokio::sync::Mutex<()>;

/// The uploads under way.
#[derive(Default)]
pub(crate) struct SingleFlight {
    flights: Mutex<HashMap<(Repository, Digest), Weak<Flight>>>,
}

impl SingleFlight {
    /// Waits until nobody else uploads `digest` to `repository`; nobody else will while the guard lives.
    pub(crate) async fn enter(&self, repository: &Repository, digest: &Digest) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            let entry = flights.entry((repository.clone(), digest.clone())).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let flight = Arc::default();
                *entry = Arc::downgrade(&flight);
                flight
            })
        };
        flight.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_blob_waits_and_others_do_not() {
        let flights = SingleFlight::default();
        let (one, two): (Repository, Repository) = ("a.io/one".parse().unwrap(), "a.io/two".parse().unwrap());
        let digest = Digest::sha256(b"");
        let guard = flights.enter(&one, &digest).await;
        let _other_repository = flights.enter(&two, &digest).await;
        let _other_blob = flights.enter(&one, &Digest::sha256(b"x")).await;
        let mut second = std::pin::pin!(flights.enter(&one, &digest));
        assert!(futures::poll!(&mut second).is_pending());
        drop(guard);
        second.await;
    }
}
