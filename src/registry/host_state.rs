//! What a host has taught us, so that the next request need not find it out again.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::challenge::Challenge;
use super::limit::Limit;

/// How many blobs are sent to one host at once.
const MOST_SENDERS: usize = 8;

/// What is known of one host.
pub(crate) struct HostState {
    challenge: Mutex<Option<Challenge>>,
    part: AtomicU64,
    no_mounts: AtomicBool,
    limit: Limit,
    senders: Semaphore,
    several_tags: Mutex<SeveralTags>,
}

/// Whether a manifest can be written under several tags at once.
#[derive(Default)]
enum SeveralTags {
    #[default]
    NeverWanted,
    Unknown,
    Known(bool),
}

impl HostState {
    /// Nothing is known yet, but how many requests at once the settings allow.
    pub(crate) fn allowing(most: Option<NonZeroUsize>) -> Self {
        // Half are left to what takes less time.
        let senders = most.map_or(MOST_SENDERS, |most| most.get().div_ceil(2).min(MOST_SENDERS));
        Self {
            challenge: Mutex::default(),
            part: AtomicU64::default(),
            no_mounts: AtomicBool::default(),
            limit: most.map_or_else(Limit::default, |most| Limit::of(most.get())),
            senders: Semaphore::new(senders),
            several_tags: Mutex::default(),
        }
    }

    /// What the host wanted the last time; saves the request that only finds out.
    pub(crate) fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Without the scope, which is that of one request to one repository.
    pub(crate) fn remember(&self, challenge: &Challenge) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge.without_scope());
    }

    pub(crate) fn forget_challenge(&self) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The size of the parts in which uploads are sent, in bytes; none to send them whole.
    pub(crate) fn part(&self) -> Option<u64> {
        Some(self.part.load(Ordering::Relaxed)).filter(|&part| part > 0)
    }

    pub(crate) fn send_parts(&self, part: u64) {
        self.part.store(part, Ordering::Relaxed);
    }

    /// Whether the host does not know what mounting is.
    pub(crate) fn has_no_mounts(&self) -> bool {
        self.no_mounts.load(Ordering::Relaxed)
    }

    pub(crate) fn remember_no_mounts(&self) {
        self.no_mounts.store(true, Ordering::Relaxed);
    }

    /// Turns to send it blobs.
    pub(crate) fn senders(&self) -> &Semaphore {
        &self.senders
    }

    /// How many requests it takes at once.
    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Whether it is worth trying to write a manifest under several tags at once.
    pub(crate) fn may_take_several_tags(&self) -> bool {
        let mut several = self.several_tags.lock().unwrap_or_else(PoisonError::into_inner);
        match *several {
            SeveralTags::NeverWanted => {
                *several = SeveralTags::Unknown;
                false
            }
            SeveralTags::Unknown => true,
            SeveralTags::Known(known) => known,
        }
    }

    pub(crate) fn takes_several_tags(&self, takes: bool) {
        *self.several_tags.lock().unwrap_or_else(PoisonError::into_inner) = SeveralTags::Known(takes);
    }
}
