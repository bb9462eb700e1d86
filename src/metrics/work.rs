//! What the operator does: reconciliations and tasks.

use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::{Ending, Histograms, Registering, both, ending, one_of_both};
use crate::api::Reason;

/// A reconciliation waits for the API server alone.
const RECONCILIATION_SECONDS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
/// From one request to the copy of a large image.
const TASK_SECONDS: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

pub(super) struct Work {
    reconciliations: Family<Ending, Counter>,
    reconciliation_durations: Histogram,
    tasks: Family<TaskEnding, Counter>,
    tasks_running: Family<TaskKind, Gauge>,
    task_durations: Histograms<TaskKind>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskKind {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskEnding {
    task: &'static str,
    outcome: &'static str,
}

impl Work {
    pub fn register(all: &mut Registering) -> Self {
        let durations: Histograms<TaskKind> = Family::new_with_constructor(|| Histogram::new(TASK_SECONDS));
        Self {
            reconciliations: all.add(
                "reconciliations",
                "Reconciliations, by outcome: Succeeded or Failed",
                both(),
            ),
            reconciliation_durations: all.add_in(
                Unit::Seconds,
                "reconciliation_duration",
                "How long reconciliations took",
                Histogram::new(RECONCILIATION_SECONDS),
            ),
            tasks: all.add(
                "tasks",
                "Tasks that have ended, by outcome: Succeeded, Stopped when wanted no more, or the reason of the failure",
                Family::default(),
            ),
            tasks_running: all.add("tasks_running", "Tasks that are under way", Family::default()),
            task_durations: all.add_in(
                Unit::Seconds,
                "task_duration",
                "How long tasks took, the wait for their turn included",
                durations,
            ),
        }
    }

    pub fn reconciled(&self, succeeded: bool, took: Duration) {
        self.reconciliations.get_or_create(&one_of_both(succeeded)).inc();
        self.reconciliation_durations.observe(took.as_secs_f64());
    }

    pub fn begin(&self, task: &'static str) -> RunningTask {
        let kind = TaskKind { task };
        let running = self.tasks_running.get_or_create_owned(&kind);
        running.inc();
        let duration = self.task_durations.get_or_create_owned(&kind);
        let (ended, begun) = (self.tasks.clone(), Instant::now());
        RunningTask { task, outcome: "Stopped", begun, running, duration, ended }
    }
}

/// A task under way. One that is dropped before it is told how it ended was stopped.
pub struct RunningTask {
    task: &'static str,
    outcome: &'static str,
    begun: Instant,
    running: Gauge,
    duration: Histogram,
    ended: Family<TaskEnding, Counter>,
}

impl RunningTask {
    /// It ended by itself: well, or for a reason.
    pub fn end(mut self, failed: Option<Reason>) {
        self.outcome = ending(failed).outcome;
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.running.dec();
        self.duration.observe(self.begun.elapsed().as_secs_f64());
        self.ended.get_or_create(&TaskEnding { task: self.task, outcome: self.outcome }).inc();
    }
}
