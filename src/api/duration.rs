//! Durations as Go writes them, read from what anybody may have written.

use kube::core::Duration;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The longest that a spec may say, ten years; the schema's rules refuse more.
const LONGEST: u64 = 87_600 * 3600;

/// kube's parser panics where a number of hours is more than a duration can hold.
fn parse(text: &str) -> Result<Duration, String> {
    let too_long = || format!("{text:?} is longer than ten years");
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    if text.len() > 64 || digits > 9 {
        return Err(too_long());
    }
    let duration: Duration = text.parse().map_err(|error| format!("{text:?} is not a duration: {error}"))?;
    if duration.is_negative() || std::time::Duration::from(duration).as_secs() > LONGEST {
        return Err(too_long());
    }
    Ok(duration)
}

/// For `deserialize_with`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For `deserialize_with` of a field that may be missing.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| parse(&text))
        .transpose()
        .map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_that_somebody_writes_makes_us_panic() {
        for text in [
            "99999999999999999999h",
            "9999999999999s",
            "1e300h",
            "-1h",
            "999999999h",
            "1h999999999h",
            "x",
            "1",
            &"9m".repeat(40),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("87600h", LONGEST),
            ("0.000000001h", 0),
        ] {
            assert_eq!(
                parse(text).map(|duration| std::time::Duration::from(duration).as_secs()),
                Ok(seconds),
                "{text}"
            );
        }
    }
}
