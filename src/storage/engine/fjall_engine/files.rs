//! What lies beside fjall's own files: the next store's id, kept apart so that no damage to
//! fjall's journal can hand out an id twice, and how far the last flush reached. Also removes what
//! a first opening left unfinished. Knows names and bytes, and does not call fjall.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{EngineError, StoreId};
use super::journal::Journal;
use crate::env::disk::{DirLock, Disk, File, read_file, replace_file};

/// Next to fjall's directory.
const NEXT_STORE_FILE: &str = "next-store";
/// Id, then CRC-32C over it, both little-endian.
const NEXT_STORE_BYTES: usize = 12;
/// How far the last flush reached, in two slots that are written in turn.
const FLUSHED_FILE: &str = "flushed";
/// Apart, so that a torn write hits one slot only.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FLUSHED_BYTES: u64 = 8192;
/// Count, journal, sequence number, CRC-32C over them, all little-endian.
const SLOT_BYTES: usize = 28;
/// fjall's directory of keyspaces.
const KEYSPACES_DIR: &str = "keyspaces";
/// fjall writes it last when it makes a database.
const VERSION_FILE: &str = "version";
/// fjall's, and ours beside it.
const LOCK_FILE: &str = "lock";
const JOURNAL_EXTENSION: &str = "jnl";

/// The engine's directory.
pub(super) struct Files<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
}

impl<'d> Files<'d> {
    /// Makes the directory if need be.
    pub(super) fn open(disk: &'d dyn Disk, dir: &Path) -> Result<Self, EngineError> {
        disk.create_dir(dir)?;
        Ok(Self { disk, dir: dir.to_owned() })
    }

    /// Keeps other processes out, until dropped. fjall's own lock comes too late for us.
    pub(super) fn lock(&self) -> Result<Box<dyn DirLock>, EngineError> {
        let path = self.dir.join(LOCK_FILE);
        self.disk.lock(&path).map_err(|error| {
            EngineError::Io(io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display())))
        })
    }

    /// fjall's own directory.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("fjall")
    }

    /// Where all of this lies.
    pub(super) fn disk(&self) -> &'d dyn Disk {
        self.disk
    }

    /// The id of the next store; `None` before the first opening has finished.
    pub(super) fn next_store(&self) -> Result<Option<StoreId>, EngineError> {
        let path = self.dir.join(NEXT_STORE_FILE);
        let data = match read_file(self.disk, &path, NEXT_STORE_BYTES) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(corrupt(&path, "is too long")),
            Err(error) => return Err(error.into()),
        };
        let Some((id, checksum)) = data.split_first_chunk::<8>() else { return Err(corrupt(&path, "is too short")) };
        if checksum != crc32c::crc32c(id).to_le_bytes() {
            return Err(corrupt(&path, "fails its checksum"));
        }
        Ok(Some(StoreId(u64::from_le_bytes(*id))))
    }

    /// Makes the id of the next store durable.
    pub(super) fn set_next_store(&self, next: StoreId) -> Result<(), EngineError> {
        let mut data = next.0.to_le_bytes().to_vec();
        data.extend_from_slice(&crc32c::crc32c(&data).to_le_bytes());
        Ok(replace_file(self.disk, &self.dir.join(NEXT_STORE_FILE), &data)?)
    }

    /// Removes the files over which fjall stumbles when it was cut short before it wrote its version
    /// file. There are no data yet.
    pub(super) fn clear_unfinished(&self) -> Result<(), EngineError> {
        let database = self.database();
        let version = database.join(VERSION_FILE);
        let paths = self.list_or_empty(&database)?;
        if paths.contains(&version) && self.disk.open(&version)?.size()? > 0 {
            return Ok(());
        }
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            let journal = path.extension().is_some_and(|extension| extension == JOURNAL_EXTENSION);
            if journal || name == VERSION_FILE || name == LOCK_FILE {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Finds what fjall would end the process over instead of returning an error, and a database
    /// that fjall would silently make anew because its version file is gone.
    pub(super) fn check_names(&self) -> Result<(), EngineError> {
        let database = self.database();
        let names = self.list_or_empty(&database)?;
        if !names.contains(&database.join(VERSION_FILE)) {
            return Err(corrupt(&database.join(VERSION_FILE), "is missing"));
        }
        for path in self.list_or_empty(&database.join(KEYSPACES_DIR))? {
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
            if number.is_none() {
                return Err(corrupt(&path, "is no file of this database"));
            }
        }
        Ok(())
    }

    /// The journals on disk, oldest first.
    pub(super) fn journals(&self) -> Result<Vec<Journal>, EngineError> {
        let mut journals = Vec::new();
        for path in self.list_or_empty(&self.database())? {
            if path.extension().is_none_or(|extension| extension != JOURNAL_EXTENSION) {
                continue;
            }
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            journals.push((number.ok_or_else(|| corrupt(&path, "is no journal of this database"))?, path));
        }
        journals.sort_unstable();
        Ok(journals)
    }

    /// Syncs journal `first` and those after it, past fjall, which must have handed over its buffer.
    pub(super) fn sync_journals(&self, first: u64) -> io::Result<()> {
        let listed = self.journals().map_err(io::Error::other)?;
        for (_, path) in listed.into_iter().filter(|(number, _)| *number >= first) {
            match self.disk.open(&path) {
                Ok(file) => file.sync()?,
                // What it held is in tables by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens the flush mark, which a first opening makes. Returns the mark; sequence number 0 when
    /// nothing was ever flushed.
    pub(super) fn flush_mark(&self, first_opening: bool) -> Result<(MarkFile, FlushMark), EngineError> {
        let path = self.dir.join(FLUSHED_FILE);
        let file = match self.disk.open(&path) {
            Ok(file) if file.size()? == FLUSHED_BYTES => file,
            Ok(_) => return Err(corrupt(&path, "has the wrong size")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && first_opening => {
                let file = self.disk.create(&path, FLUSHED_BYTES)?;
                file.sync()?;
                self.disk.sync_dir(&self.dir)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt(&path, "is missing")),
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
            return Err(corrupt(&path, "fails its checksum"));
        }
        let (count, mark) = newest.unwrap_or_default();
        Ok((MarkFile { file, count }, mark))
    }

    fn list_or_empty(&self, dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
        match self.disk.list(dir) {
            Ok(paths) => Ok(paths),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How far a flush reached: the batch with the first sequence number at or after `seqno` is synced,
/// with all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlushMark {
    /// The newest journal then.
    pub(super) journal: u64,
    /// At most the last batch's, and above that of the batch before it.
    pub(super) seqno: u64,
}

/// The open file of the flush mark.
pub(super) struct MarkFile {
    file: Arc<dyn File>,
    count: u64,
}

impl MarkFile {
    /// Makes a mark durable.
    pub(super) fn set(&mut self, mark: FlushMark) -> io::Result<()> {
        self.count += 1;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        for number in [self.count, mark.journal, mark.seqno] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        slot.extend_from_slice(&crc32c::crc32c(&slot).to_le_bytes());
        let [even, odd] = SLOT_OFFSETS;
        self.file.write_at(&slot, if self.count.is_multiple_of(2) { even } else { odd })?;
        self.file.sync()
    }
}

fn decode_slot(slot: &[u8; SLOT_BYTES]) -> Option<(u64, FlushMark)> {
    let (numbers, checksum) = slot.split_first_chunk::<24>()?;
    if checksum != crc32c::crc32c(numbers).to_le_bytes() {
        return None;
    }
    let (count, rest) = numbers.split_first_chunk()?;
    let (journal, rest) = rest.split_first_chunk()?;
    let seqno = rest.try_into().ok()?;
    let mark = FlushMark { journal: u64::from_le_bytes(*journal), seqno: u64::from_le_bytes(seqno) };
    Some((u64::from_le_bytes(*count), mark))
}

fn corrupt(path: &Path, what: &str) -> EngineError {
    EngineError::Corrupt(format!("{} {what}", path.display()))
}
