//! What goes wrong: one file a family. To add a kind, write its [`Kind`] and name it in [`KINDS`].
//!
//! A fault is counted with [`Seen::fired`](crate::report::Seen::fired) when it has really done
//! something, not when it was planned: a lost message, a failed sync, a killed process. The names it
//! counts under are the rows of the fault table; a row that stays 0 fails a run of many seeds.

use crate::chance::Chance;
use crate::world::World;

mod clock;
mod control;
mod damage;
pub(crate) mod disk;
mod frames;
mod link;
mod members;
mod moment;
mod partition;
mod process;
mod replaced;
mod slow;
mod snapshot;

/// A fault that lasts from its begin to its end.
pub(crate) trait Fault {
    fn begin(&mut self, world: &mut World);
    /// Called every simulated millisecond in between.
    fn tick(&mut self, _world: &mut World) {}
    /// Undoes what lasts. Also called when the run heals.
    fn end(&mut self, world: &mut World);
}

/// A kind of fault.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What it counts when it fires: rows of the table.
    pub(crate) counts: &'static [&'static str],
    /// How often it is drawn, relative to the others.
    pub(crate) weight: u64,
    /// Shortest and longest it lasts, in milliseconds.
    pub(crate) lasts_ms: (u64, u64),
    /// Makes one. All its choices come from `chance`.
    pub(crate) make: fn(chance: Chance) -> Box<dyn Fault>,
}

/// Whether a fault may count under this name.
pub(crate) fn is_row(name: &str) -> bool {
    rows().chain(moment::rows()).any(|row| row == name)
}

/// The rows of the fault table that must not stay 0.
pub(crate) fn rows() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.counts.iter().copied())
}

/// All kinds.
pub(crate) const KINDS: &[&Kind] = &[
    &process::KILL,
    &process::KILL_ALL,
    &process::PAUSE,
    &process::RESTART,
    &moment::POWER_CUT,
    &disk::CUT,
    &disk::FAILED_SYNC,
    &disk::SLOW,
    &disk::FULL,
    &damage::FLIP,
    &damage::MISDIRECT,
    &damage::READ,
    &replaced::LYING,
    &replaced::EMPTY,
    &replaced::OLD,
    &partition::SYMMETRIC,
    &partition::ONE_WAY,
    &partition::BRIDGE,
    &link::LOSS,
    &link::DELAY,
    &link::HALF_OPEN,
    &frames::REORDERING,
    &frames::DUPLICATES,
    &clock::WALL_JUMP,
    &clock::WALL_DRIFT,
    &clock::MONOTONIC_DRIFT,
    &slow::SLOW_NODE,
    &control::TRANSFER,
    &control::META_LEADER_LOSS,
    &control::OLD_MAP,
    &snapshot::SNAPSHOT,
    &members::JOIN,
    &members::REMOVE,
    &members::REPLACE,
    &members::OPERATE,
];
