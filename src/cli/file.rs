//! Files that people write and commands read: by name, or standard input.

use std::io::{self, Read};
use std::path::Path;

use super::exit::Failure;

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Whether `-` stands for standard input.
pub(super) fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// The name of a file for people, and its text.
///
/// # Errors
/// When it cannot be read, is larger than 4 MiB, or no UTF-8.
pub(super) fn read(file: &Path) -> Result<(String, String), Failure> {
    if is_standard_input(file) {
        return capped("standard input".to_owned(), io::stdin().lock());
    }
    let name = file.display().to_string();
    let opened = std::fs::File::open(file).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    capped(name, opened)
}

fn capped(name: String, file: impl Read) -> Result<(String, String), Failure> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Failure::usage(format!("{name}: larger than {LARGEST_FILE} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(Failure::usage(format!("{name}: not UTF-8"))),
    }
}
