//! Watches the space on the data disk and refuses growing writes before it runs out.
//!
//! A ballast file holds space back: when others fill the disk, it is given up so that deletes,
//! compaction and the next start still find room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::env::disk::Disk;
use crate::env::time;
use crate::env::work::Worker;
use crate::proto::v1::ErrorCode;
use crate::storage::engine::Engine;

use super::{Failure, NodeConfig};

/// What the ballast file holds back, in bytes.
const BALLAST_BYTES: u64 = 64 << 20;
/// What a written byte takes until the next look: in the log, the engine's journal, a table, and once
/// more while tables are merged.
const BYTES_PER_WRITTEN_BYTE: u64 = 4;
/// Below this part of the reserve removals are refused too: what they remove becomes history, so that a table
/// and the journal take it once more.
const REMOVAL_SHARE: u64 = 2;
/// How often the disk is asked,
const INTERVAL: Duration = Duration::from_millis(500);
/// and while it is full.
const FULL_INTERVAL: Duration = Duration::from_millis(50);
/// How often the engine is to see what it can give back.
const TIDY_EVERY: Duration = Duration::from_secs(10);
const BALLAST: &str = "BALLAST";

/// Says whether there is room for more.
#[derive(Clone)]
pub(super) struct SpaceGuard {
    state: Arc<State>,
}

struct State {
    /// Writes that grow are refused while less is free than this, in bytes.
    reserve: u64,
    full: AtomicBool,
    free: AtomicU64,
    /// Bytes of the writes admitted since the disk was asked.
    admitted: AtomicU64,
}

impl SpaceGuard {
    /// As the settings want it. The log takes space by the segment, ahead of need: that is not the
    /// writes' to use.
    pub(super) fn of(config: &NodeConfig) -> Self {
        Self::new(config.disk_reserve_bytes.saturating_add(config.log_segment_bytes))
    }

    pub(super) fn new(reserve: u64) -> Self {
        let (full, free, admitted) = (AtomicBool::new(false), AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { state: Arc::new(State { reserve, full, free, admitted }) }
    }

    /// Refuses a write of so many bytes that grows when the disk is full, or would be if it took all
    /// that was admitted since it was asked.
    pub(super) fn admit_growth(&self, bytes: usize) -> Result<(), Failure> {
        let admitted = self.state.admitted.fetch_add(bytes as u64, Ordering::Relaxed);
        let free = self.state.free.load(Ordering::Relaxed);
        let left = free.saturating_sub(admitted.saturating_mul(BYTES_PER_WRITTEN_BYTE));
        if !self.is_full() && left >= self.state.reserve {
            return Ok(());
        }
        let else_do = if self.has_room_to_remove() {
            "or delete keys; deletes and reads work"
        } else {
            "or compact history; reads work, deletes do not"
        };
        let message = format!("{}, {else_do}", self.shortage());
        // What only may be full is known better after the next look.
        Err(if self.is_full() {
            Failure::refused(ErrorCode::DiskFull, message)
        } else {
            Failure::retry(ErrorCode::DiskFull, message)
        })
    }

    /// Refuses a removal when the disk has no room for the history it makes. The engine may be about to give
    /// some back.
    pub(super) fn admit_removal(&self) -> Result<(), Failure> {
        if self.has_room_to_remove() {
            return Ok(());
        }
        let message = format!(
            "{}; what is deleted is kept as history and takes space: compact history before you delete more",
            self.shortage()
        );
        Err(Failure::retry(ErrorCode::DiskFull, message))
    }

    fn has_room_to_remove(&self) -> bool {
        !self.is_full() || self.state.free.load(Ordering::Relaxed) >= self.floor()
    }

    /// Bytes that rewriting tables may take for a while: where the disk is full, the first half of the reserve too.
    fn room_to_tidy(&self) -> u64 {
        let kept = if self.is_full() { self.floor() } else { self.state.reserve };
        self.state.free.load(Ordering::Relaxed).saturating_sub(kept)
    }

    /// What only the engine may use, to merge tables and to drop history; in bytes.
    fn floor(&self) -> u64 {
        self.state.reserve / REMOVAL_SHARE
    }

    /// Whether growing writes are refused.
    pub(super) fn is_full(&self) -> bool {
        self.state.full.load(Ordering::Relaxed)
    }

    /// How much space there is and is not, and what to do.
    pub(super) fn shortage(&self) -> String {
        let free = self.state.free.load(Ordering::Relaxed) >> 20;
        let reserve = self.state.reserve >> 20;
        format!("the disk of this node is full ({free} MiB free, {reserve} MiB are held back): free some space")
    }

    /// Before anything is written at a start: gives up what was held back if others have filled the
    /// disk meanwhile.
    pub(super) fn give_room(&self, disk: &dyn Disk, dir: &Path) {
        // A directory without it is new, or full for long.
        let checked = if disk.open(&dir.join(BALLAST)).is_ok() { self.check(disk, dir) } else { Ok(()) };
        if let Err(error) = checked {
            tracing::warn!(%error, "cannot tell how much space the data disk has");
        }
    }

    /// Leaves nothing behind in a directory that no node will use.
    pub(super) fn give_up(&self, disk: &dyn Disk, dir: &Path) {
        match disk.remove(&dir.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove what was held back");
            }
            _ => {}
        }
    }

    /// Watches `dir` for ever.
    pub(super) async fn watch(self, disk: Arc<dyn Disk>, dir: PathBuf, worker: Worker) {
        loop {
            let (guard, disk, dir) = (self.clone(), disk.clone(), dir.clone());
            let checked = worker.run(move || guard.check(&*disk, &dir)).await;
            match checked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot tell how much space the data disk has"),
                Err(_) => return,
            }
            time::sleep(if self.is_full() { FULL_INTERVAL } else { INTERVAL }).await;
        }
    }

    /// Has the engine give back what takes space and nobody needs any more, for ever.
    pub(super) async fn tidy(self, engine: Arc<dyn Engine>, worker: Worker) {
        loop {
            time::sleep(TIDY_EVERY).await;
            let (engine, room) = (engine.clone(), self.room_to_tidy());
            match worker.run(move || engine.tidy(room)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot give back the space of what was removed"),
                Err(_) => return,
            }
        }
    }

    /// Asks the disk now.
    pub(super) fn check(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let ballast = dir.join(BALLAST);
        let free = disk.free_space(dir)?;
        // Once full, the ballast's own space must not count as space again. Its absence remembers that,
        // also over a restart.
        let roomy = self.state.reserve.saturating_add(2 * BALLAST_BYTES);
        let held_back = disk.open(&ballast).is_ok();
        let full = free < if held_back { self.state.reserve } else { roomy };
        self.state.free.store(free, Ordering::Relaxed);
        self.state.admitted.store(0, Ordering::Relaxed);
        if self.state.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!(free_bytes = free, "the data disk is full: writes are refused until space is freed");
            } else {
                tracing::info!(free_bytes = free, "the data disk has space again");
            }
        }
        if full {
            return match disk.remove(&ballast) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if !held_back {
            match disk.create(&ballast, BALLAST_BYTES) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::MemoryDisk;

    const MIB: u64 = 1 << 20;
    const RESERVE: u64 = 200 * MIB;

    /// A guard that has looked at a disk with so much space left, in MiB.
    fn with_free(disk: &MemoryDisk, guard: &SpaceGuard, mib: u64) {
        let dir = Path::new("/data");
        // What is held back goes with the first look and is space for the second.
        for _ in 0..2 {
            disk.set_capacity(Some(disk.used() + mib * MIB));
            guard.check(disk, dir).unwrap();
        }
    }

    #[test]
    fn the_first_half_of_the_reserve_is_for_removals_and_the_second_for_the_engine() {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new("/data")).unwrap();
        let guard = SpaceGuard::new(RESERVE);
        let code = |result: Result<(), Failure>| result.err().map(|failure| failure.detail.code());
        let full = Some(ErrorCode::DiskFull);
        for (mib, growth, removal, room) in [(400, None, None, 200), (199, full, None, 99), (99, full, full, 0)] {
            with_free(&disk, &guard, mib);
            assert_eq!(code(guard.admit_growth(100)), growth, "{mib}");
            assert_eq!(code(guard.admit_removal()), removal, "{mib}");
            assert_eq!(guard.room_to_tidy() / MIB, room, "{mib}");
        }
        // Removals go on as soon as there is room for them, growth when there is more of it.
        with_free(&disk, &guard, 201);
        assert_eq!(code(guard.admit_growth(100)), full);
        assert_eq!(code(guard.admit_removal()), None);
        with_free(&disk, &guard, 400);
        assert_eq!(code(guard.admit_growth(100)), None);
    }
}
