//! The bytes of a layer without their compression, whichever it is.

use std::io::{self, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::registry::Descriptor;

/// The largest window of a zstd frame, in bytes: what the encoders of BuildKit and Podman use at most. The decoder
/// keeps as much in memory.
const LARGEST_WINDOW: u64 = 32 * 1024 * 1024;
/// RFC 8878, section 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why nobody can look into a layer, if so. Which compression it has is seen from its bytes, as container
/// runtimes do.
pub(super) fn unreadable(layer: &Descriptor) -> Option<String> {
    let media_type = layer.media_type.as_str();
    if layer.media_type.is_foreign_layer() {
        return Some("is foreign and in no registry".to_owned());
    }
    if media_type.ends_with("+encrypted") {
        return Some("is encrypted".to_owned());
    }
    let known = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
    let is_archive = known.iter().any(|prefix| {
        media_type
            .strip_prefix(prefix)
            .is_some_and(|compression| matches!(compression, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
    });
    (!is_archive).then(|| format!("has the media type {media_type:?}, which is no archive of files"))
}

/// Looks at the first bytes of `source` and removes the compression that they tell of.
pub(super) fn unpacked<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let zstd = magic == ZSTD_MAGIC || is_skippable(&magic);
    let gzip = magic.starts_with(&GZIP_MAGIC);
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(magic).chain(source);
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(Frames { source: whole, decoder: FrameDecoder::new() }),
        _ => Box::new(whole),
    })
}

/// RFC 8878, section 3.1.2.
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [first, 0x2a, 0x4d, 0x18] if first & 0xf0 == 0x50)
}

/// All the frames of a zstd stream, one after the other.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            } else if !self.begin_frame()? {
                return Ok(0);
            }
        }
    }
}

impl<R: Read> Frames<R> {
    /// Goes to the next frame with content, if there is one.
    fn begin_frame(&mut self) -> io::Result<bool> {
        loop {
            let mut header = Vec::with_capacity(18);
            self.source.by_ref().take(4).read_to_end(&mut header)?;
            if header.is_empty() {
                return Ok(false);
            }
            if !is_skippable(&header) {
                self.read_header(&mut header)?;
                self.decoder.reset(Cursor::new(header)).map_err(io::Error::other)?;
                return Ok(true);
            }
            let mut length = [0; 4];
            self.source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        }
    }

    /// RFC 8878, section 3.1.1.1. Read here since the decoder sets no limit to the window of a first frame.
    fn read_header(&mut self, header: &mut Vec<u8>) -> io::Result<()> {
        let mut more = |count: usize| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; count];
            self.source.read_exact(&mut bytes)?;
            header.extend(&bytes);
            Ok(bytes)
        };
        let descriptor = more(1)?.first().copied().unwrap_or_default();
        let single_segment = descriptor & 0b10_0000 != 0;
        let window = match single_segment {
            true => None,
            false => more(1)?.first().map(|byte| {
                let base = 1_u64 << (10 + (byte >> 3));
                base + base / 8 * u64::from(byte & 0b111)
            }),
        };
        more([0, 1, 2, 4][usize::from(descriptor & 0b11)])?;
        let size = more(match descriptor >> 6 {
            0 => usize::from(single_segment),
            flag => 1 << flag,
        })?;
        let mut content = [0; 8];
        content[..size.len()].copy_from_slice(&size);
        let window = window.unwrap_or(u64::from_le_bytes(content));
        if window > LARGEST_WINDOW {
            return Err(io::Error::other(format!(
                "its zstd window of {window} bytes is larger than {LARGEST_WINDOW}"
            )));
        }
        Ok(())
    }
}
