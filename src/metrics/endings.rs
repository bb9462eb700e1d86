//! What came of it: builds, publications, drift.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::{Ending, Histograms, Registering, ending};
use crate::api::Reason;
use crate::plan::Outcome;
use crate::platform::Platform;

/// How long builds take: 5 s to 2 h.
const SECONDS: [f64; 11] = [5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0];

/// How builds end, as a rule. A counter that begins at 1 has not grown, as Prometheus sees it, so those that are to be
/// expected begin at 0: an alert on the first failure would never be raised.
const OF_BUILDS: [Option<Reason>; 7] = [
    None,
    Some(Reason::BuildFailed),
    Some(Reason::BuildTimeout),
    Some(Reason::BuildOutOfMemory),
    Some(Reason::BuildEvicted),
    Some(Reason::BuildDiskFull),
    Some(Reason::BuildResultLost),
];
/// The same of publications.
const OF_PUBLICATIONS: [Option<Reason>; 8] = [
    None,
    Some(Reason::PushDenied),
    Some(Reason::AuthenticationFailed),
    Some(Reason::RegistryUnavailable),
    Some(Reason::RateLimited),
    Some(Reason::TagExists),
    Some(Reason::TagConflict),
    Some(Reason::PolicyDenied),
];

pub(super) struct Endings {
    builds: Family<BuildEnding, Counter>,
    build_durations: Histograms<BuildKind>,
    publications: Family<Ending, Counter>,
    drift_found: Counter,
    drift_corrected: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildEnding {
    platform: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildKind {
    platform: String,
    emulated: bool,
}

impl Endings {
    pub fn register(all: &mut Registering) -> Self {
        let durations: Histograms<BuildKind> = Family::new_with_constructor(|| Histogram::new(SECONDS));
        let publications: Family<Ending, Counter> = Family::default();
        for failed in OF_PUBLICATIONS {
            drop(publications.get_or_create(&ending(failed)));
        }
        Self {
            builds: all.add(
                "builds",
                "Builds that have ended, by platform and outcome: Succeeded, or the reason of the failure",
                Family::default(),
            ),
            build_durations: all.add_in(
                Unit::Seconds,
                "build_duration",
                "From the start of a build's Job to its end, whatever its outcome",
                durations,
            ),
            publications: all.add(
                "publications",
                "Publications of an index at its target or a mirror, by outcome: Succeeded, or the reason of the failure",
                publications,
            ),
            drift_found: all.add(
                "drift_found",
                "How often published tags were found to be others than were published",
                Counter::default(),
            ),
            drift_corrected: all.add(
                "drift_corrected",
                "How often published tags that had drifted were right again",
                Counter::default(),
            ),
        }
    }

    pub fn count(&self, outcome: &Outcome) {
        match outcome {
            Outcome::BuildBegun { platform } => {
                for failed in OF_BUILDS {
                    let (platform, outcome) = (label(platform), ending(failed).outcome);
                    drop(self.builds.get_or_create(&BuildEnding { platform, outcome }));
                }
            }
            Outcome::Build { platform, emulated, failed, took } => {
                let platform = label(platform);
                let outcome = ending(*failed).outcome;
                self.builds.get_or_create(&BuildEnding { platform: platform.clone(), outcome }).inc();
                let kind = BuildKind { platform, emulated: *emulated };
                if let Some(took) = took {
                    self.build_durations.get_or_create(&kind).observe(took.as_secs_f64());
                }
            }
            Outcome::Publication { failed } => _ = self.publications.get_or_create(&ending(*failed)).inc(),
            Outcome::DriftFound => _ = self.drift_found.inc(),
            Outcome::DriftCorrected => _ = self.drift_corrected.inc(),
        }
    }
}

/// A platform in its normal spelling, without a variant where a spec may invent one: each would be a series.
fn label(platform: &str) -> String {
    let Ok(platform) = platform.parse::<Platform>() else { return "other".to_owned() };
    match platform.architecture() {
        "amd64" | "arm" => platform.to_string(),
        architecture => format!("{}/{architecture}", platform.os()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_spec_cannot_invent_labels() {
        let labels = ["linux/arm64/v8.77", "linux/mips/mine", "linux/arm/v6", "linux/x86_64/v3", "my/own"];
        let labels = labels.map(super::label);
        assert_eq!(labels, ["linux/arm64", "linux/mips", "linux/arm/v6", "linux/amd64/v3", "other"]);
    }
}
