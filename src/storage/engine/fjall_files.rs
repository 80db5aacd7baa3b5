//! What lies beside fjall's own files: the next store's id, kept apart so that no damage to
//! fjall's journal can hand out an id twice. Also removes what a first opening left unfinished.

use std::io;
use std::path::{Path, PathBuf};

use super::{EngineError, StoreId};
use crate::env::disk::{Disk, read_file, replace_file};

/// Next to fjall's directory.
const NEXT_STORE_FILE: &str = "next-store";
/// Id, then CRC-32C over it, both little-endian.
const NEXT_STORE_BYTES: usize = 12;
/// fjall's directory of keyspaces.
const KEYSPACES_DIR: &str = "keyspaces";
/// fjall writes it last when it makes a database.
const VERSION_FILE: &str = "version";
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

    /// fjall's own directory.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("fjall")
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

    fn list_or_empty(&self, dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
        match self.disk.list(dir) {
            Ok(paths) => Ok(paths),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn corrupt(path: &Path, what: &str) -> EngineError {
    EngineError::Corrupt(format!("{} {what}", path.display()))
}
