//! How much of what servers send is in memory at once, whoever has asked for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::error::{Error, Kind, Operation};

/// The largest answer that is read without waiting for room, in bytes. Few of an honest registry are larger.
pub(super) const SMALL_ANSWER: u64 = 64 * 1024;
/// How many bytes of larger answers are on their way into memory at once.
const MOST_READ: u64 = 16 * 1024 * 1024;
/// How long one of them may wait, and then take: others wait for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The largest manifest that is kept without being counted, in bytes.
const SMALL_MANIFEST: usize = 32 * 1024;
/// How many bytes of larger manifests are kept at once.
const MOST_KEPT: u64 = 16 * 1024 * 1024;
/// In what both are counted, in bytes.
const UNIT: u64 = 1024;
/// How many values a JSON document of somebody else may have: each may take some 300 bytes, however short it is.
const MOST_VALUES: usize = 65_536;

/// The memory that all sessions of a client share.
pub(super) struct Memory {
    reading: Semaphore,
    keeping: Arc<Semaphore>,
}

/// Bytes that take their share with them.
struct Kept {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Memory {
    fn default() -> Self {
        let of = |bytes| Semaphore::new(usize::try_from(units(bytes)).unwrap_or(Semaphore::MAX_PERMITS));
        Self { reading: of(MOST_READ), keeping: Arc::new(of(MOST_KEPT)) }
    }
}

impl Memory {
    /// Waits for room for an answer of so many bytes.
    pub(super) async fn room(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.reading.acquire_many(units(bytes.min(MOST_READ))).await.ok()
    }

    /// The same bytes, for who keeps them while he waits for something else.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if too many are kept already. Nobody waits for room here: he might wait for himself.
    pub(super) fn keep(&self, operation: &Operation, bytes: &Bytes) -> Result<Bytes, Error> {
        // A copy: what was read may have been read into a larger piece of memory.
        let bytes = Bytes::copy_from_slice(bytes);
        if bytes.len() <= SMALL_MANIFEST {
            return Ok(bytes);
        }
        let share = Arc::clone(&self.keeping).try_acquire_many_owned(units(bytes.len() as u64));
        let full = |_| {
            let cause = "too many manifests of this size are being worked on; it is tried again";
            operation.error(Kind::Unavailable, cause)
        };
        Ok(Bytes::from_owner(Kept { bytes, _share: share.map_err(full)? }))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Refuses a JSON document of so many values that reading it would take hundreds of times its size.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_values(json: &[u8]) -> Result<(), String> {
    let (mut values, mut in_text, mut escaped) = (1_usize, false, false);
    for &byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    if values > MOST_VALUES {
        return Err(format!("it has {values} values; {MOST_VALUES} is the most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn keep(memory: &Memory, bytes: usize) -> Result<Bytes, Error> {
        memory.keep(&Operation::new("a.io/web", "testing"), &Bytes::from(vec![b' '; bytes]))
    }

    #[test]
    fn everything_at_its_worst_fits_the_limit_of_the_chart() {
        let values = include_str!("../../charts/multiarch-operator/values.yaml");
        let values: serde_json::Value = serde_saphyr::from_str(values).unwrap();
        let limit = values["resources"]["limits"]["memory"].as_str().unwrap();
        let limit = limit.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() << 20;
        let times = |count: usize, bytes: u64| count as u64 * bytes;
        let unpacking = times(crate::controller::UNPACKING, crate::image::MOST_MEMORY);
        let packs = times(crate::git::MOST_PACKS, crate::git::LARGEST_PACK);
        // docs/sizing.md: with a few images. What is left is for what is being parsed.
        let resident = 34_000_000;
        let worst = resident + unpacking + packs + MOST_READ + MOST_KEPT;
        assert!(worst + (32 << 20) <= limit, "{worst} of {limit} bytes");
    }

    #[test]
    fn no_more_large_manifests_are_kept_than_there_is_room_for_and_small_ones_always() {
        let memory = Memory::default();
        let largest = 4 * 1024 * 1024;
        let mut kept: Vec<Bytes> = (0..4).map(|_| keep(&memory, largest).unwrap()).collect();
        let error = keep(&memory, largest).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(keep(&memory, SMALL_MANIFEST).unwrap().len(), SMALL_MANIFEST);
        let copy = kept.pop().unwrap();
        drop(copy.clone());
        assert!(keep(&memory, largest).is_err(), "one copy is still there");
        drop(copy);
        assert!(keep(&memory, largest).is_ok());
    }

    #[test]
    fn large_answers_wait_until_there_is_room() {
        let memory = Memory::default();
        let first = memory.room(MOST_READ).now_or_never().unwrap();
        assert!(memory.room(1).now_or_never().is_none());
        drop(first);
        assert!(memory.room(u64::MAX).now_or_never().is_some());
    }

    #[test]
    fn a_document_of_nothing_but_values_is_refused_and_a_long_text_is_not() {
        for flood in ["{},", "0,", "[", r#""","#, r#"{"a":[]},"#] {
            assert!(check_values(flood.repeat(100_000).as_bytes()).is_err(), "{flood}");
        }
        let text = r#"{"a":"[,,,\"{,{,\\"}"#.replace(",,,", &",".repeat(1_000_000));
        assert_eq!(check_values(text.as_bytes()), Ok(()));
        assert_eq!(check_values(b""), Ok(()));
    }
}
