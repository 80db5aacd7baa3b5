//! Open files and held locks, as one boot of the machine sees them.

use std::io;
use std::path::PathBuf;

use super::MemoryDisk;
use crate::env::disk::{DirLock, File};
use crate::env::work;

/// A file as one boot of the machine sees it.
pub(super) struct MemoryFile {
    pub(super) disk: MemoryDisk,
    pub(super) file: u64,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // The handles of an earlier boot are no longer counted.
        let Ok(mut medium) = self.disk.alive() else { return };
        let Some(count) = medium.handles.get_mut(&self.file) else { return };
        *count -= 1;
        if *count == 0 {
            medium.handles.remove(&self.file);
            medium.forget_nameless();
        }
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut medium = self.disk.alive()?;
        work::charge(medium.delay.read);
        let end = offset.saturating_add(buffer.len() as u64);
        if medium.is_broken(self.file, &(offset..end)) {
            medium.counts.reads_failed += 1;
            return Err(io::Error::other("the device cannot read this"));
        }
        let content = medium.file(self.file)?;
        if end > content.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.read(buffer, offset);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut medium = self.disk.changing()?;
        work::charge(medium.delay.write);
        if medium.failing_writes > 0 {
            medium.failing_writes -= 1;
            return Err(io::Error::other("the device failed to write"));
        }
        let size = medium.file(self.file)?.size;
        medium.check_space(offset.saturating_add(data.len() as u64).saturating_sub(size))?;
        medium.file(self.file)?.write(data, offset);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut medium = self.disk.changing()?;
        work::charge(medium.delay.sync);
        medium.syncs += 1;
        if medium.sync_fails() {
            medium.file(self.file)?.lose();
            return Err(io::Error::other("the device failed to sync"));
        }
        medium.sync_file(self.file)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.file(self.file)?.size)
    }
}

/// A lock that lasts until it is dropped or its boot ends.
pub(super) struct HeldLock {
    pub(super) disk: MemoryDisk,
    pub(super) path: PathBuf,
}

impl DirLock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // A lock of an earlier boot is gone already, and another may be held.
        if let Ok(mut medium) = self.disk.alive() {
            medium.locks.remove(&self.path);
        }
    }
}
