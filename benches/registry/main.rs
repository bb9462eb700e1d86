//! The command beside crane, regctl, buildx, skopeo and curl: whole processes, the same work, the content checked
//! before the times are compared. Prints tables in Markdown; the figures go to `target/bench/registry.json`.
//!
//! Machines are noisy: the tools take turns, and of the runs of each the one in the middle counts.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a measuring program")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a measuring program")]
#![allow(missing_docs, reason = "nobody else uses this")]

mod bare;
mod front;
mod images;
mod measure;
mod publishing;
mod report;
mod settings;
mod startup;
mod throughput;
mod token;
mod tools;

#[path = "../../tests/support/registry.rs"]
mod registry;

use std::process::ExitCode;
use std::time::Instant;

use publishing::{Row, Scene, Stage};
use report::Report;
use settings::Settings;
use tools::Tool;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // Before there is a runtime or anything else that takes memory.
    if arguments.next().as_deref() == Some(measure::STARTER) {
        return measure::start_and_measure(&arguments.next().expect("commands"));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&Settings::from_environment()))
}

async fn run(settings: &Settings) -> ExitCode {
    let tools: Vec<Tool> = Tool::PUBLISHERS.into_iter().chain([Tool::Curl]).collect();
    let versions: Vec<_> = tools.iter().map(|&tool| (tool, tool.version())).collect();
    let missing: Vec<&str> =
        versions.iter().filter(|entry| entry.1.is_none()).map(|entry| entry.0.name()).collect();
    if !missing.is_empty() {
        eprintln!("missing: {}. `make bench-tools` installs or names what it takes.", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let named = versions.into_iter().filter_map(|(tool, version)| Some((tool, version?)));
    let mut report = Report { tools: named.collect(), ..Report::default() };
    let publishers = Tool::PUBLISHERS;
    if settings.wants("publishing") || settings.wants("again") {
        let stage = Stage::set(settings).await;
        report.trip_milliseconds = stage.trip_milliseconds().await;
        if settings.wants("publishing") {
            report.publishing = play(&stage, publishing::scenes(settings.full), &publishers).await;
        }
        if settings.wants("again") {
            report.again = play(&stage, publishing::again(), &publishers).await;
        }
    }
    if settings.wants("throughput") {
        eprintln!("throughput");
        report.throughput = throughput::measure(settings, &tools).await;
    }
    if settings.wants("startup") {
        eprintln!("start-up");
        report.startup = startup::measure(settings, &tools).await;
    }
    let json = serde_json::to_vec_pretty(&report).expect("JSON");
    std::fs::create_dir_all(tools::results()).expect("a folder");
    std::fs::write(tools::results().join("registry.json"), json).expect("a file");
    println!("{}", report.markdown());
    if report.ours_is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn play(stage: &Stage, scenes: Vec<Scene>, tools: &[Tool]) -> Vec<Row> {
    let count = scenes.len();
    let mut rows = Vec::new();
    // The first of everything is slower, and nobody's fault.
    if let Some(&first) = scenes.first() {
        stage.play(first, tools).await;
    }
    for (number, scene) in scenes.into_iter().enumerate() {
        let began = Instant::now();
        rows.push(stage.play(scene, tools).await);
        eprintln!(
            "{}/{count} {}, {} platforms, {} tags, {} ms{}: {:.0} s",
            number + 1,
            scene.place.name(),
            scene.platforms,
            scene.tags,
            scene.delay_milliseconds,
            if scene.tokens { ", token" } else { "" },
            began.elapsed().as_secs_f64()
        );
    }
    rows
}
