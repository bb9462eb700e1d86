//! `multiarch lint`: what the API server would refuse in files, and what a wise colleague would say about the rest.

mod build;
mod conflicts;
mod files;
mod finding;
mod platforms;
mod target;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use self::conflicts::Publishers;
use self::finding::{Advice, Finding, Report};
pub use self::finding::{Rule, Severity};
use super::document::Document;
use super::exit::{self, Exit, Failure};
use super::output::{OutputArguments, OutputFormat, RED, YELLOW, readable};
use super::{Error, progress, resource};
use crate::api::MultiArchImage;

/// What to look at.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, or folders of them, with MultiArchImages; `-` is standard input. Other kinds are passed over.
    #[arg(value_name = "FILE", required_unless_present = "named")]
    files: Vec<PathBuf>,
    /// The same; may be given more than once.
    #[arg(short = 'f', long = "filename", value_name = "FILE", id = "named")]
    named: Vec<PathBuf>,
    /// Warnings fail too.
    #[arg(long)]
    strict: bool,
    /// What is not to be said; may be given more than once.
    #[arg(long, value_enum, value_name = "RULE", value_delimiter = ',', hide_possible_values = true)]
    allow: Vec<Rule>,
    #[command(flatten)]
    output: OutputArguments,
}

/// Says what is wrong with the `MultiArchImage`s of the files.
///
/// # Errors
/// When a file cannot be read, something in it would be refused or, with `--strict`, is unwise.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    if let Some(rule) = arguments.allow.iter().find(|rule| matches!(rule, Rule::Yaml | Rule::Schema)) {
        let message = format!("--allow {}: what the API server refuses is refused", rule.name());
        return Err(Failure::usage(message).into());
    }
    let paths: Vec<PathBuf> = arguments.files.iter().chain(&arguments.named).cloned().collect();
    let mut findings = Vec::new();
    let (mut resources, mut empty) = (0, Vec::new());
    let mut publishers = Publishers::default();
    for file in files::read(&paths)? {
        match files::resources(&file.text) {
            Ok(documents) => {
                resources += documents.len();
                if file.is_named && documents.is_empty() {
                    empty.push(file.name.clone());
                }
                for document in &documents {
                    findings.extend(look_at(&file.name, document, &mut publishers));
                }
            }
            Err((line, message)) => {
                let advice = Advice::new(Rule::Yaml, "", message);
                findings.push(finding(&file.name, line, "", advice));
            }
        }
    }
    let report = Report::new(resources, findings, &arguments.allow);
    let printed = arguments.output.output.print(&report, table);
    exit::conclude(printed, conclude(&report, &empty, arguments))
}

/// `empty` are files that were named, and have nothing of ours in them.
fn conclude(report: &Report, empty: &[String], arguments: &Arguments) -> Result<(), Error> {
    for file in empty {
        progress::say(&format!("{file}: there is no MultiArchImage in it"));
    }
    if report.errors > 0 || (arguments.strict && (report.warnings > 0 || !empty.is_empty())) {
        return Err(Failure::new(Exit::VerificationFailed, report.summary()).into());
    }
    if arguments.output.output == OutputFormat::Table {
        progress::say(&report.summary());
    }
    Ok(())
}

fn look_at(file: &str, document: &Document, publishers: &mut Publishers) -> Vec<Finding> {
    let name = name(&document.value);
    let advice = match resource::check(&document.value) {
        Err(problems) => {
            let refusals = problems.into_iter();
            refusals.map(|problem| Advice::new(Rule::Schema, problem.path, problem.reason)).collect()
        }
        Ok(image) => {
            let place = |path: &str| match document.line(path) {
                Some(line) => format!("{file}:{line}"),
                None => file.to_owned(),
            };
            let mut advice = publishers.add(&name, &image, place);
            advice.extend(advise(&image, &document.value));
            advice
        }
    };
    advice.into_iter().map(|advice| finding(file, document.line(&advice.path), &name, advice)).collect()
}

/// What is to be said about a resource that the API server accepts.
fn advise(image: &MultiArchImage, document: &Value) -> Vec<Advice> {
    let written = document.get("spec").cloned().unwrap_or_default();
    let mut advice = target::advise(&image.spec);
    advice.extend(platforms::advise(&image.spec, &written));
    advice.extend(build::advise(&image.spec, &written));
    advice
}

/// The same as lines for people.
pub(super) fn advice(image: &MultiArchImage, document: &Value) -> Vec<String> {
    let advice = advise(image, document).into_iter();
    advice.map(|Advice { rule, path, message }| format!("{path}: {message} [{}]", rule.name())).collect()
}

fn name(value: &Value) -> String {
    let of = |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    match (of("namespace"), of("name").unwrap_or_default()) {
        (Some(namespace), name) => format!("{namespace}/{name}"),
        (None, name) => name.to_owned(),
    }
}

fn finding(file: &str, line: Option<u64>, resource: &str, advice: Advice) -> Finding {
    let Advice { rule, path, message } = advice;
    let (file, resource) = (file.to_owned(), resource.to_owned());
    Finding { file, line, severity: rule.severity(), rule, resource, path, message }
}

/// A line for each, as compilers have it.
fn table(report: &Report) -> String {
    report.findings.iter().map(line).collect()
}

fn line(finding: &Finding) -> String {
    let Finding { file, line, severity, rule, path, message, .. } = finding;
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let (style, word) = match severity {
        Severity::Error => (RED, "error"),
        Severity::Warning => (YELLOW, "warning"),
    };
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let said = readable(&format!("{path}{message}"));
    format!("{}{line}: {style}{word}{style:#}: {said} [{}]\n", readable(file), rule.name())
}
