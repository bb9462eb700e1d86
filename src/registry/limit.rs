//! How many requests a host gets at once: fewer as soon as it complains, one more after a while of peace.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many requests a host gets at once as long as it does not complain: sixteen images of three blobs each, all at
/// once, are 64.
const MOST: usize = 64;

/// A bound that halves when the host complains (`429`) and grows by one after as many quiet answers as it allows at
/// once: what TCP does with its window (RFC 5681). Complaints about what was sent before it halved count no more.
pub(crate) struct Limit {
    turns: Semaphore,
    state: Mutex<State>,
}

struct State {
    /// The bound.
    allowed: usize,
    most: usize,
    /// Turns that are to be withdrawn when they come back.
    surplus: usize,
    /// Answers without complaint since the bound last changed.
    quiet: usize,
    /// How often the bound was halved.
    halvings: u64,
}

/// The right to one request.
pub(crate) struct Turn<'a> {
    limit: &'a Limit,
    permit: Option<SemaphorePermit<'a>>,
    halvings: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Limit {
    /// At most `most` at once, and at least one.
    pub(crate) fn of(most: usize) -> Self {
        let most = most.max(1);
        let state = State { allowed: most, most, surplus: 0, quiet: 0, halvings: 0 };
        Self { turns: Semaphore::new(most), state: Mutex::new(state) }
    }

    /// Waits for a turn, first come, first served.
    pub(crate) async fn enter(&self) -> Turn<'_> {
        let permit = self.turns.acquire().await.ok();
        let mut turn = self.pass();
        turn.permit = permit;
        turn
    }

    /// A turn that is not waited for and not counted, for what somebody waits for who has a turn.
    pub(crate) fn pass(&self) -> Turn<'_> {
        let halvings = self.state.lock().unwrap_or_else(PoisonError::into_inner).halvings;
        Turn { limit: self, permit: None, halvings }
    }

    fn learn(&self, complained: bool, halvings: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if complained {
            if halvings < state.halvings {
                return;
            }
            state.halvings += 1;
            let allowed = (state.allowed / 2).max(1);
            let fewer = state.allowed - allowed;
            state.surplus += fewer - self.turns.forget_permits(fewer);
            (state.allowed, state.quiet) = (allowed, 0);
            return;
        }
        state.quiet += 1;
        if state.allowed < state.most && state.quiet >= state.allowed {
            (state.allowed, state.quiet) = (state.allowed + 1, 0);
            match state.surplus {
                0 => self.turns.add_permits(1),
                _ => state.surplus -= 1,
            }
        }
    }
}

impl Turn<'_> {
    /// Tells how the request was answered.
    pub(crate) fn answered(self, complained: bool) {
        self.limit.learn(complained, self.halvings);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// How many may enter right now.
    fn free(limit: &Limit) -> usize {
        let turns: Vec<Turn<'_>> = std::iter::from_fn(|| limit.enter().now_or_never()).collect();
        turns.len()
    }

    async fn answers(limit: &Limit, count: usize, complained: bool) {
        for _ in 0..count {
            limit.enter().await.answered(complained);
        }
    }

    #[tokio::test]
    async fn a_host_that_complains_gets_half_as_many_requests_and_never_none() {
        let limit = Limit::of(8);
        for expected in [4, 2, 1, 1] {
            answers(&limit, 1, true).await;
            assert_eq!(free(&limit), expected);
        }
    }

    #[tokio::test]
    async fn a_host_at_peace_gets_one_more_after_a_round_of_answers_up_to_its_bound() {
        let limit = Limit::of(3);
        answers(&limit, 2, true).await;
        assert_eq!(free(&limit), 1);
        answers(&limit, 1, false).await;
        assert_eq!(free(&limit), 2);
        answers(&limit, 2, false).await;
        assert_eq!(free(&limit), 3);
        answers(&limit, 20, false).await;
        assert_eq!(free(&limit), 3);
    }

    #[tokio::test]
    async fn complaints_about_one_burst_halve_the_bound_once() {
        let limit = Limit::of(8);
        let mut burst = Vec::new();
        for _ in 0..8 {
            burst.push(limit.enter().await);
        }
        for turn in burst {
            turn.answered(true);
        }
        assert_eq!(free(&limit), 4);
    }

    #[tokio::test]
    async fn turns_that_are_out_when_the_bound_falls_are_withdrawn_as_they_come_back() {
        let limit = Limit::of(4);
        let mut out = Vec::new();
        for _ in 0..4 {
            out.push(limit.enter().await);
        }
        out.pop().unwrap().answered(true);
        assert_eq!(free(&limit), 0, "three are out where two are allowed");
        out.pop();
        out.pop();
        assert_eq!(free(&limit), 1);
        drop(out);
        assert_eq!(free(&limit), 2);
    }
}
