use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Levels, Metrics};
use crate::api::{MultiArchImage, Reason};
use crate::plan::Outcome;
use crate::registry::{Delivery, Descriptor, Digest, MediaType, Observer as _};

/// Metrics of which everything has been counted once.
fn full() -> Metrics {
    let metrics = Metrics::new();
    let build = |failed| Outcome::Build {
        platform: "linux/arm64".to_owned(),
        emulated: true,
        failed,
        took: Some(SignedDuration::from_secs(90)),
    };
    let publication = |failed| Outcome::Publication { failed };
    metrics.count(&[build(None), build(Some(Reason::BuildOutOfMemory)), Outcome::DriftFound]);
    metrics.count(&[publication(None), publication(Some(Reason::PushDenied)), Outcome::DriftCorrected]);
    metrics.reconciled(true, Duration::from_millis(3));
    metrics.task("Publish").end(None);
    metrics.set_leader(true);
    metrics.answered(&Method::GET, Some(StatusCode::OK), Duration::from_millis(30));
    metrics.token_asked_for(true);
    let blob = Descriptor::new(MediaType::OCI_CONFIG, Digest::sha256(b""), 7);
    metrics.moved(&blob, 7);
    metrics.delivered(&"a.test/web".parse().expect("a repository"), &blob, Delivery::Mounted);
    metrics.follow(|| Levels::of(&[], 0, 0));
    metrics
}

/// The value of a series, written as it is exposed.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.encode().expect("text");
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_metric_stands_in_the_documentation_with_its_type_and_its_labels() {
    let text = full().encode().expect("text");
    let mut exposed: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            exposed.insert(format!("{name}{suffix}"), (kind.to_owned(), BTreeSet::new()));
        }
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        let name =
            ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let labels = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(label, _)| label);
        let (_, known) = exposed.get_mut(name).unwrap_or_else(|| panic!("{name} has no type"));
        known.extend(labels.map(str::to_owned).filter(|label| label != "le"));
    }
    let page = include_str!("../../docs/operations.md");
    let mut documented = BTreeMap::new();
    for row in page.lines().filter(|row| row.starts_with("| `multiarch_") || row.starts_with("| `process_")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("{row}") };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        documented.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
    }
    assert_eq!(documented, exposed);
}

#[test]
fn what_may_fail_is_there_at_0_before_it_fails_for_the_first_time() {
    let metrics = Metrics::new();
    for series in [
        "multiarch_publications_total{outcome=\"PushDenied\"}",
        "multiarch_reconciliations_total{outcome=\"Failed\"}",
        "multiarch_registry_tokens_total{outcome=\"Failed\"}",
        "multiarch_drift_found_total",
    ] {
        assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    }
    let failed = "multiarch_builds_total{platform=\"linux/arm64\",outcome=\"BuildFailed\"}";
    assert_eq!(value(&metrics, failed), None);
    metrics.count(&[Outcome::BuildBegun { platform: "linux/aarch64".to_owned() }]);
    assert_eq!(value(&metrics, failed), Some(0.0));
}

#[test]
fn a_task_that_is_dropped_was_stopped_and_runs_no_more() {
    let metrics = Metrics::new();
    let (running, other) = (metrics.task("CopyImage"), metrics.task("CopyImage"));
    assert_eq!(value(&metrics, "multiarch_tasks_running{task=\"CopyImage\"}"), Some(2.0));
    drop(running);
    other.end(Some(Reason::RateLimited));
    assert_eq!(value(&metrics, "multiarch_tasks_running{task=\"CopyImage\"}"), Some(0.0));
    for outcome in ["Stopped", "RateLimited"] {
        let series = format!("multiarch_tasks_total{{task=\"CopyImage\",outcome=\"{outcome}\"}}");
        assert_eq!(value(&metrics, &series), Some(1.0), "{series}");
    }
}

#[test]
fn a_server_cannot_invent_labels() {
    let metrics = Metrics::new();
    for code in [299, 599, 600, 999] {
        let code = StatusCode::from_u16(code).expect("a code");
        metrics.answered(&Method::GET, Some(code), Duration::ZERO);
    }
    metrics.answered(&Method::GET, None, Duration::ZERO);
    let of = |code: &str| {
        value(&metrics, &format!("multiarch_registry_requests_total{{method=\"GET\",code=\"{code}\"}}"))
    };
    assert_eq!((of("other"), of("none")), (Some(4.0), Some(1.0)));
}

fn image(suspend: bool, conditions: &[(&str, &str)], phases: &[&str]) -> MultiArchImage {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(type_, status)| {
            json!({"type": type_, "status": status, "reason": "Any", "message": "", "observedGeneration": 2,
                "lastTransitionTime": "2026-01-02T03:04:05Z"})
        })
        .collect();
    let platforms: Vec<_> =
        phases.iter().map(|phase| json!({"platform": "linux/amd64", "phase": phase})).collect();
    serde_json::from_value(json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
        "metadata": {"name": "web", "generation": 2},
        "spec": {"target": {"repository": "registry.test/web", "tags": ["1"]}, "platforms": [], "suspend": suspend},
        "status": {"conditions": conditions, "platforms": platforms},
    }))
    .expect("a MultiArchImage")
}

#[test]
fn images_are_counted_by_state_and_platforms_by_phase() {
    let images = [
        image(false, &[("Ready", "True"), ("Drifted", "True")], &["Ready", "Ready"]),
        image(false, &[("Ready", "False"), ("Stalled", "True")], &["Ready", "Failed"]),
        image(false, &[("Ready", "Unknown"), ("Reconciling", "True")], &["Waiting"]),
        image(false, &[], &[]),
        image(true, &[("Ready", "True")], &["Ready"]),
    ];
    let metrics = Metrics::new();
    assert_eq!(value(&metrics, "multiarch_images{state=\"Ready\"}"), None, "nothing is known yet");
    metrics.follow(move || Levels::of(&images, 3, 4));
    for (series, expected) in [
        ("multiarch_images{state=\"Ready\"}", 1.0),
        ("multiarch_images{state=\"Stalled\"}", 1.0),
        ("multiarch_images{state=\"Reconciling\"}", 2.0),
        ("multiarch_images{state=\"Suspended\"}", 1.0),
        ("multiarch_images_drifted", 1.0),
        ("multiarch_platforms{phase=\"Ready\"}", 4.0),
        ("multiarch_platforms{phase=\"Waiting\"}", 1.0),
        ("multiarch_platforms{phase=\"Building\"}", 0.0),
        ("multiarch_builds_running", 3.0),
        ("multiarch_builds_queued", 4.0),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_tells_what_it_costs() {
    let metrics = Metrics::new();
    let resident = value(&metrics, "process_resident_memory_bytes").expect("a figure");
    let started = value(&metrics, "process_start_time_seconds").expect("a figure");
    assert!(resident > 1_000_000.0, "{resident}");
    let ago = jiff::Timestamp::now().as_second() as f64 - started;
    assert!((-5.0..3600.0).contains(&ago), "{ago}");
}
