//! What lies beside fjall's own files: the next store's id, kept apart so that no damage to
//! fjall's journal can hand out an id twice, and how far the last flush reached. Also removes what
//! a first opening left unfinished. Knows names and bytes, and does not call fjall.

use std::io;
use std::path::{Path, PathBuf};

use super::super::slots::SlotFile;
use super::super::{EngineError, StoreId};
use super::journal::Journal;
use crate::env::disk::{DirLock, Disk, read_file, replace_file};

/// Next to fjall's directory.
const NEXT_STORE_FILE: &str = "next-store";
/// Id, then CRC-32C over it, both little-endian.
const NEXT_STORE_BYTES: usize = 12;
/// How far the last flush reached: journal and sequence number.
const FLUSHED_FILE: &str = "flushed";
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
        let (slots, numbers) = SlotFile::open(self.disk, &self.dir.join(FLUSHED_FILE), first_opening)?;
        let [journal, seqno] = numbers.unwrap_or_default();
        Ok((MarkFile(slots), FlushMark { journal, seqno }))
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
pub(super) struct MarkFile(SlotFile);

impl MarkFile {
    /// Makes a mark durable.
    pub(super) fn set(&mut self, mark: FlushMark) -> io::Result<()> {
        self.0.set([mark.journal, mark.seqno])
    }
}

fn corrupt(path: &Path, what: &str) -> EngineError {
    EngineError::Corrupt(format!("{} {what}", path.display()))
}
