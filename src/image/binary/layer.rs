//! What a layer does to the files below it: OCI image spec, layer.md.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::machine::{Content, HEAD};

/// The most bytes of headers that one file may have: its long name and attributes. They are kept in memory.
const LARGEST_HEADERS: u64 = 1024 * 1024;
/// The longest path, as in Linux, in bytes. Files with longer ones cannot be started by name.
const LONGEST_PATH: usize = 4096;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// What else begins so is aufs's own.
const AUFS: &str = ".wh..wh.";

/// What a layer has to say about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A directory, merged with what is below.
    Directory,
    /// A directory that hides what is below.
    Opaque,
    /// Another path, relative to the link.
    Symlink(Box<str>),
    /// Another path of the image.
    HardLink(Box<str>),
    /// A regular file.
    File { executable: bool, content: Content },
    /// What is below is gone.
    Whiteout,
}

/// Reads the archive to its end, or to where `visit` has seen enough. Paths are given as the archive has them.
///
/// # Errors
/// If it is not an archive, or unpacks to more than `limit` bytes. `limit` is lowered by what was read.
pub(super) fn read(
    archive: impl Read,
    limit: &mut u64,
    mut visit: impl FnMut(&str, Change) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let meter = Rc::new(Meter { position: Cell::new(0), fence: Cell::new(LARGEST_HEADERS), limit: *limit });
    let mut archive = Archive::new(Metered { source: archive, meter: meter.clone() });
    let read = (|| {
        for entry in archive.entries()? {
            let mut entry = entry?;
            meter.let_pass(stored_size(&entry)?);
            let Some((path, change)) = change(&mut entry)? else { continue };
            if visit(&path, change)?.is_break() {
                break;
            }
        }
        Ok(())
    })();
    *limit = limit.saturating_sub(meter.position.get());
    read
}

/// How many bytes of the archive are the entry's content. A sparse file has fewer there than it seems to have.
fn stored_size<R: Read>(entry: &Entry<'_, R>) -> io::Result<u64> {
    match entry.header().entry_type() {
        EntryType::GNUSparse => entry.header().entry_size(),
        _ => Ok(entry.size()),
    }
}

fn change<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<(String, Change)>> {
    let Some(path) = text(&entry.path_bytes()) else { return Ok(None) };
    let (directory, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some((directory, name)) => (directory, name),
        None => ("", path.trim_end_matches('/')),
    };
    if name == OPAQUE {
        return Ok(Some((directory.to_owned(), Change::Opaque)));
    }
    if name.starts_with(AUFS) {
        return Ok(None);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return Ok(Some((format!("{directory}/{hidden}"), Change::Whiteout)));
    }
    let change = match entry.header().entry_type() {
        EntryType::Directory => Change::Directory,
        EntryType::Symlink | EntryType::Link => {
            let Some(target) = entry.link_name_bytes().and_then(|target| text(&target)) else {
                return Ok(None);
            };
            match entry.header().entry_type() {
                EntryType::Symlink => Change::Symlink(target.into()),
                _ => Change::HardLink(target.into()),
            }
        }
        // What old archives have for a directory.
        EntryType::Regular if path.ends_with('/') => Change::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let executable = entry.header().mode().unwrap_or_default() & 0o111 != 0;
            let mut head = Vec::new();
            entry.take(HEAD).read_to_end(&mut head)?;
            Change::File { executable, content: Content::of(&head) }
        }
        _ => return Ok(None),
    };
    Ok(Some((path, change)))
}

/// Names that are no text cannot be in a config either.
fn text(path: &[u8]) -> Option<String> {
    (path.len() <= LONGEST_PATH).then(|| String::from_utf8(path.to_vec()).ok())?
}

/// Counts what is read of an archive, so that neither a file nor its headers are endless.
struct Meter {
    position: Cell<u64>,
    /// Where headers must have ended.
    fence: Cell<u64>,
    limit: u64,
}

impl Meter {
    /// The next `size` bytes are content; then come headers again.
    fn let_pass(&self, size: u64) {
        self.fence.set(self.position.get().saturating_add(size).saturating_add(LARGEST_HEADERS));
    }
}

struct Metered<R> {
    source: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Meter { position, fence, limit } = &*self.meter;
        let allowed = fence.get().min(*limit).saturating_sub(position.get());
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::other(if position.get() >= *limit {
                format!("it unpacks to more than {limit} bytes, which is more than is looked through")
            } else {
                format!("a file in it has headers of more than {LARGEST_HEADERS} bytes")
            }));
        }
        let length = buffer.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let count = self.source.read(&mut buffer[..length])?;
        position.set(position.get() + count as u64);
        Ok(count)
    }
}
