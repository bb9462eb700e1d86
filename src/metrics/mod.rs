//! What the operator counts, as Prometheus reads it: `docs/operations.md` has the table.
//!
//! There is one [`Metrics`] in a process, made where the operator is set up and handed to whoever has something to
//! count: no global, so tests have their own. No label holds a name of an object, a namespace or a host: how many series
//! there are does not depend on how many images, tenants and registries there are. Counters begin at 0 with the process.

mod endings;
mod levels;
mod process;
mod traffic;
mod work;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::api::Reason;
use crate::plan::Outcome;
pub use levels::{ImageState, Levels};
pub use work::RunningTask;

/// The media type of what [`Metrics::encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The end of what went well, beside the reasons of what did not.
const SUCCEEDED: &str = "Succeeded";
/// The end of what did not go well, where there is no reason to tell.
const FAILED: &str = "Failed";

/// Everything that is counted. Cheap to clone: clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Registry,
    endings: endings::Endings,
    work: work::Work,
    traffic: traffic::Traffic,
    leader: Gauge,
    levels: Arc<levels::Source>,
}

/// Registers everything as it is made.
struct Registering(Registry);

impl Registering {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    /// One whose name ends in its unit.
    fn add_in<M: Metric + Clone>(&mut self, unit: Unit, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, unit, metric.clone());
        metric
    }
}

/// Histograms by labels.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildInfo {
    version: &'static str,
    revision: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// Nothing has been counted yet.
    pub fn new() -> Self {
        let mut all = Registering(Registry::with_prefix("multiarch"));
        let endings = endings::Endings::register(&mut all);
        let work = work::Work::register(&mut all);
        let traffic = traffic::Traffic::register(&mut all);
        let help = "Whether this process does the work, 1, or stands by, 0";
        let leader = all.add("leader", help, Gauge::default());
        let info = Family::<BuildInfo, Gauge>::default();
        let revision = option_env!("MULTIARCH_REVISION").unwrap_or("unknown");
        info.get_or_create(&BuildInfo { version: env!("CARGO_PKG_VERSION"), revision }).set(1);
        all.add("build_info", "The version of the operator and the commit it was made from, always 1", info);
        let levels = levels::register(&mut all.0);
        Self(Arc::new(Shared { registry: all.0, endings, work, traffic, leader, levels }))
    }

    /// Everything as it is now, in the text format of OpenMetrics 1.0 ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// Never in practice: what is written to is memory.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.0.registry)?;
        // Their names are the same in every program, and have no prefix of ours.
        encode_registry(&mut text, &process::registry())?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    /// Counts what has happened.
    pub fn count(&self, outcomes: &[Outcome]) {
        outcomes.iter().for_each(|outcome| self.0.endings.count(outcome));
    }

    /// Counts a reconciliation.
    pub fn reconciled(&self, succeeded: bool, took: Duration) {
        self.0.work.reconciled(succeeded, took);
    }

    /// Counts a task of a kind that begins; what is given is told how it ends.
    pub fn task(&self, kind: &'static str) -> RunningTask {
        self.0.work.begin(kind)
    }

    /// Whether this process does the work now, or another one that it stands by for.
    pub fn set_leader(&self, is_leader: bool) {
        self.0.leader.set(i64::from(is_leader));
    }

    /// From now on asks `source` at every scrape how things stand. Nothing is said of it before.
    pub fn follow(&self, source: impl Fn() -> Levels + Send + Sync + 'static) {
        self.0.levels.set(source);
    }
}

/// Of what either goes well or not, at 0.
fn both() -> Family<Ending, Counter> {
    let family: Family<Ending, Counter> = Family::default();
    for outcome in [SUCCEEDED, FAILED] {
        drop(family.get_or_create(&Ending { outcome }));
    }
    family
}

fn one_of_both(succeeded: bool) -> Ending {
    Ending { outcome: if succeeded { SUCCEEDED } else { FAILED } }
}

/// Why something ended as it did, for a label: the reasons are a closed set.
fn ending(failed: Option<Reason>) -> Ending {
    Ending { outcome: failed.map_or(SUCCEEDED, Reason::as_str) }
}
