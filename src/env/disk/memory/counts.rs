//! What a disk has really done to those who trusted it.

/// Counters since the disk was made, over all boots of its machine. A simulation counts a fault by
/// them, so that one which was planned and hit nothing does not pass for one that was survived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounts {
    /// Unsynced writes of which a crash left nothing.
    pub writes_lost: u64,
    /// Unsynced writes of which a crash left a part.
    pub writes_torn: u64,
    /// Changes of names that a crash took back.
    pub names_lost: u64,
    /// Those of the above that a feigned sync had promised to keep.
    pub promises_broken: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that took time.
    pub syncs_delayed: u64,
    /// Syncs that had something to write, said that they did, and did not.
    pub syncs_feigned: u64,
    /// Reads that met an unreadable range.
    pub reads_failed: u64,
    /// Writes and new files that found no space.
    pub refused_full: u64,
    /// Bits that were flipped at rest.
    pub bits_flipped: u64,
    /// Writes that landed elsewhere.
    pub writes_misdirected: u64,
}

impl DiskCounts {
    /// What happened since `earlier`. Nothing where that counted more: it was another disk.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            writes_lost: self.writes_lost.saturating_sub(earlier.writes_lost),
            writes_torn: self.writes_torn.saturating_sub(earlier.writes_torn),
            names_lost: self.names_lost.saturating_sub(earlier.names_lost),
            promises_broken: self.promises_broken.saturating_sub(earlier.promises_broken),
            syncs_failed: self.syncs_failed.saturating_sub(earlier.syncs_failed),
            syncs_delayed: self.syncs_delayed.saturating_sub(earlier.syncs_delayed),
            syncs_feigned: self.syncs_feigned.saturating_sub(earlier.syncs_feigned),
            reads_failed: self.reads_failed.saturating_sub(earlier.reads_failed),
            refused_full: self.refused_full.saturating_sub(earlier.refused_full),
            bits_flipped: self.bits_flipped.saturating_sub(earlier.bits_flipped),
            writes_misdirected: self.writes_misdirected.saturating_sub(earlier.writes_misdirected),
        }
    }
}
