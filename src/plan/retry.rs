//! When what failed is tried again. Whoever fails together does not come back together: waits are spread, by a hash, so
//! that one failure always gives the same time.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use jiff::{SignedDuration, Timestamp};

use super::fact::Failure;
use super::task::Task;

/// How a task has failed, as far as it counts for the next attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How many failures in a row there are by now, at least 1.
    pub count: u32,
    /// Whether the cause may pass by itself.
    pub transient: bool,
    /// How long the other side asked to be left alone.
    pub asked: Option<SignedDuration>,
}

impl Failure {
    /// When to try again after `attempts` failures in a row (at least 1): transient ones from 1 s, lasting ones
    /// from 10 s, doubling up to 1 and 5 minutes; not before what the other side asked for, an hour at
    /// most.
    pub fn retry_after(transient: bool, attempts: u32, asked: Option<SignedDuration>) -> SignedDuration {
        let longest = SignedDuration::from_secs(if transient { 60 } else { 300 });
        doubled(transient, attempts).min(longest).max(granted(asked))
    }
}

impl Task {
    /// When it is tried again that has failed at a time; `seed` tells the image from all others. A look at what is published
    /// is taken ever more rarely, until it is back at its moments: while a registry is down nobody looks more often.
    pub fn retry_at(&self, failed: Timestamp, attempt: Attempt, seed: &str) -> Timestamp {
        let Attempt { count, transient, asked } = attempt;
        let seed = (seed, self.key(), count);
        let after = |wait| failed.saturating_add(spread(wait, &seed)).unwrap_or(Timestamp::MAX);
        match self {
            Task::Check { slots, .. } => {
                after(doubled(transient, count)).min(slots.after(failed)).max(after(granted(asked)))
            }
            _ => after(Failure::retry_after(transient, count, asked)),
        }
    }
}

fn doubled(transient: bool, attempts: u32) -> SignedDuration {
    let first = if transient { 1 } else { 10 };
    SignedDuration::from_secs(first << attempts.saturating_sub(1).min(10))
}

fn granted(asked: Option<SignedDuration>) -> SignedDuration {
    asked.unwrap_or(SignedDuration::ZERO).min(SignedDuration::from_hours(1))
}

/// A wait, and up to a quarter of it more.
pub fn spread(wait: SignedDuration, seed: &impl Hash) -> SignedDuration {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let thousandths = i32::try_from(hasher.finish() % 250).unwrap_or_default();
    wait.saturating_add(wait / 1000 * thousandths)
}
