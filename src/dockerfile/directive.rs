//! Parser directives: `# syntax=`, `# escape=`, `# check=` before everything else.

use std::collections::HashSet;

use super::DockerfileError;

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Reads directives line by line, until the first line that is none.
#[derive(Default)]
pub(super) struct Directives {
    seen: HashSet<String>,
    ended: bool,
}

impl Directives {
    /// The directive in this line, its name in lower case, if it is one.
    ///
    /// # Errors
    /// If the same directive was there before.
    pub(super) fn read(&mut self, line: &str, comment: &str) -> Result<Option<(String, String)>, String> {
        let found = (!self.ended).then(|| parse(line, comment)).flatten();
        match found {
            None => self.ended = true,
            Some((name, _)) if !self.seen.insert(name.to_ascii_lowercase()) => {
                return Err(format!("there can be only one {name} directive"));
            }
            Some(_) => {}
        }
        Ok(found.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
    }
}

fn parse<'a>(line: &'a str, comment: &str) -> Option<(&'a str, &'a str)> {
    let (name, value) = line.strip_prefix(comment)?.trim_start().split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let is_known = KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name));
    (is_known && !value.is_empty()).then_some((name, value))
}

/// What the `syntax` directive says. It may be written for other formats than ours: `// syntax=`, `{"syntax": …}`, and
/// all of it after a line that starts with `#!`.
pub(super) fn syntax(text: &str) -> Option<String> {
    let text = without_mark(text);
    let text = match text.starts_with("#!") {
        true => text.split_once('\n').map_or("", |(_, rest)| rest),
        false => text,
    };
    let directive = |comment: &str| {
        let mut directives = Directives::default();
        text.lines()
            .map_while(|line| directives.read(line, comment).ok().flatten())
            .find_map(|(name, value)| (name == "syntax").then_some(value))
    };
    let in_json = || match text.trim_start().starts_with('{') {
        true => {
            Some(serde_json::from_str::<serde_json::Value>(text).ok()?.get("syntax")?.as_str()?.to_owned())
        }
        false => None,
    };
    directive("#").or_else(|| directive("//")).or_else(in_json)
}

/// `escape=` takes a backslash or a backtick.
pub(super) fn escape(value: &str, line: usize) -> Result<char, DockerfileError> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        other => Err(DockerfileError::at(line, format!("escape={other} is neither \\ nor `"))),
    }
}

/// Without the byte order mark.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
