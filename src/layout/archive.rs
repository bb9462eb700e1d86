//! Layouts in tar archives: found by one pass over the headers, read where they are.
//!
//! Nothing is unpacked. Of the archive's members only regular files count that have the names of a layout, so a name
//! that leads elsewhere names nothing, and a link is known to be one and not followed.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::error::LayoutError;
use super::files::Piece;
use super::{INDEX_FILE, LAYOUT_FILE};
use crate::registry::Digest;

/// How much the headers of one member may have, in bytes: long names and PAX records are held in memory.
const LARGEST_HEADERS: u64 = 1024 * 1024;
/// How many blobs an archive may have.
const MOST_BLOBS: usize = 100_000;
/// What a compressed archive may always have unpacked, in bytes; beyond it the ratio counts.
const UNPACKED_FREELY: u64 = 1024 * 1024 * 1024;
/// How many times larger than its compressed bytes an archive may be: layers are compressed already.
const LARGEST_RATIO: u64 = 100;

/// What is where in an archive.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) version: Option<Member>,
    pub(super) index: Option<Member>,
    pub(super) blobs: HashMap<Digest, Member>,
    /// Whether there is the `manifest.json` of `docker save`.
    pub(super) docker: bool,
}

/// A member of the names that count.
#[derive(Debug)]
pub(super) enum Member {
    File(Piece),
    /// A link, a device or whatever else is no file.
    Other,
}

/// Opens an archive. One that is compressed is unpacked into a temporary file first, which has no name.
pub(super) fn open(path: &Path) -> Result<Members, LayoutError> {
    let failed = |error: io::Error| LayoutError::file(path.display(), "reading the archive", &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 2];
    let known = file.read_exact(&mut magic).is_ok();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    if known && magic == GZIP { read(path, BufReader::new(file)) } else { members(path, file) }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads an archive that comes as a stream into a temporary file without a name.
///
/// It has to lie still: what it lists can be in any order, blobs go to a registry several at once and begin anew where a
/// connection breaks, and nothing is to be written before it is known that nothing is missing.
pub(super) fn read(place: &Path, mut stream: impl Read) -> Result<Members, LayoutError> {
    let failed = |error: io::Error| LayoutError::file(place.display(), "reading the archive", &error);
    let mut magic = Vec::new();
    stream.by_ref().take(2).read_to_end(&mut magic).map_err(failed)?;
    let compressed = magic == GZIP;
    let whole = io::Cursor::new(magic).chain(stream);
    let mut file = tempfile::tempfile().map_err(failed)?;
    if compressed { unpack(whole, &mut file, UNPACKED_FREELY) } else { copy(whole, &mut file) }
        .map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    members(place, file)
}

fn copy(mut from: impl Read, to: &mut File) -> io::Result<()> {
    io::copy(&mut from, to).map(drop)
}

/// Writes what is compressed, as long as it does not grow beyond measure.
fn unpack(from: impl Read, to: &mut impl Write, freely: u64) -> io::Result<()> {
    let taken = Rc::new(Cell::new(0));
    let mut decoder = MultiGzDecoder::new(BufReader::new(Counted { inner: from, taken: Rc::clone(&taken) }));
    let mut buffer = vec![0; 128 * 1024];
    let mut written: u64 = 0;
    loop {
        let count = decoder.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { return Ok(()) };
        written += count as u64;
        if written > freely.max(taken.get().saturating_mul(LARGEST_RATIO)) {
            let cause = format!(
                "it unpacks to more than {LARGEST_RATIO} times its size; unpack it yourself to use it"
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
        }
        to.write_all(chunk)?;
    }
}

struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

/// A file of which only so much is read until more is granted. Seeking costs nothing.
struct Rationed {
    file: BufReader<File>,
    left: Rc<Cell<u64>>,
}

impl Read for Rationed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        match self.left.get().checked_sub(count as u64) {
            Some(left) => self.left.set(left),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the headers of a member are too large",
                ));
            }
        }
        Ok(count)
    }
}

impl Seek for Rationed {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match position {
            SeekFrom::Current(offset) => {
                self.file.seek_relative(offset)?;
                self.file.stream_position()
            }
            position => self.file.seek(position),
        }
    }
}

/// The members that count, by one pass that skips their contents.
fn members(place: &Path, file: File) -> Result<Members, LayoutError> {
    let failed = |error: io::Error| LayoutError::file(place.display(), "reading the archive", &error);
    let length = file.metadata().map_err(failed)?.len();
    let shared = Arc::new(file.try_clone().map_err(failed)?);
    let left = Rc::new(Cell::new(LARGEST_HEADERS));
    let mut archive = tar::Archive::new(Rationed { file: BufReader::new(file), left: Rc::clone(&left) });
    let mut members = Members::default();
    for entry in archive.entries_with_seek().map_err(failed)? {
        let entry = entry.map_err(|error| {
            LayoutError::invalid(place.display(), format!("this is no tar archive, or a broken one: {error}"))
        })?;
        left.set(LARGEST_HEADERS);
        let (start, size) = (entry.raw_file_position(), entry.size());
        let member = if entry.header().entry_type().is_file() {
            if start.checked_add(size).is_none_or(|end| end > length) {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                return Err(LayoutError::invalid(
                    place.display(),
                    format!("the archive is cut off in {name}"),
                ));
            }
            Member::File(Piece { file: Arc::clone(&shared), start, size })
        } else {
            Member::Other
        };
        members.add(place, &entry.path_bytes(), member)?;
    }
    Ok(members)
}

impl Members {
    fn add(&mut self, place: &Path, name: &[u8], member: Member) -> Result<(), LayoutError> {
        // Some writers begin names with `./`.
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
        let once = |slot: &mut Option<Member>, member| match slot.replace(member) {
            None => Ok(()),
            // Two programs might read two indexes.
            Some(_) => Err(LayoutError::invalid(place.display(), format!("{name} is there twice"))),
        };
        match name {
            LAYOUT_FILE => once(&mut self.version, member)?,
            INDEX_FILE => once(&mut self.index, member)?,
            "manifest.json" => self.docker = true,
            _ => {
                let digest =
                    name.strip_prefix("blobs/").and_then(|rest| rest.replacen('/', ":", 1).parse().ok());
                if let Some(digest) = digest {
                    self.blobs.insert(digest, member);
                }
            }
        }
        if self.blobs.len() > MOST_BLOBS {
            return Err(LayoutError::invalid(
                place.display(),
                format!("it has more than {MOST_BLOBS} blobs"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_grows_beyond_measure_is_not_unpacked_to_its_end() {
        let bomb = gzip(&vec![0; 8 << 20]);
        let mut unpacked = Vec::new();
        let error = unpack(bomb.as_slice(), &mut unpacked, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("more than 100 times its size"), "{error}");
        assert!(unpacked.len() <= 2 << 20, "{}", unpacked.len());
        assert!(unpack(bomb.as_slice(), &mut io::sink(), 8 << 20).is_ok());
    }

    #[test]
    fn what_several_runs_of_gzip_wrote_is_one_archive() {
        let whole = [gzip(b"one "), gzip(b"two")].concat();
        let mut unpacked = Vec::new();
        unpack(whole.as_slice(), &mut unpacked, 100).unwrap();
        assert_eq!(unpacked, b"one two");
    }

    #[test]
    fn what_is_cut_off_is_no_archive() {
        let whole = gzip(&[7; 1000]);
        assert!(unpack(&whole[..whole.len() - 4], &mut io::sink(), 10_000).is_err());
    }
}
