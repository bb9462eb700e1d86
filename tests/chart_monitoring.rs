//! The alerts and the dashboard of the chart: Prometheus understands them, and they ask for nothing but documented metrics.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use support::chart::{NAME, case, folder, kustomize, object, objects, render, try_render};
use support::{devcluster, root};

/// A metric that an expression asks for, and the labels that it chooses by.
#[derive(Deserialize)]
struct Selector {
    metric: String,
    labels: Vec<String>,
}

/// What expressions ask for, in their order; Prometheus' own parser reads them.
fn selectors(expressions: &[String]) -> Vec<Vec<Selector>> {
    let program = devcluster::run(&["tool", "promql"]);
    let mut child = Command::new(program.trim())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promql starts");
    // Variables that Grafana fills in.
    let line = |text: &String| {
        text.replace("$__rate_interval", "5m").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = expressions.iter().map(line).collect();
    child.stdin.take().expect("standard input").write_all(lines.join("\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("promql ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let found: Vec<Vec<Selector>> =
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(found.len(), expressions.len());
    found
}

/// The metrics of the documentation's tables and their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).expect("the page of metrics");
    let mut metrics = BTreeMap::new();
    for row in
        page.lines().filter(|line| line.starts_with("| `multiarch_") || line.starts_with("| `process_"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _] = cells.as_slice() else { panic!("{row}") };
        let name = name.trim_matches('`');
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        // Of Prometheus: which target it was.
        let labels: BTreeSet<String> =
            labels.chain(["job", "instance", "namespace", "service"].map(str::to_owned)).collect();
        if *kind == "histogram" {
            let buckets = labels.iter().cloned().chain(["le".to_owned()]).collect();
            metrics.insert(format!("{name}_bucket"), buckets);
        }
        metrics.insert(name.to_owned(), labels);
    }
    assert!(metrics.len() > 20, "only {:?}", metrics.keys());
    metrics
}

/// The words between the parentheses that follow `by` and `on`.
fn grouped_by(expression: &str) -> Vec<String> {
    let rest = [" by (", " on ("].into_iter().flat_map(|word| expression.split(word).skip(1));
    let inner = rest.filter_map(|rest| rest.split(')').next());
    inner.flat_map(|labels| labels.split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn check(expressions: &[String]) {
    let documented = documented();
    for (expression, selectors) in expressions.iter().zip(selectors(expressions)) {
        assert!(!selectors.is_empty(), "{expression} asks for nothing");
        let mut known = BTreeSet::new();
        for Selector { metric, labels } in selectors {
            let Some(has) = documented.get(&metric) else {
                panic!("no metric {metric} is documented: {expression}")
            };
            assert!(labels.iter().all(|label| has.contains(label)), "{metric} has {has:?}: {expression}");
            known.extend(has);
        }
        let grouped = grouped_by(expression);
        assert!(grouped.iter().all(|label| known.contains(label)), "{grouped:?}: {expression}");
    }
}

fn alerts(rule: &Value) -> Vec<&Value> {
    let groups = rule["spec"]["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect()
}

#[test]
fn every_alert_asks_for_documented_metrics_and_says_what_to_do() {
    let rendered = render(case("monitoring"));
    let alerts = alerts(object(&rendered, "PrometheusRule", NAME));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    check(&alerts.iter().map(|alert| text(&alert["expr"])).collect::<Vec<_>>());
    let page = std::fs::read_to_string(root().join("docs/install.md")).expect("the page");
    for alert in &alerts {
        let name = text(&alert["alert"]);
        assert!(
            ["info", "warning", "critical"].contains(&text(&alert["labels"]["severity"]).as_str()),
            "{name}"
        );
        assert_eq!(alert["labels"]["team"], "platform", "the labels of the values");
        assert!(text(&alert["annotations"]["description"]).len() > 40, "{name}");
        // Restarts are counted over an hour anyway.
        assert!(alert["for"].is_string() || name == "MultiArchOperatorRestarts", "{name} fires at once");
        assert!(page.contains(&format!("| `{name}` | ")), "{name} is not documented");
    }
}

#[test]
fn alerts_are_about_their_own_release_alone() {
    let values = "{fullnameOverride: ours, metrics: {prometheusRule: {enabled: true}}}";
    let rendered = try_render(NAME, "builds", values).map(|text| objects(&text)).expect("it renders");
    for alert in alerts(object(&rendered, "PrometheusRule", "ours")) {
        let expression = alert["expr"].as_str().expect("an expression");
        let metrics = expression.matches("multiarch_").count() + expression.matches("process_").count();
        let ours = expression.matches(r#"{namespace="builds",service="ours""#).count();
        assert_eq!(ours, metrics, "{expression}");
    }
}

#[test]
fn alerts_can_be_left_out_and_added() {
    let values = "metrics: {prometheusRule: {enabled: true, disabled: [MultiArchBuildsQueue], additionalGroups: [{name: ours, rules: []}]}}";
    let rendered = render(values);
    let rule = object(&rendered, "PrometheusRule", NAME);
    let names: Vec<&str> = alerts(rule).into_iter().filter_map(|alert| alert["alert"].as_str()).collect();
    assert!(
        names.contains(&"MultiArchImagesStalled") && !names.contains(&"MultiArchBuildsQueue"),
        "{names:?}"
    );
    assert_eq!(rule["spec"]["groups"][1]["name"], "ours");
    let all = kustomize("config/prometheus");
    assert_eq!(alerts(object(&all, "PrometheusRule", NAME)).len(), names.len() + 1);
}

#[test]
fn every_panel_of_the_dashboard_asks_for_documented_metrics() {
    let text = std::fs::read_to_string(folder().join("files/dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let rendered = render(case("monitoring"));
    let shipped =
        &object(&rendered, "ConfigMap", "multiarch-operator-dashboard")["data"]["multiarch-operator.json"];
    assert_eq!(serde_json::from_str::<Value>(shipped.as_str().expect("text")).expect("JSON"), dashboard);
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect();
    assert!(expressions.len() > 20, "only {}", expressions.len());
    check(&expressions);
}
