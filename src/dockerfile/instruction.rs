//! From lines to instructions: comments, continued lines, flags and here-documents.

use super::DockerfileError;
use super::directive::{Directives, escape, without_mark};
use super::expansion::{Stop, words};

/// What separates the words of an instruction. Narrower than what is trimmed around them.
const BLANK: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// The instructions of a Dockerfile.
pub(super) struct Instructions {
    /// What takes their meaning from characters, and continues lines.
    pub(super) escape: char,
    pub(super) list: Vec<Instruction>,
}

/// One instruction, its continued lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Where it begins; the first line is 1.
    pub(super) line: usize,
    /// In lower case: `from`.
    pub(super) name: String,
    /// What begins with `--`, unquoted: `--platform=linux/arm64`.
    pub(super) flags: Vec<String>,
    pub(super) arguments: String,
}

/// A document within an instruction, up to the line with its name.
#[derive(Debug, PartialEq, Eq)]
struct HereDocument {
    name: String,
    /// `<<-`: tabs before the name are no part of it.
    chomps: bool,
}

/// Reads all instructions, known or not; nothing if they are nested deeper than we follow.
pub(super) fn read(text: &str) -> Result<Option<Instructions>, DockerfileError> {
    let mut lines = without_mark(text).split('\n').map(|line| line.trim_end_matches('\r')).zip(1_usize..);
    let mut directives = Directives::default();
    let mut instructions = Instructions { escape: '\\', list: Vec::new() };
    while let Some((text, line)) = lines.next() {
        let text = text.trim_start();
        let directive = directives.read(text, "#").map_err(|reason| DockerfileError::at(line, reason))?;
        if let Some((_, value)) = directive.filter(|(name, _)| name == "escape") {
            instructions.escape = escape(&value, line)?;
        }
        let (part, mut continues) = split_continuation(text, instructions.escape);
        if is_comment(text) || (part.is_empty() && !continues) {
            continue;
        }
        let mut whole = part.to_owned();
        while continues {
            let Some((text, _)) = lines.next() else { break };
            if is_comment(text) || text.trim().is_empty() {
                continue;
            }
            let part;
            (part, continues) = split_continuation(text, instructions.escape);
            whole.push_str(part);
        }
        let instruction = Instruction::parse(&whole, line, instructions.escape);
        let Ok(documents) = here_documents(&instruction, &whole, instructions.escape) else {
            return Ok(None);
        };
        for document in documents {
            if !lines.by_ref().any(|(text, _)| document.ends_with(text)) {
                let reason = format!("the line {} that ends its here-document is missing", document.name);
                return Err(DockerfileError::at(line, reason));
            }
        }
        instructions.list.push(instruction);
    }
    Ok(Some(instructions))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without what continues it, and whether it does: an escape character at its end that is not escaped itself.
fn split_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

impl Instruction {
    fn parse(text: &str, line: usize, escape: char) -> Self {
        let text = text.trim();
        let (name, rest) = text.split_once(BLANK).unwrap_or((text, ""));
        let (flags, arguments) = split_flags(rest.trim_start_matches(BLANK), escape);
        Self { line, name: name.to_lowercase(), flags, arguments: arguments.trim().to_owned() }
    }

    /// The values of a flag, in their order.
    pub(super) fn values<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        let value = move |given: &'a String| given.strip_prefix("--")?.strip_prefix(flag)?.strip_prefix('=');
        self.flags.iter().filter_map(value)
    }

    /// The arguments between blanks.
    pub(super) fn words(&self) -> Vec<&str> {
        self.arguments.split(BLANK).filter(|word| !word.is_empty()).collect()
    }

    fn takes_documents(&self) -> bool {
        let is_json = || serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&self.arguments).is_ok();
        matches!(self.name.as_str(), "add" | "copy" | "run") && !is_json()
    }
}

/// The flags before the arguments, and the arguments. `--` ends the flags.
fn split_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = unquoted_word(rest, escape);
        rest = after;
        if flag == "--" {
            break;
        }
        flags.push(flag);
        rest = rest.trim_start();
    }
    (flags, rest)
}

/// The first word, without its quotes and escapes, and what follows it.
fn unquoted_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((position, letter)) = letters.next() {
        match quote {
            None if letter.is_whitespace() => return (word, &text[position..]),
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            Some(end) if letter == end => quote = None,
            _ if letter == escape => word.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => word.push(letter),
        }
    }
    (word, "")
}

/// The documents that follow the instruction.
fn here_documents(instruction: &Instruction, whole: &str, escape: char) -> Result<Vec<HereDocument>, Stop> {
    let takes = match instruction.name.as_str() {
        "onbuild" => Instruction::parse(&instruction.arguments, 0, escape).takes_documents(),
        _ => instruction.takes_documents(),
    };
    if !takes || !whole.contains("<<") {
        return Ok(Vec::new());
    }
    match words(whole, true) {
        Ok(words) => words.iter().filter_map(|word| HereDocument::parse(word).transpose()).collect(),
        Err(Stop::Undetermined) => Err(Stop::Undetermined),
        // The shell will have its own opinion of the quotes.
        Err(Stop::Invalid(_)) => Ok(Vec::new()),
    }
}

impl HereDocument {
    /// `3<<-EOF`, with blanks before the name, which may be quoted.
    fn parse(word: &str) -> Result<Option<Self>, Stop> {
        let word = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let Some(rest) = word.strip_prefix("<<") else { return Ok(None) };
        let (chomps, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        let name = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
        if name.is_empty() || name.contains('<') {
            return Ok(None);
        }
        let mut names = words(name, false)?;
        Ok(names.pop().filter(|_| names.is_empty()).map(|name| Self { name, chomps }))
    }

    fn ends_with(&self, line: &str) -> bool {
        let line = if self.chomps { line.trim_start_matches('\t') } else { line };
        line == self.name
    }
}
