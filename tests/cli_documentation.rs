//! Every command line of ours in the documentation is one that the command understands.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/markdown.rs"]
mod markdown;

use clap::{CommandFactory as _, Parser as _, ValueEnum as _};
use markdown::Page;
use multiarch::cli::lint::{Rule, Severity};
use multiarch::cli::{Cli, exit};

/// The pages with the most command lines, and how many each has at least; fewer were not found.
const DOCUMENTS: [(&str, usize); 4] =
    [("README.md", 3), ("docs/cli.md", 25), ("docs/coming-from.md", 35), ("docs/kubectl.md", 20)];
/// The commands that talk to a cluster and have their sections in `docs/kubectl.md`.
const OF_CLUSTER: [&str; 9] =
    ["status", "why", "logs", "wait", "reconcile", "rebuild", "suspend", "resume", "platforms"];
/// Those that need none and have theirs in `docs/cli.md`.
const OF_FILES: [&str; 3] = ["create", "lint", "render"];

fn read(path: &str) -> String {
    markdown::page_at(path).text
}

/// What is in blocks for shells, and what is in sentences and has a flag or an argument, if it begins with our name.
fn command_lines(page: &Page) -> Vec<String> {
    let shell =
        page.blocks.iter().filter(|block| ["sh", "bash", "console"].contains(&block.language.as_str()));
    let typed = |line: &str| line.trim_start_matches("$ ").trim_start_matches("kubectl ").to_owned();
    let typed: Vec<String> = shell
        .flat_map(|block| block.code.replace("\\\n", " ").lines().map(typed).collect::<Vec<_>>())
        .collect();
    let ours = |line: &String| line.starts_with("multiarch ");
    // Names of commands, as in "`multiarch operator`" and "`multiarch index copy …`", are no command lines.
    let named = |code: &str| if code.starts_with("multiarch index ") { 3 } else { 2 };
    let is_whole = |code: &&String| ours(code) && !code.contains('…') && words(code).len() > named(code);
    let inline = page.inline.iter().filter(is_whole).cloned();
    typed.into_iter().filter(ours).chain(inline).collect()
}

/// The words of a command line, up to the pipe or the file that takes its output.
fn words(line: &str) -> Vec<String> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("no shell reads {line}"));
    words.into_iter().take_while(|word| !matches!(word.as_str(), "|" | ">" | "&&" | ";")).collect()
}

#[test]
fn every_command_line_on_every_page_is_understood() {
    let lines: Vec<(String, String)> = markdown::pages()
        .iter()
        .flat_map(|page| command_lines(page).into_iter().map(|line| (page.path.clone(), line)))
        .collect();
    for (document, least) in DOCUMENTS {
        let found = lines.iter().filter(|(path, _)| path == document).count();
        assert!(found >= least, "{document}: only {found} command lines were found");
    }
    let wrong = |(path, line): &(String, String)| {
        Cli::try_parse_from(words(line)).err().map(|error| format!("{path}: {line}\n{error}"))
    };
    let wrong: Vec<String> = lines.iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_and_every_flag_is_documented() {
    let text = read("docs/cli.md");
    let cli = Cli::command();
    let index = cli.find_subcommand("index").expect("the command");
    for command in index.get_subcommands() {
        let name = format!("`{}`", command.get_name());
        let mut headings = text.lines().filter(|line| line.starts_with("## "));
        assert!(headings.any(|heading| heading.contains(&name)), "{name} is missing");
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(text.contains(&format!("--{flag}")), "{} --{flag} is missing", command.get_name());
        }
    }
}

#[test]
fn every_command_for_a_cluster_and_every_flag_is_documented() {
    let text = read("docs/kubectl.md");
    let cli = Cli::command();
    for name in OF_CLUSTER {
        assert!(text.lines().any(|line| line == format!("## `{name}`")), "{name} is missing");
        let command = cli.find_subcommand(name).expect("the command");
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(text.contains(&format!("--{flag}")), "{name} --{flag} is missing");
        }
    }
}

#[test]
fn every_command_for_files_and_every_flag_and_rule_is_documented() {
    let text = read("docs/cli.md");
    let cli = Cli::command();
    for name in OF_FILES {
        let sections: Vec<&str> = text.split("\n## ").collect();
        let heading = format!("`multiarch {name}`\n");
        let section = sections.iter().find(|section| section.starts_with(&heading));
        let section = section.unwrap_or_else(|| panic!("{name} is missing"));
        let command = cli.find_subcommand(name).expect("the command");
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(section.contains(&format!("--{flag}")), "{name} --{flag} is missing");
        }
    }
    for rule in Rule::value_variants() {
        let severity = if rule.severity() == Severity::Error { "error" } else { "warning" };
        assert!(text.contains(&format!("| `{}` | {severity} | ", rule.name())), "{rule:?} is missing");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let text = read("docs/cli.md");
    for line in exit::HELP.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').expect("a code and its meaning");
        assert!(text.contains(&format!("| {code} | {}", meaning.trim())), "{line}");
    }
}
