//! The engine's directory: what lies in it beside sled's own files, and syncing those, since sled's
//! `flush` makes no fsync. Knows names, and does not call sled.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::super::EngineError;
use super::super::slots::{Numbers, SlotFile};
use crate::env::disk::{DirLock, Disk};

/// The id of the next store and the sequence number of the last flushed batch.
const MARKS_FILE: &str = "marks";
const LOCK_FILE: &str = "lock";
/// sled's directory,
const SLED_DIR: &str = "sled";
/// and in it that of the values too large for its log.
const BLOBS_DIR: &str = "blobs";

/// The engine's directory.
pub(super) struct Files<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
}

/// Blobs that are known to be durable. They are written once, under a name of their own.
#[derive(Default)]
pub(super) struct Synced(BTreeSet<PathBuf>);

impl<'d> Files<'d> {
    /// Makes the directories if need be.
    pub(super) fn open(disk: &'d dyn Disk, dir: &Path) -> Result<Self, EngineError> {
        disk.create_dir(dir)?;
        let files = Self { disk, dir: dir.to_owned() };
        disk.create_dir(&files.blobs())?;
        Ok(files)
    }

    /// Keeps other processes out, until dropped.
    pub(super) fn lock(&self) -> Result<Box<dyn DirLock>, EngineError> {
        let path = self.dir.join(LOCK_FILE);
        self.disk.lock(&path).map_err(|error| {
            EngineError::Io(io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display())))
        })
    }

    /// sled's own directory.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join(SLED_DIR)
    }

    /// Opens the marks. `None` before the first opening has finished.
    pub(super) fn marks(&self) -> Result<(SlotFile, Option<Numbers>), EngineError> {
        SlotFile::open(self.disk, &self.marks_path(), true)
    }

    pub(super) fn marks_path(&self) -> PathBuf {
        self.dir.join(MARKS_FILE)
    }

    /// Syncs all that sled has written, and the names of its files.
    pub(super) fn sync(&self, synced: &mut Synced) -> io::Result<()> {
        let blobs: BTreeSet<_> = self.disk.list(&self.blobs())?.into_iter().collect();
        synced.0.retain(|path| blobs.contains(path));
        for path in blobs {
            if !synced.0.contains(&path) {
                self.sync_file(&path)?;
                synced.0.insert(path);
            }
        }
        for path in self.disk.list(&self.database())? {
            if path != self.blobs() {
                self.sync_file(&path)?;
            }
        }
        self.disk.sync_dir(&self.blobs())?;
        self.disk.sync_dir(&self.database())
    }

    /// One that sled has removed in the meantime is not needed any more.
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        match self.disk.open(path) {
            Ok(file) => file.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn blobs(&self) -> PathBuf {
        self.database().join(BLOBS_DIR)
    }
}
