//! The files of an image, as far as they matter to what is started: the layers seen so far, from the top down.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::{Entry as Slot, RandomState};
use std::hash::BuildHasher;
use std::io;

use super::layer::Change;
use super::machine::Content;

/// How many paths are remembered. With the texts below that is some 60 MB, and more than images have of
/// directories, links and executable files.
const MOST_ENTRIES: usize = 400_000;
/// How many bytes of link targets and first lines of scripts are remembered.
const MOST_TEXT: usize = 16 * 1024 * 1024;
/// How many bytes of paths are looked up in layers: less than a second's work, and a hundred times what images need.
const MOST_LOOKED_UP: usize = 64 * 1024 * 1024;
/// What looking up a path costs, however short it is, in bytes.
const LOOKING_UP: usize = 64;

/// What is known of the layers. Paths are cleaned: `usr/bin/app`, the root is empty.
pub(super) struct Overlay {
    /// The uppermost first.
    layers: Vec<Layer>,
    /// How many there are with those not looked into yet.
    expected: usize,
    /// Paths are remembered by a hash with a secret key, which takes half the memory.
    hasher: RandomState,
    entries: usize,
    text: usize,
    /// How many bytes of paths have been looked up.
    looked_up: Cell<usize>,
}

#[derive(Default)]
struct Layer {
    entries: HashMap<u64, Entry>,
    /// All of it was read: what it has not is not there.
    complete: bool,
}

enum Entry {
    Directory { opaque: bool },
    Symlink(Box<str>),
    HardLink(Box<str>),
    Executable(Content),
    Plain,
    Whiteout,
}

/// What a path is in the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A file that may be executed, in this layer counted from the top.
    Executable { layer: usize, content: &'a Content },
    /// A file that may not be executed.
    Plain,
    /// A directory.
    Directory,
    /// Another path, to be looked for from this layer down.
    Moved { path: String, from: usize },
    /// Not there.
    Absent,
    /// The layers seen so far do not tell.
    Undecided,
    /// Nobody has the time to find out.
    Exhausted,
}

impl Overlay {
    pub(super) fn of(expected: usize) -> Self {
        let hasher = RandomState::new();
        Self { layers: Vec::new(), expected, hasher, entries: 0, text: 0, looked_up: Cell::new(0) }
    }

    /// From here on all changes are those of the next layer down.
    pub(super) fn begin_layer(&mut self) {
        self.layers.push(Layer::default());
    }

    /// The layer has been read to its end.
    pub(super) fn end_layer(&mut self) {
        if let Some(layer) = self.layers.last_mut() {
            layer.complete = true;
        }
    }

    /// Remembers a change. Files that may not be executed only if `wanted`: there are too many of them.
    ///
    /// # Errors
    /// If there is more than can be remembered.
    pub(super) fn record(&mut self, path: &str, change: Change, wanted: bool) -> io::Result<()> {
        let key = self.hasher.hash_one(path);
        let Some(layer) = self.layers.last_mut() else { return Ok(()) };
        let entry = match change {
            Change::Directory => Entry::Directory { opaque: false },
            Change::Opaque => Entry::Directory { opaque: true },
            Change::Symlink(target) => Entry::Symlink(target),
            Change::HardLink(target) => Entry::HardLink(target),
            Change::File { executable: true, content } => Entry::Executable(content),
            Change::File { .. } if wanted => Entry::Plain,
            Change::File { .. } => return Ok(()),
            Change::Whiteout => Entry::Whiteout,
        };
        self.text += entry.text();
        match layer.entries.entry(key) {
            Slot::Vacant(slot) => {
                self.entries += 1;
                slot.insert(entry);
            }
            Slot::Occupied(mut slot) => {
                let merged = merge(slot.get(), entry);
                if let Some(entry) = merged {
                    slot.insert(entry);
                }
            }
        }
        if self.entries > MOST_ENTRIES || self.text > MOST_TEXT {
            let cause =
                format!("with those above it has more than {MOST_ENTRIES} links and executable files");
            return Err(io::Error::other(cause));
        }
        Ok(())
    }

    /// What `path` is, looked for in the layers from `from` down.
    ///
    /// A layer that has the whole path decides, whatever its directories are further down: a file that is unpacked
    /// below a symlink to a directory is reached through it.
    pub(super) fn look_up(&self, path: &str, from: usize) -> Found<'_> {
        let ancestors: Vec<&str> = ancestors(path).collect();
        let mut covered = vec![false; ancestors.len()];
        let effort: usize = ancestors.iter().chain([&path]).map(|path| path.len() + LOOKING_UP).sum();
        let mut is_directory = path.is_empty();
        for (index, layer) in self.layers.iter().enumerate().skip(from) {
            self.looked_up.set(self.looked_up.get() + effort);
            if self.looked_up.get() > MOST_LOOKED_UP {
                return Found::Exhausted;
            }
            let entry_of = |path: &str| layer.entries.get(&self.hasher.hash_one(path));
            let mut hidden = false;
            match entry_of(path) {
                Some(Entry::Executable(content)) if !is_directory => {
                    return Found::Executable { layer: index, content };
                }
                Some(Entry::Plain) if !is_directory => return Found::Plain,
                Some(Entry::Symlink(target)) if !is_directory => {
                    return Found::Moved { path: join(parent(path), target), from: 0 };
                }
                // Its target may have been removed above; the file is still there.
                Some(Entry::HardLink(target)) if !is_directory && clean(target) != path => {
                    return Found::Moved { path: clean(target), from: index };
                }
                Some(Entry::Directory { .. }) => is_directory = true,
                Some(_) => hidden = true,
                None => {}
            }
            for (ancestor, covered) in ancestors.iter().zip(&mut covered) {
                match entry_of(ancestor) {
                    Some(Entry::Symlink(target)) if !*covered => {
                        let rest = path.get(ancestor.len()..).unwrap_or_default();
                        let path = join(parent(ancestor), &format!("{target}/{rest}"));
                        return Found::Moved { path, from: 0 };
                    }
                    Some(Entry::Directory { opaque }) => {
                        *covered = true;
                        hidden |= opaque;
                    }
                    Some(_) => hidden = true,
                    None => {}
                }
            }
            match (layer.complete, is_directory, hidden) {
                // The rest of the layer may still have it.
                (false, ..) => return Found::Undecided,
                (true, true, _) => return Found::Directory,
                (true, false, true) => return Found::Absent,
                (true, false, false) => {}
            }
        }
        if self.layers.len() < self.expected { Found::Undecided } else { Found::Absent }
    }
}

/// What an entry becomes when its layer has another one for the same path: nothing else if none is returned.
/// Whiteouts are about the layers below only.
fn merge(existing: &Entry, new: Entry) -> Option<Entry> {
    match (existing, new) {
        (Entry::Whiteout | Entry::Directory { opaque: true }, Entry::Directory { .. })
        | (Entry::Directory { .. }, Entry::Whiteout) => Some(Entry::Directory { opaque: true }),
        (_, Entry::Whiteout) => None,
        (_, new) => Some(new),
    }
}

impl Entry {
    fn text(&self) -> usize {
        match self {
            Self::Symlink(text) | Self::HardLink(text) | Self::Executable(Content::Script(text)) => {
                text.len()
            }
            _ => 0,
        }
    }
}

/// The directories that a path is in, the root first.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let root = (!path.is_empty()).then_some("");
    root.into_iter().chain(path.match_indices('/').filter_map(|(position, _)| path.get(..position)))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// `path` seen from `directory`, unless it begins at the root. `..` ends at the root.
pub(super) fn join(directory: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { directory };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A path from the root, without what changes nothing in it.
pub(super) fn clean(path: &str) -> String {
    join("", path)
}
