//! What the probes ask: is the operator alive, and may it be relied on?

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After which silence a part counts as stuck. Requests to the API server end within five minutes, and several may have to
/// end before another one's turn comes; a part that is merely slow must not be killed for it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What an operator is doing as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Starting,
    /// Another operator holds the lease.
    StandingBy {
        holder: String,
    },
    /// It holds the lease, or there is none, and has yet to see everything once.
    Listing,
    Working,
    Stopping,
}

/// A part that gives a sign of life again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The renewal of the lease.
    Lease,
    /// The way of every image: scheduled, reconciled, done.
    Controller,
}

impl Part {
    fn words(self) -> &'static str {
        match self {
            Part::Lease => "the renewal of the lease",
            Part::Controller => "the controller",
        }
    }
}

/// The operator's state and its parts' signs of life.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// When each part that has begun gave its last sign.
    signs: BTreeMap<Part, Instant>,
}

impl Health {
    /// A part goes on. From its first sign on it is expected to give others.
    pub fn sign(&self, part: Part) {
        self.lock().signs.insert(part, Instant::now());
    }

    /// Another operator holds the lease.
    pub fn stands_by(&self, holder: &str) {
        self.lock().state = State::StandingBy { holder: holder.to_owned() };
    }

    /// This operator holds the lease.
    pub fn leads(&self) {
        self.sign(Part::Lease);
        self.lists();
    }

    /// This operator is to do the work.
    pub fn lists(&self) {
        let state = &mut self.lock().state;
        if matches!(state, State::Starting | State::StandingBy { .. }) {
            *state = State::Listing;
        }
    }

    /// Everything has been seen once.
    pub fn works(&self) {
        let state = &mut self.lock().state;
        if *state != State::Stopping {
            *state = State::Working;
        }
    }

    /// It is going.
    pub fn stops(&self) {
        self.lock().state = State::Stopping;
    }

    /// Whether this operator is the one that works.
    pub fn is_leading(&self) -> bool {
        matches!(self.lock().state, State::Listing | State::Working | State::Stopping)
    }

    /// `Ok` with a word for people while every part goes on.
    ///
    /// # Errors
    /// Which part has been silent, and for how long: only a new start helps.
    pub fn live(&self, now: Instant) -> Result<String, String> {
        let inner = self.lock();
        // What is going does so within its grace, whatever its parts do.
        let silent = inner.signs.iter().filter(|_| inner.state != State::Stopping);
        let silent = silent.map(|(part, sign)| (part, now.saturating_duration_since(*sign)));
        match silent.max_by_key(|(_, silence)| *silence) {
            Some((part, silence)) if silence > PATIENCE => {
                Err(format!("{} has been stuck for {} s", part.words(), silence.as_secs()))
            }
            _ => Ok(inner.state.words()),
        }
    }

    /// `Ok` while the operator works, or would as soon as the one that does ends.
    ///
    /// # Errors
    /// What it is doing instead.
    pub fn ready(&self) -> Result<String, String> {
        let state = &self.lock().state;
        match state {
            State::StandingBy { .. } | State::Working => Ok(state.words()),
            State::Starting | State::Listing | State::Stopping => Err(state.words()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock in a half-changed state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn words(&self) -> String {
        match self {
            State::Starting => "starting".to_owned(),
            State::StandingBy { holder } => format!("standing by for {holder}"),
            State::Listing => "listing what is in the cluster".to_owned(),
            State::Working => "working".to_owned(),
            State::Stopping => "stopping".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_has_begun_and_gives_no_sign_any_more_is_stuck() {
        let health = Health::default();
        let now = Instant::now();
        assert_eq!(health.live(now + PATIENCE * 2), Ok("starting".to_owned()), "nothing is expected yet");
        health.sign(Part::Controller);
        assert!(health.live(now + PATIENCE / 2).is_ok());
        let stuck = health.live(now + PATIENCE * 2).expect_err("it is stuck");
        assert!(stuck.starts_with("the controller has been stuck for "), "{stuck}");
        health.sign(Part::Controller);
        assert!(health.live(Instant::now()).is_ok());
    }

    #[test]
    fn what_stands_by_is_ready_and_what_lists_or_stops_is_not() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.stands_by("other");
        assert_eq!(health.ready(), Ok("standing by for other".to_owned()));
        assert!(!health.is_leading());
        health.leads();
        assert!(health.ready().is_err() && health.is_leading());
        health.works();
        health.leads();
        assert_eq!(health.ready(), Ok("working".to_owned()));
        health.stops();
        health.works();
        assert_eq!(health.ready(), Err("stopping".to_owned()));
    }
}
