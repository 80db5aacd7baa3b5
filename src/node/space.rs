//! Watches the space on the data disk and refuses growing writes before it runs out.
//!
//! A ballast file holds space back: when others fill the disk, it is given up so that deletes,
//! compaction and the next start still find room.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::env::disk::Disk;
use crate::env::time;
use crate::env::work::Worker;
use crate::proto::v1::ErrorCode;

use super::Failure;

/// What the ballast file holds back, in bytes.
const BALLAST_BYTES: u64 = 64 << 20;
/// How often the disk is asked.
const INTERVAL: Duration = Duration::from_millis(500);
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
}

impl SpaceGuard {
    pub(super) fn new(reserve: u64) -> Self {
        Self { state: Arc::new(State { reserve, full: AtomicBool::new(false), free: AtomicU64::new(u64::MAX) }) }
    }

    /// Refuses a write that grows when the disk is full.
    pub(super) fn admit(&self) -> Result<(), Failure> {
        if !self.is_full() {
            return Ok(());
        }
        let free = self.state.free.load(Ordering::Relaxed);
        let message = format!(
            "the disk of this node is full ({} MiB free, {} MiB are held back): free some space, or delete keys; deletes and reads work",
            free >> 20,
            self.state.reserve >> 20
        );
        Err(Failure::refused(ErrorCode::DiskFull, message))
    }

    /// Whether growing writes are refused.
    pub(super) fn is_full(&self) -> bool {
        self.state.full.load(Ordering::Relaxed)
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
            time::sleep(INTERVAL).await;
        }
    }

    fn check(&self, disk: &dyn Disk, dir: &std::path::Path) -> io::Result<()> {
        let ballast = dir.join(BALLAST);
        let free = disk.free_space(dir)?;
        // Once full, the ballast's own space must not count as space again.
        let roomy = self.state.reserve.saturating_add(2 * BALLAST_BYTES);
        let full = free < if self.is_full() { roomy } else { self.state.reserve };
        self.state.free.store(free, Ordering::Relaxed);
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
        if free > roomy {
            match disk.create(&ballast, BALLAST_BYTES) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
