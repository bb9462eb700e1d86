use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;

const SHA1: ObjectFormat = ObjectFormat::Sha1;

/// Writes packs as servers do.
struct Writer {
    pack: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { pack: b"PACK\0\0\0\x02\0\0\0\0".to_vec(), count: 0 }
    }

    /// An entry of any type and gives its offset; `prefix` stands before the packed content.
    fn entry(&mut self, kind: u8, prefix: &[u8], content: &[u8]) -> usize {
        self.entry_that_says(kind, prefix, content, content.len() as u64)
    }

    fn entry_that_says(&mut self, kind: u8, prefix: &[u8], content: &[u8], said: u64) -> usize {
        let offset = self.pack.len();
        let (mut byte, mut rest) = ((kind << 4) | (said & 0x0f) as u8, said >> 4);
        while rest > 0 {
            self.pack.push(byte | 0x80);
            (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
        }
        self.pack.push(byte);
        self.pack.extend_from_slice(prefix);
        let mut encoder = ZlibEncoder::new(&mut self.pack, Compression::fast());
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory");
        self.count += 1;
        offset
    }

    fn offset_delta(&mut self, base: usize, delta: &[u8]) -> usize {
        let mut distance = self.pack.len() - base;
        let mut prefix = vec![(distance & 0x7f) as u8];
        while distance >= 128 {
            distance = (distance >> 7) - 1;
            prefix.insert(0, 0x80 | (distance & 0x7f) as u8);
        }
        self.entry(6, &prefix, delta)
    }

    fn reference_delta(&mut self, base: &[u8], delta: &[u8]) -> usize {
        let id = SHA1.name_of(Kind::Blob, base).to_string();
        let id: Vec<u8> =
            (0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("hex")).collect();
        self.entry(7, &id, delta)
    }

    fn finish(mut self) -> Vec<u8> {
        self.pack[8..12].copy_from_slice(&self.count.to_be_bytes());
        sealed(self.pack)
    }
}

/// With the right checksum, so that what is wrong before it is seen.
fn sealed(mut pack: Vec<u8>) -> Vec<u8> {
    let checksum = digest(&pack);
    pack.extend(checksum);
    pack
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The delta from `base` to a mixture of its parts and new bytes, and what it builds.
fn delta(base: &[u8], random: &mut fastrand::Rng) -> (Vec<u8>, Vec<u8>) {
    let (mut instructions, mut built) = (Vec::new(), Vec::new());
    for _ in 0..random.usize(1..8) {
        if base.is_empty() || random.bool() {
            let new: Vec<u8> = (0..random.u8(1..127)).map(|_| random.u8(..)).collect();
            instructions.push(new.len() as u8);
            instructions.extend_from_slice(&new);
            built.extend(new);
        } else {
            let offset = random.usize(..base.len());
            let length = random.usize(1..=(base.len() - offset).min(0xff_ffff));
            instructions.push(0xff);
            instructions.extend_from_slice(&(offset as u32).to_le_bytes());
            instructions.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
            built.extend_from_slice(&base[offset..offset + length]);
        }
    }
    ([number(base.len()), number(built.len()), instructions].concat(), built)
}

/// A pack of blobs, some built on others before and after them, and what is in them.
fn random_pack(random: &mut fastrand::Rng) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut writer = Writer::new();
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    // With their offsets; of those that are to come, where the delta is.
    let mut bases: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut to_come: Vec<Vec<u8>> = Vec::new();
    for _ in 0..random.usize(1..12) {
        let base = random.usize(..bases.len().max(1));
        let (offset, blob) = match (bases.get(base), random.u8(..4)) {
            (None, _) | (_, 0) => {
                let blob: Vec<u8> = (0..random.usize(..3000)).map(|_| random.u8(..4)).collect();
                (writer.entry(3, &[], &blob), blob)
            }
            (Some((offset, base)), 1) => {
                let (delta, blob) = delta(base, random);
                (writer.offset_delta(*offset, &delta), blob)
            }
            (Some((_, base)), 2) => {
                let (delta, blob) = delta(base, random);
                (writer.reference_delta(base, &delta), blob)
            }
            _ => {
                let later: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
                let (delta, blob) = delta(&later, random);
                let offset = writer.reference_delta(&later, &delta);
                to_come.push(later);
                (offset, blob)
            }
        };
        blobs.push(blob.clone());
        bases.push((offset, blob));
    }
    for blob in to_come {
        writer.entry(3, &[], &blob);
        blobs.push(blob);
    }
    (writer.finish(), blobs)
}

fn get(objects: &Objects, blob: &[u8]) -> Option<Bytes> {
    objects.get(&SHA1.name_of(Kind::Blob, blob), Kind::Blob)
}

#[test]
fn whatever_is_packed_is_unpacked() {
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..300 {
        let (pack, blobs) = random_pack(&mut random);
        let objects = unpack(&pack, SHA1).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        for blob in blobs {
            assert_eq!(get(&objects, &blob).as_deref(), Some(blob.as_slice()), "round {round}");
        }
        assert!(!objects.left_out);
    }
}

#[test]
fn nothing_in_a_pack_makes_it_panic_or_gives_an_object_that_is_not_its_hash() {
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..2000 {
        let (mut pack, _) = random_pack(&mut random);
        pack.truncate(pack.len() - 20);
        match random.u8(..3) {
            0 => pack.truncate(random.usize(..pack.len())),
            _ => {
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..pack.len());
                    pack[at] = random.u8(..);
                }
            }
        }
        if let Ok(objects) = unpack(&sealed(pack), SHA1) {
            for (id, (kind, content)) in &objects.by_id {
                assert_eq!(*id, SHA1.name_of(*kind, content));
            }
        }
    }
}

#[test]
fn a_pack_that_broke_off_or_was_changed_is_refused() {
    let (pack, _) = random_pack(&mut fastrand::Rng::with_seed(3));
    for length in 0..pack.len() {
        assert!(unpack(&pack[..length], SHA1).is_err());
    }
    let mut changed = pack.clone();
    changed[15] ^= 1;
    assert_eq!(unpack(&changed, SHA1).unwrap_err(), PackError::Malformed("its checksum is wrong"));
    assert!(unpack(&sealed(b"nonsense, and long enough for a pack".to_vec()), SHA1).is_err());
}

#[test]
fn what_unpacks_to_too_much_is_never_held() {
    let zeros = vec![0; LARGEST_OBJECT as usize + 1];
    let mut large = Writer::new();
    let base = large.entry(3, &[], &zeros);
    large.offset_delta(base, &[number(zeros.len()), number(1), vec![1, b'x']].concat());
    large.entry(3, &[], b"small");
    let objects = unpack(&large.finish(), SHA1).expect("the small one");
    assert!(objects.left_out && get(&objects, b"small").is_some() && objects.by_id.len() == 1);

    // It says that it is small, and is not.
    let mut lies = Writer::new();
    lies.entry_that_says(3, &[], &zeros, 10);
    assert!(matches!(unpack(&lies.finish(), SHA1), Err(PackError::Malformed(_))));

    let mut many = Writer::new();
    for _ in 0..3 {
        many.entry(3, &[], &[0; 1000]);
    }
    let many = many.finish();
    assert_eq!(unpack_at_most(&many, SHA1, 2999).unwrap_err(), PackError::TooLarge);
    assert!(unpack_at_most(&many, SHA1, 3000).is_ok());

    // A short delta that copies one long piece again and again.
    let mut bomb = Writer::new();
    let base = bomb.entry(3, &[], &zeros[..0x10000]);
    let copies = vec![0x80; 1000];
    let delta = [number(0x10000), number(1000 * 0x10000), copies].concat();
    bomb.offset_delta(base, &delta);
    let objects = unpack(&bomb.finish(), SHA1).expect("the base");
    assert!(objects.left_out && objects.by_id.len() == 1);
    let mut lies = Writer::new();
    let base = lies.entry(3, &[], &zeros[..0x10000]);
    lies.offset_delta(base, &[number(0x10000), number(5), vec![0x80; 1000]].concat());
    assert!(unpack(&lies.finish(), SHA1).is_err());
}

#[test]
fn a_count_that_promises_more_than_there_is_takes_no_memory() {
    let mut writer = Writer::new();
    writer.count = u32::MAX;
    assert!(
        unpack(
            &sealed({
                writer.pack[8..12].fill(0xff);
                writer.pack
            }),
            SHA1
        )
        .is_err()
    );
}
