//! A disk in memory that can do what disks do to those who trust them: lose and tear unsynced writes,
//! fail or feign a sync, fill up, rot, and come back as it was before.
//!
//! For tests and the simulator. The medium's state is separate from what a reader sees: a write
//! reaches it with [`File::sync`], a name with [`Disk::sync_dir`].

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use self::content::Content;
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

/// A durable state of a whole disk, to be put back later.
#[derive(Clone)]
pub struct DiskImage {
    names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<u64, Content>,
}

/// A change of a name that is not on the medium yet.
#[derive(Clone)]
enum NameChange {
    Put { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Put { path, file } => drop(names.insert(path, file)),
            Self::Rename { from, to } => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
            Self::Remove { path } => drop(names.remove(&path)),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Put { path, .. } | Self::Remove { path } => path.parent() == Some(dir),
            Self::Rename { from, to } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

#[derive(Default)]
struct Medium {
    /// Raised by every crash; handles of an earlier boot are dead.
    boot: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<u64, Content>,
    /// Open handles by file: a file lives until it has neither a name nor a handle.
    handles: BTreeMap<u64, u64>,
    next_file: u64,
    locks: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    delay: DiskDelay,
    failing_syncs: u32,
    failing_writes: u32,
    lying: bool,
    /// Changes until the machine stops by itself.
    stops_after: Option<u64>,
    unreadable: Vec<(PathBuf, Range<u64>)>,
    syncs: u64,
}

impl Medium {
    fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|content| content.size).sum()
    }

    fn check_space(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used().saturating_add(more) > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn file(&mut self, id: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Counts a change; fails once the machine has stopped.
    fn count(&mut self) -> io::Result<()> {
        match &mut self.stops_after {
            Some(0) => Err(stopped()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync_fails(&mut self) -> bool {
        let fails = self.failing_syncs > 0;
        self.failing_syncs = self.failing_syncs.saturating_sub(1);
        fails
    }
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
        let mut medium = self.medium.lock();
        medium.stop();
        let changes = std::mem::take(&mut medium.name_changes);
        let keep = random() % (changes.len() as u64 + 1);
        let mut names = std::mem::take(&mut medium.durable_names);
        for (change, _) in changes.into_iter().zip(0..keep) {
            change.apply(&mut names);
        }
        medium.names.clone_from(&names);
        medium.durable_names = names;
        medium.files.values_mut().for_each(|content| content.crash(random));
        medium.forget_nameless();
    }

    /// A handle for the machine's next boot.
    #[must_use]
    pub fn reboot(&self) -> Self {
        Self { medium: self.medium.clone(), boot: self.medium.lock().boot }
    }

    /// What a crash that loses all unsynced writes and names would leave.
    pub fn snapshot(&self) -> DiskImage {
        let medium = self.medium.lock();
        let files = medium.files.iter().map(|(id, content)| (*id, content.durable())).collect();
        DiskImage { names: medium.durable_names.clone(), dirs: medium.dirs.clone(), files }
    }

    /// Stops the machine and puts an earlier state under it.
    pub fn restore(&self, image: &DiskImage) {
        let mut medium = self.medium.lock();
        medium.stop();
        medium.name_changes.clear();
        medium.names.clone_from(&image.names);
        medium.durable_names.clone_from(&image.names);
        medium.dirs.clone_from(&image.dirs);
        medium.files.clone_from(&image.files);
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

    /// While set, syncs of files say that they did, and did not.
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
        let id = *medium.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = medium.file(id)?;
        if offset >= content.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.flip(offset, bit);
        Ok(())
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

impl Medium {
    fn stop(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.handles.clear();
        self.stops_after = None;
    }

    fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let handles = &self.handles;
        self.files.retain(|id, _| named.contains(id) || handles.contains_key(id));
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
        let changes = std::mem::take(&mut medium.name_changes);
        let (synced, left) = changes.into_iter().partition::<Vec<_>, _>(|change| change.is_in(dir));
        medium.name_changes = left;
        for change in synced {
            change.apply(&mut medium.durable_names);
        }
        medium.forget_nameless();
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

/// A file as one boot of the machine sees it.
struct MemoryFile {
    disk: MemoryDisk,
    file: u64,
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
        let broken = medium
            .unreadable
            .iter()
            .any(|(path, range)| medium.names.get(path) == Some(&self.file) && range.start < end && offset < range.end);
        if broken {
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
        if !medium.lying {
            medium.file(self.file)?.sync();
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.file(self.file)?.size)
    }
}

struct HeldLock {
    disk: MemoryDisk,
    path: PathBuf,
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

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10_000;

    fn disk() -> (MemoryDisk, Arc<dyn File>, &'static Path) {
        let (disk, path) = (MemoryDisk::new(), Path::new("/d/f"));
        disk.create_dir(Path::new("/d")).unwrap();
        let file = disk.create(path, SIZE).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        (disk, file, path)
    }

    fn read(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
        super::super::read_file(disk, path, usize::MAX).unwrap()
    }

    fn seeded(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 17
        }
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
        let (mut lost, mut whole, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let (disk, file, path) = disk();
            file.write_at(&[1; 6000], 2000).unwrap();
            file.sync().unwrap();
            file.write_at(&[2; 6000], 2000).unwrap();
            disk.crash(&mut seeded(seed));
            assert!(file.read_at(&mut [0; 1], 0).is_err(), "the old handle is dead");
            assert!(disk.open(path).is_err(), "and so is the disk of that boot");
            let data = read(&disk.reboot(), path);
            assert!(data[..2000].iter().chain(&data[8000..]).all(|byte| *byte == 0));
            match data[2000..8000].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                6000 => whole += 1,
                _ => torn += 1,
            }
            assert!(data[2000..8000].iter().all(|byte| [1, 2].contains(byte)));
        }
        assert!(lost > 10 && whole > 10 && torn > 10, "{lost} {whole} {torn}");
    }

    #[test]
    fn a_name_is_durable_only_after_its_directory_was_synced() {
        let mut kept = 0;
        for seed in 0..50 {
            let (disk, _, path) = disk();
            disk.rename(path, Path::new("/d/g")).unwrap();
            disk.crash(&mut seeded(seed));
            let names = disk.reboot().list(Path::new("/d")).unwrap();
            assert!(names == [PathBuf::from("/d/f")] || names == [PathBuf::from("/d/g")], "{names:?}");
            kept += usize::from(names == [PathBuf::from("/d/g")]);
        }
        assert!((10..40).contains(&kept), "{kept}");
    }

    #[test]
    fn a_failed_sync_loses_the_writes_though_they_are_read_until_the_crash() {
        let (disk, file, path) = disk();
        file.write_at(b"new", 0).unwrap();
        disk.fail_syncs(1);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(&read(&disk, path)[..3], b"new");
        disk.crash(&mut seeded(1));
        assert_eq!(&read(&disk.reboot(), path)[..3], [0; 3]);
    }

    #[test]
    fn a_feigned_sync_may_lose() {
        let mut lost = 0;
        for seed in 0..50 {
            let (disk, file, path) = disk();
            disk.lie_about_syncs(true);
            file.write_at(b"new", 0).unwrap();
            file.sync().unwrap();
            disk.crash(&mut seeded(seed));
            lost += usize::from(&read(&disk.reboot(), path)[..3] != b"new");
        }
        assert!((10..50).contains(&lost), "{lost}");
    }

    #[test]
    fn full_broken_rotten_and_set_back() {
        let (disk, file, path) = disk();
        file.write_at(b"old", 0).unwrap();
        file.sync().unwrap();
        let image = disk.snapshot();
        disk.set_capacity(Some(SIZE + 5));
        assert_eq!(disk.create(Path::new("/d/g"), 6).err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        assert_eq!(disk.free_space(path).unwrap(), 5);
        disk.break_range(path, 1..2);
        assert!(file.read_at(&mut [0; 3], 0).is_err());
        assert!(file.read_at(&mut [0; 3], 2).is_ok());
        disk.mend();
        disk.flip_bit(path, 0, 1).unwrap();
        assert_eq!(&read(&disk, path)[..3], b"mld");
        disk.restore(&image);
        assert!(file.sync().is_err(), "handles are dead");
        assert_eq!(&read(&disk.reboot(), path)[..3], b"old");
    }

    #[test]
    fn one_holder_a_lock() {
        let (disk, _, _) = disk();
        let path = Path::new("/d/lock");
        let held = disk.lock(path).unwrap();
        assert_eq!(disk.lock(path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        let _held = disk.lock(path).unwrap();
        disk.crash(&mut seeded(1));
        disk.reboot().lock(path).unwrap();
    }
}
