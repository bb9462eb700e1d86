//! Times as kubectl tells them: how long ago, in as many words as one reads at a glance.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// How long ago something was: `42s`, `3m20s`, `42m`, `5h`, `12d`. Clocks differ: what has not been yet was just now.
pub(super) fn since(time: &Time, now: Timestamp) -> String {
    seconds(now.duration_since(time.0).as_secs())
}

/// The time between two moments, in the same way.
pub(super) fn between(start: &Time, end: &Time) -> String {
    seconds(end.0.duration_since(start.0).as_secs())
}

fn seconds(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds if seconds < 10 * MINUTE => match (seconds / MINUTE, seconds % MINUTE) {
            (minutes, 0) => format!("{minutes}m"),
            (minutes, seconds) => format!("{minutes}m{seconds}s"),
        },
        seconds if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_as_kubectl_tells_them() {
        for (age, told) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (10 * MINUTE, "10m"),
            (2 * HOUR, "120m"),
            (3 * HOUR, "3h"),
            (47 * HOUR, "47h"),
            (12 * DAY + 1, "12d"),
        ] {
            assert_eq!(seconds(age), told);
        }
    }
}
