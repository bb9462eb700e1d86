//! Files of settings, in YAML: what is unknown or makes no sense is told by file, line and key.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{Error, Spanned};

use crate::platform::check_name;
use crate::registry::read_limited;

/// Why a file of settings cannot be used: which file, which line, which key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{line}: {problem}", line = self.line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct SettingsFileError {
    file: String,
    line: Option<u64>,
    problem: String,
}

/// What is wrong, and in which line if that is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub line: Option<u64>,
    pub words: String,
}

/// Values are taken as they are and checked one by one, so that their mistakes are told in our words.
pub(crate) type Given = Option<Spanned<Value>>;

/// What a file of at most 1 MiB says.
pub(crate) fn read<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Result<T, SettingsFileError> {
    let fail = |Problem { line, words }| SettingsFileError {
        file: path.display().to_string(),
        line,
        problem: words,
    };
    let content = read_limited(path).map_err(|words| fail(Problem { line: None, words }))?;
    let text =
        String::from_utf8(content).map_err(|_| fail(Problem { line: None, words: "not text".to_owned() }))?;
    parse(&text).map_err(fail)
}

/// The keys and values of a text; those of an empty one are as by default.
pub(crate) fn document<'a, T: Deserialize<'a> + Default>(text: &'a str) -> Result<T, Problem> {
    let document: Option<T> = serde_saphyr::from_str(text).map_err(|error| syntax(&error))?;
    Ok(document.unwrap_or_default())
}

/// The value of a key, if it was given and is what was expected.
pub(crate) fn take<T>(
    key: &str,
    given: Given,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    let Some(given) = given.filter(|given| !given.value.is_null()) else { return Ok(None) };
    let problem = |words| Problem { line: Some(given.referenced.line()), words: format!("{key}: {words}") };
    read(&given.value).map(Some).map_err(problem)
}

/// A pattern that names of namespaces can be of.
pub(crate) fn namespace_pattern(value: &Value) -> Result<String, String> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'*' | b'?');
    match value.as_str() {
        Some(text) if !text.is_empty() && text.bytes().all(allowed) => Ok(text.to_owned()),
        _ => Err("expected the name of a namespace, with * for any text and ? for one character".to_owned()),
    }
}

/// What the parser found, in words and without the text around it.
fn syntax(error: &Error) -> Problem {
    let error = error.without_snippet();
    let words = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            check_name("key", field, expected).err().unwrap_or_default()
        }
        Error::DuplicateMappingKey { key, .. } => {
            format!("{} stands there twice", key.as_deref().unwrap_or("a key"))
        }
        Error::Unexpected { expected, .. } => format!("expected {}", in_words(expected)),
        Error::SerdeInvalidType { expected, .. } => format!("expected {}", in_words(expected)),
        other => format!("not YAML: {}", other.to_string().trim()),
    };
    Problem { line: error.location().map(|location| location.line()), words }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "mapping start" | "struct Document" | "struct Entry" => "keys and values",
        "sequence start" | "a sequence" => "a list",
        other => other,
    }
}
