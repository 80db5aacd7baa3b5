//! Disks that damage, misplace or cannot read what was safe on them: only nodes of the frail
//! minority. Wrong bytes must never be taken for right ones; a node that meets them may be gone for
//! good.

use std::path::{Path, PathBuf};

use quorate::env::disk::{Disk, MemoryDisk, read_file};

use super::disk::{DATA, FLIPPED, MISDIRECTED, UNREADABLE};
use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;
use crate::world::machine::Harm;

/// Of the log: frames begin at multiples of this.
const BLOCK: usize = 4_096;
const FRAME_HEADER: usize = 72;

/// Something on a disk that is in use.
#[derive(Clone)]
struct Target {
    path: PathBuf,
    offset: u64,
    len: usize,
    /// Of a frame of the log, else 0.
    sequence: u64,
}

/// The frames of the log that recovery needs, in order. The format is described in `docs/format.md`.
fn frames(disk: &MemoryDisk) -> Vec<Target> {
    let dir = Path::new(DATA).join("log");
    let mut found = Vec::new();
    let mut low = (0, 0);
    for path in disk.list(&dir).unwrap_or_default() {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let data = read_file(disk, &path, usize::MAX).unwrap_or_default();
        let mut at = BLOCK;
        while let Some(header) = data.get(at..at + FRAME_HEADER) {
            let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().unwrap());
            if header[..4] != *b"QLF1" {
                at += BLOCK;
                continue;
            }
            let length = u32::from_le_bytes(header[56..60].try_into().unwrap());
            let len = FRAME_HEADER + usize::try_from(length).unwrap();
            let (segment, sequence) = (number(16), number(32));
            low = low.max((sequence, number(48)));
            found.push((segment, Target { path: path.clone(), offset: at as u64, len, sequence }));
            at += len.next_multiple_of(BLOCK);
        }
    }
    let mut needed: Vec<_> =
        found.into_iter().filter(|(segment, _)| *segment >= low.1).map(|(_, target)| target).collect();
    needed.sort_by_key(|target| target.sequence);
    needed
}

/// A frame that a later one proves durable or, seldom and only `at_rest`, any.
fn proven_frame(chance: &Chance, disk: &MemoryDisk, at_rest: bool) -> Option<Target> {
    let mut frames = frames(disk);
    if !(at_rest && chance.percent(10)) {
        frames.pop();
    }
    (!frames.is_empty()).then(|| chance.pick(&frames).clone())
}

/// The identity or what is remembered of the peers.
fn small_file(chance: &Chance, disk: &MemoryDisk) -> Option<Target> {
    let path = Path::new(DATA).join(chance.pick(&["identity", "peers"]));
    let len = read_file(disk, &path, usize::MAX).ok()?.len();
    (len > 0).then_some(Target { path, offset: 0, len, sequence: 0 })
}

/// Marks a node of the frail minority as damaged, and kills it first if it is to be damaged at rest.
fn victim(chance: &Chance, world: &mut World, at_rest: bool) -> Option<String> {
    let frail = world.may_lose();
    if frail.is_empty() {
        return None;
    }
    let name = chance.pick(&frail).clone();
    if at_rest {
        world.kill(&name);
    }
    world.harmed(&name, Harm::Ends);
    world.harmed(&name, Harm::Loses);
    Some(name)
}

/// Bits rot: of a node that is down, or of one that runs.
pub(crate) const FLIP: Kind = Kind {
    name: "flipped bits",
    counts: &[FLIPPED],
    weight: 4,
    lasts_ms: (50, 3_000),
    make: |chance| Box::new(Damage { chance, damage: flip, name: None }),
};

/// A write of one block landed on another.
pub(crate) const MISDIRECT: Kind = Kind {
    name: "misdirected write",
    counts: &[MISDIRECTED],
    weight: 1,
    lasts_ms: (50, 3_000),
    make: |chance| Box::new(Damage { chance, damage: misdirect, name: None }),
};

struct Damage {
    chance: Chance,
    damage: fn(&Chance, &MemoryDisk, at_rest: bool),
    name: Option<String>,
}

impl Fault for Damage {
    fn begin(&mut self, world: &mut World) {
        let at_rest = self.chance.percent(70);
        self.name = victim(&self.chance, world, at_rest);
        let Some(name) = &self.name else { return };
        world.doubt(name);
        let disk = world.machine(name).disk.borrow().clone();
        (self.damage)(&self.chance, &disk, at_rest);
        world.machine(name).count(&world.seen);
    }

    fn end(&mut self, world: &mut World) {
        if let Some(name) = self.name.take() {
            world.start(&name);
        }
    }
}

fn flip(chance: &Chance, disk: &MemoryDisk, at_rest: bool) {
    let target = if chance.percent(80) { proven_frame(chance, disk, at_rest) } else { small_file(chance, disk) };
    let Some(target) = target else { return };
    let bit = u8::try_from(chance.below(8)).unwrap();
    for _ in 0..chance.between(1, 4) {
        let offset = target.offset + chance.below(target.len as u64);
        tracing::info!(path = %target.path.display(), offset, sequence = target.sequence, "FAULT a bit flips");
        disk.flip_bit(&target.path, offset, bit).unwrap();
    }
}

fn misdirect(chance: &Chance, disk: &MemoryDisk, at_rest: bool) {
    let Some(from) = proven_frame(chance, disk, at_rest) else { return };
    let to = if chance.percent(80) { proven_frame(chance, disk, at_rest) } else { small_file(chance, disk) };
    let Some(to) = to else { return };
    let len = if to.sequence == 0 { to.len } else { BLOCK };
    tracing::info!(
        path = %to.path.display(), to = to.sequence, from = from.sequence, len, "FAULT a write lands elsewhere"
    );
    if (&from.path, from.offset) != (&to.path, to.offset) {
        disk.misdirect((&from.path, from.offset), (&to.path, to.offset), len).unwrap();
    }
}

/// A part of a disk cannot be read for a while.
pub(crate) const READ: Kind = Kind {
    name: "unreadable range",
    counts: &[UNREADABLE],
    weight: 1,
    lasts_ms: (300, 5_000),
    make: |chance| Box::new(Unreadable { chance, name: None }),
};

struct Unreadable {
    chance: Chance,
    name: Option<String>,
}

impl Fault for Unreadable {
    fn begin(&mut self, world: &mut World) {
        let is_started = self.chance.percent(80);
        self.name = victim(&self.chance, world, is_started);
        let Some(name) = self.name.clone() else { return };
        let disk = world.machine(&name).disk.borrow().clone();
        let target = if self.chance.percent(80) {
            let frames = frames(&disk);
            (!frames.is_empty()).then(|| self.chance.pick(&frames).clone())
        } else {
            small_file(&self.chance, &disk)
        };
        if let Some(target) = target {
            tracing::info!(path = %target.path.display(), sequence = target.sequence, "FAULT unreadable");
            disk.break_range(&target.path, target.offset..target.offset + target.len as u64);
        }
        world.start(&name);
    }

    fn end(&mut self, world: &mut World) {
        let Some(name) = self.name.take() else { return };
        world.machine(&name).disk.borrow().mend();
        world.machine(&name).count(&world.seen);
    }
}
