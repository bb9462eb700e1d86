//! What the fuzz targets (`fuzz/`) and the test of their corpus reach beyond the public functions.

use crate::image::{ImageConfig, ProgramFinding};
use crate::platform::Platform;
use crate::registry::MediaType;

/// How many bytes layers may unpack to, together.
pub const MOST_UNPACKED: u64 = 4 * 1024 * 1024;

/// What the bytes of a manifest are, if anything: see [`crate::registry::Session::get_manifest`].
pub fn media_type(bytes: &[u8], content_type: Option<MediaType>) -> Option<MediaType> {
    crate::registry::media_type(bytes, content_type).ok()
}

/// [`crate::image::inspect_program`] for layers in memory, the lowest first, of at most [`MOST_UNPACKED`] bytes.
pub fn inspect_layers(layers: &[&[u8]], config: &ImageConfig, platform: &Platform) -> ProgramFinding {
    crate::image::inspect_layers(layers, config, platform, MOST_UNPACKED)
}
