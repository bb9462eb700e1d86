//! When a request is tried again.

use std::time::Duration;

use super::error::Error;

/// How often and after which time a request that may be repeated is tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// How often a request is sent at most; 1 for never again.
    pub attempts: u32,
    /// The pause after the first failure; doubles with every further one. A random part of up to a half is taken off.
    pub pause: Duration,
    /// The longest pause of our own choice.
    pub longest_pause: Duration,
    /// The longest `Retry-After` that is waited for. A longer one is left to the caller, in the error.
    pub patience: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 4,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(5),
            patience: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// Calls until it succeeds, fails for good, or has failed often enough.
    pub(crate) async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            match self.pause_after(failures, &error) {
                Some(pause) => {
                    tracing::debug!(%error, failures, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                }
                None => return Err(error),
            }
        }
    }

    /// The pause after that many failures, the last being `error`, or none if it was the last attempt.
    fn pause_after(&self, failures: u32, error: &Error) -> Option<Duration> {
        let asked = error.retry_after().unwrap_or_default();
        if !error.is_transient() || failures >= self.attempts || asked > self.patience {
            return None;
        }
        let doubled = self.pause.saturating_mul(2u32.saturating_pow(failures - 1)).min(self.longest_pause);
        // Spread, or all who failed together come back together.
        Some(doubled.mul_f64(1.0 - fastrand::f64() / 2.0).max(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::error::{Kind, Operation};

    fn error(kind: Kind, retry_after: Option<u64>) -> Error {
        Operation::new("a.io/web", "testing")
            .error(kind, "x")
            .with_retry_after(retry_after.map(Duration::from_secs))
    }

    #[test]
    fn pauses_grow_to_a_limit_and_end() {
        let retry = Retry { attempts: 9, ..Retry::default() };
        let unavailable = error(Kind::Unavailable, None);
        for (failures, longest) in [(1, 250), (2, 500), (3, 1000), (6, 5000), (8, 5000)] {
            let pause = retry.pause_after(failures, &unavailable).unwrap().as_millis();
            assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause}");
        }
        assert_eq!(retry.pause_after(9, &unavailable), None);
    }

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        for kind in [Kind::NotFound, Kind::Denied, Kind::DigestMismatch, Kind::Rejected] {
            assert_eq!(Retry::default().pause_after(1, &error(kind, None)), None);
        }
    }

    #[test]
    fn a_short_retry_after_is_obeyed_and_a_long_one_is_left_to_the_caller() {
        let retry = Retry::default();
        assert_eq!(retry.pause_after(1, &error(Kind::RateLimited, Some(7))), Some(Duration::from_secs(7)));
        assert_eq!(retry.pause_after(1, &error(Kind::RateLimited, Some(60))), None);
    }
}
