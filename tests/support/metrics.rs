//! What an operator exposes, and what Prometheus makes of it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::operator::Operator;
use crate::support::{PATIENCE, devcluster};

/// One scrape.
pub struct Scrape {
    pub content_type: String,
    pub text: String,
}

impl Scrape {
    pub async fn of(operator: &Operator) -> Scrape {
        let url = format!("http://{}/metrics", operator.address().await);
        let answer = reqwest::get(url).await.expect("an answer").error_for_status().expect("metrics");
        let content_type = answer.headers()["content-type"].to_str().expect("text").to_owned();
        Scrape { content_type, text: answer.text().await.expect("text") }
    }

    /// Until a series has at least a value. What is counted is counted after the status is written.
    pub async fn until(operator: &Operator, series: &str, least: f64) -> Scrape {
        let reached = async {
            loop {
                let scrape = Scrape::of(operator).await;
                if scrape.value(series) >= least {
                    return scrape;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(scrape) => scrape,
            Err(_) => panic!("{series} never came to be {least}:\n{}", Scrape::of(operator).await.text),
        }
    }

    /// The value of a series as it is written there; 0 where it is not.
    pub fn value(&self, series: &str) -> f64 {
        self.series().get(series).copied().unwrap_or_default()
    }

    /// The sum of the series that begin so.
    pub fn sum(&self, prefix: &str) -> f64 {
        self.series().iter().filter(|(series, _)| series.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    fn series(&self) -> BTreeMap<&str, f64> {
        let samples = self.text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        samples.map(|(series, value)| (series, value.parse().expect("a number"))).collect()
    }

    /// The names as Prometheus has them.
    pub fn names(&self) -> BTreeSet<String> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.map(|(name, kind)| format!("{name}{}", if kind == "counter" { "_total" } else { "" })).collect()
    }

    /// What Prometheus' parser and its conventions find fault with.
    pub fn faults(&self) -> String {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| devcluster::run(&["tool", "promlint"]).trim().into());
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("standard input");
        let text = self.text.clone();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("the program ends");
        writer.join().expect("a thread").expect("it reads everything");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }
}
