//! What goes wrong with layouts, in words for people.

use std::fmt::Display;
use std::io;

use crate::image::EditError;
use crate::registry::{Error, Kind, Operation};

/// Why a layout was not written, or not brought into a registry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LayoutError {
    /// A registry failed or said no, or bytes are not what their descriptor says.
    #[error(transparent)]
    Content(#[from] Error),
    /// A file cannot be read or written.
    #[error("{path}: {cause} ({operation})")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        cause: String,
        /// What was being done.
        operation: &'static str,
    },
    /// There is something, and it is no layout.
    #[error("{place}: {reason}")]
    Invalid {
        /// The layout.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Some of what the index lists is not there. Nothing was written.
    #[error("{place}: incomplete, nothing was written; these are missing:\n  {}", missing.join("\n  "))]
    Incomplete {
        /// The layout or the repository.
        place: String,
        /// Every missing manifest and blob, with what is wrong.
        missing: Vec<String>,
    },
    /// The layout has several images, and no name says which is meant; or it has none of that name.
    #[error("{place}: {reason}; it has:\n  {}", entries.join("\n  "))]
    Choice {
        /// The layout.
        place: String,
        /// Why none is chosen.
        reason: String,
        /// What it has.
        entries: Vec<String>,
    },
    /// Platforms cannot be chosen from the index.
    #[error("{place}: {error}")]
    Edit {
        /// The index.
        place: String,
        /// Why not.
        error: EditError,
    },
}

impl LayoutError {
    pub(super) fn file(path: impl Display, operation: &'static str, error: &io::Error) -> Self {
        Self::File { path: path.to_string(), cause: cause(error), operation }
    }

    pub(super) fn invalid(place: impl Display, reason: impl Into<String>) -> Self {
        Self::Invalid { place: place.to_string(), reason: reason.into() }
    }
}

/// What the system says, without its numbers.
pub(super) fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound => "not found".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => text.to_owned(),
    }
}

/// The same failure, for readers of blobs.
pub(super) fn blob_error(operation: &Operation, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Malformed,
    };
    operation.error(kind, cause(error))
}
