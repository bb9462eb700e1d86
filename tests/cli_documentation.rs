//! Every command line of ours in the documentation is one that the command understands.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use multiarch::cli::{Cli, exit};

/// The documents, and how many command lines each has at least; fewer were not found.
const DOCUMENTS: [(&str, usize); 3] = [("README.md", 3), ("docs/cli.md", 25), ("docs/coming-from.md", 35)];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is in blocks for shells and in inline code, if it begins with our name.
fn command_lines(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in markdown.split("```").enumerate() {
        if number % 2 == 1 {
            let joined = part.replace("\\\n", " ");
            let lines = joined.lines().map(|line| line.trim_start_matches("$ ").to_owned());
            found.extend(lines.filter(|line| line.starts_with("multiarch ")));
        } else {
            let inline = part.split('`').skip(1).step_by(2);
            found.extend(inline.filter(|code| code.starts_with("multiarch ")).map(str::to_owned));
        }
    }
    found
}

/// The words of a command line, up to the pipe or the file that takes its output.
fn words(line: &str) -> Vec<String> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("no shell reads {line}"));
    words.into_iter().take_while(|word| !matches!(word.as_str(), "|" | ">" | "&&" | ";")).collect()
}

#[test]
fn every_command_line_is_understood() {
    for (document, least) in DOCUMENTS {
        let lines = command_lines(&read(document));
        assert!(lines.len() >= least, "{document}: only {} command lines were found", lines.len());
        for line in lines {
            // Names of commands, as in "`multiarch operator`", are no command lines.
            if words(&line).len() < 3 && line != "multiarch crd" {
                continue;
            }
            Cli::try_parse_from(words(&line)).unwrap_or_else(|error| panic!("{document}: {line}\n{error}"));
        }
    }
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
fn the_exit_codes_are_those_of_the_help() {
    let text = read("docs/cli.md");
    for line in exit::HELP.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').expect("a code and its meaning");
        assert!(text.contains(&format!("| {code} | {}", meaning.trim())), "{line}");
    }
}
