//! A small file of two numbers that is written in place and never lost to a torn write: two slots,
//! written in turn. Knows bytes, and not what the numbers mean.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::EngineError;
use crate::env::disk::{Disk, File};

/// Apart, so that a torn write hits one slot only.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;
/// Count, two numbers, CRC-32C over them, all little-endian.
const SLOT_BYTES: usize = 28;

/// What a slot holds.
pub(super) type Numbers = [u64; 2];

/// The open file.
pub(super) struct SlotFile {
    file: Arc<dyn File>,
    count: u64,
}

impl SlotFile {
    /// Opens the file, or makes it when it is missing and `create` is set. `None` when nothing was
    /// ever written.
    pub(super) fn open(disk: &dyn Disk, path: &Path, create: bool) -> Result<(Self, Option<Numbers>), EngineError> {
        let file = match disk.open(path) {
            Ok(file) if file.size()? == FILE_BYTES => file,
            Ok(_) => return Err(corrupt(path, "has the wrong size")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let file = disk.create(path, FILE_BYTES)?;
                file.sync()?;
                disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt(path, "is missing")),
            Err(error) => return Err(error.into()),
        };
        let mut newest = None;
        let mut unwritten = 0;
        for offset in SLOT_OFFSETS {
            let mut slot = [0; SLOT_BYTES];
            file.read_at(&mut slot, offset)?;
            unwritten += usize::from(slot == [0; SLOT_BYTES]);
            newest = newest.max(decode_slot(&slot));
        }
        if newest.is_none() && unwritten < SLOT_OFFSETS.len() {
            return Err(corrupt(path, "fails its checksum"));
        }
        let (count, numbers) = newest.unzip();
        Ok((Self { file, count: count.unwrap_or(0) }, numbers))
    }

    /// Makes the numbers durable.
    pub(super) fn set(&mut self, numbers: Numbers) -> io::Result<()> {
        self.count += 1;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        for number in [self.count, numbers[0], numbers[1]] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        slot.extend_from_slice(&crc32c::crc32c(&slot).to_le_bytes());
        let [even, odd] = SLOT_OFFSETS;
        self.file.write_at(&slot, if self.count.is_multiple_of(2) { even } else { odd })?;
        self.file.sync()
    }
}

fn decode_slot(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Numbers)> {
    let (numbers, checksum) = slot.split_first_chunk::<24>()?;
    if checksum != crc32c::crc32c(numbers).to_le_bytes() {
        return None;
    }
    let (count, rest) = numbers.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let second = rest.try_into().ok()?;
    Some((u64::from_le_bytes(*count), [u64::from_le_bytes(*first), u64::from_le_bytes(second)]))
}

fn corrupt(path: &Path, what: &str) -> EngineError {
    EngineError::Corrupt(format!("{} {what}", path.display()))
}
