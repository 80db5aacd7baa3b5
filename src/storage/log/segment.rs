//! Segment files: their names, their header block, and how one is made ready.
//!
//! Knows files and nothing of frames. A segment gets its name only once it is zeroed and durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{BLOCK_BYTES, u32_at, u64_at};
use crate::env::disk::{Disk, File};

const MAGIC: [u8; 8] = *b"QRLOG\0\0\x01";
const SUFFIX: &str = "log";
/// The name of a segment while it is being prepared.
const UNFINISHED: &str = "segment.new";
/// Zeros are written, and synced, in steps of this size, so that the log's own sync never waits long.
const ZERO_STEP_BYTES: usize = 1 << 20;

/// Where frames begin in a segment.
pub(super) const FRAMES_AT: u64 = BLOCK_BYTES as u64;

/// A segment in use.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) bytes: u64,
}

/// The path of a segment.
pub(super) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.{SUFFIX}"))
}

/// The segments in `dir`, ascending. An unfinished one is removed.
///
/// # Errors
/// As the file system.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for path in disk.list(dir)? {
        if path.file_name().is_some_and(|name| name == UNFINISHED) {
            disk.remove(&path)?;
        }
        if path.extension().is_none_or(|extension| extension != SUFFIX) {
            continue;
        }
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| u64::from_str_radix(stem, 16).ok());
        ids.extend(id);
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Makes a zeroed segment and its name durable.
///
/// # Errors
/// As the file system; [`io::ErrorKind::StorageFull`] leaves nothing behind.
pub(super) fn prepare(disk: &dyn Disk, dir: &Path, log: u64, id: u64, bytes: u64) -> io::Result<Segment> {
    let unfinished = dir.join(UNFINISHED);
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&unfinished, bytes)?;
    let made = fill(file.as_ref(), log, id, bytes)
        .and_then(|()| disk.rename(&unfinished, &path(dir, id)))
        .and_then(|()| disk.sync_dir(dir));
    match made {
        Ok(()) => Ok(Segment { id, file, bytes }),
        Err(error) => {
            // The error is what matters; what is left behind is removed before the next attempt.
            disk.remove(&unfinished).ok();
            Err(error)
        }
    }
}

/// Zeros are written, not only reserved: a later sync then has no metadata to write.
fn fill(file: &dyn File, log: u64, id: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_STEP_BYTES];
    let mut at = 0;
    while at < bytes {
        let step = usize::try_from(bytes - at).unwrap_or(ZERO_STEP_BYTES).min(ZERO_STEP_BYTES);
        file.write_at(&zeros[..step], at)?;
        file.sync()?;
        at += step as u64;
    }
    file.write_at(&header(log, id), 0)?;
    file.sync()
}

/// The first bytes of a segment.
pub(super) fn header(log: u64, id: u64) -> [u8; 28] {
    let mut header = [0; 28];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&log.to_le_bytes());
    header[16..24].copy_from_slice(&id.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..24]);
    header[24..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The log that the segment `id` says it belongs to; `None` when its header is damaged.
pub(super) fn log_of(block: &[u8], id: u64) -> Option<u64> {
    let header = block.get(..28)?;
    let whole = header[..8] == MAGIC && u32_at(header, 24)? == crc32c::crc32c(&header[..24]);
    (whole && u64_at(header, 16)? == id).then(|| u64_at(header, 8)).flatten()
}
