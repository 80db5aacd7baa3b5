//! Checks fjall's journals before fjall opens them.
//!
//! fjall 3.1.13 covers a batch's items with a checksum, but not the sequence number before them: a
//! flipped bit there makes older writes win. At damage it either cuts the journal silently or
//! refuses to open, and does not know what was synced: a tail torn by a power cut can lock it out,
//! and damage to synced batches can pass for a torn tail. Knowing how far the last flush reached
//! ([`FlushMark`](super::files::FlushMark)), this room tells the two apart: a torn tail is
//! marked as the journal's end, anything else is corruption with a file and an offset.
//!
//! Knows the journal's layout and nothing of stores or tables. In it, all numbers little-endian:
//!
//! ```text
//! batch   = 1 u8, items u32, sequence number u64, item*, 3 u8, XXH3-64 of the items u64, "FJL" 3 u8
//! item    = 2 u8, kind u8, compression u8, keyspace u64, key length u16, value length u32,
//!           stored length u32, key, value
//! journal = batch*, zeros
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::super::EngineError;
use super::super::check::check_pair;
use super::files::FlushMark;
use crate::env::disk::{Disk, File};

/// Read from a journal at once.
const READ_BYTES: usize = 1024 * 1024;
const START_BYTES: usize = 13;
const ITEM_HEADER_BYTES: usize = 21;
const END_BYTES: usize = 13;
const TRAILER: &[u8] = b"FJL\x03";
/// fjall panics once a sequence number uses the highest bit.
const SEQNO_MAX: u64 = 1 << 62;
const OUT_OF_ORDER: &str = "the sequence numbers do not ascend";

/// A journal file, by the number in its name.
pub(super) type Journal = (u64, PathBuf);

/// Reads all journals, oldest first, ends a torn one where its damage begins, and returns the last
/// sequence number.
pub(super) fn check_journals(
    disk: &dyn Disk,
    journals: &[Journal],
    mark: FlushMark,
) -> Result<Option<u64>, EngineError> {
    let mut last = None;
    for (at, (number, path)) in journals.iter().enumerate() {
        let file = disk.open(path)?;
        let end = read_journal(file.clone(), last)?;
        last = end.last;
        let Some(reason) = end.damage else { continue };
        // fjall syncs a journal before it begins the next.
        let active = at + 1 == journals.len();
        let flushed = mark.seqno > 0 && *number <= mark.journal && last < Some(mark.seqno);
        let offset = end.offset;
        if !active || flushed {
            return Err(EngineError::Corrupt(format!("{} at byte {offset}: {reason}", path.display())));
        }
        tracing::warn!(path = %path.display(), offset, reason, "cutting the torn tail of the engine's journal");
        end_at(&*file, path, offset)?;
    }
    Ok(last)
}

/// fjall takes a zero in the place of a batch for the end, and cuts the file there.
fn end_at(file: &dyn File, path: &Path, offset: u64) -> Result<(), EngineError> {
    let end = file.write_at(&[0], offset).and_then(|()| file.sync());
    end.map_err(|error| EngineError::Io(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))))
}

/// Where a journal ends.
struct End {
    /// After the last good batch.
    offset: u64,
    /// Its sequence number, or that of an older journal's last one.
    last: Option<u64>,
    damage: Option<&'static str>,
}

fn read_journal(file: Arc<dyn File>, last: Option<u64>) -> Result<End, EngineError> {
    let mut reader = Reader::new(file)?;
    let mut end = End { offset: 0, last, damage: None };
    let mut before = End { offset: 0, last, damage: None };
    loop {
        match read_batch(&mut reader, end.last)? {
            Ok(Some(seqno)) => {
                before = End { ..end };
                end = End { offset: reader.offset(), last: Some(seqno), damage: None };
            }
            Ok(None) => return Ok(end),
            // Either of the two may be the damaged one.
            Err(OUT_OF_ORDER) => return Ok(End { damage: Some(OUT_OF_ORDER), ..before }),
            Err(reason) => return Ok(End { damage: Some(reason), ..end }),
        }
    }
}

type Batch = Result<Option<u64>, &'static str>;

/// The sequence number of the next batch; `None` when only zeros follow.
fn read_batch(reader: &mut Reader, last: Option<u64>) -> Result<Batch, EngineError> {
    let Some(start) = reader.take(START_BYTES)? else { return reader.only_zeros() };
    if start.first() == Some(&0) {
        return if start.iter().all(|byte| *byte == 0) {
            reader.only_zeros()
        } else {
            Ok(Err("a batch begins with 0"))
        };
    }
    let Some((items, seqno)) = parse_start(start) else { return Ok(Err("no batch begins there")) };
    if seqno > SEQNO_MAX {
        return Ok(Err("the sequence number cannot be"));
    }
    if last.is_some_and(|last| seqno <= last) {
        return Ok(Err(OUT_OF_ORDER));
    }
    let mut hash = Xxh3Default::new();
    for _ in 0..items {
        let Some(header) = reader.take(ITEM_HEADER_BYTES)? else { return Ok(Err("an item is cut off")) };
        hash.update(header);
        let Some((key, value)) = parse_item(header) else { return Ok(Err("an item is malformed")) };
        let Some(pair) = reader.take(key + value)? else { return Ok(Err("an item is cut off")) };
        hash.update(pair);
    }
    let Some(end) = reader.take(END_BYTES)? else { return Ok(Err("a batch has no end")) };
    let Some(checksum) = parse_end(end) else { return Ok(Err("a batch has no end")) };
    Ok(if checksum == hash.digest() { Ok(Some(seqno)) } else { Err("a batch fails its checksum") })
}

fn parse_start(start: &[u8]) -> Option<(u32, u64)> {
    let (tag, rest) = start.split_first()?;
    let (items, seqno) = rest.split_first_chunk()?;
    (*tag == 1).then_some((u32::from_le_bytes(*items), u64::from_le_bytes(seqno.try_into().ok()?)))
}

/// Lengths of key and value. Only what this engine writes: puts and tombstones, not compressed.
fn parse_item(header: &[u8]) -> Option<(usize, usize)> {
    let (known, rest) = header.split_first_chunk::<3>()?;
    let (_keyspace, rest) = rest.split_first_chunk::<8>()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (value, stored) = rest.split_first_chunk()?;
    let key = usize::from(u16::from_le_bytes(*key));
    let value = usize::try_from(u32::from_le_bytes(*value)).ok()?;
    let plain = matches!(known, [2, 0 | 1, 0]) && stored == u32::try_from(value).ok()?.to_le_bytes();
    (plain && check_pair(key, value).is_ok()).then_some((key, value))
}

fn parse_end(end: &[u8]) -> Option<u64> {
    let (tag, rest) = end.split_first()?;
    let (checksum, trailer) = rest.split_first_chunk()?;
    (*tag == 3 && trailer == TRAILER).then_some(u64::from_le_bytes(*checksum))
}

/// A file read from its start, in large pieces.
struct Reader {
    file: Arc<dyn File>,
    size: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were taken.
    taken: usize,
    /// Where the buffer ends in the file.
    buffer_end: u64,
}

impl Reader {
    fn new(file: Arc<dyn File>) -> Result<Self, EngineError> {
        let size = file.size()?;
        Ok(Self { file, size, buffer: Vec::new(), taken: 0, buffer_end: 0 })
    }

    fn offset(&self) -> u64 {
        self.buffer_end - (self.buffer.len() - self.taken) as u64
    }

    /// The next `bytes`; `None` when the file ends first.
    fn take(&mut self, bytes: usize) -> Result<Option<&[u8]>, EngineError> {
        if self.buffer.len() - self.taken < bytes {
            let left = usize::try_from(self.size - self.buffer_end).unwrap_or(usize::MAX);
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let old = self.buffer.len();
            let more = left.min(READ_BYTES.max(bytes - old));
            if old + more < bytes {
                return Ok(None);
            }
            self.buffer.resize(old + more, 0);
            let target = self.buffer.get_mut(old..).unwrap_or_default();
            self.file.read_at(target, self.buffer_end)?;
            self.buffer_end += more as u64;
        }
        let piece = self.buffer.get(self.taken..self.taken + bytes);
        self.taken += bytes;
        Ok(piece)
    }

    /// Whether the rest of the file was never written.
    fn only_zeros(&mut self) -> Result<Batch, EngineError> {
        loop {
            if self.buffer.get(self.taken..).unwrap_or_default().iter().fold(0, |all, byte| all | byte) != 0 {
                return Ok(Err("no batch begins there, and the journal goes on"));
            }
            self.taken = self.buffer.len();
            let left = usize::try_from(self.size - self.buffer_end).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(Ok(None));
            }
            self.take(left.min(READ_BYTES))?;
            self.taken = 0;
        }
    }
}
