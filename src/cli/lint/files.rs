//! The files of a command line, and the `MultiArchImage`s in them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::document::{self, Document};
use crate::cli::exit::Failure;
use crate::cli::file;
use crate::cli::resource::KIND;
use crate::cli::typed_as;

/// What every one of our resources has in it.
const GROUP: &str = "multiarch.dev/";

/// A file that was read.
pub(super) struct Text {
    pub name: String,
    pub text: String,
    /// Whether it was named itself, and not found in a folder.
    pub is_named: bool,
}

/// The text of files, and of all files of YAML and JSON in folders; of those only what speaks of our resources.
///
/// # Errors
/// When one cannot be read.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        if file::is_standard_input(path) || !path.is_dir() {
            let (name, text) = file::read(path)?;
            texts.push(Text { name, text, is_named: true });
            continue;
        }
        let mut files = Vec::new();
        walk(path, &mut files)?;
        for path in files {
            let (name, text) = file::read(&path)?;
            texts.extend(text.contains(GROUP).then_some(Text { name, text, is_named: false }));
        }
    }
    Ok(texts)
}

/// Hidden folders, such as git's, are left out; links are not followed.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let fail = |error| Failure::usage(format!("{}: {error}", folder.display()));
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().map_err(fail)?;
        let path = entry.path();
        let is_manifest = matches!(
            path.extension().and_then(|extension| extension.to_str()),
            Some("yaml" | "yml" | "json")
        );
        if kind.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            walk(&path, files)?;
        } else if kind.is_file() && is_manifest {
            files.push(path);
        }
    }
    Ok(())
}

/// The `MultiArchImage`s of a text, those of lists too. Other kinds are none of our business.
///
/// # Errors
/// What is wrong with the YAML, and in which line.
pub(super) fn resources(text: &str) -> Result<Vec<Document>, (Option<u64>, String)> {
    let documents = document::read(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let message = match text.contains("{{") {
            true => {
                let program = typed_as();
                format!(
                    "a template and not YAML; render it first, as in `helm template CHART | {program} lint -`"
                )
            }
            false => format!("not YAML: {}", error.without_snippet()),
        };
        (line, message)
    })?;
    Ok(documents.into_iter().flat_map(flatten).filter(|document| is_ours(&document.value)).collect())
}

/// `kubectl get -o yaml` prints lists.
fn flatten(document: Document) -> Vec<Document> {
    let kind = document.value.get("kind").and_then(Value::as_str).unwrap_or_default();
    match document.value.get("items").and_then(Value::as_array) {
        Some(items) if kind.ends_with("List") => {
            let parts = items.iter().enumerate();
            parts.map(|(number, item)| document.part(&format!("items[{number}]"), item)).collect()
        }
        _ => vec![document],
    }
}

/// Misspelt kinds of our group, and our kind of a misspelt group, too.
fn is_ours(value: &Value) -> bool {
    let says = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    says("apiVersion").starts_with(GROUP) || says("kind").eq_ignore_ascii_case(KIND)
}
