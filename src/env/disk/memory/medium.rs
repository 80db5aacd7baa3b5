//! The state of the machine's disk over all its boots: names, files, and what is to go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::{DiskCounts, DiskDelay, stopped};

/// A durable state of a whole disk, to be put back later.
#[derive(Clone)]
pub struct DiskImage {
    names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<u64, Content>,
}

/// What happens to a name.
#[derive(Clone)]
pub(super) enum NameChange {
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

/// A change of a name that is not on the medium yet.
pub(super) struct Unsynced {
    change: NameChange,
    /// A feigned sync said that it is.
    promised: bool,
}

#[derive(Default)]
pub(super) struct Medium {
    /// Raised by every crash; handles of an earlier boot are dead.
    pub(super) boot: u64,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) name_changes: Vec<Unsynced>,
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) files: BTreeMap<u64, Content>,
    /// Open handles by file: a file lives until it has neither a name nor a handle.
    pub(super) handles: BTreeMap<u64, u64>,
    pub(super) next_file: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: Option<u64>,
    pub(super) delay: DiskDelay,
    pub(super) failing_syncs: u32,
    pub(super) failing_writes: u32,
    pub(super) lying: bool,
    /// Changes until the machine stops by itself.
    pub(super) stops_after: Option<u64>,
    /// It has: a change was refused since.
    pub(super) has_stopped: bool,
    pub(super) unreadable: Vec<(PathBuf, Range<u64>)>,
    pub(super) syncs: u64,
    pub(super) counts: DiskCounts,
}

impl Medium {
    pub(super) fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|content| content.size).sum()
    }

    pub(super) fn check_space(&mut self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used().saturating_add(more) > capacity => {
                self.counts.refused_full += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(Unsynced { change, promised: false });
    }

    pub(super) fn file(&mut self, id: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file of a name, `len` bytes of which lie at `offset`.
    pub(super) fn named(&mut self, path: &Path, offset: u64, len: u64) -> io::Result<&mut Content> {
        let id = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = self.file(id)?;
        if offset.saturating_add(len) > content.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(content)
    }

    /// Whether a read of a file meets an unreadable range.
    pub(super) fn is_broken(&self, file: u64, range: &Range<u64>) -> bool {
        self.unreadable.iter().any(|(path, broken)| {
            self.names.get(path) == Some(&file) && broken.start < range.end && range.start < broken.end
        })
    }

    /// Counts a change; fails once the machine has stopped.
    pub(super) fn count(&mut self) -> io::Result<()> {
        match &mut self.stops_after {
            Some(0) => {
                self.has_stopped = true;
                Err(stopped())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn sync_fails(&mut self) -> bool {
        let fails = self.failing_syncs > 0;
        self.failing_syncs = self.failing_syncs.saturating_sub(1);
        self.counts.syncs_failed += u64::from(fails);
        self.counts.syncs_delayed += u64::from(!self.delay.sync.is_zero());
        fails
    }

    pub(super) fn sync_names(&mut self, dir: &Path) {
        if self.lying {
            let mut promised = self.name_changes.iter_mut().filter(|unsynced| unsynced.change.is_in(dir)).peekable();
            self.counts.syncs_feigned += u64::from(promised.peek().is_some());
            promised.for_each(|unsynced| unsynced.promised = true);
            return;
        }
        let changes = std::mem::take(&mut self.name_changes);
        let (synced, left) = changes.into_iter().partition::<Vec<_>, _>(|unsynced| unsynced.change.is_in(dir));
        self.name_changes = left;
        for unsynced in synced {
            unsynced.change.apply(&mut self.durable_names);
        }
        self.forget_nameless();
    }

    pub(super) fn sync_file(&mut self, id: u64) -> io::Result<()> {
        if self.lying {
            let has_promised = self.file(id)?.promise();
            self.counts.syncs_feigned += u64::from(has_promised);
        } else {
            self.file(id)?.sync();
        }
        Ok(())
    }

    /// See [`MemoryDisk::crash`](super::MemoryDisk::crash).
    pub(super) fn crash(&mut self, random: &mut impl FnMut() -> u64) {
        self.stop();
        let changes = std::mem::take(&mut self.name_changes);
        let keep = random() % (changes.len() as u64 + 1);
        for (number, unsynced) in (0..).zip(changes) {
            if number < keep {
                unsynced.change.apply(&mut self.durable_names);
            } else {
                self.counts.names_lost += 1;
                self.counts.promises_broken += u64::from(unsynced.promised);
            }
        }
        self.names.clone_from(&self.durable_names);
        for content in self.files.values_mut() {
            content.crash(random, &mut self.counts);
        }
        self.forget_nameless();
    }

    pub(super) fn image(&self) -> DiskImage {
        let files = self.files.iter().map(|(id, content)| (*id, content.durable())).collect();
        DiskImage { names: self.durable_names.clone(), dirs: self.dirs.clone(), files }
    }

    pub(super) fn restore(&mut self, image: &DiskImage) {
        self.stop();
        self.name_changes.clear();
        self.names.clone_from(&image.names);
        self.durable_names.clone_from(&image.names);
        self.dirs.clone_from(&image.dirs);
        self.files.clone_from(&image.files);
    }

    fn stop(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.handles.clear();
        self.stops_after = None;
        self.has_stopped = false;
    }

    pub(super) fn forget_nameless(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        // A change that is not on the medium yet may still get there, and then names the file.
        named.extend(self.name_changes.iter().filter_map(|unsynced| match unsynced.change {
            NameChange::Put { file, .. } => Some(file),
            NameChange::Rename { .. } | NameChange::Remove { .. } => None,
        }));
        let handles = &self.handles;
        self.files.retain(|id, _| named.contains(id) || handles.contains_key(id));
    }
}
