//! A disk in memory that can do what disks do to those who trust them: lose and tear unsynced writes,
//! fail or feign a sync, fill up, rot, and come back as it was before.
//!
//! For tests and the simulator. The medium's state is separate from what a reader sees: a write
//! reaches it with [`File::sync`], a name with [`Disk::sync_dir`].

mod content;
mod counts;
mod file;
mod medium;

pub use counts::DiskCounts;
pub use medium::DiskImage;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use self::content::Content;
use self::file::{HeldLock, MemoryFile};
use self::medium::{Medium, NameChange};
use super::{DirLock, Disk, File};
use crate::env::work;

/// How long the device takes for an operation; told to [`work::charge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskDelay {
    /// A read.
    pub read: Duration,
    /// A write into the machine's memory.
    pub write: Duration,
    /// A sync of a file or a directory.
    pub sync: Duration,
}

/// A [`Disk`] in memory, as one boot of a machine sees it. Clones share it. After
/// [`MemoryDisk::crash`] its files and itself are dead; [`MemoryDisk::reboot`] gives a living handle.
#[derive(Clone)]
pub struct MemoryDisk {
    medium: Arc<Mutex<Medium>>,
    boot: u64,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk without limits and delays.
    pub fn new() -> Self {
        let dirs = BTreeSet::from([PathBuf::from("/"), PathBuf::new()]);
        Self { medium: Arc::new(Mutex::new(Medium { dirs, ..Medium::default() })), boot: 0 }
    }

    /// Stops the machine. Of what was not synced, `random` (64 uniform bits a call) decides what is on
    /// the medium: each write whole, not at all, up to some byte, or in some of its sectors; of the
    /// changed names, those up to some change.
    pub fn crash(&self, random: &mut impl FnMut() -> u64) {
        self.medium.lock().crash(random);
    }

    /// A handle for the machine's next boot.
    #[must_use]
    pub fn reboot(&self) -> Self {
        Self { medium: self.medium.clone(), boot: self.medium.lock().boot }
    }

    /// What a crash that loses all unsynced writes and names would leave.
    pub fn snapshot(&self) -> DiskImage {
        self.medium.lock().image()
    }

    /// Stops the machine and puts an earlier state under it.
    pub fn restore(&self, image: &DiskImage) {
        self.medium.lock().restore(image);
    }

    /// The next `count` syncs fail. What they should have written stays readable until the machine
    /// stops, and is then gone, whatever later syncs say.
    pub fn fail_syncs(&self, count: u32) {
        self.medium.lock().failing_syncs = count;
    }

    /// The next `count` writes fail without effect.
    pub fn fail_writes(&self, count: u32) {
        self.medium.lock().failing_writes = count;
    }

    /// While set, syncs of files and directories say that they did, and did not.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.medium.lock().lying = lie;
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.medium.lock().capacity = capacity;
    }

    /// Stops the machine by itself after `changes` more writes, syncs and changes of names. Call
    /// [`MemoryDisk::crash`] then to say what is left.
    pub fn stop_after(&self, changes: u64) {
        self.medium.lock().stops_after = Some(changes);
    }

    /// Whether a change was refused because the machine has stopped by itself.
    pub fn has_stopped(&self) -> bool {
        self.medium.lock().has_stopped
    }

    /// How long operations take.
    pub fn set_delay(&self, delay: DiskDelay) {
        self.medium.lock().delay = delay;
    }

    /// Reads that touch this range of a file fail from now on.
    pub fn break_range(&self, path: &Path, range: Range<u64>) {
        self.medium.lock().unreadable.push((path.to_owned(), range));
    }

    /// Ends what [`MemoryDisk::break_range`] began.
    pub fn mend(&self) {
        self.medium.lock().unreadable.clear();
    }

    /// Flips one bit at rest.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.named(path, offset, 1)?.flip(offset, bit);
        medium.counts.bits_flipped += 1;
        Ok(())
    }

    /// A write that was to go to `from` went to `to` instead, where it replaces what was there; zeros
    /// remain where it was to go.
    ///
    /// # Errors
    /// When one of them has no `len` bytes there.
    pub fn misdirect(&self, from: (&Path, u64), to: (&Path, u64), len: usize) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.named(to.0, to.1, len as u64)?;
        let source = medium.named(from.0, from.1, len as u64)?;
        let mut data = vec![0; len];
        source.read(&mut data, from.1);
        source.overwrite(&vec![0; len], from.1);
        medium.named(to.0, to.1, len as u64)?.overwrite(&data, to.1);
        medium.counts.writes_misdirected += 1;
        Ok(())
    }

    /// What it has done so far.
    pub fn counts(&self) -> DiskCounts {
        self.medium.lock().counts
    }

    /// Syncs of files that were asked for, failed and feigned ones included.
    pub fn syncs(&self) -> u64 {
        self.medium.lock().syncs
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.medium.lock().used()
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let medium = self.medium.lock();
        if medium.boot == self.boot { Ok(medium) } else { Err(stopped()) }
    }

    /// For a change.
    fn changing(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let mut medium = self.alive()?;
        medium.count()?;
        Ok(medium)
    }

    fn handle(&self, medium: &mut Medium, file: u64) -> Arc<dyn File> {
        *medium.handles.entry(file).or_default() += 1;
        Arc::new(MemoryFile { disk: self.clone(), file })
    }
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn File>> {
        let mut medium = self.changing()?;
        if !path.parent().is_some_and(|parent| medium.dirs.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if medium.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        medium.check_space(size)?;
        medium.next_file += 1;
        let file = medium.next_file;
        medium.files.insert(file, Content::zeros(size));
        medium.change(NameChange::Put { path: path.to_owned(), file });
        Ok(self.handle(&mut medium, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut medium = self.alive()?;
        let file = *medium.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&mut medium, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.changing()?;
        if !medium.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        medium.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.changing()?;
        if !medium.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        medium.change(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.alive()?;
        medium.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let medium = self.alive()?;
        if !medium.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths: BTreeSet<&PathBuf> = medium.names.keys().chain(&medium.dirs).collect();
        Ok(paths.into_iter().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut medium = self.changing()?;
        work::charge(medium.delay.sync);
        if medium.sync_fails() {
            return Err(io::Error::other("the device failed to sync a directory"));
        }
        medium.sync_names(dir);
        Ok(())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let medium = self.alive()?;
        Ok(medium.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(medium.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        match self.create(path, 0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !self.alive()?.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock { disk: self.clone(), path: path.to_owned() }))
    }
}

#[cfg(test)]
mod tests;
