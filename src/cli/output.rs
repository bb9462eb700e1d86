//! Results on standard output: tables for people, JSON and YAML for programs.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::Error;

/// What is bad.
pub const RED: Style = AnsiColor::Red.on_default();
/// What deserves a look.
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
/// What is good.
pub const GREEN: Style = AnsiColor::Green.on_default();
/// Headings.
pub const BOLD: Style = Style::new().bold();
/// As everything else.
pub const PLAIN: Style = Style::new();

/// How results are printed.
#[derive(Args, Debug, Clone, Copy)]
pub struct OutputArguments {
    /// How results are printed. The names of JSON and YAML fields are stable.
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// The formats of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl OutputFormat {
    /// Prints `value` for programs, or as the text that `table` makes of it for people.
    ///
    /// # Errors
    /// When it cannot be written to standard output.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Error> {
        let text = match self {
            Self::Table => table(value),
            Self::Json => harmless(&serde_json::to_string_pretty(value)?) + "\n",
            Self::Yaml => serde_saphyr::to_string(value)?,
        };
        write(text.as_bytes())
    }
}

/// Prints resources for programs, as kubectl does: one that was named as it is, others as a `List`; nothing for people.
///
/// # Errors
/// As [`write`].
pub fn print_resources<T: Serialize>(
    format: OutputFormat,
    resources: &[T],
    is_one: bool,
) -> Result<(), Error> {
    let mut resources = serde_json::to_value(resources)?;
    for resource in resources.as_array_mut().into_iter().flatten() {
        resource["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
    }
    let printed = match resources.get_mut(0).filter(|_| is_one) {
        Some(resource) => resource.take(),
        None => json!({"apiVersion": "v1", "kind": "List", "items": resources}),
    };
    match format {
        OutputFormat::Table => Ok(()),
        OutputFormat::Json | OutputFormat::Yaml => format.print(&printed, |_| String::new()),
    }
}

/// Writes to standard output, colours only if that is a terminal that wants them.
///
/// # Errors
/// When it cannot be written: somebody closed the pipe, the disk is full.
pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = anstream::AutoStream::auto(std::io::stdout().lock());
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes exactly these bytes to standard output.
///
/// # Errors
/// As [`write`].
pub fn write_exactly(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// A text that others may have written, on one line: none of them moves our cursor.
pub fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_direction(c) { ' ' } else { c }).collect()
}

/// Whether a terminal shows what follows in another order than it is written in (Unicode Standard Annex #9).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same JSON with what a terminal would act upon escaped, which JSON allows and does not demand above U+001F.
pub fn harmless(json: &str) -> String {
    let acts = |c: char| matches!(c, '\u{7f}'..='\u{9f}') || is_direction(c);
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        match acts(c) {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
        text
    })
}

/// Columns under headings, each as wide as its widest cell. Columns that are empty all the way down are left out.
#[derive(Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A cell, and how it is shown.
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: readable(&text.into()), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, PLAIN)
    }
}

impl Table {
    /// An empty table.
    pub fn new(headings: impl IntoIterator<Item = &'static str>) -> Self {
        Self { headings: headings.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, with colours in it.
    pub fn render(self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
        };
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, heading)| match width(column).unwrap_or_default() {
                0 => 0,
                width => width.max(heading.len()),
            })
            .collect();
        let headings = self.headings.iter().map(|heading| Cell::styled(*heading, BOLD)).collect();
        std::iter::once(headings).chain(self.rows).map(|row: Vec<Cell>| line(&row, &widths)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize]) -> String {
    let shown = row.iter().zip(widths).filter(|&(_, &width)| width > 0);
    let cells: Vec<String> = shown
        .map(|(Cell { text, style }, &width)| {
            let text = if text.is_empty() { "-" } else { text };
            let padding = " ".repeat(width.saturating_sub(text.chars().count()));
            format!("{style}{text}{style:#}{padding}")
        })
        .collect();
    format!("{}\n", cells.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(["NAME", "NOTHING", "SIZE"]);
        table.row(["a".into(), "".into(), "1 KiB".into()]);
        table.row(["longer".into(), "".into(), "".into()]);
        let text = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(text, "NAME    SIZE\na       1 KiB\nlonger  -\n");
    }

    #[test]
    fn what_others_wrote_turns_no_text_around() {
        assert_eq!(readable("a\u{202e}b\u{2066}c\u{2069}\u{200d}é"), "a b c \u{200d}é");
    }

    #[test]
    fn what_json_leaves_as_it_is_does_not_reach_the_terminal() {
        let written = "a\u{7f}\u{9b}2J\u{202e}é\n";
        let json = harmless(&serde_json::to_string(written).unwrap());
        assert_eq!(json, "\"a\\u007f\\u009b2J\\u202eé\\n\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), written);
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\x1b[2Jb\nc".into()]);
        assert!(table.render().contains("a [2Jb c"));
    }
}
