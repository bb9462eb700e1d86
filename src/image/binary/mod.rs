//! Whether the program that an image starts really is for the platform that the image claims.
//!
//! ```text
//! config ─▶ Search: names, PATH ─┐
//! layers, from the top down      ├─▶ Outcome ─▶ ProgramFinding
//!   unpack ─▶ layer ─▶ Overlay ──┘
//! ```
//!
//! Every layer is read at most once, and none further than needed: what may matter later, links and the headers of
//! executable files, is remembered on the way.

mod layer;
mod machine;
mod overlay;
mod search;
mod unpack;

use std::fmt;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::Serialize;
use tokio::sync::mpsc;

pub use machine::Machine;

use super::manifest::{ImageConfig, ImageManifest};
use crate::platform::Platform;
use crate::registry::{BlobReader, BlobStore, Descriptor, Digest, Error};
use machine::Fit;
use overlay::Overlay;
use search::{Outcome, Search};

/// How many bytes one layer may have, packed or unpacked. The largest layers of images for machine learning unpack to
/// 5 or 6 GB; gzip makes a thousand times as much of the same bytes.
const LARGEST_LAYER: u64 = 8 * 1024 * 1024 * 1024;
/// How many bytes are unpacked of an image: a minute's work.
const MOST_UNPACKED: u64 = 16 * 1024 * 1024 * 1024;
/// How many bytes of memory that takes at most: what is remembered of the layers, and as much again for zstd.
#[cfg(test)]
pub(crate) const MOST_MEMORY: u64 = 128_000_000;
/// How many pieces of a layer are fetched ahead of their unpacking.
const AHEAD: usize = 4;
/// The longest text of an image that is repeated, in characters.
const LONGEST_TEXT: usize = 500;

/// What was found out about the program that an image starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum ProgramFinding {
    /// It is for the platform.
    Matches {
        /// What was found.
        program: Program,
        /// The platform of the image.
        platform: Platform,
    },
    /// It is for a smaller sibling of the platform's architecture, 386 of amd64 or arm of arm64, and runs where the
    /// processor and the kernel can still do that.
    Compatible {
        /// What was found.
        program: Program,
        /// The platform of the image.
        platform: Platform,
    },
    /// It does not run on the platform.
    Mismatch {
        /// What was found.
        program: Program,
        /// The platform of the image.
        platform: Platform,
    },
    /// Nobody can tell.
    Unknown {
        /// Why.
        why: String,
    },
}

/// The program that an image starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// The names that lead to it: what the config says, where that is, the interpreter if that is a script, and so on.
    /// The last one is the program's own path, with no link in it.
    pub steps: Vec<String>,
    /// The layer that has the program.
    pub layer: Digest,
    /// What it was made for.
    pub machine: Machine,
    /// It is but the shell of a command in shell form (`/bin/sh -c "…"`).
    pub shell_form: bool,
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is for {}", self.steps.join(" → "), self.machine)
    }
}

impl fmt::Display for ProgramFinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = match self {
            Self::Matches { program, platform } => {
                write!(formatter, "{program}, the platform is {platform} as well")?;
                program
            }
            Self::Compatible { program, platform } => {
                write!(formatter, "{program}, which runs on some machines of {platform} only")?;
                program
            }
            Self::Mismatch { program, platform } => {
                write!(formatter, "{program}, the platform is {platform}")?;
                program
            }
            Self::Unknown { why } => return formatter.write_str(why),
        };
        write!(formatter, " (in layer {})", program.layer)?;
        if program.shell_form {
            formatter.write_str("; it is the shell of a command in shell form, which was not looked at")?;
        }
        Ok(())
    }
}

/// Finds out whether the program that the image starts (the first word of `Entrypoint`, else of `Cmd`) is for
/// `platform`: by the header of its file, or of the interpreter's if it is a script.
///
/// Layers are read from the top down, at most once each, and only until the program is found. A name without a slash
/// is looked for in `PATH`, for which all layers may have to be read: one further down may have it in an earlier
/// directory. What was read of a layer that was not read to its end is not verified by its digest, so this finds
/// mistakes rather than forgeries. Takes 64 MB of memory at most, and as much again for zstd.
///
/// Dropping the future ends the reading.
///
/// # Errors
/// If the store cannot be read. What is in it makes no errors: [`ProgramFinding::Unknown`] says what is wrong with it.
pub async fn inspect_program(
    store: Arc<dyn BlobStore>,
    manifest: &ImageManifest,
    config: &ImageConfig,
    platform: &Platform,
) -> Result<ProgramFinding, Error> {
    let search = match Search::new(config, platform) {
        Ok(search) => search,
        Err(why) => return Ok(unknown(&why)),
    };
    let mut inspection = Inspection::new(search, manifest.layers.len());
    for layer in manifest.layers.iter().rev() {
        let unreadable = |reason: &str| unknown(&format!("layer {} {reason}", layer.digest));
        if let Some(reason) = unpack::unreadable(layer) {
            return Ok(unreadable(&reason));
        }
        if layer.size > LARGEST_LAYER {
            return Ok(unreadable(&format!("has more than {LARGEST_LAYER} bytes")));
        }
        let (returned, read) = match read_layer(store.clone(), layer, inspection).await? {
            Some(outcome) => outcome,
            None => return Ok(unreadable("could not be read: reading it ended unexpectedly")),
        };
        if let Err(error) = read {
            return Ok(unreadable(&format!("could not be read: {error}")));
        }
        inspection = returned;
        if inspection.is_decided() {
            break;
        }
    }
    let digests: Vec<&Digest> = manifest.layers.iter().map(|layer| &layer.digest).collect();
    Ok(inspection.finding(platform, &digests))
}

/// The same for layers in memory, the lowest first, that unpack to no more than `most` bytes together.
pub(crate) fn inspect_layers(
    layers: &[&[u8]],
    config: &ImageConfig,
    platform: &Platform,
    most: u64,
) -> ProgramFinding {
    let search = match Search::new(config, platform) {
        Ok(search) => search,
        Err(why) => return unknown(&why),
    };
    let mut inspection = Inspection { remaining: most, ..Inspection::new(search, layers.len()) };
    for layer in layers.iter().rev() {
        if let Err(error) = inspection.read(*layer) {
            return unknown(&format!("a layer could not be read: {error}"));
        }
        if inspection.is_decided() {
            break;
        }
    }
    let digests: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    inspection.finding(platform, &digests.iter().collect::<Vec<_>>())
}

fn unknown(why: &str) -> ProgramFinding {
    ProgramFinding::Unknown { why: printable(why) }
}

/// What images say, fit for a terminal.
fn printable(text: &str) -> String {
    let printable = |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
    text.chars().take(LONGEST_TEXT).map(printable).collect()
}

/// Reads a layer, until it is known what is started or to its end. None if unpacking it ended in a panic.
async fn read_layer(
    store: Arc<dyn BlobStore>,
    layer: &Descriptor,
    mut inspection: Inspection,
) -> Result<Option<(Inspection, io::Result<()>)>, Error> {
    let (sender, chunks) = mpsc::channel(AHEAD);
    // Ends when either side is dropped: the sender as the layer's end, the receiver when enough was read.
    let unpacking = tokio::task::spawn_blocking(move || {
        let read = inspection.read(Chunks { chunks, current: Bytes::new() });
        (inspection, read)
    });
    let mut blob = BlobReader::new(store, layer);
    let fetching = async move {
        loop {
            let chunk = tokio::select! {
                chunk = blob.next() => chunk?,
                () = sender.closed() => None,
            };
            let Some(chunk) = chunk else { return Ok(()) };
            if sender.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    };
    let (fetched, unpacked) = tokio::join!(fetching, unpacking);
    fetched.map(|()| unpacked.ok())
}

/// The pieces of a blob, for who reads with a thread of his own.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A search and what it has seen.
struct Inspection {
    search: Search,
    overlay: Overlay,
    outcome: Outcome,
    /// How many more bytes may be unpacked.
    remaining: u64,
    largest_layer: u64,
}

impl Inspection {
    fn new(search: Search, layers: usize) -> Self {
        let overlay = Overlay::of(layers);
        let outcome = search.outcome(&overlay);
        Self { search, overlay, outcome, remaining: MOST_UNPACKED, largest_layer: LARGEST_LAYER }
    }

    /// Reads the next layer down, until it is known what is started.
    fn read(&mut self, layer: impl Read) -> io::Result<()> {
        let Self { search, overlay, outcome, .. } = self;
        overlay.begin_layer();
        let mut limit = self.remaining.min(self.largest_layer);
        let before = limit;
        let read = layer::read(unpack::unpacked(layer)?, &mut limit, |path, change| {
            let Some((path, change)) = search.in_image(path, change) else {
                return Ok(ControlFlow::Continue(()));
            };
            let awaited = match &*outcome {
                Outcome::Undecided(awaited) => awaited.as_str(),
                _ => return Ok(ControlFlow::Break(())),
            };
            let concerned = !matches!(change, layer::Change::Directory) && search::concerns(&path, awaited);
            overlay.record(&path, change, path == awaited)?;
            if concerned {
                *outcome = search.outcome(overlay);
            }
            Ok(match outcome {
                Outcome::Undecided(_) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            })
        });
        self.remaining = self.remaining.saturating_sub(before - limit);
        read?;
        if !self.is_decided() {
            self.overlay.end_layer();
            self.outcome = self.search.outcome(&self.overlay);
        }
        Ok(())
    }

    fn is_decided(&self) -> bool {
        !matches!(self.outcome, Outcome::Undecided(_))
    }

    /// What the search has come to, in an image of these layers, the lowest first.
    fn finding(self, platform: &Platform, layers: &[&Digest]) -> ProgramFinding {
        let (steps, machine, layer) = match self.outcome {
            Outcome::Nothing(why) => return unknown(&why),
            Outcome::Undecided(path) => return unknown(&format!("/{path} is in no layer")),
            Outcome::Found { steps, layer, machine } => match layers.iter().rev().nth(layer) {
                Some(digest) => (steps, machine, Digest::clone(digest)),
                None => return unknown("the image has fewer layers than were read"),
            },
        };
        let steps = steps.iter().map(|step| printable(step)).collect();
        let program = Program { steps, layer, machine, shell_form: self.search.shell_form };
        let platform = platform.clone();
        match machine.fit(&platform) {
            Fit::Native => ProgramFinding::Matches { program, platform },
            Fit::Compatible => ProgramFinding::Compatible { program, platform },
            Fit::Foreign => ProgramFinding::Mismatch { program, platform },
            Fit::Unclear => unknown(&format!("{program}; whether that runs on {platform} is not known")),
        }
    }
}

#[cfg(test)]
mod tests;
