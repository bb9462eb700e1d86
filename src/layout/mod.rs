//! Image layouts: what is in a registry as files, and back (OCI image spec, image-layout.md).
//!
//! ```text
//! registry ── gather ─▶ Contents ─┬─▶ directory, or tar archive as a stream        export
//!                                 │
//! layout ──── gather ─▶ Contents ─┴─▶ blobs, manifests, index, tags of a registry   import
//! ```
//!
//! Both ways the same closure of manifests and blobs is found first, and every byte is verified on its way. A layout
//! may come from anywhere: nothing outside of it is read, and links in it are not followed.

mod archive;
mod contents;
mod directory;
mod entry;
mod error;
mod export;
mod files;
mod import;
mod reader;
mod writer;

use crate::registry::Digest;

pub use entry::Entry;
pub use error::LayoutError;
pub use export::{Exported, export_to_directory, export_to_file, export_to_stream};
pub use import::{Imported, import};
pub use reader::Layout;

/// The file that says that a directory is a layout, and of which version.
const LAYOUT_FILE: &str = "oci-layout";
/// The file that lists what is in the layout.
const INDEX_FILE: &str = "index.json";
/// What stands in [`LAYOUT_FILE`].
const LAYOUT_VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where the blob is in a layout. A digest is checked when it is parsed, so this never leaves the layout.
fn blob_path(digest: &Digest) -> String {
    let algorithm = digest.as_str().split(':').next().unwrap_or_default();
    format!("blobs/{algorithm}/{}", digest.hex())
}
