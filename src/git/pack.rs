//! Reads packs (`gitformat-pack(5)`): few small objects out of whatever a server sends.

use std::collections::HashMap;
use std::io::Read as _;

use bytes::Bytes;
use flate2::bufread::ZlibDecoder;

use super::object::{Kind, ObjectFormat, ObjectId};

/// Largest pack, in bytes as it is sent.
pub(super) const LARGEST_PACK: usize = 64 * 1024 * 1024;
/// Largest object that is kept, in bytes. Larger ones are passed over.
pub(super) const LARGEST_OBJECT: u64 = 4 * 1024 * 1024;
/// All objects of a pack together, unpacked, in bytes.
pub(super) const MOST_UNPACKED: u64 = 128 * 1024 * 1024;

/// Why a pack cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PackError {
    Malformed(&'static str),
    TooLarge,
}

type Result<T> = std::result::Result<T, PackError>;

/// The objects of a pack that are small enough, each under the hash of what is in it.
#[derive(Debug, Default)]
pub(super) struct Objects {
    by_id: HashMap<ObjectId, (Kind, Bytes)>,
    /// Whether there were larger ones.
    pub(super) left_out: bool,
}

impl Objects {
    pub(super) fn get(&self, id: &ObjectId, kind: Kind) -> Option<Bytes> {
        self.by_id.get(id).filter(|(found, _)| *found == kind).map(|(_, content)| content.clone())
    }

    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn extend(&mut self, others: Objects) {
        self.by_id.extend(others.by_id);
        self.left_out |= others.left_out;
    }
}

/// Unpacks a whole pack. Takes at most [`MOST_UNPACKED`] of memory besides it.
///
/// # Errors
/// If it is malformed or unpacks to too much.
pub(super) fn unpack(pack: &[u8], format: ObjectFormat) -> Result<Objects> {
    unpack_at_most(pack, format, MOST_UNPACKED)
}

fn unpack_at_most(pack: &[u8], format: ObjectFormat, most: u64) -> Result<Objects> {
    let checked = pack.len().checked_sub(format.length()).ok_or(PackError::Malformed("it broke off"))?;
    let (pack, checksum) = pack.split_at(checked);
    if ObjectId::read(checksum, format) != Some(format.hash(pack)) {
        return Err(PackError::Malformed("its checksum is wrong"));
    }
    let mut reader = Reader { pack, at: 0, left: most };
    let header = reader.take(12)?;
    if !header.starts_with(b"PACK\0\0\0\x02") && !header.starts_with(b"PACK\0\0\0\x03") {
        return Err(PackError::Malformed("it does not begin as a pack"));
    }
    let count = header[8..].iter().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    let mut unpacker =
        Unpacker { format, objects: Objects::default(), at: HashMap::new(), waiting: HashMap::new() };
    for _ in 0..count {
        unpacker.add(&mut reader)?;
    }
    if reader.at != pack.len() {
        return Err(PackError::Malformed("there is more in it than it says"));
    }
    if !unpacker.waiting.is_empty() && !unpacker.objects.left_out {
        return Err(PackError::Malformed("an object that others are built on is missing"));
    }
    Ok(unpacker.objects)
}

struct Unpacker {
    format: ObjectFormat,
    objects: Objects,
    /// The object that begins at an offset; none for those that were left out.
    at: HashMap<usize, Option<ObjectId>>,
    /// Deltas whose base is not there yet, with their offsets.
    waiting: HashMap<Base, Vec<(usize, Vec<u8>)>>,
}

/// What a delta is built on.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Base {
    Named(ObjectId),
    At(usize),
}

impl Unpacker {
    fn add(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let offset = reader.at;
        let (kind, size) = reader.entry_header()?;
        match kind {
            1..=4 => {
                let kind = [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag][kind as usize - 1];
                match reader.inflate(size)? {
                    Some(content) => self.keep(offset, kind, content, reader)?,
                    None => self.leave_out(offset),
                }
            }
            6 => {
                let base = offset.checked_sub(reader.distance()?);
                let base = base.ok_or(PackError::Malformed("a delta is built on nothing"))?;
                self.delta(offset, Base::At(base), size, reader)?;
            }
            7 => {
                let base = ObjectId::read(reader.take(self.format.length())?, self.format);
                let base = base.ok_or(PackError::Malformed("it broke off"))?;
                self.delta(offset, Base::Named(base), size, reader)?;
            }
            _ => return Err(PackError::Malformed("it has an object of an unknown type")),
        }
        Ok(())
    }

    fn delta(&mut self, offset: usize, base: Base, size: u64, reader: &mut Reader<'_>) -> Result<()> {
        let Some(delta) = reader.inflate(size)? else {
            self.leave_out(offset);
            return Ok(());
        };
        let id = match &base {
            Base::Named(id) => Some(*id),
            Base::At(base) => match self.at.get(base) {
                Some(None) => {
                    self.leave_out(offset);
                    return Ok(());
                }
                found => found.copied().flatten(),
            },
        };
        match id.and_then(|id| self.objects.by_id.get(&id)).cloned() {
            None => self.waiting.entry(base).or_default().push((offset, delta)),
            Some((kind, content)) => match apply(&content, &delta, reader)? {
                Some(built) => self.keep(offset, kind, built, reader)?,
                None => self.leave_out(offset),
            },
        }
        Ok(())
    }

    /// Keeps an object, and then whatever has waited for it.
    fn keep(&mut self, offset: usize, kind: Kind, content: Vec<u8>, reader: &mut Reader<'_>) -> Result<()> {
        let mut ready = vec![(offset, content)];
        while let Some((offset, content)) = ready.pop() {
            let id = self.format.name_of(kind, &content);
            self.at.insert(offset, Some(id));
            let waiting = [Base::Named(id), Base::At(offset)].map(|base| self.waiting.remove(&base));
            for (offset, delta) in waiting.into_iter().flatten().flatten() {
                match apply(&content, &delta, reader)? {
                    Some(built) => ready.push((offset, built)),
                    None => self.leave_out(offset),
                }
            }
            self.objects.by_id.insert(id, (kind, content.into()));
        }
        Ok(())
    }

    fn leave_out(&mut self, offset: usize) {
        self.objects.left_out = true;
        self.at.insert(offset, None);
    }
}

/// The bytes of a pack, and what may still be unpacked from them.
struct Reader<'a> {
    pack: &'a [u8],
    at: usize,
    left: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.pack.len());
        let taken = &self.pack[self.at..end.ok_or(PackError::Malformed("it broke off"))?];
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Type and unpacked size of the next entry.
    fn entry_header(&mut self) -> Result<(u8, u64)> {
        let first = self.byte()?;
        let (mut size, mut shift) = (u64::from(first & 0x0f), 4);
        let mut byte = first;
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            size |= shifted(byte, shift)?;
            shift += 7;
        }
        Ok(((first >> 4) & 7, size))
    }

    /// How many bytes before an entry its base begins.
    fn distance(&mut self) -> Result<usize> {
        let mut byte = self.byte()?;
        let mut distance = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            let next = distance.checked_add(1).and_then(|distance| distance.checked_mul(128));
            distance = next.ok_or(PackError::Malformed("an offset is too large"))? | usize::from(byte & 0x7f);
        }
        Ok(distance)
    }

    /// The next bytes unpacked, which are as many as they should be; none if those are too many to keep.
    fn inflate(&mut self, size: u64) -> Result<Option<Vec<u8>>> {
        self.spend(size)?;
        let mut decoder = ZlibDecoder::new(&self.pack[self.at..]);
        // One more than there should be, so that the end is seen and its checksum compared.
        let mut limited = decoder.by_ref().take(size + 1);
        let mut content = Vec::new();
        let unpacked = if size > LARGEST_OBJECT {
            std::io::copy(&mut limited, &mut std::io::sink())
        } else {
            limited.read_to_end(&mut content).map(|length| length as u64)
        };
        if unpacked.map_err(|_| PackError::Malformed("an object does not unpack"))? != size {
            return Err(PackError::Malformed("an object is not as long as it says"));
        }
        self.at += usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
        Ok((size <= LARGEST_OBJECT).then_some(content))
    }

    fn spend(&mut self, size: u64) -> Result<()> {
        self.left = self.left.checked_sub(size).ok_or(PackError::TooLarge)?;
        Ok(())
    }
}

fn shifted(byte: u8, shift: u32) -> Result<u64> {
    let bits = u64::from(byte & 0x7f);
    // Nothing that is sent is so large; shifting further would lose bits.
    if shift > 56 { Err(PackError::Malformed("a size is too large")) } else { Ok(bits << shift) }
}

/// Builds an object from its base; none if it gets too large to keep.
fn apply(base: &[u8], delta: &[u8], budget: &mut Reader<'_>) -> Result<Option<Vec<u8>>> {
    let mut delta = Reader { pack: delta, at: 0, left: 0 };
    let (base_size, size) = (delta.size()?, delta.size()?);
    if base_size != base.len() as u64 {
        return Err(PackError::Malformed("a delta is for an object of another size"));
    }
    budget.spend(size)?;
    if size > LARGEST_OBJECT {
        return Ok(None);
    }
    let mut built = Vec::new();
    while delta.at < delta.pack.len() {
        let instruction = delta.byte()?;
        let piece = match instruction {
            0 => return Err(PackError::Malformed("a delta has an unknown instruction")),
            1..=0x7f => delta.take(instruction.into())?,
            _ => {
                let (offset, length) = delta.copy(instruction)?;
                base.get(offset..offset + length)
                    .ok_or(PackError::Malformed("a delta reaches past its base"))?
            }
        };
        built.extend_from_slice(piece);
        if built.len() as u64 > size {
            break;
        }
    }
    if built.len() as u64 != size {
        return Err(PackError::Malformed("an object is not as long as it says"));
    }
    Ok(Some(built))
}

impl Reader<'_> {
    fn size(&mut self) -> Result<u64> {
        let (mut size, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            size |= shifted(byte, shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(size);
            }
        }
    }

    /// Offset and length of a copy; the bits say which of their bytes are there.
    fn copy(&mut self, bits: u8) -> Result<(usize, usize)> {
        let mut number = |bits: u8, count: u8| {
            (0..count).try_fold(0, |number, at| {
                let byte = if bits & (1 << at) == 0 { 0 } else { self.byte()? };
                Ok(number | usize::from(byte) << (8 * at))
            })
        };
        let offset = number(bits, 4)?;
        let length = number(bits >> 4, 3)?;
        Ok((offset, if length == 0 { 0x10000 } else { length }))
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
